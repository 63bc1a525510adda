"""Results of runs, in Python and in notebooks.

Nothing is loaded before it is touched. Loading unpickles, and that runs code which the values name: read only what you
or your flows wrote.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lokki.base.values import Json
from lokki.errors import ParameterError, RunError, RunFolderError
from lokki.results.frames import frame_of_runs
from lokki.results.html import table
from lokki.results.items import Catalog, Items, Kept, LogLine, Place, RunInfo, short
from lokki.results.local import LocalCatalog

if TYPE_CHECKING:  # pandas is the user's: lokki does without it
    import pandas as pd

__all__ = ["FlowResults", "Items", "LogLine", "Run", "RunTable", "local"]

_ENDED_WELL = ("finished", "succeeded")


def local(flow: str, root: Path | str = ".lokki", *, file: Path | str | None = None) -> FlowResults:
    """Return the runs of a flow on this machine, emulated ones too.

    ``flow``: its name, such as ``"birds-flow"``.

    ``file``: the flow's file, for values of classes that it defines itself: what is run by ``python flow.py run`` is
    ``__main__`` there, and something else here. Default: the file that the run names, if it names one.
    """
    return FlowResults(flow, LocalCatalog(flow, Path(root), Path(file) if file is not None else None))


class FlowResults:
    """The runs of one flow."""

    def __init__(self, flow: str, catalog: Catalog) -> None:
        self.flow = flow
        self._catalog = catalog

    def runs(self) -> RunTable:
        """Return all runs as a list, the latest first."""
        return RunTable(Run(info, self._catalog.kept(info.id)) for info in self._catalog.list())

    def run(self, run_id: str) -> Run:
        """Return one run.

        Raises RunFolderError for an id that no run of this flow has.
        """
        return Run(self._catalog.info(run_id), self._catalog.kept(run_id))

    def latest(self) -> Run:
        """Return the run that was started last.

        Raises RunFolderError when there is none.
        """
        runs = self._catalog.list()
        if not runs:
            raise RunFolderError(f"there is no run of {self.flow}. Start one first.")
        return self.run(runs[0].id)

    def __repr__(self) -> str:
        return f"<results of {self.flow}>"

    def _repr_html_(self) -> str:
        return self.runs()._repr_html_()


class Run:
    """One run, as it was when it was asked for.

    ``params``: the JSON of all its parameters, defaults included.
    """

    def __init__(self, info: RunInfo, data: Kept) -> None:
        self.info = info
        self.kept = data

    @property
    def id(self) -> str:
        """The run's id; on AWS, the name of the execution."""
        return self.info.id

    @property
    def status(self) -> str:
        """``finished``, ``failed``, ``running`` and so on.

        Of a deployed run it is what Step Functions says, in small letters.
        """
        return self.info.status

    @property
    def emulated(self) -> bool:
        """Whether it was run on this machine as AWS would run it."""
        return self.info.emulated

    @property
    def started(self) -> datetime:
        """When it was started, in UTC."""
        return self.info.started

    @property
    def seconds(self) -> float | None:
        """How many seconds it took.

        None while that is not known.
        """
        return self.info.seconds

    @property
    def params(self) -> Mapping[str, Json]:
        """Its parameters."""
        return self.info.params

    @property
    def steps(self) -> list[str]:
        """The ids of its steps, in order."""
        return list(self.kept.places())

    # Any, not object: what it is only the reader knows, and indexing or iterating it must pass type checkers.
    def result(self) -> Any:
        """Return what the flow returned.

        Raises RunError for a run that has no result, StoreError for one whose result cannot be read.
        """
        if self.status not in _ENDED_WELL:
            why = f": {self.info.error}" if self.info.error else "."
            raise RunError(f"the run {self.id} has no result; it is {self.status}{why}")
        return self.kept.result()

    def step(self, step_id: str) -> Any:
        """Return what a step returned.

        That is its value where it ran once, and a sequence of `Items` where it ran on items.

        The source of a map block gives its items, as such a sequence too. A map block's id, such as ``rows.map``,
        stands for its results: what its last step gave, or its switch.

        Raises ParameterError for a step that the run does not have, StoreError for one that has no result.
        """
        maps = self.kept.maps()
        place = maps[step_id] if step_id in maps else self.place(step_id)
        if place.source is not None:
            return Items(self.kept.results(place))
        return Items(self.kept.items(step_id)) if place.fans_out else self.kept.output(step_id)

    def place(self, step_id: str) -> Place:
        """Return where a step stands in the flow.

        Raises ParameterError for a step that the run does not have.
        """
        places = self.kept.places()
        if step_id not in places:
            raise ParameterError(f"the run {self.id} has no step {step_id!r}; it has {', '.join(places)}.")
        return places[step_id]

    def logs(self) -> list[LogLine]:
        """Return what its steps printed and logged, in order of time.

        What failed has lines too.
        """
        return list(self.kept.log())

    def __repr__(self) -> str:
        return f"<{'emulated ' if self.emulated else ''}run {self.id} of {self.info.flow}: {self.status}>"

    def _repr_html_(self) -> str:
        return table((*_HEADER, "parameters", "error"), [(*_row(self), _params(self), self.info.error)])


class RunTable(list[Run]):
    """A list of runs that notebooks show as a table."""

    def to_pandas(self) -> pd.DataFrame:
        """Return the runs as a data frame, the latest first.

        Its index has their ids; status, start, seconds, and a column for each parameter follow. Raises LokkiError
        without pandas.
        """
        return frame_of_runs((run.id, _facts(run), run.params) for run in self)

    def _repr_html_(self) -> str:
        return table((*_HEADER, "parameters"), [(*_row(run), _params(run)) for run in self])


_HEADER = ("run", "status", "started", "seconds")


def _facts(run: Run) -> dict[str, object]:
    return {
        "status": run.status,
        "started": run.started,
        "seconds": run.seconds,
        "emulated": run.emulated,
        "error": run.info.error,
    }


def _row(run: Run) -> tuple[str, ...]:
    took = "" if run.seconds is None else f"{run.seconds:.2f}"
    status = f"{run.status} (emulated)" if run.emulated else run.status
    return run.id, status, f"{run.started:%Y-%m-%d %H:%M:%S}", took


def _params(run: Run) -> str:
    return ", ".join(f"{name}={short(value)}" for name, value in run.params.items())
