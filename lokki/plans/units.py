"""What was drawn, each operation in its place, before the operations have ids."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from lokki.base import signatures
from lokki.chain import AnyBlock, AnyStep, SubFlow
from lokki.plans.operations import SWITCH, CaseValue
from lokki.plans.templates import Item, Output, Results, Source


@dataclass(eq=False, slots=True)
class CallUnit:
    """A step that is called, in the place where it was drawn.

    * ``name``: of the step, after those of the flows that it is in.
    * ``reads``: what fills its first parameter.
    * ``chains``: what each chain is whose result its arguments may be.
    * ``after``: what it waits for without reading it.
    * ``id``: empty until all calls are known.
    """

    node: AnyStep
    name: str
    reads: Provider | None
    chains: Chains
    after: tuple[DrawnUnit, ...] = ()
    in_map: bool = False
    id: str = ""


@dataclass(eq=False, slots=True)
class PassingUnit(CallUnit):
    """A call of lokki's own, which gives what it reads to a map block.

    ``node`` is the step of that block in whose function it runs, when all calls are known.

    * ``annotation``: of what it gives; ``text``: says what that is.
    * ``parameter``: of the step, which gets an item; empty where none gets one as it is.
    """

    annotation: object = signatures.UNKNOWN
    text: str = ""
    parameter: str = ""


@dataclass(eq=False, slots=True)
class MapUnit:
    """A map block, in the place where it was drawn.

    ``result``: what gives an item's result.
    """

    block: AnyBlock
    source: CallUnit
    body: list[DrawnUnit] = field(default_factory=list)
    result: Provider | None = None
    id: str = ""


@dataclass(frozen=True, slots=True)
class CaseUnit:
    """A case of a switch.

    ``result``: what gives the result of the switch.
    """

    value: CaseValue
    step: AnyStep
    units: list[DrawnUnit]
    result: Provider


@dataclass(eq=False, slots=True)
class SwitchUnit:
    """A switch with the call that chooses, in the place where it was drawn."""

    node: AnyStep
    on: CallUnit
    cases: list[CaseUnit] = field(default_factory=list)

    @property
    def id(self) -> str:
        """Its id, empty until all calls are known."""
        return f"{self.on.id}{SWITCH}"


@dataclass(frozen=True, slots=True)
class ItemOf:
    """The item that a map block is at."""

    map: MapUnit


type DrawnUnit = CallUnit | MapUnit | SwitchUnit
type Provider = DrawnUnit | ItemOf
type Chains = dict[int, DrawnUnit]
"""What chains are, by their identity: the operation that gives the result, or the map block."""


@dataclass(frozen=True, slots=True)
class Bound:
    """What a parameter of a flow is, where the flow is a step of another one.

    It is an argument of that flow's, with what the chains are whose results may be in it; or the value that comes down
    the chain.
    """

    value: object = None
    chains: Chains = field(default_factory=dict)
    provider: Provider | None = None


@dataclass(frozen=True, slots=True)
class Site:
    """Where calls are drawn.

    * ``units``: those of the block.
    * ``chains``: of the flow whose body this is.
    * ``prefix``: of the names of calls; ``flows``: those that are being drawn, the outermost first.
    * ``waits``: what the first calls of the flow wait for.
    * ``in_case``: whether they are in a case of a switch that is in a map.
    """

    units: list[DrawnUnit]
    chains: Chains
    flows: tuple[SubFlow, ...] = ()
    prefix: str = ""
    waits: tuple[DrawnUnit, ...] = ()
    in_map: bool = False
    in_case: bool = False


def calls_of(units: Iterable[DrawnUnit]) -> Iterator[CallUnit]:
    """Yield the calls among units and inside of them, in order."""
    for unit in units:
        match unit:
            case CallUnit():
                yield unit
            case MapUnit():
                yield from calls_of(unit.body)
            case SwitchUnit():
                yield unit.on
                for case in unit.cases:
                    yield from calls_of(case.units)


def map_units(units: Iterable[DrawnUnit]) -> Iterator[MapUnit]:
    """Yield the map blocks among units and inside of them, in order."""
    for unit in units:
        if isinstance(unit, MapUnit):
            yield unit
            yield from map_units(unit.body)
        elif isinstance(unit, SwitchUnit):
            for case in unit.cases:
                yield from map_units(case.units)


def source_of(provider: Provider) -> Source:
    """Return the source by which a plan names a value."""
    match provider:
        case CallUnit() | SwitchUnit():
            return Output(provider.id)
        case MapUnit():
            return Results(provider.id)
        case ItemOf(unit):
            return Item(unit.id)
