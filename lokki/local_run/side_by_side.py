"""Branches that run at the same time, each on a thread, and what they share: slots, the environment, an early end."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import copy_context

from lokki.engine.invocation import StoppedError, copy_decimals
from lokki.local_run.interrupts import acknowledge_interrupt, raise_interrupt
from lokki.local_run.threads import STOP_SECONDS
from lokki.local_run.worker import environment

_GLANCE = 0.1
"""Seconds after which a thread that waits looks whether the run has stopped."""


class Halt:
    """Ends all branches of a run early.

    One failed, or the user stopped the run. What is running is finished and kept; nothing further begins.
    """

    def __init__(self) -> None:
        self._event = threading.Event()
        self._stops: set[threading.Event] = set()
        self._lock = threading.Lock()

    @property
    def is_set(self) -> bool:
        """Whether the run ends early."""
        return self._event.is_set()

    def set(self) -> None:
        """End the run early."""
        with self._lock:
            self._event.set()
            for stop in self._stops:
                stop.set()

    def check(self) -> None:
        """Raise StoppedError if the run ends early."""
        if self._event.is_set():
            raise StoppedError

    def sleep(self, seconds: float) -> None:
        """Wait. Raises StoppedError if the run ends early meanwhile."""
        if self._event.wait(seconds):
            raise StoppedError

    @contextmanager
    def stopping(self, stop: threading.Event) -> Iterator[None]:
        """Set an event when the run ends early, as long as this goes on."""
        with self._lock:
            self._stops.add(stop)
            if self._event.is_set():
                stop.set()
        try:
            yield
        finally:
            with self._lock:
                self._stops.discard(stop)


class Slots:
    """How many step calls may run at the same time, over all branches."""

    def __init__(self, count: int, halt: Halt) -> None:
        self._free = self._count = count
        self._halt = halt
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, count: int = 1) -> Iterator[None]:
        """Take some slots for a while, as soon as there are as many.

        Raises StoppedError if the run ends early before.
        """
        count = min(count, self._count)
        with self._changed:
            while self._free < count:
                self._halt.check()
                self._changed.wait(_GLANCE)
            self._free -= count
        try:
            yield
        finally:
            with self._changed:
                self._free += count
                self._changed.notify_all()


class SharedEnvironment:
    """Lets steps run side by side that want the same environment.

    Others run one after another, since a process has one environment.
    """

    def __init__(self, halt: Halt) -> None:
        self._variables: Mapping[str, str] = {}
        self._users = 0
        self._applied = ExitStack()
        self._halt = halt
        self._changed = threading.Condition()

    @contextmanager
    def used(self, variables: Mapping[str, str]) -> Iterator[None]:
        """Have these variables set for a while, as soon as nobody needs others.

        Raises StoppedError if the run ends early before.
        """
        with self._changed:
            while self._users and self._variables != variables:
                self._halt.check()
                self._changed.wait(_GLANCE)
            if not self._users:
                self._variables = variables
                self._applied.enter_context(environment(variables))
            self._users += 1
        try:
            yield
        finally:
            with self._changed:
                self._users -= 1
                if not self._users:
                    self._applied.close()
                self._changed.notify_all()


class _Branch(threading.Thread):
    """Runs a branch in a copy of the context of the thread that makes it."""

    def __init__(self, function: Callable[[], None], ended: queue.SimpleQueue[_Branch]) -> None:
        super().__init__(name="lokki-branch", daemon=True)  # a stuck step must not keep the process from ending
        self._function = function
        self._ended = ended
        self._branch_context = copy_context()
        self.error: BaseException | None = None

    def run(self) -> None:
        """Run the branch, and say that it has ended."""
        try:
            self._branch_context.run(self._run)
        # Raised again by the thread that waits.
        except BaseException as error:
            self.error = error
        self._ended.put(self)

    def _run(self) -> None:
        copy_decimals()
        self._function()


def run_side_by_side(functions: Sequence[Callable[[], None]], halt: Halt) -> None:
    """Run functions at the same time, and return when all have ended.

    When one fails, the others end early, and what it raised is raised: the first in time. After Ctrl-C they have 8
    seconds, at a second one none.
    """
    ended: queue.SimpleQueue[_Branch] = queue.SimpleQueue()
    branches = [_Branch(function, ended) for function in functions]
    first_error: BaseException | None = None
    try:
        for branch in branches:
            branch.start()
        for _ in branches:
            branch = _next_ended(ended)
            if branch.error is not None:
                halt.set()
                if first_error is None or isinstance(first_error, StoppedError):
                    first_error = branch.error
    except KeyboardInterrupt:
        acknowledge_interrupt()
        halt.set()
        _wait_for(branches)
        raise
    if first_error is not None:
        raise first_error


def _next_ended(ended: queue.SimpleQueue[_Branch]) -> _Branch:
    while True:
        try:
            return ended.get(timeout=_GLANCE)
        except queue.Empty:
            raise_interrupt()


def _wait_for(branches: Sequence[threading.Thread]) -> None:
    end = time.monotonic() + STOP_SECONDS
    for branch in branches:
        while branch.is_alive() and time.monotonic() < end:
            branch.join(_GLANCE)
            raise_interrupt()
