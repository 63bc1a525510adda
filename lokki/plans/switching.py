"""The cases of a switch, checked against what its step says that it returns."""

from __future__ import annotations

import enum
import typing

from lokki.base import signatures
from lokki.errors import FlowError
from lokki.plans.operations import CaseValue, case_value
from lokki.plans.units import SwitchUnit


def check_cases(unit: SwitchUnit, annotation: object) -> None:
    """Refuse cases that cannot happen, and values without a case.

    ``annotation``: of what the step returns that chooses.
    """
    assert unit.node.choice is not None
    where, on = unit.node.where, unit.node.choice.on.name
    values = [value for value, _ in unit.node.choice.cases]
    has_default = values[-1] is None
    _check_kinds(where, on, values[:-1] if has_default else values)
    cases = [case.value for case in unit.cases if case.value is not None]
    if len(set(map(_key, cases))) < len(cases):
        raise FlowError(f"{where}: the switch on {on}() has two cases for one value. Leave one out.")
    possible, others = _possible(annotation)
    if others and not has_default and not cases_can_match(others):
        raise FlowError(
            f"{where}: {on}() returns {signatures.describe(annotation)}, on which no switch can choose. "
            "Let it return a bool, str, int, Enum or Literal, or give a default=."
        )
    if others:
        return
    keys = {_key(value) for value in possible}
    for value in cases:
        if _key(value) not in keys:
            raise FlowError(
                f"{where}: the case {value!r} cannot happen: {on}() returns {signatures.describe(annotation)}."
            )
    missing = [value for value in possible if _key(value) not in set(map(_key, cases))]
    if missing and not has_default:
        raise FlowError(
            f"{where}: the switch on {on}() has no case for {', '.join(map(repr, missing))}, which it may return "
            f"({signatures.describe(annotation)}). Add one, or default=."
        )


def cases_can_match(others: list[object]) -> bool:
    """Tell whether values of these annotations can have cases."""
    return all(
        part is signatures.UNKNOWN or part is object or not isinstance(part, type) or issubclass(part, bool | int | str)
        for part in others
    )


def _check_kinds(where: str, on: str, values: list[object]) -> None:
    for value in values:
        if not isinstance(value, bool | int | str | enum.Enum):
            raise FlowError(
                f"{where}: the switch on {on}() has a case for {value!r}. Cases are for a bool, an int, a str or a "
                "member of an Enum; default= is for all else."
            )
    kinds = sorted({type(value).__name__ for value in values})
    if len(kinds) > 1:
        raise FlowError(f"{where}: the switch on {on}() has cases of several kinds, {', '.join(kinds)}. Give one kind.")


def _possible(annotation: object) -> tuple[list[CaseValue], list[object]]:
    """Return the values that an annotation lists, and what else it allows."""
    values: list[CaseValue] = []
    others: list[object] = []
    for part in signatures.parts(annotation):
        if part is bool:
            values += [True, False]
        elif isinstance(part, enum.EnumType):
            values += map(case_value, part)
        elif typing.get_origin(part) is typing.Literal and typing.get_args(part) != (None,):
            values += map(case_value, typing.get_args(part))
        else:
            others.append(part)
    return values, others


def _key(value: CaseValue) -> tuple[bool, CaseValue]:
    """Return what tells values apart, since True equals 1 in Python."""
    return isinstance(value, bool), value
