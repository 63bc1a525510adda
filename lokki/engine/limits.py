"""Time limits of steps and of runs.

No Python thread can be stopped from outside, so a late step that does not end by itself is left behind.
"""

from __future__ import annotations

import math
import queue
import signal
import threading
import time
from collections.abc import Callable
from contextvars import Context, copy_context
from dataclasses import dataclass, replace
from types import FrameType

from lokki.base.item_path import ItemPath
from lokki.engine.async_exceptions import WAKE, LimitedCall
from lokki.engine.context import at_item, place
from lokki.engine.invocation import Invocation, StoppedError, copy_decimals
from lokki.errors import StepTimeoutError


@dataclass(frozen=True, slots=True)
class Deadline:
    """When the run's time is up.

    ``at``: in seconds of the monotonic clock; None for never.
    """

    at: float | None = None

    @property
    def remaining(self) -> float | None:
        """Seconds left, 0 when the time is up, None for no limit."""
        return None if self.at is None else max(0.0, self.at - time.monotonic())

    @property
    def passed(self) -> bool:
        """Whether the time is up."""
        return self.at is not None and time.monotonic() >= self.at

    def limit(self, invocation: Invocation) -> Invocation:
        """Return a call that goes through a `TimeLimit`, if there is a deadline.

        It does so also when its step has no timeout.
        """
        if self.at is None or invocation.timeout is not None:
            return invocation
        return replace(invocation, timeout=math.inf)


def on_one_thread(invocations: list[Invocation]) -> list[Invocation]:
    """Let all steps of a worker share the thread of its `TimeLimit`.

    Nothing changes where none of them has a timeout.
    """
    if all(invocation.timeout is None for invocation in invocations):
        return invocations
    return [
        invocation if invocation.timeout is not None else replace(invocation, timeout=math.inf)
        for invocation in invocations
    ]


type Stuck = Callable[[StepTimeoutError, tuple[str, ItemPath]], None]
"""Is told, on another thread, of a step that does not end when it is told to, and which step and item that is."""

AGAIN_SECONDS = 1.0
"""How long a late step has to end before it is told to again, and before it counts as stuck."""

_FREE_SECONDS = 0.05
"""How long the thread of a late step has to become free before the next call gets a new one."""


class TimeLimit:
    """Runs functions for a limited time, all on one thread.

    So what belongs to a thread stays usable, such as connections. That is the calling thread where it is the main one,
    which imported the flow's file; else one that is kept for it, and replaced when a function does not leave it.

    A function that takes longer is told to end by an exception raised in its thread, which reaches it as soon as it
    runs Python code again; a system call of the main thread is ended for that. Its result is dropped.

    * ``end_process``: ``exceeded`` then tells the worker process to end, as a Lambda sandbox does.
    * ``deadline``: when the run's own time is up.
    * ``stuck``: is told where the main thread does not come back, as it is inside of code that Python cannot interrupt;
      without it that code is waited for.
    """

    def __init__(
        self, *, end_process: bool = False, deadline: Deadline | None = None, stuck: Stuck | None = None
    ) -> None:
        self._end_process = end_process
        self._stuck = stuck
        self._context = copy_context()
        self._thread: _StepThread | None = None
        self.deadline = deadline or Deadline()
        self.exceeded = False

    def __call__(self, function: Callable[[], object], seconds: float) -> object:
        """Return what the function returns, or raise what it raises.

        Raises StepTimeoutError after so many seconds, with the traceback of where the function was then, and
        StoppedError when the run's time is up.
        """
        remaining = self.deadline.remaining
        if remaining == 0.0:
            raise StoppedError  # not the step's failure: it must not be retried, nor tolerated
        allowed = seconds if remaining is None else min(seconds, remaining)
        call = LimitedCall(function, StepTimeoutError(f"took longer than its timeout of {seconds:g} seconds"))
        if threading.current_thread() is threading.main_thread():
            _run_on_main(call, allowed, self._stuck)
        else:
            self._free_thread().run_call(call, allowed)
        if not call.expired:
            return call.outcome()
        if self.deadline.passed:
            raise StoppedError
        self.exceeded = self._end_process
        raise call.late

    def close(self) -> None:
        """End the thread that functions ran on."""
        if self._thread is not None:
            self._thread.calls.put(None)
            self._thread = None

    def _free_thread(self) -> _StepThread:
        if self._thread is None or not self._thread.free.wait(_FREE_SECONDS):
            self.close()
            self._thread = _StepThread(self._context.copy())
            self._thread.start()
        return self._thread


class _StepThread(threading.Thread):
    """A thread that runs one function after another."""

    def __init__(self, context: Context) -> None:
        super().__init__(name="lokki-step", daemon=True)  # a stuck step must not keep the process from ending
        self.calls: queue.SimpleQueue[tuple[LimitedCall, tuple[str, ItemPath]] | None] = queue.SimpleQueue()
        self.free = threading.Event()
        self.free.set()
        self._context = context

    def run_call(self, call: LimitedCall, seconds: float) -> None:
        """Run a call and wait for it for so long."""
        self.free.clear()
        self.calls.put((call, place()))
        if not call.wait(seconds):
            call.expire(self.ident or 0)

    def run(self) -> None:
        """Run functions until there are no more."""
        self._context.run(self._serve)

    def _serve(self) -> None:
        copy_decimals()
        while (item := self.calls.get()) is not None:
            call, at = item
            at_item(*at)
            call.run()
            self.free.set()


class Alarm:
    """Ends the call of this thread that runs when a time is up.

    One thread watches them all, so that a call of a few microseconds costs little more.

    ``rang``: whether it has ended one.
    """

    def __init__(self, seconds: float, message: str) -> None:
        self.rang = False
        self._message = message
        self._seconds = seconds
        self._caller = threading.get_ident()
        self._call: LimitedCall | None = None
        self._closed = threading.Event()
        self._previous = _let_wake() if threading.current_thread() is threading.main_thread() else None
        threading.Thread(target=self._watch, name="lokki-alarm", daemon=True).start()

    def run(self, function: Callable[[], object]) -> object:
        """Return what a function returns, or raise what it raises.

        Raises StepTimeoutError when the time is up, with the traceback of where the function was then.
        """
        call = LimitedCall(function, StepTimeoutError(self._message))
        self._call = call
        call.run()
        self._call = None
        if not call.expired:
            return call.outcome()
        self.rang = True
        raise call.late

    def close(self) -> None:
        """Stop watching."""
        self._closed.set()
        if self._previous is not None:
            signal.signal(WAKE, self._previous)

    def _watch(self) -> None:
        pause = self._seconds
        while not self._closed.wait(max(0.0, pause)):
            call = self._call
            if call is not None and not call.wait(0):
                call.expire(self._caller)
            # It may have caught the first one; and what begins now is late, too.
            pause = AGAIN_SECONDS


def _let_wake() -> signal.Handlers | None:
    """Let a signal end system calls of this thread, the main one.

    Returns what was to be done on it before, None where that stays.
    """
    previous = signal.getsignal(WAKE)
    if previous not in (signal.SIG_DFL, signal.SIG_IGN):
        return None
    signal.signal(WAKE, _awake)
    return signal.Handlers(previous)


def _run_on_main(call: LimitedCall, seconds: float, stuck: Stuck | None) -> None:
    """Run a call on this thread, the main one, watched by another."""
    previous = _let_wake()
    clock = threading.Thread(target=_watch, args=(call, seconds, stuck, place()), name="lokki-clock", daemon=True)
    try:
        clock.start()
        call.run()
    finally:
        if previous is not None and signal.getsignal(WAKE) is _awake:
            signal.signal(WAKE, previous)


def _watch(call: LimitedCall, seconds: float, stuck: Stuck | None, at: tuple[str, ItemPath]) -> None:
    main = threading.main_thread().ident or 0
    if call.wait(seconds):
        return
    call.expire(main)
    while not call.wait(AGAIN_SECONDS):
        if stuck is not None:
            stuck(call.late, at)
        call.expire(main)  # it has caught the first one, or was in a place that drops exceptions


def _awake(number: int, frame: FrameType | None) -> None:
    """Do nothing.

    An exception that waits for the main thread is raised here, in the middle of a system call.
    """
