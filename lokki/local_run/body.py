"""The body of a map block as a worker runs it: its calls in order, with what each reads, gives, and when it runs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace

from lokki.plans.operations import Block, Call, FanOut, Fork, Switch, operations_in, sources_of
from lokki.plans.templates import Item, Source, source_name

ITEM = source_name(Item())
"""The name of the item that a body runs on."""


@dataclass(frozen=True, slots=True)
class BodyCall:
    """A call of a body.

    * ``reads``: the name of the value that fills its first parameter; None for a call that has only its own arguments.
    * ``gives``: the names that its result has: its own id, and those of the switches whose result it is.
    * ``is_read``: whether a later call of the body reads its result.
    * ``switch``: the id of the switch that it chooses a case of.
    * ``only``: the switches that it is a case of, each with its case's position; it runs if all of them chose so.
    """

    call: Call
    reads: str | None
    gives: tuple[str, ...]
    is_read: bool = True
    switch: str = ""
    only: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Body:
    """What each item of a map block goes through.

    * ``result``: the name of the value that is an item's result.
    * ``outside``: what it reads that is the same for all items.
    * ``record``: where an item's result is several values, their names, with those that they have in the body.
    """

    calls: tuple[BodyCall, ...]
    result: str
    outside: tuple[Source, ...]
    record: tuple[tuple[str, str], ...] = ()

    @property
    def is_line(self) -> bool:
        """Whether each call reads what the one before it gave, and nothing else."""
        names = (ITEM, *(call.call.id for call in self.calls))
        return (
            not self.record
            and self.result == names[-1]
            and all(
                call.reads == name and not call.only and not call.call.cases and not call.call.values
                for call, name in zip(self.calls, names, strict=False)
            )
        )


def body_of(fan_out: FanOut) -> Body:
    """Return the body of a map block."""
    names: dict[str, list[str]] = defaultdict(list)
    for op in operations_in(fan_out.body):
        if isinstance(op, Switch):
            for case in op.cases:
                names[case.output].append(op.id)
    calls = list(_calls(fan_out.body, fan_out, names, ()))
    record = tuple((source_name(source), _name(source, fan_out)) for source in fan_out.keeps)
    names_read = {_name(source, fan_out) for call in calls for source in sources_of(call.call)}
    names_read |= {name for _, name in record}
    calls = [replace(call, is_read=not names_read.isdisjoint(call.gives)) for call in calls]
    return Body(tuple(calls), fan_out.result, fan_out.outside, record)


def _calls(
    block: Block, fan_out: FanOut, names: dict[str, list[str]], only: tuple[tuple[str, int], ...]
) -> Iterator[BodyCall]:
    choosing = {op.on: op for op in block if isinstance(op, Switch)}
    for op in block:
        match op:
            case Call():
                reads = None if op.reads is None else _name(op.reads, fan_out)
                switch = choosing[op.id].id if op.id in choosing else ""
                yield BodyCall(op, reads, tuple(_all_names(op.id, names)), switch=switch, only=only)
            case Switch():
                for position, case in enumerate(op.cases):
                    yield from _calls(case.block, fan_out, names, (*only, (op.id, position)))
            case Fork() | FanOut():
                raise TypeError(f"the body of {fan_out.id} holds {op.id}, which no worker runs")


def _name(source: Source, fan_out: FanOut) -> str:
    return ITEM if source in fan_out.own_items else source_name(source)


def _all_names(name: str, names: dict[str, list[str]]) -> Iterator[str]:
    """Yield a name, and those of all switches whose result it is."""
    yield name
    for switch in names[name]:
        yield from _all_names(switch, names)
