"""``Retry`` and ``Catch`` of a state, read and checked.

https://docs.aws.amazon.com/step-functions/latest/dg/concepts-error-handling.html
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lokki.emulator.failures import ALL, Retrier
from lokki.emulator.fields import Fields
from lokki.errors import EmulatorError

_MOST = 99_999_999
_LONGEST_DELAY = 31_622_399


@dataclass(frozen=True, slots=True)
class Catcher[After]:
    """One rule of a state's ``Catch``: for these errors the execution goes on elsewhere."""

    errors: tuple[str, ...]
    after: After


def read_retriers(fields: Fields) -> tuple[Retrier, ...]:
    """Read ``Retry``. Raises EmulatorError for values that AWS refuses."""
    rules = []
    for each in fields.objects("Retry"):
        each.ignore("Comment")
        interval, attempts = each.number("IntervalSeconds", 1, _MOST), each.number("MaxAttempts", 0, _MOST)
        backoff, longest = each.number("BackoffRate", 1, _MOST), each.number("MaxDelaySeconds", 1, _LONGEST_DELAY)
        jitter = each.one_of("JitterStrategy", ("FULL", "NONE"), default="NONE")
        rule = Retrier(
            _errors(each),
            1 if interval is None else int(interval),
            3 if attempts is None else int(attempts),
            2.0 if backoff is None else float(backoff),
            None if longest is None else int(longest),
            jitter == "FULL",
        )
        if rule.max_delay is not None and rule.max_delay <= rule.interval:
            raise EmulatorError(f"{each.where}: MaxDelaySeconds must be more than IntervalSeconds.")
        each.end()
        rules.append(rule)
    _check_all([rule.errors for rule in rules], fields.where)
    return tuple(rules)


def read_catchers[After](fields: Fields, read_after: Callable[[Fields], After]) -> tuple[Catcher[After], ...]:
    """Read ``Catch``. Raises EmulatorError for values that AWS refuses."""
    rules = []
    for each in fields.objects("Catch"):
        each.ignore("Comment")
        each.text("Next")
        rules.append(Catcher(_errors(each), read_after(each)))
        each.end()
    _check_all([rule.errors for rule in rules], fields.where)
    return tuple(rules)


def _errors(fields: Fields) -> tuple[str, ...]:
    names = fields.value("ErrorEquals")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise EmulatorError(f"{fields.where}: ErrorEquals is {names!r}, not a list of names of errors.")
    return tuple(map(str, names))


def _check_all(rules: Sequence[tuple[str, ...]], where: str) -> None:
    for number, errors in enumerate(rules):
        if ALL in errors and (len(errors) > 1 or number < len(rules) - 1):
            raise EmulatorError(f"{where}: {ALL} must stand alone, in the last rule.")
