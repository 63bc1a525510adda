"""One execution: its identity, time, limits and history around the branch that runs its states.

It is that of a state machine, or of a map's states for one child.
https://docs.aws.amazon.com/step-functions/latest/dg/choosing-workflow-type.html
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime

import msgspec

from lokki.base.quotas import HISTORY_EVENTS
from lokki.base.values import Json
from lokki.emulator.states.branch import Branch
from lokki.emulator.states.failures import RUNTIME, ExecutionTimeoutError, StatesError
from lokki.emulator.states.history import HistoryEvent
from lokki.emulator.states.outcome import Identity, Outcome, check_size, timestamp
from lokki.emulator.states.services import ACCOUNT, REGION, Services
from lokki.emulator.states.state import States

_NO_LIMIT = 31_536_000.0
"""Seconds that a STANDARD execution may take: a year."""


class _SavedExecution(msgspec.Struct):
    """What `Execution.snapshot` returns, but for the branch's part."""

    redrives: int
    number: int
    started: datetime


class Execution:
    """An execution that can be run, and redriven from the state that failed.

    ``left_above``: how many seconds the parent execution has left, for a child.
    """

    def __init__(
        self,
        services: Services,
        states: States,
        identity: Identity,
        payload: Json,
        left_above: Callable[[], float] | None = None,
    ) -> None:
        self.identity = identity
        self.started: datetime = services.clock.now()
        self.stopped: datetime | None = None
        self.redrives = 0
        self._services = services
        self._payload = payload
        self._left_above = left_above
        self._start_time = services.clock.elapsed()
        self._skipped = 0.0
        self._number = 0
        self._held: dict[object, int] = {}
        self._lock = threading.Lock()
        self._branch = Branch(self, services, states, payload)

    def run(self) -> Outcome:
        """Run from the first state."""
        self.record("ExecutionStarted", "", input=self._payload)
        return self._run_states()

    def redrive(self) -> Outcome:
        """Run from the state that failed.

        Retries and timeouts count anew.
        https://docs.aws.amazon.com/step-functions/latest/dg/redrive-executions.html
        """
        self.redrives += 1
        # On AWS a redriven execution has its whole timeout again, as if it had just started.
        self._start_time, self._skipped = self._services.clock.elapsed(), 0.0
        self.record("ExecutionRedriven", "", redriveCount=self.redrives)
        return self._run_states()

    def snapshot(self) -> dict[str, Json]:
        """Return what another process needs to redrive the execution."""
        return {
            **self._branch.snapshot(),
            "redrives": self.redrives,
            "number": self._number,
            "started": self.started.isoformat(),
        }

    def restore(self, snapshot: bytes) -> None:
        """Continue from a snapshot, as JSON.

        Raises msgspec.MsgspecError for what is not one.
        """
        saved = msgspec.json.decode(snapshot, type=_SavedExecution)
        self._branch.restore(snapshot)
        self.redrives, self._number, self.started = saved.redrives, saved.number, saved.started

    def start_child(
        self, states: States, identity: Identity, payload: Json, left: Callable[[], float] | None = None
    ) -> Execution:
        """Make a child execution, which sees none of this one's variables."""
        return Execution(self._services, states, identity, payload, left or self.left)

    def left(self) -> float:
        """Return the seconds that the execution has left."""
        own = self._own_left()
        # Children end with their parent, whatever their own time: AWS aborts them.
        return own if self._left_above is None else min(own, self._left_above())

    def wait(self, seconds: float) -> bool:
        """Wait, and tell whether the execution has time left then."""
        left = self.left()
        waited = min(seconds, max(left, 0.0))
        # Time that the clock skips counts all the same: timeouts must end a run as they would on AWS.
        self.skip(waited - self._services.clock.wait(waited))
        return seconds < left

    def skip(self, seconds: float) -> None:
        """Count time that the clock skipped."""
        self._skipped += seconds

    def hold_variables(self, owner: object, size: int) -> int:
        """Note the bytes of a path's variables, and return those of all."""
        with self._lock:
            self._held[owner] = size
            return sum(self._held.values())

    def record(self, event: str, state: str, **details: Json) -> None:
        """Add an event to the history.

        Raises StatesError, States.Runtime, for one more than a history may have.
        """
        with self._lock:  # branches record side by side, and events are in the order of their numbers
            self._number = number = self._number + 1
            self._services.listener(
                HistoryEvent(self.identity.arn, number, event, state, self._elapsed(), details, self.identity.child)
            )
        # The event that says so is one more, and no other may stop the end from being recorded.
        if number >= HISTORY_EVENTS and not self.identity.express and not event.startswith("Execution"):
            raise StatesError(RUNTIME, f"The execution has more than {HISTORY_EVENTS} events in its history.")

    def context(self, state: dict[str, Json]) -> dict[str, Json]:
        """Return the context object at a moment of a state.

        https://docs.aws.amazon.com/step-functions/latest/dg/input-output-contextobject.html
        """
        identity = self.identity
        return {
            "Execution": {
                "Id": identity.arn,
                "Input": self._payload,
                "Name": identity.name,
                "RedriveCount": self.redrives,
                "RoleArn": f"arn:aws:iam::{ACCOUNT}:role/{identity.machine.partition('/')[0]}",
                "StartTime": timestamp(self.started),
            },
            "State": state,
            "StateMachine": {
                "Id": f"arn:aws:states:{REGION}:{ACCOUNT}:stateMachine:{identity.machine}",
                "Name": identity.machine,
            },
        }

    def _run_states(self) -> Outcome:
        try:
            check_size(self._payload, "The input of the execution")
            output = self._branch.run()
        except ExecutionTimeoutError as error:
            if self._own_left() > 0:  # its parent is out of time, or was stopped
                self.record("ExecutionAborted", "")
                self.stopped = self._services.clock.now()
                return Outcome("ABORTED")
            outcome = Outcome("TIMED_OUT", None, error.error, error.cause)
            self.record("ExecutionTimedOut", "", error=error.error, cause=error.cause)
        except StatesError as error:
            outcome = Outcome("FAILED", None, error.error, error.cause)
            self.record("ExecutionFailed", "", error=error.error, cause=error.cause)
        else:
            outcome = Outcome("SUCCEEDED", output)
            self.record("ExecutionSucceeded", "", output=output)
        self.stopped = self._services.clock.now()
        return outcome

    def _own_left(self) -> float:
        return (_NO_LIMIT if self.identity.timeout is None else self.identity.timeout) - self._elapsed()

    def _elapsed(self) -> float:
        return self._services.clock.elapsed() - self._start_time + self._skipped
