"""Calls of lokki's own that give a list to a map block: a parameter of the flow, or what a switch gave.

Such a call needs a function on AWS, and none of its own: it runs in the function of a step of the map block, whose
package has what the items need.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from lokki.base import signatures
from lokki.base.placeholders import (
    ChainResult,
    Param,
    awaited_chain,
    parameter_annotation,
    parameter_argument,
    parameter_name,
)
from lokki.chain import AnyStep
from lokki.errors import FlowError
from lokki.plans.arguments import inputs_of
from lokki.plans.fitting import returned, text_of
from lokki.plans.templates import Item
from lokki.plans.units import (
    Bound,
    CallUnit,
    Chains,
    DrawnUnit,
    MapUnit,
    PassingUnit,
    Provider,
    Site,
    SwitchUnit,
    calls_of,
    map_units,
)


def placed_items(step: AnyStep, waits: tuple[DrawnUnit, ...], site: Site) -> DrawnUnit:
    """Place the beginning of a chain that maps over a value of the flow.

    The result of a call needs no further call. ``waits``: what the chain waits for.
    """
    assert step.arguments is not None
    [value] = step.arguments.args
    provider = _provider(value, site.chains)
    if isinstance(provider, CallUnit) and not step.waits_for:
        return provider
    name, text = "items", "the list of each()"
    annotation: object = signatures.UNKNOWN if provider is None else returned(provider)
    if isinstance(value, Param):
        name = parameter_name(value)
        annotation, text = parameter_annotation(value), f"the flow's parameter {name!r}"
    elif provider is not None:
        text = text_of(provider)
    unit = PassingUnit(
        step, f"{site.prefix}{name}", provider, site.chains, waits, site.in_map, annotation=annotation, text=text
    )
    site.units.append(unit)
    return unit


def items_of_switch(switch: SwitchUnit, where: str, site: Site) -> CallUnit:
    """Place the call that gives to a map block what a switch gave."""
    step = replace(switch.on.node, where=where)
    unit = PassingUnit(
        step,
        f"{switch.on.name}_items",
        switch,
        site.chains,
        in_map=site.in_map,
        annotation=returned(switch),
        text=text_of(switch),
    )
    site.units.append(unit)
    return unit


def _provider(value: object, chains: Chains) -> Provider | None:
    """Return what gives a value, None for a parameter of the run or a list."""
    if isinstance(value, ChainResult):
        return chains[id(awaited_chain(value))]
    bound = parameter_argument(value) if isinstance(value, Param) else None
    if not isinstance(bound, Bound):
        return None
    return bound.provider if bound.provider is not None else _provider(bound.value, bound.chains)


def find_functions(units: list[DrawnUnit]) -> None:
    """Find a step for each call of lokki's own, in whose function it runs.

    Raises FlowError for one whose items no map block runs over, and for items that no step can be given.
    """
    maps: dict[int, list[MapUnit]] = {}
    for block in map_units(units):
        maps.setdefault(id(block.source), []).append(block)
    for call in calls_of(units):
        if isinstance(call, PassingUnit):
            if id(call) not in maps:
                raise FlowError(
                    f"{call.node.where}: each() begins a map: each(…).map(step). Pass {call.text} to a step."
                )
            _lend(call, maps[id(call)])


def _lend(call: PassingUnit, blocks: list[MapUnit]) -> None:
    """Let a call run in the function of the step that takes the items best."""
    item = signatures.element(call.annotation)
    is_plain = call.reads is not None or item in (None, signatures.UNKNOWN) or signatures.is_json(item)
    readers = [reader for block in blocks for reader in _readers(block)]
    exact = (reader for reader in readers if _hint(*reader) == item)
    annotated = (reader for reader in readers if _hint(*reader) is not signatures.UNKNOWN)
    first = next(calls_of(blocks[0].body)).node
    node, call.parameter = next(exact, next(annotated, next(iter(readers), (first, ""))))
    own = call.node
    if not is_plain and _hint(node, call.parameter) is signatures.UNKNOWN:
        kind = signatures.describe(item)
        raise FlowError(
            f"{own.where}: no step of {blocks[0].block} takes an item as {kind}, so it would get the JSON of one. "
            f"Annotate its parameter: {call.parameter or 'item'}: {kind}."
        )
    call.node = replace(node, arguments=own.arguments, where=own.where, upstream=None, waits_for=())


def _readers(block: MapUnit) -> Iterator[tuple[AnyStep, str]]:
    """Yield the steps that take an item as it is, with the parameter."""
    for call in calls_of(block.body):
        reads, arguments = inputs_of(call)
        if reads == Item(block.id):
            yield call.node, next(iter(signatures.signature(call.node.fn).parameters), "")
        yield from ((call.node, argument.parameter) for argument in arguments if argument.template == Item(block.id))


def _hint(step: AnyStep, parameter: str) -> object:
    return signatures.hints(step.fn).get(parameter, signatures.UNKNOWN)
