"""The resolved flow: its parameters and its entries in order, checked as far as can be without running it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

from lokki.base.naming import check_state_names, operation_state
from lokki.base.options import FlowOptions, MapOptions
from lokki.base.placeholders import REQUIRED, FlowParameter, Param, parameter_annotation, parameter_name
from lokki.base.quotas import STATE_NAME_LENGTH
from lokki.chain import AnyStep, Chain, MapBlock
from lokki.errors import FlowError
from lokki.plans.arguments import inputs_of
from lokki.plans.arranging import arrange
from lokki.plans.fitting import check_fit, check_names
from lokki.plans.levels import drawn_sources, flat_maps
from lokki.plans.operations import (
    Argument,
    Block,
    Call,
    Case,
    CaseValue,
    FanOut,
    Fork,
    Op,
    Switch,
    operations_in,
)
from lokki.plans.resolving import resolve_chains
from lokki.plans.templates import Item, Output, Reads, sources_in
from lokki.plans.units import (
    CallUnit,
    CaseUnit,
    DrawnUnit,
    MapUnit,
    PassingUnit,
    SwitchUnit,
    calls_of,
    map_units,
    source_of,
)

__all__ = [
    "REQUIRED",
    "FlowGraph",
    "FlowParameter",
    "GraphEntry",
    "MapCloseEntry",
    "MapOpenEntry",
    "Param",
    "SwitchEntry",
    "TaskEntry",
    "parameter_annotation",
    "parameter_name",
]


@dataclass(frozen=True, slots=True)
class TaskEntry:
    """A step that runs once, on what is upstream of it."""

    node: AnyStep
    id: str


@dataclass(frozen=True, slots=True)
class MapOpenEntry:
    """A map block, whose steps run once for each item of the source."""

    source: AnyStep
    inner_steps: tuple[AnyStep, ...]
    source_id: str
    inner_ids: tuple[str, ...]
    options: MapOptions = field(default_factory=MapOptions)


@dataclass(frozen=True, slots=True)
class MapCloseEntry:
    """The step that closes a map block and gets the list of its results."""

    agg_step: AnyStep
    id: str


@dataclass(frozen=True, slots=True)
class SwitchEntry:
    """A switch, of whose cases one runs; their entries follow it.

    * ``id``: of the switch; ``on_id``: of the call that chooses, which comes right before.
    * ``values``: what the cases are for, None for the default.
    """

    id: str
    on_id: str
    values: tuple[CaseValue, ...]


type GraphEntry = TaskEntry | MapOpenEntry | MapCloseEntry | SwitchEntry


class FlowGraph:
    """A flow resolved: ``entries`` in the order of its plan.

    ``a().map(b).agg(c)`` becomes ``TaskEntry(a)``, ``MapOpenEntry(a, (b,))``, ``MapCloseEntry(c)``. Of branches that
    run side by side, one comes after another.

    * ``head``: the chain that the flow returns, or a tuple of them.
    * ``block``: the operations, arranged; ``returns``: what the result is, None for that of the last operation.

    Raises FlowError for an open map block at the end, for steps whose signatures or annotations do not fit what comes
    down the chain, and for names that collide.
    """

    def __init__(
        self,
        name: str,
        head: Chain | tuple[Chain, ...],
        params: tuple[FlowParameter, ...] = (),
        options: FlowOptions | None = None,
        doc: str = "",
        origin: object = None,
    ) -> None:
        self.name = name
        self.head = head
        self.params = params
        self.options = options or FlowOptions()
        self.doc = doc
        self.origin = origin
        heads = _closed(name, head)
        _check_schedule(name, params, self.options)
        resolved = resolve_chains(heads, origin)
        calls = {call.id: call for call in calls_of(resolved.units)}
        check_names(calls.values())
        check_fit(resolved.units)
        block = _Lowering(resolved.units, resolved.heads).block()
        check_state_names(_states(block))
        self.block = block
        self.returns = _returns(head, resolved.heads, block)
        self.entries = tuple(_entries(block, {call_id: call.node for call_id, call in calls.items()}))

    def __repr__(self) -> str:
        return f"<flow {self.name}: {self.head}>"

    def __eq__(self, other: object) -> bool:
        """Compare by identity, and refuse to compare with a value.

        A test that does so takes calling a flow for running it.
        """
        if not isinstance(other, FlowGraph):
            function = getattr(self.origin, "__name__", "the flow")
            raise FlowError(
                f"{function}(…) only draws the flow, so `==` cannot use its result. "
                f"Run it: {function}.run(…) returns the result."
            )
        return self is other

    __hash__ = object.__hash__

    @property
    def steps(self) -> tuple[AnyStep, ...]:
        """The flow's steps, one of each name, in the order they first run."""
        first: dict[str, AnyStep] = {}
        for entry in self.entries:
            for step in _steps(entry):
                first.setdefault(step.name, step)
        return tuple(first.values())


def _steps(entry: GraphEntry) -> tuple[AnyStep, ...]:
    match entry:
        case TaskEntry(step) | MapCloseEntry(step):
            return (step,)
        case MapOpenEntry(_, inner_steps):
            return inner_steps
        case SwitchEntry():
            return ()


def _closed(name: str, head: Chain | tuple[Chain, ...]) -> tuple[AnyStep, ...]:
    """Return the chains that a flow returns, all of them closed."""
    heads: list[AnyStep] = []
    for chain in head if isinstance(head, tuple) else (head,):
        if isinstance(chain, MapBlock):
            raise FlowError(
                f"the flow {name!r} ends in an open Map block: {chain}. Close it with .agg(step), "
                "whose step gets the list of results."
            )
        heads.append(chain)
    return tuple(heads)


def _check_schedule(name: str, params: tuple[FlowParameter, ...], options: FlowOptions) -> None:
    required = [param.name for param in params if param.required]
    if options.schedule is not None and required:
        raise FlowError(
            f"the flow {name!r} runs on a schedule, but its parameter {required[0]!r} has no default that a scheduled "
            "run could use. Give it one."
        )


class _Lowering:
    """Turns units into operations, when all of them have ids."""

    def __init__(self, units: list[DrawnUnit], heads: tuple[DrawnUnit, ...]) -> None:
        self._units = units
        self._inputs: dict[str, tuple[Reads, tuple[Argument, ...]]] = {
            call.id: inputs_of(call) for call in calls_of(units)
        }
        self._read = {source for reads, arguments in self._inputs.values() for source in (reads, *_sources(arguments))}
        self._read |= {source_of(head) for head in heads}
        self._read |= {source_of(case.result) for case in _cases(units)}
        self._fanning = {unit.source.id for unit in map_units(units)}

    def block(self) -> Block:
        return self._arranged(self._units)

    def _arranged(self, units: list[DrawnUnit]) -> Block:
        return arrange([tuple(self._operations(unit)) for unit in units])

    def _operations(self, unit: DrawnUnit) -> Iterator[Op]:
        match unit:
            case CallUnit():
                yield self._call(unit)
            case MapUnit():
                yield from flat_maps(self._map(unit))
            case SwitchUnit():
                yield from self._switch(unit, self._arranged)

    def _map(self, unit: MapUnit) -> FanOut:
        first, *others = self._in_turn(unit.body)
        if isinstance(first, Call) and first.reads == Item(unit.id):
            # The first call of a body reads the item as the first step of a line does, whose plan has no name for it.
            first = replace(first, reads=Item())
        assert unit.result is not None
        result = source_of(unit.result).id
        output = "" if result == [first, *others][-1].id else result
        return FanOut(unit.id, unit.source.id, (first, *others), unit.block.options, output)

    def _in_turn(self, units: list[DrawnUnit]) -> Block:
        """Return the operations of a map's body, which run one after another."""
        return tuple(op for unit in units for op in self._in_body(unit))

    def _in_body(self, unit: DrawnUnit) -> Iterator[Op]:
        match unit:
            case CallUnit():
                yield self._call(unit)
            case MapUnit():
                yield self._map(unit)
            case SwitchUnit():
                yield from self._switch(unit, self._in_turn)

    def _switch(self, unit: SwitchUnit, block: Callable[[list[DrawnUnit]], Block]) -> Iterator[Op]:
        yield replace(self._call(unit.on), cases=tuple(case.value for case in unit.cases))
        cases = (Case(case.value, block(case.units), source_of(case.result).id) for case in unit.cases)
        yield Switch(unit.id, unit.on.id, tuple(cases))

    def _call(self, call: CallUnit) -> Call:
        reads, arguments = self._inputs[call.id]
        fans_out = call.id in self._fanning
        sources = {reads, *_sources(arguments)}
        return Call(
            call.id,
            call.node.name,
            arguments,
            reads,
            fans_out,
            fans_out and Output(call.id) in self._read,
            tuple(dict.fromkeys(unit.id for unit in call.after if source_of(unit) not in sources)),
            passes_on=isinstance(call, PassingUnit),
        )


def _cases(units: Iterable[DrawnUnit]) -> Iterator[CaseUnit]:
    for unit in units:
        if isinstance(unit, SwitchUnit):
            for case in unit.cases:
                yield case
                yield from _cases(case.units)
        elif isinstance(unit, MapUnit):
            yield from _cases(unit.body)


def _sources(arguments: tuple[Argument, ...]) -> Iterator[Reads]:
    return (source for argument in arguments for source in sources_in(argument.template))


def _returns(
    head: Chain | tuple[Chain, ...], heads: tuple[DrawnUnit, ...], block: Block
) -> Output | tuple[Output, ...] | None:
    outputs = tuple(source for source in map(source_of, heads) if isinstance(source, Output))
    if isinstance(head, tuple):
        return outputs
    return None if outputs == (Output(block[-1].id),) else outputs[0]


def _states(block: Block) -> Iterator[tuple[str, str]]:
    """Yield the names of states, each with what it stands for."""
    for op in operations_in(block):
        state = operation_state(op.id)
        match op:
            case Call():
                yield state, f"{op.id}()"
            case FanOut():
                yield state, f"the map over {op.source}()"
            case Fork():
                yield state, f"the fork at {op.branches[0][0].id}"
            case Switch():
                _check_switch_name(op, state)
                yield state, f"the switch on {op.on}()"


def _check_switch_name(switch: Switch, state: str) -> None:
    """Refuse a step whose name leaves no room for the states before its cases."""
    longest = STATE_NAME_LENGTH - len("-9999")
    if len(state) > longest:
        raise FlowError(
            f"the name of {switch.on}() is too long for a switch: the states of its cases would have more than "
            f"{STATE_NAME_LENGTH} characters. Shorten it by {len(state) - longest}."
        )


def _entries(block: Block, nodes: dict[str, AnyStep]) -> Iterator[GraphEntry]:
    """Yield the entries of a block.

    A map block with maps below it has one for each of its levels.
    """
    sources = drawn_sources(block)
    for op in block:
        match op:
            case Call() if op.regroups is None:
                node = nodes[op.id]
                closes = isinstance(node.upstream, MapBlock)
                yield MapCloseEntry(node, op.id) if closes else TaskEntry(node, op.id)
            case Call():
                pass
            case FanOut():
                ids = tuple(call.id for call in op.calls)
                inner_steps = tuple(nodes[call_id] for call_id in ids)
                source = sources[op.id]
                yield MapOpenEntry(nodes[source], inner_steps, source, ids, op.options)
            case Fork():
                for branch in op.branches:
                    yield from _entries(branch, nodes)
            case Switch():
                yield SwitchEntry(op.id, op.on, tuple(case.value for case in op.cases))
                for case in op.cases:
                    yield from _entries(case.block, nodes)
