"""What an execution needs from outside, as protocols.

That is functions, objects, time, and a listener for its history. Whoever runs one brings them: the emulator real
processes, a server for S3 and the machine's time, tests doubles.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

from lokki.base.quotas import EXPRESS_SECONDS
from lokki.emulator.states.expressions import Expressions
from lokki.emulator.states.history import HistoryEvent

ACCOUNT = "123456789012"
REGION = "us-east-1"


@dataclass(frozen=True, slots=True)
class FunctionReply:
    """What Lambda answered to an invocation.

    * ``payload``: JSON.
    * ``failed``: whether the payload describes an error of the function.
    * ``version``: which version of the function ran.

    https://docs.aws.amazon.com/lambda/latest/api/API_Invoke.html
    """

    payload: bytes
    failed: bool = False
    version: str = "$LATEST"


class ServiceError(Exception):
    """Lambda itself refused or failed to invoke.

    ``error``: its name, as Step Functions has it.
    """

    def __init__(self, error: str, cause: str) -> None:
        super().__init__(f"{error}: {cause}")
        self.error = error
        self.cause = cause


class InvocationTimeoutError(Exception):
    """The caller's time was up before the function answered.

    The function may go on running, as on AWS.
    """


class EmulationStoppedError(BaseException):
    """The emulation was stopped by the user while something ran or waited."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who invokes a function.

    * ``attempt``: which try of the state it is, from 0.
    * ``index``, ``items``: first index and number of the map's items that it is for, in a child execution.
    """

    execution: str
    state: str
    attempt: int = 0
    index: int | None = None
    items: int = 0


class Functions(Protocol):
    """Lambda functions."""

    def invoke(self, function: str, payload: bytes, timeout: float, caller: Caller) -> FunctionReply:
        """Invoke a function, by its ARN or name, and wait for its reply.

        ``timeout``: seconds to wait at most. Raises ServiceError, InvocationTimeoutError, EmulationStoppedError.
        """


class Objects(Protocol):
    """Objects in S3.

    Both methods raise StoreError.
    """

    def read(self, bucket: str, key: str) -> bytes:
        """Return an object."""

    def write(self, bucket: str, key: str, content: bytes) -> None:
        """Write an object."""


class Clock(Protocol):
    """The time of day, durations and waits."""

    def now(self) -> datetime:
        """Return the time of day, with its zone."""

    def elapsed(self) -> float:
        """Return seconds from some moment on."""

    def wait(self, seconds: float) -> float:
        """Wait, and return how many seconds that really took.

        They are fewer than asked for where time is skipped.
        """


class RealClock:
    """The machine's time.

    * ``stop`` ends a wait with EmulationStoppedError.
    * ``scale``: how much of each wait really passes, from 0.0 for none to 1.0 for all.
    """

    def __init__(self, stop: threading.Event, scale: float = 1.0) -> None:
        self._stop = stop
        self._scale = scale

    def now(self) -> datetime:
        """Return the time of day."""
        return datetime.now(UTC)

    def elapsed(self) -> float:
        """Return seconds from some moment on."""
        return time.monotonic()

    def wait(self, seconds: float) -> float:
        """Wait for the scaled time."""
        if self._stop.wait(seconds * self._scale):  # not sleep: Ctrl-C must end the longest backoff at once
            raise EmulationStoppedError
        return seconds * self._scale


def ignore(event: HistoryEvent) -> None:
    """Listen to nothing."""


@dataclass(frozen=True, slots=True)
class ExecutionSettings:
    """Limits and chance of an execution.

    * ``workers``: child executions at one time at most.
    * ``seed``: that of jitter and ids.
    * ``file_bytes``: size from which result files are split, 5 GB on AWS
      (https://docs.aws.amazon.com/step-functions/latest/dg/input-output-resultwriter.html).
    * ``express_seconds``: the longest that an EXPRESS execution may take
      (https://docs.aws.amazon.com/step-functions/latest/dg/choosing-workflow-type.html).
    """

    workers: int = 8
    seed: str = ""
    file_bytes: int = 5 * 2**30
    express_seconds: float = EXPRESS_SECONDS


@dataclass(frozen=True, slots=True)
class Services:
    """All that an execution uses."""

    functions: Functions
    objects: Objects
    clock: Clock
    listener: Callable[[HistoryEvent], None] = ignore
    settings: ExecutionSettings = field(default_factory=ExecutionSettings)
    expressions: Expressions = field(default_factory=Expressions)
    stop: threading.Event = field(default_factory=threading.Event)
