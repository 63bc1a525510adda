"""The branches of a Parallel state at work: a thread for each, and all stopped when one fails.

"If any branch fails, because of an unhandled error or by transitioning to a Fail state, the entire Parallel state is
considered to have failed and all the branches are stopped", while "invoked Lambda functions continue to run":
https://docs.aws.amazon.com/step-functions/latest/dg/state-parallel.html
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait
from dataclasses import dataclass

import msgspec

from lokki.base.values import Json
from lokki.emulator.states.branch import Branch
from lokki.emulator.states.failures import StatesError
from lokki.emulator.states.outcome import Identity
from lokki.emulator.states.services import Clock
from lokki.emulator.states.state import ChildExecution, RunningExecution, States, Visit

_MOMENT = 0.5
"""Seconds after which a branch that waits looks whether it was stopped."""


class BranchStoppedError(BaseException):
    """A branch was stopped, since another one failed.

    No rule of its states is for that, so it is no StatesError.
    """


class BranchExecution:
    """The execution, as the states of one branch may use it.

    ``skipped``: seconds of waits that the clock skipped.
    """

    def __init__(self, outer: RunningExecution, clock: Clock) -> None:
        self.identity = outer.identity
        self.redrives = outer.redrives
        self.skipped = 0.0
        self._outer = outer
        self._clock = clock
        self._stopped = threading.Event()
        self._lock = threading.Lock()

    def stop(self) -> None:
        """Let no other event of the branch happen."""
        with self._lock:
            self._stopped.set()

    def reopen(self) -> None:
        """Let the branch go on, for a redrive."""
        self._stopped.clear()
        self.redrives, self.skipped = self._outer.redrives, 0.0

    def left(self) -> float:
        """Return how many seconds the branch has left."""
        return 0.0 if self._stopped.is_set() else self._outer.left() - self.skipped

    def wait(self, seconds: float) -> bool:
        """Wait, and tell whether the branch has time left then."""
        rest = seconds
        while rest > 0 and (left := self.left()) > 0:
            moment = min(rest, left, _MOMENT)
            self.skip(moment - self._clock.wait(moment))
            rest -= moment
        return self.left() > 0

    def skip(self, seconds: float) -> None:
        """Count time that the clock skipped."""
        self.skipped += seconds

    def hold_variables(self, owner: object, size: int) -> int:
        """Note the bytes of a path's variables, and return those of all.

        Raises BranchStoppedError in a branch that was stopped, which lets go of its own.
        """
        with self._lock:
            if size and self._stopped.is_set():
                raise BranchStoppedError
            return self._outer.hold_variables(owner, size)

    def record(self, event: str, state: str, **details: Json) -> None:
        """Add an event to the history of the execution.

        Raises BranchStoppedError in a branch that was stopped.
        """
        if self._stopped.is_set():
            raise BranchStoppedError
        self._outer.record(event, state, **details)

    def context(self, state: dict[str, Json]) -> dict[str, Json]:
        """Return the context object at a moment of a state."""
        return self._outer.context(state)

    def start_child(
        self, states: States, identity: Identity, payload: Json, left: Callable[[], float] | None = None
    ) -> ChildExecution:
        """Make an execution of other states, which ends with the branch."""
        return self._outer.start_child(states, identity, payload, left or self.left)


@dataclass(slots=True)
class _BranchRun:
    """One branch at work.

    ``output``: in a tuple, once there is one.
    """

    execution: BranchExecution
    branch: Branch
    output: tuple[Json] | None = None

    def run(self) -> None:
        """Run the branch to its end."""
        self.output = (self.branch.run(),)
        self.execution.hold_variables(self.branch, 0)


class _SavedBranchRun(msgspec.Struct):
    output: list[msgspec.Raw]
    branch: msgspec.Raw


class _SavedParallelRun(msgspec.Struct):
    """What `ParallelRun.snapshot` returns."""

    branches: list[_SavedBranchRun]


class ParallelRun:
    """The branches of one try of a Parallel state.

    `run` may be called again for a redrive, after `renew`.
    """

    def __init__(self, visit: Visit, branches: Sequence[States], payload: Json) -> None:
        self._services = visit.services
        self._execution = visit.execution
        self._runs: list[_BranchRun] = []
        self._started: list[Future[None]] = []
        for states in branches:
            execution = BranchExecution(visit.execution, visit.services.clock)
            branch = Branch(execution, visit.services, states, payload, visit.variables)
            self._runs.append(_BranchRun(execution, branch))

    def run(self) -> list[Json]:
        """Run all branches that have no output, and return the outputs.

        Raises what the first branch that fails has raised, and waits for no other then.
        """
        pending = [run for run in self._runs if run.output is None]
        if pending:
            pool = ThreadPoolExecutor(len(pending), thread_name_prefix="lokki-branch")
            self._started = [pool.submit(run.run) for run in pending]
            pool.shutdown(wait=False)  # a function that goes on for a branch that was stopped keeps nobody
        try:
            for future in as_completed(self._started):
                future.result()
        except (StatesError, BranchStoppedError):
            self._stop()
            raise
        except BaseException:  # the emulation ends: functions that other branches wait for end, too
            self._stop()
            self._services.stop.set()
            raise
        # Waits at the same time were skipped at the same time.
        self._execution.skip(max((run.execution.skipped for run in pending), default=0.0))
        return [output for run in self._runs if run.output is not None for output in run.output]

    def renew(self) -> None:
        """Prepare a redrive of the branches that have no output."""
        self._settle()
        self._started = []
        for run in self._runs:
            run.execution.reopen()

    def snapshot(self) -> dict[str, Json]:
        """Return what another process needs to continue the branches."""
        self._settle()
        branches: list[Json] = [
            {"output": [], "branch": run.branch.snapshot()}
            if run.output is None
            else {"output": list(run.output), "branch": None}
            for run in self._runs
        ]
        return {"branches": branches}

    @classmethod
    def restored(cls, visit: Visit, branches: Sequence[States], snapshot: bytes) -> ParallelRun:
        """Make the branches from their snapshot, as JSON.

        Raises msgspec.MsgspecError for what is not one.
        """
        saved = msgspec.json.decode(snapshot, type=_SavedParallelRun)
        parallel_run = cls(visit, branches, None)
        for run, record in zip(parallel_run._runs, saved.branches, strict=True):
            if record.output:
                run.output = (msgspec.json.decode(record.output[0]),)
            else:
                run.branch.restore(bytes(record.branch))
        return parallel_run

    def _stop(self) -> None:
        for run in self._runs:
            run.execution.stop()
            run.execution.hold_variables(run.branch, 0)

    def _settle(self) -> None:
        """Wait until no thread changes what is read."""
        wait(self._started)
