"""Writing the items of a map block: one packed object and one manifest, however many items there are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import BinaryIO

from lokki.manifest import ManifestWriter
from lokki.store import Store
from lokki.store.keys import Keys

_CHUNK = 2**20


def write_items(
    store: Store, keys: Keys, step_id: str, items: Iterable[object], inline_limit: int, spool: BinaryIO
) -> tuple[int, int]:
    """Write items as they come, in bounded memory; return how many they were and the bytes of both objects.

    ``spool``: an empty file to keep the manifest in while the pack is written. The manifest is written last, so that
    where there is a manifest there is a whole pack.
    Raises ResultError for an item that does not pickle, StoreError when the store cannot write, and what the items
    raise.
    """
    pack_key = keys.items(step_id)
    writer = ManifestWriter(store.url(pack_key), inline_limit)

    def members() -> Iterator[bytes]:
        for packed, lines in writer.parts(items):
            spool.write(lines)
            yield from packed

    store.write(pack_key, members())
    size = spool.tell()
    spool.seek(0)
    store.write(keys.map_manifest(step_id), iter(lambda: spool.read(_CHUNK), b""))
    return writer.count, writer.pack.size + size
