"""Retry rules of tasks: the step's own, by the names of its errors, and those for Lambda's own failures.

https://docs.aws.amazon.com/step-functions/latest/dg/concepts-error-handling.html
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from lokki.errors import StepTimeoutError, WorkerError
from lokki.options import Retry
from lokki.values import Json

_LONGEST_DELAY = 31_622_399
"""MaxDelaySeconds must be below 31,622,400."""

SERVICE_ERRORS = (
    "Lambda.ServiceException",
    "Lambda.AWSLambdaException",
    "Lambda.SdkClientException",
    "Lambda.ClientExecutionTimeoutException",
    "Lambda.TooManyRequestsException",
)
"""Failures of Lambda itself, which pass: https://docs.aws.amazon.com/step-functions/latest/dg/bp-lambda-serviceexception.html"""

_STANDARD_RETRIES = 20
"""Up to 15 minutes, so that a map without a bound on concurrency outlasts an account's throttling."""

_EXPRESS_RETRIES = 6
"""Up to a minute: an EXPRESS execution has five in all."""


@dataclass(frozen=True, slots=True)
class RetryRule:
    """One entry of a task's ``Retry``; ``interval`` and ``max_delay`` in seconds, ``retries`` without the first try."""

    errors: tuple[str, ...]
    interval: int
    retries: int
    backoff: float
    max_delay: int | None = None
    jitter: bool = False

    def to_asl(self) -> dict[str, Json]:
        """Return the rule as Amazon States Language."""
        rule: dict[str, Json] = {
            "ErrorEquals": list(self.errors),
            "IntervalSeconds": self.interval,
            "MaxAttempts": self.retries,
            "BackoffRate": number(self.backoff),
        }
        if self.max_delay is not None:
            rule["MaxDelaySeconds"] = self.max_delay
        if self.jitter:
            rule["JitterStrategy"] = "FULL"
        return rule

    @property
    def longest_wait(self) -> float:
        """The seconds that pass between tries if all are used up."""
        total, delay = 0.0, float(self.interval)
        for _ in range(self.retries):
            total += delay
            delay = min(delay * self.backoff, self.max_delay or math.inf)
        return total


def step_rule(retry: Retry | None) -> RetryRule | None:
    """Return the rule for a step's own errors; None when there is one try only.

    Step Functions waits whole seconds, at least one, so delays are rounded up; MaxDelaySeconds must be above
    IntervalSeconds, so a delay that cannot grow has neither it nor a backoff.
    """
    if retry is None or retry.attempts == 1:
        return None
    longest = max(1, math.ceil(min(retry.max_delay, _LONGEST_DELAY)))
    interval = max(1, math.ceil(min(retry.delay, longest)))
    grows = retry.delay > 0 and retry.backoff > 1 and longest > interval
    backoff, max_delay = (retry.backoff, longest) if grows else (1.0, None)
    return RetryRule(error_names(retry.on), interval, retry.attempts - 1, backoff, max_delay)


def error_names(kinds: tuple[type[Exception], ...]) -> tuple[str, ...]:
    """Return the names under which Step Functions sees errors that are instances of these classes.

    The handler raises an instance of a subclass under the name of the class here. A timeout and the death of a worker
    are no exceptions of Python's there, and have Lambda's and Step Functions' own names.
    """
    names = [kind.__name__ for kind in kinds]
    if issubclass(StepTimeoutError, kinds):
        names += ["Sandbox.Timedout", "States.Timeout"]
    if issubclass(WorkerError, kinds):
        names += ["Runtime.ExitError"]
    return tuple(dict.fromkeys(names))


def service_rule(*, express: bool) -> RetryRule:
    """Return the rule for Lambda's own failures, with jitter so that throttled invocations do not return at once."""
    retries = _EXPRESS_RETRIES if express else _STANDARD_RETRIES
    return RetryRule(SERVICE_ERRORS, 1, retries, 2.0, max_delay=60, jitter=True)


def number(value: float) -> int | float:
    """Return a number as JSON writes it best: 2 for 2.0."""
    return int(value) if value == int(value) else value
