"""The checkpoints of a map block, which no kill and no power cut can spoil.

Every worker owns one *part*, two files: ``part-0001.jsonl``, the journal, and ``part-0001.pkl.gz``, a pack of the
results that do not travel inline. A journal line is a checksum and a JSON array of records, written after the pack's
bytes in one piece, so that a line that a kill cut short is told from a whole one and dropped. Once a second both files
are forced to disk and the line ``[]`` says so: after a power cut, what stands behind the last such line is checked
against its pack.

A line's checksum goes on from one of the run, the map block and the part (see `lokki.local_run.seal`), and a record has
the checksum of its value: a journal or a pack of another run or part gives no results here.

A kill costs nothing that `PartWriter.flush` has written; what a worker may hold back is said in `lokki.local_run.feed`.
Everything that is read of these files is read by `lokki.local_run.journal_reader`.
"""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import msgspec

from lokki.base.failures import Failure
from lokki.base.values import inline_json
from lokki.errors import damaged
from lokki.local_run.detached import DetachedValue
from lokki.local_run.ready_results import ReadyResults
from lokki.local_run.seal import Seal
from lokki.store.arrays import SHARED_BYTES
from lokki.store.codec import Pack, Piece, checksum, pickle_pieces
from lokki.store.local import begin_writing_back, flush_directory, write_pieces

SYNC_SECONDS = 1.0
"""How much of a worker's work a power cut can cost, beside what a kill costs."""

RUN_MAP_AGAIN = "Run the map again."

_MARK = b"[]"
"""The line that says that all before it was forced to disk."""

_BLOCK = 2**20

_WRITE_BACK_BYTES = 2**23
"""After how much more of a pack the system is to begin forcing it to disk: waiting for all of 500 MB at the end took a
third as long as writing it."""

_CACHED_BYTES = 2**25
"""How much stays in memory of a pack that the step after the map need not read, where the disk keeps up. What is on
disk leaves its memory to the next results: new memory for 2 GB took longer than all the rest of writing them."""


class Record(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of an item.

    * ``result``: as JSON; or ``range``, where it is in the part's pack, with ``crc32``, the checksum of its pickle.
    * ``step`` (``after`` in the file): the id of an inner step; the result is what that step returned, and the item is
      not finished.
    * ``failed``: why there is no result.
    """

    index: int
    result: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    range: tuple[int, int] | msgspec.UnsetType = msgspec.UNSET
    crc32: int | None = None
    step: str | msgspec.UnsetType = msgspec.field(default=msgspec.UNSET, name="after")
    failed: Failure | msgspec.UnsetType = msgspec.UNSET


_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(list[Record])


@dataclass(frozen=True, slots=True)
class Parts:
    """Where the parts of a map block are, and what binds them to it.

    ``folder``: ``get_birds/map_results`` in the run's folder. ``seal``: what the checksums go on from.
    """

    folder: Path
    seal: Seal

    def paths(self) -> list[Path]:
        """Return the journals in the order in which workers began them."""
        journals = [path for path in self.folder.glob("part-*.jsonl") if path.is_file()]
        return sorted(journals, key=lambda path: (part_number(path), path.name))

    def path(self, name: str) -> Path:
        """Return where the journal of a part is."""
        return self.folder / f"{name}.jsonl"

    def start(self, path: Path) -> int:
        """Return what the checksums of a journal's lines go on from."""
        start = self.seal.start(f"{self.folder.parent.name}/{self.folder.name}/{path.stem}")
        return 0 if not self.seal.required and _is_unbound(path) else start

    def next_number(self) -> int:
        """Return a number from which on no part exists yet."""
        return max(map(part_number, self.folder.glob("part-*")), default=0) + 1


class PartWriter:
    """Writes the part of one worker.

    Records are gathered until `flush`. ``ready``: takes results for the step after the map, where it is to.
    """

    def __init__(self, parts: Parts, name: str, inline_limit: int, ready: ReadyResults | None = None) -> None:
        self.path = parts.path(name)
        self._inline_limit = inline_limit
        self._ready = ready
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        # The pack first: where there is a journal, there is a pack.
        self._pack_file = os.open(pack_path(self.path), flags, 0o600)
        self._journal = os.open(self.path, flags, 0o600)
        self._start = parts.start(self.path)
        self._pack = Pack()
        self._members: list[Piece] = []
        self._written_back = 0
        self._records: list[Record] = []
        self._detached: tuple[int, DetachedValue] | None = None
        self._is_spared = ready is not None  # whether the step after the map is to read nothing of the pack
        self._synced_at = time.monotonic()
        self._synced_size = 0
        self._is_named = False

    def add(self, index: int, value: object, step: str | None = None) -> None:
        """Record an item's result, or what an inner step returned for it.

        ``step``: the id of that inner step. Raises ResultError for a value that does not pickle; nothing is recorded
        then.
        """
        text = inline_json(value, self._inline_limit)
        inner_step = msgspec.UNSET if step is None else step
        if text is not None:
            self._records.append(Record(index, msgspec.Raw(text), step=inner_step))
            return
        pickled = pickle_pieces(value)
        pieces, place = self._pack.add_pieces(pickled)
        self._members += pieces
        self._records.append(Record(index, range=place, crc32=checksum(pieces), step=inner_step))
        # At once: the step may change the memory of what it returned when it runs on the next item.
        if place[1] >= SHARED_BYTES:
            self._write_members()
        if self._ready is None or step is not None or not self._ready.reserve(sum(map(len, pickled))):
            self._is_spared = False
        elif (detached := self._ready.add(index, value, pickled)) is not None:
            self._detached = index, detached

    def hand_on(self) -> None:
        """Hand the last result on to the step after the map.

        To be called before the next item runs, when nobody refers to the result any more but the step that made it.
        """
        if self._ready is not None and self._detached is not None:
            self._ready.settle(*self._detached)
            self._detached = None

    def fail(self, index: int, failure: Failure) -> None:
        """Record that an item failed for good."""
        self._records.append(Record(index, failed=failure))

    def flush(self) -> None:
        """Write what was gathered, so that a kill does not lose it.

        What a full disk keeps from being written is dropped: written twice, it would not be where its records say.
        """
        # The pack first: a record must never name bytes that a kill kept from being written.
        self._write_members()
        records, self._records = self._records, []
        if records:
            _write(self._journal, _line(_ENCODER.encode(records), self._start))
        if time.monotonic() - self._synced_at >= SYNC_SECONDS:
            self._sync()

    def close(self) -> None:
        """Write what was gathered, force it to disk and close the files.

        Whoever ends the map forces the names of all parts to disk.
        """
        with ExitStack() as files:
            files.callback(os.close, self._journal)
            files.callback(os.close, self._pack_file)
            self._is_named = True
            self.flush()
            self._sync()

    def _write_members(self) -> None:
        members, self._members = self._members, []
        if not members:
            return
        try:
            write_pieces(self._pack_file, members)
        except OSError:
            self._records = []
            raise
        if self._pack.size - self._written_back >= _WRITE_BACK_BYTES:
            # Again what was on its way to the disk the last time: what has arrived leaves memory now.
            start = max(0, self._written_back - _CACHED_BYTES) if self._is_spared else self._written_back
            begin_writing_back(self._pack_file, start, self._pack.size - start)
            self._written_back = self._pack.size

    def _sync(self) -> None:
        if self._pack.size > self._synced_size:
            os.fsync(self._pack_file)
            self._synced_size = self._pack.size
        os.fsync(self._journal)
        if not self._is_named:
            flush_directory(self.path.parent)  # once: before, a power cut takes the names of the files
            self._is_named = True
        _write(self._journal, _line(_MARK, self._start))
        self._synced_at = time.monotonic()


def part_number(path: Path) -> int:
    """Return the number of a part.

    It is 1 for ``part-0001.jsonl``, and for ``part-0001-1.jsonl`` of the worker in the place of one that died.
    """
    return int(path.name.split("-")[1].partition(".")[0])


def pack_path(journal: Path) -> Path:
    """Return where the pack of a journal is."""
    return journal.with_suffix(".pkl.gz")


def whole_lines(path: Path, start: int) -> Iterator[tuple[int, bytes]]:
    """Yield the whole lines of a journal with their offsets.

    Those that were cut short or damaged are left out: whatever stood there is computed again.
    """
    offset = 0
    with path.open("rb") as journal:
        for line in journal:
            if is_whole_line(line, start):
                yield offset, line
            offset += len(line)


def is_whole_line(line: bytes, start: int) -> bool:
    """Tell whether a line has its end and its checksum."""
    return line[-1:] == b"\n" and line[:9] == b"%08x " % zlib.crc32(line[9:-1], start)


def decode_line(path: Path, line: bytes) -> list[Record]:
    """Return the records of a whole line of a journal."""
    try:
        return _DECODER.decode(line[9:-1])
    except msgspec.DecodeError as error:  # a whole line, of another version of lokki
        raise damaged(f"{path} cannot be read: {error}", RUN_MAP_AGAIN) from error


def synced_size(path: Path, start: int) -> int:
    """Return up to which byte a journal was forced to disk, with its pack."""
    mark = _line(_MARK, start)
    with path.open("rb") as journal:
        end = journal.seek(0, os.SEEK_END)
        # Read and not mapped: a file that is cut short while it is mapped kills the process.
        while end > 0:
            block_start = max(0, end - _BLOCK)
            journal.seek(block_start)
            block = journal.read(end - block_start + len(mark))
            position = block.rfind(b"\n" + mark)
            if position >= 0:
                return block_start + position + 1 + len(mark)
            if block_start == 0 and block.startswith(mark):
                return len(mark)
            end = block_start
    return 0


def replace_journal(path: Path, lines: list[list[Record]], start: int) -> None:
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


def _line(text: bytes, start: int) -> bytes:
    return b"%08x %b\n" % (zlib.crc32(text, start), text)


def _is_unbound(path: Path) -> bool:
    """Tell whether a journal is one of the first lokki.

    Its lines have checksums of their own alone, which nothing binds to the run.
    """
    with path.open("rb") as journal:
        return is_whole_line(journal.readline(), 0)


def _write(descriptor: int, data: bytes) -> None:
    """Write all of the data, of which os.write may take only some."""
    written = os.write(descriptor, data)
    while written < len(data):
        written += os.write(descriptor, data[written:])
