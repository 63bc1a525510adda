"""How many items of a map one child execution has, where the user leaves it open.

A child costs about a hundredth of a cent, whatever it does, and takes a part of a second to start. An item to a child
is right for few items, and far too dear for a million. How long an item takes is not known when a map begins: the state
machine knows the number of items only, from the reply of their source. Since no batch runs out of time, nothing else
is needed. How many items follow from that says `lokki.engine.batch_size`.
"""

from __future__ import annotations

from lokki.base.quotas import CHILDREN_AT_ONCE, STATE_BYTES
from lokki.builder.compiled import Compiled
from lokki.builder.tasks import BATCH_BYTES
from lokki.chain import AnyStep
from lokki.plans.operations import FanOut

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


def concurrency_limit(compiled: Compiled, fan_out: FanOut) -> int | None:
    """Return how many children of a map run at one time by the user's limits.

    None without one. More children than a function may have invocations would only be throttled.
    """
    reserved = (compiled.step_of(call).options.reserved_concurrency for call in fan_out.calls)
    limits = [limit for limit in (fan_out.options.concurrency, *reserved) if limit is not None]
    return min(*limits, CHILDREN_AT_ONCE) if limits else None


def _longest_wait(step: AnyStep) -> float:
    retry = step.options.retry
    return 0.0 if retry is None else max((retry.wait(tried) for tried in range(1, retry.attempts)), default=0.0)
