"""Limits of AWS that a run would break, or wait for, and the setting that avoids each."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from lokki.base import quotas
from lokki.builder.batching import concurrency_limit, sizes_itself
from lokki.builder.compiled import Compiled
from lokki.builder.cost_limits import declared_workload, steps_without_seconds
from lokki.builder.timing import fits_express, function_timeout
from lokki.engine.invocation import takes_one_by_one
from lokki.estimate import prices
from lokki.estimate.cost import (
    Estimate,
    MapEstimate,
    Workload,
    default_batch_of,
    estimate,
    measure_of,
    starts_per_second,
)
from lokki.estimate.prices import AccountLimit
from lokki.local_run.schedule import units_in
from lokki.plan import Plan
from lokki.plans.operations import Block, Call, FanOut, Fork, Op, Switch, sources_of
from lokki.plans.templates import Results
from lokki.runtime.cost_limit import dollars

SLOW_DISPATCH = 60.0
"""Seconds of starting child executions from which on it is worth a word."""

_TASK_EVENTS = 5
"""Events of a task that succeeds: entered, scheduled, started, succeeded, exited."""
_MAP_EVENTS = 4
"""Events of a distributed map that succeeds: entered, run started, run succeeded, exited."""
_PARALLEL_EVENTS = 4
"""Events of a Parallel state that succeeds: entered, started, succeeded, exited."""
_CHOICE_EVENTS = 2
"""Events of a Choice: entered, exited."""
_EXECUTION_EVENTS = 2
_IN_MEMORY = 3
"""How many times the bytes of their compressed form values in Python take, at a guess."""
_CHILDREN_PER_FUNCTION = 4
"""Children for each function that runs at one time, so that one that takes long does not make all others wait."""
_RUN_BYTES = 1_000
"""Bytes of a state beside values and parameters."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A limit that a run meets.

    - ``text``: what meets it
    - ``advice``: what avoids it
    - ``breaks``: whether the run fails; otherwise it waits
    """

    limit: AccountLimit
    text: str
    advice: str
    breaks: bool = True


def problems(compiled: Compiled, workload: Workload, cost: Estimate, params_bytes: int = 0) -> list[Problem]:
    """Return the limits that a run would meet, in the order of the flow.

    ``params_bytes``: of the parameters' JSON.
    """
    plan = compiled.plan
    listed = [*_events(plan), *_state(plan, workload, params_bytes)]
    maps = {block.id: block for block in cost.maps}
    for op in units_in(plan.ops):
        if isinstance(op, FanOut):
            listed += _map(compiled, op, maps[op.key], workload) if op.key in maps else ()
            continue
        listed += _call(compiled, op, workload.measure(op).seconds)
        for source in sources_of(op):
            if isinstance(source, Results):
                block = plan.fan_out(source.id)
                listed += _memory(compiled, op, block, maps[block.key], workload) if block.key in maps else ()
    if plan.options.timeout is not None and cost.seconds > plan.options.timeout:
        limit = AccountLimit(math.ceil(plan.options.timeout), "seconds", "the flow's own timeout", "")
        text = f"the run takes at least {cost.seconds:.0f} s"
        listed.append(Problem(limit, text, "give @flow a longer timeout="))
    return [*listed, *_too_dear(compiled, workload)]


def _too_dear(compiled: Compiled, workload: Workload) -> Iterator[Problem]:
    """Say what the functions of a flow with ``max_cost=`` would say.

    They know what its steps say of themselves, and not what was measured.
    """
    most = compiled.plan.options.max_cost
    if most is None or steps_without_seconds(compiled.plan):
        return
    cost = estimate(compiled, declared_workload(compiled, workload.items)).dollars
    if cost > most:
        limit = AccountLimit(most, "dollars", "the flow's own max_cost", "")
        text = f"by seconds= of its steps the run costs {dollars(cost)}, so it ends before a map"
        yield Problem(limit, text, "raise max_cost= of @flow, or have fewer items")


@dataclass(frozen=True, slots=True)
class LargerBatch:
    """Batches with which the children of a map would be fewer.

    - ``setting``: what gives them, such as ``batch=100``
    - ``advice``: the same as a sentence
    """

    items: int
    setting: str
    advice: str


def larger_batch(compiled: Compiled, op: FanOut, block: MapEstimate, workload: Workload) -> LargerBatch | None:
    """Return larger batches than a map has; None where they size themselves."""
    if sizes_itself(compiled, op):
        return None
    if not block.express and sizes_itself(compiled, replace(op, options=replace(op.options, batch=None))):
        larger = LargerBatch(default_batch_of(compiled, op, workload), "no batch=", "leave out batch=")
    else:
        batch = _fitting_batch(compiled, op, block, workload)
        larger = LargerBatch(batch, f"batch={batch}", f"set batch={batch}")
    return larger if larger.items > block.batch else None


def _fitting_batch(compiled: Compiled, op: FanOut, block: MapEstimate, workload: Workload) -> int:
    """Return a size of batches with which children are few and start soon.

    All of them start within a minute, and there are some for each function that runs at one time, so that functions
    end together. It is smaller where a function, or an EXPRESS child, has no time for so many items.
    """
    functions = min(concurrency_limit(compiled, op) or workload.functions_at_once, workload.functions_at_once)
    most_children = min(starts_per_second(express=block.express) * SLOW_DISPATCH, functions * _CHILDREN_PER_FUNCTION)
    target = math.ceil(block.items / most_children)
    seconds = block.child_seconds / block.batch
    shortest = min(function_timeout(compiled, compiled.step_of(call)) for call in op.calls)
    longest = min(shortest, quotas.EXPRESS_SECONDS) if block.express else shortest
    # Half of the time: items differ, and one that takes twice as long must not end the batch.
    return max(1, min(target, int(longest / 2 / seconds) if seconds else target))


def _events(plan: Plan) -> Iterator[Problem]:
    """Count the history of the run itself.

    Those of the children are shorter, as they have no maps.
    """
    limit = prices.HISTORY_EVENTS
    events = _EXECUTION_EVENTS + _events_in(plan.ops)
    if events > limit.value:
        yield Problem(limit, f"the run's history has {events} events", "draw the flow as several flows")
    for op in plan.fan_outs:
        if _EXECUTION_EVENTS + _events_in(op.body) > limit.value:
            yield Problem(
                limit, f"each item of {op.source}() has {len(op.calls)} steps", "put several into one function"
            )


def _events_in(block: Block) -> int:
    return sum(map(_events_of, block))


def _events_of(op: Op) -> int:
    match op:
        case FanOut():
            return _MAP_EVENTS
        case Call():
            return _TASK_EVENTS
        case Fork():
            return _PARALLEL_EVENTS + sum(map(_events_in, op.branches))
        case Switch():
            return _CHOICE_EVENTS + max(_events_in(case.block) for case in op.cases)


def _state(plan: Plan, workload: Workload, params_bytes: int) -> Iterator[Problem]:
    limit = prices.STATE_BYTES
    for call in plan.calls:
        measure = workload.measure(call)
        inline = 0 if measure.stored or call.fans_out else measure.size
        if params_bytes + inline + _RUN_BYTES > limit.value:
            yield Problem(
                limit,
                f"{call.id}() has {params_bytes + inline} bytes of parameters and result in its state",
                "pass large parameters as the URL of an object"
                if params_bytes > inline
                else "set a smaller inline_limit in lokki.yml",
            )


def _call(compiled: Compiled, call: Call, seconds: float) -> Iterator[Problem]:
    """Compare what one value takes with what its function may take.

    What a batch has no time for is handed back.
    """
    step = compiled.step_of(call)
    timeout = function_timeout(compiled, step) if step.options.timeout is None else math.ceil(step.options.timeout)
    if seconds <= timeout:
        return
    limit = prices.FUNCTION_SECONDS
    if seconds <= limit.value:
        advice = f"set @step(timeout={math.ceil(seconds)})"
    else:
        advice = "give it less to do for each item, or more memory="
    yield Problem(limit, f"{call.id}() takes {seconds:g} s for one call; its function ends after {timeout} s", advice)


def _map(compiled: Compiled, op: FanOut, block: MapEstimate, workload: Workload) -> Iterator[Problem]:
    for call in op.calls:
        yield from _call(compiled, call, workload.measure(call).seconds)
    if block.express and block.child_seconds > quotas.EXPRESS_SECONDS:
        fitting = int(quotas.EXPRESS_SECONDS / (block.child_seconds / block.batch))
        remove = "remove execution_type: EXPRESS from lokki.yml"
        text = f"each child of the map over {op.source}() takes {block.child_seconds:g} s"
        yield Problem(prices.EXPRESS_SECONDS, text, f"set batch={fitting}, or {remove}" if fitting else remove)
    yield from _dispatch(compiled, op, block, workload)
    yield from _at_once(compiled, op, block, workload.functions_at_once)
    yield from _put_rate(op, block, workload)


def _dispatch(compiled: Compiled, op: FanOut, block: MapEstimate, workload: Workload) -> Iterator[Problem]:
    """Tell of a map whose children take long to start."""
    if block.dispatch <= SLOW_DISPATCH:
        return
    larger = larger_batch(compiled, op, block, workload)
    ways = [] if larger is None else [larger.advice]
    fits = all(fits_express(compiled, fan_out) for fan_out in compiled.maps)
    if fits and not block.express and not sizes_itself(compiled, op):
        ways.append("set execution_type: EXPRESS in lokki.yml")
    limit = prices.EXPRESS_STARTS if block.express else prices.STANDARD_STARTS
    text = f"starting {block.children:,} children of the map over {op.source}() takes {block.dispatch:.0f} s"
    yield Problem(limit, text, " or ".join(ways) if ways else "ask AWS for a higher quota", breaks=False)


def _at_once(compiled: Compiled, op: FanOut, block: MapEstimate, functions: int) -> Iterator[Problem]:
    """Tell of items that have to wait for others.

    These are as many as could start while the first one runs. Those of a map without a limit of its own wait in the
    map; beyond the limit of a user's, they wait for a function.
    """
    possible = min(block.children, math.ceil(starts_per_second(express=block.express) * block.child_seconds))
    bound = concurrency_limit(compiled, op)
    if bound is not None and bound <= functions:
        return
    limit = replace(prices.FUNCTIONS_AT_ONCE, value=functions)
    if possible > functions:
        text = f"the map over {op.source}() would run {possible:,} children at one time"
        lower_it = "" if bound is None else f"set concurrency={functions}, or "
        yield Problem(limit, text, f"{lower_it}ask AWS for a higher quota", breaks=False)


def _put_rate(op: FanOut, block: MapEstimate, workload: Workload) -> Iterator[Problem]:
    stored = sum(workload.measure(call).stored for call in op.calls)
    objects = min(starts_per_second(express=block.express), block.children) * stored
    if objects > quotas.PUTS_PER_PREFIX:
        text = f"the map over {op.source}() writes up to {objects} objects a second"
        yield Problem(prices.PUTS_PER_PREFIX, text, "set a larger batch=", breaks=False)


def _memory(
    compiled: Compiled, call: Call, source: FanOut, block: MapEstimate, workload: Workload
) -> Iterator[Problem]:
    """Compare the results of a map with the memory of the step after it.

    That step gets all of them at once, unless it takes them one by one.
    """
    if takes_one_by_one(call, compiled.step_of(call)):
        return
    needed = math.ceil(block.items * measure_of(compiled.plan, workload, source.result).size * _IN_MEMORY / 2**20)
    memory = compiled.memory(compiled.step_of(call))
    if needed <= memory:
        return
    advice = (
        f"set @step(memory={needed})"
        if needed <= quotas.MOST_MEMORY
        else "let the inner steps return less, or return where it is"
    )
    text = f"{call.id}() gets {block.items:,} results, about {needed:,} MB, and has {memory} MB"
    yield Problem(prices.FUNCTION_MEMORY, text, advice)
