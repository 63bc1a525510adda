"""A run held against another one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from lokki.plan import plan_lines
from lokki.reports.subject import RunSubject


@dataclass(frozen=True, slots=True)
class TimeChange:
    """How long an operation took in both runs; None where it did not run.

    ``items``, ``failed``: how many items ended well, and how many failed, in the other run and in this one.
    """

    id: str
    previous: float | None
    seconds: float | None
    items: tuple[int, int] = (0, 0)
    failed: tuple[int, int] = (0, 0)

    @property
    def share(self) -> float | None:
        """By which share it took longer; None where that means nothing."""
        if self.previous is None or self.seconds is None or self.previous < 0.001:
            return None
        return self.seconds / self.previous - 1


@dataclass(frozen=True, slots=True)
class Comparison:
    """What differs between a run and another one.

    ``changes``: of parameters, code and plan, as lines of words.
    """

    other: RunSubject
    whole: TimeChange
    times: tuple[TimeChange, ...]
    changes: tuple[str, ...]


def compare_runs(subject: RunSubject, other: RunSubject) -> Comparison:
    """Hold a run against another one."""
    whole = TimeChange("", other.facts.seconds, subject.facts.seconds)
    ids = dict.fromkeys([*subject.facts.ops, *other.facts.ops])
    return Comparison(
        other, whole, tuple(_change(op_id, subject, other) for op_id in ids), (*_changes(subject, other),)
    )


def _change(op_id: str, subject: RunSubject, other: RunSubject) -> TimeChange:
    seconds = [run.facts.ops[op_id].seconds if op_id in run.facts.ops else None for run in (other, subject)]
    ops = [run.facts.report.ops.get(op_id) for run in (other, subject)]
    before, now = (0 if op is None else op.finished for op in ops)
    failed_before, failed_now = (0 if op is None else op.failed for op in ops)
    return TimeChange(op_id, seconds[0], seconds[1], (before, now), (failed_before, failed_now))


def _changes(subject: RunSubject, other: RunSubject) -> Iterator[str]:
    if subject.place != other.place:
        yield f"it ran {subject.place}, the other one {other.place}"
    names = dict.fromkeys([*other.run.params, *subject.run.params])
    for name in names:
        old, new = (_json(run.run.params[name]) if name in run.run.params else "none" for run in (other, subject))
        if old != new:
            yield f"parameter {name}: {old} → {new}"
    steps = dict.fromkeys([*other.code, *subject.code])
    changed = [step for step in steps if other.code.get(step) != subject.code.get(step)]
    if changed and subject.place == other.place:
        yield f"code changed: {', '.join(changed)}"
    if plan_lines(subject.plan) != plan_lines(other.plan):
        yield "the flow has changed: it does not run the same calls"


def _json(value: object) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 80 else f"{text[:79]}…"
