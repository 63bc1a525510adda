"""Writing the items of a map block as one pack and one manifest."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from lokki.store.base import Store
from lokki.store.codec import checksum_of
from lokki.store.keys import Keys
from lokki.store.manifest import ManifestWriter

_CHUNK = 2**20


@dataclass(frozen=True, slots=True)
class WrittenItems:
    """What was written of a map block's items.

    * ``count``: how many items.
    * ``pack_bytes``, ``manifest_bytes``: how large both objects are.
    * ``manifest_crc32``: the checksum of the manifest.
    """

    count: int
    pack_bytes: int
    manifest_bytes: int
    manifest_crc32: int


def write_items(
    store: Store, keys: Keys, step_id: str, items: Iterable[object], inline_limit: int, spool: BinaryIO
) -> WrittenItems:
    """Write the items of a map block as they come.

    In bounded memory; returns what was written.

    ``spool``: an empty file to keep the manifest in while the pack is written. The manifest is written last, so that
    where there is a manifest there is a whole pack.
    Raises ResultError for an item that does not pickle, StoreError when the store cannot write, and what the items
    raise.
    """
    pack_key = keys.items(step_id)
    writer = ManifestWriter(store.url(pack_key), inline_limit)

    checksum = 0

    def members() -> Iterator[bytes]:
        nonlocal checksum
        # The manifest grows with each item, and must not be held in memory until the pack is written.
        for packed, lines in writer.parts(items):
            spool.write(lines)
            checksum = checksum_of(lines, checksum)
            yield from packed

    store.write(pack_key, members())
    size = spool.tell()
    spool.seek(0)
    store.write(keys.map_manifest(step_id), iter(lambda: spool.read(_CHUNK), b""))
    return WrittenItems(writer.count, writer.pack.size, size, checksum)
