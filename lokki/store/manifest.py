"""The items of a fan-out as one packed object and one JSON manifest.

Both are made and read as a stream.

The manifest is a JSON array with one item on each line, so that it can be read by parts: ``{"index": 0, "item":
<json>}`` or ``{"index": 1, "result_url": …, "range": [offset, length], "crc32": …}``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import msgspec

from lokki.base.item_path import ItemPath
from lokki.base.values import Inline, JsonField, Ref, Stored, inline_json
from lokki.errors import ResultError, damaged
from lokki.store.codec import Pack, member_checksum

_QUOTE = msgspec.json.encode
_GROUP_ITEMS = 1024
_GROUP_BYTES = 2**20


class ManifestEntry(msgspec.Struct, frozen=True):
    """A line of the manifest, decoded."""

    index: int
    item: JsonField | msgspec.UnsetType = msgspec.UNSET
    result_url: str | msgspec.UnsetType = msgspec.UNSET
    range: tuple[int, int] | None = None
    crc32: int | None = None

    @property
    def path(self) -> ItemPath:
        """How the item is named outside of its manifest."""
        return (self.index,)

    @property
    def ref(self) -> Ref:
        """Where the item is.

        Raises StoreError for a line that has no item.
        """
        if isinstance(self.result_url, msgspec.UnsetType):
            if isinstance(self.item, msgspec.UnsetType):
                raise damaged(f"the list of items is damaged: item {self.index} is not there")
            return Inline(self.item)
        return Stored(self.result_url, self.range, self.crc32)


_DECODER = msgspec.json.Decoder(list[ManifestEntry])


@dataclass(slots=True)
class ManifestWriter:
    """Turns items into what goes into the pack and the manifest.

    It holds one group of items at a time.
    """

    url: str
    inline_limit: int
    pack: Pack = field(default_factory=Pack)
    count: int = 0

    def parts(self, items: Iterable[object]) -> Iterator[tuple[list[bytes], bytes]]:
        """Yield pairs of packed members and manifest text.

        They come in groups of up to 1024 items or about 1 MiB.

        Raises ResultError for an item that cannot travel, naming its index.
        """
        members: list[bytes] = []
        lines: list[bytes] = []
        held = 0
        for item in items:
            text = inline_json(item, self.inline_limit)
            if text is None:
                member, (offset, length) = self._packed(item)
                members.append(member)
                held += length
                place = (_QUOTE(self.url), offset, length, member_checksum(member))
                text = b'"result_url":%b,"range":[%d,%d],"crc32":%d' % place
            else:
                text = b'"item":%b' % text
            held += len(text)
            # The comma stands before a line, since nobody knows which item will be the last.
            lines.append(b'%b{"index":%d,%b}' % (b",\n" if self.count else b"[\n", self.count, text))
            self.count += 1
            if len(lines) >= _GROUP_ITEMS or held >= _GROUP_BYTES:
                yield members, b"".join(lines)
                members, lines, held = [], [], 0
        lines.append(b"\n]\n" if self.count else b"[\n]\n")
        yield members, b"".join(lines)

    def _packed(self, item: object) -> tuple[bytes, tuple[int, int]]:
        try:
            return self.pack.add(item)
        except ResultError as error:
            raise ResultError(f"item {self.count}: {error}") from error


def check_items(step: str, result: object) -> Iterable[object]:
    """Return a map source's result as something to iterate over.

    Raises ResultError for what cannot be mapped over: strings, bytes, mappings, and what is not iterable.
    """
    # Python iterates over the characters of a text and the keys of a dict, which is hardly ever meant.
    if isinstance(result, str | bytes | bytearray | Mapping) or not isinstance(result, Iterable):
        raise ResultError(
            f"{step}() returned {type(result).__name__}, but .map() runs over its items: "
            "return a list or another iterable."
        )
    return result


def check_is_no_iterator(step: str, result: object) -> object:
    """Return a map source's result that is read as one value, too.

    Raises ResultError for an iterator, such as a generator, which can be gone through once.
    """
    if isinstance(result, Iterator):
        raise ResultError(
            f"{step}() returned {type(result).__name__}, which can be gone through once, but the flow maps over it and "
            "reads it as a value, too: return a list."
        )
    return result


def entries(lines: Iterable[bytes]) -> list[ManifestEntry]:
    """Decode some lines of a manifest, as `item_lines` yields them."""
    return _DECODER.decode(b"[%b]" % b",".join(lines))


def item_lines(manifest: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the lines of a manifest that hold items.

    Each comes without its comma; the n-th is the item of index n.
    """
    for line in manifest:
        stripped = line.rstrip(b",\n")
        if stripped not in (b"[", b"]", b""):
            yield stripped
