"""Which limits of AWS a run would break, or wait for, and the setting that avoids it. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from lokki.builder.timing import function_timeout
from lokki.config import LokkiConfig
from lokki.estimate import prices
from lokki.estimate.cost import Estimate, MapEstimate, Workload, memory
from lokki.estimate.prices import Limit
from lokki.plan import Call, FanOut, Plan

SLOW_DISPATCH = 60.0
"""Seconds of starting child executions from which on it is worth a word."""

_TASK_EVENTS = 5
"""Events of a task that succeeds: entered, scheduled, started, succeeded, exited."""
_MAP_EVENTS = 4
"""Events of a distributed map that succeeds: entered, run started, run succeeded, exited."""
_EXECUTION_EVENTS = 2
_IN_MEMORY = 3
"""How many times the bytes of their compressed form values in Python take, at a guess."""
_SHORT = "a @step(timeout=…) so short that its tries fit the five minutes of EXPRESS"
_RUN_BYTES = 1_000
"""Bytes of a state beside values and parameters."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A limit, what meets it, and what to do. ``breaks``: the run would fail; otherwise it waits."""

    limit: Limit
    text: str
    advice: str
    breaks: bool = True


def problems(
    plan: Plan, config: LokkiConfig, workload: Workload, found: Estimate, params_bytes: int = 0
) -> list[Problem]:
    """Return the limits that a run would meet, in the order of the flow. ``params_bytes``: of the parameters' JSON."""
    listed = [*_events(plan), *_state(plan, config, workload, params_bytes)]
    maps = {each.id: each for each in found.maps}
    for position, op in enumerate(plan.ops):
        if isinstance(op, FanOut):
            listed += _map(plan, op, maps[op.id], config, workload)
            continue
        listed += _call(plan, op, workload.measure(op).seconds, 1, config)
        before = plan.ops[position - 1] if position else None
        if isinstance(before, FanOut):
            listed += _memory(op, before, maps[before.id], config, workload)
    if plan.options.timeout is not None and found.seconds > plan.options.timeout:
        limit = Limit(math.ceil(plan.options.timeout), "seconds", "the flow's own timeout", "")
        listed.append(Problem(limit, f"the run takes at least {found.seconds:.0f} s", "give @flow a longer timeout="))
    return listed


def advised_batch(plan: Plan, op: FanOut, each: MapEstimate, config: LokkiConfig) -> int:
    """Return the batch with which all children of a map start within a minute, as far as a function's time goes."""
    rate = (prices.EXPRESS_STARTS if each.express else prices.STANDARD_STARTS).value
    wanted = math.ceil(each.items / (rate * SLOW_DISPATCH))
    seconds = each.child_seconds / each.batch
    shortest = min(function_timeout(plan, call.step, config) for call in op.inner)
    longest = min(shortest, prices.EXPRESS_SECONDS.value) if each.express else shortest
    return max(1, min(wanted, int(longest / 2 / seconds) if seconds else wanted))


def _events(plan: Plan) -> Iterator[Problem]:
    """Count the history of the run itself; those of the children are shorter, as they have no maps."""
    limit = prices.HISTORY_EVENTS
    events = _EXECUTION_EVENTS + sum(_MAP_EVENTS if isinstance(op, FanOut) else _TASK_EVENTS for op in plan.ops)
    if events > limit.value:
        yield Problem(limit, f"the run's history has {events} events", "draw the flow as several flows")
    for op in plan.ops:
        if isinstance(op, FanOut) and _EXECUTION_EVENTS + _TASK_EVENTS * len(op.inner) > limit.value:
            yield Problem(limit, f"each item of {op.id}() has {len(op.inner)} steps", "put several into one function")


def _state(plan: Plan, config: LokkiConfig, workload: Workload, params_bytes: int) -> Iterator[Problem]:
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


def _call(plan: Plan, call: Call, seconds: float, items: int, config: LokkiConfig) -> Iterator[Problem]:
    """Compare what an invocation takes with what its function may take."""
    timeout = function_timeout(plan, call.step, config)
    if seconds <= timeout:
        return
    limit = prices.FUNCTION_SECONDS
    fitting = int(timeout / (seconds / items))
    if items > 1 and fitting >= 1:
        advice = f"set batch={fitting}"
    elif seconds / items <= limit.value:
        advice = f"set @step(timeout={math.ceil(seconds / items)})"
    else:
        advice = "give it less to do for each item, or more memory="
    of = f"a batch of {items}" if items > 1 else "one call"
    yield Problem(limit, f"{call.id}() takes {seconds:g} s for {of}; its function ends after {timeout} s", advice)


def _map(plan: Plan, op: FanOut, each: MapEstimate, config: LokkiConfig, workload: Workload) -> Iterator[Problem]:
    for call in op.inner:
        yield from _call(plan, call, workload.measure(call).seconds * each.batch, each.batch, config)
    if each.express and each.child_seconds > prices.EXPRESS_SECONDS.value:
        fitting = int(prices.EXPRESS_SECONDS.value / (each.child_seconds / each.batch))
        advice = f"set batch={fitting}, or execution_type: STANDARD" if fitting else "set execution_type: STANDARD"
        text = f"each child of the map over {op.id}() takes {each.child_seconds:g} s"
        yield Problem(prices.EXPRESS_SECONDS, text, f"{advice} in lokki.yml" if not fitting else advice)
    batch = advised_batch(plan, op, each, config)
    if each.dispatch > SLOW_DISPATCH:
        limit = prices.EXPRESS_STARTS if each.express else prices.STANDARD_STARTS
        ways = [f"batch={batch}"] if batch > each.batch else []
        ways += [] if each.express or each.child_seconds > prices.EXPRESS_SECONDS.value else [_SHORT]
        text = f"starting {each.children:,} children of the map over {op.id}() takes {each.dispatch:.0f} s"
        yield Problem(limit, text, f"set {' or '.join(ways)}" if ways else "ask AWS for a higher quota", breaks=False)
    yield from _at_once(op, each, workload.functions_at_once)
    yield from _put_rate(op, each, workload)


def _at_once(op: FanOut, each: MapEstimate, functions: int) -> Iterator[Problem]:
    """Tell of items that have to wait for others: as many as could start while the first one runs.

    Those of a map without a bound of its own wait in the map; beyond the bound of a user's, they wait for a function.
    """
    rate = (prices.EXPRESS_STARTS if each.express else prices.STANDARD_STARTS).value
    wanted = min(each.children, math.ceil(rate * each.child_seconds))
    bound = op.options.concurrency
    if bound is not None and bound <= functions:
        return
    limit = replace(prices.FUNCTIONS_AT_ONCE, value=functions)
    if wanted > functions:
        text = f"the map over {op.id}() would run {wanted:,} children at one time"
        lower_it = "" if bound is None else f"set concurrency={functions}, or "
        yield Problem(limit, text, f"{lower_it}ask AWS for a higher quota", breaks=False)


def _put_rate(op: FanOut, each: MapEstimate, workload: Workload) -> Iterator[Problem]:
    rate = prices.EXPRESS_STARTS.value if each.express else prices.STANDARD_STARTS.value
    stored = sum(workload.measure(call).stored for call in op.inner)
    if min(rate, each.children) * stored > prices.PUTS_PER_PREFIX.value:
        text = f"the map over {op.id}() writes up to {min(rate, each.children) * stored} objects a second"
        yield Problem(prices.PUTS_PER_PREFIX, text, "set a larger batch=", breaks=False)


def _memory(
    call: Call, before: FanOut, each: MapEstimate, config: LokkiConfig, workload: Workload
) -> Iterator[Problem]:
    """Compare the results of a map, all of which the step after it gets at once, with its function's memory."""
    needed = math.ceil(each.items * workload.measure(before.inner[-1]).size * _IN_MEMORY / 2**20)
    if needed <= memory(call, config):
        return
    fits = needed <= prices.FUNCTION_MEMORY.value
    advice = f"set @step(memory={needed})" if fits else "let the inner steps return less, or return where it is"
    text = f"{call.id}() gets {each.items:,} results, about {needed:,} MB, and has {memory(call, config)} MB"
    yield Problem(prices.FUNCTION_MEMORY, text, advice)
