"""What of a plan is left to run, decided from what depends on what, before anything is removed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from lokki.plans.operations import (
    Block,
    Call,
    Case,
    FanOut,
    Fork,
    Switch,
    operations_in,
    sources_of,
)
from lokki.plans.templates import Output, Results, Source

type Unit = Call | FanOut
"""What has results of its own, which are there or not: a call outside of map blocks, or a whole map block."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """The units of a plan by what a resumed run does with them.

    * ``finished``: they keep their results.
    * ``partial``: map blocks that go on, with the results that they have, and what regroups their items anew.
    * ``stale``: they run anew, whatever they have.
    """

    finished: tuple[Unit, ...] = ()
    partial: tuple[Unit, ...] = ()
    stale: tuple[Unit, ...] = ()

    @property
    def kept(self) -> frozenset[str]:
        """The ids of the units that keep their results."""
        return frozenset(unit.id for unit in self.finished)


type ChosenCase = Callable[[Switch], Case | None]
"""Tells which case of a switch was chosen, None where it has yet to be."""


def units_in(block: Block, chosen: ChosenCase = lambda switch: None) -> Iterator[Unit]:
    """Yield the calls and map blocks with results of their own, in order.

    Calls inside of a map block have none: their results are the block's. Of a switch whose case was chosen only that
    case's are among them.
    """
    for op in block:
        match op:
            case Call() | FanOut():
                yield op
            case Fork():
                for branch in op.branches:
                    yield from units_in(branch, chosen)
            case Switch():
                for case in _cases_of(op, chosen):
                    yield from units_in(case.block, chosen)


def _cases_of(switch: Switch, chosen: ChosenCase) -> tuple[Case, ...]:
    """Return the case that was chosen, or all where none was yet."""
    case = chosen(switch)
    return switch.cases if case is None else (case,)


def schedule(
    block: Block,
    is_finished: Callable[[Unit], bool],
    chosen: ChosenCase = lambda switch: None,
    goes_on: Callable[[Unit], bool] = lambda unit: False,
) -> Schedule:
    """Return what a resumed run does with the units of a plan.

    A unit is finished if its results are there, and those of all that it depends on. Where a map block goes on, the
    maps below it go on, too. ``goes_on``: whether a map block has begun, or a call that regroups items will number them
    as it did.
    """
    waits = dependencies(block, chosen)
    unfinished: set[str] = set()
    going_on: set[str] = set()
    finished: list[Unit] = []
    partial: list[Unit] = []
    stale: list[Unit] = []
    for unit in units_in(block):
        missing = unfinished & waits[unit.id]
        if not missing and is_finished(unit):
            finished.append(unit)
            continue
        unfinished.add(unit.id)
        follows = missing <= going_on.intersection(_regrouped_from(unit))
        if follows and goes_on(unit):
            going_on.add(unit.id)
        if follows and (unit.id in going_on or isinstance(unit, FanOut)):
            partial.append(unit)
        else:
            stale.append(unit)
    return Schedule(tuple(finished), tuple(partial), tuple(stale))


def _regrouped_from(unit: Unit) -> frozenset[str]:
    """Return the ids of those that a unit may go on with while they do."""
    if isinstance(unit, FanOut):
        return frozenset({unit.source})
    return frozenset() if unit.regroups is None else frozenset(source.id for source in unit.regroups.reads)


def dependencies(block: Block, chosen: ChosenCase = lambda switch: None) -> dict[str, frozenset[str]]:
    """Return for each unit the ids of the units that it depends on directly.

    It depends on those that it reads, on those that it waits for, and in a case on the call that chose it.
    """
    givers = _givers(block, chosen)
    waits: dict[str, frozenset[str]] = {}
    for unit, chosen_by in _with_choosers(block, ()):
        ids = {unit_id for source in _reads(unit) for unit_id in givers.get(source, frozenset())}
        ids |= {unit_id for op_id in _after(unit) for unit_id in givers.get(op_id, frozenset())}
        waits[unit.id] = frozenset(ids | set(chosen_by))
    return waits


def _with_choosers(block: Block, chosen_by: tuple[str, ...]) -> Iterator[tuple[Unit, tuple[str, ...]]]:
    for op in block:
        match op:
            case Call() | FanOut():
                yield op, chosen_by
            case Fork():
                for branch in op.branches:
                    yield from _with_choosers(branch, chosen_by)
            case Switch():
                for case in op.cases:
                    yield from _with_choosers(case.block, (*chosen_by, op.on))


def _reads(unit: Unit) -> tuple[Source, ...]:
    if isinstance(unit, Call):
        return sources_of(unit)
    return (*sources_of(unit), *unit.outside)


def _after(unit: Unit) -> tuple[str, ...]:
    calls = (unit,) if isinstance(unit, Call) else unit.calls
    return tuple(op_id for call in calls for op_id in call.after)


def _givers(block: Block, chosen: ChosenCase) -> dict[Source | str, frozenset[str]]:
    """Return which units give each value.

    They are by the value, and by the id that others wait for. That of a switch is given by the call that chooses and by
    the case that was chosen.
    """
    givers: dict[Source | str, frozenset[str]] = {}
    for op in operations_in(block):
        ids = frozenset(_ids_of((op,), chosen))
        givers[op.id] = ids
        match op:
            case Call() | Switch():
                givers[Output(op.id)] = ids
            case FanOut():
                givers[Results(op.id)] = ids
            case Fork():
                pass
    return givers


def _ids_of(block: Block, chosen: ChosenCase) -> Iterator[str]:
    for op in block:
        match op:
            case Call() | FanOut():
                yield op.id
            case Fork():
                for branch in op.branches:
                    yield from _ids_of(branch, chosen)
            case Switch():
                yield op.on
                for case in _cases_of(op, chosen):
                    yield from _ids_of(case.block, chosen)
