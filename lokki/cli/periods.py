"""The runs of a backfill: one for each period, in order, a bounded number at once, each at most once.

Everything here is decided from values and from what an engine says of runs; `lokki.cli.commands.backfill` has the two
engines, this machine and AWS. What makes a backfill go on after a kill is that a run's id follows from its period and
parameters alone.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from itertools import count
from typing import Protocol, get_args

import msgspec

from lokki.base.quotas import EXECUTION_NAME_LENGTH
from lokki.base.values import Json
from lokki.errors import LokkiError, ParameterError
from lokki.graph import FlowParameter

EVERY = ("hour", "day", "week", "month")


@dataclass(frozen=True, slots=True)
class PeriodRun:
    """A run of a backfill.

    * ``start``: when its period began.
    """

    run_id: str
    start: datetime
    params: Mapping[str, Json]


class RunState(StrEnum):
    """What is known of a run."""

    ABSENT = "absent"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    """Also interrupted, killed, stopped or out of time: it can be resumed."""


class Engine(Protocol):
    """Where runs take place."""

    def state(self, run_id: str) -> RunState:
        """Return what is known of a run."""
        ...

    def begin(self, run: PeriodRun, *, again: bool) -> None:
        """Start a run, or resume it, and do not wait for it."""
        ...

    def problem(self, run_id: str) -> str:
        """Return why a run failed, on one line."""
        ...


@dataclass
class BackfillOutcome:
    """How a backfill ended: its runs by what became of them."""

    finished: list[PeriodRun] = field(default_factory=list)
    skipped: list[PeriodRun] = field(default_factory=list)
    failed: list[PeriodRun] = field(default_factory=list)


type Told = Callable[[PeriodRun, str], object]
"""Is told of a run and what happened to it: skipped, started, resumed, waiting, finished, or failed with the reason."""


def period_starts(since: datetime, until: datetime, every: str) -> Iterator[datetime]:
    """Yield when each period begins, the last one included.

    >>> [str(start.date()) for start in period_starts(datetime(2026, 1, 31), datetime(2026, 3, 31), "month")]
    ['2026-01-31', '2026-02-28', '2026-03-31']
    """
    steps = {"hour": timedelta(hours=1), "day": timedelta(days=1), "week": timedelta(weeks=1)}
    for number in count():
        start = _months_later(since, number) if every == "month" else since + number * steps[every]
        if start > until:
            return
        yield start


def _months_later(start: datetime, months: int) -> datetime:
    """Return the same day of a later month, or its last one."""
    year, month = divmod(start.year * 12 + start.month - 1 + months, 12)
    following = datetime(year + (month + 1) // 12, (month + 1) % 12 + 1, 1)
    last = (following - timedelta(days=1)).day
    return start.replace(year=year, month=month + 1, day=min(start.day, last))


def last_whole_period(since: datetime, now: datetime, every: str) -> datetime:
    """Return when the last period begins that is over.

    >>> last_whole_period(datetime(2026, 11, 1), datetime(2026, 11, 28, 9), "day")
    datetime.datetime(2026, 11, 27, 0, 0)
    """
    starts = [*period_starts(since, now, every)]
    # The last one has begun and is not over; without one before it, nothing is.
    return starts[-2] if len(starts) > 1 else since - timedelta(seconds=1)


def now_in_utc() -> datetime:
    """Return the time in UTC, without a zone as periods are."""
    return datetime.now(UTC).replace(tzinfo=None)


def period_parameter(params: Sequence[FlowParameter], name: str | None) -> tuple[FlowParameter, bool]:
    """Return the parameter to fill, and whether it is a date without a time.

    It is the one of that name, else the only one that is a date or a datetime. Raises ParameterError for any other.
    """
    kinds = {param.name: kind for param in params if (kind := _kind(param)) is not None}
    if name is not None and name not in kinds:
        names = ", ".join(kinds) or "none"
        raise ParameterError(f"--into {name}: give a parameter of the flow that is a date or a datetime ({names}).")
    if name is None and len(kinds) != 1:
        names = f"it has {', '.join(kinds)}: choose one by --into" if kinds else "it has none, such as day: date"
        raise ParameterError(f"a backfill fills one parameter of the flow that is a date or a datetime; {names}.")
    [chosen] = [param for param in params if param.name == (name or next(iter(kinds)))]
    return chosen, kinds[chosen.name] is date


def _kind(param: FlowParameter) -> type[date] | None:
    """Return date or datetime if a parameter is one, or one or None."""
    members = (param.annotation, *get_args(param.annotation))
    return next((kind for kind in (datetime, date) if kind in members), None)


def period_runs(
    flow: str, param: FlowParameter, starts: Sequence[datetime], others: Mapping[str, Json], *, is_date: bool
) -> list[PeriodRun]:
    """Return the runs of periods, each with an id that is always the same.

    ``others``: the other parameters that the command line sets.
    """
    digest = hashlib.sha256(msgspec.json.encode(dict(others), order="sorted")).hexdigest()[:8]
    runs = []
    for start in starts:
        label = start.date().isoformat() if is_date or start.time() == datetime.min.time() else f"{start:%Y-%m-%dT%H%M}"
        end = f"-{label}{f'-{digest}' if others else ''}"
        name = flow[: EXECUTION_NAME_LENGTH - len(end)]
        value = start.date().isoformat() if is_date else start.isoformat()
        runs.append(PeriodRun(f"{name}{end}", start, {**others, param.name: value}))
    return runs


def carry_out(
    runs: Sequence[PeriodRun], engine: Engine, at_once: int, tell: Told, wait: Callable[[], object]
) -> BackfillOutcome:
    """Do the runs that are not done, so many at once, and return how it ended.

    A run that somebody else does is waited for, and resumed if it does not finish. One that fails here is not tried
    again, and the others go on.
    """
    backfill = _Backfill(engine, tell, deque(runs))
    while backfill.waiting or backfill.active:
        while backfill.waiting and len(backfill.active) < at_once:
            backfill.take(backfill.waiting.popleft())
        for run in [*backfill.active.values()]:
            backfill.look(run)
        if backfill.active:
            wait()
    return backfill.outcome


@dataclass
class _Backfill:
    """A backfill in progress.

    * ``own``: the ids of runs that were started or resumed here.
    """

    engine: Engine
    tell: Told
    waiting: deque[PeriodRun]
    active: dict[str, PeriodRun] = field(default_factory=dict)
    own: set[str] = field(default_factory=set)
    outcome: BackfillOutcome = field(default_factory=BackfillOutcome)

    def take(self, run: PeriodRun) -> None:
        """Start a run, resume it, or leave it to whoever does it."""
        state = self.engine.state(run.run_id)
        if state is RunState.FINISHED:
            self.outcome.skipped.append(run)
            self.tell(run, "is done")
            return
        self.active[run.run_id] = run
        if state is RunState.RUNNING:
            self.tell(run, "is in progress; waiting for it")
            return
        self.own.add(run.run_id)
        try:
            self.engine.begin(run, again=state is RunState.FAILED)
        except LokkiError as error:
            self._failed(run, str(error))
        else:
            self.tell(run, "resumed" if state is RunState.FAILED else "started")

    def look(self, run: PeriodRun) -> None:
        """See whether a run has ended."""
        state = self.engine.state(run.run_id)
        if state is RunState.RUNNING:
            return
        if state is RunState.FINISHED:
            del self.active[run.run_id]
            self.outcome.finished.append(run)
            self.tell(run, "finished")
        elif run.run_id in self.own:
            self._failed(run, self.engine.problem(run.run_id))
        else:
            del self.active[run.run_id]
            self.waiting.appendleft(run)

    def _failed(self, run: PeriodRun, reason: str) -> None:
        del self.active[run.run_id]
        self.outcome.failed.append(run)
        self.tell(run, f"failed: {reason}")
