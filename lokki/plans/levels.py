"""Maps below maps as flat maps: level by level, with what regroups items in between.

The body of a map is cut where a map in it begins. The first level runs what comes before, for each of its items, and
keeps their lists; a *spread* makes one list of all inner items; one map runs them; a *gather* puts their results
together again, and the next level goes on with those. So all options of maps work at every depth, and one map run
serves the items of all outer ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from lokki.plans.operations import (
    Block,
    Call,
    FanOut,
    Fork,
    Gather,
    Op,
    Spread,
    Switch,
    calls_in,
    given_by,
    operations_in,
    read_from_outside,
    sources_of,
)
from lokki.plans.templates import Item, Output, Results, Source, source_name

LEVEL = ".level_"
"""Ends the id of each level of a map block but the last, with its number."""

SPREAD, GATHER = ".spread", ".gather"
"""End the ids of the calls around a map below a map, after its own id."""

_ALL = 1.0


def flat_maps(fan_out: FanOut) -> Iterator[Op]:
    """Yield a map block as operations of which none holds a map block.

    The last of them has its id, and so its results. It may come alone.
    """
    return _flat(fan_out, frozenset(), bool(fan_out.options.tolerate))


def drawn_block(block: Block) -> Block:
    """Return a block as it was drawn, with maps in the bodies of maps.

    It is for whoever shows a plan; nothing runs it. `flat_maps` has made what it turns back.
    """
    ops = iter(block)
    return tuple(_drawn(op, ops) for op in ops)


def _drawn(op: Op, following: Iterator[Op]) -> Op:
    """Return an operation as it was drawn.

    A map block takes its further levels from those that follow.
    """
    match op:
        case FanOut():
            return _drawn_map(op, following)
        case Fork():
            return replace(op, branches=tuple(map(drawn_block, op.branches)))
        case Switch():
            return replace(op, cases=tuple(replace(case, block=drawn_block(case.block)) for case in op.cases))
        case Call():
            return op


def _drawn_map(first: FanOut, following: Iterator[Op]) -> FanOut:
    """Return a map block of which this is the first level."""
    level, body = first, list(first.body)
    while level.keeps:
        spread, inner = next(following), next(following)
        assert isinstance(spread, Call)
        assert isinstance(spread.regroups, Spread)
        assert isinstance(inner, FanOut)
        below = _drawn_map(inner, following)
        gather, level = _gathered(following)
        body += [
            replace(below, source=spread.regroups.items.id, options=replace(below.options, tolerate=gather.tolerate))
        ]
        body += level.body
    return replace(level, source=first.source, body=tuple(body), item=None, carries=())


def _gathered(following: Iterator[Op]) -> tuple[Gather, FanOut]:
    """Return the gather that comes next, and the level after it."""
    call, level = next(following), next(following)
    assert isinstance(call, Call)
    assert isinstance(call.regroups, Gather)
    assert isinstance(level, FanOut)
    return call.regroups, level


def drawn_sources(block: Block) -> dict[str, str]:
    """Return the ids of the calls that map blocks run over as they were drawn.

    They are by the ids of the map blocks, of all levels of those inside.
    """
    ops = list(operations_in(block))
    regroupings = {op.id: op.regroups for op in ops if isinstance(op, Call)}
    sources: dict[str, str] = {}
    for op in ops:
        if isinstance(op, FanOut):
            match regroupings.get(op.source):
                case Spread(_, items):
                    sources[op.id] = items.id
                case Gather(level):
                    sources[op.id] = sources[level]
                case None:
                    sources[op.id] = op.source
    return sources


def spread_of(block: Block, fan_out_id: str) -> str:
    """Return the id of the spread that made the items of a map block.

    It is empty for a map block that is below no other. All levels of a map block have the items of the first.
    """
    ops = list(operations_in(block))
    regroupings = {op.id: op.regroups for op in ops if isinstance(op, Call)}
    sources = {op.id: op.source for op in ops if isinstance(op, FanOut)}
    source = sources[fan_out_id]
    while isinstance(regrouping := regroupings[source], Gather):
        source = sources[regrouping.level]
    return "" if regrouping is None else source


def _flat(fan_out: FanOut, carries: frozenset[Source], some_may_fail: bool) -> Iterator[Op]:
    """Yield the levels of a map block.

    ``carries``: what its items can come with. ``some_may_fail``: whether an item that fails may leave the run going on.
    """
    sections = list(_sections(fan_out.body))
    item: Source = Item(fan_out.id)
    source, available = fan_out.source, carries
    for number, (section, inner) in enumerate(sections):
        rest = [op for later, other in sections[number + 1 :] for op in (*later, *([other] if other else []))]
        level = replace(
            fan_out,
            id=fan_out.id if inner is None else f"{fan_out.id}{LEVEL}{number + 1}",
            source=source,
            body=section,
            output=fan_out.output if inner is None else "",
            item=item if len(sections) > 1 else None,
            carries=_in_order(available & _reads((*section, *([inner] if inner else []), *rest))),
        )
        if inner is None:
            yield level
            return
        gives = available | given_by(section) | {item}
        keeps = gives & (_reads((inner, *rest)) | {Output(inner.source)})
        yield replace(level, keeps=_in_order(keeps))
        yield from _below(level.id, inner, keeps, sections[number + 1][0], some_may_fail)
        source, item, available = f"{inner.id}{GATHER}", Results(inner.id), keeps


def _below(
    level: str, inner: FanOut, carries: frozenset[Source], following: Block, some_may_fail: bool
) -> Iterator[Op]:
    """Yield a map below a level, between a spread and a gather.

    ``following``: what comes next for each item of the level. Where some items may fail, each list decides by itself
    whether it is too many.
    """
    tolerate = inner.options.tolerate
    some_may_fail = some_may_fail or bool(tolerate)
    spread = f"{inner.id}{SPREAD}"
    options = replace(inner.options, tolerate=_ALL) if some_may_fail else inner.options
    yield Call(
        spread, _first_step(inner.body), (), Results(level), fans_out=True, regroups=Spread(level, Output(inner.source))
    )
    yield from _flat(replace(inner, source=spread, options=options), carries, some_may_fail)
    gather = Gather(level, spread, inner.id, tolerate)
    yield Call(f"{inner.id}{GATHER}", _first_step(following), (), Results(inner.id), fans_out=True, regroups=gather)


def _sections(body: Block) -> Iterator[tuple[Block, FanOut | None]]:
    """Yield the parts of a body, each with the map block that comes after it.

    Each begins with the call that closes the map block before it. The last one has no map block after it.
    """
    remaining = body
    while True:
        section, waiting = _free_of_maps(remaining)
        inner = _first_closed(waiting)
        assert inner is not None or not waiting
        yield section, inner
        if inner is None:
            return
        remaining = tuple(op for op in waiting if op is not inner)


def _free_of_maps(ops: Block) -> tuple[Block, Block]:
    """Return which operations need no map block among them, and the others."""
    free: list[Op] = []
    waiting: list[Op] = []
    results: set[Source] = set()
    ids: set[str] = set()
    for op in ops:
        awaited = {name for call in calls_in((op,)) for name in call.after}
        if isinstance(op, FanOut) or not results.isdisjoint(read_from_outside((op,))) or not ids.isdisjoint(awaited):
            waiting.append(op)
            results |= given_by((op,))
            ids |= {inside.id for inside in operations_in((op,))}
        else:
            free.append(op)
    return tuple(free), tuple(waiting)


def _first_closed(waiting: Block) -> FanOut | None:
    """Return the map block that the first waiting call closes, or waits for.

    All else that this call needs has run.
    """
    first = next((op for op in waiting if isinstance(op, Call)), None)
    needed = () if first is None else (*first.after, *(source.id for source in sources_of(first)))
    return next((op for op in waiting if isinstance(op, FanOut) and op.id in needed), None)


def _first_step(block: Block) -> str:
    return next(calls_in(block)).step


def _reads(ops: Block) -> frozenset[Source]:
    return frozenset(read_from_outside(ops))


def _in_order(sources: Iterable[Source]) -> tuple[Source, ...]:
    return tuple(sorted(sources, key=source_name))
