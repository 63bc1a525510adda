"""Choice: the first condition that holds says where the execution goes.

https://docs.aws.amazon.com/step-functions/latest/dg/state-choice.html
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lokki.emulator.states.expressions import is_expression
from lokki.emulator.states.failures import NO_CHOICE, QUERY_FAILED, StatesError
from lokki.emulator.states.fields import Fields
from lokki.emulator.states.rules import NO_RULES, ErrorRules
from lokki.emulator.states.state import Frame, LevelReader, Visit
from lokki.emulator.states.transition import Transition, read_assign
from lokki.errors import EmulatorError


@dataclass(frozen=True, slots=True)
class Choice:
    """Conditions with where they lead, tried in order.

    ``default`` is None where one of the conditions has to hold.
    """

    name: str
    branches: tuple[tuple[str, Transition], ...]
    default: Transition | None
    rules: ErrorRules = NO_RULES

    @classmethod
    def read(cls, name: str, fields: Fields, level: LevelReader) -> Choice:
        """Read the state."""
        branches = fields.objects("Choices")
        if not branches:
            raise EmulatorError(f"{fields.where}: Choices is empty; it needs at least one rule.")
        default = Transition(fields.text("Default")) if "Default" in fields else None
        return cls(name, tuple(map(_read_branch, branches)), default)

    def transitions(self) -> Iterator[Transition]:
        """Yield where the conditions and the default lead."""
        yield from (transition for _, transition in self.branches)
        if self.default is not None:
            yield self.default

    def run(self, visit: Visit) -> tuple[Transition, Frame]:
        """Evaluate the conditions until one holds."""
        for condition, transition in self.branches:
            holds = visit.fill(condition, "Condition")
            if not isinstance(holds, bool):  # JSONata would take 0 and "" for false; Step Functions takes neither
                raise StatesError(QUERY_FAILED, f"The condition '{condition}' of {self.name} is no boolean.")
            if holds:
                return transition, visit.frame
        if self.default is None:
            raise StatesError(NO_CHOICE, f"No condition of the state '{self.name}' holds, and it has no Default.")
        return self.default, visit.frame


def _read_branch(fields: Fields) -> tuple[str, Transition]:
    fields.comment()
    condition = fields.text("Condition")
    if not is_expression(condition):
        raise EmulatorError(f"{fields.where}: Condition is {condition!r}, which is no JSONata expression.")
    transition = Transition(fields.text("Next"), fields.optional("Output"), read_assign(fields))
    fields.end()
    return condition, transition
