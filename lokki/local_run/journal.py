"""Checkpoints of a map block: what each worker finished, in files that a kill or a power cut cannot spoil.

Every worker owns one *part*, two files: ``part-0001.jsonl``, the journal, and ``part-0001.pkl.gz``, a pack of the
results that do not travel inline. A journal line is a checksum and a JSON array of records, written after the pack's
bytes in one piece, so that a line that a kill cut short is told from a whole one and dropped. Once a second both files
are forced to disk and the line ``[]`` says so: after a power cut, what stands behind the last such line is checked
against its pack.

A kill costs nothing that `PartWriter.flush` has written; what a worker may hold back is said in `lokki.local_run.feed`.
"""

from __future__ import annotations

import mmap
import os
import time
import zlib
from array import array
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import BinaryIO

import msgspec

from lokki.codec import Pack, loads
from lokki.errors import StoreError
from lokki.failures import Failure
from lokki.store.local import flush_directory
from lokki.values import inline_json

SYNC_SECONDS = 1.0
"""How much of a worker's work a power cut can cost, beside what a kill costs."""

PENDING, DONE, FAILED = 0, 1, 2


class Record(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of an item: its result, inline or in the part's pack; or, with ``after``, what the inner step of that
    id returned for it; or why it failed.
    """

    index: int
    result: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    range: tuple[int, int] | msgspec.UnsetType = msgspec.UNSET
    after: str | msgspec.UnsetType = msgspec.UNSET
    failed: Failure | msgspec.UnsetType = msgspec.UNSET


_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(list[Record])


@dataclass(frozen=True, slots=True)
class Partial:
    """Where to find what an inner step returned for an item that is not finished."""

    after: str
    pack: Path
    record: Record


@dataclass(slots=True)
class Scan:
    """What the parts of a map block hold: a status for each item, and where unfinished items can go on."""

    status: bytearray
    partials: dict[int, Partial] = field(default_factory=dict)

    @property
    def finished(self) -> int:
        """How many items have a result."""
        return self.status.count(DONE)


class PartWriter:
    """Writes one part; used by one worker. Records are gathered until `flush`."""

    def __init__(self, folder: Path, name: str, inline_limit: int) -> None:
        self.path = folder / f"{name}.jsonl"
        self._inline_limit = inline_limit
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        # The pack first: where there is a journal, there is a pack.
        self._pack_file = os.open(_pack_path(self.path), flags, 0o644)
        self._journal = os.open(self.path, flags, 0o644)
        flush_directory(folder)
        self._pack = Pack()
        self._members: list[bytes] = []
        self._records: list[Record] = []
        self._synced_at = time.monotonic()

    def add(self, index: int, value: object, after: str | None = None) -> None:
        """Record an item's result, or with ``after`` what that inner step returned for it.

        Raises ResultError for a value that does not pickle; nothing is recorded then.
        """
        text = inline_json(value, self._inline_limit)
        step = msgspec.UNSET if after is None else after
        if text is not None:
            self._records.append(Record(index, msgspec.Raw(text), after=step))
            return
        member, place = self._pack.add(value)
        self._members.append(member)
        self._records.append(Record(index, range=place, after=step))

    def fail(self, index: int, failure: Failure) -> None:
        """Record that an item failed for good."""
        self._records.append(Record(index, failed=failure))

    def flush(self) -> None:
        """Write what was gathered; from here on a kill does not lose it.

        What a full disk keeps from being written is dropped: written twice, it would not be where its records say.
        """
        records, members = self._records, self._members
        self._records, self._members = [], []
        if records:
            if members:
                _write(self._pack_file, b"".join(members))
            _write(self._journal, _line(_ENCODER.encode(records)))
        if time.monotonic() - self._synced_at >= SYNC_SECONDS:
            self._sync()

    def close(self) -> None:
        """Write what was gathered, force it to disk and close the files."""
        with ExitStack() as files:
            files.callback(os.close, self._journal)
            files.callback(os.close, self._pack_file)
            self.flush()
            self._sync()

    def _sync(self) -> None:
        os.fsync(self._pack_file)
        os.fsync(self._journal)
        _write(self._journal, _MARK)
        self._synced_at = time.monotonic()


def scan(folder: Path, items: int) -> Scan:
    """Read which of so many items are finished, in all parts of a map block, and force that to disk."""
    found = Scan(bytearray(items))
    for path in _parts(folder):
        _take_over(path, found)
    return found


def scan_part(folder: Path, name: str, found: Scan) -> None:
    """Add what a worker that died had written to what is known."""
    path = folder / f"{name}.jsonl"
    if path.exists():
        _take_over(path, found)


def next_part(folder: Path) -> int:
    """Return a number from which on no part exists yet."""
    return max(map(_number, folder.glob("part-*")), default=0) + 1


def results(folder: Path, items: int, failed: int) -> list[object]:
    """Load the results of all finished items, in the order of the items; the failed ones are left out.

    Raises StoreError for a result that cannot be read, and when there are not all.
    """
    missing = object()
    values: list[object] = [missing] * items
    for path in _parts(folder):
        with _opened_pack(path) as pack:
            for record in _records(path, pack):
                is_result = record.failed is msgspec.UNSET and record.after is msgspec.UNSET
                if is_result and values[record.index] is missing:
                    values[record.index] = _value(record, pack)
    found = [value for value in values if value is not missing]
    if len(found) + failed != items:
        raise StoreError(f"{folder} holds {len(found)} results where {items - failed} should be; start a new run.")
    return found


def failures(folder: Path) -> Iterator[tuple[int, Failure]]:
    """Yield the items whose last try failed for good, with why; one that succeeded later is not among them."""
    failed: dict[int, Failure] = {}
    for path in _parts(folder):
        with _opened_pack(path) as pack:
            for record in _records(path, pack):
                if not isinstance(record.failed, msgspec.UnsetType):
                    failed[record.index] = record.failed
                elif record.after is msgspec.UNSET:
                    failed.pop(record.index, None)
    yield from sorted(failed.items(), key=itemgetter(0))


def result_parts(folder: Path, items: int) -> array[int]:
    """Return for each of so many items the number of the part that has its result; 0 for one without a result."""
    parts = array("i", [0]) * items
    for path in _parts(folder):
        with _opened_pack(path) as pack:
            for record in _records(path, pack):
                is_result = record.failed is msgspec.UNSET and record.after is msgspec.UNSET
                if is_result and record.index < items and parts[record.index] == 0:
                    parts[record.index] = _number(path)
    return parts


def partial_value(partial: Partial) -> object:
    """Load what an inner step returned for an item that is not finished. Raises StoreError when it cannot be read."""
    with partial.pack.open("rb") as pack:
        return _value(partial.record, pack)


def _take_over(path: Path, found: Scan) -> None:
    """Note what a part holds; from here on the run relies on it, so what nobody forced to disk is forced now."""
    with path.open("rb") as journal, _opened_pack(path) as pack:
        for record in _records(path, pack):
            _note(found, record, path)
        if _synced(path) < journal.seek(0, os.SEEK_END):
            os.fsync(pack.fileno())
            os.fsync(journal.fileno())


def _note(found: Scan, record: Record, path: Path) -> None:
    if not 0 <= record.index < len(found.status):
        raise StoreError(f"{path} belongs to a map block of more items than this run has; start a new run.")
    if record.failed is not msgspec.UNSET:
        if found.status[record.index] != DONE:
            found.status[record.index] = FAILED
    elif isinstance(after := record.after, str):
        if isinstance(record.result, msgspec.Raw):
            record = msgspec.structs.replace(record, result=record.result.copy())  # lets go of the whole line
        found.partials[record.index] = Partial(after, _pack_path(path), record)
    else:
        found.status[record.index] = DONE
        found.partials.pop(record.index, None)


def _parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("part-*.jsonl"), key=lambda path: (_number(path), path.name))


def _number(path: Path) -> int:
    """Return the number in ``part-0001.jsonl``, and in ``part-0001-1.jsonl`` of a worker in the place of a dead one."""
    return int(path.name.split("-")[1].partition(".")[0])


def _pack_path(journal: Path) -> Path:
    return journal.with_suffix(".pkl.gz")


def _opened_pack(journal: Path) -> BinaryIO:
    return _pack_path(journal).open("rb")


def _line(text: bytes) -> bytes:
    return b"%08x %b\n" % (zlib.crc32(text), text)


_MARK = _line(b"[]")


def _records(path: Path, pack: BinaryIO) -> Iterator[Record]:
    """Yield the records of a part up to the first line that is not whole, without those whose results are not whole."""
    synced = _synced(path)
    position = 0
    for line in _whole_lines(path):
        position += len(line)
        for record in _DECODER.decode(line[9:-1]):
            if position <= synced or _is_whole(record, pack):
                yield record


def _whole_lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as journal:
        for line in journal:
            if line[-1:] != b"\n" or line[:9] != b"%08x " % zlib.crc32(line[9:-1]):
                return  # the line that was being written when the run was killed
            yield line


def _synced(path: Path) -> int:
    """Return up to which byte a journal was forced to disk, with its pack."""
    with path.open("rb") as journal:
        if journal.seek(0, os.SEEK_END) == 0:
            return 0
        with mmap.mmap(journal.fileno(), 0, access=mmap.ACCESS_READ) as content:
            mark = content.rfind(b"\n" + _MARK)
            at_start = content[: len(_MARK)] == _MARK
    if mark >= 0:
        return mark + 1 + len(_MARK)
    return len(_MARK) if at_start else 0


def _is_whole(record: Record, pack: BinaryIO) -> bool:
    try:
        _value(record, pack)
    except StoreError:
        return False
    return True


def _value(record: Record, pack: BinaryIO) -> object:
    if isinstance(record.result, msgspec.Raw):
        value: object = msgspec.json.decode(record.result)
        return value
    if isinstance(record.range, msgspec.UnsetType):
        raise StoreError(f"{pack.name}: the record of item {record.index} has no result.")
    offset, length = record.range
    if pack.tell() != offset:
        pack.seek(offset)
    return loads(pack.read(length), url=f"{pack.name} at {offset}")


def _write(descriptor: int, data: bytes) -> None:
    """Write all of the data; os.write may take only some of it."""
    written = os.write(descriptor, data)
    while written < len(data):
        written += os.write(descriptor, data[written:])
