"""Runs a flow on this machine as it would run deployed.

Plan, binding, conversion, codec and retries are the same.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import os
import textwrap
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from lokki.base.options import Executor
from lokki.base.values import INLINE_LIMIT
from lokki.base.variables import is_traced
from lokki.engine.events import Event
from lokki.errors import LokkiError, RunError, RunFolderError
from lokki.graph import FlowGraph
from lokki.loading import file_of, name_main, path_from
from lokki.local_run.again import Rerun, operation_of
from lokki.local_run.execution import Listener, LocalExecution, Setup
from lokki.local_run.levels import LogLevels
from lokki.local_run.local_secrets import secrets_of
from lokki.local_run.run_values import RunValues
from lokki.local_run.runs import RunRecord, Runs, changes, new_run_id
from lokki.plan import Plan, bind_parameters, lower, plan_lines
from lokki.plan_json import plan_to_json
from lokki.store.codec import own_module

if TYPE_CHECKING:  # start-up: see _pool
    from lokki.local_run.processes import ProcessPool
    from lokki.local_run.worker_process import FlowReference

__all__ = ["Executor", "Listener", "LocalRunner", "Resume"]


@dataclass(frozen=True, slots=True)
class Resume:
    """Which run to resume, and what of it to run again.

    * ``run_id``: None for the flow's latest that is not finished; with ``from_step`` or ``retry_failed`` its latest.
    * ``force``: resume it also when the flow or the parameters have changed.
    * ``from_step``: run this step again, and what follows it: the name of a step, or the id of a call.
    * ``retry_failed``: run items again whose failures were tolerated, and what follows their map block.
    """

    run_id: str | None = None
    force: bool = False
    from_step: str | None = None
    retry_failed: bool = False


MOST_THREADS = 32
"""Threads of a map whose steps wait, where the user does not say how many."""


def ignore_event(event: Event) -> None:
    """Listen to nothing."""


class LocalRunner:
    """Runs flows in this process, and map blocks on one of three executors.

    * ``executor``: ``"threads"`` (default; best for steps that wait or call compiled code), ``"processes"`` (for Python
      that keeps a CPU busy) or ``"inline"`` (one item after another on the calling thread, for debuggers).
    * ``workers``: how many at one time; default: up to 32 on threads, where a map begins with one for each CPU and
      starts more while CPUs are free; one per CPU as processes.
    * ``root``: where run folders are made, default ``.lokki``.
    * ``listener``: is called with each event, one at a time, from whichever thread it happened on.
    * ``inline_limit``: bytes of JSON up to which a result needs no file of its own.
    * ``keep_going``: a map block runs all its items, also when more of them fail than it tolerates; then the run fails.
    * ``captured``: events also tell what steps print in worker processes, instead of printing it, and which log records
      of theirs. None, the default: they do not.
    * ``abandon``: ends the process, where the main thread is in a late step that Python cannot interrupt; it is called
      on another thread. None, the default: such a step is waited for.
    """

    def __init__(
        self,
        *,
        root: Path = Path(".lokki"),
        executor: Executor = "threads",
        workers: int | None = None,
        listener: Listener = ignore_event,
        inline_limit: int = INLINE_LIMIT,
        keep_going: bool = False,
        captured: LogLevels | None = None,
        abandon: Callable[[LokkiError], None] | None = None,
    ) -> None:
        if executor not in ("threads", "processes", "inline"):
            raise RunError(f"there is no executor {executor!r}: choose threads, processes or inline.")
        if workers is not None and workers < 1:
            raise RunError(f"workers={workers!r}: give a whole number of at least 1.")
        self.runs = Runs(root)
        self.executor: Executor = executor
        self.workers = 1 if executor == "inline" else workers or _default_workers(executor)
        self._first_threads = self.workers if workers is not None else min(self.workers, _cpus())
        self._listener = listener
        self._inline_limit = inline_limit
        self._keep_going = keep_going
        self._captured = captured
        self._abandon = abandon

    def run(
        self,
        graph: FlowGraph,
        params: Mapping[str, object] | None = None,
        *,
        run_id: str | None = None,
        resume: Resume | None = None,
    ) -> object:
        """Run a flow and return its result, as it was read back from the store.

        * ``params``: values by name, JSON or of the annotated types.
        * ``run_id``: default a new one.
        * ``resume``: resume a run that failed, was interrupted or was killed, with the parameters that it had.

        Raises ParameterError for parameters that do not fit, RunFolderError for a run that cannot be started or
        resumed, RunError when the run failed (the step's own exception is its cause).
        """
        if getattr(graph.origin, "__module__", None) == "__main__":
            name_main()
        with reading_for(graph), secrets_of(graph.steps):
            return self._run(graph, params, run_id, resume)

    def _run(
        self, graph: FlowGraph, params: Mapping[str, object] | None, run_id: str | None, resume: Resume | None
    ) -> object:
        plan = lower(graph)
        flow = self._importable(graph, plan)
        code = {name: _checksum(step.fn) for name, step in plan.steps.items()}
        rerun = Rerun() if resume is None else _rerun(plan, resume)
        record = self._new(graph, plan, code, params, run_id) if resume is None else self._resumed(plan, params, resume)
        with self.runs.locked(record.run_id) as lock, self._pool(plan, flow, record, rerun, lock) as pool:
            setup = Setup(
                self.runs,
                self.executor,
                self.workers,
                self._traced_listener(plan),
                self._inline_limit,
                pool,
                self._keep_going,
                self._abandon,
                self._first_threads,
            )
            return LocalExecution(setup, plan, record, code).execute(None if resume is None else rerun)

    def _traced_listener(self, plan: Plan) -> Listener:
        if not is_traced(os.environ):
            return self._listener
        from lokki.observing.spans import RunTracer  # for start-up: few runs are traced

        return RunTracer(self._listener, plan, "local", os.environ)

    def _new(
        self,
        graph: FlowGraph,
        plan: Plan,
        code: dict[str, str],
        params: Mapping[str, object] | None,
        run_id: str | None,
    ) -> RunRecord:
        record = RunRecord(
            run_id or new_run_id(),
            plan.flow,
            dict(bind_parameters(plan.params, params or {})),
            plan_to_json(plan),
            code,
            status="running",
            started=datetime.now(UTC).isoformat(timespec="microseconds"),
            file=path_from(self.runs.folder.parent.absolute().parent, file_of(graph)),
        )
        self.runs.new(record)
        return record

    def _resumed(self, plan: Plan, params: Mapping[str, object] | None, resume: Resume) -> RunRecord:
        anew = resume.from_step is not None or resume.retry_failed
        run_id = resume.run_id or self._latest(plan.flow, also_finished=anew)
        record = self.runs.load(run_id)
        if record.flow != plan.flow:
            raise RunFolderError(f"the run {run_id!r} is one of {record.flow}, not of {plan.flow}.")
        names = {param.name for param in plan.params}
        previous = {name: value for name, value in record.params.items() if name in names}
        bound = bind_parameters(plan.params, previous | dict(params or {}))
        differences = changes(record, plan_lines(plan), bound)
        if differences and not resume.force:
            listed = "\n  ".join(differences)
            raise RunFolderError(
                f"the run {run_id!r} was started with another flow or other parameters:\n  {listed}\n"
                "Start a new run, or keep its results all the same with --force."
            )
        return replace(record, params=dict(bound), plan=plan_to_json(plan))

    def _latest(self, flow: str, *, also_finished: bool) -> str:
        records = self.runs.list(flow)
        unfinished = [record for record in records if also_finished or record.status != "finished"]
        if not unfinished:
            reason = "there is none."
            if records:
                latest = records[0].run_id
                reason = f"the latest, {latest}, is finished; --resume {latest} gives its result."
            raise RunFolderError(f"no run of {flow} in {self.runs.folder} is left to resume: {reason}")
        return unfinished[0].run_id

    def _importable(self, graph: FlowGraph, plan: Plan) -> FlowReference | None:
        """Say where worker processes find the flow, if there are to be any.

        It is asked before there is a run that would fail.
        """
        if self.executor != "processes" or not any(plan.fan_outs):
            return None
        from lokki.local_run.processes import reference  # for start-up: the other executors need no multiprocessing

        return reference(graph, plan)

    def _pool(
        self, plan: Plan, flow: FlowReference | None, record: RunRecord, rerun: Rerun, lock: int
    ) -> AbstractContextManager[ProcessPool | None]:
        """Start worker processes, if there is something for them to do.

        They get ready while the first step runs.
        """
        if flow is None or (rerun == Rerun() and not RunValues(plan, self.runs.folder_of(record)).maps_remain()):
            return nullcontext()
        from lokki.local_run.processes import ProcessPool  # for start-up, as above

        return ProcessPool(flow, self.workers, self._captured, lock)


def _rerun(plan: Plan, resume: Resume) -> Rerun:
    operation = "" if resume.from_step is None else operation_of(plan, resume.from_step).id
    return Rerun(operation, resume.retry_failed)


@contextmanager
def reading_for(graph: FlowGraph) -> Iterator[None]:
    """Let values name classes of the flow's file as those of ``__main__``.

    For as long as a run goes on, they are read as classes of the module that the file is imported as.
    """
    token = own_module.set(getattr(graph.origin, "__module__", None))
    try:
        yield
    finally:
        own_module.reset(token)


def _default_workers(executor: Executor) -> int:
    return _cpus() if executor == "processes" else MOST_THREADS


def _cpus() -> int:
    return os.process_cpu_count() or 1


def _checksum(fn: Callable[..., object]) -> str:
    """Return a checksum of a step's code, without comments and layout.

    Decorators do not count either. Where the source cannot be had, it is that of the bytecode.
    Source that is no single definition, as a lambda's, counts as it is written.
    """
    fn = inspect.unwrap(fn)
    try:
        source = inspect.getsource(fn)
        [definition] = ast.parse(textwrap.dedent(source)).body
        if isinstance(definition, ast.FunctionDef):
            definition.decorator_list = []
        source = ast.dump(definition)
    except (OSError, TypeError):
        source = str(getattr(getattr(fn, "__code__", None), "co_code", b""))
    except (SyntaxError, ValueError):
        pass  # the line of a lambda: its source will do
    return hashlib.sha256(source.encode()).hexdigest()[:16]
