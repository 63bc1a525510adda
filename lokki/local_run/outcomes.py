"""The outcomes of a run's steps and map blocks, in one journal.

A line is a checksum and a JSON array: what has ended, and its outcome, or null where that was forgotten so that it runs
again. The last whole line about something holds. A folder and a file for each outcome took three quarters of the time
of a chain of steps that do nothing; here it is one line, and all lines of a second are forced to disk together.

A kill takes no line. A power cut takes what was not forced to disk, and may leave anything there: a line that is not
whole is passed over, and what it told of runs again.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import threading
import zlib
from collections.abc import Callable
from pathlib import Path

import msgspec

from lokki.base.values import JsonField
from lokki.errors import damaged
from lokki.local_run.disk import LaterFlush
from lokki.store.local import flush_directory

type StepOutcome = dict[str, JsonField]
"""What is known of what has ended: a reference to a result, or numbers of items."""

_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(tuple[str, StepOutcome | None])
_TEXT = 9
"""Where the text of a line begins, behind its checksum."""


class OutcomeJournal:
    """Reads and writes the journal of a run.

    ``start``: what the checksums of its lines go on from, which no other run has. Only who has the run's lock may
    write; others read what was added since they last looked. ``force``: forces a file or a folder to disk.
    """

    def __init__(self, path: Path, start: int, force: Callable[[Path], None] = flush_directory) -> None:
        self.path = path
        self._start = start
        self._force = force
        self._later = LaterFlush(self._force_all)
        self._outcomes: dict[str, bytes] = {}
        self._file = 0
        self._read_bytes = 0
        self._changing = threading.Lock()

    def find(self, name: str) -> tuple[StepOutcome | None] | None:
        """Return the outcome of something in a tuple of its own, new each time.

        None in the tuple: it was forgotten. No tuple: the journal tells nothing of it. Raises OSError, and StoreError
        for what another version of lokki wrote.
        """
        with self._changing:
            self._read_new()
            line = self._outcomes.get(name)
        return None if line is None else (_DECODER.decode(line[_TEXT:])[1],)

    def add(self, name: str, outcome: bytes) -> None:
        """Add an outcome, as JSON.

        It is forced to disk a second later, or by `flush`. Raises OSError, and adds nothing then.
        """
        text = b"[%b,%b]" % (_ENCODER.encode(name), outcome)
        line = b"%08x %b\n" % (zlib.crc32(text, self._start), text)
        with self._changing:
            self._append(line)
            self._read_new()
        self._later.changed()

    def forget(self, name: str) -> None:
        """Let something have no outcome, from now on and whatever happens then.

        Raises OSError.
        """
        self.add(name, b"null")
        self.flush()

    def flush(self) -> None:
        """Force all that was added to disk.

        Raises OSError where the disk did not take it.
        """
        self._later.flush()

    def _force_all(self) -> None:
        self._force(self.path)
        self._force(self.path.parent)

    def _append(self, line: bytes) -> None:
        if self.path.exists(follow_symlinks=False) and not stat.S_ISREG(self.path.lstat().st_mode):
            remove_whatever(self.path)  # nothing was read of it, so all runs again
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(self.path, flags, 0o600)
        try:
            size = os.fstat(descriptor).st_size
            # Behind half a line, which a full disk or a power cut left, a whole one would not be found.
            begins_anew = size == 0 or os.pread(descriptor, 1, size - 1) == b"\n"
            written = line if begins_anew else b"\n" + line
            if os.write(descriptor, written) < len(written):
                os.ftruncate(descriptor, size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        finally:
            os.close(descriptor)

    def _read_new(self) -> None:
        """Read the lines that were added since it was last read."""
        try:
            status = self.path.lstat()
        except FileNotFoundError:
            self._outcomes, self._file, self._read_bytes = {}, 0, 0
            return
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is not a file", str(self.path))
        if status.st_ino != self._file or status.st_size < self._read_bytes:
            self._outcomes, self._file, self._read_bytes = {}, status.st_ino, 0
        if status.st_size == self._read_bytes:
            return
        with self.path.open("rb") as journal:
            journal.seek(self._read_bytes)
            added = journal.read()
        # Whoever writes may be in the middle of the last one.
        whole, newline, _ = added.rpartition(b"\n")
        for line in whole.split(b"\n"):
            if self._is_whole(line):
                self._outcomes[self._name(line)] = line
        self._read_bytes += len(whole) + len(newline)

    def _name(self, line: bytes) -> str:
        try:
            return _DECODER.decode(line[_TEXT:])[0]
        except msgspec.DecodeError as error:  # a whole line, of another version of lokki
            raise damaged(f"{self.path} cannot be read: {error}", "Start a new run.") from error

    def _is_whole(self, line: bytes) -> bool:
        return line[:_TEXT] == b"%08x " % zlib.crc32(line[_TEXT:], self._start)


def remove_whatever(path: Path) -> None:
    """Remove a file, or what stands in its place."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
