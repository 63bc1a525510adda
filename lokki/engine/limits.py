"""Time limits of steps and of runs. No Python thread can be stopped from outside: a late step is left behind."""

from __future__ import annotations

import ctypes
import math
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextvars import Context, copy_context
from dataclasses import dataclass, replace
from types import FrameType, TracebackType

from lokki.base.item_path import ItemPath
from lokki.engine.context import at_item, place
from lokki.engine.invocation import Invocation, StoppedError, copy_decimals
from lokki.errors import StepTimeoutError, StopSignal


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


def on_one_thread(invocations: list[Invocation]) -> list[Invocation]:
    """Let all steps of a worker go through its `TimeLimit` if one has a timeout, so that they share its thread."""
    if all(invocation.timeout is None for invocation in invocations):
        return invocations
    return [each if each.timeout is not None else replace(each, timeout=math.inf) for each in invocations]


class TimeIsUpError(StopSignal):
    """Is raised in the thread of a step that is late; no ``except Exception`` of the step's catches it."""


type Stuck = Callable[[StepTimeoutError, tuple[str, ItemPath]], None]
"""Is told, on another thread, of a step that does not end when it is told to, and which step and item that is."""

AGAIN_SECONDS = 1.0
"""How long a late step has to end before it is told to again, and before it counts as stuck."""

_FREE_SECONDS = 0.05
"""How long the thread of a late step has to become free before the next call gets a new one."""

_WAKE = signal.SIGURG
"""Ends a system call that the main thread waits in. Nobody else uses it: by default it is ignored."""


class TimeLimit:
    """Runs functions for a limited time, all on one thread, so that what belongs to a thread stays usable: connections.

    That is the calling thread where it is the main one, which imported the flow's file; else one that is kept for it,
    and replaced when a function does not leave it.

    A function that takes longer is told to end by an exception raised in its thread, which reaches it as soon as it
    runs Python code again; a system call of the main thread is ended for that. Its result is dropped. With
    ``end_process``, ``exceeded`` then tells the worker process to end, as a Lambda sandbox does. ``deadline``: when the
    run's own time is up. ``stuck``: is told where the main thread does not come back, as it is inside of code that
    Python cannot interrupt; without it that code is waited for.
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
            raise StoppedError
        allowed = seconds if remaining is None else min(seconds, remaining)
        call = _Call(function, StepTimeoutError(f"took longer than its timeout of {seconds:g} seconds"))
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


class _Call:
    """One call of a function: what became of it, and whether its time is up. ``late``: what is raised then.

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
        """Wait for the function to begin, and then for so long that it ends; tell whether it has."""
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
                signal.pthread_kill(thread, _WAKE)
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
        raise_in(threading.get_ident(), None)  # takes back what is on its way
        self._settled = True
        self._ended.release()


class _StepThread(threading.Thread):
    """A thread that runs one function after another."""

    def __init__(self, context: Context) -> None:
        super().__init__(name="lokki-step", daemon=True)  # a stuck step must not keep the process from ending
        self.calls: queue.SimpleQueue[tuple[_Call, tuple[str, ItemPath]] | None] = queue.SimpleQueue()
        self.free = threading.Event()
        self.free.set()
        self._context = context

    def run_call(self, call: _Call, seconds: float) -> None:
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


def _run_on_main(call: _Call, seconds: float, stuck: Stuck | None) -> None:
    """Run a call on this thread, the main one, watched by another."""
    before = signal.getsignal(_WAKE)
    if before in (signal.SIG_DFL, signal.SIG_IGN):
        signal.signal(_WAKE, _awake)
    clock = threading.Thread(target=_watch, args=(call, seconds, stuck, place()), name="lokki-clock", daemon=True)
    try:
        clock.start()
        call.run()
    finally:
        if signal.getsignal(_WAKE) is _awake:
            signal.signal(_WAKE, before)


def _watch(call: _Call, seconds: float, stuck: Stuck | None, at: tuple[str, ItemPath]) -> None:
    main = threading.main_thread().ident or 0
    if call.wait(seconds):
        return
    call.expire(main)
    while not call.wait(AGAIN_SECONDS):
        if stuck is not None:
            stuck(call.late, at)
        call.expire(main)  # it has caught the first one, or was in a place that drops exceptions


def _awake(number: int, frame: FrameType | None) -> None:
    """Do nothing: an exception that waits for the main thread is raised here, in the middle of a system call."""


def _stack(thread: int) -> TracebackType | None:
    """Return where a thread is, in the form of a traceback."""
    frame: FrameType | None = sys._current_frames().get(thread)
    trace: TracebackType | None = None
    while frame is not None and frame.f_code.co_filename != __file__:
        trace = TracebackType(trace, frame, frame.f_lasti, frame.f_lineno)
        frame = frame.f_back
    return trace


def raise_in(thread: int, error: type[BaseException] | None) -> None:
    """Raise an exception in a thread as soon as it runs Python code; None: take back one that has not been raised."""
    # https://docs.python.org/3/c-api/init.html#c.PyThreadState_SetAsyncExc
    exception = ctypes.py_object(error) if error is not None else None
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), exception)
