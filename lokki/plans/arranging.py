"""Putting the operations of a block side by side, as far as none waits for another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import reduce
from itertools import pairwise
from operator import or_

from lokki.plans.operations import FORK, Block, Call, Fork, Op, operations_in, sources_of
from lokki.plans.templates import Item

DEEPEST = 20
"""Most forks inside of one another; what is deeper runs in order.

A chain that gives something aside at each of its steps has a fork in a branch of a fork for each of them.
"""

_CANDIDATES = 32
"""Most calls that are tried as separators of a part, which takes a walk over the part for each."""


def arrange(units: Sequence[Block]) -> Block:
    """Return a block in which what is independent runs side by side.

    ``units``: operations, each after those that it waits for; those of one unit stay together.

    What is connected by nothing becomes the branches of a fork. Of what is connected, that for which all of the rest
    waits comes first, and so on. Where there is no such thing, calls that are independent must be ordered: the earliest
    call without which the rest falls into parts comes first, with all that it waits for; if there is none, then what
    waits for nothing. Ids of forks begin with that of their first operation.
    """
    return _Units(units).arranged(range(len(units)), 0)


class _Units:
    """The units of a block, and which of them wait for which.

    * ``waits``: the numbers of those that a unit itself waits for.
    * ``ancestors``: of all that it waits for, as bits, since unions of large sets are what takes the time.
    """

    def __init__(self, units: Sequence[Block]) -> None:
        self.units = units
        owners = {op.id: number for number, unit in enumerate(units) for op in operations_in(unit)}
        self.waits = [
            {owners[name] for name in _awaited(unit) if owners.get(name, number) != number}
            for number, unit in enumerate(units)
        ]
        self.ancestors: list[int] = []
        for waits in self.waits:
            self.ancestors.append(reduce(or_, (self.ancestors[other] | 1 << other for other in waits), 0))

    def arranged(self, part: Sequence[int], depth: int) -> Block:
        """Arrange some of the units, which lie in ``depth`` forks."""
        block: list[Op] = []
        while len(part) > 1 and depth < DEEPEST:
            branches = self.connected(part)
            if len(branches) > 1:
                blocks = tuple(self.arranged(branch, depth + 1) for branch in branches)
                return (*block, Fork(f"{blocks[0][0].id}{FORK}", blocks))
            sections = self.sections(part)
            *first, part = sections if len(sections) > 1 else self.separated(part)
            for section in first:
                block += self.arranged(section, depth)
        return (*block, *(op for number in part for op in self.units[number]))

    def connected(self, part: Sequence[int]) -> list[list[int]]:
        """Split a part where nothing leads from one side to the other."""
        roots = {number: number for number in part}

        def root(number: int) -> int:
            while roots[number] != number:
                roots[number] = number = roots[roots[number]]
            return number

        for number in part:
            for other in self.waits[number]:
                if other in roots:
                    first, second = sorted((root(number), root(other)))
                    roots[second] = first
        groups: dict[int, list[int]] = {}
        for number in part:
            groups.setdefault(root(number), []).append(number)
        return list(groups.values())

    def sections(self, part: Sequence[int]) -> list[Sequence[int]]:
        """Split a part where all that follows waits for all before."""
        whole = _bits(part)
        places = {number: place for place, number in enumerate(part)}
        cuts, first_free = [len(part)], len(part)
        for place in range(len(part) - 1, 0, -1):
            independent = whole & ~self.ancestors[part[place]]
            first_free = min(first_free, places[_lowest(independent)])
            if first_free >= place:
                cuts.append(place)
        cuts = [0, *reversed(cuts)]
        return [part[begin:end] for begin, end in pairwise(cuts)]

    def separated(self, part: Sequence[int]) -> list[Sequence[int]]:
        """Split a part in two although some of it is independent."""
        whole = _bits(part)
        for number in part[:_CANDIDATES]:
            first = self.ancestors[number] & whole | 1 << number
            rest = [other for other in part if not first >> other & 1]
            if len(self.connected(rest)) > 1:
                return [[other for other in part if first >> other & 1], rest]
        first = _bits([number for number in part if not self.ancestors[number] & whole])
        return [
            [number for number in part if first >> number & 1],
            [number for number in part if not first >> number & 1],
        ]


def _awaited(unit: Block) -> Iterator[str]:
    """Yield the ids of what the operations of a unit wait for."""
    for op in operations_in(unit):
        yield from (source.id for source in sources_of(op) if not isinstance(source, Item))
        if isinstance(op, Call):
            yield from op.after


def _bits(numbers: Sequence[int]) -> int:
    return sum(1 << number for number in numbers)


def _lowest(bits: int) -> int:
    """Return the number of the lowest bit that is set."""
    return (bits & -bits).bit_length() - 1
