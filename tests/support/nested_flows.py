"""Random flows with maps below maps, drawn with lokki and run as plain loops."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from lokki import Flow, flow, step


@step
def begin(count: int) -> list[int]:
    return list(range(count))


@step
def grow(value: int, salt: int, extra: int = 0) -> list[int]:
    """Give up to three numbers, for every third value none."""
    return [(value + extra) * 7 + salt + n for n in range((value + salt) % 4)]


@step
def trickle(value: int, salt: int, extra: int = 0) -> Any:
    """Give the same, one by one."""
    return (number for number in grow.fn(value, salt, extra))


@step
def mix(value: int, salt: int, extra: int = 0) -> int:
    return (value * 31 + salt * 17 + extra) % 1009


@step
def breaks(value: int, salt: int, extra: int = 0) -> int:
    if (value + salt) % 5 == 0:
        raise ValueError(f"{value} breaks")
    return mix.fn(value, salt, extra)


@step
def fold(values: list[int], salt: int, extra: int = 0) -> int:
    return (sum((place + 1) * value for place, value in enumerate(values)) + len(values) + salt + extra) % 1009


@step
def is_even(value: int) -> bool:
    return value % 2 == 0


@dataclass(frozen=True)
class Inner:
    """A map below a map. ``of``: the flow that is its body. ``tolerate``: how many items of each list may fail."""

    of: Body
    salt: int
    generator: bool
    tolerate: int | None
    agg_reads_item: bool
    batch: int | None


@dataclass(frozen=True)
class Body:
    """What an item goes through: calls, then maps over one list each, whose folds are added, then calls.

    ``reads_outer``: calls read the value of the item around. ``switch``: a switch comes last.
    """

    before: tuple[int, ...]
    inners: tuple[Inner, ...]
    after: tuple[int, ...]
    reads_outer: bool
    switch: bool
    breaks: bool
    one_source: bool


def bodies(depth: int) -> SearchStrategy[Body]:
    """Draw bodies with maps to a depth."""
    salts = st.lists(st.integers(0, 9), max_size=2).map(tuple)
    inners: SearchStrategy[tuple[Inner, ...]] = st.just(())
    if depth:
        inner = st.builds(
            Inner,
            bodies(depth - 1),
            st.integers(0, 9),
            st.booleans(),
            st.sampled_from([None, None, 0, 1, 2]),
            st.booleans(),
            st.sampled_from([None, None, 2]),
        )
        inners = st.lists(inner, min_size=1, max_size=2).map(tuple)
    return st.builds(
        Body, salts, inners, salts, st.booleans(), st.booleans(), st.sampled_from([False, False, True]), st.booleans()
    )


class TooManyError(Exception):
    """More items of a list failed than may."""


def directly(body: Body, item: int, outer: int) -> int:
    """Run a body on an item as plain Python. Raises ValueError or TooManyError."""
    extra = outer if body.reads_outer else 0
    value = (breaks if body.breaks else mix).fn(item, 1, extra)
    for salt in body.before:
        value = mix.fn(value, salt, extra)
    folded = []
    source: list[int] = []
    for number, inner in enumerate(body.inners):
        if number == 0 or not body.one_source:
            source = grow.fn(value, inner.salt, extra)
        results, failed = [], 0
        for member in source:
            try:
                results.append(directly(inner.of, member, item))
            except (ValueError, TooManyError):
                failed += 1
        if failed > (inner.tolerate or 0):
            raise TooManyError
        folded.append(fold.fn(results, inner.salt, item if inner.agg_reads_item else 0))
    for part in folded:
        value = mix.fn(value, 3, part)
    for salt in body.after:
        value = mix.fn(value, salt, extra)
    if body.switch:
        value = mix.fn(value, 5, item) if is_even.fn(value) else fold.fn([value], 6, extra)
    return value


def flow_of(body: Body, name: str) -> Flow[..., Any]:
    """Return a flow that does the same to an item."""
    flows = [flow_of(inner.of, f"{name}_{number}") for number, inner in enumerate(body.inners)]

    def draw(item: int, outer: int) -> Any:
        extra: Any = outer if body.reads_outer else 0
        chain: Any = (breaks if body.breaks else mix)(item, 1, extra)
        for salt in body.before:
            chain = chain.next(mix(salt=salt, extra=extra))
        folded = []
        source: Any = None
        for number, (inner, inner_flow) in enumerate(zip(body.inners, flows, strict=True)):
            if number == 0 or not body.one_source:
                source = chain.next((trickle if inner.generator and not body.one_source else grow)(inner.salt, extra))
            block = source.map(inner_flow(outer=item), tolerate=inner.tolerate, batch=inner.batch)
            folded.append(block.agg(fold(inner.salt, item if inner.agg_reads_item else 0)))
        for part in folded:
            chain = chain.next(mix(salt=3, extra=part.result))
        for salt in body.after:
            chain = chain.next(mix(salt=salt, extra=extra))
        if body.switch:
            chain = chain.switch(is_even, {True: mix(salt=5, extra=item), False: single(salt=6, extra=extra)})
        return chain

    draw.__name__ = draw.__qualname__ = name
    return flow(draw)


@step
def single(value: int, salt: int, extra: int = 0) -> int:
    return fold.fn([value], salt, extra)


def whole(body: Body, count: int, tolerate: int | None) -> tuple[Flow[..., Any], object]:
    """Return a flow that maps a body over some items, and what it gives; None for a run that fails."""
    inner = flow_of(body, "part")

    def outermost(count: int) -> Any:
        return begin(count).map(inner(outer=count), tolerate=tolerate).agg(fold(7))

    results, failed = [], 0
    for item in range(count):
        try:
            results.append(directly(body, item, count))
        except (ValueError, TooManyError):
            failed += 1
    expected = None if failed > (tolerate or 0) else fold.fn(results, 7)
    return flow(outermost), expected
