"""The runs of a deployed flow as pages show them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from lokki.operate.executions import DeployedRuns
from lokki.plan import Plan
from lokki.reports.deployed import deployed_subject
from lokki.reports.samples import ReplayCommand
from lokki.reports.subject import RunSubject
from lokki.results.flow_results import FlowResults
from lokki.results.items import RunInfo
from lokki.ui.listing import ListedRun
from lokki.ui.logs import LogChoice, LogPart, last_lines
from lokki.ui.sources import RunView

LISTED = 200
"""How many of a flow's latest runs are listed: the parameters of each are a request, once."""

_SUBJECTS = 16
_REQUESTS = 8
"""How many requests for parameters are sent at one time."""


@dataclass(slots=True)
class DeployedSource:
    """The runs of a deployed flow.

    * ``flow``: as it is here, and ``locate`` where its files are: failures name places in packages.
    * ``replay_of``: returns what writes the commands that replay a run's calls.
    * ``redrive_of``: returns the command that lets a run go on.
    """

    deployed_runs: DeployedRuns
    results: FlowResults
    flow: Plan
    locate: Callable[[str], str]
    replay_of: Callable[[str], ReplayCommand]
    redrive_of: Callable[[str], str]
    poll: int = 5000
    _infos: dict[str, RunInfo] = field(default_factory=dict)
    _ended: OrderedDict[str, RunSubject] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def key(self) -> str:
        """What stands in addresses."""
        return f"aws-{self.results.flow}"

    @property
    def title(self) -> str:
        """What people call it."""
        return f"{self.results.flow} on AWS"

    def runs(self) -> Sequence[ListedRun]:
        """Return the latest runs, with their parameters, which never change."""
        listed = self.deployed_runs.recent(LISTED)
        new = [info.id for info in listed if info.id not in self._infos]
        with ThreadPoolExecutor(_REQUESTS) as pool:
            self._infos |= {info.id: info for info in pool.map(self.deployed_runs.describe, new)}
        return [ListedRun(replace(info, params=self._infos[info.id].params), self.key, "AWS") for info in listed]

    def view(self, run_id: str) -> RunView:
        """Return one run.

        One that has ended is asked for once, as long as it is not redriven.
        """
        status = self.deployed_runs.describe(run_id)
        subject = self._remembered(status)
        if subject is None:
            subject = deployed_subject(self.deployed_runs, self.results, run_id, self.flow, self.locate)
            self._remember(subject)
        is_bad = subject.run.status in ("failed", "timed_out", "aborted")
        commands = [("fix it, deploy, and go on with", self.redrive_of(run_id))] if is_bad else []
        return RunView(subject, self.replay_of(run_id), commands, self.locate)

    def log(self, run_id: str, choice: LogChoice) -> LogPart:
        """Return the last lines of a run's log."""
        return last_lines(self.deployed_runs.logs(run_id), choice)

    def _remembered(self, info: RunInfo) -> RunSubject | None:
        with self._lock:
            subject = self._ended.get(info.id)
            return subject if subject is not None and subject.run.seconds == info.seconds else None

    def _remember(self, subject: RunSubject) -> None:
        if subject.run.seconds is not None:
            with self._lock:
                self._ended[subject.run.id] = subject
                if len(self._ended) > _SUBJECTS:
                    self._ended.popitem(last=False)
