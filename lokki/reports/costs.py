"""What a run would cost on AWS, by the times that it took."""

from __future__ import annotations

from lokki.builder.compiled import Compiled
from lokki.errors import LokkiError
from lokki.estimate.cost import Estimate, Measure, Workload, estimate
from lokki.estimate.measured import inner_measures
from lokki.plans.operations import Call
from lokki.reports.facts import RunFacts


def estimate_of(compiled: Compiled, facts: RunFacts) -> Estimate | None:
    """Estimate what a run costs.

    None where its events do not tell how long items took. Where they do not tell it of each step of a map block, what
    all took is divided among them evenly.
    """
    measures: dict[str, Measure] = {}
    items: dict[str, int] = {}
    inside = {call.id for fan_out in compiled.plan.fan_outs for call in fan_out.calls}
    for call in compiled.plan.calls:
        if call.id not in inside:
            measures[call.id] = _measure(call, facts, compiled.config.inline_limit)
    for fan_out in compiled.plan.fan_outs:
        report, durations = facts.report.ops.get(fan_out.id), facts.ops.get(fan_out.id)
        if report is None or durations is None or not durations.durations.items:
            return None
        items[fan_out.source] = report.items or 0
        each = durations.durations.seconds / durations.durations.items / len(fan_out.calls)
        measures.update(inner_measures(fan_out, durations.work, Measure(each)))
    try:
        return estimate(compiled, Workload(items, measures))
    except LokkiError:  # settings that cannot be built
        return None


def _measure(call: Call, facts: RunFacts, inline_limit: int) -> Measure:
    op = facts.ops.get(call.id)
    if op is None:  # it did not run
        return Measure(0.0)
    report = facts.report.ops.get(call.id)
    size = op.size // max(report.items or 1, 1) if report is not None else op.size
    return Measure(op.seconds, size, size > inline_limit)
