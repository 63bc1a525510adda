"""Faults of Lambda, decided by a seed: throttled, crashed and doubled invocations.

Lambda may run a function twice for one event:
https://docs.aws.amazon.com/lambda/latest/dg/concepts-event-driven-architectures.html
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import msgspec

from lokki.emulator.chance import chance
from lokki.emulator.functions.throttling import THROTTLED
from lokki.emulator.states.services import Caller, FunctionReply, Functions, ServiceError

_LATEST_CRASH = 0.05


@dataclass(frozen=True, slots=True)
class Rates:
    """How often each fault happens, from 0 to 1."""

    throttled: float = 0.1
    crashed: float = 0.03
    doubled: float = 0.1


class ChaosFunctions:
    """Functions that fail as AWS's do.

    ``kill`` kills the process that works for a caller; None only pretends to. The seed, the execution, the state and
    how often it was tried decide, so that a seed gives the same faults again.
    """

    def __init__(
        self, functions: Functions, seed: str, kill: Callable[[Caller], None] | None = None, rates: Rates | None = None
    ) -> None:
        self._functions = functions
        self._seed = seed
        self._kill = kill
        self._rates = rates or Rates()
        self._tried: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()

    def invoke(self, function: str, payload: bytes, timeout: float, caller: Caller) -> FunctionReply:
        """Invoke a function, or fail."""
        with self._lock:
            tried = self._tried[caller.execution, caller.state]
            self._tried[caller.execution, caller.state] += 1
        subject = (self._seed, caller.execution, caller.state, tried)
        if chance("throttled", *subject) < self._rates.throttled:
            raise ServiceError(*THROTTLED)
        if chance("crashed", *subject) < self._rates.crashed:
            return self._crash(function, payload, timeout, caller, chance("when", *subject))
        if chance("doubled", *subject) < self._rates.doubled:
            return self._double(function, payload, timeout, caller, second=chance("which", *subject) < 0.5)
        return self._functions.invoke(function, payload, timeout, caller)

    def _crash(self, function: str, payload: bytes, timeout: float, caller: Caller, when: float) -> FunctionReply:
        """Let the function work for a while, or to its end, and lose its answer."""
        timer = None
        if self._kill is not None:
            timer = threading.Timer(when * _LATEST_CRASH, self._kill, (caller,))
            timer.start()
        if self._kill is not None or when > 0.5:  # half of those that only pretend have done their work
            self._functions.invoke(function, payload, timeout, caller)
        if timer is not None:
            timer.cancel()  # or it would kill the process in its next invocation
        message = "RequestId: chaos Error: Runtime exited with error: signal: killed"
        return FunctionReply(
            msgspec.json.encode({"errorType": "Runtime.ExitError", "errorMessage": message}), failed=True
        )

    def _double(self, function: str, payload: bytes, timeout: float, caller: Caller, *, second: bool) -> FunctionReply:
        """Run the function twice for one event, and return either reply."""
        with ThreadPoolExecutor(2) as pool:
            both = [pool.submit(self._functions.invoke, function, payload, timeout, caller) for _ in range(2)]
            return both[second].result()
