"""The events of a run folded into facts, in one pass and in memory that does not grow with the items."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

from lokki.base.failures import Failure
from lokki.base.item_path import ItemPath
from lokki.engine.events import (
    CodeChanged,
    Event,
    ItemFailed,
    ItemsFailed,
    ItemsFinished,
    MapFinished,
    MapStarted,
    RunFailed,
    RunFinished,
    RunInterrupted,
    RunStarted,
    StepFailed,
    StepFinished,
    StepOutput,
    StepRetried,
    StepStarted,
    add_work,
)
from lokki.observing.report import fold, map_op
from lokki.plans.operations import MAP
from lokki.reports.facts import Activity, FailedCall, FailureGroup, OpFacts, RunFacts

GROUPS = 50
EXAMPLES = 3
_SPANS = 50
_TEXT = 8_000
"""Characters of a traceback or a message that are kept."""


class Gathering:
    """Takes the events of a run, each with its time, and knows what they tell."""

    def __init__(self) -> None:
        self._facts = RunFacts()
        self._groups: dict[tuple[str, str, str], FailureGroup] = {}
        self._maps: dict[str, str] = {}
        # Counted here first: to fold a report takes some microseconds, which a million items would feel.
        self._finished: dict[str, int] = {}
        self._failed: dict[str, int] = {}

    def take(self, at: float, event: Event) -> None:
        """Take an event.

        ``at``: in seconds since 1970.
        """
        facts = self._facts
        if isinstance(event, RunStarted) and facts.start:
            self._end_spans(facts.end)
            self._fold_counts()
            facts.pauses.append((facts.end, max(at, facts.end)))
        facts.start, facts.end = facts.start or at, max(facts.end, at)
        match event:
            case StepOutput():
                facts.lines += 1
            case ItemsFinished():
                self._count_finished(at, event)
            case ItemFailed():
                self._count_failed(at, event)
            case _:
                self._fold_counts()
                self._note(at, event)
                facts.report = fold(facts.report, event)

    def facts(self) -> RunFacts:
        """Return what is known, when all events have been taken."""
        self._fold_counts()
        self._end_spans(self._facts.end)
        self._facts.groups = sorted(self._groups.values(), key=lambda group: (-group.count, -group.retried))
        return self._facts

    def facts_until(self, at: float) -> RunFacts:
        """Return what is known of a run that goes on.

        ``at``: when that is, in seconds since 1970. Further events may be taken.
        """
        copy = deepcopy(self)
        copy._facts.end = max(copy._facts.end, at)
        return copy.facts()

    def _note(self, at: float, event: Event) -> None:
        match event:
            case RunFinished() | RunFailed() | RunInterrupted():
                self._end_spans(at)
            case StepStarted():
                self._start_span(self._op(event.id), at)
            case StepFinished():
                op = self._op(event.id)
                op.size = event.size
                self._end_span(op, at, event.seconds)
            case StepFailed():
                self._end_span(self._op(event.id), at)
                self._group(event.failure, (), "").count += 1
            case StepRetried():
                self._op(self._maps.get(event.id, event.id)).tries += 1
                self._group(event.failure, event.item, self._maps.get(event.id, "")).retried += 1
            case CodeChanged() if len(self._facts.changed_code) < GROUPS:
                self._facts.changed_code.append(event.step)
            case _:
                self._note_of_maps(at, event)

    def _note_of_maps(self, at: float, event: Event) -> None:
        match event:
            case MapStarted():
                op = self._map(event.id)
                self._maps.update(dict.fromkeys(event.steps, op.id))
                op.activity = op.activity or Activity(at)
                self._start_span(op, at)
            case MapFinished():
                self._end_span(self._map(event.id), at, event.seconds)
            case ItemsFailed():
                op = self._map(event.id)
                op.activity = op.activity or Activity(at)
                op.activity.add(at, 0, event.count)
                self._facts.unlisted += event.count
            case _:
                pass

    def _count_finished(self, at: float, event: ItemsFinished) -> None:
        op = self._map(event.id)
        self._finished[event.id] = self._finished.get(event.id, 0) + event.count
        if op.activity is not None:
            op.activity.add(at, event.count, 0)
        # Beside the item's own time, that of several has what was between them.
        seconds = event.slowest_seconds if event.count == 1 and event.slowest_seconds else event.seconds
        if seconds > 0:
            op.durations.add(event.count, seconds)
        op.durations.note_slowest(event.slowest, event.slowest_seconds)
        add_work(op.work, event.steps)

    def _count_failed(self, at: float, event: ItemFailed) -> None:
        op = self._map(event.id)
        if op.activity is not None:
            op.activity.add(at, 0, 1)
        self._group(event.failure, event.item, op.id).count += 1
        if map_op(self._facts.report, event.id).failure is None:
            self._facts.report = fold(self._facts.report, event)
        else:
            self._failed[event.id] = self._failed.get(event.id, 0) + 1

    def _fold_counts(self) -> None:
        for key, count in self._finished.items():
            self._facts.report = fold(self._facts.report, ItemsFinished(key, count, 0.0))
        for key, count in self._failed.items():
            self._facts.report = fold(self._facts.report, ItemsFailed(key, count))
        self._finished, self._failed = {}, {}

    def _group(self, failure: Failure, item: ItemPath, map_id: str) -> FailureGroup:
        key = (failure.step, failure.error, failure.where)
        group = self._groups.get(key)
        if group is None:
            group = FailureGroup(*key)
            if len(self._groups) >= GROUPS:
                self._facts.unlisted += 1
                return group
            self._groups[key] = group
        if group.examples and group.examples[0].failure.message[:_TEXT] != failure.message[:_TEXT]:
            group.messages = True
        if len(group.examples) < EXAMPLES and all(example.item != item for example in group.examples):
            group.examples.append(FailedCall(failure.step, item, map_id, _shortened(failure)))
        return group

    def _op(self, op_id: str) -> OpFacts:
        return self._facts.ops.setdefault(op_id, OpFacts(op_id))

    def _map(self, key: str) -> OpFacts:
        return self._op(key if MAP in key else f"{key}{MAP}")

    def _start_span(self, op: OpFacts, at: float) -> None:
        if not op.is_running and len(op.spans) < _SPANS:
            op.spans.append((at, at))
            op.is_running = True

    def _end_spans(self, at: float) -> None:
        for op in self._facts.ops.values():
            self._end_span(op, at)

    def _end_span(self, op: OpFacts, at: float, seconds: float | None = None) -> None:
        """Note when an operation ended.

        ``seconds``: how long it took, where that is known: it may have been seen only when it was over.
        """
        if not op.is_running:
            return
        start = op.spans[-1][0]
        op.spans[-1] = (start if seconds is None else min(start, at - seconds), at)
        op.is_running = False


def _shortened(failure: Failure) -> Failure:
    return replace(
        failure,
        message=failure.message[:_TEXT],
        traceback=shorten_trace(failure.traceback, _TEXT),
        full_traceback="",
    )


def shorten_trace(text: str, most: int) -> str:
    r"""Leave out the middle of a traceback that is too long.

    Its last lines say where the error was raised, but where the error says very much, its first lines do.

    >>> shorten_trace("Traceback", 9), shorten_trace("Traceback", 4)
    ('Traceback', 'Tr\n…\nck')
    """
    return text if len(text) <= most else f"{text[: most // 2]}\n…\n{text[-(most // 2) :]}"
