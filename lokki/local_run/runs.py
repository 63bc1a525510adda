"""The runs in a directory, each with its record and the lock that keeps everybody else from it."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from lokki.base.naming import check_run_id
from lokki.base.values import Json, JsonField, Stored
from lokki.errors import ParameterError, RunFolderError, StoreError, damaged
from lokki.local_run.descriptors import hide
from lokki.local_run.folder import LOCK, RECORD, RunFolder
from lokki.local_run.forks import forget, watch
from lokki.local_run.seal import Seal
from lokki.plan import Plan, plan_lines
from lokki.plan_json import plan_from_json, plan_from_lines
from lokki.store.local import LocalStore, flush_directory, make_directory

FORMAT = 2
"""What runs are written in now: each file is bound to its run by a checksum. The first lokki wrote none: format 1."""

_ROOT = ".lokki"


@dataclass(frozen=True, slots=True)
class CodeOfParts:
    """Which code made the results of a map block from one of its parts on.

    There is one for each time that the run was resumed with other code.

    * ``first_part``: the number of the first part of the journal that this code wrote.
    * ``since``: when it began, in ISO 8601 (UTC).
    * ``code``: a checksum of each inner step's source.
    """

    first_part: int
    since: str
    code: dict[str, str]


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What is known of a run, as its ``run.json`` has it.

    * ``params``, ``plan``: of the flow; they must not change when it is resumed. The plan is JSON of `lokki.plan_json`,
      or the lines of a run of lokki 0.1.
    * ``code``: a checksum of each step's source, as it was when the step gave its first result that is there.
    * ``status``: ``running``, ``finished``, ``failed`` or ``interrupted``; one that is ``running`` while nobody has its
      lock reads ``killed``.
    * ``started``: in ISO 8601 (UTC).
    * ``failed``: how many items failed.
    * ``changed_code``: by map block, the code that came after ``code``.
    * ``format``: that of the run's files.
    * ``file``: the flow's, from the folder that ``.lokki`` is in; empty for a flow that is in none.
    """

    run_id: str
    flow: str
    params: dict[str, JsonField]
    plan: dict[str, JsonField] | list[str]
    code: dict[str, str]
    status: str
    started: str
    seconds: float = 0.0
    error: str = ""
    failed: int = 0
    changed_code: dict[str, list[CodeOfParts]] = field(default_factory=dict)
    format: int = FORMAT
    file: str = ""

    @property
    def seal(self) -> Seal:
        """What the files of the run are bound to."""
        return Seal(self.run_id, self.started, required=self.format >= FORMAT)


class Runs:
    """The runs in a directory, by default ``.lokki/runs``."""

    def __init__(self, root: Path) -> None:
        self.folder = root / "runs"
        self.store = LocalStore(self.folder, existing=1)
        self._absolute = self.folder.absolute()  # steps may change the working directory

    def new(self, record: RunRecord) -> None:
        """Make the folder of a new run.

        Raises RunFolderError when there is one of that id, or it cannot be made.
        """
        check_run_id(record.run_id)
        draft = self.folder / f".new-{record.run_id}-{secrets.token_hex(4)}"
        try:
            make_directory(self.folder)
            self._protect()
            _write_new(self.folder.parent / ".gitignore", b"*\n")
            # Renamed when its record is in it, so that no run is without one; another run is not empty, so it stays.
            draft.mkdir(0o700)
            _write_new(draft / RECORD, _text(record))
            flush_directory(draft)
            draft.rename(self.folder / record.run_id)
            flush_directory(self.folder)
        except OSError as error:
            shutil.rmtree(draft, ignore_errors=True)
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY) or not (self.folder / record.run_id).exists():
                raise RunFolderError(f"the folder {self.folder / record.run_id} cannot be made: {error}.") from error
            raise RunFolderError(
                f"there is a run {record.run_id!r} already. Resume it by --resume {record.run_id}, "
                "or choose another id."
            ) from None

    def save(self, record: RunRecord) -> None:
        """Write the record of a run.

        Raises StoreError when its folder is gone.
        """
        self._protect()
        self.store.write(f"{record.run_id}/{RECORD}", [_text(record)])

    def load(self, run_id: str) -> RunRecord:
        """Read the record of a run.

        Raises RunFolderError when there is none of that id, or it cannot be read.
        """
        check_run_id(run_id)
        if not (self.folder / run_id).is_dir():
            latest = ", ".join(record.run_id for record in self.list()[:3]) or "none"
            raise RunFolderError(f"there is no run {run_id!r} in {self.folder} (the latest: {latest}).")
        try:
            record = _record(run_id, bytes(self.store.read(Stored(self.store.url(f"{run_id}/{RECORD}")))))
        except StoreError as error:
            raise RunFolderError(
                f"{self.folder / run_id / RECORD} cannot be read: {error.damage or error}. Start a new run."
            ) from None
        if record.status == "running" and not self._is_locked(run_id):
            return replace(record, status="killed")
        return record

    def list(self, flow: str | None = None) -> list[RunRecord]:
        """Return all runs, or those of one flow, the latest first.

        A run whose record cannot be read has the status ``damaged`` and no flow.
        """
        # Names that begin with a dot are of runs that are half made or half removed.
        records = [self._listed(path.name) for path in self.folder.glob("[!.]*") if path.is_dir()]
        chosen = [record for record in records if flow is None or record.flow == flow]
        return sorted(chosen, key=lambda record: (record.started, record.run_id), reverse=True)

    def remove(self, run_id: str) -> None:
        """Delete a run's folder.

        Raises RunFolderError for a run that is in progress, and for one that is not there.
        """
        check_run_id(run_id)
        with self.locked(run_id):
            # Renamed first, so that a deletion that is cut short leaves no half run to be found.
            (self.folder / run_id).rename(self.folder / f".removed-{run_id}")
        for removed in self.folder.glob(".removed-*"):
            shutil.rmtree(removed, ignore_errors=True)

    def folder_of(self, record: RunRecord) -> RunFolder:
        """Return the files of a run."""
        return RunFolder(self.folder, self.store, record.seal)

    def size(self, run_id: str) -> int:
        """Return the bytes of all files of a run, which may be in progress."""
        total = 0
        for path in (self.folder / run_id).rglob("*"):
            with suppress(FileNotFoundError):
                total += path.stat().st_size if path.is_file() else 0
        return total

    @contextmanager
    def locked(self, run_id: str, patience: float = 2.0) -> Iterator[int]:
        """Hold the lock of a run, so that nobody else can use it.

        Yields the descriptor of its lock. Worker processes share it, so that those of a run that was killed have ended
        before it is resumed; they do so within ``patience`` seconds. Whoever only looks whether the run is in progress
        has it for a moment. Raises RunFolderError when somebody else still has it then.
        """
        path = self.folder / run_id / LOCK
        try:
            lock = _Lock(path)
        except OSError as error:
            raise RunFolderError(
                f"the run's folder {self.folder / run_id} cannot be used: {error}. Start a new run."
            ) from error
        try:
            end = time.monotonic() + patience
            while not lock.take():
                if time.monotonic() >= end:
                    raise RunFolderError(f"the run {run_id!r} {_by_whom(path)}")
                time.sleep(0.02)
            yield lock.descriptor
        finally:
            lock.close()

    def identity(self, run_id: str) -> tuple[int, int] | None:
        """Return the identity of a run's folder, or None when it is gone.

        It is the inode of its lock, which no other file can have while the lock is open.
        """
        try:
            lock = (self._absolute / run_id / LOCK).stat()
        except OSError:
            return None
        return lock.st_dev, lock.st_ino

    def _protect(self) -> None:
        """Close the folders of runs to others.

        Parameters and results may be secrets.
        """
        for folder in (self._absolute, self._absolute.parent)[: 2 if self._absolute.parent.name == _ROOT else 1]:
            with suppress(OSError):  # somebody else's folder, or none any more
                mode = folder.stat().st_mode
                if mode & 0o077:
                    folder.chmod(stat.S_IMODE(mode) & 0o700)

    def _listed(self, run_id: str) -> RunRecord:
        try:
            return self.load(run_id)
        except (RunFolderError, ParameterError) as error:
            seconds = 0.0
            with suppress(OSError):  # it has been removed just now
                seconds = (self.folder / run_id).stat().st_mtime
            changed = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds")
            return RunRecord(run_id, "", {}, [], {}, "damaged", changed, error=str(error))

    def _is_locked(self, run_id: str) -> bool:
        """Tell whether somebody has the lock of a run, leaving no trace there.

        Pages ask again and again, while the run may be resumed.
        """
        try:
            descriptor = os.open(self.folder / run_id / LOCK, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            return not isinstance(error, FileNotFoundError)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            # Unlocked, not only closed: a process that is forked just now has the descriptor, too.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False


def _text(record: RunRecord) -> bytes:
    return Seal(record.run_id).close(RECORD, msgspec.json.format(msgspec.json.encode(record), indent=2))


def _record(run_id: str, text: bytes) -> RunRecord:
    """Read a run's record.

    Raises StoreError when it is damaged.
    """
    has_format = b'"format"' in text  # the first lokki wrote neither this nor a checksum
    content = Seal(run_id, required=has_format).open(RECORD, text, RECORD)
    try:
        record = msgspec.json.decode(content, type=RunRecord)
        datetime.fromisoformat(record.started).astimezone()  # as lists of runs show it
    except (ValueError, OverflowError, RecursionError) as error:  # msgspec's errors are ValueErrors
        raise damaged(f"{RECORD} is damaged: {error}", "Start a new run.") from None
    if record.run_id != run_id:
        raise damaged(f"{RECORD} is that of the run {record.run_id!r}", "Start a new run.")
    return record if has_format else replace(record, format=1)


def _write_new(path: Path, content: bytes) -> None:
    """Write a file that only its owner may read, unless it exists.

    It is forced to disk.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)


class _Lock:
    """The lock of a run, open. Its file names the process that has it."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._has_it = False
        watch(self)

    def take(self) -> bool:
        """Take the lock, unless somebody has it."""
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        self._has_it = True
        with suppress(OSError):  # a full disk: the file is only for people
            os.ftruncate(self.descriptor, 0)
            os.pwrite(self.descriptor, b"%d\n" % os.getpid(), 0)
        return True

    def close(self) -> None:
        """Give the lock back."""
        if self._has_it:
            # Unlocked, not only closed: a process that a step left behind may have the descriptor too.
            fcntl.flock(self.descriptor, fcntl.LOCK_UN)
        forget(self)
        os.close(self.descriptor)

    def let_go(self) -> None:
        """Give up the lock in a process that a step forked.

        It may outlive the run, which could not be resumed meanwhile.
        """
        self._has_it = False
        hide(self.descriptor)


def _by_whom(lock: Path) -> str:
    """Say which processes have a lock, and what to do about it."""
    pid = _locked_by(lock)
    if pid is not None and _is_alive(pid):
        return f"is in progress in process {pid}. Wait for it, or stop it: kill {pid}"
    pids = " ".join(map(str, _open_in(lock)))
    if pids:
        return f"was killed, but is in progress in what it started. Wait for these processes, or stop them: kill {pids}"
    return "is in progress in another process. Wait for it, or stop it first."


def _locked_by(lock: Path) -> int | None:
    try:
        return int(lock.read_bytes())
    except (OSError, ValueError):
        return None


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # somebody else's
    return True


def _open_in(file: Path) -> list[int]:
    """Return the processes that have a file open.

    None where the system does not tell: macOS has no /proc.
    """
    target = str(file.resolve())
    pids = set()
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            if str(link.readlink()) == target:
                pids.add(int(link.parts[2]))
    return sorted(pids - {os.getpid()})


def new_run_id(now: datetime | None = None) -> str:
    """Make a run id that sorts by time, such as ``20261122-142500-3f9c27d1``."""
    # Four random bytes: of a hundred runs that start in one second, two share two bytes one time in fourteen.
    return f"{now or datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(4)}"


def recorded_plan(record: RunRecord) -> Plan:
    """Read the plan of a run.

    Raises StoreError for one that this lokki does not know.
    """
    return plan_from_lines(record.flow, record.plan) if isinstance(record.plan, list) else plan_from_json(record.plan)


def recorded_lines(record: RunRecord) -> list[str]:
    """Return the plan of a run as lines.

    They are equal exactly when plans compute the same.
    """
    return record.plan if isinstance(record.plan, list) else plan_lines(plan_from_json(record.plan))


def changes(record: RunRecord, plan: list[str], params: dict[str, Json]) -> list[str]:
    """Return the differences between a run and how it is to be resumed.

    Lines begin with ``-`` for what it was, with ``+`` for what it is now.
    """
    recorded = recorded_lines(record)
    lines = [f"- {line}" for line in recorded if line not in plan]
    lines += [f"+ {line}" for line in plan if line not in recorded]
    if not lines and plan != recorded:
        lines = ["- " + "; ".join(recorded), "+ " + "; ".join(plan)]
    for name in sorted({*record.params, *params}):
        old, new = record.params.get(name), params.get(name)
        if name in record.params and (name not in params or old != new):
            lines.append(f"- parameter {name} = {old!r}")
        if name in params and (name not in record.params or old != new):
            lines.append(f"+ parameter {name} = {new!r}")
    return lines
