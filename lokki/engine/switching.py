"""Which case of a switch runs, decided from what its step returned; here and on Lambda alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps

from lokki.errors import NoCaseError
from lokki.plans.operations import CaseValue, case_value


def choose_case(cases: Sequence[CaseValue], value: object, step: str) -> int:
    """Return the position of the case for a value.

    ``cases``: their values, None for the default. True is no 1, and 1 is no "1".

    Raises NoCaseError where there is neither a case for the value nor a default.
    """
    chosen = case_value(value)
    for position, case in enumerate(cases):
        if case is not None and type(case) is type(chosen) and case == chosen:
            return position
    if None in cases:
        return cases.index(None)
    listed = ", ".join(map(repr, cases))
    raise NoCaseError(
        f"{step}() returned {value!r}, for which its switch has no case ({listed}). Add one, or default=."
    )


def choosing(fn: Callable[..., object], cases: Sequence[CaseValue], step: str) -> Callable[..., object]:
    """Return a function that fails where its result has no case.

    So this is a failure of the step.
    """

    @wraps(fn)
    def call(*args: object, **kwargs: object) -> object:
        result = fn(*args, **kwargs)
        choose_case(cases, result, step)
        return result

    return call
