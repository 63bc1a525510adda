"""The runs on this machine as pages show them, emulated ones too."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from lokki.base.naming import check_run_id
from lokki.emulator.run_files import emulated_name
from lokki.errors import RunFolderError, StoreError
from lokki.loading import package_locator
from lokki.local_run.folder import LOG
from lokki.local_run.runs import RunRecord, Runs, recorded_plan
from lokki.reports.facts import RunFacts
from lokki.reports.gathering import Gathering
from lokki.reports.samples import ReplayCommand
from lokki.reports.subject import RunSubject
from lokki.reports.timed import timed_event
from lokki.results.flow_results import local
from lokki.results.items import RunInfo
from lokki.ui.listing import ListedRun
from lokki.ui.logs import LogChoice, LogPart, log_part
from lokki.ui.sources import RunView

_LOGS = 16
"""How many logs are remembered as far as they were read."""

type CommandOf = Callable[[str, RunRecord], str]
"""Returns how a command, such as ``replay``, is called for the flow of a run; empty where that is not known."""

type ReplayOf = Callable[[str, str], ReplayCommand]
"""Returns what writes commands that replay calls of a run, by how ``replay`` is called and the run's id."""


class FollowedLog:
    """The log of a run, of which each look reads what is new alone."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._start_anew()

    def facts(self, now: float) -> RunFacts:
        """Return what the log tells.

        ``now``: in seconds since 1970, for a run that goes on; 0 for one that has ended.
        """
        with self._lock:
            try:
                self._read()
            except FileNotFoundError:
                self._start_anew()
            except OSError as error:
                raise StoreError(f"{self._path} cannot be read: {error.strerror}.") from error
            return self._gathering.facts_until(now if self._end else 0.0)

    def _start_anew(self) -> None:
        self._gathering = Gathering()
        self._end = 0
        self._file = (0, 0)

    def _read(self) -> None:
        with self._path.open("rb") as file:
            status = self._path.stat()
            if self._file != (status.st_dev, status.st_ino) or status.st_size < self._end:
                self._start_anew()  # another run of this id
                self._file = (status.st_dev, status.st_ino)
            file.seek(self._end)
            for line in file:
                if not line.endswith(b"\n"):  # it is being written
                    break
                self._end += len(line)
                event = timed_event(line)
                if event is not None:
                    self._gathering.take(*event)


class FolderRuns:
    """The runs in a folder such as ``.lokki``.

    * ``command_of``: returns how a command is called for a run.
    * ``replay_of``: returns what writes the commands that replay a run's calls.
    """

    key = "here"
    title = "on this machine"
    poll = 1000

    def __init__(self, root: Path, command_of: CommandOf, replay_of: ReplayOf) -> None:
        self._root = root
        self._here = Runs(root)
        self._command_of = command_of
        self._replay_of = replay_of
        self._logs: OrderedDict[str, FollowedLog] = OrderedDict()
        self._lock = threading.Lock()

    def runs(self) -> Sequence[ListedRun]:
        """Return all runs; damaged ones have the status ``damaged``."""
        return list(map(self._listed, self._here.list()))

    def view(self, run_id: str) -> RunView:
        """Return one run."""
        record = self._load(run_id)
        is_emulated = record.flow.endswith(emulated_name(""))
        run = local(record.flow.removesuffix(emulated_name("")), self._root).run(run_id)
        is_live = record.status == "running"
        facts = self._followed(run_id).facts(time.time() if is_live else 0.0)
        place = "emulated on this machine" if is_emulated else self.title
        subject = RunSubject(run, recorded_plan(record), facts, place, record.code)
        again = self._command_of("emulate" if is_emulated else "run", record)
        commands = [("fix it and go on with", f"{again} --resume {run_id}")] if again else []
        is_over = record.status in ("finished", "running")
        replay = self._replay_of(self._command_of("replay", record), run_id)
        # Functions keep failures with the paths of their packages.
        locate = package_locator(self._root.absolute().parent / record.file) if is_emulated and record.file else str
        return RunView(subject, replay, [] if is_over else commands, locate)

    def log(self, run_id: str, choice: LogChoice) -> LogPart:
        """Return lines of a run's log, of a damaged run too."""
        check_run_id(run_id)
        return log_part(self._here.folder / run_id / LOG, choice)

    def _load(self, run_id: str) -> RunRecord:
        try:
            return self._here.load(run_id)
        except RunFolderError as error:
            if (self._here.folder / run_id).is_dir():
                raise StoreError(str(error)) from None
            raise

    def _followed(self, run_id: str) -> FollowedLog:
        with self._lock:
            log = self._logs.pop(run_id, None) or FollowedLog(self._here.folder / run_id / LOG)
            self._logs[run_id] = log
            if len(self._logs) > _LOGS:
                self._logs.popitem(last=False)
            return log

    def _listed(self, record: RunRecord) -> ListedRun:
        is_emulated = record.flow.endswith(emulated_name(""))
        took = None if record.status in ("running", "killed", "damaged") else record.seconds
        started = datetime.fromisoformat(record.started)
        info = RunInfo(
            record.run_id,
            record.flow.removesuffix(emulated_name("")),
            record.status,
            started if started.tzinfo is not None else started.replace(tzinfo=UTC),
            took,
            record.params,
            record.error,
            emulated=is_emulated,
        )
        return ListedRun(info, self.key, "emulated" if is_emulated else "here", record.failed)
