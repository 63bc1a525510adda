"""Where a state leads: its Next or End, with Output and Assign.

https://docs.aws.amazon.com/step-functions/latest/dg/statemachine-structure.html
"""

from __future__ import annotations

from dataclasses import dataclass

from lokki.base.quotas import STATE_NAME_LENGTH
from lokki.base.values import Json
from lokki.emulator.states.fields import Fields
from lokki.errors import EmulatorError


@dataclass(frozen=True, slots=True)
class Transition:
    """One way out of a state.

    * ``next``: the name of the next state, or None at the end of the execution.
    * ``output``: the template of the state's output; None hands the result on.
    * ``assign``: templates of variables, by name.
    """

    next: str | None
    output: tuple[Json] | None = None
    assign: dict[str, Json] | None = None


def read_transition(fields: Fields) -> Transition:
    """Read the way out that every state but Choice and Fail has."""
    target = fields.text("Next") if "Next" in fields else None
    if (target is not None) == fields.flag("End"):
        raise EmulatorError(f"{fields.where}: it needs either Next, the name of a state, or End: true.")
    return Transition(target, fields.optional("Output"), read_assign(fields))


def read_assign(fields: Fields) -> dict[str, Json] | None:
    """Read the variables that a state assigns.

    https://docs.aws.amazon.com/step-functions/latest/dg/workflow-variables.html
    """
    if "Assign" not in fields:
        return None
    assign = fields.mapping("Assign")
    for name in assign:
        if name == "states" or not name.isidentifier() or len(name) > STATE_NAME_LENGTH:
            raise EmulatorError(
                f"{fields.where}: Assign: {name!r} is no name of a variable: those are identifiers of up to "
                f"{STATE_NAME_LENGTH} characters, and 'states' is Step Functions' own."
            )
    return assign
