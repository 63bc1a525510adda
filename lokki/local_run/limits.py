"""Time limits of steps and of runs. No Python thread can be stopped from outside: a late step is left behind."""

from __future__ import annotations

import contextvars
import ctypes
import math
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import FrameType, TracebackType

from lokki.errors import StepTimeoutError, StopSignal
from lokki.invocation import Invocation, StoppedError
from lokki.local_run.context import at_item, place


@dataclass(frozen=True, slots=True)
class Deadline:
    """When the run's time is up, in seconds of the monotonic clock; None for never."""

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
        """Return a call that goes through a `TimeLimit` also when its step has no timeout, if there is a deadline."""
        if self.at is None or invocation.timeout is not None:
            return invocation
        return replace(invocation, timeout=math.inf)


class TimeIsUpError(StopSignal):
    """Is raised in the thread of a step that is late; no ``except Exception`` of the step's catches it."""


class TimeLimit:
    """Runs functions for a limited time, each on a thread of its own.

    A function that takes longer is told to end by an exception raised in its thread, which reaches it as soon as it
    runs Python code again; its result is dropped. With ``end_process``, ``exceeded`` then tells the worker process to
    end, as a Lambda sandbox does, which takes the thread with it. ``deadline``: when the run's own time is up.
    """

    def __init__(self, *, end_process: bool = False, deadline: Deadline | None = None) -> None:
        self._end_process = end_process
        self.deadline = deadline or Deadline()
        self.exceeded = False

    def __call__(self, function: Callable[[], object], seconds: float) -> object:
        """Return what the function returns, or raise what it raises.

        Raises StepTimeoutError after so many seconds, with the traceback of where the function was then, and
        StoppedError when the run's time is up.
        """
        remaining = self.deadline.remaining
        if remaining == 0.0:
            raise StoppedError
        outcome: list[object] = []
        errors: list[BaseException] = []
        at = place()

        def target() -> None:
            try:
                at_item(*at)
                outcome.append(function())
            except BaseException as error:  # handed to the waiting thread, which raises it
                errors.append(error)

        context = contextvars.copy_context()
        thread = threading.Thread(target=context.run, args=(target,), name="lokki-step", daemon=True)
        thread.start()
        thread.join(min(seconds if remaining is None else min(seconds, remaining), threading.TIMEOUT_MAX))
        if thread.is_alive():
            late = StepTimeoutError(f"took longer than its timeout of {seconds:g} seconds").with_traceback(
                _stack(thread)
            )
            raise_in(thread, TimeIsUpError)
            if self.deadline.passed:
                raise StoppedError
            self.exceeded = self._end_process
            raise late
        if errors:
            raise errors[0]
        return outcome[0]


def _stack(thread: threading.Thread) -> TracebackType | None:
    """Return where a thread is, in the form of a traceback."""
    frame: FrameType | None = sys._current_frames().get(thread.ident or 0)
    trace: TracebackType | None = None
    while frame is not None and frame.f_code.co_filename != __file__:
        trace = TracebackType(trace, frame, frame.f_lasti, frame.f_lineno)
        frame = frame.f_back
    return trace


def raise_in(thread: threading.Thread, error: type[BaseException]) -> None:
    """Raise an error in a thread, as soon as it runs Python code again."""
    # https://docs.python.org/3/c-api/init.html#c.PyThreadState_SetAsyncExc
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(error))
