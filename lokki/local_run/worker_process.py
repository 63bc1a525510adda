"""The worker's side of the executor with processes, and the messages between the two."""

from __future__ import annotations

import mmap
import os
import queue
import signal
import struct
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import NoReturn

from lokki.base.values import Json
from lokki.decorators import Flow
from lokki.engine.limits import TimeLimit
from lokki.errors import LokkiError, RunError, StoreError
from lokki.loading import import_again
from lokki.local_run.body import body_of
from lokki.local_run.descriptors import hide
from lokki.local_run.exits import STUCK, end_process
from lokki.local_run.feed import Chunk
from lokki.local_run.forks import watch
from lokki.local_run.journal import Parts
from lokki.local_run.levels import LogLevels
from lokki.local_run.output import capture_streams, finish_lines, flush_all
from lokki.local_run.shared_values import read_values
from lokki.local_run.worker import MapJob, Worker, guarded_call
from lokki.plan import Plan, lower, plan_lines
from lokki.plans.operations import FanOut
from lokki.store.codec import own_module

MARKS = struct.Struct("<qqq")
"""What a worker is at, in memory that its parent reads when it has died: item, position of the inner step, try."""


@dataclass(frozen=True, slots=True)
class FlowReference:
    """Where another process finds the flow.

    * ``module``: the name under which its file is imported; ``file``: that file.
    * ``is_main``: whether the file is the program that was started, so that values may be pickled as of ``__main__``.
    * ``name``: that of its function in the module.
    * ``lines``: the plan that it must have.
    """

    module: str
    file: str
    is_main: bool
    name: str
    lines: list[str]


@dataclass(frozen=True, slots=True)
class StartWorker:
    """The first message to a worker process.

    ``captured``: which log records are handed on, with what is printed; None: nothing is.
    """

    flow: FlowReference
    captured: LogLevels | None


@dataclass(frozen=True, slots=True)
class StartMap:
    """Tells a worker process to begin with a map block.

    ``values``: a file with what all items read, as `lokki.local_run.shared_values` writes it; None where there is none.
    """

    id: str
    params: dict[str, Json]
    part: str
    pack: Path
    parts: Parts
    inline_limit: int
    values: Path | None = None


@dataclass(frozen=True, slots=True)
class StopNow:
    """Tells a worker process to run no further item."""


@dataclass(frozen=True, slots=True)
class Ready:
    """A worker process has drawn the flow and can start."""


@dataclass(frozen=True, slots=True)
class MapEnded:
    """A worker process ended its map block.

    * ``error``: what went wrong that was no failure of a step.
    * ``interrupted``: a step raised KeyboardInterrupt, which ends the run on every executor.
    * ``damaged``: the error is about a file of the run that is not what lokki wrote.
    """

    error: str = ""
    interrupted: bool = False
    damaged: bool = False


def end_of_items() -> Chunk:
    """Return the message that a map block has no more items for a worker."""
    return Chunk([], [])


def worker_main(connection: int, marks: int, lock: int) -> NoReturn:
    """Run map blocks as the parent says, until it is gone.

    All three arguments are descriptors.
    """
    # Ctrl-C reaches the whole process group; the parent decides what to do about it. It is not ignored, since programs
    # that a step starts would ignore it too.
    signal.signal(signal.SIGINT, _leave_to_parent)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    worker = _WorkerMain(Connection(connection), mmap.mmap(marks, MARKS.size), lock)
    os.close(marks)
    watch(worker)
    worker.run()


def _leave_to_parent(number: int, frame: FrameType | None) -> None:
    """Do nothing."""


class _WorkerMain:
    def __init__(self, connection: Connection, marks: mmap.mmap, lock: int) -> None:
        self._connection = connection
        self._send_lock = threading.Lock()
        self._marks = marks
        self._lock = lock
        self._stop = threading.Event()
        self._messages: queue.SimpleQueue[StartMap | Chunk] = queue.SimpleQueue()

    def let_go(self) -> None:
        """Leave the parent alone in a process that a step forked.

        Ctrl-C interrupts that process, as any other.
        """
        self._send_lock = threading.Lock()
        hide(self._connection.fileno())
        hide(self._lock)
        if signal.getsignal(signal.SIGINT) is _leave_to_parent:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def run(self) -> NoReturn:
        """Import the flow, then run map blocks."""
        try:
            begin: StartWorker = self._connection.recv()
        except (EOFError, OSError):
            end_process(0)
        # Before the flow is imported, which may take long: a parent that dies meanwhile is noticed.
        threading.Thread(target=self._receive, name="lokki-receive", daemon=True).start()
        environ = dict(os.environ)
        plan = _draw(begin.flow)
        fan_outs = {op.key: op for op in plan.fan_outs}
        if begin.captured is not None:
            capture_streams(self._send, begin.captured)
        self._send(Ready())
        while True:
            message = self._messages.get()
            if isinstance(message, StartMap):
                outcome = self._map(plan, fan_outs[message.id], message, environ)
                _hand_on_output()  # first: what follows the map block is shown below what its steps printed
                self._send(outcome)

    def _map(self, plan: Plan, op: FanOut, start: StartMap, environ: Mapping[str, str]) -> MapEnded:
        """Run one map block until there are no more items."""
        try:
            inner = tuple(
                guarded_call(call, plan.steps[call.step], start.params, environ, in_map=True) for call in op.calls
            )
            body = body_of(op)
            job = MapJob(
                op.key,
                inner,
                start.pack,
                start.parts,
                start.inline_limit,
                own_process=True,
                body=None if body.is_line else body,
                shared={} if start.values is None else read_values(start.values),
            )
            limit = TimeLimit(end_process=True, stuck=lambda *_: end_process(STUCK))
            worker = Worker(job, start.part, self._stop, self._send, limit, self._mark)
            while isinstance(chunk := self._messages.get(), Chunk) and chunk.lines:
                report = worker.run(chunk)
                if report.leaving:
                    worker.close()
                    _hand_on_output()
                self._send(report)
                if report.leaving:
                    end_process(0)  # with the thread of the step that is late, as a Lambda sandbox ends
            worker.close()
        except KeyboardInterrupt:
            worker.close()
            return MapEnded(interrupted=True)
        except StoreError as error:
            return MapEnded(error.damage or str(error), damaged=bool(error.damage))
        except LokkiError as error:
            return MapEnded(str(error))
        except OSError as error:
            return MapEnded(f"the run's folder cannot be used: {error}.")
        return MapEnded()

    def _mark(self, index: int, position: int, attempt: int) -> None:
        MARKS.pack_into(self._marks, 0, index, position, attempt)

    def _send(self, message: object) -> None:
        with self._send_lock:
            self._connection.send(message)

    def _receive(self) -> None:
        """Take messages at once, whatever the worker is at.

        The parent never waits, and a dead parent is noticed.
        """
        while True:
            try:
                message = self._connection.recv()
            except (EOFError, OSError):
                end_process(0)
            if isinstance(message, StopNow):
                self._stop.set()
                # A parent that Ctrl-C took from its work may owe this worker an answer, for which it would wait.
                message = end_of_items()
            self._messages.put(message)


def _hand_on_output() -> None:
    """Hand on all that steps wrote.

    This process ends without Python's own end, or is killed, and then it would be lost.
    """
    finish_lines()
    flush_all()


def _draw(source: FlowReference) -> Plan:
    """Import the flow and draw it as the parent did.

    Raises RunError when it comes out otherwise.
    """
    flow = getattr(import_again(source.module, source.file, is_main=source.is_main), source.name, None)
    if not isinstance(flow, Flow):
        raise RunError(f"{source.module}.{source.name} is no flow when it is imported by a worker process.")
    own_module.set(flow.__module__)
    plan = lower(flow())
    if plan_lines(plan) != source.lines:
        raise RunError(f"{source.module}.{source.name} draws another flow when a worker process imports it.")
    return plan
