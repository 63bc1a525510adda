"""The report of a run, which is a fold over its events.

Progress bars, lines and summaries show it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from lokki.base.failures import Failure
from lokki.base.item_path import ItemPath, format_item
from lokki.engine.events import (
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
    StepNotChosen,
    StepRetried,
    StepSkipped,
    StepStarted,
)
from lokki.plans.levels import GATHER, SPREAD
from lokki.plans.operations import MAP

type Status = Literal["running", "finished", "failed", "interrupted", "restored", "skipped"]


@dataclass(frozen=True, slots=True)
class OpReport:
    """What is known of one operation of a run.

    That is a step that runs once, or a map block, which has ``items``.

    ``restored``: items that were finished before the run was resumed; ``finished`` counts them too.
    """

    id: str
    steps: tuple[str, ...]
    status: Status = "running"
    items: int | None = None
    restored: int = 0
    finished: int = 0
    failed: int = 0
    retried: int = 0
    workers: int = 1
    seconds: float = 0.0
    failure: Failure | None = None
    failed_item: ItemPath = ()

    @property
    def title(self) -> str:
        """The names of its steps, joined by arrows.

        ``flap_bird`` or ``flap_bird → weigh_bird``.
        """
        return " → ".join(self.steps)

    @property
    def is_map(self) -> bool:
        """Whether it is a map block, or a level of one.

        Not so what regroups items between levels.
        """
        return MAP in self.id and not self.id.endswith((SPREAD, GATHER))


@dataclass(frozen=True, slots=True)
class RunReport:
    """What is known of a run.

    ``ops``: its operations by id, in the order in which they began; a map block's id is ``<id>.map``.
    ``earlier``: those from before a resume, where that is known.
    """

    flow: str = ""
    run_id: str = ""
    folder: str = ""
    resumed: bool = False
    status: Status = "running"
    message: str = ""
    seconds: float = 0.0
    ops: dict[str, OpReport] = field(default_factory=dict)
    failure: Failure | None = None
    earlier: dict[str, OpReport] = field(default_factory=dict)


def failure_in(report: RunReport, message: str) -> Failure | None:
    """Return the failure that a run's error message names."""
    failures = (report.failure, *(op.failure for op in report.ops.values()))
    return next((failure for failure in failures if failure is not None and str(failure) in message), None)


def map_failure(
    source: str, failed_of: tuple[int, int], tolerate: float | None, item: ItemPath, failure: Failure | None
) -> str:
    """Say that more items failed than a map tolerates, and why.

    * ``source``: the id of the call that gave the items.
    * ``failed_of``: how many items failed, of how many.
    * ``item``: the first that failed, and ``failure`` why; empty where only their number is known.
    """
    failed, items = failed_of
    tolerated = "none" if tolerate is None else f"{tolerate:g}"
    count = f"{failed} of {items} items" if failed > 1 or not item else f"item {format_item(item)}"
    text = f"{count} failed in the map over {source}() (tolerated: {tolerated})"
    if failure is None:
        return f"{text}."
    return f"{text};{f' first item {format_item(item)}:' if failed > 1 else ''} {failure}"


def fold(report: RunReport, event: Event) -> RunReport:
    """Return the report after one more event.

    Events may come in any order.
    """
    match event:
        case RunStarted():
            # A resumed run reports anew: what it takes over comes as StepSkipped, or with MapStarted.
            earlier = {**report.earlier, **report.ops} if event.resumed else {}
            return RunReport(event.flow, event.run_id, event.folder, event.resumed, earlier=earlier)
        case RunFinished():
            return replace(report, status="finished", seconds=event.seconds)
        case RunFailed():
            return _ended(replace(report, seconds=event.seconds, message=event.message), "failed")
        case RunInterrupted():
            return _ended(replace(report, seconds=event.seconds), "interrupted")
        case StepStarted(step_id):
            return _with(report, OpReport(step_id, (step_id,)))
        case StepSkipped(op_id):
            op = report.earlier.get(op_id) or OpReport(op_id, (op_id.removesuffix(MAP),))
            return _with(report, replace(op, status="restored"))
        case StepNotChosen(step_id):
            return _with(report, OpReport(step_id, (step_id,), "skipped"))
        case StepFinished(step_id):
            op = replace(_op(report, step_id), status="finished", seconds=event.seconds, items=event.items)
            return _with(report, op)
        case StepFailed(step_id, failure):
            return replace(_with(report, replace(_op(report, step_id), status="failed")), failure=failure)
        case StepRetried():
            op = _op_of(report, event.id)
            return _with(report, replace(op, retried=op.retried + 1))
        case _:
            return _fold_map(report, event)


def map_op(report: RunReport, key: str) -> OpReport:
    """Return what is known of a map block.

    ``key``: the name that its results are kept under.
    """
    return _op(report, _map_id(key))


def _map_id(key: str) -> str:
    # Of a second map block over one source, the key is its id.
    return key if MAP in key else f"{key}{MAP}"


def _fold_map(report: RunReport, event: Event) -> RunReport:
    match event:
        case MapStarted():
            op = OpReport(
                _map_id(event.id),
                event.steps,
                items=event.items,
                restored=event.finished,
                finished=event.finished,
                workers=event.workers,
            )
            return _with(report, op)
        case ItemsFinished():
            op = map_op(report, event.id)
            return _with(report, replace(op, finished=op.finished + event.count))
        case ItemFailed():
            op = map_op(report, event.id)
            if op.failure is None:
                op = replace(op, failure=event.failure, failed_item=event.item)
            report = _with(report, replace(op, failed=op.failed + 1))
            return report if report.failure is not None else replace(report, failure=event.failure)
        case ItemsFailed():
            op = map_op(report, event.id)
            return _with(report, replace(op, failed=op.failed + event.count))
        case MapFinished():
            op = map_op(report, event.id)
            # Of a batch on AWS that went on without some items, all were counted first.
            finished = min(op.finished, event.succeeded)
            op = replace(op, status="finished", finished=finished, seconds=event.seconds)
            return replace(_with(report, op), failure=None)  # the failures were tolerated
        case _:
            return report


def _ended(report: RunReport, status: Status) -> RunReport:
    """Note how a run ended, for what was running too.

    Where an operation failed, those that ran beside it were only stopped.
    """
    is_told = any(op.status == "failed" or (op.status == "running" and op.failed) for op in report.ops.values())

    def end(op: OpReport) -> OpReport:
        if op.status != "running":
            return op
        return replace(op, status="interrupted" if status == "failed" and is_told and not op.failed else status)

    return replace(report, status=status, ops={op.id: end(op) for op in report.ops.values()})


def _with(report: RunReport, op: OpReport) -> RunReport:
    return replace(report, ops={**report.ops, op.id: op})


def _op(report: RunReport, op_id: str) -> OpReport:
    return report.ops.get(op_id) or OpReport(op_id, (op_id.removesuffix(MAP),))


def _op_of(report: RunReport, step_id: str) -> OpReport:
    """Return the operation that a step belongs to.

    That is the step itself, or the map block that it is an inner step of.
    """
    return next((op for op in reversed(report.ops.values()) if step_id in op.steps), None) or _op(report, step_id)
