"""What the pages read runs from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from lokki.reports.samples import ReplayCommand
from lokki.reports.subject import RunSubject
from lokki.ui.listing import ListedRun
from lokki.ui.logs import LogChoice, LogPart


@dataclass(frozen=True, slots=True)
class RunView:
    """A run with what can be done with it.

    * ``replay``: returns the command that runs a failed call again.
    * ``commands``: others, by what they are for.
    * ``locate``: returns the path here of a path in failures that the run keeps.
    """

    subject: RunSubject
    replay: ReplayCommand
    commands: Sequence[tuple[str, str]] = ()
    locate: Callable[[str], str] = str

    @property
    def is_live(self) -> bool:
        """Whether the run is in progress."""
        return self.subject.run.status in ("running", "pending_redrive")


class RunSource(Protocol):
    """Where runs are read from: a folder, or a deployed flow.

    All methods may be called from several threads at one time. They raise RunFolderError or ParameterError for a run
    that is not there, and other errors of lokki's for what cannot be read.
    """

    @property
    def key(self) -> str:
        """What stands in addresses."""

    @property
    def title(self) -> str:
        """What people call it."""

    @property
    def poll(self) -> int:
        """How many milliseconds a page waits before it looks again."""

    def runs(self) -> Sequence[ListedRun]:
        """Return the runs, in any order."""

    def view(self, run_id: str) -> RunView:
        """Return one run, as it is now."""

    def log(self, run_id: str, choice: LogChoice) -> LogPart:
        """Return lines of a run's log."""
