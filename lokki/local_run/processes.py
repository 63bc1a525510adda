"""The executor that runs items in worker processes, for steps that keep a CPU busy: starting and ending them.

On Linux workers are forked before the run starts anything else, while the process has a single thread; elsewhere, and
for workers that replace ones that died once there are threads, Python is started anew and draws the flow again from its
module.
"""

from __future__ import annotations

import multiprocessing
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.context import ForkContext, SpawnContext
from multiprocessing.sharedctypes import RawArray
from pathlib import Path
from typing import Self

from lokki.errors import RunError, damaged
from lokki.graph import FlowGraph
from lokki.local_run.levels import LogLevels
from lokki.local_run.mapping import MapRun
from lokki.local_run.serving import Served, WorkerProcess
from lokki.local_run.threads import LATE_SECONDS, STOP_SECONDS
from lokki.local_run.worker_process import FlowReference, worker_main
from lokki.plan import Plan, describe
from lokki.values import Json


def reference(graph: FlowGraph, plan: Plan) -> FlowReference | None:
    """Say where another process finds this flow; None when it cannot be imported (made in a function, or typed in)."""
    module = sys.modules.get(getattr(graph.origin, "__module__", ""))
    name = getattr(graph.origin, "__qualname__", "")
    if module is None or getattr(module, "__file__", None) is None or getattr(module, name, None) is not graph.origin:
        return None
    return FlowReference(module.__name__, name, describe(plan))


class ProcessPool:
    """Worker processes for all map blocks of a run. Use as a context manager; leaving it ends them."""

    def __init__(self, graph: FlowGraph, plan: Plan, workers: int, captured: LogLevels | None) -> None:
        self._plan = plan
        self._reference = reference(graph, plan)
        self._captured = captured
        self._count = workers
        self._workers: list[WorkerProcess] = []

    def __enter__(self) -> Self:
        try:
            with _without_interrupts():
                for _ in range(self._count):
                    self._workers.append(self._start())
        except OSError as error:
            self.__exit__()
            raise RunError(f"{self._count} worker processes cannot be started: {error}; ask for fewer.") from error
        return self

    def __exit__(self, *exception: object) -> None:
        for worker in self._workers:
            worker.connection.close()  # on which the worker ends itself
        for worker in self._workers:
            worker.process.join(1.0)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()

    def run(self, mapping: MapRun, params: Mapping[str, Json], parts: list[str]) -> None:
        """Run a map block with a worker for each part but the last, which is for what dead workers leave.

        When the run stops (Ctrl-C, too many failures) the workers finish the items that they are at, for 10 seconds at
        most (at a second Ctrl-C, at once); when its time is up, for 1 second; then their processes are killed.
        Raises RunError when workers cannot start, and for what one met that was no failure of a step; StoreError where
        that is a damaged file.
        """
        served = Served(mapping, params, parts[-1], self._replace)
        try:
            for position, part in enumerate(parts[:-1]):
                if not self._workers[position].process.is_alive():
                    self._replace(self._workers[position])
                served.begin(self._workers[position], part)
            served.serve(lambda: mapping.deadline.remaining)
        finally:
            served.stop(LATE_SECONDS if mapping.deadline.passed else STOP_SECONDS)
        if served.interrupted:
            raise KeyboardInterrupt
        if served.damaged:
            raise damaged(served.error, "Run the step that wrote it again.")
        if served.error:
            raise RunError(served.error)

    def _replace(self, worker: WorkerProcess) -> WorkerProcess:
        """Start a worker in the place of one that ended."""
        worker.connection.close()
        worker.process.join()
        position = self._workers.index(worker)
        with _without_interrupts():
            self._workers[position] = self._start()
        return self._workers[position]

    def _start(self) -> WorkerProcess:
        fork = sys.platform == "linux" and _has_one_thread()
        if not fork and self._reference is None:
            raise RunError(
                "worker processes import the flow anew, but it is not at the top level of a module: "
                "move it there, or use the executor 'threads'."
            )
        context: ForkContext | SpawnContext
        context = multiprocessing.get_context("fork") if fork else multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        at = RawArray("q", [-1, 0, 0])
        # A forked child has copies of the parent's ends of all pipes: its siblings would not notice a dead parent.
        inherited = [ours, *(worker.connection for worker in self._workers)] if fork else []
        source = self._plan if fork else self._reference
        arguments = (theirs, at, source, inherited, self._captured)
        process = context.Process(target=worker_main, args=arguments)
        process.start()
        theirs.close()
        return WorkerProcess(process, ours, at)


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Keep Ctrl-C from processes that start, until they can take it; it reaches this process afterwards."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _has_one_thread() -> bool:
    """Tell whether this process has one thread, those of libraries counted: only then is it safe to fork."""
    return sum(1 for _ in Path("/proc/self/task").iterdir()) == 1
