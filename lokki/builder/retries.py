"""Retry rules of tasks: the step's own, by the names of its errors, and those for Lambda's own failures.

https://docs.aws.amazon.com/step-functions/latest/dg/concepts-error-handling.html
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from lokki.base.options import Retry
from lokki.base.quotas import LONGEST_RETRY_DELAY
from lokki.base.values import Json
from lokki.errors import StepTimeoutError, WorkerError

SERVICE_ERRORS = (
    "Lambda.ServiceException",
    "Lambda.AWSLambdaException",
    "Lambda.SdkClientException",
    "Lambda.ClientExecutionTimeoutException",
    "Lambda.EC2UnexpectedException",
    "Lambda.ResourceConflictException",
    "Lambda.ResourceNotReadyException",
    "Lambda.SnapStartNotReadyException",
    "Lambda.SnapStartTimeoutException",
)
"""Failures of Lambda itself, which pass.
https://docs.aws.amazon.com/step-functions/latest/dg/bp-lambda-serviceexception.html and
https://docs.aws.amazon.com/lambda/latest/api/API_Invoke.html#API_Invoke_Errors"""

THROTTLING_ERRORS = ("Lambda.TooManyRequestsException", "Lambda.EC2ThrottledException")
"""The account runs as many functions as it may: the task waits for its turn."""

OUT_OF_MEMORY = "Runtime.OutOfMemory"
EXIT_ERROR = "Runtime.ExitError"
UNKNOWN = "Lambda.Unknown"
"""Names that the death of a function's process has: the first of memory, the second of anything and in older runtimes
of memory too, the third where Lambda says nothing more.
https://docs.aws.amazon.com/step-functions/latest/dg/bp-lambda-serviceexception.html"""

DEATHS = (OUT_OF_MEMORY, EXIT_ERROR, UNKNOWN)

TIMEOUTS = ("Sandbox.Timedout", "States.Timeout")
"""Names that a function has which took too long, by Lambda's clock and by Step Functions'."""

BATCH_DEATHS = (*DEATHS, *TIMEOUTS)
"""What a function ends with on a batch that may be the fault of one item."""

MOST_DEATHS = 64
"""How often the function of a batch dies while it is searched for the items at fault.

Then they come one by one, or all together in a larger function. It bounds the history of the execution.
"""

_SERVICE_RETRIES = 6
"""Up to a minute."""

_THROTTLED_RETRIES = 5_000
"""A day and a half of half-minute waits; each is three events, of which a STANDARD execution has 25,000."""

_LONGEST_THROTTLED_DELAY = 1_800
"""Seconds between tries of a task that shares the events of its execution with others."""

_EXPRESS_DELAY = 15
"""Seconds between tries that wait for a free function in an execution that has five minutes."""

THROTTLING_RESERVE = 60
"""Seconds of its five minutes that an EXPRESS child keeps for waiting until the account has a free function."""


@dataclass(frozen=True, slots=True)
class RetryRule:
    """One entry of a task's ``Retry``.

    - ``interval``, ``max_delay``: seconds
    - ``retries``: how many, without the first try
    """

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
    """Return the rule for a step's own errors, None for a single try.

    Step Functions waits whole seconds, at least one, so delays are rounded up; MaxDelaySeconds must be above
    IntervalSeconds, so a delay that cannot grow has neither it nor a backoff.
    """
    if retry is None or retry.attempts == 1:
        return None
    longest = max(1, math.ceil(min(retry.max_delay, LONGEST_RETRY_DELAY)))
    interval = max(1, math.ceil(min(retry.delay, longest)))
    grows = retry.delay > 0 and retry.backoff > 1 and longest > interval
    backoff, max_delay = (retry.backoff, longest) if grows else (1.0, None)
    return RetryRule(error_names(retry.on), interval, retry.attempts - 1, backoff, max_delay)


def only_deaths(rule: RetryRule) -> RetryRule | None:
    """Return a rule for deaths and timeouts alone, None where it has none.

    It is for batches, in which the function itself tries again what a step raised.
    """
    errors = tuple(error for error in rule.errors if error in BATCH_DEATHS)
    return replace(rule, errors=errors) if errors else None


def without_deaths(rule: RetryRule) -> RetryRule:
    """Return a rule in which a death of the function ends its tries.

    It is for a function with a larger one, which then runs what it died of.
    """
    return replace(rule, errors=tuple(error for error in rule.errors if error not in DEATHS))


def error_names(kinds: tuple[type[Exception], ...]) -> tuple[str, ...]:
    """Return the names that Step Functions has for errors of these classes.

    The handler raises an instance of a subclass under the name of the class here. A timeout and the death of a worker
    are no exceptions of Python's there, and have Lambda's and Step Functions' own names.
    """
    names = [kind.__name__ for kind in kinds]
    if issubclass(StepTimeoutError, kinds):
        names += TIMEOUTS
    if issubclass(WorkerError, kinds):
        names += DEATHS
    return tuple(dict.fromkeys(names))


def service_rule() -> RetryRule:
    """Return the rule for Lambda's own failures."""
    return RetryRule(SERVICE_ERRORS, 1, _SERVICE_RETRIES, 2.0, max_delay=60, jitter=True)


def throttling_rule(*, express: bool, side_by_side: int = 1) -> RetryRule:
    """Return the rule for an account that runs as many functions as it may.

    It ends no sooner than its execution. It has jitter, so that invocations that were refused together do not return
    together. Tasks that wait side by side share the events of their execution: each has fewer tries, further apart, so
    that ten of them still wait for a day, and 500 for an hour or two.
    """
    delay = _EXPRESS_DELAY if express else min(60 * side_by_side, _LONGEST_THROTTLED_DELAY)
    retries = max(1, _THROTTLED_RETRIES // side_by_side)
    return RetryRule(THROTTLING_ERRORS, math.ceil(side_by_side / 10), retries, 2.0, max_delay=delay, jitter=True)


def map_rules() -> list[RetryRule]:
    """Return the rules of a map's state.

    They are for failures of S3 while items are read or results are written. A map whose results could not be written
    runs anew, so that is tried less often.
    https://docs.aws.amazon.com/step-functions/latest/dg/concepts-error-handling.html#error-handling-error-representation
    """
    return [
        RetryRule(("States.ItemReaderFailed",), 1, _SERVICE_RETRIES, 2.0, max_delay=60, jitter=True),
        RetryRule(("States.ResultWriterFailed",), 5, 2, 2.0, max_delay=60, jitter=True),
    ]


def number(value: float) -> int | float:
    """Return a number as JSON writes it best, such as 2 for 2.0."""
    return int(value) if value == int(value) else value
