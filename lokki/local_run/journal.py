"""Checkpoints of a map block: what each worker finished, in files that a kill or a power cut cannot spoil.

Every worker owns one *part*, two files: ``part-0001.jsonl``, the journal, and ``part-0001.pkl.gz``, a pack of the
results that do not travel inline. A journal line is a checksum and a JSON array of records, written after the pack's
bytes in one piece, so that a line that a kill cut short is told from a whole one and dropped. Once a second both files
are forced to disk and the line ``[]`` says so: after a power cut, what stands behind the last such line is checked
against its pack.

A line's checksum goes on from one of the run, the map block and the part (see `lokki.local_run.seal`), and a record has
the checksum of its value: a journal or a pack of another run or part gives no results here.

A kill costs nothing that `PartWriter.flush` has written; what a worker may hold back is said in `lokki.local_run.feed`.
"""

from __future__ import annotations

import io
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

from lokki.base.failures import Failure
from lokki.base.values import inline_json
from lokki.errors import StoreError, damaged
from lokki.local_run.seal import Seal
from lokki.store.codec import Pack, is_whole, loads, member_checksum
from lokki.store.local import flush_directory

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
    crc32: int | None = None
    after: str | msgspec.UnsetType = msgspec.UNSET
    failed: Failure | msgspec.UnsetType = msgspec.UNSET

    @property
    def is_result(self) -> bool:
        """Whether its item is finished, with a result."""
        return self.failed is msgspec.UNSET and self.after is msgspec.UNSET


@dataclass(frozen=True, slots=True)
class Parts:
    """Where the parts of a map block are, ``get_birds/map_results`` in the run's folder, and what they are bound to."""

    folder: Path
    seal: Seal

    def paths(self) -> list[Path]:
        """Return the journals in the order in which they were begun."""
        found = [path for path in self.folder.glob("part-*.jsonl") if path.is_file()]
        return sorted(found, key=lambda path: (_number(path), path.name))

    def start(self, path: Path) -> int:
        """Return what the checksums of a journal's lines go on from."""
        start = self.seal.start(f"{self.folder.parent.name}/{self.folder.name}/{path.stem}")
        return 0 if not self.seal.required and _is_unbound(path) else start


_MARK = b"[]"
"""The line that says that all before it was forced to disk."""

_AGAIN = "Run the map again."
_BLOCK = 2**20
_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(list[Record])


@dataclass(frozen=True, slots=True)
class Partial:
    """Where to find what an inner step returned for an item that is not finished."""

    after: str
    journal: Path
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

    def __init__(self, parts: Parts, name: str, inline_limit: int) -> None:
        self.path = parts.folder / f"{name}.jsonl"
        self._inline_limit = inline_limit
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        # The pack first: where there is a journal, there is a pack.
        self._pack_file = os.open(_pack_path(self.path), flags, 0o600)
        self._journal = os.open(self.path, flags, 0o600)
        flush_directory(parts.folder)
        self._start = parts.start(self.path)
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
        self._records.append(Record(index, range=place, crc32=member_checksum(member), after=step))

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
            _write(self._journal, _line(_ENCODER.encode(records), self._start))
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
        _write(self._journal, _line(_MARK, self._start))
        self._synced_at = time.monotonic()


def scan(parts: Parts, items: int) -> Scan:
    """Read which of so many items are finished, in all parts of a map block, and force that to disk."""
    found = Scan(bytearray(items))
    for path in parts.paths():
        _take_over(parts, path, found)
    return found


def scan_part(parts: Parts, name: str, found: Scan) -> None:
    """Add what a worker that died had written to what is known."""
    path = parts.folder / f"{name}.jsonl"
    if path.exists():
        _take_over(parts, path, found)


def next_part(folder: Path) -> int:
    """Return a number from which on no part exists yet."""
    return max(map(_number, folder.glob("part-*")), default=0) + 1


def records(parts: Parts) -> Iterator[tuple[Path, int, Record]]:
    """Yield the records of all parts, each with the journal and the byte that its line is at.

    Those whose results a power cut took are left out. Raises StoreError for a journal that cannot be read.
    """
    for path in parts.paths():
        _check_lines(path, parts.start(path))
        with _opened_pack(path) as pack:
            for offset, record in _records(parts, path, pack):
                yield path, offset, record


def record_at(parts: Parts, path: Path, offset: int) -> list[Record]:
    """Read the records of one line again. Raises StoreError when it is not there any more."""
    try:
        with path.open("rb") as journal:
            journal.seek(offset)
            line = journal.readline()
    except OSError as error:
        raise damaged(f"{path} cannot be read: {error.strerror}", _AGAIN) from error
    if not _is_line(line, parts.start(path)):
        raise damaged(f"{path} is damaged: it was changed while it was read", _AGAIN)
    return _decoded(path, line)


def results(parts: Parts, items: int, failed: int) -> list[object]:
    """Load the results of all finished items, in the order of the items; the failed ones are left out.

    Raises StoreError for a result that cannot be read, and when there are not all.
    """
    missing = object()
    values: list[object] = [missing] * items
    for path in parts.paths():
        with _opened_pack(path) as pack:
            for _, record in _records(parts, path, pack):
                index = record.index
                if not 0 <= index < items:
                    raise _foreign(path)
                # Not by a property: this is done for each of a million results.
                is_result = record.failed is msgspec.UNSET and record.after is msgspec.UNSET
                if is_result and values[index] is missing:
                    values[index] = _value(record, pack, path)
    found = [value for value in values if value is not missing]
    if len(found) + failed != items:
        raise damaged(f"{parts.folder} holds {len(found)} results where {items - failed} should be", _AGAIN)
    return found


def failures(parts: Parts) -> Iterator[tuple[int, Failure]]:
    """Yield the items whose last try failed for good, with why; one that succeeded later is not among them."""
    failed: dict[int, Failure] = {}
    finished: set[int] = set()
    for _, _, record in records(parts):
        if not isinstance(record.failed, msgspec.UnsetType):
            failed[record.index] = record.failed
        elif record.after is msgspec.UNSET:
            finished.add(record.index)
    yield from sorted((item for item in failed.items() if item[0] not in finished), key=itemgetter(0))


def result_parts(parts: Parts, items: int) -> array[int]:
    """Return for each of so many items the number of the part that has its result; 0 for one without a result."""
    numbers = array("i", [0]) * items
    for path, _, record in records(parts):
        if record.is_result and record.index < items and numbers[record.index] == 0:
            numbers[record.index] = _number(path)
    return numbers


def partial_value(partial: Partial) -> object:
    """Load what an inner step returned for an item that is not finished. Raises StoreError when it cannot be read."""
    with _opened_pack(partial.journal) as pack:
        return _value(partial.record, pack, partial.journal)


def repair(parts: Parts) -> None:
    """Drop the records whose results cannot be read, so that their items run again; the others stay."""
    for path in parts.paths():
        with _opened_pack(path) as pack:
            lines = [_decoded(path, line) for _, line in _whole_lines(path, parts.start(path))]
            readable = [[record for record in line if _is_whole(record, pack)] for line in lines]
        if readable != lines:
            _replace(path, readable, parts.start(path))


def _take_over(parts: Parts, path: Path, found: Scan) -> None:
    """Note what a part holds; from here on the run relies on it, so what nobody forced to disk is forced now."""
    with path.open("rb") as journal, _opened_pack(path) as pack:
        for _, record in _records(parts, path, pack):
            _note(found, record, path)
        if _synced(path, parts.start(path)) < journal.seek(0, os.SEEK_END):
            if not isinstance(pack, io.BytesIO):
                os.fsync(pack.fileno())
            os.fsync(journal.fileno())


def _note(found: Scan, record: Record, path: Path) -> None:
    if not 0 <= record.index < len(found.status):
        raise _foreign(path)
    if record.failed is not msgspec.UNSET:
        if found.status[record.index] != DONE:
            found.status[record.index] = FAILED
    elif isinstance(after := record.after, str):
        if isinstance(record.result, msgspec.Raw):
            record = msgspec.structs.replace(record, result=record.result.copy())  # lets go of the whole line
        found.partials[record.index] = Partial(after, path, record)
    else:
        found.status[record.index] = DONE
        found.partials.pop(record.index, None)


def _foreign(path: Path) -> StoreError:
    return damaged(f"{path} belongs to a map block of more items than this run has", _AGAIN)


def _number(path: Path) -> int:
    """Return the number in ``part-0001.jsonl``, and in ``part-0001-1.jsonl`` of a worker in the place of a dead one."""
    return int(path.name.split("-")[1].partition(".")[0])


def _pack_path(journal: Path) -> Path:
    return journal.with_suffix(".pkl.gz")


def _opened_pack(journal: Path) -> BinaryIO:
    """Open the pack of a part; where it is gone, one that holds nothing."""
    try:
        return _pack_path(journal).open("rb")
    except (FileNotFoundError, IsADirectoryError):
        return io.BytesIO()


def _line(text: bytes, start: int) -> bytes:
    return b"%08x %b\n" % (zlib.crc32(text, start), text)


def _is_line(line: bytes, start: int) -> bool:
    return line[-1:] == b"\n" and line[:9] == b"%08x " % zlib.crc32(line[9:-1], start)


def _is_unbound(path: Path) -> bool:
    """Tell whether the lines of a journal have checksums of their own alone, as those of the first lokki."""
    with path.open("rb") as journal:
        return _is_line(journal.readline(), 0)


def _records(parts: Parts, path: Path, pack: BinaryIO) -> Iterator[tuple[int, Record]]:
    """Yield the records of a part in lines that are whole, without those whose results a power cut took."""
    start = parts.start(path)
    synced = _synced(path, start)
    for offset, line in _whole_lines(path, start):
        for record in _decoded(path, line):
            if offset < synced or _is_whole(record, pack):
                yield offset, record


def _check_lines(path: Path, start: int) -> None:
    """Raise StoreError for a line that is not whole although it was forced to disk: no kill or power cut did that."""
    synced = _synced(path, start)
    end = 0
    for offset, line in _whole_lines(path, start):
        if offset != end and offset < synced:
            raise damaged(f"{path} is damaged at byte {end}", _AGAIN)
        end = offset + len(line)


def _decoded(path: Path, line: bytes) -> list[Record]:
    try:
        return _DECODER.decode(line[9:-1])
    except msgspec.DecodeError as error:  # a whole line, of another version of lokki
        raise damaged(f"{path} cannot be read: {error}", _AGAIN) from error


def _whole_lines(path: Path, start: int) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a journal with their offsets, without those that were cut short or damaged."""
    offset = 0
    with path.open("rb") as journal:
        for line in journal:
            if _is_line(line, start):
                yield offset, line
            offset += len(line)


def _synced(path: Path, start: int) -> int:
    """Return up to which byte a journal was forced to disk, with its pack."""
    mark = _line(_MARK, start)
    with path.open("rb") as journal:
        end = journal.seek(0, os.SEEK_END)
        # Read and not mapped: a file that is cut short while it is mapped kills the process.
        while end > 0:
            begin = max(0, end - _BLOCK)
            journal.seek(begin)
            block = journal.read(end - begin + len(mark))
            found = block.rfind(b"\n" + mark)
            if found >= 0:
                return begin + found + 1 + len(mark)
            if begin == 0 and block.startswith(mark):
                return len(mark)
            end = begin
    return 0


def _is_whole(record: Record, pack: BinaryIO) -> bool:
    if isinstance(record.range, msgspec.UnsetType):
        return True
    return is_whole(_member(record.range, pack), record.crc32)


def _value(record: Record, pack: BinaryIO, journal: Path) -> object:
    if isinstance(record.result, msgspec.Raw):
        value: object = msgspec.json.decode(record.result)
        return value
    if isinstance(record.range, msgspec.UnsetType):
        raise damaged(f"{journal} is damaged: the record of item {record.index} has no result", _AGAIN)
    # A pack that is gone has no name; to make a path of it for each result would take longer than to read it.
    name = f"{getattr(pack, 'name', journal)} at {record.range[0]}"
    return loads(_member(record.range, pack), url=name, crc32=record.crc32)


def _member(place: tuple[int, int], pack: BinaryIO) -> bytes:
    offset, length = place
    if pack.tell() != offset:
        pack.seek(offset)
    return pack.read(length)


def _replace(path: Path, lines: list[list[Record]], start: int) -> None:
    """Write a journal anew, in one piece and forced to disk."""
    temporary = path.with_name(f".{path.name}.part")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        for records in filter(None, lines):
            _write(descriptor, _line(_ENCODER.encode(records), start))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    temporary.replace(path)
    flush_directory(path.parent)


def _write(descriptor: int, data: bytes) -> None:
    """Write all of the data; os.write may take only some of it."""
    written = os.write(descriptor, data)
    while written < len(data):
        written += os.write(descriptor, data[written:])
