"""What is known of a run for its report."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from lokki.base.failures import Failure
from lokki.base.item_path import ItemPath
from lokki.engine.events import StepWork
from lokki.observing.report import RunReport

BUCKETS = 120
"""Most stretches of time that a map block's work is counted in."""

_FIRST_BUCKET = 0.05
_BOUNDS = tuple(float(f"{digit}e{power}") for power in range(-5, 5) for digit in (1, 2, 5))
"""Bounds of durations: 10 µs, 20 µs, 50 µs, and so on to 50,000 s."""


@dataclass(slots=True)
class Activity:
    """How many items came to their end when.

    There are never more than `BUCKETS` stretches: where time goes on, two become one.
    """

    start: float
    width: float = _FIRST_BUCKET
    finished: list[int] = field(default_factory=list)
    failed: list[int] = field(default_factory=list)

    def add(self, at: float, finished: int, failed: int) -> None:
        """Count items."""
        while at - self.start >= self.width * BUCKETS:
            self.width *= 2
            self.finished, self.failed = _paired(self.finished), _paired(self.failed)
        place = max(0, int((at - self.start) / self.width))
        missing = place + 1 - len(self.finished)
        self.finished += [0] * missing
        self.failed += [0] * missing
        self.finished[place] += finished
        self.failed[place] += failed


def _paired(numbers: Sequence[int]) -> list[int]:
    return [sum(numbers[place : place + 2]) for place in range(0, len(numbers), 2)]


@dataclass(slots=True)
class Durations:
    """How long items took.

    Of quick ones many are told together, and their mean counts for each.

    ``counts``: how many took no longer than each of `_BOUNDS` and longer than the one before; at last all others.
    ``means``: how many of them were told together with others.
    """

    counts: list[int] = field(default_factory=lambda: [0] * (len(_BOUNDS) + 1))
    items: int = 0
    means: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    slowest_item: ItemPath = ()

    def add(self, count: int, seconds: float) -> None:
        """Count items that took so long together."""
        each = seconds / count
        place = next((number for number, bound in enumerate(_BOUNDS) if each <= bound), len(_BOUNDS))
        self.counts[place] += count
        self.items += count
        self.means += count if count > 1 else 0
        self.seconds += seconds

    def note_slowest(self, item: ItemPath, seconds: float) -> None:
        """Keep an item if none took longer."""
        if seconds > self.slowest:
            self.slowest, self.slowest_item = seconds, item

    @property
    def bars(self) -> Iterator[tuple[float, float, int]]:
        """The bars, each with its bounds and how many items it has.

        They are those from the first that has items to the last.
        """
        filled = [place for place, count in enumerate(self.counts) if count]
        for place in range(filled[0], filled[-1] + 1) if filled else ():
            upper = _BOUNDS[place] if place < len(_BOUNDS) else math.inf
            yield _BOUNDS[place - 1] if place else 0.0, upper, self.counts[place]

    def quantile(self, share: float) -> float:
        """Return a time in which at least so many of the items were done.

        It is the upper bound of a bar, or what the slowest item took.
        """
        left = share * self.items
        for _, upper, count in self.bars:
            left -= count
            if left <= 0:
                return min(upper, self.slowest) if self.slowest else upper
        return self.slowest


@dataclass(slots=True)
class OpFacts:
    """What is known of an operation beside its `OpReport`.

    * ``spans``: from when to when it ran; more than one where the run was resumed.
    * ``size``: bytes of what the step handed on.
    * ``tries``: how many tries failed and were followed by others.
    * ``work``: of each step of a map of several.
    """

    id: str
    spans: list[tuple[float, float]] = field(default_factory=list)
    is_running: bool = False
    size: int = 0
    tries: int = 0
    activity: Activity | None = None
    durations: Durations = field(default_factory=Durations)
    work: dict[str, StepWork] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """How long it ran in all."""
        return sum(end - start for start, end in self.spans)


@dataclass(frozen=True, slots=True)
class FailedCall:
    """A call that failed, as an example of others.

    ``map``: the id of its map block, empty outside of one.
    """

    step: str
    item: ItemPath
    map: str
    failure: Failure


@dataclass(slots=True)
class FailureGroup:
    """Failures of one error, at one line of one step.

    * ``count``: how many failed for good; ``retried``: how many were tried again.
    * ``examples``: the first ones. ``messages``: whether they said different things.
    """

    step: str
    error: str
    where: str
    count: int = 0
    retried: int = 0
    examples: list[FailedCall] = field(default_factory=list)
    messages: bool = False


@dataclass(slots=True)
class RunFacts:
    """All that the events of a run tell.

    * ``report``: how it ended, and each of its operations.
    * ``start`` and ``end``: seconds since 1970; of the first event and the last.
    * ``pauses``: from an end to a resume.
    * ``unlisted``: how many failures are in no group, as there were too many groups, or no more is known of them.
    """

    report: RunReport = field(default_factory=RunReport)
    start: float = 0.0
    end: float = 0.0
    pauses: list[tuple[float, float]] = field(default_factory=list)
    ops: dict[str, OpFacts] = field(default_factory=dict)
    groups: list[FailureGroup] = field(default_factory=list)
    unlisted: int = 0
    lines: int = 0
    changed_code: list[str] = field(default_factory=list)

    @property
    def finished_items(self) -> int:
        """How many items have results."""
        return sum(op.finished for op in self.report.ops.values())

    @property
    def failed_items(self) -> int:
        """How many items failed."""
        return sum(op.failed for op in self.report.ops.values())

    def elapsed(self, at: float) -> float:
        """Return how long the run had been in progress then, without its pauses."""
        return at - self.start - sum(max(0.0, min(at, end) - start) for start, end in self.pauses if start < at)

    @property
    def seconds(self) -> float:
        """How long it was in progress in all."""
        return self.elapsed(self.end)

    @property
    def gaps(self) -> list[tuple[float, float]]:
        """When nothing ran, in seconds since the start and without pauses."""
        spans = sorted((self.elapsed(start), self.elapsed(end)) for op in self.ops.values() for start, end in op.spans)
        gaps: list[tuple[float, float]] = []
        reached = 0.0
        for start, end in [*spans, (self.seconds, self.seconds)]:
            if start > reached:
                gaps.append((reached, start))
            reached = max(reached, end)
        return gaps
