"""Parallel: runs branches of states side by side, each from the same input.

https://docs.aws.amazon.com/step-functions/latest/dg/state-parallel.html
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lokki.base.values import Json
from lokki.emulator.states.failures import ExecutionTimeoutError, StatesError
from lokki.emulator.states.fields import Fields
from lokki.emulator.states.outcome import check_size
from lokki.emulator.states.parallel_run import ParallelRun
from lokki.emulator.states.rules import ErrorRules, read_rules
from lokki.emulator.states.state import Frame, LevelReader, States, Visit
from lokki.emulator.states.transition import Transition, read_transition
from lokki.errors import EmulatorError


@dataclass(frozen=True, slots=True)
class Parallel:
    """Branches that run side by side.

    ``arguments``: the template of what each branch gets; None for the state's own input.
    """

    name: str
    branches: tuple[States, ...]
    arguments: tuple[Json] | None
    rules: ErrorRules
    transition: Transition

    @classmethod
    def read(cls, name: str, fields: Fields, level: LevelReader) -> Parallel:
        """Read the state."""
        branches = tuple(_read_branch(branch, level) for branch in fields.objects("Branches"))
        if not branches:
            raise EmulatorError(f"{fields.where}: Branches is empty; it needs at least one branch.")
        return cls(name, branches, fields.optional("Arguments"), read_rules(fields), read_transition(fields))

    def transitions(self) -> Iterator[Transition]:
        """Yield its one way out."""
        yield self.transition

    def run(self, visit: Visit) -> tuple[Transition, Frame]:
        """Run the branches.

        The result is the list of their outputs, in the order of Branches.
        """
        parallel_run = self._parallel_run(visit)
        visit.record("ParallelStateStarted")
        try:
            result = parallel_run.run()
            check_size(result, f"The result of the state '{self.name}'")
        except ExecutionTimeoutError:
            raise  # the state does not fail: it ends with the execution
        except StatesError:
            visit.record("ParallelStateFailed")
            raise
        visit.record("ParallelStateSucceeded")
        return self.transition, visit.frame.with_result(result)

    def _parallel_run(self, visit: Visit) -> ParallelRun:
        """Return new branches for each retry, and those of before for a redrive.

        "RedriveExecution API action reschedules and redrives only the iterations and branches that failed or aborted":
        https://docs.aws.amazon.com/step-functions/latest/apireference/API_RedriveExecution.html
        """
        progress = visit.progress
        if progress.saved is not None:
            progress.work, progress.saved = ParallelRun.restored(visit, self.branches, progress.saved), None
        if isinstance(progress.work, ParallelRun) and not visit.attempt:  # a redrive begins with attempt 0
            progress.work.renew()
            return progress.work
        payload = visit.frame.input
        if self.arguments is not None:
            payload = visit.fill(self.arguments[0], "Arguments")
            check_size(payload, f"What the branches of the state '{self.name}' get")
        progress.work = parallel_run = ParallelRun(visit, self.branches, payload)
        return parallel_run


def _read_branch(fields: Fields, level: LevelReader) -> States:
    fields.comment()
    states = level.read_level(fields)
    fields.end()
    return states
