"""One path through the states of a level: state after state, with retries, catches and variables.

An execution has one, and a Parallel state one for each of its branches.
https://docs.aws.amazon.com/step-functions/latest/dg/concepts-amazon-states-language.html
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from itertools import count

import msgspec

from lokki.base.values import Json
from lokki.emulator.states.expressions import Scope
from lokki.emulator.states.failures import ExecutionTimeoutError, StatesError, matches
from lokki.emulator.states.outcome import check_size, check_variables, timestamp, variables_size
from lokki.emulator.states.services import Services
from lokki.emulator.states.state import Frame, Progress, RunningExecution, State, States, Visit
from lokki.emulator.states.transition import Transition


class _SavedBranch(msgspec.Struct):
    """What `Branch.snapshot` returns.

    Raw parts are decoded as JSON where they are used: msgspec knows no recursive type.
    """

    at: str
    input: msgspec.Raw
    variables: dict[str, msgspec.Raw]
    map_run: msgspec.Raw  # or the branches of a Parallel state


class Branch:
    """A path that can be run to its end, and again from the state that failed.

    Its variables are its own. ``outer``: those around it, which it only reads.
    https://docs.aws.amazon.com/step-functions/latest/dg/workflow-variables.html
    """

    def __init__(
        self,
        execution: RunningExecution,
        services: Services,
        states: States,
        payload: Json,
        outer: Mapping[str, Json] | None = None,
    ) -> None:
        self.progress = Progress()
        self._execution = execution
        self._services = services
        self._states = states
        self._at = states.start
        self._input = payload
        self._own: dict[str, Json] = {}
        self._variables: dict[str, Json] = dict(outer or {})

    def run(self) -> Json:
        """Run state after state, and return the output of the last.

        Raises StatesError for a state that failed, at which another call goes on.
        """
        if self._own:  # of a snapshot
            self._execution.hold_variables(self, variables_size(self._own))
        while True:
            output, target = self._enter(self._states.by_name[self._at])
            if target is None:
                return output
            # Only now: a state that fails is the one that a redrive enters again, with the same input.
            self._at, self._input = target, output
            self.progress = Progress()

    def snapshot(self) -> dict[str, Json]:
        """Return what another process needs to go on at the same state."""
        work, saved = self.progress.work, self.progress.saved
        # A state that this process has not reached again keeps the snapshot that the branch came with.
        map_run: Json = work.snapshot() if work is not None else msgspec.json.decode(saved or b"null")
        return {"at": self._at, "input": self._input, "variables": self._own, "map_run": map_run}

    def restore(self, snapshot: bytes) -> None:
        """Continue from a snapshot, as JSON.

        Raises msgspec.MsgspecError for what is not one.
        """
        saved = msgspec.json.decode(snapshot, type=_SavedBranch)
        self._at, self._input = saved.at, msgspec.json.decode(saved.input)
        self._own = {name: msgspec.json.decode(value) for name, value in saved.variables.items()}
        self._variables |= self._own
        map_run = bytes(saved.map_run)
        self.progress = Progress(saved=None if map_run == b"null" else map_run)

    def _enter(self, state: State) -> tuple[Json, str | None]:
        """Do a state's work, and return its output and the next state."""
        entered = self._services.clock.now()
        kind = type(state).__name__
        self._execution.record(f"{kind}StateEntered", state.name, input=self._input)
        output, target = self._try_until_through(state, entered)
        self._execution.record(f"{kind}StateExited", state.name, output=output)
        return output, target

    def _try_until_through(self, state: State, entered: datetime) -> tuple[Json, str | None]:
        """Do a state's work as often as its rules of Retry say."""
        used: Counter[int] = Counter()  # retries of each rule: every rule has attempts of its own
        for attempt in count():
            moment: dict[str, Json] = {"EnteredTime": timestamp(entered), "Name": state.name, "RetryCount": attempt}
            frame = Frame(self._input, self._execution.context(moment))
            visit = Visit(state.name, attempt, frame, self._variables, self.progress, self._services, self._execution)
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
        if assigned:
            own = {**self._own, **assigned}
            check_variables(self._execution.hold_variables(self, variables_size(own)), state)
            self._own, self._variables = own, {**self._variables, **assigned}
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
        seed = f"{self._services.settings.seed}/{self._execution.identity.arn}/{state.name}/{attempt}"
        delay = rules[match].wait(used[match], random.Random(seed).random())
        used[match] += 1
        self._execution.record(
            "TaskRetried", state.name, error=error.error, cause=error.cause, attempt=attempt + 1, wait=round(delay, 3)
        )
        if not self._execution.wait(delay):
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
