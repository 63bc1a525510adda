"""An account's limit on concurrent executions: Lambda refuses what is invoked beyond it.

https://docs.aws.amazon.com/lambda/latest/dg/lambda-concurrency.html: each invocation that is being worked on counts, of
whichever function; one more is answered with 429, which Step Functions reports as Lambda.TooManyRequestsException
(https://docs.aws.amazon.com/step-functions/latest/dg/bp-lambda-serviceexception.html).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from lokki.emulator.states.services import Caller, FunctionReply, Functions, ServiceError

THROTTLED = ("Lambda.TooManyRequestsException", "Rate Exceeded. (Service: Lambda, Status Code: 429)")
"""The error's name and cause."""


class ThrottledFunctions:
    """Functions of an account with a limit on concurrency."""

    def __init__(self, functions: Functions, concurrency: int) -> None:
        self._functions = functions
        self._concurrency = concurrency
        self._running = 0
        self._lock = threading.Lock()

    def invoke(self, function: str, payload: bytes, timeout: float, caller: Caller) -> FunctionReply:
        """Invoke a function, or refuse to.

        Raises ServiceError.
        """
        with self._counted():
            return self._functions.invoke(function, payload, timeout, caller)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        with self._lock:
            if self._running >= self._concurrency:
                raise ServiceError(*THROTTLED)
            self._running += 1
        try:
            yield
        finally:
            with self._lock:
                self._running -= 1
