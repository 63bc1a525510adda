"""What regroups the items of maps below maps, between their levels, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from lokki.base.failures import Failure
from lokki.base.item_path import ItemPath
from lokki.engine.regrouping import GatheredLists, Group, Outcomes, members_of, paths_below
from lokki.errors import damaged
from lokki.local_run.folder import RunFolder
from lokki.local_run.journal_reader import FAILED, StepResults, forget_items
from lokki.plan import Plan
from lokki.plans.levels import drawn_sources, spread_of
from lokki.plans.operations import Call, FanOut, Gather, Spread
from lokki.plans.templates import source_name
from lokki.store.manifest import GroupedItem, check_items


class ItemRegrouper:
    """Makes the items of the next level from the results of those before.

    A call that runs again numbers the items as it did before, with new ones behind them: the results that there are
    stay those of their items.
    """

    def __init__(self, plan: Plan, folder: RunFolder) -> None:
        self._plan = plan
        self._folder = folder

    def items(self, call: Call, groups: list[Group]) -> Iterator[GroupedItem]:
        """Yield what a call gives that regroups.

        ``groups``: gets what was put together, which `RunFolder.write_groups` is to write behind the items. What is
        damaged raises DamagedError.
        """
        reader = self._reader(call)
        earlier = self._folder.groups(call.id) or []
        match call.regroups:
            case Spread():
                return self._spread(call.regroups, reader, earlier, groups)
            case Gather():
                return self._gather(call.regroups, reader, earlier, groups)
            case None:
                raise TypeError(f"{call.id} is a step's call")

    def _reader(self, call: Call) -> FanOut:
        [reader] = (op for op in self._plan.fan_outs if op.source == call.id)
        return reader

    def _spread(
        self, spread: Spread, reader: FanOut, earlier: list[Group], groups: list[Group]
    ) -> Iterator[GroupedItem]:
        name = source_name(spread.items)
        with self._results(self._plan.fan_out(spread.level)) as (results, load):
            places = {path: index for index, path in self._paths(spread.level) if results.status[index] != FAILED}
            first = [path for path, _ in earlier if path in places]
            for path in (*first, *_others(places, first)):
                record = _record(load(places[path]))
                values, count = _carried(record, reader), 0
                for count, item in enumerate(check_items(spread.items.id, record[name]), 1):
                    yield GroupedItem((*path, count - 1), item, values)
                groups.append((path, count))

    def _gather(
        self, gather: Gather, reader: FanOut, earlier: list[Group], groups: list[Group]
    ) -> Iterator[GroupedItem]:
        level, inner = self._plan.fan_out(gather.level), self._plan.fan_out(gather.inner)
        members = members_of(self._groups(gather.spread))
        source = drawn_sources(self._plan.ops)[gather.inner]
        with self._results(inner) as (results, load), self._results(level) as (outer, load_outer):
            gathering = GatheredLists(_outcomes(outer), _outcomes(results), members, gather.tolerate, source)
            self._forget_changed(gather, reader, dict(earlier), gathering)
            for index, path in self._paths(gather.level):
                succeeded = gathering.of(index, path)
                if isinstance(succeeded, Failure):
                    yield GroupedItem(path, None, {}, succeeded)
                    continue
                groups.append((path, len(succeeded)))
                yield GroupedItem(path, list(map(load, succeeded)), _carried(_record(load_outer(index)), reader))

    def _forget_changed(
        self, gather: Gather, reader: FanOut, earlier: Mapping[ItemPath, int], gathering: GatheredLists
    ) -> None:
        """Forget the results of items whose lists have more members than they had.

        A result of an item is final, so the number of results tells.
        """
        changed: set[int] = set()
        for index, path in self._paths(gather.level):
            if path in earlier:
                succeeded = gathering.of(index, path)
                if isinstance(succeeded, Failure) or len(succeeded) != earlier[path]:
                    changed.add(index)
        if changed:
            forget_items(self._folder.parts(reader.key), changed)

    def _paths(self, level: str) -> Iterator[tuple[int, ItemPath]]:
        """Yield how the items of a level are named, with their numbers."""
        spread = spread_of(self._plan.ops, level)
        if spread:
            return enumerate(paths_below(self._groups(spread)))
        items = self._folder.items(self._plan.fan_out(level).source)
        return ((index, (index,)) for index in range(items))

    def _groups(self, spread: str) -> list[Group]:
        with self._folder.reading(spread, resumable=True):
            groups = self._folder.groups(spread)
            if groups is None:
                raise damaged(f"{self._folder.path / spread} names no lists of items", "Run the map again.")
            return groups

    @contextmanager
    def _results(self, op: FanOut) -> Iterator[tuple[StepResults, Callable[[int], object]]]:
        with self._folder.reading(op.calls[0].id, resumable=True):
            outcome = self._folder.map_outcome(op.key)
            assert outcome is not None
            results = StepResults(self._folder.parts(op.key), outcome.items)
            results.check_complete(outcome.succeeded, outcome.failed)
            with results.opened() as load:
                yield results, load


def _outcomes(results: StepResults) -> Outcomes:
    return Outcomes(lambda index: results.status[index] != FAILED, results.failures.__getitem__)


def _others(places: Mapping[ItemPath, int], first: Sequence[ItemPath]) -> Iterator[ItemPath]:
    """Yield the paths that are not among the first, in order."""
    yielded = set(first)
    return (path for path in places if path not in yielded)


def _record(value: object) -> dict[str, object]:
    assert isinstance(value, dict)  # the values that an item of a level kept, by name
    return value


def _carried(record: dict[str, object], reader: FanOut) -> dict[str, object]:
    return {source_name(source): record[source_name(source)] for source in reader.carries}
