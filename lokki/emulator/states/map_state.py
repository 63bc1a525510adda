"""Map: runs inner states for each item, or batch of items, in child executions of their own.

https://docs.aws.amazon.com/step-functions/latest/dg/state-map-distributed.html
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lokki.emulator.states.failures import DATA_LIMIT, RUNTIME, StatesError
from lokki.emulator.states.fields import Fields
from lokki.emulator.states.history import Child
from lokki.emulator.states.items import Share
from lokki.emulator.states.map_input import read_shares
from lokki.emulator.states.map_run import MapRun, MapTry, map_run_id
from lokki.emulator.states.map_settings import MapSettings, read_map_settings
from lokki.emulator.states.outcome import Identity, check_size
from lokki.emulator.states.rules import ErrorRules, read_rules
from lokki.emulator.states.state import ChildExecution, Frame, LevelReader, States, Visit
from lokki.emulator.states.transition import Transition, read_transition
from lokki.errors import EmulatorError


@dataclass(frozen=True, slots=True)
class Map:
    """A distributed map over the states of its processor."""

    name: str
    settings: MapSettings
    processor: States
    rules: ErrorRules
    transition: Transition

    @classmethod
    def read(cls, name: str, fields: Fields, level: LevelReader) -> Map:
        """Read the state."""
        if level.in_map:
            raise EmulatorError(f"{fields.where}: lokki makes no map inside a map, and the emulator runs none.")
        processor = fields.inside("ItemProcessor")
        processor.comment()
        config = processor.inside("ProcessorConfig")
        config.one_of("Mode", ("DISTRIBUTED",))
        express = config.one_of("ExecutionType", ("STANDARD", "EXPRESS")) == "EXPRESS"
        config.end()
        states = level.read_level(processor, in_map=True)
        processor.end()
        settings = read_map_settings(name, fields, express=express)
        return cls(name, settings, states, read_rules(fields), read_transition(fields))

    def transitions(self) -> Iterator[Transition]:
        """Yield its one way out."""
        yield self.transition

    def run(self, visit: Visit) -> tuple[Transition, Frame]:
        """Run the children.

        The result is the list of theirs, or where it was written.
        """
        map_run = self._map_run(visit)
        try:
            result = map_run.run()
            check_size(result, f"The result of the state '{self.name}'")
        except StatesError as error:
            visit.record("MapRunFailed", error=error.error, cause=error.cause, **map_run.counts())
            if error.error in (DATA_LIMIT, RUNTIME):  # not redrivable: the next try is a new map run
                visit.progress.work = None
            raise
        visit.record("MapRunSucceeded", **map_run.counts())
        return self.transition, visit.frame.with_result(result)

    def _map_run(self, visit: Visit) -> MapRun:
        """Return a new map run for each retry, and the last one for a redrive.

        https://docs.aws.amazon.com/step-functions/latest/dg/redrive-map-run.html
        """
        attempt = MapTry(self.settings, visit, lambda share, name: self._start(visit, share, name))
        execution, progress = visit.execution, visit.progress
        machine = execution.identity.machine
        if progress.saved is not None:
            progress.work, progress.saved = MapRun.restored(attempt, machine, progress.saved), None
        if isinstance(progress.work, MapRun) and not visit.attempt:  # a redrive begins with attempt 0
            map_run = progress.work
            map_run.renew(attempt)
            visit.record("MapRunRedriven", **map_run.details())
            return map_run
        shares = read_shares(self.settings, visit)
        seed = f"{execution.identity.name}/{self.name}/{execution.redrives}/{visit.attempt}"
        map_run = progress.work = MapRun(attempt, machine, map_run_id(machine, seed), shares)
        visit.record("MapRunStarted", **map_run.details())
        return map_run

    def _start(self, visit: Visit, share: Share, name: str) -> ChildExecution:
        settings, execution = self.settings, visit.execution
        # STANDARD children have no timeout of their own, only what their parent has left.
        timeout = visit.services.settings.express_seconds if settings.express else None
        machine = f"{execution.identity.machine}/{settings.label}"
        child = Child(self.name, share.index, share.items)
        identity = Identity(machine, name, timeout, child, settings.express)
        return execution.start_child(self.processor, identity, share.input)
