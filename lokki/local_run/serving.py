"""Feeds worker processes the items of a map block, and takes over what dead ones leave.

This is the parent's side; `lokki.local_run.worker_process` is the worker's.
"""

from __future__ import annotations

import mmap
import os
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Protocol

from lokki.base.failures import Failure
from lokki.base.item_path import ItemPath
from lokki.base.values import Json
from lokki.engine.events import StepRetried
from lokki.errors import LokkiError, RunError, StepTimeoutError, WorkerError
from lokki.local_run.descriptors import hide
from lokki.local_run.exits import STUCK
from lokki.local_run.feed import CHUNK_SECONDS, Chunk, PendingRetry
from lokki.local_run.forks import watch
from lokki.local_run.interrupts import is_interrupted, raise_interrupt, uninterrupted
from lokki.local_run.journal import PartWriter
from lokki.local_run.mapping import MapDispatcher
from lokki.local_run.worker import FailedItem, Report
from lokki.local_run.worker_process import MARKS, MapEnded, Ready, StartMap, StopNow, end_of_items

_GLANCE = 0.5
"""Seconds after which a thread that waits for workers looks whether the run was interrupted."""

_SIGNAL_SECONDS = 0.05
"""How long a signal that was sent to all processes of the run may take to reach this one."""

UNEXPLAINED_DEATHS = 10
"""How many workers may die in a map block while they were at no item; then something else than an item is to blame."""


@dataclass(frozen=True, slots=True)
class Death:
    """How a worker process ended.

    * ``status``: as `os.waitpid` says.
    * ``error``: an errno, when it never began.
    """

    number: int
    status: int
    error: int

    def __str__(self) -> str:
        if self.error:
            return f"a worker process cannot be started: {os.strerror(self.error)}; ask for fewer"
        code = os.waitstatus_to_exitcode(self.status)
        hint = " (perhaps out of memory)" if -code == signal.SIGKILL else ""
        return f"the worker process {how_ended(code)}{hint}"

    @property
    def is_stuck(self) -> bool:
        """Whether it ended itself, as a late step did not."""
        return not self.error and os.waitstatus_to_exitcode(self.status) == STUCK

    @property
    def by_signal_to_all(self) -> bool:
        """Whether it died of a signal that is often sent to a whole group.

        This process is in that process group, too.
        """
        return not self.error and -os.waitstatus_to_exitcode(self.status) in (signal.SIGTERM, signal.SIGHUP)


def how_ended(code: int) -> str:
    """Say how a process ended.

    ``code``: its exit code, or the number of a signal, negative.
    """
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"


class WorkerProcess:
    """A worker process as the run sees it.

    * ``at_work``: what it has to do; ``last``: its last report.
    * ``ready``: whether it has imported the flow; ``ended``: whether it is done with the map block.
    * ``is_silent``: whether its connection has ended, so that its parent tells what became of it.
    """

    def __init__(self, number: int, connection: Connection, marks: int) -> None:
        self.number = number
        self.connection = connection
        self.death: Death | None = None
        self.is_silent = False
        self.ready = False
        self.ended = True
        self.part = ""
        self.at_work: deque[Chunk] = deque()
        self.last: Report | None = None
        self._marks = mmap.mmap(marks, MARKS.size)
        watch(self)

    def let_go(self) -> None:
        """Do not answer the worker in a process that a step forked."""
        if not self.connection.closed:
            hide(self.connection.fileno())

    @property
    def at(self) -> tuple[int, int, int]:
        """The item, the inner step's position and the try that it is at.

        Or was at when it died.
        """
        index, position, attempt = MARKS.unpack(self._marks)
        return index, position, attempt

    def begin(self, part: str) -> None:
        """Forget what it did in another map block."""
        self.part, self.ended, self.last = part, False, None
        self.at_work.clear()
        MARKS.pack_into(self._marks, 0, -1, 0, 0)

    def send(self, message: object) -> None:
        """Send it a message, and leave it to its parent to say that it died."""
        try:
            self.connection.send(message)
        except (BrokenPipeError, ConnectionResetError):
            return


class Parent(Protocol):
    """The parent of worker processes, which learns how they end."""

    control: socket.socket

    def death(self) -> Death:
        """Read how a worker ended, when ``control`` can be read."""

    def kill(self, number: int) -> None:
        """Kill a worker."""


class MapServer:
    """A map block on worker processes.

    * ``error``, ``interrupted``: what went wrong that was no failure of a step.
    * ``damaged``: the error is about a file of the run that is not what lokki wrote.
    """

    def __init__(
        self,
        mapping: MapDispatcher,
        params: Mapping[str, Json],
        spare_part: str,
        replace: Callable[[WorkerProcess], WorkerProcess],
        parent: Parent,
        find: Callable[[Death], WorkerProcess | None],
    ) -> None:
        self.error = ""
        self.interrupted = False
        self.damaged = False
        self._mapping = mapping
        self._params = params
        self._spare_part = spare_part
        self._replace = replace
        self._parent = parent
        self._find = find
        self._workers: list[WorkerProcess] = []
        self._crash_failures: list[tuple[int, Failure]] = []
        self._unexplained = 0
        self._replaced = 0

    def begin(self, worker: WorkerProcess, part: str) -> None:
        """Start the map block on a worker, or on another if it has died meanwhile."""
        job = self._mapping.job
        worker.begin(part)
        self._workers.append(worker)
        worker.send(StartMap(job.id, dict(self._params), part, job.pack, job.parts, job.inline_limit, job.values))
        self._send_work(worker)
        if worker.death is not None:
            self._take_death(worker.death)

    def serve(self, remaining: Callable[[], float | None]) -> None:
        """Keep the workers at work until they have ended.

        It returns before that when the run is stopped or the time is up.
        """
        while not self._mapping.stop.is_set() and self._receive(remaining(), until_stopped=True):
            pass

    def stop(self, patience: float) -> None:
        """Let workers finish their item for so many seconds, then kill them."""
        self._mapping.stop.set()
        for worker in self._workers:
            if not worker.ended:
                worker.send(StopNow())
        end = time.monotonic() + patience
        try:
            while self._receive(max(0.0, end - time.monotonic())):
                pass
        finally:
            for worker in self._workers:
                if not worker.ended:
                    self._parent.kill(worker.number)
            self._write_crash_failures()

    def _receive(self, seconds: float | None, *, until_stopped: bool = False) -> bool:
        """Take what workers send.

        Returns False when all have ended, or none sent anything for so long. ``until_stopped``: also when the map is
        stopped meanwhile, as by a branch beside it that failed.
        """
        end = None if seconds is None else time.monotonic() + seconds
        while any(not worker.ended for worker in self._workers):
            raise_interrupt()
            if until_stopped and self._mapping.stop.is_set():
                return False
            left = _GLANCE if end is None else min(_GLANCE, end - time.monotonic())
            talking = {worker.connection: worker for worker in self._workers if not (worker.ended or worker.is_silent)}
            ready = wait([*talking, self._parent.control], max(0.0, left))
            # A signal must not tear a message: what is read of it would be lost.
            with uninterrupted():
                for connection, worker in talking.items():
                    if connection in ready and not worker.ended:
                        self._receive_from(worker)
                if self._parent.control in ready:
                    self._take_death(self._parent.death())
            if ready:
                return True
            if end is not None and time.monotonic() >= end:
                return False
        return False

    def _take_death(self, death: Death) -> None:
        """Take what a worker that died had still sent, then what it had to do."""
        worker = self._find(death)
        if worker is None or worker.ended:
            return
        # What it reported must be counted before its item is blamed: it may have finished that.
        while not (worker.ended or worker.is_silent) and worker.connection.poll():
            self._receive_from(worker)
        if not worker.ended:
            self._bury(worker, death)

    def _receive_from(self, worker: WorkerProcess) -> None:
        try:
            message = worker.connection.recv()
        except (EOFError, ConnectionResetError):
            worker.is_silent = True  # how it ended is told by its parent
            return
        match message:
            case Ready():
                worker.ready = True
            case Report():
                self._take_report(worker, message)
            case MapEnded(error, interrupted, damaged):
                worker.ended = True
                self.damaged = self.damaged or (damaged and not self.error)
                if error or interrupted:
                    self.error = self.error or error
                    self.interrupted = self.interrupted or interrupted
                    self._mapping.stop.set()
            case _:
                self._mapping.tell(message)

    def _take_report(self, worker: WorkerProcess, report: Report) -> None:
        chunk = worker.at_work.popleft()
        self._mapping.count(report)
        if report.done < len(chunk.indexes):
            self._mapping.give_back(chunk, without=chunk.indexes[: report.done], retry=report.retry)
        worker.last = report
        if report.leaving:
            for chunk in worker.at_work:
                self._mapping.give_back(chunk, without=())
            self._follow(worker)
        else:
            self._send_work(worker)

    def _send_work(self, worker: WorkerProcess) -> None:
        """Give a worker its next items.

        Where they are done soon, it gets some more, so that it need not wait for them.
        """
        last = worker.last
        ahead = 2 if last is not None and last.done and last.seconds / last.done < CHUNK_SECONDS else 1
        while len(worker.at_work) < ahead:
            chunk = self._mapping.take(last)
            if chunk is None:
                if not worker.at_work:
                    worker.send(end_of_items())
                return
            worker.at_work.append(chunk)
            worker.send(chunk)

    def _bury(self, worker: WorkerProcess, death: Death) -> None:
        """Take over what a worker that died had to do.

        The item that it was at is to blame, the others go to other workers.
        """
        if death.by_signal_to_all and self._is_interrupted():
            worker.ended = True
            return
        if not worker.ready:
            # Not replaced: the next one would end at the same line of the flow's file.
            worker.ended = True
            what = f"{death}." if death.error else f"{death} before it could start; what it printed above says why."
            self.error = self.error or what
            self._mapping.stop.set()
            return
        indexes = [index for chunk in worker.at_work for index in chunk.indexes]
        finished = self._mapping.take_over(worker.part, indexes)
        self._mapping.count(Report(len(finished), 0.0))
        index, position, attempt = worker.at
        blamed = bool(worker.at_work) and index in worker.at_work[0].indexes and index not in finished
        path = worker.at_work[0].path_of(index) if blamed else ()
        retry = self._blame(path, (index, position, attempt), death) if blamed else None
        done = finished if retry is not None or not blamed else finished | {index}
        for chunk in worker.at_work:
            self._mapping.give_back(chunk, without=done, retry=retry)
        if not blamed:
            self._unexplained += 1
            if self._unexplained > UNEXPLAINED_DEATHS:
                raise RunError(f"worker processes die again and again, at no item; the last: {death}.")
        self._follow(worker)

    def _follow(self, worker: WorkerProcess) -> None:
        """Let another process do what one that ended had still to do."""
        worker.ended = True
        if not self._mapping.stop.is_set():
            self._workers.remove(worker)
            self._replaced += 1
            # A part of its own: the end of the dead worker's may be half a line, on which nothing can follow.
            self.begin(self._replace(worker), f"{worker.part}-{self._replaced}")

    def _is_interrupted(self) -> bool:
        """Tell whether the run is ending by the signal that killed a worker.

        Then the item that it was at is not to blame.
        """
        if not self._mapping.stop.is_set():
            time.sleep(_SIGNAL_SECONDS)
        return self._mapping.stop.is_set() or is_interrupted()

    def _blame(self, path: ItemPath, mark: tuple[int, int, int], death: Death) -> PendingRetry | None:
        """Return how an item whose worker died is tried again.

        None when it failed for good. ``mark``: where the worker was: the item's index, the position of the step, the
        number of the try.
        """
        index, position, attempt = mark
        invocation = self._mapping.job.inner[position]
        error: LokkiError = WorkerError(str(death))
        if death.is_stuck and invocation.timeout is not None:
            error = StepTimeoutError(
                f"took longer than its timeout of {invocation.timeout:g} seconds, in code that cannot be interrupted"
            )
        name = type(error).__qualname__
        failure = Failure(invocation.id, name, str(error), invocation.defined_at, attempts=attempt)
        retry = invocation.retry
        if retry is not None and attempt < retry.attempts and retry.matches(error):
            wait_seconds = retry.wait(attempt)
            self._mapping.tell(StepRetried(invocation.id, path, attempt, wait_seconds, failure))
            return PendingRetry(index, position, attempt, wait_seconds)
        self._crash_failures.append((index, failure))
        self._mapping.count(Report(0, 0.0, [FailedItem(index, path, failure)]))
        return None

    def _write_crash_failures(self) -> None:
        if self._crash_failures:
            part = PartWriter(self._mapping.job.parts, self._spare_part, self._mapping.job.inline_limit)
            for index, failure in self._crash_failures:
                part.fail(index, failure)
            part.close()
            self._crash_failures = []
