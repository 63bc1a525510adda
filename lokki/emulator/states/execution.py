"""One execution of a state machine, or of a map's states for one child: state after state, with retries and catches.

https://docs.aws.amazon.com/step-functions/latest/dg/concepts-amazon-states-language.html
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import cast

import msgspec

from lokki.base.quotas import HISTORY_EVENTS
from lokki.base.values import Json
from lokki.emulator.states.definition import After, Choice, Fail, Map, State, States, Task
from lokki.emulator.states.expressions import Scope
from lokki.emulator.states.failures import (
    DATA_LIMIT,
    NO_CHOICE,
    QUERY_FAILED,
    RUNTIME,
    ExecutionTimeoutError,
    StatesError,
    matches,
)
from lokki.emulator.states.history import Child, HistoryEvent
from lokki.emulator.states.map_run import MapRun, MapWork, map_run_id, read_shares
from lokki.emulator.states.outcome import Identity, Outcome, check_size, check_variables, timestamp
from lokki.emulator.states.services import ACCOUNT, REGION, Services
from lokki.emulator.states.task import TaskTry

_NO_LIMIT = 31_536_000.0
"""Seconds that a STANDARD execution may take: a year."""


class Execution:
    """An execution that can be run, and redriven from the state that failed.

    ``left_above``: how many seconds the parent execution has left, for a child.
    """

    def __init__(
        self,
        services: Services,
        states: States,
        identity: Identity,
        given: Json,
        left_above: Callable[[], float] | None = None,
    ) -> None:
        self.identity = identity
        self.started: datetime = services.clock.now()
        self.stopped: datetime | None = None
        self.redrives = 0
        self._services = services
        self._states = states
        self._given = given
        self._left_above = left_above
        self._at = states.start
        self._input = given
        self._variables: dict[str, Json] = {}
        self._map_run: MapRun | None = None
        self._map_snapshot: dict[str, Json] | None = None
        self._began = services.clock.elapsed()
        self._skipped = 0.0
        self._number = 0

    def run(self) -> Outcome:
        """Run from the first state on."""
        self._tell("ExecutionStarted", "", input=self._given)
        return self._go()

    def redrive(self) -> Outcome:
        """Run from the state that failed on; retries and timeouts count anew.

        https://docs.aws.amazon.com/step-functions/latest/dg/redrive-executions.html
        """
        self.redrives += 1
        self._began, self._skipped = self._services.clock.elapsed(), 0.0
        self._tell("ExecutionRedriven", "", redriveCount=self.redrives)
        return self._go()

    def snapshot(self) -> dict[str, Json]:
        """Return, as JSON, what it needs to be redriven in another process."""
        map_run = self._map_snapshot if self._map_run is None else self._map_run.snapshot()
        return {
            "at": self._at,
            "input": self._input,
            "variables": self._variables,
            "redrives": self.redrives,
            "number": self._number,
            "started": self.started.isoformat(),
            "map_run": map_run,
        }

    def restore(self, snapshot: dict[str, Json]) -> None:
        """Be what a snapshot of it says."""
        kept = msgspec.convert(snapshot, _Kept)
        self._at, self._input, self._variables = (
            kept.at,
            cast("Json", kept.input),
            cast("dict[str, Json]", kept.variables),
        )
        self.redrives, self._number, self.started = kept.redrives, kept.number, kept.started
        self._map_snapshot = cast("dict[str, Json] | None", kept.map_run)

    def _go(self) -> Outcome:
        try:
            check_size(self._given, "The input of the execution")
            while True:
                state = self._states.by_name[self._at]
                output, following = self._enter(state)
                if following is None:
                    break
                self._at, self._input = following, output
                self._map_run = self._map_snapshot = None
        except ExecutionTimeoutError as error:
            outcome = Outcome("TIMED_OUT", None, error.error, error.cause)
            self._tell("ExecutionTimedOut", "", error=error.error, cause=error.cause)
        except StatesError as error:
            outcome = Outcome("FAILED", None, error.error, error.cause)
            self._tell("ExecutionFailed", "", error=error.error, cause=error.cause)
        else:
            outcome = Outcome("SUCCEEDED", output)
            self._tell("ExecutionSucceeded", "", output=output)
        self.stopped = self._services.clock.now()
        return outcome

    def _enter(self, state: State) -> tuple[Json, str | None]:
        """Do a state's work, again as its retries say; return what is handed on, and to which state."""
        entered = self._services.clock.now()
        kind = type(state).__name__
        self._tell(f"{kind}StateEntered", state.name, input=self._input)
        used: Counter[int] = Counter()
        attempt = 0
        while True:
            frame = _Frame(self._input, self._context(state.name, entered, attempt))
            try:
                output, following = self._work(state, frame, attempt)
                break
            except ExecutionTimeoutError:
                raise
            except StatesError as error:
                if not self._tries_again(state, error, used, attempt):
                    output, following = self._caught(state, frame, error)
                    break
            attempt += 1
        self._tell(f"{kind}StateExited", state.name, output=output)
        return output, following

    def _work(self, state: State, frame: _Frame, attempt: int) -> tuple[Json, str | None]:
        match state:
            case Task():
                after, frame = state.after, frame.with_result(self._invoke(state, frame, attempt))
            case Map():
                after, frame = state.after, frame.with_result(self._map(state, frame, attempt))
            case Fail():
                error, cause = (self._text(each, state, frame) for each in (state.error, state.cause))
                raise StatesError(error, cause)
            case Choice():
                after = self._choose(state, frame)
            case _:
                after = state.after
        return self._leave(state, after, frame), after.next

    def _choose(self, state: Choice, frame: _Frame) -> After:
        """Return what follows by the first condition that holds."""
        scope = self._scope(frame)
        for condition, after in state.rules:
            holds = self._services.expressions.fill(condition, scope, f"{state.name}.Condition")
            if not isinstance(holds, bool):
                raise StatesError(QUERY_FAILED, f"The condition '{condition}' of {state.name} is no boolean.")
            if holds:
                return after
        if state.default is None:
            raise StatesError(NO_CHOICE, f"No condition of the state '{state.name}' holds, and it has no Default.")
        return state.default

    def _leave(self, state: State, after: After, frame: _Frame) -> Json:
        """Return a state's output and keep its variables; both are made from the variables as they were before.

        https://docs.aws.amazon.com/step-functions/latest/dg/workflow-variables.html
        """
        scope = self._scope(frame)
        fill = self._services.expressions.fill
        output = frame.handed_on if after.output is None else fill(after.output[0], scope, f"{state.name}.Output")
        check_size(output, f"The output of the state '{state.name}'")
        assigned: dict[str, Json] = {}
        for name, template in (after.assign or {}).items():
            assigned[name] = fill(template, scope, f"{state.name}.Assign.{name}")
        check_size(assigned, f"What the state '{state.name}' assigns")
        kept = {**self._variables, **assigned}
        check_variables(kept, state.name)
        self._variables = kept
        return output

    def _invoke(self, task: Task, frame: _Frame, attempt: int) -> Json:
        return TaskTry(task, self._services, self._scope(frame), self.identity, self._left(), self._tell).invoke(
            attempt
        )

    def _map(self, state: Map, frame: _Frame, attempt: int) -> Json:
        """Run a map's children; a retried map is a new map run, a redriven one goes on."""
        work = MapWork(state, self._services, self._scope(frame), self._start, self._left)
        machine = self.identity.machine
        if self._map_snapshot is not None:
            self._map_run, self._map_snapshot = MapRun.restored(work, machine, self._map_snapshot), None
        if self._map_run is None or attempt:
            shares = read_shares(work, frame.states(), self._variables)
            seed = f"{self.identity.name}/{state.name}/{self.redrives}/{attempt}"
            self._map_run = MapRun(work, machine, map_run_id(machine, seed), shares)
            details = self._map_run.described()
            self._tell("MapRunStarted", state.name, **details)
        else:
            self._map_run.renew(work)
            self._tell("MapRunRedriven", state.name, **self._map_run.described())
        try:
            result = self._map_run.run()
            check_size(result, f"The result of the state '{state.name}'")
        except StatesError as error:
            self._tell("MapRunFailed", state.name, error=error.error, cause=error.cause, **self._map_run.counts())
            if error.error in (DATA_LIMIT, RUNTIME):
                self._map_run = None
            raise
        self._tell("MapRunSucceeded", state.name, **self._map_run.counts())
        return result

    def _start(self, state: Map, given: Json, name: str, child: Child) -> Execution:
        """Make a child execution; it sees none of this one's variables."""
        timeout = self._services.settings.express_seconds if state.express else None
        machine = f"{self.identity.machine}/{state.label}"
        identity = Identity(machine, name, timeout, child, state.express)
        return Execution(self._services, state.processor, identity, given, self._left)

    def _tries_again(self, state: State, error: StatesError, used: Counter[int], attempt: int) -> bool:
        """Wait for the next try if a rule says so. The first rule that matches counts, with retries of its own."""
        rules = state.retry if isinstance(state, Task | Map) else ()
        found = next((number for number, rule in enumerate(rules) if matches(error, rule.errors)), None)
        if found is None or used[found] >= rules[found].attempts:
            return False
        seed = f"{self._services.settings.seed}/{self.identity.arn}/{state.name}/{attempt}"
        delay = rules[found].wait(used[found], random.Random(seed).random())
        used[found] += 1
        self._tell(
            "TaskRetried", state.name, error=error.error, cause=error.cause, attempt=attempt + 1, wait=round(delay, 3)
        )
        left = self._left()
        waited = min(delay, max(left, 0.0))
        self._skipped += waited - self._services.clock.wait(waited)
        if delay >= left:
            raise ExecutionTimeoutError(f"The execution took longer than it may, while '{state.name}' waited.")
        return True

    def _caught(self, state: State, frame: _Frame, error: StatesError) -> tuple[Json, str | None]:
        """Go where the first catcher that matches says, or fail."""
        catchers = state.catch if isinstance(state, Task | Map) else ()
        found = next((catcher for catcher in catchers if matches(error, catcher.errors)), None)
        if found is None:
            raise error
        return self._leave(state, found.after, frame.with_error(error)), found.after.next

    def _scope(self, frame: _Frame) -> Scope:
        return Scope(frame.states(), self._variables)

    def _text(self, template: Json, state: State, frame: _Frame) -> str:
        value = self._services.expressions.fill(template, self._scope(frame), state.name)
        return value if isinstance(value, str) else ""

    def _context(self, state: str, entered: datetime, attempt: int) -> dict[str, Json]:
        """Return the context object. https://docs.aws.amazon.com/step-functions/latest/dg/input-output-contextobject.html"""
        identity = self.identity
        return {
            "Execution": {
                "Id": identity.arn,
                "Input": self._given,
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
        return self._services.clock.elapsed() - self._began + self._skipped

    def _left(self) -> float:
        own = (_NO_LIMIT if self.identity.timeout is None else self.identity.timeout) - self._elapsed()
        return own if self._left_above is None else min(own, self._left_above())

    def _tell(self, kind: str, state: str, **details: Json) -> None:
        self._number += 1
        event = HistoryEvent(
            self.identity.arn, self._number, kind, state, self._elapsed(), details, self.identity.child
        )
        self._services.listener(event)
        # The event that says so is one more, and no other may stop the end from being told.
        if self._number >= HISTORY_EVENTS and not self.identity.express and not kind.startswith("Execution"):
            raise StatesError(RUNTIME, f"The execution has more than {HISTORY_EVENTS} events in its history.")


class _Kept(msgspec.Struct):
    """A snapshot of an execution, checked."""

    at: str
    input: object
    variables: dict[str, object]
    redrives: int
    number: int
    started: datetime
    map_run: dict[str, object] | None


@dataclass(frozen=True, slots=True)
class _Frame:
    """What ``$states`` holds at one moment of a state. ``added``: the result, or the output of an error."""

    input: Json
    context: dict[str, Json]
    added: tuple[str, Json] | None = None

    def with_result(self, result: Json) -> _Frame:
        return _Frame(self.input, self.context, ("result", result))

    def with_error(self, error: StatesError) -> _Frame:
        return _Frame(self.input, self.context, ("errorOutput", {"Error": error.error, "Cause": error.cause}))

    @property
    def handed_on(self) -> Json:
        return self.input if self.added is None else self.added[1]

    def states(self) -> Mapping[str, Json]:
        known: dict[str, Json] = {"input": self.input, "context": self.context}
        return known if self.added is None else {**known, self.added[0]: self.added[1]}
