"""The Lambda functions of a built flow, each in processes of its own, warm ones first."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from concurrent.futures import TimeoutError as NotYetError

from lokki.emulator.functions.process import FunctionProcess, FunctionSpec, Surroundings
from lokki.emulator.states.services import (
    Caller,
    EmulationStoppedError,
    FunctionReply,
    InvocationTimeoutError,
    ServiceError,
)

_SLICE = 0.2
"""Seconds between two looks at whether the emulation was stopped."""

_CHECK = 0.02
"""Seconds between two looks at the time and memory that invocations have used."""


class LambdaFunctions:
    """Invokes functions.

    ``most``: processes at one time; idle ones of other functions make room. A function whose caller's time is up
    goes on running, as on AWS, until its own timeout.
    """

    def __init__(
        self, specs: Iterable[FunctionSpec], surroundings: Surroundings, most: int, stop: threading.Event
    ) -> None:
        self._specs = {spec.arn: spec for spec in specs}
        self._surroundings = surroundings
        self._most = most
        self._stop = stop
        self._lock = threading.Condition()
        self._idle: list[FunctionProcess] = []
        self._all: set[FunctionProcess] = set()
        self._starting = 0
        self._closing: list[threading.Thread] = []
        self._closed = threading.Event()
        self._checker = threading.Thread(target=self._check, name="lokki-limits", daemon=True)
        self._checker.start()

    def put(self, spec: FunctionSpec) -> None:
        """Add a function, or replace the one with the same ARN.

        What runs already ends as it was; the next invocation gets the new one.
        """
        self._specs[spec.arn] = spec

    def spec(self, arn: str) -> FunctionSpec:
        """Return a function by its ARN.

        Raises KeyError.
        """
        return self._specs[arn]

    def invoke(
        self, function: str, payload: bytes, timeout: float, caller: Caller, stop: threading.Event | None = None
    ) -> FunctionReply:
        """Invoke a function and wait for its reply.

        ``stop`` ends this wait alone, and the function goes on running. Raises ServiceError, InvocationTimeoutError,
        EmulationStoppedError.
        """
        stops = (self._stop,) if stop is None else (self._stop, stop)
        spec = self._specs.get(function)
        if spec is None:
            raise ServiceError("Lambda.ResourceNotFoundException", f"Function not found: {function}")
        ends = time.monotonic() + timeout
        process = self._ready_process(spec, ends, stops)
        future = process.begin(payload, caller)
        # In slices: the wait must end when the emulation is stopped, and a future can wait for one thing only.
        while True:
            left = ends - time.monotonic()
            try:
                reply = future.result(min(_SLICE, max(left, 0.0)))
            except NotYetError:
                # Who gives up leaves the function running, and gives the process back when it is done, as Lambda would.
                if any(event.is_set() for event in stops):
                    future.add_done_callback(lambda done: self._give_back(process))
                    raise EmulationStoppedError from None
                if left <= 0:
                    future.add_done_callback(lambda done: self._give_back(process))
                    raise InvocationTimeoutError from None
            else:
                self._give_back(process)
                if reply.failed and self._closed.is_set():
                    raise EmulationStoppedError  # `close` has killed the process
                return FunctionReply(reply.payload, reply.failed, spec.version or reply.version)

    def crash(self, caller: Caller) -> None:
        """Kill the process that works for a caller, if one does."""
        with self._lock:
            working = [process for process in self._all if process.pending is not None and process.caller == caller]
        for process in working:
            process.crash()

    def close(self) -> None:
        """End all processes.

        Invocations that wait raise EmulationStoppedError.
        """
        self._closed.set()
        self._checker.join()
        with self._lock:
            processes, self._all, self._idle = self._all, set(), []
        for process in processes:
            process.close()
        for thread in self._closing:
            thread.join()

    def _ready_process(self, spec: FunctionSpec, ends: float, stops: Iterable[threading.Event]) -> FunctionProcess:
        """Return a warm process, or start one.

        Where there are as many as may be, it takes the place of the longest idle one of another function.
        """
        evicted: FunctionProcess | None = None
        with self._lock:
            while True:
                # The last one that was used: so the others stay idle for longest, and are evicted first.
                warm = next((process for process in reversed(self._idle) if process.spec is spec), None)
                if warm is not None:
                    self._idle.remove(warm)
                    return warm
                if len(self._all) + self._starting < self._most:
                    break
                if self._idle:
                    evicted = self._idle.pop(0)
                    self._all.discard(evicted)
                    break
                self._lock.wait(_SLICE)
                if any(event.is_set() for event in stops):
                    raise EmulationStoppedError
                if time.monotonic() > ends:
                    raise InvocationTimeoutError
            self._starting += 1  # counts against the limit while it is on no list
        # Without the lock: ending a process and starting one take their time, and others have replies to give back.
        if evicted is not None:
            evicted.close()
        try:
            process = FunctionProcess(spec, self._surroundings)
        finally:
            with self._lock:
                self._starting -= 1
        with self._lock:
            self._all.add(process)
        if self._closed.is_set():  # between the start and the list: `close` could not know of it
            process.close()
            raise EmulationStoppedError
        return process

    def _give_back(self, process: FunctionProcess) -> None:
        alive = process.alive  # outside the lock: it asks the kernel
        with self._lock:
            if alive and process in self._all:
                self._idle.append(process)
            is_member = process in self._all
            if not alive:
                self._all.discard(process)
            self._lock.notify()
        if not alive and is_member:
            # On a thread of its own: the reply may have come on one that the process waits for.
            thread = threading.Thread(target=process.close, name="lokki-close", daemon=True)
            self._closing.append(thread)
            thread.start()

    def _check(self) -> None:
        while not self._closed.wait(_CHECK):
            with self._lock:
                working = [process for process in self._all if process.pending is not None]
            for process in working:
                process.check()
