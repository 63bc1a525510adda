"""Which state of a state machine is which operation of the plan: how states are named, and what a name stands for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from lokki.base.naming import ALONE_SUFFIX, LARGER_SUFFIX, PART_SUFFIX, operation_state
from lokki.base.values import Json
from lokki.plan import Plan
from lokki.plans.operations import Block, Call, FanOut, Fork, Op, Switch, calls_in, operations_in

PARAMETERS_STATE = "Parameters"
"""Completes the run's parameters, where a flow does not begin with a call that does."""

RESULT_STATE = "Result"
"""Gives the run's result, where the last state does not."""


def state_of(op: Op) -> str:
    """Return the name of the state of an operation.

    >>> state_of(Call("get_birds", "get_birds", (), None)), state_of(FanOut("get_birds.map", "get_birds", ()))
    ('GetBirds', 'GetBirdsMap')
    >>> state_of(FanOut("get_birds.map_2", "get_birds", ())), state_of(Switch("grade.switch", "grade", ()))
    ('GetBirdsMap2', 'GradeSwitch')
    """
    return operation_state(op.id)


def parameters_state(plan: Plan) -> str | None:
    """Return the name of the state that completes the parameters.

    A flow that begins with a call has none: that call does it.
    """
    return None if isinstance(plan.ops[0], Call) else _free_name(plan, PARAMETERS_STATE)


def result_state(plan: Plan) -> str:
    """Return the name of the state that gives the run's result."""
    return _free_name(plan, RESULT_STATE)


def case_state(switch: Switch, number: int) -> str:
    """Return the name of the state before a case of a batch.

    It looks whether the case is to run. ``number`` is that of the case.

    >>> [case_state(Switch("grade.switch", "grade", ()), number) for number in (0, 1)]
    ['GradeSwitch', 'GradeSwitch-2']
    """
    return state_of(switch) + (f"-{number + 1}" if number else "")


def _free_name(plan: Plan, name: str) -> str:
    """Return a name that is no step's state, with ``-`` at its end if need be."""
    names = {state_of(op).lower() for op in operations_in(plan.ops)}
    while name.lower() in names:
        name += "-"
    return name


@dataclass(frozen=True, slots=True)
class MapState:
    """A map among the states.

    * ``source``: the id of the call whose items it takes.
    * ``inner``: the ids of the calls in it, in order.
    * ``batch``: how many items a child execution has by the user; 0 for one, and where the state machine computes it.
    * ``id``: the id of the map block.
    * ``key``: the name under which its results are kept.
    * ``tolerates``: whether some of its items may fail.
    """

    source: str
    inner: tuple[str, ...]
    batch: int = 0
    id: str = ""
    key: str = ""
    tolerates: bool = False


@dataclass(frozen=True, slots=True)
class CaseState:
    """A case of a switch among the states.

    * ``start``: the state that it begins with.
    * ``calls``: the ids of the calls in it, in order.
    """

    start: str
    calls: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SwitchState:
    """A switch among the states.

    * ``id``: its own.
    * ``on``: the id of the call that chooses.
    * ``cases``: in the order of the plan.
    """

    id: str
    on: str
    cases: tuple[CaseState, ...]


@dataclass(frozen=True, slots=True)
class Machine:
    """The states of a run.

    * ``order``: those of calls and maps, in the order of the plan, in branches and cases too and not in maps. Those for
      larger functions are left out.
    * ``calls``: the id of the call of each task's state, in maps too.
    * ``maps``: what each map's state is.
    * ``forks``: the id of the fork of each parallel state.
    * ``switches``: what each choice between cases is, in maps too.
    """

    order: tuple[str, ...] = ()
    calls: Mapping[str, str] = field(default_factory=dict)
    maps: Mapping[str, MapState] = field(default_factory=dict)
    forks: Mapping[str, str] = field(default_factory=dict)
    switches: Mapping[str, SwitchState] = field(default_factory=dict)

    def not_chosen(self, step_id: str, reply: Json) -> tuple[str, ...]:
        """Return the calls of cases that the call of a switch did not choose.

        ``reply``: what its function gave, which has the number of the case.
        """
        number = reply.get("case") if isinstance(reply, dict) else None
        return tuple(
            call
            for switch in self.switches.values()
            if switch.on == step_id and type(number) is int
            for position, case in enumerate(switch.cases)
            if position != number
            for call in case.calls
        )


def machine_of(plan: Plan) -> Machine:
    """Return the states that a plan has on AWS."""
    ops = list(operations_in(plan.ops))
    return Machine(
        tuple(_order(plan.ops)),
        {state: call.id for call in plan.calls for state in _states_of(call)},
        {state_of(fan_out): _map_state(fan_out) for fan_out in plan.fan_outs},
        {state_of(op): op.id for op in ops if isinstance(op, Fork)},
        {state_of(op): _switch_state(op) for op in ops if isinstance(op, Switch)},
    )


def _order(block: Block) -> Iterator[str]:
    for op in block:
        match op:
            case Call() | FanOut():
                yield state_of(op)
            case Fork():
                for branch in op.branches:
                    yield from _order(branch)
            case Switch():
                for case in op.cases:
                    yield from _order(case.block)


def _map_state(fan_out: FanOut) -> MapState:
    inner = tuple(call.id for call in fan_out.calls)
    batch = fan_out.options.batch if fan_out.options.batch not in (None, 1) else 0
    return MapState(fan_out.source, inner, batch, fan_out.id, fan_out.key, fan_out.options.tolerate is not None)


def _switch_state(switch: Switch) -> SwitchState:
    cases = (
        CaseState(state_of(case.block[0]), tuple(call.id for call in calls_in(case.block))) for case in switch.cases
    )
    return SwitchState(switch.id, switch.on, tuple(cases))


def _states_of(call: Call) -> Iterator[str]:
    """Yield the names of a call's tasks.

    There is its own, and those for what its function had no memory or no time for.
    """
    for suffix in ("", LARGER_SUFFIX, PART_SUFFIX, ALONE_SUFFIX):
        yield state_of(call) + suffix
