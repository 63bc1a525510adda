"""What the calls of a map block's body hand on from one to the next with each item.

Each call gets what the one before it returned, the current value. What is read later than that travels in the item's
entry under its name, from the call that gives it to the last one that reads it, and so does the case that a switch
chose. docs/contract.md has the fields that tell handlers of it. In a line no call reads anything but the current value,
and nothing is to be told.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from lokki.base.values import Json
from lokki.plans.operations import Block, Call, FanOut, Switch, operations_in
from lokki.plans.templates import Item, Output, Source, Template, source_name

type _Only = tuple[tuple[str, int], ...]

NOTHING: frozenset[str] = frozenset()


def item_fields(fan_out: FanOut) -> dict[str, dict[str, Json]]:
    """Return the fields of a body's calls that no line has.

    Each is by the id of the call, and nothing where the body is a line.
    """
    inside = {Output(op.id) for op in operations_in(fan_out.body)}
    walk = _Walk(item_of(fan_out), fan_out.own_items.union(inside, fan_out.carries))
    walk.forward(fan_out.body, frozenset({source_name(item_of(fan_out))}), ())
    kept = map(source_name, fan_out.keeps)
    walk.backward(fan_out.body, _End({name: name for name in kept}, fan_out.result), NOTHING)
    line = not fan_out.keeps and all(
        isinstance(op, Call) and walk.reads_current(op) and not any(walk.names_read(op)) and not walk.results.get(op.id)
        for op in fan_out.body
    )
    return {} if line else {call.id: walk.fields(call) for call in fan_out.calls}


def most_handed_on(fan_out: FanOut) -> int:
    """Return the most values that an item has with it beside the current one."""
    named = [fields["hands_on"] for fields in item_fields(fan_out).values()]
    return max((len(names) for names in named if isinstance(names, dict)), default=0)


def item_of(fan_out: FanOut) -> Source:
    """Return by which name the item of a map block is read."""
    return Item(fan_out.id) if fan_out.item is None else fan_out.item


def with_item_named(template: Template, fan_out: FanOut) -> Template:
    """Return a template in which the item has the name of its map block's."""
    match template:
        case Item(""):
            return item_of(fan_out)
        case list():
            return [with_item_named(member, fan_out) for member in template]
        case dict():
            return {name: with_item_named(member, fan_out) for name, member in template.items()}
        case _:
            return template


@dataclass(frozen=True, slots=True)
class _End:
    """What is needed after a block.

    * ``needs``: the names that values have there, with those that they have in the block.
    * ``result``: the name of the value that is the item's result, where the body ends with the block.
    * ``choices``: the switches whose choice is needed.
    """

    needs: Mapping[str, str]
    result: str = ""
    choices: frozenset[str] = NOTHING

    def of_case(self, switch: str, output: str) -> _End:
        """Return what is needed after a case of a switch.

        The output of the case is the value of the switch.
        """

        def inner(name: str) -> str:
            return output if name == switch else name

        return _End({name: inner(value) for name, value in self.needs.items()}, inner(self.result), self.choices)


@dataclass(slots=True)
class _Walk:
    """Goes through a body, forth and back.

    ``item``: by which name the item is read. ``own``: what each item has of its own, or gets in the body.

    Forth it finds what the current value is, and back what is needed later. All is by the id of a call.

    * ``current``: the names of the value that the call before gave.
    * ``only``: the switches that the call is a case of, with its case's number.
    * ``ends``: what is needed after the call.
    * ``results``: the name of the item's result, where that is not what the call gives.
    """

    item: Source
    own: frozenset[Source]
    current: dict[str, frozenset[str]] = field(default_factory=dict)
    only: dict[str, _Only] = field(default_factory=dict)
    switches: dict[str, str] = field(default_factory=dict)
    ends: dict[str, _End] = field(default_factory=dict)
    results: dict[str, str] = field(default_factory=dict)

    def forward(self, block: Block, current: frozenset[str], only: _Only) -> frozenset[str]:
        """Return the names of the current value after a block."""
        for op in block:
            match op:
                case Call():
                    self.current[op.id], self.only[op.id] = current, only
                    current = frozenset({op.id})
                case Switch():
                    self.switches[op.on] = op.id
                    ends = [
                        self.forward(case.block, current, (*only, (op.id, number)))
                        for number, case in enumerate(op.cases)
                    ]
                    outputs = [case.output for case in op.cases]
                    natural = all(output in end for output, end in zip(outputs, ends, strict=True))
                    current = frozenset({op.id}) if natural else NOTHING
        return current

    def backward(self, block: Block, end: _End, choices: frozenset[str]) -> frozenset[str]:
        """Return the names that are needed before a block.

        ``choices``: the switches whose choice is needed in it.
        """
        for op in reversed(block):
            match op:
                case Call():
                    needed = self._before_call(op, end)
                case Switch():
                    needed = frozenset(
                        name
                        for case in op.cases
                        for name in self.backward(case.block, end.of_case(op.id, case.output), choices | {op.id})
                    )
            end = _End({name: name for name in needed}, choices=choices)
        return frozenset(end.needs)

    def _before_call(self, call: Call, end: _End) -> frozenset[str]:
        self.ends[call.id] = end
        other = end.result if end.result not in ("", call.id) else ""
        if other:
            self.results[call.id] = other
        later = {*end.needs.values(), *([other] if other else [])}
        return frozenset({*self.names_read(call), *(later - {call.id})})

    def reads_current(self, call: Call) -> bool:
        """Tell whether a call's first parameter is the current value."""
        return call.reads is not None and self._name(call.reads) in self.current[call.id]

    def names_read(self, call: Call) -> Iterator[str]:
        """Yield the names of what a call reads of the body by name.

        That is all but the current value as its first parameter.
        """
        first = () if call.reads is None or self.reads_current(call) else (call.reads,)
        for source in (*first, *call.values):
            if source in self.own:
                yield self._name(source)

    def fields(self, call: Call) -> dict[str, Json]:
        """Return what the handler of a call is told."""
        end, switch, only = self.ends[call.id], self.switches.get(call.id), self.only[call.id]
        fields: dict[str, Json] = {
            "hands_on": {name: "" if value == call.id else value for name, value in sorted(end.needs.items())}
        }
        if call.reads is not None and not self.reads_current(call):
            fields["reads"] = {"value": self._name(call.reads)}
        if switch is not None:
            fields["switch"] = switch
        if only:
            fields["only"] = [[name, number] for name, number in only]
        if end.choices:
            fields["keeps_cases"] = [*sorted(end.choices)]
        if call.id in self.results:
            fields["result"] = self.results[call.id]
        return fields

    def _name(self, source: Source) -> str:
        return source_name(self.item if source == Item() else source)
