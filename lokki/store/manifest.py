"""The items of a fan-out as one packed object and one JSON manifest.

Both are made and read as a stream.

The manifest is a JSON array with one item on each line, so that it can be read by parts: ``{"index": 0, "item":
<json>}`` or ``{"index": 1, "result_url": …, "range": [offset, length], "crc32": …}``. An item of a map below a map has
its ``path``, and the ``values`` by name that come with it; one that failed in a level before has ``failed`` alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import wraps

import msgspec

from lokki.base.failures import Failure
from lokki.base.item_path import ItemPath
from lokki.base.values import Inline, JsonField, Ref, Stored, inline_json, ref_to_json
from lokki.errors import ResultError, damaged
from lokki.store.codec import Pack, member_checksum

_QUOTE = msgspec.json.encode
_GROUP_ITEMS = 1024
_GROUP_BYTES = 2**20


class EntryValue(msgspec.Struct, frozen=True):
    """A value that comes with an item: itself, or where it is."""

    result: JsonField | msgspec.UnsetType = msgspec.UNSET
    result_url: str | msgspec.UnsetType = msgspec.UNSET
    range: tuple[int, int] | None = None
    crc32: int | None = None

    @property
    def ref(self) -> Ref:
        """Where the value is.

        Raises StoreError for an entry that has none.
        """
        if isinstance(self.result_url, str):
            return Stored(self.result_url, self.range, self.crc32)
        if isinstance(self.result, msgspec.UnsetType):
            raise damaged("the list of items is damaged: a value that comes with an item is not there")
        return Inline(self.result)


def value_beside(values: dict[str, EntryValue] | None, name: str, index: int) -> Ref:
    """Return where a value is that comes with an item, or with its result.

    Raises StoreError for one that is not there.
    """
    if values is None or name not in values:
        raise damaged(f"item {index} comes without {name}", "Run the map again.")
    return values[name].ref


class ManifestEntry(msgspec.Struct, frozen=True):
    """A line of the manifest, decoded."""

    index: int
    item: JsonField | msgspec.UnsetType = msgspec.UNSET
    result_url: str | msgspec.UnsetType = msgspec.UNSET
    range: tuple[int, int] | None = None
    crc32: int | None = None
    place: ItemPath | None = msgspec.field(default=None, name="path")
    values: dict[str, EntryValue] | None = None
    failed: Failure | None = None

    @property
    def path(self) -> ItemPath:
        """How the item is named outside of its manifest."""
        return (self.index,) if self.place is None else self.place

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


@dataclass(frozen=True, slots=True)
class GroupedItem:
    """An item of a map below a map.

    * ``path``: an index for each map that it is in.
    * ``values``: what comes with it, by name; items of one list share one mapping. A reference stands for its value.
    * ``failed``: why it failed in a level before; None for an item that is to run.
    """

    path: ItemPath
    value: object
    values: Mapping[str, object]
    failed: Failure | None = None


_DECODER = msgspec.json.Decoder(list[ManifestEntry])


@dataclass(slots=True)
class ManifestWriter:
    """Turns items into what goes into the pack and the manifest.

    It holds one group of items at a time. ``count`` and ``size``: the items so far, and the bytes of the manifest.
    """

    url: str
    inline_limit: int
    pack: Pack = field(default_factory=Pack)
    count: int = 0
    size: int = 0
    _values: Mapping[str, object] | None = None
    _values_text: bytes = b""

    def parts(self, items: Iterable[object]) -> Iterator[tuple[list[bytes], bytes]]:
        """Yield pairs of packed members and manifest text.

        They come in groups of up to 1024 items or about 1 MiB.

        Raises ResultError for an item that cannot travel, naming its index.
        """
        members: list[bytes] = []
        lines: list[bytes] = []
        held, packed = 0, self.pack.size
        for item in items:
            if isinstance(item, GroupedItem):
                text = self._grouped(item, members)
            else:
                text = self._value(item, b"item", members)
            held += len(text)
            # The comma stands before a line, since nobody knows which item will be the last.
            lines.append(b'%b{"index":%d,%b}' % (b",\n" if self.count else b"[\n", self.count, text))
            self.count += 1
            if len(lines) >= _GROUP_ITEMS or held + self.pack.size - packed >= _GROUP_BYTES:
                yield members, self._joined(lines)
                members, lines, held, packed = [], [], 0, self.pack.size
        lines.append(b"\n]\n" if self.count else b"[\n]\n")
        yield members, self._joined(lines)

    def _joined(self, lines: list[bytes]) -> bytes:
        text = b"".join(lines)
        self.size += len(text)
        return text

    def _value(self, value: object, name: bytes, members: list[bytes]) -> bytes:
        """Return the fields of a value.

        ``name``: of the field of one that is inline; ``members`` gets what is to be packed of others.
        """
        text = inline_json(value, self.inline_limit)
        if text is not None:
            return b'"%b":%b' % (name, text)
        try:
            member, (offset, length) = self.pack.add(value)
        except ResultError as error:
            raise ResultError(f"item {self.count}: {error}") from error
        members.append(member)
        place = (_QUOTE(self.url), offset, length, member_checksum(member))
        return b'"result_url":%b,"range":[%d,%d],"crc32":%d' % place

    def _grouped(self, item: GroupedItem, members: list[bytes]) -> bytes:
        path = b'"path":%b' % _QUOTE(item.path)
        if item.failed is not None:
            return b'%b,"failed":%b' % (path, _QUOTE(_fields_of_failure(item.failed)))
        if item.values is not self._values:
            self._values = item.values
            self._values_text = self._fields_of(item.values, members)
        return b"%b,%b%b" % (path, self._value(item.value, b"item", members), self._values_text)

    def _fields_of(self, values: Mapping[str, object], members: list[bytes]) -> bytes:
        """Return the field of the values that come with items.

        It is made once for all items that share them.
        """
        fields = (
            b"%b:%b"
            % (
                _QUOTE(name),
                _QUOTE(ref_to_json(value))
                if isinstance(value, Inline | Stored)
                else b"{%b}" % self._value(value, b"result", members),
            )
            for name, value in values.items()
        )
        return b',"values":{%b}' % b",".join(fields) if values else b""


def _fields_of_failure(failure: Failure) -> dict[str, object]:
    """Return what is known of a failure: what no field says is left out."""
    fields: dict[str, object] = msgspec.to_builtins(failure)
    always = {"step", "error", "message"}
    return {name: value for name, value in fields.items() if name in always or (value and value != 1)}


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


def listing(fn: Callable[..., object]) -> Callable[..., object]:
    """Return a function that gives a list where the other gives an iterator.

    It is for what a map below a map runs over. `check_list` is to look at what it gives.
    """

    @wraps(fn)
    def call(*args: object, **kwargs: object) -> object:
        result = fn(*args, **kwargs)
        return list(result) if isinstance(result, Iterator) else result

    return call


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
