"""Executes the operations of a plan in order, each unless its result is there already."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from lokki.base.failures import Failure, failure_of
from lokki.base.item_path import ItemPath, format_item
from lokki.base.options import Executor
from lokki.base.values import Inline, ref_to_json
from lokki.engine.context import at_item
from lokki.engine.events import (
    CodeChanged,
    Event,
    MapFinished,
    MapStarted,
    RunFailed,
    RunFinished,
    RunInterrupted,
    RunStarted,
    StepFailed,
    StepFinished,
    StepRetried,
    StepSkipped,
    StepStarted,
)
from lokki.engine.invocation import Attempts, Invocation, StepFailedError, StoppedError, run
from lokki.engine.limits import Deadline, TimeLimit, on_one_thread
from lokki.engine.report import map_failure
from lokki.errors import DamagedError, LokkiError, ResultError, RunError, RunFolderError, StepTimeoutError, StoreError
from lokki.local_run import journal_reader
from lokki.local_run.again import Rerun, operation_of
from lokki.local_run.feed import Feed
from lokki.local_run.folder import MapOutcome
from lokki.local_run.forks import guarded
from lokki.local_run.interrupts import acknowledge_interrupt, raise_interrupt
from lokki.local_run.mapping import MapDispatcher
from lokki.local_run.runs import CodeOfParts, RunRecord, Runs
from lokki.local_run.threads import run_inline, run_on_threads
from lokki.local_run.worker import MapJob, environment, guarded_call
from lokki.plan import Plan
from lokki.plans.operations import Call, FanOut, Op, calls_in
from lokki.plans.templates import Output, Results
from lokki.store.base import save
from lokki.store.items import WrittenItems, write_items
from lokki.store.local import flush_directory, make_directory
from lokki.store.manifest import check_items, item_lines

if TYPE_CHECKING:  # start-up: multiprocessing is loaded for the executor "processes" only
    from lokki.local_run.processes import ProcessPool

type Listener = Callable[[Event], None]


@dataclass(frozen=True, slots=True)
class Setup:
    """How a run is executed, whatever its flow.

    * ``inline_limit``: bytes of JSON up to which a result needs no file of its own.
    * ``pool``: the worker processes, with the executor ``processes``.
    * ``keep_going``: a map block runs all its items, however many fail.
    * ``abandon``: ends the process, where the main thread does not come back from a step that is late.
    """

    runs: Runs
    executor: Executor
    workers: int
    listener: Listener
    inline_limit: int
    pool: ProcessPool | None = None
    keep_going: bool = False
    abandon: Callable[[LokkiError], None] | None = None


class _SourceError(Exception):
    """Carries an error of the user's generator past our own handlers."""

    def __init__(self, raised: Exception) -> None:
        super().__init__()
        self.raised = raised


class LocalExecution:
    """One run of a plan.

    ``code``: a checksum of each step's code as it is now.
    """

    def __init__(self, setup: Setup, plan: Plan, record: RunRecord, code: dict[str, str]) -> None:
        self._setup = setup
        self._plan = plan
        self._record = record
        self._code = code
        self._emit = setup.listener
        self._store = setup.runs.store
        self._folder = setup.runs.folder_of(record)
        self._identity = setup.runs.identity(record.run_id)
        self._began = time.monotonic()
        timeout = plan.options.timeout
        self._deadline = Deadline(None if timeout is None else self._began + timeout)
        self._params = record.params
        self._limit = TimeLimit(deadline=self._deadline, stuck=self._give_up if setup.abandon is not None else None)

    def execute(self, rerun: Rerun | None) -> object:
        """Run what is left of the plan and return the result.

        ``rerun``: None for a new run; for one that is resumed, what it runs again although the results are there.
        Raises RunFolderError when failed items are to run again and there are none.
        """
        folder = str(self._setup.runs.folder / self._record.run_id)
        resumed = rerun is not None
        if rerun is not None:
            try:
                self._forget(rerun)
            except OSError as error:
                raise _unusable(self._folder.path, error) from error
        try:
            # Up to the first that is not finished: whatever follows it is computed from its result.
            finished = list(takewhile(self._is_finished, self._plan.ops)) if resumed else []
            changed = self._clean(finished) if resumed else []
            self._save("running")
            self._emit(RunStarted(self._plan.flow, self._record.run_id, self._params, resumed, folder))
            for event in changed:
                self._emit(event)
            for op in finished:
                self._emit(StepSkipped(op.id))
            for op in self._plan.ops[len(finished) :]:
                raise_interrupt()
                if self._deadline.passed:
                    raise self._late()
                # Before anything is written: another run's folder may stand in its place by now.
                self._check_folder()
                if isinstance(op, FanOut):
                    self._map(op)
                elif isinstance(op, Call):
                    self._call(op)
            self._check_folder()
            result = self._result(self._plan.ops[-1].id)
            raise_interrupt()
            self._save("finished")
        except KeyboardInterrupt:
            acknowledge_interrupt()
            self._save_if_possible("interrupted")
            self._emit(RunInterrupted(self._seconds()))
            raise
        except (LokkiError, OSError) as error:
            error = self._final_error(error)
            self._save_if_possible("failed", str(error))
            self._emit(RunFailed(self._seconds(), str(error)))
            raise error
        self._emit(RunFinished(self._seconds()))
        return result

    def _check_folder(self) -> None:
        """Raise RunFolderError unless this run's folder is still in its place."""
        if self._identity is None or self._setup.runs.identity(self._record.run_id) != self._identity:
            raise RunFolderError(
                f"the folder {self._setup.runs.folder / self._record.run_id} was removed, moved or replaced during the "
                "run: start a new run."
            )

    def _final_error(self, error: LokkiError | OSError) -> LokkiError:
        """Return the error that ends the run.

        What is damaged is forgotten, so that it runs again when the run is resumed.
        """
        try:
            self._check_folder()
            if isinstance(error, DamagedError):
                self._forget_damaged(error.step)
        except LokkiError as reason:
            reason.__cause__ = error
            return reason
        except OSError:
            return _unusable(self._folder.path, error)
        return error if isinstance(error, LokkiError) else _unusable(self._folder.path, error)

    def _forget_damaged(self, step_id: str) -> None:
        op = self._plan.ops[operation_of(self._plan, step_id)]
        if isinstance(op, FanOut):
            journal_reader.repair(self._folder.parts(op.source))
            self._folder.forget_map_outcome(op.source)
        else:
            self._folder.forget_outcome(op.id)

    def _is_finished(self, op: Op) -> bool:
        """Tell whether the result of an operation is there.

        It must have the form that this flow needs: the items of a map block, or one value.
        """
        try:
            if isinstance(op, FanOut):
                return self._folder.map_outcome(op.source) is not None
            outcome = self._folder.outcome(op.id)
        except StoreError:  # damaged: it runs again
            if isinstance(op, FanOut):
                self._folder.forget_map_outcome(op.source)
            return False
        assert isinstance(op, Call)
        return outcome is not None and ("items" in outcome) is op.fans_out

    def _forget(self, rerun: Rerun) -> None:
        """Remove the results that are to be computed again.

        `_clean` removes those that depend on them.
        """
        blocks = [op for op in self._plan.ops if isinstance(op, FanOut)] if rerun.failed_items else []
        failed = [op for op in blocks if self._failed_items(op)]
        if rerun.failed_items and not failed and all(map(self._is_finished, self._plan.ops)):
            raise RunFolderError(
                f"no item of the run {self._record.run_id!r} failed, so there is none to run again; "
                f"--resume {self._record.run_id} gives its result."
            )
        if rerun != Rerun():
            self._save("running")  # first, so that a kill from here on leaves a run that says it has to go on
        for op in failed:
            # Its journal stays: in it the items that have their results are told from those that failed.
            self._folder.forget_map_outcome(op.source)
            flush_directory(self._folder.parts(op.source).folder)
        if rerun.operation is not None:
            self._remove_results(self._plan.ops[rerun.operation])

    def _remove_results(self, op: Op) -> None:
        results = self._folder.parts(op.source).folder if isinstance(op, FanOut) else self._folder.path / op.id
        if results.exists():
            shutil.rmtree(results)
            flush_directory(results.parent)

    def _failed_items(self, op: FanOut) -> int:
        """Return how many items of a map block failed, 0 for one not finished."""
        with self._folder.reading(op.calls[0].id):
            return self._folder.failed_items(op.source)

    def _clean(self, finished: list[Op]) -> list[CodeChanged]:
        """Remove half-written files, and results of what is computed again.

        Returns which steps' code has changed since they gave results that stay.
        """
        folder = self._folder.path
        for half in folder.rglob(".*.part"):
            half.unlink()
        for op in self._plan.ops[len(finished) :]:
            if isinstance(op, Call) and (folder / op.id).exists():
                shutil.rmtree(folder / op.id)
        partial = [
            op
            for op in self._plan.ops[len(finished) :][:1]
            if isinstance(op, FanOut) and self._folder.parts(op.source).folder.exists()
        ]
        older = {name: self._record.code.get(name, "") for name in _names([*finished, *partial])}
        blocks = {op.source for op in [*finished, *partial] if isinstance(op, FanOut)}
        parts = {source: parts for source, parts in self._record.changed_code.items() if source in blocks}
        failed = sum(self._failed_items(op) for op in finished if isinstance(op, FanOut))
        self._record = replace(self._record, code=self._code | older, changed_code=parts, failed=failed)
        changed = [name for name, checksum in older.items() if checksum not in ("", self._code[name])]
        return [
            CodeChanged(name, self._finished_items(partial) if name in _names(partial) else None) for name in changed
        ]

    def _finished_items(self, partial: list[FanOut]) -> int:
        """Return how many items of the unfinished map block have their results."""
        return sum(
            journal_reader.scan(self._folder.parts(op.source), self._folder.items(op.source)).finished for op in partial
        )

    def _note_code(self, op: FanOut, first_part: int) -> None:
        """Record from which part on other code makes a map block's results.

        Nothing is recorded where the code is the same.
        """
        code = {name: self._code[name] for name in _names([op])}
        noted = self._record.changed_code.get(op.source, [])
        latest = noted[-1].code if noted else {name: self._record.code[name] for name in code}
        if code != latest:
            since = datetime.now(UTC).isoformat(timespec="seconds")
            parts = [*noted, CodeOfParts(first_part, since, code)]
            self._record = replace(self._record, changed_code={**self._record.changed_code, op.source: parts})
            self._save("running")

    def _call(self, call: Call) -> None:
        self._emit(StepStarted(call.id))
        began = time.monotonic()
        invocation = self._deadline.limit(guarded_call(call, self._plan.steps[call.step], self._params))
        try:
            at_item(call.id, ())
            with environment(invocation.env):
                finished = (self._run_source if call.fans_out else self._run_step)(call, invocation, began)
        except StepFailedError as error:
            raise_interrupt()  # Ctrl-C ended what the step had started, too: the step has not failed
            raise self._failed(call.id, error.failure) from error.__cause__
        except ResultError as error:
            raise self._failed(call.id, failure_of(call.id, error, 1, invocation.defined_at)) from error
        except StoppedError:
            self._emit(StepFailed(call.id, Failure(call.id, "Timeout", str(self._late()), invocation.defined_at)))
            raise self._late() from None
        finally:
            at_item("", ())
        self._emit(finished)

    def _run_step(self, call: Call, invocation: Invocation, began: float) -> StepFinished:
        result = run(invocation, self._input(call), self._attempts(), fresh_value=lambda: self._input(call))
        self._check_folder()
        ref = save(self._store, self._folder.keys.output(call.id), result, self._setup.inline_limit, checked=True)
        text = msgspec.json.encode(ref_to_json(ref))
        self._folder.write_outcome(call.id, text)
        size = len(text) if isinstance(ref, Inline) else self._folder.output(call.id).stat().st_size
        return StepFinished(call.id, time.monotonic() - began, size)

    def _run_source(self, call: Call, invocation: Invocation, began: float) -> StepFinished:
        """Run a step and write its items.

        A generator runs here, so its tries and its timeout include that.
        """

        def make_items(*args: object, **kwargs: object) -> object:
            return self._write_items(call, invocation.fn(*args, **kwargs))

        writing = replace(invocation, fn=guarded(make_items))
        outcome = run(writing, self._input(call), self._attempts(), fresh_value=lambda: self._input(call))
        if isinstance(outcome, Exception):
            raise outcome
        assert isinstance(outcome, WrittenItems)
        self._check_folder()
        self._folder.write_items_outcome(call.id, outcome)
        size = outcome.pack_bytes + outcome.manifest_bytes
        return StepFinished(call.id, time.monotonic() - began, size, outcome.count)

    def _write_items(self, call: Call, result: object) -> WrittenItems | Exception:
        """Return what was written of the items.

        An error of ours, which is no failure of the step, is returned and not raised.
        """
        try:
            self._check_folder()
            items = _guarded(check_items(call.step, result))
            with tempfile.TemporaryFile(dir=self._folder.path) as spool:
                return write_items(self._store, self._folder.keys, call.id, items, self._setup.inline_limit, spool)
        except _SourceError as error:
            raise error.raised from None
        except (LokkiError, OSError) as error:
            return error

    def _map(self, op: FanOut) -> None:
        parts = self._folder.parts(op.source)
        with self._folder.reading(op.source, resumable=True):
            items = self._folder.items(op.source)
            self._folder.check_items(op.source)
        make_directory(parts.folder, self._folder.path)
        with self._folder.reading(op.calls[0].id, resumable=True):
            progress = journal_reader.scan(parts, items)
        finished_before = progress.finished
        workers = min(self._setup.workers, op.options.concurrency or self._setup.workers, max(items, 1))
        own_process = self._setup.executor == "inline"
        inner = [guarded_call(call, self._plan.steps[call.step], self._params) for call in op.calls]
        inner = [self._deadline.limit(invocation) for invocation in inner] if own_process else on_one_thread(inner)
        job = MapJob(
            op.source, tuple(inner), self._folder.pack(op.source), parts, self._setup.inline_limit, own_process
        )
        self._emit(MapStarted(op.source, tuple(call.id for call in op.calls), items, finished_before, workers))
        began = time.monotonic()
        with self._folder.manifest(op.source).open("rb") as manifest, self._folder.reading(op.source, resumable=True):
            feed = Feed(item_lines(manifest), progress, workers)
            mapping = MapDispatcher(job, op.options, feed, self._deadline, self._emit, self._setup.keep_going)
            if finished_before < items:
                first_part = parts.next_number()
                self._note_code(op, first_part)
                try:
                    self._run_workers(mapping, first_part, workers)
                finally:
                    self._record = replace(self._record, failed=self._record.failed + mapping.failed)
        self._check_finished(op, mapping, items - finished_before)
        self._check_folder()
        # Last of all, when the workers have forced their parts to disk: it says that they are complete.
        self._folder.write_map_outcome(op.source, MapOutcome(items, items - mapping.failed, mapping.failed))
        self._emit(MapFinished(op.source, items - mapping.failed, mapping.failed, time.monotonic() - began))

    def _run_workers(self, mapping: MapDispatcher, first_part: int, workers: int) -> None:
        # One more than there are workers: for failures of items whose worker died.
        parts = [f"part-{number:04}" for number in range(first_part, first_part + workers + 1)]
        match self._setup.executor:
            case "processes":
                assert self._setup.pool is not None
                self._setup.pool.run(mapping, self._params, parts)
            case "threads":
                with environment(_common_environment(mapping.job.inner)):
                    run_on_threads(mapping, parts[:-1])
            case "inline":
                run_inline(mapping, parts[0], self._limit)

    def _check_finished(self, op: FanOut, mapping: MapDispatcher, pending: int) -> None:
        """Raise RunError unless the map block ended as it should.

        It may have ended before all its items did, or with too many failures.
        """
        if mapping.too_many_failed and mapping.first_failure is not None:
            index, failure = mapping.first_failure
            failed_of = (mapping.failed, mapping.items)
            error = RunError(map_failure(op.source, failed_of, op.options.tolerate, (index,), failure))
            if mapping.first_error is None:  # it is in a worker process
                error.add_note(failure.traceback.rstrip())
            raise error from mapping.first_error
        if self._deadline.passed:
            raise self._late()
        if mapping.finished + mapping.failed < pending:
            raise RunError(f"the map over {op.source}() ended before all its items did; resume the run.")

    def _input(self, call: Call) -> object:
        match call.reads:
            case Output(source):
                return self._result(source)
            case Results(fan_out_id):
                return self._results(self._plan.fan_out(fan_out_id))
            case _:
                return None

    def _results(self, block: FanOut) -> list[object]:
        source_id = block.source
        with self._folder.reading(source_id, resumable=True):
            items = self._folder.items(source_id)
        with self._folder.reading(block.calls[0].id, resumable=True):
            return journal_reader.results(self._folder.parts(source_id), items, self._folder.failed_items(source_id))

    def _result(self, step_id: str) -> object:
        with self._folder.reading(step_id, resumable=True):
            return self._folder.result(step_id)

    def _attempts(self) -> Attempts:
        def retried(step_id: str, attempt: int, wait: float, failure: Failure) -> None:
            raise_interrupt()
            self._emit(StepRetried(step_id, (), attempt, wait, failure))

        def sleep(seconds: float) -> None:
            remaining = self._deadline.remaining
            time.sleep(seconds if remaining is None else min(seconds, remaining))
            if self._deadline.passed:
                raise StoppedError

        return Attempts(sleep, self._limit, retried)

    def _give_up(self, late: StepTimeoutError, at: tuple[str, ItemPath]) -> None:
        """End the run and the process from another thread than the main one.

        That one is inside of a late step that does not end.
        """
        assert self._setup.abandon is not None
        step_id, path = at
        failure = failure_of(step_id, late)
        item = f" on item {format_item(path)}" if path else ""
        error = (
            self._late() if self._deadline.passed else RunError(f"{failure}{item}, in code that cannot be interrupted")
        )
        self._emit(StepFailed(step_id, failure))
        self._save_if_possible("failed", str(error))
        self._emit(RunFailed(self._seconds(), str(error)))
        self._setup.abandon(error)

    def _failed(self, step_id: str, failure: Failure) -> RunError:
        self._emit(StepFailed(step_id, failure))
        return RunError(str(failure))

    def _late(self) -> RunError:
        return RunError(f"the run took longer than the flow's timeout of {self._plan.options.timeout:g} seconds.")

    def _seconds(self) -> float:
        return time.monotonic() - self._began

    def _save(self, status: str, error: str = "") -> None:
        seconds = self._record.seconds + self._seconds()
        self._setup.runs.save(replace(self._record, status=status, seconds=seconds, error=error))

    def _save_if_possible(self, status: str, error: str = "") -> None:
        """Save how the run ended.

        On a full disk it reads ``killed`` instead, and can be resumed just the same.
        """
        with suppress(LokkiError, OSError):
            self._check_folder()  # never into the folder of another run
            self._save(status, error)


def _unusable(folder: Path, error: LokkiError | OSError) -> RunError:
    unusable = RunError(f"the run's folder {folder} cannot be used: {error}.")
    unusable.__cause__ = error
    return unusable


def _names(ops: Sequence[Op]) -> list[str]:
    """Name the steps of some operations, each once, in order."""
    return list(dict.fromkeys(call.step for call in calls_in(tuple(ops))))


def _guarded(items: Iterable[object]) -> Iterator[object]:
    """Yield the user's items, and mark errors of their making as the user's."""
    try:
        yield from items
    except (LokkiError, OSError) as error:
        raise _SourceError(error) from error


def _common_environment(inner: tuple[Invocation, ...]) -> dict[str, str]:
    """Return the environment that the inner steps need, which threads share.

    Raises RunError when they need different values of one variable.
    """
    merged: dict[str, str] = {}
    for invocation in inner:
        for name, value in invocation.env.items():
            if merged.setdefault(name, value) != value:
                raise RunError(
                    f"{invocation.id}() wants {name}={value!r}, another step of the same map block {merged[name]!r}; "
                    "threads share one environment. Use the executor 'processes'."
                )
    return merged
