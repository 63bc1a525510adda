"""Executions that really run, each on a thread of its own: by the emulator, with the account's S3 and functions."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from aws.loopback_functions import LoopbackFunctions
from aws.loopback_history import UNSUCCESSFUL, Histories, MapRunRecord, Record, branches_of
from aws.loopback_integrations import Integrations, with_integrations
from lokki.base.values import Json, Stored
from lokki.emulator.states.definition import read_definition
from lokki.emulator.states.execution import Execution
from lokki.emulator.states.history import HistoryEvent
from lokki.emulator.states.outcome import Identity
from lokki.emulator.states.services import (
    Caller,
    EmulationStoppedError,
    ExecutionSettings,
    FunctionReply,
    RealClock,
    Services,
)
from lokki.store.s3 import S3Store


@dataclass(frozen=True, slots=True)
class LoopbackObjects:
    """S3 as the state machine uses it. ``environ`` may be asked for only when the server runs."""

    environ: Callable[[], Mapping[str, str]]

    def read(self, bucket: str, key: str) -> bytes:
        return bytes(self._store(bucket).read(Stored(f"s3://{bucket}/{key}")))

    def write(self, bucket: str, key: str, content: bytes) -> None:
        self._store(bucket).write(key, [content])

    def _store(self, bucket: str) -> S3Store:
        return S3Store(bucket, "", environ=self.environ())


@dataclass(frozen=True, slots=True)
class _Stoppable:
    """Functions whose callers can be stopped."""

    functions: LoopbackFunctions
    stop: threading.Event
    integrations: Integrations

    def invoke(self, function: str, payload: bytes, timeout: float, caller: Caller) -> FunctionReply:
        if self.integrations.knows(function):
            return self.integrations.invoke(function, payload)
        return self.functions.invoke(function, payload, timeout, caller, self.stop)


class Run:
    """An execution with its thread; `histories` is what is known of it."""

    def __init__(self, record: Record, execution: Execution, stop: threading.Event, histories: Histories) -> None:
        self.record = record
        self.histories = histories
        self._execution = execution
        self._stop = stop
        self._thread: threading.Thread | None = None

    def start(self, done: Callable[[BaseException | None], None], *, again: bool = False) -> None:
        """Run it, or redrive it; ``done`` is called at the end, with the error of this support code if there is one."""
        self.join()
        self._stop.clear()
        target = self._execution.redrive if again else self._execution.run
        self._thread = threading.Thread(target=partial(self._work, target, done), name=f"sfn-{self.record.name}")
        self._thread.start()

    def stop(self) -> None:
        """Have it end at its next wait."""
        self._stop.set()

    def join(self) -> None:
        """Wait for its thread."""
        if self._thread is not None:
            self._thread.join()

    @property
    def children(self) -> Mapping[str, Record]:
        """All child executions, by ARN."""
        return {arn: each for run in self.histories.map_runs for arn, each in run.children.items()}

    @staticmethod
    def _work(target: Callable[[], object], done: Callable[[BaseException | None], None]) -> None:
        problem: BaseException | None = None
        try:
            target()
        except EmulationStoppedError:
            pass
        except BaseException as error:
            problem = error
        done(problem)


class Runs:
    """All executions of the account."""

    def __init__(
        self,
        functions: LoopbackFunctions,
        environ: Callable[[], Mapping[str, str]],
        workers: int,
        integrations: Integrations,
    ) -> None:
        self._integrations = integrations
        self.lock = threading.RLock()
        self.problems: list[BaseException] = []
        self._functions = functions
        self._objects = LoopbackObjects(environ)
        self._workers = workers
        self._runs: dict[str, Run] = {}
        self._idle = threading.Condition(self.lock)
        self._running = 0

    def start(self, record: Record, definition: str) -> None:
        """Start an execution of a definition."""
        machine = read_definition(with_integrations(json.loads(definition)), record.machine_arn.rpartition(":")[2])
        record.branches = branches_of(json.loads(definition)["States"])
        histories = Histories(record)
        stop = threading.Event()
        services = Services(
            _Stoppable(self._functions, stop, self._integrations),
            self._objects,
            RealClock(stop),
            partial(self._listen, histories),
            ExecutionSettings(workers=self._workers),
            stop=stop,
        )
        given: Json = json.loads(record.input)
        identity = Identity(machine.name, record.name, machine.timeout)
        run = Run(record, Execution(services, machine.states, identity, given), stop, histories)
        with self.lock:
            self._runs[record.arn] = run
            self._running += 1
        run.start(self._done)

    def redrive(self, run: Run) -> bool:
        """Go on with an execution that did not succeed; tell whether it is so."""
        run.join()
        with self.lock:
            if run.record.status not in UNSUCCESSFUL:
                return False
            run.record.begin_again()
            self._running += 1
        run.start(self._done, again=True)
        return True

    def stop(self, run: Run, error: str = "", cause: str = "") -> None:
        """Abort an execution if it runs."""
        with self.lock:
            if run.record.status == "RUNNING":
                run.histories.abort(error, cause)
                run.stop()

    def run(self, arn: str) -> Run | None:
        """Return an execution that is no child."""
        return self._runs.get(arn)

    def of_machine(self, machine_arn: str) -> list[Run]:
        """Return the executions of a state machine."""
        with self.lock:
            return [run for run in self._runs.values() if run.record.machine_arn == machine_arn]

    def record(self, arn: str) -> Record | None:
        """Return an execution or a child execution."""
        with self.lock:
            run = self._runs.get(arn)
            if run is not None:
                return run.record
            return next((run.children[arn] for run in self._runs.values() if arn in run.children), None)

    def map_run(self, arn: str) -> MapRunRecord | None:
        """Return a map run."""
        with self.lock:
            found = (each for run in self._runs.values() for each in run.histories.map_runs)
            return next((each for each in found if each.arn == arn), None)

    def root_of(self, arn: str) -> Run | None:
        """Return the execution that an execution or child execution belongs to."""
        with self.lock:
            return next((run for key, run in self._runs.items() if key == arn or arn in run.children), None)

    def forget(self, machine_arn: str) -> None:
        """Stop and forget the executions of a deleted state machine."""
        for run in self.of_machine(machine_arn):
            self.stop(run)
            run.join()
            with self.lock:
                del self._runs[run.record.arn]

    def wait(self) -> None:
        """Wait until no execution runs. Raises the error that one ended with because of this support code."""
        with self._idle:
            self._idle.wait_for(lambda: self._running == 0)
            if self.problems:
                raise self.problems.pop(0)

    def close(self) -> None:
        """Stop all executions."""
        for run in list(self._runs.values()):
            self.stop(run)
        for run in list(self._runs.values()):
            run.join()

    def _listen(self, histories: Histories, event: HistoryEvent) -> None:
        with self.lock:
            histories.follow(event)

    def _done(self, problem: BaseException | None) -> None:
        with self._idle:
            self._running -= 1
            if problem is not None:
                self.problems.append(problem)
            self._idle.notify_all()
