"""The values of a run that its calls read, from the files in which they are kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager

from lokki.base.values import Json
from lokki.engine.invocation import Inputs
from lokki.engine.lazy import LazyResults
from lokki.errors import StoreError
from lokki.local_run import journal_reader
from lokki.local_run.folder import RunFolder
from lokki.local_run.outcomes import StepOutcome
from lokki.local_run.ready_results import ReadyResults
from lokki.local_run.schedule import Schedule, Unit, schedule, units_in
from lokki.plan import Plan
from lokki.plans.operations import Call, Case, CaseValue, FanOut, Switch, giver_of
from lokki.plans.templates import Item, Output, Results, Source

CASE = "case"
"""The field of a call's outcome with the value of the case that it chose, null for the default."""


def kept_case(switch: Switch, outcome: StepOutcome | None) -> Case | None:
    """Return the case that an outcome names, None for none of the switch's."""
    if outcome is None or CASE not in outcome:
        return None
    return next((case for case in switch.cases if is_case((case.value,), outcome[CASE])), None)


def is_case(cases: Sequence[CaseValue], value: Json) -> bool:
    """Tell whether a value is that of a case. True is no 1."""
    return any(type(case) is type(value) and case == value for case in cases)


class RunValues:
    """What the operations of a run gave, a new copy each time.

    What is damaged raises DamagedError, which says that resuming the run is enough.
    """

    def __init__(self, plan: Plan, folder: RunFolder) -> None:
        self._plan = plan
        self._folder = folder
        self._ready: dict[str, ReadyResults] = {}

    def result(self) -> object:
        """Return what the flow returned."""
        values = tuple(map(self.value, self._plan.outputs))
        return values if self._plan.returns_tuple else values[0]

    def inputs(self, call: Call, *, lazy: bool = False) -> object:
        """Return what a call outside of map blocks is called with.

        ``lazy``: whether it takes the results of a map one by one.
        """
        if lazy and isinstance(call.reads, Results):
            first: object = self._lazy_results(self._plan.fan_out(call.reads.id))
        else:
            first = None if call.reads is None else self.value(call.reads)
        return Inputs(first, {source: self.value(source) for source in call.values}) if call.values else first

    def make_ready(self, block: FanOut) -> ReadyResults:
        """Return what takes a map's results for whoever reads them first."""
        return self._ready.setdefault(block.id, ReadyResults())

    def value(self, source: Source) -> object:
        """Return a value of the run; a map block's item is none."""
        match source:
            case Output(step_id):
                return self._result(giver_of(self._plan.ops, step_id, self.case_of))
            case Results(fan_out_id):
                return self._results(self._plan.fan_out(fan_out_id))
            case Item(fan_out_id):
                raise TypeError(f"the items of {fan_out_id} are read by its own calls")

    def case_of(self, switch: Switch) -> Case:
        """Return the case that the call of a switch chose."""
        with self._folder.reading(switch.on, resumable=True):
            case = kept_case(switch, self._folder.outcome(switch.on))
            if case is None:
                raise self._folder.lost_case(switch.on)
        return case

    def chosen(self, switch: Switch) -> Case | None:
        """Return the case that was chosen, None before its call has run."""
        try:
            return self.case_of(switch)
        except StoreError:
            return None

    def remaining(self) -> Schedule:
        """Return what a resumed run does with the units of the plan."""
        return schedule(self._plan.ops, self.is_finished, self.chosen, self._goes_on)

    def _goes_on(self, unit: Unit) -> bool:
        """Tell whether a unit has results that it can go on with.

        A map block has begun, and a call that regroups items numbers them as it did.
        """
        if isinstance(unit, FanOut):
            return self._folder.parts(unit.key).folder.exists()
        try:
            return unit.regroups is not None and self._folder.groups(unit.id) is not None
        except StoreError:
            return False

    def maps_remain(self) -> bool:
        """Tell whether a resumed run has items to run."""
        kept = self.remaining().kept
        return any(isinstance(unit, FanOut) and unit.id not in kept for unit in self._units(kept))

    def units(self) -> Iterator[Unit]:
        """Yield what has results, without the cases that were not chosen.

        What is to choose again may choose another case.
        """
        return self._units(self.remaining().kept)

    def _units(self, kept: frozenset[str]) -> Iterator[Unit]:
        return units_in(self._plan.ops, lambda switch: self.chosen(switch) if switch.on in kept else None)

    def is_finished(self, op: Unit) -> bool:
        """Tell whether the result of an operation is there.

        It must have the form that this flow needs: the items of a map block, one value, or both; and the case of a
        switch. An outcome of a map block that is damaged is forgotten.
        """
        try:
            if isinstance(op, FanOut):
                return self._folder.map_outcome(op.key) is not None
            outcome = self._folder.outcome(op.id)
        except StoreError:  # damaged: it runs again
            if isinstance(op, FanOut):
                self._folder.forget_map_outcome(op.key)
            return False
        return (
            outcome is not None
            and ("items" in outcome) is op.fans_out
            and ("result" in outcome or "result_url" in outcome) is (op.keeps_value or not op.fans_out)
            and (is_case(op.cases, outcome[CASE]) if CASE in outcome else not op.cases)
        )

    def _result(self, step_id: str) -> object:
        with self._folder.reading(step_id, resumable=True):
            return self._folder.result(step_id)

    def _lazy_results(self, block: FanOut) -> LazyResults:
        """Return the results of a map block, all of which are there."""
        with self._folder.reading(block.source, resumable=True):
            items = self._folder.items(block.source)
        with self._reading(block):
            results = journal_reader.StepResults(self._folder.parts(block.key), items)
            failed = self._folder.failed_items(block.key)
            results.check_complete(items - failed, failed)

        def load(indexes: Sequence[int]) -> Iterator[object]:
            with results.opened() as result:
                for index in indexes:
                    with self._reading(block):
                        value = result(index)
                    yield value

        return LazyResults(range(items) if not failed else [index for index in range(items) if index in results], load)

    def _reading(self, block: FanOut) -> AbstractContextManager[None]:
        return self._folder.reading(block.calls[0].id, resumable=True)

    def _results(self, block: FanOut) -> list[object]:
        with self._folder.reading(block.source, resumable=True):
            items = self._folder.items(block.source)
        with self._reading(block):
            ready = self._ready.pop(block.id, ReadyResults()).take()
            parts, failed = self._folder.parts(block.key), self._folder.failed_items(block.key)
            return journal_reader.results(parts, items, failed, ready)
