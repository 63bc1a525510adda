"""The states that only lead on or end the execution: Pass, Succeed and Fail."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Never

from lokki.base.values import Json
from lokki.emulator.states.failures import StatesError
from lokki.emulator.states.fields import Fields
from lokki.emulator.states.rules import NO_RULES, ErrorRules
from lokki.emulator.states.state import Frame, LevelReader, Visit
from lokki.emulator.states.transition import Transition, read_transition
from lokki.errors import EmulatorError


@dataclass(frozen=True, slots=True)
class Pass:
    """Hands its input on.

    https://docs.aws.amazon.com/step-functions/latest/dg/state-pass.html
    """

    name: str
    transition: Transition
    rules: ErrorRules = NO_RULES

    @classmethod
    def read(cls, name: str, fields: Fields, level: LevelReader) -> Pass:
        """Read the state."""
        return cls(name, read_transition(fields))

    def transitions(self) -> Iterator[Transition]:
        """Yield its one way out."""
        yield self.transition

    def run(self, visit: Visit) -> tuple[Transition, Frame]:
        """Do nothing."""
        return self.transition, visit.frame


@dataclass(frozen=True, slots=True)
class Succeed:
    """Ends the execution.

    https://docs.aws.amazon.com/step-functions/latest/dg/state-succeed.html
    """

    name: str
    transition: Transition
    rules: ErrorRules = NO_RULES

    @classmethod
    def read(cls, name: str, fields: Fields, level: LevelReader) -> Succeed:
        """Read the state."""
        return cls(name, Transition(None, fields.optional("Output")))

    def transitions(self) -> Iterator[Transition]:
        """Yield the end of the execution."""
        yield self.transition

    def run(self, visit: Visit) -> tuple[Transition, Frame]:
        """Do nothing."""
        return self.transition, visit.frame


@dataclass(frozen=True, slots=True)
class Fail:
    """Fails the execution.

    https://docs.aws.amazon.com/step-functions/latest/dg/state-fail.html
    """

    name: str
    error: str
    cause: str
    rules: ErrorRules = NO_RULES

    @classmethod
    def read(cls, name: str, fields: Fields, level: LevelReader) -> Fail:
        """Read the state."""
        error, cause = fields.text("Error", ""), fields.text("Cause", "")
        if error.startswith("States."):
            raise EmulatorError(
                f"{fields.where}: Error is {error!r}; names that begin with 'States.' are Step Functions'."
            )
        return cls(name, error, cause)

    def transitions(self) -> Iterator[Transition]:
        """Yield nothing."""
        return iter(())

    def run(self, visit: Visit) -> Never:
        """Raise the error."""
        raise StatesError(self._text(self.error, visit), self._text(self.cause, visit))

    def _text(self, template: Json, visit: Visit) -> str:
        value = visit.services.expressions.fill(template, visit.scope, self.name)
        return value if isinstance(value, str) else ""
