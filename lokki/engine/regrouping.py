"""Which items of an inner map belong together, and whether too many of them failed; here and on Lambda alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from lokki.base.failures import Failure
from lokki.base.item_path import ItemPath, format_item
from lokki.base.options import MapOptions

type Group = tuple[ItemPath, int]
"""An item of a map block with a map below it: its path, and how many items of that there are, or results."""


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What became of the items of a level, by their indexes.

    ``failure`` is asked only for items that have no result.
    """

    succeeded: Callable[[int], bool]
    failure: Callable[[int], Failure]


def paths_below(groups: Iterable[Group]) -> Iterator[ItemPath]:
    """Yield the paths of all members of some lists, in order.

    >>> list(paths_below([((0,), 2), ((3,), 1)]))
    [(0, 0), (0, 1), (3, 0)]
    """
    return ((*path, member) for path, count in groups for member in range(count))


def members_of(groups: Iterable[Group]) -> dict[ItemPath, range]:
    """Return the indexes of the members of each list among all of them.

    >>> members_of([((0,), 2), ((3,), 1)])
    {(0,): range(0, 2), (3,): range(2, 3)}
    """
    members: dict[ItemPath, range] = {}
    first = 0
    for path, count in groups:
        members[path] = range(first, first + count)
        first += count
    return members


@dataclass(frozen=True, slots=True)
class GatheredLists:
    """The results of an inner map, which the level around it puts together.

    * ``level``, ``inner``: what became of the items of both.
    * ``members``: the inner items of each of the level.
    * ``tolerate``: how many items of a list may fail.
    * ``source``: the id of the call that gave the lists.
    """

    level: Outcomes
    inner: Outcomes
    members: dict[ItemPath, range]
    tolerate: int | float | None
    source: str

    def of(self, index: int, path: ItemPath) -> list[int] | Failure:
        """Return the inner items of an item that have results, or why it failed."""
        if not self.level.succeeded(index):
            return self.level.failure(index)
        members = self.members.get(path, range(0))
        succeeded = [member for member in members if self.inner.succeeded(member)]
        lost = len(members) - len(succeeded)
        if not MapOptions(tolerate=self.tolerate).too_many(lost, len(members)):
            return succeeded
        first = next(member for member in members if not self.inner.succeeded(member))
        place = (*path, first - members.start)
        return self._failure(self.inner.failure(first), place, lost, len(members))

    def _failure(self, first: Failure, path: ItemPath, failed: int, items: int) -> Failure:
        tolerated = "none" if self.tolerate is None else f"{self.tolerate:g}"
        count = (
            f"{failed} of {items} items, the first {format_item(path)}," if failed > 1 else f"item {format_item(path)}"
        )
        text, *lines = first.message.split("\n")
        note = f"({count} in the map over {self.source}(); tolerated: {tolerated})"
        return replace(first, message="\n".join([f"{text} {note}".lstrip(), *lines]))
