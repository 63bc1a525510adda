"""What AWS charges and where its limits are, with the page that says so and the day on which it was read.

On-demand prices in us-east-1, in US dollars, above the free tiers and before any discount; other regions cost more.

They were read in stored copies of the pages, not on the live ones: of AWS's own for Step Functions and for the quotas
of Lambda, of pages that quote AWS for Lambda and S3. How fast child executions start is what lokki's design says.
Compare them with the pages before much depends on them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lokki.base import quotas

READ = "2026-11-23"
"""The day on which the pages were read."""

_STEP_FUNCTIONS = "https://aws.amazon.com/step-functions/pricing/"
_LAMBDA = "https://aws.amazon.com/lambda/pricing/"
_S3 = "https://aws.amazon.com/s3/pricing/"
_STEP_FUNCTIONS_QUOTAS = "https://docs.aws.amazon.com/step-functions/latest/dg/service-quotas.html"
_LAMBDA_QUOTAS = "https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html"


@dataclass(frozen=True, slots=True)
class Price:
    """Dollars for a number of units.

    ``tiers``: from which number of units on in a month another price holds, and which.

    >>> Price("transitions", 0.025, 1000, "").of(2_000_000)
    50.0
    >>> Price("GB-hours", 0.06, 1, "", ((1000, 0.03),)).of(1500)
    75.0
    """

    unit: str
    dollars: float
    per: int
    source: str
    tiers: tuple[tuple[float, float], ...] = ()

    def of(self, quantity: float) -> float:
        """Return what so many units cost in a month in which nothing else is used."""
        starts = (0.0, *(start for start, _ in self.tiers))
        prices = (self.dollars, *(dollars for _, dollars in self.tiers))
        ends = (*starts[1:], float("inf"))
        parts = (
            max(0.0, min(quantity, end) - start) * dollars / self.per
            for start, end, dollars in zip(starts, ends, prices, strict=True)
        )
        return sum(parts)


@dataclass(frozen=True, slots=True)
class AccountLimit:
    """A limit of AWS and what it bounds."""

    value: float
    unit: str
    what: str
    source: str


TRANSITIONS = Price("state transitions", 0.025, 1000, _STEP_FUNCTIONS)
"""Of STANDARD executions; each entry of a state, and each start of a map's child execution, is one:
https://docs.aws.amazon.com/step-functions/latest/dg/concepts-transitions.html"""

EXPRESS_REQUESTS = Price("EXPRESS executions", 1.00, 1_000_000, _STEP_FUNCTIONS)

EXPRESS_DURATION = Price("EXPRESS GB-hours", 0.06, 1, _STEP_FUNCTIONS, ((1_000, 0.03), (5_000, 0.01642)))
"""Of 64 MB steps and 100 ms steps; the first 1,000 GB-hours of a month, the next 4,000, all others."""

LAMBDA_REQUESTS = Price("Lambda requests", 0.20, 1_000_000, _LAMBDA)

LAMBDA_DURATION: Mapping[str, Price] = {
    "x86_64": Price("Lambda GB-seconds", 0.0000166667, 1, _LAMBDA, ((6e9, 0.000015), (15e9, 0.0000133334))),
    "arm64": Price(
        "Lambda GB-seconds (arm64)", 0.0000133334, 1, _LAMBDA, ((7.5e9, 0.0000120001), (18.75e9, 0.0000106667))
    ),
}
"""By architecture; billed by the millisecond."""

S3_PUTS = Price("S3 PUT requests", 0.005, 1000, _S3)
S3_GETS = Price("S3 GET requests", 0.0004, 1000, _S3)

PRICES = (
    TRANSITIONS,
    EXPRESS_REQUESTS,
    EXPRESS_DURATION,
    LAMBDA_REQUESTS,
    *LAMBDA_DURATION.values(),
    S3_PUTS,
    S3_GETS,
)

EXPRESS_MEMORY = 64
"""Megabytes in which the memory of an EXPRESS execution is billed: it takes 50 and what it holds, so 64 here."""
EXPRESS_TICK = 0.1
"""Seconds in which the duration of an EXPRESS execution is billed."""

STATE_BYTES = AccountLimit(quotas.STATE_BYTES, "bytes", "the input and the output of a state", _STEP_FUNCTIONS_QUOTAS)
HISTORY_EVENTS = AccountLimit(
    quotas.HISTORY_EVENTS, "events", "the history of a STANDARD execution", _STEP_FUNCTIONS_QUOTAS
)
CHILDREN_AT_ONCE = AccountLimit(
    quotas.CHILDREN_AT_ONCE, "executions", "child executions of a map at one time", _STEP_FUNCTIONS_QUOTAS
)
STANDARD_STARTS = AccountLimit(
    quotas.STANDARD_STARTS, "per second", "starts of STANDARD child executions", _STEP_FUNCTIONS_QUOTAS
)
EXPRESS_STARTS = AccountLimit(
    quotas.EXPRESS_STARTS, "per second", "starts of EXPRESS child executions", _STEP_FUNCTIONS_QUOTAS
)
EXPRESS_SECONDS = AccountLimit(quotas.EXPRESS_SECONDS, "seconds", "an EXPRESS execution", _STEP_FUNCTIONS_QUOTAS)
FUNCTION_SECONDS = AccountLimit(quotas.FUNCTION_SECONDS, "seconds", "an invocation of a function", _LAMBDA_QUOTAS)
FUNCTION_MEMORY = AccountLimit(quotas.MOST_MEMORY, "MB", "the memory of a function", _LAMBDA_QUOTAS)
FUNCTION_PAYLOAD = AccountLimit(
    quotas.FUNCTION_PAYLOAD_BYTES, "bytes", "the event and the reply of a function", _LAMBDA_QUOTAS
)
FUNCTIONS_AT_ONCE = AccountLimit(
    quotas.FUNCTIONS_AT_ONCE, "invocations", "functions of an account at one time, unless raised", _LAMBDA_QUOTAS
)
PUTS_PER_PREFIX = AccountLimit(
    quotas.PUTS_PER_PREFIX,
    "per second",
    "PUT requests below one prefix of a bucket",
    "https://docs.aws.amazon.com/AmazonS3/latest/userguide/optimizing-performance.html",
)

LIMITS = (
    STATE_BYTES,
    HISTORY_EVENTS,
    CHILDREN_AT_ONCE,
    STANDARD_STARTS,
    EXPRESS_STARTS,
    EXPRESS_SECONDS,
    FUNCTION_SECONDS,
    FUNCTION_MEMORY,
    FUNCTION_PAYLOAD,
    FUNCTIONS_AT_ONCE,
    PUTS_PER_PREFIX,
)
