"""The numbers that fields of a definition may have, each with the page that says so.

A number that is written in the definition is refused before anything runs, as by CreateStateMachine; one that an
expression gives fails its state with States.QueryEvaluationError
(https://docs.aws.amazon.com/step-functions/latest/dg/transforming-data.html, "value out of range").
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from lokki.base.quotas import LONGEST_RETRY_DELAY, LONGEST_TIMEOUT, STATE_BYTES
from lokki.base.values import Json


@dataclass(frozen=True, slots=True)
class Range:
    """The numbers from ``least`` to ``most``, both included.

    ``whole``: without a fraction.
    """

    least: int
    most: int = LONGEST_TIMEOUT
    whole: bool = True

    def has(self, value: Json) -> bool:
        """Tell whether a value is a number of the range.

        >>> [Range(1, 5).has(value) for value in (0, 1, 5, 6, 2.5, 2.0, True, "2", None)]
        [False, True, True, False, False, True, False, False, False]
        """
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        return self.least <= value <= self.most and (not self.whole or value == int(value))

    def __str__(self) -> str:
        """Say which numbers they are."""
        return f"a {'whole ' if self.whole else ''}number from {self.least:,} to {self.most:,}"


RANGES: Final[Mapping[str, Range]] = {
    # https://docs.aws.amazon.com/step-functions/latest/dg/state-task.html and statemachine-structure.html
    "TimeoutSeconds": Range(1),
    # https://docs.aws.amazon.com/step-functions/latest/dg/concepts-error-handling.html
    "IntervalSeconds": Range(1),
    "MaxAttempts": Range(0),
    "BackoffRate": Range(1, whole=False),
    "MaxDelaySeconds": Range(1, LONGEST_RETRY_DELAY),
    # https://docs.aws.amazon.com/step-functions/latest/dg/state-map-distributed.html and, for the least and the most,
    # https://docs.aws.amazon.com/step-functions/latest/apireference/API_UpdateMapRun.html
    "MaxConcurrency": Range(0),
    "ToleratedFailureCount": Range(0),
    "ToleratedFailurePercentage": Range(0, 100, whole=False),
    # https://docs.aws.amazon.com/step-functions/latest/dg/input-output-itembatcher.html
    "MaxItemsPerBatch": Range(1),
    "MaxInputBytesPerBatch": Range(1, STATE_BYTES),
    # https://docs.aws.amazon.com/step-functions/latest/dg/input-output-itemreader.html
    "MaxItems": Range(1, 100_000_000),
}
"""By field; the names are the same wherever a field stands."""
