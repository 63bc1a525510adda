"""What a kind of state is to the interpreter: the one small interface that every kind implements.

A kind is a frozen dataclass that reads itself from a definition (`read`), says where it may lead (`transitions`), and
does one try of its work (`run`). `definition.STATE_TYPES` has a line for each. Everything else is the branch's (retries
and catches, Output and Assign) and the execution's (time, limits, the history).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Protocol

from lokki.base.values import Json
from lokki.emulator.states.expressions import Scope
from lokki.emulator.states.failures import StatesError
from lokki.emulator.states.fields import Fields
from lokki.emulator.states.outcome import Identity, Outcome, in_range
from lokki.emulator.states.rules import ErrorRules
from lokki.emulator.states.services import Services
from lokki.emulator.states.transition import Transition


class State(Protocol):
    """A state of a definition.

    Its class is named as AWS names its Type.
    """

    @property
    def name(self) -> str:
        """The state's name."""

    @property
    def rules(self) -> ErrorRules:
        """What happens when the state fails."""

    def transitions(self) -> Iterator[Transition]:
        """Yield where the state may lead, catches aside."""

    def run(self, visit: Visit) -> tuple[Transition, Frame]:
        """Do the work once, and return where to go with which result.

        Raises StatesError, which the state's rules may catch or retry.
        """


@dataclass(frozen=True, slots=True)
class States:
    """The states of one level, by name, and the one to start at."""

    start: str
    by_name: dict[str, State]


class LevelReader(Protocol):
    """Reads the states that a state has inside."""

    @property
    def in_map(self) -> bool:
        """Whether this level is inside a map."""

    def read_level(self, fields: Fields, *, in_map: bool = False) -> States:
        """Read StartAt and States of the level below.

        ``in_map``: whether that is a map's.
        """


@dataclass(frozen=True, slots=True)
class Frame:
    """What ``$states`` holds at one moment of a state.

    ``added``: the result, or the output of an error, under its name in ``$states``.
    """

    input: Json
    context: dict[str, Json]
    added: tuple[str, Json] | None = None

    def with_result(self, result: Json) -> Frame:
        """Add the result of the state's work."""
        return Frame(self.input, self.context, ("result", result))

    def with_error(self, error: StatesError) -> Frame:
        """Add the error that a rule of Catch is for."""
        return Frame(self.input, self.context, ("errorOutput", {"Error": error.error, "Cause": error.cause}))

    @property
    def default_output(self) -> Json:
        """What is handed on where the state has no Output."""
        return self.input if self.added is None else self.added[1]

    def states(self) -> dict[str, Json]:
        """Return the value of ``$states``."""
        states: dict[str, Json] = {"input": self.input, "context": self.context}
        return states if self.added is None else {**states, self.added[0]: self.added[1]}


class Resumable(Protocol):
    """Work of a state that a redrive continues, such as a map run."""

    def snapshot(self) -> dict[str, Json]:
        """Return what another process needs to continue it."""


@dataclass(slots=True)
class Progress:
    """How far the current state has come, for a redrive.

    * ``work``: what the state began, set by the state itself.
    * ``saved``: its snapshot as JSON, until the state restores it in another process.
    """

    work: Resumable | None = None
    saved: bytes | None = None


class ChildExecution(Protocol):
    """An execution that a state starts for a part of its work."""

    redrives: int

    @property
    def started(self) -> datetime:
        """When it began."""

    @property
    def stopped(self) -> datetime | None:
        """When it ended."""

    def run(self) -> Outcome:
        """Run it from its first state."""

    def redrive(self) -> Outcome:
        """Run it from the state that failed."""

    def snapshot(self) -> dict[str, Json]:
        """Return what another process needs to redrive it."""

    def restore(self, snapshot: bytes) -> None:
        """Continue from a snapshot, as JSON."""


class RunningExecution(Protocol):
    """The execution, as far as its states may use it."""

    redrives: int
    identity: Identity

    def left(self) -> float:
        """Return how many seconds the execution has left."""

    def wait(self, seconds: float) -> bool:
        """Wait, and tell whether the execution has time left then."""

    def skip(self, seconds: float) -> None:
        """Count time that the clock skipped."""

    def hold_variables(self, owner: object, size: int) -> int:
        """Note the bytes of a path's variables, and return those of all."""

    def record(self, event: str, state: str, **details: Json) -> None:
        """Add an event to the history."""

    def context(self, state: dict[str, Json]) -> dict[str, Json]:
        """Return the context object at a moment of a state."""

    def start_child(
        self, states: States, identity: Identity, payload: Json, left: Callable[[], float] | None = None
    ) -> ChildExecution:
        """Make an execution of other states.

        It sees none of this one's variables. ``left``: how many seconds it has at most; as many as this one if None.
        """


@dataclass(frozen=True)
class Visit:
    """One try of a state's work: what it reads and what it may use.

    ``attempt`` counts retries, from 0.
    """

    state: str
    attempt: int
    frame: Frame
    variables: Mapping[str, Json]
    progress: Progress
    services: Services
    execution: RunningExecution

    @cached_property  # all of it is copied for the library, however few expressions read it
    def scope(self) -> Scope:
        """What expressions see."""
        return Scope(self.frame.states(), self.variables)

    def fill(self, template: Json, field: str) -> Json:
        """Return the value of a field."""
        return self.services.expressions.fill(template, self.scope, f"{self.state}.{field}")

    def number(self, template: Json, field: str) -> float | None:
        """Return the value of a field that is a number, or missing.

        Raises StatesError for one out of the field's range.
        """
        return None if template is None else in_range(self.fill(template, field), field, self.state)

    def whole(self, template: Json, field: str) -> int | None:
        """Return the value of a field that is a whole number, or missing."""
        value = self.number(template, field)
        return None if value is None else int(value)

    def record(self, event: str, **details: Json) -> None:
        """Add an event of the state to the history."""
        self.execution.record(event, self.state, **details)
