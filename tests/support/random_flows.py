"""Random graphs, drawn from seeds as a user would draw them, and what they give, computed by plain calls.

It needs lokki and Python's library alone: tests write it to a file with a flow of some seeds at its end, which worker
processes import and packages hold. Values are short texts that say by a checksum what they were made of, so two engines
agree only if each call got what it was to get.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from lokki import Retry, StepNode, flow, step
from lokki.graph import FlowGraph

ITEMS = 3
"""The most items of a list; a quarter of all lists is empty."""


def text(name: str, *values: object) -> str:
    return f"{name}:{zlib.crc32(repr(values).encode()):08x}"


def texts(name: str, *values: object) -> list[str]:
    made = text(name, *values)
    return [f"{made}#{number}" for number in range(zlib.crc32(made.encode()) % (ITEMS + 1))]


@step
def make(*values: Any) -> list[str]:
    return texts("make", *values)


@step
def each(item: str, *values: Any) -> str:
    return text("each", item, *values)


@step
def kind(value: Any) -> Literal["a", "b", "c"]:
    names: tuple[Literal["a", "b", "c"], ...] = ("a", "b", "c")
    return names[zlib.crc32(repr(value).encode()) % 3]


@step
def few(value: list[str], *values: Any) -> list[str]:
    return texts("few", value, *values)


@step
def many(value: list[str]) -> list[str]:
    return texts("many", value)


@step
def near(item: str) -> str:
    return text("near", item)


@step
def far(item: str, *values: Any) -> str:
    return text("far", item, *values)


TRIED: set[str] = set()
"""What `shaky` has failed on in this process."""


def steady(item: str, *values: object) -> str:
    """Do what `shaky` does in the end."""
    return text("shaky", item, *values)


@step(retry=Retry(attempts=10, delay=0))
def shaky(item: str, *values: Any) -> str:
    """Fail for half of all items at the first try; where several processes try, at the first of each."""
    made = steady(item, *values)
    if made not in TRIED and zlib.crc32(made.encode()) % 2:
        TRIED.add(made)
        raise ConnectionError(item)
    return made


@step
def split(item: Any, *values: Any) -> list[str]:
    return texts("split", item, *values)


@step
def fragile(item: str, *values: Any) -> str:
    """Fail for a fifth of all items."""
    if zlib.crc32(item.encode()) % 5 == 0:
        raise ValueError(item)
    return text("fragile", item, *values)


@flow
def shallow(item: Any, other: Any) -> StepNode[..., Any]:
    """A map below a map, of whose lists one item may fail."""
    return split(item).map(fragile(other, item), tolerate=1, batch=2).next(shaky(item)).agg(make(other))


@flow
def deep(item: Any, other: Any) -> StepNode[..., Any]:
    """Two maps below a map, one in the other, and a switch on what they give."""
    lists = split(item, other).map(shallow(other=item), tolerate=1.0).agg(make(item, other))
    return lists.switch(kind, {"a": few(other), "b": many}, default=few(item))


def shallowly(item: Any, other: Any) -> list[str]:
    """Do by plain calls what `shallow` does; raise ValueError where too many items fail."""
    results, failed = [], 0
    for member in split.fn(item):
        try:
            results.append(steady(fragile.fn(member, other, item), item))
        except ValueError:
            failed += 1
    if failed > 1:
        raise ValueError(item)
    return make.fn(results, other)


def deeply(item: Any, other: Any) -> list[str]:
    """Do by plain calls what `deep` does."""
    lists = make.fn(succeeding(shallowly, split.fn(item, other), item), item, other)
    cases = {"a": lambda: few.fn(lists, other), "b": lambda: many.fn(lists), "c": lambda: few.fn(lists, item)}
    return cases[kind.fn(lists)]()


def succeeding(function: Callable[[Any, Any], list[str]], items: Iterable[Any], other: Any) -> list[list[str]]:
    """Return what a function gives for those items for which it does not fail."""
    results = []
    for item in items:
        with suppress(ValueError):
            results.append(function(item, other))
    return results


@dataclass
class Graph:
    """A random graph. What each of its chains gives, ``values``, is computed while ``chains`` are drawn."""

    seed: int
    chains: list[StepNode[..., Any]] = field(default_factory=list)
    values: list[list[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._chance = random.Random(self.seed)
        for number in range(self._chance.randint(2, 7)):
            reads = self._some(3)
            add = self._chance.choice([self._start, self._next, self._map, self._map, self._switch, self._nest])
            chain, value = self._start(number, reads) if not reads else add(number, reads)
            if waits := self._some(2) if self._chance.random() < 0.2 else []:
                chain = chain.after(*(self.chains[other] for other in waits))
            self.chains.append(chain)
            self.values.append(value)

    def _some(self, most: int) -> list[int]:
        """Choose some of the chains so far."""
        return self._chance.sample(range(len(self.chains)), self._chance.randint(0, min(most, len(self.chains))))

    def _arguments(self, number: int, reads: Iterable[int]) -> tuple[list[Any], list[Any]]:
        """Return arguments as they are drawn and as they arrive: results of other chains, some in a list in a dict."""
        drawn = [self.chains[other].result for other in reads]
        values: list[Any] = [self.values[other] for other in reads]
        if self._chance.random() < 0.5:
            return [number, {"rest": drawn}], [number, {"rest": values}]
        return [*drawn, number], [*values, number]

    def _start(self, number: int, reads: list[int]) -> tuple[StepNode[..., Any], list[str]]:
        drawn, values = self._arguments(number, reads)
        return make(*drawn), make.fn(*values)

    def _next(self, number: int, reads: list[int]) -> tuple[StepNode[..., Any], list[str]]:
        drawn, values = self._arguments(number, reads[1:])
        return self.chains[reads[0]].next(make(*drawn)), make.fn(self.values[reads[0]], *values)

    def _switch(self, number: int, reads: list[int]) -> tuple[StepNode[..., Any], list[str]]:
        drawn, values = self._arguments(number, reads[1:])
        begin = self.values[reads[0]]
        chain = self.chains[reads[0]].switch(kind, {"a": few(*drawn), "b": many}, default=few(7))
        results = {"a": few.fn(begin, *values), "b": many.fn(begin), "c": few.fn(begin, 7)}
        return chain, results[kind.fn(begin)]

    def _map(self, number: int, reads: list[int]) -> tuple[StepNode[..., Any], list[str]]:
        drawn, values = self._arguments(number, reads[1:])
        options: Mapping[str, Any] = {
            "batch": self._chance.choice([None, None, 1, 2, 5]),
            "concurrency": self._chance.choice([None, 1, 2]),
        }
        block = self.chains[reads[0]].map(each(*drawn), **options)
        items = [each.fn(item, *values) for item in self.values[reads[0]]]
        if self._chance.random() < 0.4:
            block = block.switch(kind, {"a": near, "c": far(*drawn)}, default=far)
            cases = {"a": lambda item: near.fn(item), "b": lambda item: far.fn(item)}
            items = [cases.get(kind.fn(item), lambda item: far.fn(item, *values))(item) for item in items]
        if self._chance.random() < 0.4:
            block = block.next(shaky(number))
            items = [steady(item, number) for item in items]
        return block.agg(make(*drawn)), make.fn(items, *values)

    def _nest(self, number: int, reads: list[int]) -> tuple[StepNode[..., Any], list[str]]:
        drawn, values = self._arguments(number, reads[1:])
        other: Any = self.chains[reads[-1]].result
        body, function = self._chance.choice([(shallow, shallowly), (deep, deeply)])
        chain = self.chains[reads[0]].map(body(other=other), tolerate=1.0).agg(make(*drawn))
        return chain, make.fn(succeeding(function, self.values[reads[0]], self.values[reads[-1]]), *values)


def draw(seeds: Iterable[int]) -> tuple[StepNode[..., Any], ...]:
    """Draw the graphs of some seeds into one flow, which returns what all their chains give."""
    return tuple(chain for seed in seeds for chain in Graph(seed).chains)


def evaluate(seeds: Iterable[int]) -> tuple[list[str], ...]:
    """Return what that flow returns."""
    values: list[list[str]] = []

    @flow
    def random_graphs() -> Any:
        graphs = [Graph(seed) for seed in seeds]  # here, as chains have results in the body of a flow only
        values.extend(value for graph in graphs for value in graph.values)
        return tuple(chain for graph in graphs for chain in graph.chains)

    random_graphs()
    return tuple(values)


def drawn(seeds: Iterable[int]) -> FlowGraph:
    """Return the flow."""

    @flow
    def random_graphs() -> Any:
        return draw(seeds)

    return random_graphs()
