"""What regroups the items of maps below maps, between their levels, in a function of a step that reads them.

Only functions with such calls load this module.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from lokki.base.failures import Failure
from lokki.base.item_path import ItemPath
from lokki.base.values import Ref, Stored
from lokki.engine.regrouping import GatheredLists, Group, Outcomes, members_of, paths_below
from lokki.errors import EventError, StoreError
from lokki.runtime.event import HandledCall, ItemCount, Request, ResultsKey
from lokki.runtime.sending import send_items
from lokki.store.base import Store, load_many
from lokki.store.keys import Keys
from lokki.store.manifest import GroupedItem, check_items, value_beside
from lokki.store.map_results import (
    BatchFailure,
    ItemResult,
    child_items,
    failed_children,
    item_results,
    read_result_files,
)

_GROUPS = msgspec.json.Decoder(list[Group])


def send_regrouped(store: Store, keys: Keys, handled: HandledCall, request: Request, inline_limit: int) -> ItemCount:
    """Write the items of the next level of a map block.

    Returns how many there are. Raises StoreError for results that cannot be read, and when the store cannot write.
    """
    regrouper = _Regrouper(store, keys, handled, request)
    sent = send_items(store, keys, request.call.id, regrouper.items(), inline_limit)
    store.write(keys.groups(request.call.id), [msgspec.json.encode(regrouper.groups)])
    return sent


class _Results:
    """What became of the items of a level.

    ``values`` has the results of those that succeeded, by index. ``inner``: the ids of the level's calls.
    """

    def __init__(self, store: Store, source: ResultsKey, inner: Sequence[str] = ()) -> None:
        self._inner = inner
        self._store = store
        self._url = store.url(source.key)
        self._files = read_result_files(store, self._url, source.earlier)
        self.items = source.items
        self.values: dict[int, ItemResult] = {}
        self._failures: dict[int, Failure] = {}
        for entry in item_results(store, self._url, self._files, source.items):
            if isinstance(entry.failed, BatchFailure):
                self._failures[entry.index] = entry.failed.failure
            else:
                self.values[entry.index] = entry
        self._has_read_children = False

    @property
    def outcomes(self) -> Outcomes:
        """What became of each item."""
        return Outcomes(self.values.__contains__, self.failure)

    def beside(self, index: int, name: str) -> Ref:
        """Return where a value is that an item of the level kept."""
        return value_beside(self.values[index].values, name, index)

    def failure(self, index: int) -> Failure:
        """Return why an item failed."""
        if index not in self._failures and not self._has_read_children:
            self._has_read_children = True
            self._read_children()
        return self._failures.get(index) or Failure("", "StoreError", "nothing is known of this item")

    def _read_children(self) -> None:
        # Only here: a function whose items do not fail starts without it.
        from lokki.engine.causes import child_failure

        for child in failed_children(self._store, self._files):
            failure = child_failure(self._inner, child.Error, child.Cause)
            brief = Failure(failure.step, failure.error, failure.message, failure.where)
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
        self.groups: list[Group] = []

    def items(self) -> Iterator[GroupedItem]:
        """Yield the items."""
        return self._gather() if self._regroups.spread else self._spread()

    def _spread(self) -> Iterator[GroupedItem]:
        level = _Results(self._store, self._source)
        name = self._regroups.items
        paths = [(index, path) for index, path in enumerate(self._paths(level.items)) if index in level.values]
        lists = load_many(self._store, [level.beside(index, name) for index, _ in paths])
        for (index, path), members in zip(paths, lists, strict=True):
            values = self._carried(level, index)
            count = 0
            for count, item in enumerate(check_items(name, members), 1):
                yield GroupedItem((*path, count - 1), item, values)
            self.groups.append((path, count))

    def _gather(self) -> Iterator[GroupedItem]:
        level, regroups = self._level(), self._regroups
        inner = _Results(self._store, self._source, regroups.inner)
        members = members_of(self._read(regroups.spread))
        gathering = GatheredLists(level.outcomes, inner.outcomes, members, regroups.tolerate, regroups.source)
        lists = [(index, path, gathering.of(index, path)) for index, path in enumerate(self._paths(level.items))]
        succeeded = (member for _, _, outcome in lists if not isinstance(outcome, Failure) for member in outcome)
        values = load_many(self._store, [inner.values[member].ref for member in succeeded])
        for index, path, outcome in lists:
            if isinstance(outcome, Failure):
                yield GroupedItem(path, None, {}, outcome)
            else:
                yield GroupedItem(path, [next(values) for _ in outcome], self._carried(level, index))

    def _level(self) -> _Results:
        source = self._request.values[self._regroups.level]
        if not isinstance(source, ResultsKey):
            raise EventError(f"the event's value {self._regroups.level} is not where the results of a map are.")
        return _Results(self._store, source, self._regroups.outer)

    def _carried(self, level: _Results, index: int) -> dict[str, Ref]:
        return {name: level.beside(index, name) for name in self._regroups.carries}

    def _paths(self, items: int) -> Iterator[ItemPath]:
        """Yield how the items of the level before are named, in order."""
        if not self._regroups.around:
            return ((index,) for index in range(items))
        return paths_below(self._read(self._regroups.around))

    def _read(self, spread: str) -> list[Group]:
        url = self._store.url(self._keys.groups(spread))
        try:
            return _GROUPS.decode(self._store.read(Stored(url)))
        except msgspec.DecodeError as error:
            raise StoreError(f"{url} is not what lokki writes of lists: {error}.") from None
