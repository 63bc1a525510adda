"""One emulated run: its folder, its events from start to end, and its result."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from lokki.base.values import Json
from lokki.base.variables import is_traced
from lokki.builder.names import DeployedFunction, deployed_functions, function_suffixes
from lokki.emulator.iam.suggestions import advice, lines_by_step
from lokki.emulator.run import Emulation, EmulationOptions
from lokki.emulator.run_files import emulated_name
from lokki.engine.causes import reported_failure
from lokki.engine.events import Event, RunFailed, RunFinished, RunInterrupted, RunStarted
from lokki.errors import LokkiError, RunError, RunFolderError
from lokki.graph import FlowGraph
from lokki.loading import file_of, package_locator, path_from
from lokki.local_run.checksums import take_checksums, write_checksums
from lokki.local_run.runs import RunRecord, Runs, new_run_id, recorded_lines
from lokki.observing.translating import RunTranslator
from lokki.plan import Plan, bind_parameters, lower, plan_lines
from lokki.plan_json import plan_to_json

_RESUMABLE = ("failed", "interrupted")


@dataclass(frozen=True, slots=True)
class Session:
    """Where and how emulated runs are done.

    * ``bundle``: the folder that was built.
    * ``emit``: gets lokki's events.
    * ``root``: where run folders are made.
    * ``suggest``: gets the permissions that steps lack, as lines by step, instead of the run's error.
    """

    bundle: Path
    emit: Callable[[Event], None]
    options: EmulationOptions
    root: Path = Path(".lokki")
    suggest: Callable[[Mapping[str, Sequence[str]]], None] | None = None

    def run(
        self, graph: FlowGraph, params: Mapping[str, object], run_id: str | None = None, *, plan: Plan | None = None
    ) -> object:
        """Run a built flow, and return its result.

        ``plan``: of the graph, where it was lowered to be built. Raises ParameterError for parameters that do not fit,
        EmulatorError for what cannot be emulated, RunError for a run that failed.
        """
        plan = plan or lower(graph)
        bound = bind_parameters(plan.params, params)
        payload = {name: bound[name] for name in params}  # defaults are the first function's to add
        started = datetime.now(UTC).isoformat(timespec="microseconds")
        record = RunRecord(
            run_id or new_run_id(),
            emulated_name(plan.flow),
            dict(bound),
            dict(plan_to_json(plan)),
            {},
            "running",
            started,
            file=path_from(self._runs.folder.parent.absolute().parent, file_of(graph)),
        )
        self._runs.new(record)
        return self._follow(graph, plan, record, payload, redriven=False)

    def resume(self, graph: FlowGraph, run_id: str | None = None, *, plan: Plan | None = None) -> object:
        """Redrive a run that failed or was interrupted.

        It is the latest unless ``run_id`` says another. It continues where it stopped, with today's packages; as on
        AWS, the state machine must be the same. Raises what `run` raises, and RunFolderError for a run that cannot be
        resumed.
        """
        plan = plan or lower(graph)
        record = self._runs.load(run_id or self._latest(plan.flow))
        if record.flow != emulated_name(plan.flow) or record.status not in _RESUMABLE:
            raise RunFolderError(
                f"the run {record.run_id!r} is one of {record.flow} and {record.status}; it cannot be resumed."
            )
        if recorded_lines(record) != plan_lines(plan):
            raise RunFolderError(f"the run {record.run_id!r} was started with another flow. Start a new run.")
        return self._follow(graph, plan, record, record.params, redriven=True)

    @property
    def _runs(self) -> Runs:
        return Runs(self.root)

    def _latest(self, flow: str) -> str:
        records = [record for record in self._runs.list(emulated_name(flow)) if record.status in _RESUMABLE]
        if not records:
            raise RunFolderError(
                f"no emulated run of {flow} in {self._runs.folder} failed or was interrupted, and one that was killed "
                "cannot be resumed. Start a new run."
            )
        return records[0].run_id

    def _follow(
        self, graph: FlowGraph, plan: Plan, record: RunRecord, params: dict[str, Json], *, redriven: bool
    ) -> object:
        """Report a run from start to end, and keep its record."""
        start = time.monotonic()
        functions = tuple(deployed_functions(graph.steps))
        emit = self._traced_emit(plan)
        listener = _Listener(emit, RunTranslator(plan, package_locator(file_of(graph))), functions)
        with self._runs.locked(record.run_id):
            folder = self._runs.folder / record.run_id
            listener(RunStarted(plan.flow, record.run_id, params, redriven, str(folder)))
            try:
                result = self._emulate(folder, record, params, listener, redriven=redriven)
            except BaseException as error:  # Ctrl-C too: the record must not say "running" of a run that is over
                seconds = time.monotonic() - start
                status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
                self._runs.save(replace(record, status=status, seconds=seconds, error=str(error)))
                # Past the listener, which would read the reason as an execution's once more.
                emit(RunInterrupted(seconds) if status == "interrupted" else RunFailed(seconds, str(error)))
                raise
            seconds = time.monotonic() - start
            self._runs.save(replace(record, status="finished", seconds=seconds))
            listener(RunFinished(seconds))
            return result

    def _traced_emit(self, plan: Plan) -> Callable[[Event], None]:
        if not is_traced(os.environ):
            return self.emit
        from lokki.observing.spans import RunTracer  # for start-up: few runs are traced

        return RunTracer(self.emit, plan, "emulated", os.environ)

    def _emulate(
        self, folder: Path, record: RunRecord, params: Mapping[str, Json], listener: _Listener, *, redriven: bool
    ) -> object:
        take_checksums(folder, record.seal)
        try:
            return self._execute(folder, record.run_id, params, listener, redriven=redriven)
        finally:
            with suppress(LokkiError, OSError):  # what ended the run is raised, not that its folder is gone
                write_checksums(folder, record.seal)

    def _execute(
        self, folder: Path, run_id: str, params: Mapping[str, Json], listener: _Listener, *, redriven: bool
    ) -> object:
        """Return the flow's result.

        Raises RunError, which says why, for an execution that has none.
        """
        with Emulation(self.bundle, folder, listener, self.options) as emulation:
            execution = emulation.revive(run_id, params) if redriven else emulation.start(run_id, params)
            try:
                outcome = execution.redrive() if redriven else execution.run()
            except KeyboardInterrupt:
                emulation.keep(execution)
                raise
            if outcome.status != "SUCCEEDED":
                emulation.keep(execution)
            self.options.inspect(emulation.account)
            lacking = _lacking(emulation, listener.functions)
            if self.suggest is not None:
                self.suggest(lacking)
            if outcome.status != "SUCCEEDED":
                # Raised in here, so that the emulation knows of it: what ends badly besides must not hide it.
                cause = reported_failure("", outcome.error, outcome.cause)
                why = listener.translator.why(cause.summary)
                raise RunError(why if self.suggest is not None else f"{why}{advice(lacking)}")
            return emulation.result(outcome)


def _lacking(emulation: Emulation, functions: Sequence[DeployedFunction]) -> dict[str, list[str]]:
    """Return the permissions that steps lacked, as lines by step."""
    name = emulation.built.name
    suffixes = function_suffixes(name, [function.name for function in functions])
    steps = {f"{name}-{suffixes[function.name]}": function.step.name for function in functions}
    return lines_by_step(emulation.s3.missing_permissions(), steps)


class _Listener:
    """Hands events on in the words of a local run; for any thread.

    ``functions``: those of the flow.
    """

    def __init__(
        self, emit: Callable[[Event], None], translator: RunTranslator, functions: Sequence[DeployedFunction]
    ) -> None:
        self.functions = functions
        self.translator = translator
        self._emit = emit
        self._lock = threading.Lock()

    def __call__(self, event: Event) -> None:
        """Take an event."""
        with self._lock:
            event = self.translator.translate(event)
        self._emit(event)
