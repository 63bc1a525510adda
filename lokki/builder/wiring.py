"""How values get from state to state: what is the input of the next state, and what is left in variables.

A state's output is the input of the next one, and of the first state of each branch and each case. What is read later
than that is left in a variable by the state that gives it (`Assign`). A branch of a Parallel state reads the variables
around it and has variables of its own, so it hands out, in its output, what is read outside of it. Variables do not
reach into the children of distributed maps, which get what their bodies read as part of their input.
https://docs.aws.amazon.com/step-functions/latest/dg/workflow-variables.html
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from lokki.base.values import Json
from lokki.builder.names import variable_name
from lokki.builder.tasks import AslState, expression
from lokki.plan import Plan
from lokki.plans.operations import (
    Block,
    Call,
    FanOut,
    Fork,
    Op,
    Switch,
    given_by,
    operations_in,
    sources_of,
)
from lokki.plans.templates import Output, Reads, Results, Source, source_name

INPUT = "$states.input"


@dataclass(frozen=True, slots=True)
class Wiring:
    """From where operations outside of maps read, and what they leave.

    Expressions are JSONata.

    - ``reads``: by the reader's id and what it reads; a map block reads its items there
    - ``bodies``: by the id of a map block, what its body reads from outside
    - ``variables``: by the id of an operation and what it gives, the variables that are to hold it
    - ``branches``: by the id of a fork, what each branch hands out
    - ``outputs``: by the id of the last operation of a branch, what the branch hands out, by name; None for what this
      operation itself gives
    - ``result``: what the run's result is made of; None where it is the output of the last state
    """

    reads: Mapping[tuple[str, Source], str]
    bodies: Mapping[str, Mapping[Source, str]]
    variables: Mapping[tuple[str, Source], tuple[str, ...]]
    branches: Mapping[str, tuple[tuple[Source, ...], ...]]
    outputs: Mapping[str, Mapping[str, str | None]]
    result: tuple[str, ...] | None

    def assign(self, op_id: str, source: Source, value: Json) -> AslState:
        """Return the variables in which an operation leaves a value."""
        return dict.fromkeys(self.variables[op_id, source], value)

    def output(self, op_id: str, value: Json) -> Json:
        """Return what the state of an operation hands on that gives a value.

        It is the value itself, but at the end of a branch.
        """
        if op_id not in self.outputs:
            return value
        return {
            name: value if jsonata is None else expression(jsonata) for name, jsonata in self.outputs[op_id].items()
        }


def wire(plan: Plan) -> Wiring:
    """Return how the values of a plan get from state to state."""
    walk = _Walk(_readers(plan))
    place = _Place()
    last = walk.block(plan.ops, place, None, None)
    natural = not plan.returns_tuple and plan.outputs[0] == last
    result = None if natural else tuple(walk.variable(output, place) for output in plan.outputs)
    variables = {giver: tuple(name for name in names if name in walk.used) for giver, names in walk.variables.items()}
    return Wiring(walk.reads, walk.bodies, variables, walk.branches, walk.outputs, result)


def branch_value(branch: int, source: Source) -> str:
    """Return the expression of what a branch of a Parallel state handed out."""
    # Ids may be words of JSONata's own, such as `function`, so they stand in quotes.
    return f"$lookup($states.result[{branch}], '{source_name(source)}')"


def _readers(plan: Plan) -> Mapping[Source, set[str]]:
    """Return the ids of the operations that read each value.

    The result of the run is read by an operation without a name, and the outputs of cases by their switch, where
    something reads that.
    """
    readers: defaultdict[Source, set[str]] = defaultdict(set)
    for output in plan.outputs:
        readers[output].add("")
    for op in operations_in(plan.ops):
        for source in sources_of(op):
            readers[source].add(op.id)
    # Outer switches come first, so that what they need of inner ones is known there.
    for op in operations_in(plan.ops):
        if isinstance(op, Switch) and Output(op.id) in readers:
            for case in op.cases:
                readers[Output(case.output)].add(op.id)
    return readers


@dataclass(slots=True)
class _Place:
    """Where in the plan an operation stands.

    - ``depth``: how many branches it is in
    - ``variables``: those that it can read, by what they hold
    - ``switches``: whose results the result of a call or switch is, too
    """

    depth: int = 0
    variables: dict[Source, str] = field(default_factory=dict)
    switches: Mapping[Source, tuple[Source, ...]] = field(default_factory=dict)

    def gives(self, source: Source) -> None:
        """Note that what follows can read a value."""
        self.variables[source] = variable_name(source_name(source), self.depth)

    def all_of(self, source: Source) -> tuple[Source, ...]:
        """Return a value under all names that it is read by."""
        return (source, *self.switches.get(source, ()))

    def in_branch(self) -> _Place:
        """Return the beginning of a branch."""
        return _Place(self.depth + 1, dict(self.variables))

    def in_case(self, switch: Switch, output: Source) -> _Place:
        """Return the beginning of a case."""
        place = _Place(self.depth, dict(self.variables))
        place.gives(Output(switch.id))
        place.switches = {**self.switches, output: self.all_of(Output(switch.id))}
        return place


@dataclass(slots=True)
class _Walk:
    readers: Mapping[Source, set[str]]
    reads: dict[tuple[str, Source], str] = field(default_factory=dict)
    bodies: dict[str, dict[Source, str]] = field(default_factory=dict)
    variables: dict[tuple[str, Source], tuple[str, ...]] = field(default_factory=dict)
    branches: dict[str, tuple[tuple[Source, ...], ...]] = field(default_factory=dict)
    outputs: dict[str, dict[str, str | None]] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)

    def block(self, block: Block, place: _Place, incoming: Reads, leaving: tuple[Source, ...] | None) -> Reads:
        """Walk through a block and return what its last state hands on.

        ``incoming``: what the input of its first state is. ``leaving``: what a branch hands out, which ends here.
        """
        for op in block:
            incoming = self._op(op, place, incoming, leaving if op is block[-1] else None)
        return incoming

    def variable(self, source: Source, place: _Place) -> str:
        """Return the variable that holds a value."""
        name = place.variables[source]
        self.used.add(name)
        return f"${name}"

    def _op(self, op: Op, place: _Place, incoming: Reads, leaving: tuple[Source, ...] | None) -> Reads:
        for source in sources_of(op):
            self.reads[op.id, source] = INPUT if source == incoming else self.variable(source, place)
        match op:
            case Call():
                return self._give(op, Output(op.id), place, leaving)
            case FanOut():
                # By variables only: they are seen in every field of a map, whatever its input is there.
                self.bodies[op.id] = {source: self.variable(source, place) for source in op.outside}
                return self._give(op, Results(op.id), place, leaving)
            case Fork():
                self._fork(op, place, incoming, leaving)
                return None
            case Switch():
                return self._switch(op, place, incoming, leaving)

    def _give(self, op: Op, source: Source, place: _Place, leaving: tuple[Source, ...] | None) -> Source:
        self._note(op, source, place)
        if leaving is not None:
            own = place.all_of(source)
            self.outputs[op.id] = {
                source_name(value): None if value in own else self.variable(value, place) for value in leaving
            }
        return source

    def _note(self, op: Op, source: Source, place: _Place) -> None:
        names = (variable_name(source_name(value), place.depth) for value in place.all_of(source))
        self.variables[op.id, source] = tuple(names)
        place.gives(source)

    def _fork(self, fork: Fork, place: _Place, incoming: Reads, leaving: tuple[Source, ...] | None) -> None:
        self.branches[fork.id] = tuple(tuple(self._read_outside(branch)) for branch in fork.branches)
        own: dict[Source, str] = {}
        for number, (branch, sources) in enumerate(zip(fork.branches, self.branches[fork.id], strict=True)):
            self.block(branch, place.in_branch(), incoming, sources)
            own |= {value: branch_value(number, source) for source in sources for value in place.all_of(source)}
        for source in (source for sources in self.branches[fork.id] for source in sources):
            self._note(fork, source, place)
        if leaving is not None:
            self.outputs[fork.id] = {
                source_name(value): own[value] if value in own else self.variable(value, place) for value in leaving
            }

    def _read_outside(self, branch: Block) -> Iterator[Source]:
        """Yield what a branch gives that something outside of it reads."""
        inside = {op.id for op in operations_in(branch)}
        for source in sorted(given_by(branch), key=source_name):
            if self.readers.get(source, set()) - inside:
                yield source

    def _switch(self, switch: Switch, place: _Place, incoming: Reads, leaving: tuple[Source, ...] | None) -> Reads:
        natural = True
        for case in switch.cases:
            output = Output(case.output)
            natural &= output == self.block(case.block, place.in_case(switch, output), incoming, leaving)
        place.gives(Output(switch.id))
        return Output(switch.id) if natural else None
