"""What a flow does: calls, map blocks, forks and switches, each with an id of its own, in blocks that run in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from operator import itemgetter

import msgspec

from lokki.base.options import MapOptions
from lokki.plans.templates import (
    Item,
    Output,
    Reads,
    Results,
    Source,
    Template,
    parameters_in,
    sources_in,
    template_text,
)

MAP = ".map"
"""Ends the id of a map block, after the id of its source: ``get_birds.map``.

A second one over the same source is ``get_birds.map_2``. The id of a call is an identifier, which has no dot in it, so
the two never collide.
"""

FORK = ".fork"
"""Ends the id of a fork, after the id of its first operation: ``train.fork``."""

SWITCH = ".switch"
"""Ends the id of a switch, after the id of the call that chooses: ``quality.switch``."""


@dataclass(frozen=True, slots=True)
class Argument:
    """An argument of a call.

    * ``parameter``: the parameter of the step that it is for; empty where a decorator hides which one that is.
    * ``template``: its value.
    * ``keyword``: the name that it is passed by; None for one that is passed by position.
    * ``variadic``: whether it is one of many for ``*args``.
    """

    parameter: str
    template: Template
    keyword: str | None = None
    variadic: bool = False


type CaseValue = bool | int | str | None
"""What the call of a switch returned, where a case is for it; None is the default, for all other values."""


def case_value(value: object) -> CaseValue:
    """Return the value by which a case is chosen.

    It is None for a value that no case can have. A member of an Enum counts as its value where that is a bool, an int
    or a str, else as its name.

    >>> case_value("good"), case_value(True), case_value(2.5)
    ('good', True, None)
    """
    if isinstance(value, Enum) and not isinstance(value, bool | int | str):
        inner = value.value
        return inner if isinstance(inner, bool | int | str) else value.name
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value)
    return str.__str__(value) if isinstance(value, str) else None


@dataclass(frozen=True, slots=True)
class Spread:
    """Makes one list of the items of a map below a map.

    * ``level``: the id of the map block whose items have them.
    * ``items``: what of each of its items is their list.
    """

    level: str
    items: Source

    @property
    def reads(self) -> tuple[Source, ...]:
        """What it reads."""
        return (Results(self.level),)


@dataclass(frozen=True, slots=True)
class Gather:
    """Puts the results of a map below a map into one list for each outer item.

    * ``level``: the id of the map block whose items these are.
    * ``spread``: the id of the call that made one list of all inner items.
    * ``inner``: the id of the map block with their results.
    * ``tolerate``: how many inner items of each list may fail.
    """

    level: str
    spread: str
    inner: str
    tolerate: int | float | None = None

    @property
    def reads(self) -> tuple[Source, ...]:
        """What it reads."""
        return (Results(self.inner), Results(self.level))


type Regrouping = Spread | Gather


@dataclass(frozen=True, slots=True)
class Call:
    """One occurrence of a step in a flow.

    * ``id``: unlike that of any other call of the flow; it names the call's state and the folder of its results.
    * ``step``: the name of the step, by which `lokki.plan.Plan.steps` has its function.
    * ``fans_out``: whether its result is the items of a map block.
    * ``keeps_value``: whether that result is read as one value, too.
    * ``after``: ids of operations that it waits for without reading them.
    * ``cases``: for a call that chooses, the values of its switch's cases, in their order.
    * ``passes_on``: whether it is a call of lokki's own, which gives what it gets to a map block. It needs the function
      of a step, and runs none: its one argument is a list of what that parameter of the step takes.
    * ``regroups``: for a call that is lokki's own, what it does between the levels of maps below maps. It is made by
      the function of the step that reads what it gives.
    """

    id: str
    step: str
    arguments: tuple[Argument, ...]
    reads: Reads
    fans_out: bool = False
    keeps_value: bool = False
    after: tuple[str, ...] = ()
    cases: tuple[CaseValue, ...] = ()
    passes_on: bool = False
    regroups: Regrouping | None = None

    @property
    def gives(self) -> str:
        """What gives its result, for people: its step, or lokki itself."""
        return self.id if self.passes_on else self.step

    @property
    def params(self) -> tuple[str, ...]:
        """The flow's parameters that its arguments need, sorted."""
        return tuple(sorted({name for argument in self.arguments for name in parameters_in(argument.template)}))

    @property
    def values(self) -> tuple[Source, ...]:
        """The values of the run that it needs beside the one that it reads.

        Each stands once, in order.
        """
        if self.regroups is not None:
            return self.regroups.reads[1:]
        return tuple(dict.fromkeys(source for argument in self.arguments for source in sources_in(argument.template)))


@dataclass(frozen=True, slots=True)
class FanOut:
    """A map block, whose body runs once for each item of its source.

    * ``id``: unlike that of any call or other map block of the flow.
    * ``source``: the id of the call whose result is the items.
    * ``body``: calls and switches, one after another.
    * ``output``: the id of the call or switch of the body that gives an item's result; default: the last one's.

    A map block with maps below it is several of these, a level each, between which items are regrouped:

    * ``item``: what its items are read as; default: the items of this map block.
    * ``carries``: values that come with each item from the level before.
    * ``keeps``: values that stay beside each item's result, for the levels that follow.
    """

    id: str
    source: str
    body: Block
    options: MapOptions = field(default_factory=MapOptions)
    output: str = ""
    item: Source | None = None
    carries: tuple[Source, ...] = ()
    keeps: tuple[Source, ...] = ()

    @property
    def calls(self) -> tuple[Call, ...]:
        """The calls of its body, those in switches included, in order."""
        return tuple(calls_in(self.body))

    @property
    def key(self) -> str:
        """The name under which its results are kept.

        It is the source's for the first map block over a source, and its own id for others.
        """
        return self.id.removesuffix(MAP)

    @property
    def outside(self) -> tuple[Source, ...]:
        """What its body reads that is the same for all items."""
        own = self.own_items.union(self.carries)
        return tuple(source for source in read_from_outside(self.body) if source not in own)

    @property
    def own_items(self) -> frozenset[Source]:
        """All that its item is read as."""
        return frozenset({Item(), Item(self.id) if self.item is None else self.item})

    @property
    def result(self) -> str:
        """The id of the call or switch of the body that gives an item's result."""
        return self.output or self.body[-1].id


@dataclass(frozen=True, slots=True)
class Fork:
    """Blocks that run side by side, none of which reads from another.

    What follows the fork begins when all have ended.
    """

    id: str
    branches: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Case:
    """What runs when the call of a switch returned a value.

    * ``value``: None for the default, which is the last case.
    * ``output``: the id of the call or switch that gives the switch's result.
    """

    value: CaseValue
    block: Block
    output: str


@dataclass(frozen=True, slots=True)
class Switch:
    """Blocks of which one runs, the one for what a call returned.

    * ``on``: the id of that call, which comes right before.
    * ``cases``: at least one, each for another value.

    Its id is read like a call's: its result is the result of the case that ran.
    """

    id: str
    on: str
    cases: tuple[Case, ...]


type Op = Call | FanOut | Fork | Switch
type Block = tuple[Op, ...]
"""Operations that run one after another: a flow, the body of a map block, a branch, a case."""


def blocks_of(op: Op) -> tuple[Block, ...]:
    """Return the blocks that an operation holds; a call holds none."""
    match op:
        case FanOut():
            return (op.body,)
        case Fork():
            return op.branches
        case Switch():
            return tuple(case.block for case in op.cases)
        case Call():
            return ()


def operations_in(block: Block) -> Iterator[Op]:
    """Yield the operations of a block and those inside, outer ones first."""
    for op in block:
        yield op
        for inner in blocks_of(op):
            yield from operations_in(inner)


def calls_in(block: Block) -> Iterator[Call]:
    """Yield the calls of a block and those inside, in order."""
    return (op for op in operations_in(block) if isinstance(op, Call))


def fan_outs_in(block: Block) -> Iterator[FanOut]:
    """Yield the map blocks of a block and those inside, outer ones first."""
    return (op for op in operations_in(block) if isinstance(op, FanOut))


def sources_of(op: Op) -> tuple[Source, ...]:
    """Return what an operation itself reads.

    Each stands once. The blocks that it holds are not looked into. The source of a map block is its items, and a switch
    reads what its call returned.
    """
    match op:
        case Call():
            first = () if op.reads is None else (op.reads,)
            return tuple(dict.fromkeys((*first, *op.values)))
        case FanOut():
            return (Output(op.source),)
        case Switch():
            return (Output(op.on),)
        case Fork():
            return ()


def given_by(block: Block) -> frozenset[Source]:
    """Return what a block gives to what follows in it.

    What is inside of a switch or of a map block is read there only.
    """
    sources: set[Source] = set()
    for op in block:
        match op:
            case FanOut():
                sources.add(Results(op.id))
            case Fork():
                sources |= {source for branch in op.branches for source in given_by(branch)}
            case Call() | Switch():
                sources.add(Output(op.id))
    return frozenset(sources)


def read_from_outside(block: Block) -> tuple[Source, ...]:
    """Return what a block reads and does not give itself, in order.

    Each stands once. The item of a map block counts outside of that block's body only.
    """
    return tuple(dict.fromkeys(_read_from_outside(block, frozenset())))


def _read_from_outside(block: Block, given: frozenset[Source]) -> Iterator[Source]:
    for op in block:
        yield from (source for source in sources_of(op) if source not in given)
        own = op.own_items.union(op.carries) if isinstance(op, FanOut) else frozenset[Source]()
        for inner in blocks_of(op):
            yield from _read_from_outside(inner, given | own)
        given |= given_by((op,))


def giver_of(block: Block, op_id: str, case_of: Callable[[Switch], Case]) -> str:
    """Return the id of the call that gave the result of a call or a switch.

    A switch has its result from one of its cases. ``case_of``: says which one was chosen.
    """
    switches = {op.id: op for op in operations_in(block) if isinstance(op, Switch)}
    while op_id in switches:
        op_id = case_of(switches[op_id]).output
    return op_id


def switch_around(block: Block, step_id: str) -> tuple[Switch, Case] | None:
    """Return the innermost switch that a call is in, and which case."""
    innermost = None
    for op in operations_in(block):
        if isinstance(op, Switch):
            for case in op.cases:
                if any(call.id == step_id for call in calls_in(case.block)):
                    innermost = op, case
    return innermost


def arguments_text(call: Call) -> str:
    """Write a call's arguments for people, each under its parameter.

    They are sorted, however they were passed; those for ``*args`` stay in order.
    """
    texts = [(label := _label(argument), f"{label}={template_text(argument.template)}") for argument in call.arguments]
    return ", ".join(text for _, text in sorted(texts, key=itemgetter(0)))


def _label(argument: Argument) -> str:
    if argument.variadic:
        return f"*{argument.parameter}"
    name = argument.keyword or argument.parameter
    # A step that takes **kwargs can be given names with blanks and brackets, which would read as something else.
    return name if name.isidentifier() else msgspec.json.encode(name).decode()


# --- as lines ---


def block_lines(block: Block) -> list[str]:
    """Write a block for people, a line for each operation.

    Those that an operation holds are set in. The lines of two blocks are equal exactly when the blocks compute the same
    from the same parameters. Options are left out: a timeout, a retry or a bound on concurrency changes no result.
    """
    return list(_lines(block, None))


def _lines(block: Block, previous: Reads) -> Iterator[str]:
    """Yield the lines of a block.

    ``previous``: what the first operation reads if its line says nothing of it.
    """
    for op in block:
        match op:
            case Call():
                yield _call_line(op, previous)
            case FanOut():
                yield from _map_lines(op)
            case Fork():
                yield "side by side:"
                for branch in op.branches:
                    yield from _set_in("- ", _lines(branch, previous))
            case Switch():
                yield f"switch on {op.on}:"
                for case in op.cases:
                    yield f"  {_case_text(case)} gives {case.output}:"
                    yield from _set_in("    ", _lines(case.block, previous))
        previous = read_next(op)


def _set_in(mark: str, lines: Iterator[str]) -> Iterator[str]:
    for number, line in enumerate(lines):
        yield f"{mark if number == 0 else ' ' * len(mark)}{line}"


def _call_line(call: Call, previous: Reads) -> str:
    if call.regroups is not None:
        return f"{call.id} = {_regrouping_text(call.regroups)}"
    text = f"{call.id} = {'items for ' if call.passes_on else ''}{call.step}({arguments_text(call)})"
    if call.reads != previous:
        text += " of nothing" if call.reads is None else f" of {template_text(call.reads)}"
    return f"{text} after {', '.join(call.after)}" if call.after else text


def _regrouping_text(regrouping: Regrouping) -> str:
    match regrouping:
        case Spread(level, items):
            return f"all members of {template_text(items)} in {level}"
        case Gather(level, spread, inner, tolerate):
            some = "" if tolerate is None else f", {tolerate} may fail"
            return f"the results of {inner} for each item of {level}, by {spread}{some}"


def _map_lines(fan_out: FanOut) -> Iterator[str]:
    end = f" gives {fan_out.output}" if fan_out.output else ""
    if fan_out.keeps:
        end += f" and keeps {', '.join(map(template_text, fan_out.keeps))}"
    name = f" as {fan_out.id}" if fan_out.key != fan_out.source else ""
    with_values = f" with {', '.join(map(template_text, fan_out.carries))}" if fan_out.carries else ""
    first = Item() if fan_out.item is None else fan_out.item
    begin = f"map over {fan_out.source}{name}{with_values}{end}:"
    if all(isinstance(op, Call) for op in fan_out.body):
        yield f"{begin} {' -> '.join(_lines(fan_out.body, first))}"
    else:
        yield begin
        yield from _set_in("  ", _lines(fan_out.body, first))


def read_next(op: Op) -> Reads:
    """Return what the next operation reads unless it says otherwise."""
    match op:
        case FanOut():
            return Results(op.id)
        case Fork():
            return None
        case Call() | Switch():
            return Output(op.id)


def _case_text(case: Case) -> str:
    return "default" if case.value is None else msgspec.json.encode(case.value).decode()
