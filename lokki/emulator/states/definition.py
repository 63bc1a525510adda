"""State machines as the emulator runs them: a definition, read and checked field by field.

https://docs.aws.amazon.com/step-functions/latest/dg/statemachine-structure.html
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from lokki.base.quotas import STATE_NAME_LENGTH
from lokki.base.values import Json
from lokki.emulator.states.choice import Choice
from lokki.emulator.states.expressions import Expressions
from lokki.emulator.states.fields import Fields
from lokki.emulator.states.map_state import Map
from lokki.emulator.states.parallel import Parallel
from lokki.emulator.states.simple_states import Fail, Pass, Succeed
from lokki.emulator.states.state import LevelReader, State, States
from lokki.emulator.states.task import Task
from lokki.emulator.states.transition import Transition
from lokki.errors import EmulatorError

STATE_TYPES: Mapping[str, Callable[[str, Fields, LevelReader], State]] = {
    "Task": Task.read,
    "Pass": Pass.read,
    "Choice": Choice.read,
    "Succeed": Succeed.read,
    "Fail": Fail.read,
    "Map": Map.read,
    "Parallel": Parallel.read,
}
"""How a state is read, by its Type; the class that reads it is named as the Type, and so are its events."""


@dataclass(frozen=True, slots=True)
class StateMachine:
    """A whole definition.

    ``timeout``: seconds that an execution may take, or None.
    """

    name: str
    states: States
    timeout: float | None

    @property
    def maps(self) -> Iterator[Map]:
        """All map states, in branches too."""
        return (state for state in _states_in(self.states) if isinstance(state, Map))


def read_definition(definition: object, name: str) -> StateMachine:
    """Read a definition.

    Raises EmulatorError, with state and field, for what the emulator or AWS does not take.
    """
    fields = Fields(definition, "the state machine")
    fields.comment()
    fields.one_of("Version", ("1.0",), default="1.0")
    _check_language(fields, required=True)
    timeout = fields.number("TimeoutSeconds")
    states = _Level().read(fields)
    fields.end()
    _check_scopes(states)
    machine = StateMachine(name, states, timeout)
    # Labels name map runs in ARNs, so two maps with one label could not be told apart.
    labels = [state.settings.label for state in machine.maps]
    if len(set(labels)) < len(labels):
        raise EmulatorError(f"the state machine: labels of maps must differ: {', '.join(sorted(labels))}.")
    return machine


@dataclass(frozen=True, slots=True)
class _Level:
    """Reads the states of one level; names are unique across all levels."""

    in_map: bool = False
    names: set[str] = field(default_factory=set)

    def read_level(self, fields: Fields, *, in_map: bool = False) -> States:
        """Read the level inside one of this level's states."""
        return replace(self, in_map=self.in_map or in_map).read(fields)

    def read(self, fields: Fields) -> States:
        """Read StartAt and States, and check that all states can be reached."""
        start = fields.text("StartAt")
        by_name = {name: self._read_state(name, state) for name, state in fields.mapping("States").items()}
        if start not in by_name:
            raise EmulatorError(f"{fields.where}: StartAt is {start!r}, which is none of its states.")
        targets = {start}
        for state in by_name.values():
            targets |= _targets(state, by_name)
        if unreachable := sorted(set(by_name) - targets):
            raise EmulatorError(f"{fields.where}: nothing leads to the state {unreachable[0]}.")
        return States(start, by_name)

    def _read_state(self, name: str, definition: Json) -> State:
        where = f"the state {name}"
        if name in self.names or not 1 <= len(name) <= STATE_NAME_LENGTH:
            length = f"1 to {STATE_NAME_LENGTH} characters"
            raise EmulatorError(f"{where}: names of states have {length} and are unique in the state machine.")
        self.names.add(name)  # shared by all levels: a name in a map may not stand outside of it
        fields = Fields(definition, where)
        fields.comment()
        _check_language(fields)
        state = STATE_TYPES[fields.one_of("Type", tuple(STATE_TYPES))](name, fields, self)
        fields.end()
        return state


def _states_in(states: States) -> Iterator[State]:
    """Yield the states of a level and of the branches below it."""
    for state in states.by_name.values():
        yield state
        if isinstance(state, Parallel):
            for branch in state.branches:
                yield from _states_in(branch)


def _check_scopes(states: States, outer: frozenset[str] = frozenset()) -> None:
    """Raise EmulatorError for a branch that assigns an outer variable.

    A branch may read those, and may not assign them. Branches beside each other may use the same names, and so may
    the children of a distributed map, which see none of them.
    https://docs.aws.amazon.com/step-functions/latest/dg/workflow-variables.html
    """
    own = {name for state in states.by_name.values() for name in _assigned(state)}
    for state in states.by_name.values():
        if taken := sorted(outer.intersection(_assigned(state))):
            raise EmulatorError(
                f"the state {state.name}: Assign: {taken[0]!r} is a variable of a level around its branch: it may be "
                "read, not assigned."
            )
        if isinstance(state, Parallel):
            for branch in state.branches:
                _check_scopes(branch, outer | own)
        elif isinstance(state, Map):
            _check_scopes(state.processor)


def _assigned(state: State) -> set[str]:
    return {name for transition in _ways_out(state) for name in transition.assign or {}}


def _ways_out(state: State) -> list[Transition]:
    return [*state.transitions(), *(catcher.transition for catcher in state.rules.catch)]


def _targets(state: State, names: Mapping[str, State]) -> set[str]:
    """Return the names of the states that a state may lead to."""
    targets = {transition.next for transition in _ways_out(state) if transition.next is not None}
    if missing := sorted(targets - set(names)):
        raise EmulatorError(f"the state {state.name}: Next is {missing[0]!r}, which is none of the states beside it.")
    return targets


def _check_language(fields: Fields, *, required: bool = False) -> None:
    language = fields.value("QueryLanguage") if "QueryLanguage" in fields else None
    if language != "JSONata" and (required or language is not None):
        raise EmulatorError(f"{fields.where}: QueryLanguage is {language!r}; the emulator knows JSONata only.")


def check_expressions(definition: Json, expressions: Expressions) -> None:
    """Raise EmulatorError for a string in a definition that is not JSONata."""
    expressions.check(definition, "the state machine")
