"""From what was drawn to its operations: each chain once, in order, with an id, and who reads what.

Chains are followed upwards from what the flow returns. They are taken in the order in which they were made, so ids
count as the lines of the flow do; what a chain needs was made before it. A flow that is a step is drawn where it
stands, and its calls take its place.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from lokki.base.naming import occurrence_ids
from lokki.base.placeholders import ChainResult, awaited_chain, placeholders_in
from lokki.chain import AnyBlock, AnyStep, Chain, MapBlock
from lokki.errors import FlowError
from lokki.plans.operations import MAP
from lokki.plans.templates import Item, Output, Results, Source


@dataclass(eq=False, slots=True)
class CallUnit:
    """A step that is called, in the place where it was drawn.

    * ``name``: of the step, after those of the flows that it is in.
    * ``reads``: what fills its first parameter.
    * ``chains``: what each chain is whose result its arguments may be.
    * ``id``: empty until all calls are known.
    """

    node: AnyStep
    name: str
    reads: Provider | None
    chains: Chains
    after: tuple[Unit, ...] = ()
    in_map: bool = False
    id: str = ""


@dataclass(eq=False, slots=True)
class MapUnit:
    """A map block, in the place where it was drawn.

    ``result``: what gives an item's result.
    """

    block: AnyBlock
    source: CallUnit
    body: list[Unit] = field(default_factory=list)
    result: Provider | None = None
    id: str = ""


@dataclass(frozen=True, slots=True)
class ItemOf:
    """The item that a map block is at."""

    map: MapUnit


type Unit = CallUnit | MapUnit
type Provider = Unit | ItemOf
type Chains = dict[int, Unit]
"""What chains are, by their identity: the call that gives the result, or the map block."""


@dataclass(frozen=True, slots=True)
class Site:
    """Where calls are drawn.

    * ``units``: those of the block.
    * ``chains``: of the flow whose body this is.
    """

    units: list[Unit]
    chains: Chains
    in_map: bool = False


@dataclass(frozen=True, slots=True)
class DrawnUnits:
    """The units of a flow in order, and those whose results it returns."""

    units: list[Unit]
    heads: tuple[Unit, ...]


def resolve_chains(heads: Sequence[AnyStep]) -> DrawnUnits:
    """Find all that heads of chains need."""
    site = Site([], {})
    for chain in _in_order(heads):
        site.chains[id(chain)] = _placed(chain, site)
    _name(site.units)
    return DrawnUnits(site.units, tuple(site.chains[id(head)] for head in heads))


def calls_of(units: Iterable[Unit]) -> Iterator[CallUnit]:
    """Yield the calls among units and inside of them, in order."""
    for unit in units:
        if isinstance(unit, CallUnit):
            yield unit
        else:
            yield from calls_of(unit.body)


def maps_of(units: Iterable[Unit]) -> Iterator[MapUnit]:
    """Yield the map blocks among units, in order."""
    return (unit for unit in units if isinstance(unit, MapUnit))


def source_of(ref: Provider) -> Source:
    """Return the source by which a plan names a value."""
    match ref:
        case CallUnit():
            return Output(ref.id)
        case MapUnit():
            return Results(ref.id)
        case ItemOf(unit):
            return Item(unit.id)


def _in_order(heads: Sequence[Chain]) -> list[Chain]:
    """Return the chains that heads need, as they were made.

    It is a loop, since a chain may be long. A step that was not started belongs to the chain that begins with it.
    """
    chains = {id(head): head for head in heads}
    rest = list(heads)
    while rest:
        for chain in _needed(rest.pop()):
            if id(chain) not in chains:
                chains[id(chain)] = chain
                rest.append(chain)
    for chain in chains.values():
        if not isinstance(chain, MapBlock) and (replaced := chain.replaces) is not None and id(replaced) in chains:
            raise FlowError(
                f"{chain.where}: {replaced} is used with and without its .after(), so it would run twice. "
                "Use what .after() returned."
            )
    return sorted(chains.values(), key=lambda chain: chain.origin.number)


def _needed(chain: Chain) -> Iterator[Chain]:
    """Yield the chains that a chain is joined to, or reads, or waits for."""
    if isinstance(chain, MapBlock):
        if is_begun(chain.source):
            yield chain.source
        for step in chain.inner_steps:
            yield from _joined(step)
        return
    upstream = chain.upstream
    if upstream is not None and is_begun(upstream):
        yield upstream
    yield from _joined(chain)


def _joined(step: AnyStep) -> Iterator[Chain]:
    yield from step.waits_for
    if step.arguments is not None:
        yield from results_in((*step.arguments.args, *step.arguments.kwargs.values()))


def results_in(arguments: object) -> Iterator[AnyStep]:
    """Yield the chains whose results are in arguments."""
    for placeholder in placeholders_in(arguments):
        if isinstance(placeholder, ChainResult):
            chain = awaited_chain(placeholder)
            assert not isinstance(chain, MapBlock)
            yield chain  # type: ignore[misc]


def is_begun(chain: Chain) -> bool:
    """Tell whether a chain is one, and not a step that was not started."""
    return isinstance(chain, MapBlock) or chain._is_begun()


def _placed(chain: Chain, site: Site) -> Unit:
    if isinstance(chain, MapBlock):
        return _placed_map(chain, site)
    upstream = chain.upstream
    return _placed_step(chain, None if upstream is None else _upstream_unit(upstream, site), site)


def _upstream_unit(chain: Chain, site: Site) -> Unit:
    """Return what a chain is, placing a step now that was not started."""
    if is_begun(chain):
        return site.chains[id(chain)]
    assert not isinstance(chain, MapBlock)
    return _placed_step(chain, None, site)


def _placed_step(step: AnyStep, reads: Provider | None, site: Site) -> Unit:
    after = tuple(site.chains[id(chain)] for chain in step.waits_for)
    unit = CallUnit(step, step.name, reads, site.chains, after, site.in_map)
    site.units.append(unit)
    return unit


def _placed_map(block: AnyBlock, site: Site) -> MapUnit:
    source = _upstream_unit(block.source, site)
    assert isinstance(source, CallUnit)
    unit = MapUnit(block, source)
    body = Site(unit.body, site.chains, in_map=True)
    previous: Provider = ItemOf(unit)
    for step in block.inner_steps:
        previous = _placed_step(step, previous, body)
    unit.result = previous
    site.units.append(unit)
    return unit


def _name(units: Sequence[Unit]) -> None:
    """Give each call and map block its id."""
    calls = list(calls_of(units))
    for call, call_id in zip(calls, occurrence_ids([call.name for call in calls]), strict=True):
        call.id = call_id
    counts: dict[str, int] = {}
    for unit in maps_of(units):
        source = unit.source.id
        counts[source] = number = counts.get(source, 0) + 1
        unit.id = f"{source}{MAP}" if number == 1 else f"{source}{MAP}_{number}"
