"""``Retry`` and ``Catch`` of a state, read and checked.

https://docs.aws.amazon.com/step-functions/latest/dg/concepts-error-handling.html
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lokki.emulator.states.failures import ALL, RUNTIME, Retrier
from lokki.emulator.states.fields import Fields
from lokki.emulator.states.transition import Transition, read_transition
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
class Catcher:
    """One rule of a state's ``Catch``: where these errors lead."""

    errors: tuple[str, ...]
    transition: Transition


@dataclass(frozen=True, slots=True)
class ErrorRules:
    """What happens when a state fails: it is tried again, or leads elsewhere."""

    retry: tuple[Retrier, ...] = ()
    catch: tuple[Catcher, ...] = ()


NO_RULES = ErrorRules()
"""For states that have neither Retry nor Catch: their errors fail the execution."""


def read_rules(fields: Fields) -> ErrorRules:
    """Read ``Retry`` and ``Catch``.

    Raises EmulatorError for values that AWS refuses.
    """
    retriers = tuple(map(_read_retrier, fields.objects("Retry")))
    catchers = tuple(map(_read_catcher, fields.objects("Catch")))
    _check_all([rule.errors for rule in retriers], fields.where)
    _check_all([rule.errors for rule in catchers], fields.where)
    return ErrorRules(retriers, catchers)


def _read_retrier(fields: Fields) -> Retrier:
    fields.comment()
    backoff, longest = fields.number("BackoffRate"), fields.number("MaxDelaySeconds")
    jitter = fields.one_of("JitterStrategy", ("FULL", "NONE"), default="NONE")
    rule = Retrier(
        _errors(fields),
        fields.whole("IntervalSeconds", 1),
        fields.whole("MaxAttempts", 3),
        2.0 if backoff is None else float(backoff),
        None if longest is None else int(longest),
        jitter == "FULL",
    )
    if rule.max_delay is not None and rule.max_delay <= rule.interval:
        raise EmulatorError(f"{fields.where}: MaxDelaySeconds must be more than IntervalSeconds.")
    fields.end()
    return rule


def _read_catcher(fields: Fields) -> Catcher:
    fields.comment()
    fields.text("Next")
    if "End" in fields:
        raise EmulatorError(f"{fields.where}: a rule of Catch has Next, and no End.")
    rule = Catcher(_errors(fields), read_transition(fields))
    fields.end()
    return rule


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
