"""Starts and ends worker processes, the executor for steps that keep a CPU busy.

A worker is forked from a process that has imported the flow's libraries (`lokki.local_run.worker_server`) and imports
the flow's own code itself, as a Lambda sandbox does, whatever this process has made of it meanwhile.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from multiprocessing.connection import Pipe
from pathlib import Path
from types import ModuleType
from typing import Self

from lokki.base.values import Json
from lokki.errors import RunError, damaged
from lokki.graph import FlowGraph
from lokki.loading import import_name
from lokki.local_run.descriptors import hide
from lokki.local_run.forks import forget, watch
from lokki.local_run.interrupts import acknowledge_interrupt, interruptible, uninterrupted
from lokki.local_run.levels import LogLevels
from lokki.local_run.libraries import inner_threads, libraries
from lokki.local_run.mapping import MapDispatcher
from lokki.local_run.serving import Death, MapServer, WorkerProcess, how_ended
from lokki.local_run.threads import LATE_SECONDS, STOP_SECONDS
from lokki.local_run.worker_process import MARKS, FlowReference, StartWorker
from lokki.local_run.worker_server import ENDING, FORK, KILL, NOTICE, REQUEST, ServerSettings, start_python
from lokki.plan import Plan, plan_lines

_NOT_IMPORTABLE = (
    "worker processes import the flow anew, but it is not at the top level of a module: "
    "move it to a file of its own, or use the executor 'threads'."
)


def reference(graph: FlowGraph, plan: Plan) -> FlowReference:
    """Say where another process finds this flow.

    Raises RunError when it cannot be imported: made in a function, in a cell of a notebook, or typed in.
    """
    module = sys.modules.get(getattr(graph.origin, "__module__", ""))
    file = getattr(module, "__file__", None)
    name = getattr(graph.origin, "__qualname__", "")
    if module is None or not isinstance(file, str) or getattr(module, name, None) is not graph.origin:
        raise RunError(_NOT_IMPORTABLE)
    is_main = module is sys.modules["__main__"]
    if is_main and not Path(file).is_file():
        raise RunError(_NOT_IMPORTABLE)
    imported_as = _importable_name(module, file) if is_main else module.__name__
    return FlowReference(imported_as, str(Path(file).absolute()), is_main, name, plan_lines(plan))


def _importable_name(main: ModuleType, file: str) -> str:
    """Return the name by which the program that was started can be imported."""
    spec = getattr(main, "__spec__", None)
    return spec.name if spec is not None else import_name(Path(file))[1]


class WorkerServer:
    """The process that workers are forked from, as the run sees it."""

    def __init__(self, flow: FlowReference, workers: int, lock: int) -> None:
        self.control, theirs = socket.socketpair()
        module = sys.modules["__main__" if flow.is_main else flow.module]
        root = flow.module.partition(".")[0]
        names = libraries(module, root, sys.modules)
        settings = ServerSettings(os.getpid(), theirs.fileno(), lock, names, root)
        limits = inner_threads(workers, os.process_cpu_count() or 1, os.environ)
        with theirs, _signals_blocked():
            self._process = start_python(
                "serve_run()", json.dumps(asdict(settings)).encode(), (theirs.fileno(), lock), {**os.environ, **limits}
            )
        watch(self)

    def let_go(self) -> None:
        """Let go of the workers in a process that a step forked.

        It may outlive the run, and would keep them alive.
        """
        hide(self.control.fileno())

    def fork(self, number: int, connection: int, marks: int) -> None:
        """Start a worker that gets these descriptors."""
        self._ask(REQUEST.pack(FORK, number), [connection, marks])

    def kill(self, number: int) -> None:
        """Kill a worker."""
        self._ask(REQUEST.pack(KILL, number), [])

    def death(self) -> Death:
        """Read how a worker ended.

        Raises RunError when the server itself has ended.
        """
        notice = b""
        while len(notice) < NOTICE.size:
            chunk = self.control.recv(NOTICE.size - len(notice))
            if not chunk:
                raise RunError(
                    f"the process that starts worker processes {how_ended(self._process.wait())}; resume the run."
                )
            notice += chunk
        return Death(*NOTICE.unpack(notice))

    def close(self) -> None:
        """End the server, and with it all workers that have not ended."""
        forget(self)
        self.control.close()
        try:
            self._process.wait(3.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _ask(self, request: bytes, descriptors: list[int]) -> None:
        try:
            socket.send_fds(self.control, [request], descriptors)
        except (BrokenPipeError, ConnectionResetError):
            return  # it has ended, which is noticed when a notice is waited for


class ProcessPool:
    """Worker processes for all map blocks of a run.

    Use as a context manager; leaving it ends them. ``lock``: the descriptor of the run's lock, which they share.
    """

    def __init__(self, flow: FlowReference, workers: int, captured: LogLevels | None, lock: int) -> None:
        self._start_message = StartWorker(flow, captured)
        self._count = workers
        self._lock = lock
        self._started = 0
        self._workers: list[WorkerProcess] = []

    def __enter__(self) -> Self:
        main = sys.modules["__main__"]
        if self._start_message.flow.is_main:
            # Results name their classes as workers import them.
            sys.modules.setdefault(self._start_message.flow.module, main)
            sys.modules.setdefault("__mp_main__", main)
        try:
            with uninterrupted():
                self._server = WorkerServer(self._start_message.flow, self._count, self._lock)
        except OSError as error:
            raise RunError(f"worker processes cannot be started: {error}.") from error
        try:
            for _ in range(self._count):
                self._workers.append(self._start())
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        for worker in self._workers:
            worker.connection.close()  # on which the worker ends itself
            forget(worker)
        self._server.close()

    def run(self, mapping: MapDispatcher, params: Mapping[str, Json], parts: list[str]) -> None:
        """Run a map block with a worker for each part but the last.

        That is for what dead workers leave. When the run stops (Ctrl-C, too many failures) the workers finish the items
        that they are at, for 8 seconds at most (at a second Ctrl-C, at once); when its time is up, for 1 second; then
        their processes are killed. Raises RunError when workers cannot start, and for what one met that was no failure
        of a step; StoreError where that is a damaged file.
        """
        map_server = MapServer(mapping, params, parts[-1], self._replace, self._server, self._find)
        with interruptible((signal.SIGINT,)):
            try:
                for position, part in enumerate(parts[:-1]):
                    map_server.begin(self._workers[position], part)
                map_server.serve(lambda: mapping.deadline.remaining)
            except KeyboardInterrupt:
                acknowledge_interrupt()
                raise
            finally:
                map_server.stop(LATE_SECONDS if mapping.deadline.passed else STOP_SECONDS)
        if map_server.interrupted:
            raise KeyboardInterrupt
        if map_server.damaged:
            raise damaged(map_server.error, "Run the step that wrote it again.")
        if map_server.error:
            raise RunError(map_server.error)

    def _find(self, death: Death) -> WorkerProcess | None:
        """Return the worker that died, unless another has its place already."""
        for worker in self._workers:
            if worker.number == death.number:
                worker.death = death
                return worker
        return None

    def _replace(self, worker: WorkerProcess) -> WorkerProcess:
        """Start a worker in the place of one that ended."""
        worker.connection.close()
        position = self._workers.index(worker)
        self._workers[position] = self._start()
        return self._workers[position]

    def _start(self) -> WorkerProcess:
        self._started += 1
        with uninterrupted(), _memory() as marks:
            os.truncate(marks, MARKS.size)
            ours, theirs = Pipe()
            with theirs:
                self._server.fork(self._started, theirs.fileno(), marks)
            worker = WorkerProcess(self._started, ours, marks)
            worker.send(self._start_message)
        return worker


@contextmanager
def _memory() -> Iterator[int]:
    """Make a file without a name and yield its descriptor."""
    if sys.platform == "linux":
        descriptor = os.memfd_create("lokki")  # not on a disk, which may be full
        try:
            yield descriptor
        finally:
            os.close(descriptor)
    else:
        with tempfile.TemporaryFile() as file:
            yield file.fileno()


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Keep signals from a process that starts, until it can take them.

    They reach this process afterwards.
    """
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
