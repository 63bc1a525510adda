"""Errors of states: their names, which rules match them, and how long to wait for a retry.

https://docs.aws.amazon.com/step-functions/latest/dg/concepts-error-handling.html
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

ALL = "States.ALL"
TASK_FAILED = "States.TaskFailed"
TIMEOUT = "States.Timeout"
DATA_LIMIT = "States.DataLimitExceeded"
RUNTIME = "States.Runtime"
ITEM_READER_FAILED = "States.ItemReaderFailed"
RESULT_WRITER_FAILED = "States.ResultWriterFailed"
THRESHOLD = "States.ExceedToleratedFailureThreshold"
NO_CHOICE = "States.NoChoiceMatched"
QUERY_FAILED = "States.QueryEvaluationError"


class StatesError(Exception):
    """A state failed.

    * ``error``: the error's name, which rules of Retry and Catch match.
    * ``cause``: why, in words or as a function's JSON.
    """

    def __init__(self, error: str, cause: str = "") -> None:
        super().__init__(f"{error}: {cause}" if cause else error)
        self.error = error
        self.cause = cause


class ExecutionTimeoutError(StatesError):
    """The whole execution ran out of time, which no rule matches."""

    def __init__(self, cause: str = "") -> None:
        super().__init__(TIMEOUT, cause)


def matches(error: StatesError, names: Sequence[str]) -> bool:
    """Tell whether a rule for these names is for this error.

    ``States.ALL`` matches all but ``States.DataLimitExceeded``, ``States.TaskFailed`` all but that and
    ``States.Timeout``; other names are compared with case. Nothing matches ``States.Runtime``.
    """
    if isinstance(error, ExecutionTimeoutError) or error.error == RUNTIME:
        return False
    if error.error in names:
        return True
    if error.error == DATA_LIMIT:  # States.ALL and States.TaskFailed do not stand for it; its own name does
        return False
    return ALL in names or (TASK_FAILED in names and error.error != TIMEOUT)


@dataclass(frozen=True, slots=True)
class Retrier:
    """One rule of a state's ``Retry``.

    * ``interval``, ``max_delay``: seconds.
    * ``attempts``: how many retries, the first try not counted.
    """

    errors: tuple[str, ...]
    interval: int = 1
    attempts: int = 3
    backoff: float = 2.0
    max_delay: int | None = None
    jitter: bool = False

    def wait(self, retried: int, chance: float) -> float:
        """Return the seconds before the next try.

        * ``retried``: how many retries this rule has made.
        * ``chance``: a number from 0 to 1, for jitter.

        >>> rule = Retrier(("ErrorA",), interval=3, backoff=2.0, max_delay=10)
        >>> [rule.wait(n, 0.5) for n in (0, 1, 2)]
        [3.0, 6.0, 10.0]
        """
        longest = float("inf") if self.max_delay is None else float(self.max_delay)
        try:  # a backoff of many attempts may be more than a float has room for
            delay = min(self.interval * self.backoff**retried, longest)
        except OverflowError:
            delay = longest
        return delay * chance if self.jitter else delay
