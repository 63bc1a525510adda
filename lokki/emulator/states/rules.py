"""``Retry`` and ``Catch`` of a state, read and checked.

https://docs.aws.amazon.com/step-functions/latest/dg/concepts-error-handling.html
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lokki.emulator.states.failures import ALL, RUNTIME, Retrier
from lokki.emulator.states.fields import Fields
from lokki.errors import EmulatorError

_STATES_ERRORS = {
    "States.ALL", "States.BranchFailed", "States.DataLimitExceeded", "States.ExceedToleratedFailureThreshold",
    "States.HeartbeatTimeout", "States.Http.Socket", "States.IntrinsicFailure", "States.ItemReaderFailed",
    "States.NoChoiceMatched", "States.ParameterPathFailure", "States.Permissions", "States.QueryEvaluationError",
    "States.ResultPathMatchFailure", "States.ResultWriterFailed", "States.TaskFailed", "States.Timeout",
}  # fmt: skip
"""The names of Step Functions' own errors; others may not begin with ``States.``, and no rule is for States.Runtime:
"States.Runtime errors are not retriable, and will always cause the execution to fail"."""


@dataclass(frozen=True, slots=True)
class Catcher[After]:
    """One rule of a state's ``Catch``: for these errors the execution goes on elsewhere."""

    errors: tuple[str, ...]
    after: After


def read_retriers(fields: Fields) -> tuple[Retrier, ...]:
    """Read ``Retry``. Raises EmulatorError for values that AWS refuses."""
    rules = []
    for each in fields.objects("Retry"):
        each.comment()
        backoff, longest = each.number("BackoffRate"), each.number("MaxDelaySeconds")
        jitter = each.one_of("JitterStrategy", ("FULL", "NONE"), default="NONE")
        rule = Retrier(
            _errors(each),
            each.whole("IntervalSeconds", 1),
            each.whole("MaxAttempts", 3),
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
        each.comment()
        each.text("Next")
        if "End" in each:
            raise EmulatorError(f"{each.where}: a rule of Catch has Next, and no End.")
        rules.append(Catcher(_errors(each), read_after(each)))
        each.end()
    _check_all([rule.errors for rule in rules], fields.where)
    return tuple(rules)


def _errors(fields: Fields) -> tuple[str, ...]:
    names = fields.value("ErrorEquals")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise EmulatorError(f"{fields.where}: ErrorEquals is {names!r}, not a list of names of errors.")
    for name in map(str, names):
        if name == RUNTIME:
            raise EmulatorError(f"{fields.where}: no rule is for {RUNTIME}: it always fails the execution.")
        if name.startswith("States.") and name not in _STATES_ERRORS:
            raise EmulatorError(f"{fields.where}: ErrorEquals has {name!r}, which is no error of Step Functions.")
    return tuple(map(str, names))


def _check_all(rules: Sequence[tuple[str, ...]], where: str) -> None:
    for number, errors in enumerate(rules):
        if ALL in errors and (len(errors) > 1 or number < len(rules) - 1):
            raise EmulatorError(f"{where}: {ALL} must stand alone, in the last rule.")
