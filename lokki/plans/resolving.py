"""From what was drawn to its operations: each chain once, in order, with an id, and who reads what.

Chains are followed upwards from what the flow returns. They are taken in the order in which they were made, so ids
count as the lines of the flow do; what a chain needs was made before it. A flow that is a step is drawn where it
stands, and its calls take its place.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from lokki.base.convert import ConversionError, to_json
from lokki.base.naming import check_step_name, occurrence_ids
from lokki.base.placeholders import (
    ChainResult,
    FlowParameter,
    Param,
    awaited_chain,
    placeholders_in,
)
from lokki.chain import AnyBlock, AnyStep, Chain, MapBlock, StepNode, SubFlow, pass_on
from lokki.errors import FlowError
from lokki.plans.fitting import check_use
from lokki.plans.operations import MAP, case_value
from lokki.plans.passing import find_functions, items_of_switch, placed_items
from lokki.plans.units import (
    Bound,
    CallUnit,
    CaseUnit,
    DrawnUnit,
    ItemOf,
    MapUnit,
    Provider,
    Site,
    SwitchUnit,
    calls_of,
    map_units,
)


@dataclass(frozen=True, slots=True)
class DrawnUnits:
    """The units of a flow in order, and those whose results it returns."""

    units: list[DrawnUnit]
    heads: tuple[DrawnUnit, ...]


def resolve_chains(heads: Sequence[AnyStep], origin: object = None) -> DrawnUnits:
    """Find all that heads of chains need.

    ``origin``: the flow that is drawn, if there is one.
    """
    site = Site([], {}, (origin,) if isinstance(origin, SubFlow) else ())
    _draw(heads, site)
    _name(site.units)
    find_functions(site.units)
    return DrawnUnits(site.units, tuple(site.chains[id(head)] for head in heads))


def _draw(heads: Sequence[Chain], site: Site) -> None:
    for chain in _in_order(heads):
        site.chains[id(chain)] = _placed(chain, site)


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
    _check_each_runs_once(chains)
    return sorted(chains.values(), key=lambda chain: chain.provenance.number)


def _check_each_runs_once(chains: dict[int, Chain]) -> None:
    """Refuse a chain beside what its .after() made of it, and two of these."""
    waiting: dict[int, AnyStep] = {}
    for chain in chains.values():
        if isinstance(chain, MapBlock) or chain.replaces is None:
            continue
        origin = chain.replaces
        while origin.replaces is not None:
            origin = origin.replaces
        if _is_begun(origin) and (id(origin) in chains or waiting.setdefault(id(origin), chain) is not chain):
            raise FlowError(
                f"{chain.where}: {origin} is used with and without its .after(), so it would run twice. "
                "Use what .after() returned."
            )


def _needed(chain: Chain) -> Iterator[Chain]:
    """Yield the chains that a chain is joined to, or reads, or waits for."""
    upstream = chain.source if isinstance(chain, MapBlock) else chain.upstream
    if upstream is not None and _is_begun(upstream):
        yield upstream
    for step in chain.inner_steps if isinstance(chain, MapBlock) else (chain,):
        yield from _joined(step)


def _joined(step: AnyStep) -> Iterator[Chain]:
    """Yield the chains that a step reads or waits for, wherever it is joined."""
    yield from step.waits_for
    if step.arguments is not None:
        for placeholder in placeholders_in((*step.arguments.args, *step.arguments.kwargs.values())):
            if isinstance(placeholder, ChainResult):
                chain = awaited_chain(placeholder)
                assert isinstance(chain, StepNode)
                yield chain
    if step.choice is not None:
        for inner in (step.choice.on, *(case for _, case in step.choice.cases)):
            yield from _joined(inner)


def _is_begun(chain: Chain) -> bool:
    """Tell whether a chain is one, and not a step that was not started."""
    return isinstance(chain, MapBlock) or chain._is_begun()


def _placed(chain: Chain, site: Site) -> DrawnUnit:
    if isinstance(chain, MapBlock):
        return _placed_map(chain, site)
    upstream = chain.upstream
    return _placed_step(chain, None if upstream is None else _upstream_unit(upstream, site), site)


def _upstream_unit(chain: Chain, site: Site) -> DrawnUnit:
    """Return what a chain is, placing a step now that was not started."""
    if _is_begun(chain):
        return site.chains[id(chain)]
    assert not isinstance(chain, MapBlock)
    return _placed_step(chain, None, site)


def _placed_step(step: AnyStep, reads: Provider | None, site: Site) -> DrawnUnit:
    unit: DrawnUnit
    if step.fn is pass_on:
        return placed_items(step, _waits(step, None, site), site)
    if step.flow is not None:
        return _placed_flow(step, step.flow, reads, site)
    if step.choice is None:
        unit = _call(step, reads, site)
    else:
        # What waits for something is the step that chooses: the cases follow it.
        on = replace(step.choice.on, waits_for=(*step.choice.on.waits_for, *step.waits_for))
        unit = SwitchUnit(step, _call(on, reads, site))
        for value, case in step.choice.cases:
            block: list[DrawnUnit] = []
            result = _placed_step(case, reads, replace(site, units=block, waits=(), in_case=site.in_map))
            unit.cases.append(CaseUnit(case_value(value), case, block, result))
    site.units.append(unit)
    return unit


def _call(step: AnyStep, reads: Provider | None, site: Site) -> CallUnit:
    return CallUnit(step, f"{site.prefix}{step.name}", reads, site.chains, _waits(step, reads, site), site.in_map)


def _waits(step: AnyStep, reads: Provider | None, site: Site) -> tuple[DrawnUnit, ...]:
    """Return what a step waits for without reading it.

    The first calls of a flow wait for what the flow waits for.
    """
    own = tuple(site.chains[id(chain)] for chain in step.waits_for)
    is_first = reads is None and next(_joined(step), None) is None
    return (*own, *site.waits) if is_first else own


def _placed_map(block: AnyBlock, site: Site) -> MapUnit:
    source = _upstream_unit(block.source, site)
    where = block.inner_steps[0].where
    if site.in_case:
        raise FlowError(
            f"{where}: {block} is in the body of {site.flows[-1].__name__}(), a case of a switch inside of a map, and "
            "a map there would run for some items only. Let a step return the list, empty where there is nothing to "
            "do, and map over that."
        )
    if isinstance(source, SwitchUnit):
        source = items_of_switch(source, where, site)
    assert isinstance(source, CallUnit)
    unit = MapUnit(block, source)
    body = replace(site, units=unit.body, waits=(), in_map=True)
    previous: Provider = ItemOf(unit)
    for step in block.inner_steps:
        previous = _placed_step(step, previous, body)
    unit.result = previous
    site.units.append(unit)
    return unit


def _placed_flow(step: AnyStep, flow: SubFlow, reads: Provider | None, site: Site) -> DrawnUnit:
    """Draw a flow that is a step of another one."""
    if flow in site.flows:
        path = " > ".join(f"{other.__name__}()" for other in (*site.flows, flow))
        raise FlowError(
            f"{step.where}: the flow {step.name}() reaches itself: {path}. A flow is a step of other flows only; "
            "what is to be repeated belongs into a loop inside a step, or into a map."
        )
    use = CallUnit(step, step.name, reads, site.chains, (), site.in_map)
    check_use(use)
    head = flow.draw_body([Param(param.name, param.annotation, bound) for param, bound in _arguments(use, flow)])
    if isinstance(head, tuple):
        raise FlowError(
            f"{step.where}: {step.name}() returns several chains, so it cannot be a step of another flow. "
            "Return one chain, of a step that gets their results."
        )
    if isinstance(head, MapBlock):
        raise FlowError(
            f"{step.where}: the flow {step.name}() ends in an open Map block: {head}. Close it with .agg(step), "
            "whose step gets the list of results."
        )
    waits = (*_waits(step, reads, site), *([] if reads is None or isinstance(reads, ItemOf) else [reads]))
    inner = Site(site.units, {}, (*site.flows, flow), f"{site.prefix}{step.name}_", waits, site.in_map, site.in_case)
    _draw([head], inner)
    return inner.chains[id(head)]


def _arguments(use: CallUnit, flow: SubFlow) -> Iterator[tuple[FlowParameter, Bound]]:
    """Yield the parameters of a flow with what they are bound to."""
    step = use.node
    arguments = step.arguments
    args, kwargs = (arguments.args, arguments.kwargs) if arguments else ((), {})
    first = () if use.reads is None else (Bound(provider=use.reads),)
    bound = inspect.signature(step.fn).bind(*first, *args, **kwargs).arguments
    for param in flow.params:
        value = bound.get(param.name, param.default)
        if isinstance(value, Bound):
            yield param, value
            continue
        try:
            if next(placeholders_in(value), None) is None:
                to_json(value, param.annotation)
        except ConversionError as error:
            raise FlowError(f"{step.where}: the argument {param.name!r} of {step.name}() is {error}.") from None
        yield param, Bound(value, use.chains)


def _name(units: Sequence[DrawnUnit]) -> None:
    """Give each call and map block its id."""
    calls = list(calls_of(units))
    for call, call_id in zip(calls, occurrence_ids([call.name for call in calls]), strict=True):
        if call.name != call.node.name:
            check_step_name(call.name)
        call.id = call_id
    counts: dict[str, int] = {}
    for unit in map_units(units):
        source = unit.source.id
        counts[source] = number = counts.get(source, 0) + 1
        unit.id = f"{source}{MAP}" if number == 1 else f"{source}{MAP}_{number}"
