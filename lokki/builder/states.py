"""Which state of a state machine is which operation of the plan: how states are named, and what a name stands for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from lokki.base.naming import LARGER_SUFFIX, MAP_SUFFIX, PART_SUFFIX, state_name
from lokki.plan import Plan
from lokki.plans.operations import Call, FanOut, Op


def state_of(op: Op) -> str:
    """Return the name of the state of an operation.

    >>> state_of(Call("get_birds", "get_birds", (), None)), state_of(FanOut("get_birds.map", "get_birds", ()))
    ('GetBirds', 'GetBirdsMap')
    """
    return state_name(op.source) + MAP_SUFFIX if isinstance(op, FanOut) else state_name(op.id)


@dataclass(frozen=True, slots=True)
class MapState:
    """A map among the states.

    * ``source``: the id of the call whose items it takes.
    * ``inner``: the ids of the calls in it, in order.
    * ``batch``: how many items a child execution has; 0 for one without a batch.
    """

    source: str
    inner: tuple[str, ...]
    batch: int = 0


@dataclass(frozen=True, slots=True)
class Machine:
    """The states of a run.

    * ``order``: those outside of maps, in order, without those for larger functions.
    * ``calls``: the id of the call of each task's state, in maps too.
    * ``maps``: what each map's state is.
    """

    order: tuple[str, ...] = ()
    calls: Mapping[str, str] = field(default_factory=dict)
    maps: Mapping[str, MapState] = field(default_factory=dict)


def machine_of(plan: Plan) -> Machine:
    """Return the states that a plan has on AWS."""
    calls = {state: call.id for call in plan.calls for state in _states_of(call)}
    maps = {
        state_of(fan_out): MapState(
            fan_out.source, tuple(call.id for call in fan_out.calls), fan_out.options.batch or 0
        )
        for fan_out in plan.fan_outs
    }
    return Machine(tuple(map(state_of, plan.ops)), calls, maps)


def _states_of(call: Call) -> Iterator[str]:
    """Yield the names of a call's tasks.

    There is its own, and those for what its function had no memory for.
    """
    for suffix in ("", LARGER_SUFFIX, PART_SUFFIX):
        yield state_of(call) + suffix
