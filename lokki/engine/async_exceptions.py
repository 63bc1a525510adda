"""Ends a function that runs on another thread, by an exception that is raised in the middle of it.

Why: Python has no way to stop a thread. What it has is ``PyThreadState_SetAsyncExc``: the exception comes up in the
thread as soon as that runs Python code again, between any two instructions of it, also inside of a ``finally`` or a
callback that drops exceptions. So it may come too late, or get lost, or come up in our own code when the function has
just ended. What that takes is done here alone: it is raised again until the function ends, and taken back when it has.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType

from lokki.errors import StepTimeoutError, StopSignal

WAKE = signal.SIGURG
"""Ends a system call that the main thread waits in. Nobody else uses it: by default it is ignored."""


class TimeIsUpError(StopSignal):
    """Is raised in the thread of a step that is late.

    No ``except Exception`` of the step's catches it.
    """


class LimitedCall:
    """One call of a function, and whether its time is up.

    ``late``: what is raised then.

    An exception that is raised from outside may come up anywhere on the function's thread. So what is shared with the
    thread that raises it is no lock, which it could leave locked, but two marks: each side sets its own before it reads
    the other's. When `run` returns, no exception is on its way.
    """

    def __init__(self, function: Callable[[], object], late: StepTimeoutError) -> None:
        self.late = late
        self.expired = False
        self._function = function
        self._results: list[object] = []
        self._errors: list[BaseException] = []
        self._begun = self._over = self._raising = self._settled = False
        self._ended = threading.Lock()
        self._ended.acquire()
        self._started = threading.Lock()
        self._started.acquire()

    def run(self) -> None:
        """Run the function on this thread."""
        while not self._settled:
            try:
                self._run_once()
            except TimeIsUpError:
                continue
            except KeyboardInterrupt as error:
                self._errors.insert(0, error)

    def outcome(self) -> object:
        """Return what the function returned, or raise what it raised."""
        if self._errors:
            raise self._errors[0]
        return self._results[0]

    def wait(self, seconds: float) -> bool:
        """Tell whether the function ends within so many seconds.

        They count from when it begins.
        """
        with self._started:
            pass
        if not self._ended.acquire(timeout=min(seconds, threading.TIMEOUT_MAX)):
            return False
        self._ended.release()
        return True

    def expire(self, thread: int) -> None:
        """Tell the thread that the time is up, unless the function has ended."""
        self._raising = True
        if not self._over:
            if not self.expired:
                self.expired = True
                self.late = self.late.with_traceback(_stack(thread))
            raise_in(thread, TimeIsUpError)
            if thread == threading.main_thread().ident:
                signal.pthread_kill(thread, WAKE)
        self._raising = False

    def _run_once(self) -> None:
        if not self._begun:
            self._begun = True
            self._started.release()
            try:
                self._results.append(self._function())
            except BaseException as error:  # handed to the waiting thread, which raises it
                self._errors.append(error)
        self._over = True
        while self._raising:
            time.sleep(0.0005)
        if self.expired:
            raise_in(threading.get_ident(), None)  # takes back what is on its way
        self._settled = True
        self._ended.release()


def _stack(thread: int) -> TracebackType | None:
    """Return where a thread is, in the form of a traceback."""
    frame: FrameType | None = sys._current_frames().get(thread)
    trace: TracebackType | None = None
    while frame is not None and frame.f_code.co_filename != __file__:
        trace = TracebackType(trace, frame, frame.f_lasti, frame.f_lineno)
        frame = frame.f_back
    return trace


def raise_in(thread: int, error: type[BaseException] | None) -> None:
    """Raise an exception in a thread as soon as it runs Python code.

    None takes back one that has not been raised.
    """
    # Only here: a function starts faster without it, and hardly any call is late.
    import ctypes

    # https://docs.python.org/3/c-api/init.html#c.PyThreadState_SetAsyncExc
    exception = ctypes.py_object(error) if error is not None else None
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), exception)
