"""What the functions of a flow with ``@flow(max_cost=…)`` know of what a run costs.

The number of items is known when a run is in progress, and all else before: what a step takes says its ``seconds=``,
and prices are those of `lokki.estimate.cost`. So the numbers here are differences of estimates, from which a function
computes the same again (`lokki.runtime.cost_limit`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import msgspec

from lokki.base import quotas
from lokki.base.values import Json
from lokki.builder.batching import in_batches, sizes_itself
from lokki.builder.compiled import Compiled
from lokki.builder.tasks import BATCH_BYTES
from lokki.builder.timing import execution_type
from lokki.engine.batch_size import MOST_ITEMS
from lokki.errors import FlowError
from lokki.estimate.cost import (
    MapEstimate,
    Measure,
    Workload,
    batches_at_once,
    count_children,
    estimate,
    items_in_time,
    map_dollars,
)
from lokki.plan import Plan
from lokki.plans.levels import drawn_sources
from lokki.plans.operations import Call, FanOut, Gather
from lokki.runtime.cost_limit import CostLimit, MapPrice, dollars


def declared_seconds(plan: Plan, call: Call) -> float | None:
    """Return how long a call takes as its step says; None where it does not.

    A call of lokki's own takes the function of a step, and not its time.
    """
    is_own = call.passes_on or call.regroups is not None
    return None if is_own else plan.steps[call.step].options.seconds


def declared_workload(compiled: Compiled, items: Mapping[str, int]) -> Workload:
    """Return what the steps of a flow say of themselves.

    Those that say nothing count as nothing but their request.
    """
    plan = compiled.plan
    measures = {call.id: Measure(declared_seconds(plan, call) or 0.0) for call in plan.calls}
    return Workload(items, measures, compiled.config.map_concurrency or quotas.FUNCTIONS_AT_ONCE)


def steps_without_seconds(plan: Plan) -> list[str]:
    """Return the calls in maps whose steps do not say how long they take.

    By their ids.
    """
    return [call.id for op in plan.fan_outs for call in op.calls if declared_seconds(plan, call) is None]


def cost_limits(compiled: Compiled) -> dict[str, Json]:
    """Return what functions know of the limit of a run.

    By the ids of the calls that give the items of maps; nothing where there is no limit. Raises FlowError for a step in
    a map that does not say how long it takes, and for a limit that no run would keep.
    """
    plan, most = compiled.plan, compiled.plan.options.max_cost
    if most is None:
        return {}
    if unknown := steps_without_seconds(plan):
        step = next(call.step for call in plan.calls if call.id == unknown[0])
        raise FlowError(
            f"@flow(max_cost={most!r}): {step}() runs in a map of {plan.flow} and does not say how "
            "long it takes. Run the flow here, see what `estimate` measured, and write @step(seconds=…) above it."
        )
    workload = declared_workload(compiled, {op.source: 1 for op in plan.fan_outs})
    prices = {op.key: _price(compiled, op, workload) for op in plan.fan_outs}
    least = estimate(compiled, workload)
    run = least.dollars - sum(prices[block.id].alone for block in least.maps)
    if run > most:
        raise FlowError(
            f"@flow(max_cost={most!r}): a run of {plan.flow} costs {dollars(run)} without any item, "
            "by seconds= of its steps. Raise max_cost=."
        )
    maps, over = _maps_by_source(plan), drawn_sources(plan.ops)

    def limit_of(source: str) -> CostLimit:
        own = tuple(prices[op.key] for op in maps[source])
        others = tuple(other for other in maps if other != source)
        return CostLimit(plan.flow, over[maps[source][0].id], most, _rounded(run), own, others)

    return {source: msgspec.to_builtins(limit_of(source)) for source in maps}


def _maps_by_source(plan: Plan) -> dict[str, list[FanOut]]:
    """Return the maps by the calls that first say how many items they have.

    A map that goes on after a map below it has as many as before.
    """
    calls = {call.id: call for call in plan.calls}
    maps: dict[str, list[FanOut]] = {}
    for op in plan.fan_outs:
        source = calls[op.source]
        while isinstance(source.regroups, Gather):
            source = calls[plan.fan_out(source.regroups.level).source]
        maps.setdefault(source.id, []).append(op)
    return maps


def _price(compiled: Compiled, op: FanOut, workload: Workload) -> MapPrice:
    """Return the price of a map, by what children of some sizes cost."""
    largest = op.options.batch or (MOST_ITEMS if sizes_itself(compiled, op) else 1)
    most = _full(compiled, op, workload, largest, 1).batch  # fewer, as those of 100 bytes are too many for a state
    alone = _rounded(_child(compiled, op, workload, 1))
    if most == 1:
        return MapPrice(alone)
    few, full = _child(compiled, op, workload, 2), _child(compiled, op, workload, most)
    item = (full - few) / (most - 2) if most > 2 else 0.0
    at_once = batches_at_once(compiled, op, workload) if sizes_itself(compiled, op) else 0
    price = MapPrice(alone, _rounded(full - most * item), _rounded(item), largest, BATCH_BYTES, at_once)
    in_time = tuple(count for call in op.calls if (count := items_in_time(compiled, call, workload)) < largest)
    if not in_time:
        return price
    return msgspec.structs.replace(price, again=_rounded(_again(compiled, op, workload, most)), in_time=in_time)


def _child(compiled: Compiled, op: FanOut, workload: Workload, batch: int) -> float:
    """Return what a child costs that has so many items."""
    one, two = (_full(compiled, op, workload, batch, count) for count in (1, 2))
    return map_dollars(compiled, op, workload, two) - map_dollars(compiled, op, workload, one)


def _again(compiled: Compiled, op: FanOut, workload: Workload, batch: int) -> float:
    """Return what it costs that a function hands back what it has no time for."""
    block = _full(compiled, op, workload, batch, 1)
    once = replace(block, handed_back=1)
    return map_dollars(compiled, op, workload, once) - map_dollars(compiled, op, workload, block)


def _full(compiled: Compiled, op: FanOut, workload: Workload, batch: int, children: int) -> MapEstimate:
    """Return so many full children, of which no function hands anything back."""
    filled = replace(workload, items={**workload.items, op.source: batch * children})
    express = execution_type(compiled, op) == "EXPRESS"
    return count_children(compiled, op, filled, batch, express=express, batched=in_batches(compiled, op))


def _rounded(amount: float) -> float:
    """Return an amount as it is written, with nine digits."""
    return float(f"{max(amount, 0.0):.9g}")
