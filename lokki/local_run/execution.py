"""Executes the operations of a plan, in order or side by side, each unless its result is there already."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lokki.base.failures import Failure, failure_of
from lokki.base.item_path import ItemPath, format_item
from lokki.base.options import Executor
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
    StepNotChosen,
    StepRetried,
    StepSkipped,
    StepStarted,
)
from lokki.engine.invocation import Attempts, Invocation, StepFailedError, StoppedError, takes_one_by_one
from lokki.engine.limits import Deadline, TimeLimit, on_one_thread
from lokki.errors import DamagedError, LokkiError, ResultError, RunError, RunFolderError, StepTimeoutError
from lokki.local_run import journal_reader
from lokki.local_run.again import Rerun
from lokki.local_run.body import body_of
from lokki.local_run.calls import CallRunner
from lokki.local_run.feed import Feed
from lokki.local_run.folder import MapOutcome
from lokki.local_run.interrupts import acknowledge_interrupt, raise_interrupt
from lokki.local_run.journal import Parts
from lokki.local_run.mapping import MapDispatcher
from lokki.local_run.ready_results import ReadyResults
from lokki.local_run.regrouping import ItemRegrouper
from lokki.local_run.resuming import Resuming, step_names
from lokki.local_run.run_values import RunValues
from lokki.local_run.runs import CodeOfParts, RunRecord, Runs
from lokki.local_run.schedule import Schedule, Unit
from lokki.local_run.shared_values import Loaders, copies_of, write_values
from lokki.local_run.side_by_side import Halt, SharedEnvironment, Slots, run_side_by_side
from lokki.local_run.threads import run_inline, run_on_threads
from lokki.local_run.worker import MapJob, environment, guarded_call
from lokki.observing.report import map_failure
from lokki.plan import Plan
from lokki.plans.levels import drawn_sources
from lokki.plans.operations import Block, Call, FanOut, Fork, Op, Switch, calls_in, operations_in
from lokki.plans.templates import Results, source_name
from lokki.store.local import flush_directory, make_directory
from lokki.store.manifest import item_lines

if TYPE_CHECKING:  # start-up: multiprocessing is loaded for the executor "processes" only
    from lokki.local_run.processes import ProcessPool

type Listener = Callable[[Event], None]


class _Branch(threading.local):
    """What a thread that runs a branch has of its own."""

    limit: TimeLimit | None = None


_branch = _Branch()


@dataclass(frozen=True, slots=True)
class Setup:
    """How a run is executed, whatever its flow.

    * ``inline_limit``: bytes of JSON up to which a result needs no file of its own.
    * ``pool``: the worker processes, with the executor ``processes``.
    * ``keep_going``: a map block runs all its items, however many fail.
    * ``first_threads``: with how many a map begins on threads; it starts the others while CPUs are free.
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
    first_threads: int = 1


class LocalExecution:
    """One run of a plan.

    ``code``: a checksum of each step's code as it is now.
    """

    def __init__(self, setup: Setup, plan: Plan, record: RunRecord, code: dict[str, str]) -> None:
        self._setup = setup
        self._plan = plan
        self._record = record
        self._code = code
        self._store = setup.runs.store
        self._folder = setup.runs.folder_of(record)
        self._identity = setup.runs.identity(record.run_id)
        self._began = time.monotonic()
        timeout = plan.options.timeout
        self._deadline = Deadline(None if timeout is None else self._began + timeout)
        self._params = record.params
        self._environ = dict(os.environ)
        self._limit = TimeLimit(deadline=self._deadline, stuck=self._give_up if setup.abandon is not None else None)
        self._own_thread = threading.get_ident()
        self._lock = threading.RLock()  # of what branches on other threads change: the record, and what listeners see
        self._halt = Halt()
        self._pool_lock = threading.Lock()
        self._slots = Slots(setup.workers, self._halt)
        self._environment = SharedEnvironment(self._halt)
        self._is_forked = any(isinstance(op, Fork) for op in operations_in(plan.ops))
        self._kept: frozenset[str] = frozenset()
        self._values = RunValues(plan, self._folder)
        self._resuming = Resuming(plan, self._folder, self._values)
        regrouping = ItemRegrouper(plan, self._folder)
        self._calls = CallRunner(
            self._store, self._folder, self._values, setup.inline_limit, self._check_folder, regrouping
        )

    def execute(self, rerun: Rerun | None) -> object:
        """Run what is left of the plan and return the result.

        ``rerun``: None for a new run; for one that is resumed, what it runs again although the results are there.
        Raises RunFolderError when failed items are to run again and there are none.
        """
        folder = str(self._setup.runs.folder / self._record.run_id)
        resumed = rerun is not None
        if rerun is not None:
            try:
                self._resuming.forget(rerun, self._record.run_id, lambda: self._save("running"))
            except OSError as error:
                raise _unusable(self._folder.path, error) from error
        try:
            remaining = self._values.remaining() if resumed else Schedule()
            changed = self._clean(remaining) if resumed else []
            self._kept = remaining.kept
            self._save("running")
            self._emit(RunStarted(self._plan.flow, self._record.run_id, self._params, resumed, folder))
            for event in changed:
                self._emit(event)
            for unit in remaining.finished:
                self._emit(StepSkipped(unit.id))
            self._run_block(self._plan.ops)
            self._check_folder()
            result = self._values.result()
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

    def _emit(self, event: Event) -> None:
        with self._lock:
            self._setup.listener(event)

    def _run_block(self, block: Block) -> None:
        for op, following in zip(block, (*block[1:], None), strict=True):
            match op:
                case Call() | FanOut():
                    if op.id not in self._kept:
                        self._run_unit(op, following)
                case Fork():
                    self._run_fork(op)
                case Switch():
                    self._run_switch(op)

    def _run_unit(self, unit: Unit, following: Op | None) -> None:
        raise_interrupt()
        self._halt.check()
        if self._deadline.passed:
            raise self._late()
        # Before anything is written: another run's folder may stand in its place by now.
        self._check_folder()
        if isinstance(unit, FanOut):
            self._map(unit, self._ready_for(following, unit))
        elif unit.regroups is not None:
            self._regroup(unit)
        else:
            self._call(unit)

    def _ready_for(self, following: Op | None, block: FanOut) -> ReadyResults | None:
        """Return what takes a map block's results for the call after it.

        None where that wants no list, or other processes make them.
        """
        if self._setup.executor == "processes" or not isinstance(following, Call):
            return None
        is_reader = following.reads == Results(block.id) and following.regroups is None
        if not is_reader or takes_one_by_one(following, self._plan.steps[following.step]):
            return None
        return self._values.make_ready(block)

    def _run_fork(self, fork: Fork) -> None:
        """Run the branches of a fork side by side.

        For debuggers they run one after another.
        """
        if self._setup.executor == "inline":
            for branch in fork.branches:
                self._run_block(branch)
        else:
            run_side_by_side([partial(self._run_branch, branch) for branch in fork.branches], self._halt)

    def _run_branch(self, block: Block) -> None:
        try:
            self._run_block(block)
        finally:
            self._time_limit().close()

    def _run_switch(self, switch: Switch) -> None:
        """Run the case that the call of a switch chose."""
        chosen = self._values.case_of(switch)
        for case in switch.cases:
            if case is not chosen:
                for call in calls_in(case.block):
                    self._emit(StepNotChosen(call.id))
        self._run_block(chosen.block)

    def _time_limit(self) -> TimeLimit:
        """Return this thread's own: a branch has another than the run."""
        if threading.get_ident() == self._own_thread:
            return self._limit
        if _branch.limit is None:
            _branch.limit = TimeLimit(deadline=self._deadline)
        return _branch.limit

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
                self._resuming.forget_damaged(error.step)
        except LokkiError as reason:
            reason.__cause__ = error
            return reason
        except OSError:
            return _unusable(self._folder.path, error)
        return error if isinstance(error, LokkiError) else _unusable(self._folder.path, error)

    def _clean(self, remaining: Schedule) -> list[CodeChanged]:
        """Remove what is not kept, and return whose code has changed."""
        self._record, changed = self._resuming.clean(remaining, self._record, self._code)
        return changed

    def _note_code(self, op: FanOut, first_part: int) -> None:
        """Record from which part on other code makes a map block's results.

        Nothing is recorded where the code is the same.
        """
        code = {name: self._code[name] for name in step_names([op])}
        with self._lock:
            noted = self._record.changed_code.get(op.key, [])
            latest = noted[-1].code if noted else {name: self._record.code[name] for name in code}
            if code != latest:
                since = datetime.now(UTC).isoformat(timespec="seconds")
                parts = [*noted, CodeOfParts(first_part, since, code)]
                self._record = replace(self._record, changed_code={**self._record.changed_code, op.key: parts})
                self._save("running")

    def _regroup(self, call: Call) -> None:
        """Make the items of the next level of a map block."""
        with self._turn({}):
            self._emit(StepStarted(call.id))
            began = time.monotonic()
            size, items = self._calls.regroup(call)
        self._emit(StepFinished(call.id, time.monotonic() - began, size, items))

    def _call(self, call: Call) -> None:
        invocation = self._deadline.limit(guarded_call(call, self._plan.steps[call.step], self._params, self._environ))
        with self._turn(invocation.env):
            self._emit(StepStarted(call.id))
            finished = self._call_now(call, invocation)
        self._emit(finished)

    @contextmanager
    def _turn(self, variables: Mapping[str, str]) -> Iterator[None]:
        """Wait until a call may run beside those of other branches."""
        if not self._is_forked:
            with environment(variables):
                yield
        else:
            with self._environment.used(variables), self._slots.taken():
                yield

    def _call_now(self, call: Call, invocation: Invocation) -> StepFinished:
        began = time.monotonic()
        try:
            at_item(call.id, ())
            size, items = self._calls.run(call, invocation, self._attempts())
            return StepFinished(call.id, time.monotonic() - began, size, items)
        except StepFailedError as error:
            raise_interrupt()  # Ctrl-C ended what the step had started, too: the step has not failed
            raise self._failed(call.id, error.failure) from error.__cause__
        except ResultError as error:
            raise self._failed(call.id, failure_of(call.id, error, 1, invocation.defined_at)) from error
        except StoppedError:
            self._halt.check()
            self._emit(StepFailed(call.id, Failure(call.id, "Timeout", str(self._late()), invocation.defined_at)))
            raise self._late() from None
        finally:
            at_item("", ())

    def _map(self, op: FanOut, ready: ReadyResults | None) -> None:
        parts = self._folder.parts(op.key)
        with self._folder.reading(op.source, resumable=True):
            items = self._folder.items(op.source)
            self._folder.check_items(op.source)
        make_directory(parts.folder, self._folder.path)
        with self._folder.reading(op.calls[0].id, resumable=True):
            progress = journal_reader.scan(parts, items)
        finished_before = progress.finished
        workers = min(self._setup.workers, op.options.concurrency or self._setup.workers, max(items, 1))
        with self._job(op, parts, ready) as job:
            self._emit(MapStarted(op.key, tuple(call.id for call in op.calls), items, finished_before, workers))
            began = time.monotonic()
            mapping = self._dispatch(op, job, progress, workers, items)
        self._check_finished(op, mapping, items - finished_before)
        self._check_folder()
        # Last of all, when the workers have forced their parts to disk: it says that they are complete.
        self._folder.write_map_outcome(op.key, MapOutcome(items, items - mapping.failed, mapping.failed))
        self._emit(MapFinished(op.key, items - mapping.failed, mapping.failed, time.monotonic() - began))

    @contextmanager
    def _job(self, op: FanOut, parts: Parts, ready: ReadyResults | None) -> Iterator[MapJob]:
        """Prepare what workers must know of a map block.

        What all items read stands in a file as long as worker processes need it.
        """
        own_process = self._setup.executor == "inline"
        inner = [
            guarded_call(call, self._plan.steps[call.step], self._params, self._environ, in_map=True)
            for call in op.calls
        ]
        inner = [self._deadline.limit(invocation) for invocation in inner] if own_process else on_one_thread(inner)
        body = body_of(op)
        shared = {source: self._values.value(source) for source in body.outside}
        file = self._folder.path / f".{op.key}-values.part" if shared and self._setup.executor == "processes" else None
        loaders: Loaders = {}
        if file is not None:
            write_values(file, shared)
        else:
            loaders = {source: copies_of(value, source_name(source)) for source, value in shared.items()}
        shared.clear()  # the copies are made of bytes
        pack, limit = self._folder.pack(op.source), self._setup.inline_limit
        try:
            calls = None if body.is_line else body
            yield MapJob(op.key, tuple(inner), pack, parts, limit, own_process, calls, loaders, file, ready)
        finally:
            if file is not None:
                file.unlink(missing_ok=True)

    def _dispatch(
        self, op: FanOut, job: MapJob, progress: journal_reader.Scan, workers: int, items: int
    ) -> MapDispatcher:
        """Let workers run the items that have no results yet."""
        slot = self._slots.taken if self._is_forked and self._setup.executor == "threads" else nullcontext
        with self._folder.manifest(op.source).open("rb") as manifest, self._folder.reading(op.source, resumable=True):
            feed = Feed(item_lines(manifest), progress, workers)
            mapping = MapDispatcher(job, op.options, feed, self._deadline, self._emit, self._setup.keep_going, slot)
            if progress.finished < items:
                first_part = job.parts.next_number()
                self._note_code(op, first_part)
                try:
                    with self._halt.stopping(mapping.stop):
                        self._run_workers(mapping, first_part, workers)
                finally:
                    with suppress(FileNotFoundError):  # the run's folder was removed, which is told elsewhere
                        flush_directory(job.parts.folder)
                    with self._lock:
                        failed = self._record.failed + mapping.failed - mapping.inherited
                        self._record = replace(self._record, failed=failed)
        return mapping

    def _run_workers(self, mapping: MapDispatcher, first_part: int, workers: int) -> None:
        # One more than there are workers: for failures of items whose worker died.
        parts = [f"part-{number:04}" for number in range(first_part, first_part + workers + 1)]
        match self._setup.executor:
            case "processes":
                assert self._setup.pool is not None
                # There is one pool: maps of two branches share it one after the other.
                with self._pool_lock, self._slots.taken(workers):
                    self._setup.pool.run(mapping, self._params, parts)
            case "threads":
                variables = _common_environment(mapping.job.inner)
                with self._environment.used(variables) if self._is_forked else environment(variables):
                    run_on_threads(mapping, parts[:-1], self._setup.first_threads)
            case "inline":
                run_inline(mapping, parts[0], self._limit)

    def _check_finished(self, op: FanOut, mapping: MapDispatcher, pending: int) -> None:
        """Raise RunError unless the map block ended as it should.

        It may have ended before all its items did, or with too many failures.
        """
        if mapping.too_many_failed and mapping.first_failure is not None:
            item, failure = mapping.first_failure.path, mapping.first_failure.failure
            failed_of = (mapping.failed, mapping.items)
            error = RunError(
                map_failure(drawn_sources(self._plan.ops)[op.id], failed_of, op.options.tolerate, item, failure)
            )
            if mapping.first_error is None:  # it is in a worker process
                error.add_note(failure.traceback.rstrip())
            raise error from mapping.first_error
        if self._deadline.passed:
            raise self._late()
        if mapping.finished + mapping.failed < pending:
            self._halt.check()
            raise RunError(f"the map over {op.source}() ended before all its items did; resume the run.")

    def _attempts(self) -> Attempts:
        def retried(step_id: str, attempt: int, wait: float, failure: Failure) -> None:
            raise_interrupt()
            self._emit(StepRetried(step_id, (), attempt, wait, failure))

        def sleep(seconds: float) -> None:
            remaining = self._deadline.remaining
            self._halt.sleep(seconds if remaining is None else min(seconds, remaining))
            if self._deadline.passed:
                raise StoppedError

        return Attempts(sleep, self._time_limit(), retried)

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
        with self._lock:
            self._folder.flush()  # first: all that the record tells of is on disk
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
