"""What regroups the items of maps below maps, between their levels, in a function of a step that reads them.

Only functions with such calls load this module.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from lokki.base.failures import Failure
from lokki.base.item_path import ItemPath
from lokki.base.options import MapOptions
from lokki.base.values import Ref, Stored
from lokki.errors import EventError, StoreError
from lokki.runtime.event import HandledCall, Request, ResultsKey
from lokki.runtime.sending import send_items
from lokki.store.base import Store, load_many
from lokki.store.keys import Keys
from lokki.store.manifest import GroupedItem, check_items
from lokki.store.map_results import (
    BatchFailure,
    ItemResult,
    child_items,
    failed_children,
    item_results,
    read_result_files,
)

type _Groups = list[tuple[ItemPath, int]]
"""The items with lists, in order, with the number of their members."""

_GROUPS = msgspec.json.Decoder(list[tuple[ItemPath, int]])


def send_regrouped(store: Store, keys: Keys, handled: HandledCall, request: Request, inline_limit: int) -> int:
    """Write the items of the next level of a map block.

    Returns how many there are. Raises StoreError for results that cannot be read, and when the store cannot write.
    """
    regrouper = _Regrouper(store, keys, handled, request)
    count = send_items(store, keys, request.call.id, regrouper.items(), inline_limit)
    store.write(keys.groups(request.call.id), [msgspec.json.encode(regrouper.groups)])
    return count


class _Results:
    """What became of the items of a level.

    ``values`` has the results of those that succeeded, by index.
    """

    def __init__(self, store: Store, source: ResultsKey) -> None:
        self._store = store
        self._url = store.url(source.key)
        self._files = read_result_files(store, self._url)
        self.items = source.items
        self.values: dict[int, ItemResult] = {}
        self._failures: dict[int, Failure] = {}
        for entry in item_results(store, self._url, self._files, source.items):
            if isinstance(entry.failed, BatchFailure):
                failed = entry.failed
                self._failures[entry.index] = Failure(failed.step, failed.error, failed.message)
            else:
                self.values[entry.index] = entry
        self._has_read_children = False

    def failure(self, index: int) -> Failure:
        """Return why an item failed."""
        if index not in self._failures and not self._has_read_children:
            self._has_read_children = True
            self._read_children()
        return self._failures.get(index) or Failure("", "StoreError", "nothing is known of this item")

    def _read_children(self) -> None:
        # Only here: a function whose items do not fail starts without it.
        from lokki.engine.causes import reported_failure

        for child in failed_children(self._store, self._files):
            failure = reported_failure("", child.Error, child.Cause)
            brief = Failure(failure.step, failure.error, failure.message)
            self._failures |= dict.fromkeys(child_items(child.Input), brief)


class _Regrouper:
    """Makes the items of the next level from the results of those before."""

    def __init__(self, store: Store, keys: Keys, handled: HandledCall, request: Request) -> None:
        if handled.regroups is None or not isinstance(request.input, ResultsKey):
            raise EventError(f"{request.call.id} takes the results of a map.")
        self._store = store
        self._keys = keys
        self._regroups = handled.regroups
        self._request = request
        self._source = request.input
        self.groups: _Groups = []

    def items(self) -> Iterator[GroupedItem]:
        """Yield the items."""
        return self._gather() if self._regroups.spread else self._spread()

    def _spread(self) -> Iterator[GroupedItem]:
        level = _Results(self._store, self._source)
        name = self._regroups.items
        paths = [(index, path) for index, path in enumerate(self._paths(level.items)) if index in level.values]
        lists = load_many(self._store, [level.values[index].values[name].ref for index, _ in paths])
        for (index, path), members in zip(paths, lists, strict=True):
            values = self._carried(level.values[index])
            count = 0
            for count, item in enumerate(check_items(name, members), 1):
                yield GroupedItem((*path, count - 1), item, values)
            self.groups.append((path, count))

    def _gather(self) -> Iterator[GroupedItem]:
        inner = _Results(self._store, self._source)
        level = self._level()
        groups = self._members()
        tolerated = MapOptions(tolerate=self._regroups.tolerate)
        outcomes: list[tuple[ItemPath, Sequence[int] | Failure, ItemResult | None]] = []
        for index, path in enumerate(self._paths(level.items)):
            entry = level.values.get(index)
            if entry is None:
                outcomes.append((path, level.failure(index), None))
                continue
            members = groups.get(path, range(0))
            lost = [member for member in members if member not in inner.values]
            if tolerated.too_many(len(lost), len(members)):
                outcomes.append((path, self._failure_of_list(inner, path, members, lost), None))
            else:
                outcomes.append((path, [member for member in members if member in inner.values], entry))
        kept = (members for _, members, entry in outcomes if entry is not None and not isinstance(members, Failure))
        values = load_many(self._store, [inner.values[member].ref for members in kept for member in members])
        for path, outcome, entry in outcomes:
            if isinstance(outcome, Failure):
                yield GroupedItem(path, None, {}, outcome)
            elif entry is not None:
                yield GroupedItem(path, [next(values) for _ in outcome], self._carried(entry))

    def _failure_of_list(self, inner: _Results, path: ItemPath, members: range, lost: list[int]) -> Failure:
        from lokki.engine.report import list_failure  # only here: see above

        place = (*path, lost[0] - members.start)
        regroups = self._regroups
        counts = (len(lost), len(members))
        return list_failure(inner.failure(lost[0]), place, counts, regroups.tolerate, regroups.source)

    def _level(self) -> _Results:
        source = self._request.values[self._regroups.level]
        if not isinstance(source, ResultsKey):
            raise EventError(f"the event's value {self._regroups.level} is not where the results of a map are.")
        return _Results(self._store, source)

    def _carried(self, entry: ItemResult) -> dict[str, Ref]:
        return {name: entry.values[name].ref for name in self._regroups.carries}

    def _paths(self, items: int) -> Iterator[ItemPath]:
        """Yield how the items of the level before are named, in order."""
        if not self._regroups.around:
            return ((index,) for index in range(items))
        return ((*path, number) for path, count in self._read(self._regroups.around) for number in range(count))

    def _members(self) -> dict[ItemPath, range]:
        """Return where the members of each list are among all."""
        members: dict[ItemPath, range] = {}
        first = 0
        for path, count in self._read(self._regroups.spread):
            members[path] = range(first, first + count)
            first += count
        return members

    def _read(self, spread: str) -> _Groups:
        url = self._store.url(self._keys.groups(spread))
        try:
            return _GROUPS.decode(self._store.read(Stored(url)))
        except msgspec.DecodeError as error:
            raise StoreError(f"{url} is not what lokki writes of lists: {error}.") from None
