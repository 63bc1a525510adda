"""What regroups the items of maps below maps, between their levels, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import batched

from lokki.base.failures import Failure
from lokki.base.item_path import ItemPath
from lokki.base.options import MapOptions
from lokki.engine.report import list_failure
from lokki.local_run.folder import RunFolder
from lokki.local_run.journal_reader import FAILED, StepResults
from lokki.plan import Plan
from lokki.plans.levels import drawn_sources
from lokki.plans.operations import Call, FanOut, Gather, Spread
from lokki.plans.templates import source_name
from lokki.store.manifest import GroupedItem, ManifestEntry, check_items, entries, item_lines

_LINES = 1024


@dataclass(frozen=True, slots=True)
class _Members:
    """Where the items of one list are among all: the index of the first, and how many."""

    first: int
    count: int


class Regrouping:
    """Makes the items of the next level from the results of those before."""

    def __init__(self, plan: Plan, folder: RunFolder) -> None:
        self._plan = plan
        self._folder = folder

    def items(self, call: Call) -> Iterator[GroupedItem]:
        """Yield what a call gives that regroups.

        What is damaged raises DamagedError.
        """
        [reader] = (op for op in self._plan.fan_outs if op.source == call.id)
        match call.regroups:
            case Spread():
                return self._spread(call.regroups, reader)
            case Gather():
                return self._gather(call.regroups, reader)
            case None:
                raise TypeError(f"{call.id} is a step's call")

    def _spread(self, spread: Spread, reader: FanOut) -> Iterator[GroupedItem]:
        name = source_name(spread.items)
        for path, outcome in self._level(spread.level):
            if not isinstance(outcome, Failure):
                values = _carried(outcome, reader)
                for number, item in enumerate(check_items(spread.items.id, outcome[name])):
                    yield GroupedItem((*path, number), item, values)

    def _gather(self, gather: Gather, reader: FanOut) -> Iterator[GroupedItem]:
        members = self._members(gather.spread)
        source = drawn_sources(self._plan.ops)[gather.inner]
        with self._results(self._plan.fan_out(gather.inner)) as (inner, load):
            for path, outcome in self._level(gather.level):
                if isinstance(outcome, Failure):
                    yield GroupedItem(path, None, {}, outcome)
                    continue
                group = members.get(path, _Members(0, 0))
                indexes = range(group.first, group.first + group.count)
                failed = [index for index in indexes if inner.status[index] == FAILED]
                if MapOptions(tolerate=gather.tolerate).too_many(len(failed), group.count):
                    first = inner.failures[failed[0]]
                    place = (*path, failed[0] - group.first)
                    failure = list_failure(first, place, (len(failed), group.count), gather.tolerate, source)
                    yield GroupedItem(path, None, {}, failure)
                    continue
                values = [load(index) for index in indexes if inner.status[index] != FAILED]
                yield GroupedItem(path, values, _carried(outcome, reader))

    def _level(self, level: str) -> Iterator[tuple[ItemPath, dict[str, object] | Failure]]:
        """Yield what became of each item of a level: the values that it kept, by name, or why it failed."""
        op = self._plan.fan_out(level)
        with self._results(op) as (results, load):
            for index, entry in enumerate(self._entries(op.source)):
                if results.status[index] == FAILED:
                    yield entry.path, results.failures[index]
                else:
                    record = load(index)
                    assert isinstance(record, dict)
                    yield entry.path, record

    def _members(self, spread: str) -> Mapping[ItemPath, _Members]:
        """Return where the items of each list are."""
        members: dict[ItemPath, _Members] = {}
        for entry in self._entries(spread):
            group = members.get(entry.path[:-1])
            first, count = (entry.index, 0) if group is None else (group.first, group.count)
            members[entry.path[:-1]] = _Members(first, count + 1)
        return members

    def _entries(self, source: str) -> Iterator[ManifestEntry]:
        with self._folder.reading(source, resumable=True), self._folder.manifest(source).open("rb") as manifest:
            for lines in batched(item_lines(manifest), _LINES, strict=False):
                yield from entries(lines)

    @contextmanager
    def _results(self, op: FanOut) -> Iterator[tuple[StepResults, Callable[[int], object]]]:
        with self._folder.reading(op.calls[0].id, resumable=True):
            outcome = self._folder.map_outcome(op.key)
            assert outcome is not None
            results = StepResults(self._folder.parts(op.key), outcome.items)
            results.check_complete(outcome.succeeded, outcome.failed)
            with results.opened() as load:
                yield results, load


def _carried(record: dict[str, object], reader: FanOut) -> dict[str, object]:
    return {source_name(source): record[source_name(source)] for source in reader.carries}
