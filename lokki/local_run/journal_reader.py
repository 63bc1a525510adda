"""Reads the journals of a map block, whoever asks.

Resuming a run, the step after the block, `lokki.local` and ``runs show`` all read through it, so that they agree on
what counts: of an item's results the first; of what an inner step returned for it the last, which the item went on
with; and a failure only while there is no result. Lines and results that a kill or a power cut took are passed over,
and so is a damaged line: whatever stood there is computed again. Where a finished map block lacks something, the error
names the damage.
"""

from __future__ import annotations

import io
import os
from array import array
from collections.abc import Buffer, Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import msgspec

from lokki.base.failures import Failure
from lokki.errors import StoreError, damaged
from lokki.local_run.journal import (
    RUN_MAP_AGAIN,
    Parts,
    Record,
    decode_line,
    is_whole_line,
    pack_path,
    part_number,
    replace_journal,
    synced_size,
    whole_lines,
)
from lokki.store.codec import is_whole, loads

PENDING, DONE, FAILED = 0, 1, 2

_NOWHERE = 2**16 - 1
_CACHED_LINES = 64
_NOTHING: Mapping[int, object] = {}

type _PackFile = io.BufferedReader | io.BytesIO


@dataclass(frozen=True, slots=True)
class Partial:
    """What an inner step returned for an item that is not finished."""

    step: str
    journal: Path
    record: Record


@dataclass(slots=True)
class Scan:
    """What the parts of a map block hold, for a run that is resumed.

    * ``status``: of each item, `PENDING`, `DONE` or `FAILED`.
    * ``partials``: where unfinished items can go on.
    """

    status: bytearray
    partials: dict[int, Partial] = field(default_factory=dict)

    @property
    def finished(self) -> int:
        """How many items have a result."""
        return self.status.count(DONE)

    def take(self, record: Record, path: Path) -> None:
        """Note one more record, in the order in which they were written."""
        index = record.index
        self.status[index] = _next_status(self.status[index], record)
        if isinstance(step := record.step, str):
            if isinstance(record.result, msgspec.Raw):
                record = msgspec.structs.replace(record, result=record.result.copy())  # lets go of the whole line
            self.partials[index] = Partial(step, path, record)
        elif self.status[index] == DONE:
            self.partials.pop(index, None)


class StepResults:
    """Where the journals have what one inner step returned for each item.

    * ``step``: its id; None for the last one, whose results are those of the items.
    * ``status``: of each item; ``failures``: why items have no result, whichever step failed.
    """

    def __init__(self, parts: Parts, items: int, step: str | None = None) -> None:
        self.status = bytearray(items)
        self.failures: dict[int, Failure] = {}
        self._parts = parts
        self._step = msgspec.UNSET if step is None else step
        self._paths = parts.paths()
        # Where each item's line is, and not the line: a million results would not fit into memory.
        self._part_of = array("H", [_NOWHERE]) * items
        self._offset_of = array("q", [0]) * items
        self._records = lru_cache(_CACHED_LINES)(self._read_line)
        for number, path in enumerate(self._paths):
            with _open_pack(path) as pack:
                for offset, record in _records(parts, path, pack, items):
                    self._take(record, number, offset)

    def __contains__(self, index: int) -> bool:
        return self._part_of[index] != _NOWHERE

    def value(self, index: int, modules: Mapping[str, str] | None = None) -> object:
        """Load what the step returned for an item.

        ``modules``: as `lokki.store.codec.loads` has it.
        """
        path = self._paths[self._part_of[index]]
        record = self._records(path, self._offset_of[index])[index]
        if isinstance(record.range, msgspec.UnsetType):  # it is in the record: a million of these open no file
            return _value(record, io.BytesIO(), path, modules)
        with _open_pack(path) as pack:
            return _value(record, pack, path, modules)

    @contextmanager
    def opened(self) -> Iterator[Callable[[int], object]]:
        """Yield a function that loads what the step returned for an item.

        The packs stay open meanwhile, for whoever reads many values.
        """
        packs: dict[Path, _PackFile] = {}
        with ExitStack() as files:

            def value(index: int) -> object:
                path = self._paths[self._part_of[index]]
                record = self._records(path, self._offset_of[index])[index]
                if path not in packs:
                    packs[path] = _open_pack(path)
                    files.callback(packs[path].close)
                return _value(record, packs[path], path)

            yield value

    def part_numbers(self) -> array[int]:
        """Return the number of the part with each item's result, 0 without one."""
        numbers = [part_number(path) for path in self._paths]
        return array("i", [0 if part == _NOWHERE else numbers[part] for part in self._part_of])

    def check_complete(self, succeeded: int, failed: int) -> None:
        """Raise StoreError unless everything of a finished map block is there.

        That is: this many results, and the reasons of this many failures.
        """
        counts = self.status.count(DONE), len(self.failures)
        if counts != (succeeded, failed):
            raise _incomplete(
                self._parts,
                f"{counts[0]} results and {counts[1]} failures where {succeeded} and {failed} should be",
            )

    def _take(self, record: Record, part: int, offset: int) -> None:
        index = record.index
        self.status[index] = status = _next_status(self.status[index], record)
        if status == DONE:
            self.failures.pop(index, None)
        elif isinstance(record.failed, Failure):
            self.failures[index] = record.failed
        if self._is_own(record) and (self._part_of[index] == _NOWHERE or self._step is not msgspec.UNSET):
            self._part_of[index], self._offset_of[index] = part, offset

    def _is_own(self, record: Record) -> bool:
        return record.failed is msgspec.UNSET and record.step == self._step

    def _read_line(self, path: Path, offset: int) -> dict[int, Record]:
        """Read the step's records in one line again.

        Raises StoreError when it is not there any more.
        """
        try:
            with path.open("rb") as journal:
                journal.seek(offset)
                line = journal.readline()
        except OSError as error:
            raise damaged(f"{path} cannot be read: {error.strerror}", RUN_MAP_AGAIN) from error
        if not is_whole_line(line, self._parts.start(path)):
            raise damaged(f"{path} is damaged: it was changed while it was read", RUN_MAP_AGAIN)
        return {record.index: record for record in decode_line(path, line) if self._is_own(record)}


def scan(parts: Parts, items: int) -> Scan:
    """Read which items are finished, in all parts, and force that to disk."""
    progress = Scan(bytearray(items))
    for path in parts.paths():
        _take_over(parts, path, progress)
    return progress


def scan_part(parts: Parts, name: str, progress: Scan) -> None:
    """Add what a worker that died had written to what was scanned."""
    path = parts.path(name)
    if path.exists():
        _take_over(parts, path, progress)


def results(parts: Parts, items: int, failed: int, ready: Mapping[int, object] = _NOTHING) -> list[object]:
    """Load the results of all items but the failed ones, in order.

    ``ready``: those that need not be read, by index.
    Raises StoreError for a result that cannot be read, and when there are not all.
    """
    missing = object()
    values: list[object] = [missing] * items
    for path in parts.paths():
        with _open_pack(path) as pack:
            read = _Reader(pack).read
            for _, record in _records(parts, path, pack, items):
                is_result = record.failed is msgspec.UNSET and record.step is msgspec.UNSET
                if is_result and values[record.index] is missing:
                    value = ready.get(record.index, missing)
                    values[record.index] = _value(record, pack, path, read=read) if value is missing else value
    values = [value for value in values if value is not missing]
    if len(values) + failed != items:
        raise _incomplete(parts, f"{len(values)} results where {items - failed} should be")
    return values


def partial_value(partial: Partial) -> object:
    """Load what an inner step returned for an item that is not finished.

    Raises StoreError when it cannot be read.
    """
    with _open_pack(partial.journal) as pack:
        return _value(partial.record, pack, partial.journal)


def repair(parts: Parts) -> None:
    """Drop the records whose results cannot be read.

    Their items run again.
    """
    for path in parts.paths():
        with _open_pack(path) as pack:
            lines = [decode_line(path, line) for _, line in whole_lines(path, parts.start(path))]
            readable = [[record for record in line if _has_whole_value(record, pack)] for line in lines]
        if readable != lines:
            replace_journal(path, readable, parts.start(path))


def forget_items(parts: Parts, indexes: AbstractSet[int]) -> None:
    """Drop the records of some items, which run again."""
    for path in parts.paths():
        lines = [decode_line(path, line) for _, line in whole_lines(path, parts.start(path))]
        others = [[record for record in line if record.index not in indexes] for line in lines]
        if others != lines:
            replace_journal(path, others, parts.start(path))


def _next_status(status: int, record: Record) -> int:
    """Return an item's status with one more record.

    A result is final, a failure is not.
    """
    if record.step is not msgspec.UNSET or status == DONE:
        return status
    return DONE if record.failed is msgspec.UNSET else FAILED


def _records(parts: Parts, path: Path, pack: _PackFile, items: int) -> Iterator[tuple[int, Record]]:
    """Yield a part's records with the offsets of their lines.

    Those whose results a power cut took are left out: only of what stands before the last sync mark is it certain that
    its pack was forced to disk.
    """
    start = parts.start(path)
    synced = synced_size(path, start)
    for offset, line in whole_lines(path, start):
        for record in decode_line(path, line):
            if not 0 <= record.index < items:
                raise damaged(f"{path} belongs to a map block of more items than this run has", RUN_MAP_AGAIN)
            if offset < synced or _has_whole_value(record, pack):
                yield offset, record


def _take_over(parts: Parts, path: Path, progress: Scan) -> None:
    """Note what a part holds, and force to disk what nobody has.

    The run relies on it from here on.
    """
    with path.open("rb") as journal, _open_pack(path) as pack:
        for _, record in _records(parts, path, pack, len(progress.status)):
            progress.take(record, path)
        if synced_size(path, parts.start(path)) < journal.seek(0, os.SEEK_END):
            if not isinstance(pack, io.BytesIO):
                os.fsync(pack.fileno())
            os.fsync(journal.fileno())


def _incomplete(parts: Parts, counts: str) -> StoreError:
    """Return the error for parts that lack something.

    It names the first line that is damaged, if one is.
    """
    places = (f"{path} is damaged at byte {offset}" for path in parts.paths() for offset in _damaged_lines(parts, path))
    place = next(places, "")
    return damaged(f"{place + ': ' if place else ''}{parts.folder} holds {counts}", RUN_MAP_AGAIN)


def _damaged_lines(parts: Parts, path: Path) -> Iterator[int]:
    """Yield where lines that were forced to disk are not whole.

    No kill and no power cut did that.
    """
    start = parts.start(path)
    synced = synced_size(path, start)
    end = 0
    for offset, line in whole_lines(path, start):
        if offset != end and offset < synced:
            yield end
        end = offset + len(line)


def _open_pack(journal: Path) -> _PackFile:
    """Open the pack of a part, an empty one where it is gone."""
    try:
        return pack_path(journal).open("rb")
    except (FileNotFoundError, IsADirectoryError):
        return io.BytesIO()


def _has_whole_value(record: Record, pack: _PackFile) -> bool:
    if isinstance(record.range, msgspec.UnsetType):
        return True
    return is_whole(_member(record.range, pack), record.crc32)


def _value(
    record: Record,
    pack: _PackFile,
    journal: Path,
    modules: Mapping[str, str] | None = None,
    read: Callable[[tuple[int, int]], Buffer] | None = None,
) -> object:
    if isinstance(record.result, msgspec.Raw):
        value: object = msgspec.json.decode(record.result)
        return value
    if isinstance(record.range, msgspec.UnsetType):
        raise damaged(f"{journal} is damaged: the record of item {record.index} has no result", RUN_MAP_AGAIN)
    # An open file has its name; to make a path for each result would take longer than to read it.
    name = getattr(pack, "name", None) or pack_path(journal)
    member = _member(record.range, pack) if read is None else read(record.range)
    return loads(member, url=f"{name} at {record.range[0]}", modules=modules, crc32=record.crc32)


class _Reader:
    """Reads many members of a pack into the same memory.

    Memory that is new each time costs more than reading: the system fills every page of it with zeros first. The pack
    is not mapped into memory instead, as it would kill the process when it is cut short meanwhile.
    """

    def __init__(self, pack: _PackFile) -> None:
        self._pack = pack
        self._memory = memoryview(bytearray())

    def read(self, place: tuple[int, int]) -> memoryview:
        """Return a member, which stays there until the next one is read."""
        offset, length = place
        if length > len(self._memory):
            self._memory = memoryview(bytearray(length))
        if self._pack.tell() != offset:
            self._pack.seek(offset)
        return self._memory[: self._pack.readinto(self._memory[:length])]


def _member(place: tuple[int, int], pack: _PackFile) -> bytes:
    offset, length = place
    if pack.tell() != offset:
        pack.seek(offset)
    return pack.read(length)
