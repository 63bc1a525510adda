"""How many items of a map one child execution has, where the user leaves it open.

A child costs about a hundredth of a cent, whatever it does, and takes a part of a second to start. An item to a child
is right for few items, and far too dear for a million. How long an item takes is not known when a map begins: the state
machine knows the number of items only, from the reply of their source. Since no batch runs out of time, nothing else
is needed.

With at most ``c`` items at one time there is one item to a child while there are no more than ``c``; then some times
``c`` children, so that functions end together although items differ: ten times for few functions, twice for a thousand,
where that many children are as many as the price allows. Where twice ``c`` children would have two items and come in
rounds of which the last is half empty, there are ``c`` children.
"""

from __future__ import annotations

import math

from lokki.base.quotas import CHILDREN_AT_ONCE, STATE_BYTES
from lokki.builder.compiled import Compiled
from lokki.builder.tasks import BATCH_BYTES
from lokki.chain import AnyStep
from lokki.plans.operations import FanOut

MOST_ITEMS = 2_000
"""Items of a batch that sizes itself.

A function that has time for one of them only, each time, stays far below the 25,000 events of an execution.
"""

_MOST_ROUNDS = 10
_CHILDREN = 1_000
"""Children up to which more of them hardly cost anything."""

_MANY_AT_ONCE = 5_000
"""Functions from which on twice as many children would cost too much."""

_REFERENCE_BYTES = 400
"""About as many bytes as a reference to the store has."""

_LONGEST_WAIT = 30.0
"""Seconds that a function waits between tries of an item, for which it is paid, where the user asked for no batches."""


_MOST_CALLS = 30
"""Calls of a map's body from which on the states of batches might make the definition too large."""


def in_batches(compiled: Compiled, fan_out: FanOut) -> bool:
    """Tell whether the children of a map have batches of items.

    Otherwise each has an item, of which Step Functions makes the step's tries.
    """
    batch = fan_out.options.batch
    return sizes_itself(compiled, fan_out) if batch is None else batch > 1


def sizes_itself(compiled: Compiled, fan_out: FanOut) -> bool:
    """Tell whether the state machine computes the size of a map's batches.

    Not so where the user says it; where the map has very many calls, or reads so much of the run that a batch of items
    does not fit into a state beside it; where a child ends after five minutes, as EXPRESS
    ones do, however much is left; and where a function would have to wait long for another try of an item, which Step
    Functions does for nothing.
    """
    if fan_out.options.batch is not None or compiled.config.execution_type == "EXPRESS":
        return False
    beside = len(fan_out.outside) * max(compiled.config.inline_limit, _REFERENCE_BYTES)
    if len(fan_out.calls) > _MOST_CALLS or BATCH_BYTES + beside > STATE_BYTES:
        return False
    longest = min(_LONGEST_WAIT, compiled.config.lambda_defaults.timeout / 4)
    return all(_longest_wait(compiled.step_of(call)) <= longest for call in fan_out.calls)


def default_batch(items: int, at_once: int) -> int:
    """Return the size of batches for so many items.

    ``at_once``: how many of them run at one time.

    >>> [default_batch(items, 1000) for items in (10, 1000, 1500, 3000, 4000, 1_000_000, 10_000_000)]
    [1, 1, 2, 3, 2, 500, 2000]
    >>> [default_batch(items, 10) for items in (0, 10, 100, 101, 1_000_000)]
    [1, 1, 1, 2, 2000]
    """
    rounds = _rounds(at_once)
    share = items / at_once
    # More rounds where batches would have too many items, and rounds of equal batches: a cut at so many items would
    # leave the last round nearly empty.
    rounds = max(rounds, math.ceil(share / MOST_ITEMS))
    return max(1, math.ceil(share if rounds == 2 and share <= 3 else share / rounds))


def batch_expression(items: str, at_once: str) -> str:
    """Return `default_batch` in JSONata.

    ``items`` and ``at_once`` are expressions.
    """
    rounds = f"$at_once > {_MANY_AT_ONCE} ? 1 : $min([{_MOST_ROUNDS}, $max([2, $floor({_CHILDREN} / $at_once)])])"
    share = f"$rounds = 2 and $share <= 3 ? $share : $share / $max([$rounds, $ceil($share / {MOST_ITEMS})])"
    size = f"$max([1, $ceil({share})])"
    # Arguments of functions instead of variables, which are those of the execution.
    sized = f"function($share, $rounds) {{ {size} }}"
    return f"(function($items, $at_once) {{ ({sized})($items / $at_once, {rounds}) }})({items}, {at_once})"


def concurrency_limit(compiled: Compiled, fan_out: FanOut) -> int | None:
    """Return how many children of a map run at one time by the user's limits.

    None without one. More children than a function may have invocations would only be throttled.
    """
    reserved = (compiled.step_of(call).options.reserved_concurrency for call in fan_out.calls)
    limits = [limit for limit in (fan_out.options.concurrency, *reserved) if limit is not None]
    return min(*limits, CHILDREN_AT_ONCE) if limits else None


def _rounds(at_once: int) -> int:
    """Return how many children there are for each that runs at one time."""
    return 1 if at_once > _MANY_AT_ONCE else min(_MOST_ROUNDS, max(2, _CHILDREN // at_once))


def _longest_wait(step: AnyStep) -> float:
    retry = step.options.retry
    return 0.0 if retry is None else max((retry.wait(tried) for tried in range(1, retry.attempts)), default=0.0)
