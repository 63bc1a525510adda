"""Limits of Step Functions that a run may come to, as far as its plan tells: sizes, events, map runs.

Counted is the worst case: each result as large as may travel inline, each task tried as often as its step says.
https://docs.aws.amazon.com/step-functions/latest/dg/service-quotas.html
"""

from __future__ import annotations

from collections.abc import Iterator

from lokki.base.quotas import HISTORY_EVENTS, OPEN_MAP_RUNS, STATE_BYTES, VARIABLES_BYTES
from lokki.builder.batching import in_batches
from lokki.builder.compiled import Compiled, most_at_once
from lokki.builder.handing_on import most_handed_on
from lokki.builder.retries import MOST_DEATHS
from lokki.builder.states import parameters_state
from lokki.builder.tasks import BATCH_BYTES
from lokki.builder.timing import execution_type
from lokki.builder.wiring import Wiring, wire
from lokki.plans.operations import Block, Call, FanOut, Fork, Op, Switch, sources_of

_REFERENCE_BYTES = 400
"""About as many bytes as a reference to the store has: a URL, and where in the object the value is."""

_LOWER = "lower inline_limit in lokki.yml"


def machine_limits(compiled: Compiled) -> Iterator[str]:
    """Yield a line for each limit that a run exceeds at worst."""
    value = max(compiled.config.inline_limit + len('{"result":}'), _REFERENCE_BYTES)
    yield from _large_states(compiled, wire(compiled.plan), value)
    yield from _long_histories(compiled)
    map_runs = most_at_once(compiled.plan.ops, lambda op: int(isinstance(op, FanOut)))
    if map_runs > OPEN_MAP_RUNS:
        yield f"{map_runs:,} maps may run at one time, and an account has {OPEN_MAP_RUNS:,} map runs; split the flow"


def _large_states(compiled: Compiled, wiring: Wiring, value: int) -> Iterator[str]:
    """Yield a line for each state, or all variables, that may be too large."""
    plan = compiled.plan
    for fork, branches in wiring.branches.items():
        count = sum(map(len, branches))
        yield from _too_large(f"the branches of {fork} hand out {count} values", count, value)
    for call in plan.calls:
        count = len(sources_of(call))
        yield from _too_large(f"{call.step}() reads {count} values of the run", count, value)
    for fan_out in compiled.maps:
        what, count = f"of the map over {fan_out.source}() has", len(wiring.bodies[fan_out.id])
        if not in_batches(compiled, fan_out):
            count += most_handed_on(fan_out)
            yield from _too_large(f"an item {what} {count} values with it", count, value, beside=value)
        else:
            yield from _too_large(f"a batch {what} {count} values with it", count, value, beside=BATCH_BYTES)
    if plan.returns_tuple:
        yield from _too_large(f"the flow returns {len(plan.outputs)} values", len(plan.outputs), value)
    variables = len({name for names in wiring.variables.values() for name in names})
    if variables * value > VARIABLES_BYTES:
        yield (
            f"{variables:,} values of the run are read later, which may have {variables * value:,} bytes inline, and "
            f"the variables of an execution have {VARIABLES_BYTES:,}; {_LOWER}"
        )


def _too_large(what: str, count: int, value: int, beside: int = 0) -> Iterator[str]:
    """Yield a line if so many values make a state too large.

    ``beside``: the bytes of what is in the state besides.
    """
    size = count * value + beside
    # A value that is alone in its state may be as large as the setting allows.
    alone = count == 0 or (count == 1 and not beside)
    if size > STATE_BYTES and not alone:
        yield f"{what}, which may have {size:,} bytes inline, and a state has {STATE_BYTES:,}; {_LOWER}"


# --- events ---


def _long_histories(compiled: Compiled) -> Iterator[str]:
    """Yield a line for each execution whose history may become too long."""
    plan = compiled.plan
    beside = (5 if parameters_state(plan) else 0) + (2 if wire(plan).result else 0)
    events = 2 + beside + _events(compiled, plan.ops, None)
    if events > HISTORY_EVENTS:
        yield f"a run may have {events:,} events {_TOO_MANY_EVENTS}"
    for fan_out in compiled.maps:
        events = 2 + _events(compiled, fan_out.body, fan_out)
        if events > HISTORY_EVENTS and execution_type(compiled, fan_out) == "STANDARD":
            yield f"an item of the map over {fan_out.source}() may have {events:,} events {_TOO_MANY_EVENTS}"


_TOO_MANY_EVENTS = (
    f"with all tries, and an execution ends after {HISTORY_EVENTS:,}; give steps fewer tries, or split the flow"
)


def _events(compiled: Compiled, block: Block, fan_out: FanOut | None) -> int:
    """Return how many events a history has of a block at worst.

    ``fan_out``: the map that it is the body of.
    https://docs.aws.amazon.com/step-functions/latest/apireference/API_HistoryEvent.html
    """
    return sum(_events_of(compiled, op, fan_out) for op in block)


def _events_of(compiled: Compiled, op: Op, fan_out: FanOut | None) -> int:
    batch = fan_out is not None and in_batches(compiled, fan_out)
    match op:
        case Call():
            retry = compiled.step_of(op).options.retry
            # Entered and exited; scheduled, started and ended for each try.
            task = 2 + 3 * (1 if retry is None or batch else retry.attempts)
            if batch:
                # A choice goes before each part of a batch, and the task of the item at fault may follow it.
                return task + MOST_DEATHS * 2 * (2 + task)
            return 2 * task if op.step in compiled.larger_functions else task
        case FanOut():
            return 6
        case Fork():
            return 4 + sum(_events(compiled, branch, fan_out) for branch in op.branches)
        case Switch():
            cases = [_events(compiled, case.block, fan_out) for case in op.cases]
            return 2 * len(cases) + sum(cases) if batch else 2 + max(cases)
