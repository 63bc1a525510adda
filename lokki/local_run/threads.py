"""The executors that run items in this process, on threads or one after another."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from contextvars import copy_context
from dataclasses import dataclass, field

from lokki.engine.invocation import copy_decimals
from lokki.engine.limits import TimeLimit
from lokki.local_run.interrupts import acknowledge_interrupt, raise_interrupt
from lokki.local_run.mapping import MapDispatcher
from lokki.local_run.worker import Worker

STOP_SECONDS = 8.0
"""How long a stopped run waits for the items that are running; then it leaves them behind."""

_GLANCE = 0.1
"""How often the waiting thread looks whether the run was stopped by a worker."""

_FIRST_GLANCE = 0.01
"""How long a map's first threads run before it is known whether their steps wait."""

_BUSY = 0.5
"""CPUs that the program uses at least while steps compute, those of Python on one thread at a time."""

_ALL_BUSY = 0.6
"""What part of all CPUs is used at least while steps compute side by side. More threads than CPUs would only take them
from one another: large arrays on six threads took a third longer than on two, on a machine with two CPUs."""

_PATIENCE = 3
"""How many times in a row CPUs must be free."""

_ONE_BUSY = 0.9
"""CPUs that steps use at least which hold the interpreter's lock: more threads would only pass it on more often."""

_LATE = 0.1
"""What part of the time after which Python has a thread give up that lock it takes to get it, where others hold it."""

_GAIN = 1.25
"""How many times as much CPU a program uses at least after its threads were doubled, if that was any good."""

_FIRST_SECONDS = 0.02
"""How long the first worker is alone at steps with a timeout: a few quick items are all run by its thread, as they are
without a timeout, and share what one of them keeps for the next, such as a connection."""

LATE_SECONDS = 1.0
"""How long a run that has used up its time waits for them."""


class ThreadWorker(threading.Thread):
    """A worker on a thread.

    It keeps what went wrong for the thread that waits for it. It begins with a copy of the context of the thread that
    makes it, which imported the flow's file; what the file set in a ``threading.local`` stays with that thread.
    """

    def __init__(self, mapping: MapDispatcher, part: str) -> None:
        super().__init__(name=f"lokki-{part}", daemon=True)  # a stuck step must not keep the process from ending
        self._mapping = mapping
        self._part = part
        self._context = copy_context()
        self.error: BaseException | None = None

    def run(self) -> None:
        """Run items until there are none, as `work` does."""
        try:
            self._context.run(self._work)
        except BaseException as error:  # raised again by the thread that waits
            self.error = error
            self._mapping.stop.set()

    def _work(self) -> None:
        copy_decimals()
        work(self._mapping, self._part)


def work(mapping: MapDispatcher, part: str, limit: TimeLimit | None = None) -> None:
    """Take items and run them until there are none or the run is stopped."""
    worker = Worker(mapping.job, part, mapping.stop, mapping.tell, limit)
    try:
        last = None
        while (items := mapping.take(last)) is not None:
            with mapping.slot():
                last = worker.run(items)
            mapping.count(last)
            if worker.first_error is not None:
                mapping.note_error(*worker.first_error)
    finally:
        worker.close()


def run_on_threads(mapping: MapDispatcher, parts: list[str], at_first: int) -> None:
    """Run a map block with a thread for each part.

    It begins with some threads, ``at_first``: all, or one for each CPU. It starts the others while CPUs are free.

    Raises what a worker raised that was no failure of a step. When the run stops (Ctrl-C, too many failures) the
    workers finish the items that they are at, for 8 seconds at most (at a second Ctrl-C, at once); when its time is up,
    for 1 second.
    """
    workers = [ThreadWorker(mapping, part) for part in parts]
    try:
        workers[0].start()
        if any(invocation.timeout is not None for invocation in mapping.job.inner):
            workers[0].join(_FIRST_SECONDS)
        for worker in workers[1:at_first]:
            worker.start()
        _join(
            workers,
            lambda: 0.0 if mapping.stop.is_set() else mapping.deadline.remaining,
            _Growth(mapping, workers, at_first),
        )
    except KeyboardInterrupt:
        acknowledge_interrupt()
        raise
    finally:
        patience = LATE_SECONDS if mapping.deadline.passed else STOP_SECONDS
        # After Ctrl-C, workers take no further item, and one that waits for a retry ends at once.
        mapping.stop.set()
        _join(workers, _countdown(patience))
    for worker in workers:
        if worker.error is not None:
            raise worker.error


def run_inline(mapping: MapDispatcher, part: str, limit: TimeLimit) -> None:
    """Run a map block on the calling thread, item by item, for debuggers."""
    work(mapping, part, limit)


@dataclass(slots=True)
class Gauge:
    """Tells whether more threads are of use, by how many CPUs are busy.

    ``cpus``: how many there are.
    """

    cpus: int
    _busy_before: float = field(default=0.0, init=False)
    _with_room: int = field(default=0, init=False)

    def wants_threads(self, busy: float, *, is_warm: bool = True, is_locked: bool = False) -> bool:
        """Tell whether twice as many threads would be of use.

        They are where the program uses less than half of a CPU, and where CPUs stay free while it uses more than before
        threads were started the last time.

        ``is_warm``: whether each thread has run an item; before, all wait while one imports a library. ``is_locked``:
        whether who looked had to wait for the interpreter's lock.
        """
        has_room = (
            is_warm
            and not (is_locked and busy >= _ONE_BUSY)
            and self._busy_before * _GAIN < busy < _ALL_BUSY * self.cpus
        )
        self._with_room = self._with_room + 1 if has_room else 0
        if busy >= _BUSY and self._with_room < _PATIENCE:
            return False
        self._busy_before, self._with_room = busy, 0
        return True


class _Growth:
    """Starts further threads of a map, while they are of use.

    Steps that compute would only take memory and time from one another on more threads. ``started``: one for each CPU.
    """

    def __init__(self, mapping: MapDispatcher, workers: list[ThreadWorker], started: int) -> None:
        self._mapping = mapping
        self._workers = workers
        self._started = started
        self._gauge = Gauge(cpus=started)
        self._glances = 0
        self._seen = time.process_time(), time.monotonic()

    @property
    def glance(self) -> float:
        """Seconds until `look` is to be called next, more as time goes by."""
        return (
            min(_FIRST_GLANCE * 2 ** (self._glances // 8), _GLANCE) if self._started < len(self._workers) else _GLANCE
        )

    def look(self, late: float) -> None:
        """Double the threads where that is of use.

        ``late``: how many seconds later than it wanted to look who looks.
        """
        if self._started >= len(self._workers):
            return
        cpu, now = time.process_time(), time.monotonic()
        cpu_before, before = self._seen
        if now == before:
            return
        self._seen = cpu, now
        self._glances += 1
        if self._gauge.wants_threads(
            (cpu - cpu_before) / (now - before),
            is_warm=self._mapping.ended >= self._started,
            is_locked=late >= _LATE * sys.getswitchinterval(),
        ):
            for worker in self._workers[self._started : 2 * self._started]:
                worker.start()
            self._started = min(2 * self._started, len(self._workers))


def _join(workers: list[ThreadWorker], remaining: Callable[[], float | None], growth: _Growth | None = None) -> None:
    """Wait until the workers have ended, for as long as there is time."""
    for worker in workers:
        while worker.is_alive():
            left = remaining()
            if left == 0.0:
                return
            glance = _GLANCE if growth is None else growth.glance
            wait = glance if left is None else min(left, glance)
            due = time.monotonic() + wait
            worker.join(wait)
            late = time.monotonic() - due
            raise_interrupt()
            if growth is not None and worker.is_alive():  # one that has ended found no item more
                growth.look(late)


def _countdown(seconds: float) -> Callable[[], float]:
    end = time.monotonic() + seconds
    return lambda: max(0.0, end - time.monotonic())
