"""One execution: state after state, with retries, catches, variables, limits and a history.

It is that of a state machine, or of a map's states for one child.
https://docs.aws.amazon.com/step-functions/latest/dg/concepts-amazon-states-language.html
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from itertools import count

import msgspec

from lokki.base.quotas import HISTORY_EVENTS
from lokki.base.values import Json
from lokki.emulator.states.expressions import Scope
from lokki.emulator.states.failures import RUNTIME, ExecutionTimeoutError, StatesError, matches
from lokki.emulator.states.history import HistoryEvent
from lokki.emulator.states.outcome import Identity, Outcome, check_size, check_variables, timestamp
from lokki.emulator.states.services import ACCOUNT, REGION, Services
from lokki.emulator.states.state import Frame, Progress, State, States, Visit
from lokki.emulator.states.transition import Transition

_NO_LIMIT = 31_536_000.0
"""Seconds that a STANDARD execution may take: a year."""


class _SavedExecution(msgspec.Struct):
    """What `Execution.snapshot` returns.

    Raw parts are decoded as JSON where they are used: msgspec knows no recursive type.
    """

    at: str
    input: msgspec.Raw
    variables: dict[str, msgspec.Raw]
    redrives: int
    number: int
    started: datetime
    map_run: msgspec.Raw


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
        self.progress = Progress()
        self._services = services
        self._states = states
        self._payload = payload
        self._left_above = left_above
        self._at = states.start
        self._input = payload
        self._variables: dict[str, Json] = {}
        self._start_time = services.clock.elapsed()
        self._skipped = 0.0
        self._number = 0

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
        work, saved = self.progress.work, self.progress.saved
        # A state that this process has not reached again keeps the snapshot that the execution came with.
        map_run: Json = work.snapshot() if work is not None else msgspec.json.decode(saved or b"null")
        return {
            "at": self._at,
            "input": self._input,
            "variables": self._variables,
            "redrives": self.redrives,
            "number": self._number,
            "started": self.started.isoformat(),
            "map_run": map_run,
        }

    def restore(self, snapshot: bytes) -> None:
        """Continue from a snapshot, as JSON.

        Raises msgspec.MsgspecError for what is not one.
        """
        saved = msgspec.json.decode(snapshot, type=_SavedExecution)
        self._at, self._input = saved.at, msgspec.json.decode(saved.input)
        self._variables = {name: msgspec.json.decode(value) for name, value in saved.variables.items()}
        self.redrives, self._number, self.started = saved.redrives, saved.number, saved.started
        map_run = bytes(saved.map_run)
        self.progress = Progress(saved=None if map_run == b"null" else map_run)

    def start_child(self, states: States, identity: Identity, payload: Json) -> Execution:
        """Make a child execution, which sees none of this one's variables."""
        return Execution(self._services, states, identity, payload, self.left)

    def left(self) -> float:
        """Return the seconds that the execution has left."""
        own = (_NO_LIMIT if self.identity.timeout is None else self.identity.timeout) - self._elapsed()
        # Children end with their parent, whatever their own time: AWS aborts them.
        return own if self._left_above is None else min(own, self._left_above())

    def record(self, event: str, state: str, **details: Json) -> None:
        """Add an event to the history.

        Raises StatesError, States.Runtime, for one more than a history may have.
        """
        self._number += 1
        self._services.listener(
            HistoryEvent(self.identity.arn, self._number, event, state, self._elapsed(), details, self.identity.child)
        )
        # The event that says so is one more, and no other may stop the end from being recorded.
        if self._number >= HISTORY_EVENTS and not self.identity.express and not event.startswith("Execution"):
            raise StatesError(RUNTIME, f"The execution has more than {HISTORY_EVENTS} events in its history.")

    def _run_states(self) -> Outcome:
        try:
            output = self._run_to_end()
        except ExecutionTimeoutError as error:
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

    def _run_to_end(self) -> Json:
        """Run state after state, and return the output of the last."""
        check_size(self._payload, "The input of the execution")
        while True:
            output, target = self._enter(self._states.by_name[self._at])
            if target is None:
                return output
            # Only now: a state that fails is the one that a redrive enters again, with the same input.
            self._at, self._input = target, output
            self.progress = Progress()

    def _enter(self, state: State) -> tuple[Json, str | None]:
        """Do a state's work, and return its output and the next state."""
        entered = self._services.clock.now()
        kind = type(state).__name__
        self.record(f"{kind}StateEntered", state.name, input=self._input)
        output, target = self._try_until_through(state, entered)
        self.record(f"{kind}StateExited", state.name, output=output)
        return output, target

    def _try_until_through(self, state: State, entered: datetime) -> tuple[Json, str | None]:
        """Do a state's work as often as its rules of Retry say."""
        used: Counter[int] = Counter()  # retries of each rule: every rule has attempts of its own
        for attempt in count():
            frame = Frame(self._input, self._context(state.name, entered, attempt))
            visit = Visit(state.name, attempt, frame, self._variables, self._services, self)
            try:
                transition, frame = state.run(visit)
                scope = visit.scope if frame is visit.frame else Scope(frame.states(), self._variables)
                return self._leave(state.name, transition, frame, scope), transition.next
            except ExecutionTimeoutError:
                raise  # no rule is for it: neither States.ALL nor States.Timeout stands for the whole execution's
            except StatesError as error:
                if not self._tries_again(state, error, used, attempt):
                    return self._caught(state, visit.frame, error)
        raise AssertionError  # mypy takes the loop for one that can end

    def _leave(self, state: str, transition: Transition, frame: Frame, scope: Scope) -> Json:
        """Return a state's output, and assign its variables.

        Both are made from the variables as they were:
        https://docs.aws.amazon.com/step-functions/latest/dg/workflow-variables.html
        """
        fill = self._services.expressions.fill
        # Output before Assign, and neither sees what the other gives: AWS evaluates both from the same variables.
        output = frame.default_output
        if transition.output is not None:
            output = fill(transition.output[0], scope, f"{state}.Output")
        check_size(output, f"The output of the state '{state}'")
        assigned: dict[str, Json] = {}
        for name, template in (transition.assign or {}).items():
            assigned[name] = fill(template, scope, f"{state}.Assign.{name}")
        check_size(assigned, f"What the state '{state}' assigns")
        variables = {**self._variables, **assigned}
        check_variables(variables, state)
        self._variables = variables
        return output

    def _tries_again(self, state: State, error: StatesError, used: Counter[int], attempt: int) -> bool:
        """Wait for the next try, if a rule of Retry says so.

        The first rule that matches counts, with retries of its own.
        """
        rules = state.rules.retry
        match = next((number for number, rule in enumerate(rules) if matches(error, rule.errors)), None)
        if match is None or used[match] >= rules[match].attempts:
            return False
        # Jitter by seed, state and attempt: a run that is done again with the same seed waits as long as before.
        seed = f"{self._services.settings.seed}/{self.identity.arn}/{state.name}/{attempt}"
        delay = rules[match].wait(used[match], random.Random(seed).random())
        used[match] += 1
        self.record(
            "TaskRetried", state.name, error=error.error, cause=error.cause, attempt=attempt + 1, wait=round(delay, 3)
        )
        left = self.left()
        waited = min(delay, max(left, 0.0))
        # Time that the clock skips counts all the same: timeouts must end a run as they would on AWS.
        self._skipped += waited - self._services.clock.wait(waited)
        if delay >= left:
            raise ExecutionTimeoutError(f"The execution took longer than it may, while '{state.name}' waited.")
        return True

    def _caught(self, state: State, frame: Frame, error: StatesError) -> tuple[Json, str | None]:
        """Go where the first matching rule of Catch leads, or fail."""
        match = next((catcher for catcher in state.rules.catch if matches(error, catcher.errors)), None)
        if match is None:
            raise error
        frame = frame.with_error(error)
        scope = Scope(frame.states(), self._variables)
        return self._leave(state.name, match.transition, frame, scope), match.transition.next

    def _context(self, state: str, entered: datetime, attempt: int) -> dict[str, Json]:
        """Return the context object.

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
            "State": {"EnteredTime": timestamp(entered), "Name": state, "RetryCount": attempt},
            "StateMachine": {
                "Id": f"arn:aws:states:{REGION}:{ACCOUNT}:stateMachine:{identity.machine}",
                "Name": identity.machine,
            },
        }

    def _elapsed(self) -> float:
        return self._services.clock.elapsed() - self._start_time + self._skipped
