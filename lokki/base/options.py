"""What a user may set on steps, map blocks and flows."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from lokki.base.quotas import (
    FUNCTION_SECONDS,
    LEAST_DISK,
    LEAST_MEMORY,
    MOST_DISK,
    MOST_MEMORY,
)
from lokki.base.variables import variables_problem
from lokki.errors import FlowError

if TYPE_CHECKING:
    from datetime import date

    from lokki.base.access import Permission, Resource
    from lokki.base.starts import Start

type Executor = Literal["threads", "processes", "inline"]
"""Where the items of map blocks run on this machine; see `LocalRunner`."""


@dataclass(frozen=True, slots=True)
class Retry:
    """When and how often a step that raised is tried again.

    ``attempts`` counts every try, the first included (1 to 100). Between tries passes ``delay`` seconds, times
    ``backoff`` after each, at most ``max_delay``. Only exceptions that are instances of a class in ``on`` are tried
    again; the default is every ``Exception``. Works locally and deployed. Deployed, Step Functions counts in whole
    seconds, so a delay is rounded up there, and it matches errors by class name, which the handler sees to.

    Raises FlowError for values that make no sense.
    """

    attempts: int = 3
    delay: float = 1.0
    backoff: float = 2.0
    max_delay: float = 60.0
    on: tuple[type[Exception], ...] = (Exception,)

    def __post_init__(self) -> None:
        if type(self.attempts) is not int or not 1 <= self.attempts <= 100:
            raise FlowError(
                f"Retry(attempts={self.attempts!r}): give the number of tries, 1 to 100, the first included."
            )
        for name, least in (("delay", 0.0), ("backoff", 1.0), ("max_delay", 0.0)):
            value = getattr(self, name)
            if not _is_number(value) or value < least:
                raise FlowError(f"Retry({name}={value!r}): give a number of at least {least:g}.")
        if (
            not isinstance(self.on, tuple)
            or not self.on
            or not all(isinstance(kind, type) and issubclass(kind, Exception) for kind in self.on)
        ):
            raise FlowError(f"Retry(on={self.on!r}): give classes of exceptions, such as on=(ConnectionError,).")

    def matches(self, error: BaseException) -> bool:
        """Tell whether this error is one to try again on."""
        return isinstance(error, self.on)

    def wait(self, failed_attempts: int) -> float:
        """Return the seconds to wait before the next try.

        ``failed_attempts``: how many tries have failed, 1 or more.

        >>> [Retry(delay=1, backoff=3, max_delay=10).wait(n) for n in (1, 2, 3, 4)]
        [1, 3, 9, 10]
        """
        try:
            return min(self.delay * self.backoff ** (failed_attempts - 1), self.max_delay)
        except OverflowError:
            return self.max_delay if self.delay else 0.0


@dataclass(frozen=True, slots=True)
class StepOptions:
    """The options of ``@step``.

    Each is described there, and checked here when the value is made.
    """

    memory: int | None = None
    timeout: float | None = None
    retry: Retry | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    dependencies: tuple[str, ...] = ()
    disk: int | None = None
    memory_max: int | None = None
    permissions: tuple[Permission, ...] = ()
    secrets: Mapping[str, str] = field(default_factory=dict)
    layers: tuple[str, ...] = ()
    reserved_concurrency: int | None = None
    resources: Mapping[str, Resource] = field(default_factory=dict)
    seconds: float | None = None

    def __post_init__(self) -> None:
        self._check_sizes()
        if self.seconds is not None and (not _is_number(self.seconds) or self.seconds <= 0):
            raise FlowError(f"@step(seconds={self.seconds!r}): give the seconds that one call takes, above 0.")
        if self.timeout is not None and (not _is_number(self.timeout) or not 0 < self.timeout <= FUNCTION_SECONDS):
            raise FlowError(
                f"@step(timeout={self.timeout!r}): give seconds, above 0 and at most {FUNCTION_SECONDS}, Lambda's "
                "longest."
            )
        if self.retry is not None and not isinstance(self.retry, Retry):
            raise FlowError(f"@step(retry={self.retry!r}): give a Retry, such as retry=Retry(attempts=3).")
        if not isinstance(self.env, Mapping) or not all(
            isinstance(name, str) and isinstance(value, str) for name, value in self.env.items()
        ):
            raise FlowError(f"@step(env={self.env!r}): give a dict of strings, such as env={{'REGION': 'eu-north-1'}}.")
        if problem := variables_problem(self.env):
            raise FlowError(f"@step(env=…): {problem}")
        if not all(isinstance(requirement, str) for requirement in self.dependencies):
            raise FlowError(
                f"@step(dependencies={self.dependencies!r}): give a list, such as dependencies=['pandas>=2']."
            )
        if self.permissions:
            self._check_permissions()
        if self.secrets:
            self._check_secrets()
        if self.layers:
            self._check_layers()
        if self.resources and (problem := variables_problem(dict.fromkeys(self.resources, ""))):
            raise FlowError(f"@step(env=…): {problem}")
        object.__setattr__(self, "env", dict(self.env))
        object.__setattr__(self, "secrets", dict(self.secrets))

    def _check_permissions(self) -> None:
        # Only here: most functions have none, and start without it.
        from lokki.base.access import Allow, Read, Write

        for permission in self.permissions:
            if not isinstance(permission, Read | Write | Allow):
                raise FlowError(
                    f'@step(permissions=[{permission!r}]): give Read("s3://…"), Write("s3://…") or '
                    'Allow("service:Action", "arn:…"), which lokki has.'
                )

    def _check_secrets(self) -> None:
        # Only here, as above.
        from lokki.base.access import secret_problem

        if not isinstance(self.secrets, Mapping):
            raise FlowError(
                "@step(secrets=…): give a dict of variables and where their values are, such as "
                "secrets={'API_TOKEN': 'prod/api-token'}."
            )
        for name, source in self.secrets.items():
            # The source is not shown: what is wrong with it may be that it is the value.
            if problem := variables_problem({name: ""}) if isinstance(name, str) else "a variable's name is a text.":
                raise FlowError(f"@step(secrets=…): {problem}")
            if problem := secret_problem(source):
                raise FlowError(f"@step(secrets=…): {name}: {problem}.")
            if name in self.env:
                raise FlowError(f"@step(env=…, secrets=…): both set {name}. Keep one.")

    def _check_layers(self) -> None:
        # Only here, as above.
        from lokki.base.access import layer_problem

        for layer in self.layers:
            if problem := layer_problem(layer):
                raise FlowError(f"@step(layers=[{layer!r}]): {problem}.")

    def _check_sizes(self) -> None:
        reserved = self.reserved_concurrency
        if reserved is not None and (type(reserved) is not int or reserved < 1):
            raise FlowError(f"@step(reserved_concurrency={reserved!r}): give a whole number of at least 1.")
        for name, least, most in (
            ("memory", LEAST_MEMORY, MOST_MEMORY),
            ("memory_max", LEAST_MEMORY, MOST_MEMORY),
            ("disk", LEAST_DISK, MOST_DISK),
        ):
            size = getattr(self, name)
            if size is not None and (type(size) is not int or not least <= size <= most):
                raise FlowError(
                    f"@step({name}={size!r}): give whole megabytes, {least} to {most}, as AWS Lambda offers."
                )
        if self.memory is not None and self.memory_max is not None and self.memory_max <= self.memory:
            raise FlowError(
                f"@step(memory={self.memory}, memory_max={self.memory_max}): memory_max is for another try after one "
                "that ran out of memory: give more than memory."
            )


@dataclass(frozen=True, slots=True)
class MapOptions:
    """The options of ``.map``.

    Each is described there, and checked here when the value is made.
    """

    concurrency: int | None = None
    batch: int | None = None
    tolerate: int | float | None = None

    def __post_init__(self) -> None:
        for name in ("concurrency", "batch"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                raise FlowError(f".map({name}={value!r}): give a whole number of at least 1.")
        tolerate = self.tolerate
        if tolerate is not None and not (
            (type(tolerate) is int and tolerate >= 0) or (type(tolerate) is float and 0.0 <= tolerate <= 1.0)
        ):
            raise FlowError(
                f".map(tolerate={tolerate!r}): give how many items may fail, as a number (tolerate=5) "
                "or as a share (tolerate=0.05)."
            )

    def too_many(self, failed: int, total: int) -> bool:
        """Tell whether more items failed than are tolerated.

        >>> MapOptions().too_many(1, 100), MapOptions(tolerate=0.05).too_many(5, 100)
        (True, False)
        """
        if type(self.tolerate) is float:
            # The quotient is rounded as the literal was: 29 of 100 is 0.29, while 0.29 * 100 is less than 29.
            return failed > 0 and failed / total > self.tolerate
        return failed > (self.tolerate or 0)


@dataclass(frozen=True, slots=True)
class FlowOptions:
    """The options of ``@flow``.

    Each is described there, and checked here when the value is made.
    """

    schedule: str | None = None
    timezone: str | None = None
    timeout: float | None = None
    on: tuple[Start, ...] = ()
    schedule_start: date | None = None
    schedule_end: date | None = None
    max_cost: float | None = None

    def __post_init__(self) -> None:
        # https://docs.aws.amazon.com/scheduler/latest/UserGuide/schedule-types.html
        if self.schedule is not None and not (
            isinstance(self.schedule, str)
            and re.fullmatch(r"rate\([1-9][0-9]* (minute|hour|day)s?\)|cron\(\S+( \S+){5}\)", self.schedule)
        ):
            raise FlowError(
                f"@flow(schedule={self.schedule!r}): give 'rate(1 hour)' or 'cron(0 6 * * ? *)' "
                "(minutes, hours, day of month, month, day of week, year)."
            )
        if self.timezone is not None and not (isinstance(self.timezone, str) and self.timezone):
            raise FlowError(f"@flow(timezone={self.timezone!r}): give a time zone's name, such as 'Europe/Helsinki'.")
        if self.timezone is not None and self.schedule is None:
            raise FlowError("@flow(timezone=…) is the time zone of a schedule: give schedule= too.")
        if self.schedule_start is not None or self.schedule_end is not None:
            self._check_period()
        if self.timeout is not None and (not _is_number(self.timeout) or self.timeout <= 0):
            raise FlowError(f"@flow(timeout={self.timeout!r}): give the seconds that a whole run may take, above 0.")
        if self.max_cost is not None and (not _is_number(self.max_cost) or self.max_cost <= 0):
            raise FlowError(f"@flow(max_cost={self.max_cost!r}): give the dollars that one run may cost, above 0.")

    def _check_period(self) -> None:
        # Only here: most flows have no schedule, and start without it.
        from lokki.base.starts import utc_moment

        if self.schedule is None:
            raise FlowError("@flow(schedule_start=…, schedule_end=…) are of a schedule: give schedule= too.")
        bounds = [moment for moment in (self.schedule_start, self.schedule_end) if moment is not None]
        moments = [utc_moment(moment, self.timezone) for moment in bounds]
        if moments != sorted(set(moments)):
            raise FlowError("@flow(schedule_start=…, schedule_end=…): the schedule ends before it starts.")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
