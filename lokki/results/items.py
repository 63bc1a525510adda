"""Values of a run, loaded when they are touched."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from mmap import mmap
from typing import TYPE_CHECKING, Protocol, overload

from lokki.base.failures import Failure, describe_error
from lokki.base.item_path import ItemPath, format_item, item_name
from lokki.base.values import Json, Ref
from lokki.errors import RunError, StoreError, damaged
from lokki.plan import Plan
from lokki.plans.operations import MAP, Call, Case, FanOut, Gather, Spread, Switch, giver_of
from lokki.plans.templates import Output, source_name
from lokki.results.frames import frame_of
from lokki.results.html import table
from lokki.store.manifest import ManifestEntry, entries, value_beside

if TYPE_CHECKING:  # pandas is the user's: lokki does without it
    import pandas as pd

type Load = Callable[[Ref], object]
"""Loads the value that a reference stands for."""

_SHOWN_ITEMS = 10
_SHOWN_TEXT = 200


@dataclass(frozen=True, slots=True)
class RunInfo:
    """What is known of a run without reading its values.

    ``seconds``: how long it took, None while it goes on.

    ``emulated``: it ran on this machine as AWS would run it.
    """

    id: str
    flow: str
    status: str
    started: datetime
    seconds: float | None
    params: Mapping[str, Json]
    error: str = ""
    emulated: bool = False


@dataclass(frozen=True, slots=True)
class Place:
    """Where a step stands in its flow.

    ``inner`` has the steps of its map block, ``source`` the one it maps over, ``map`` the block's id, and ``result``
    what gives an item's result.

    A step that runs once has no ``source``; it ``fans_out`` when a map block runs over its result. Where a map below
    this one follows, an item's result is several values, of which this step's is the ``field``. ``paths``: whether the
    block is below a map, so that its items have paths of several indices.
    """

    id: str
    source: str | None = None
    inner: tuple[str, ...] = ()
    fans_out: bool = False
    map: str = ""
    result: str = ""
    field: str = ""
    paths: bool = False

    @property
    def is_last(self) -> bool:
        """Whether what it returns is the result of its item, or in it."""
        return self.result == self.id or bool(self.field)

    @property
    def key(self) -> str:
        """The name under which the results of its map block are kept."""
        return self.map.removesuffix(MAP)

    @property
    def until(self) -> tuple[str, ...]:
        """The steps that an item must not fail at to get through this one."""
        return self.inner if self.is_last else self.inner[: self.inner.index(self.id) + 1]


def places_of(plan: Plan) -> dict[str, Place]:
    """Return where each step of a plan stands, by its id, in order."""
    around = {call.id: fan_out for fan_out in plan.fan_outs for call in fan_out.calls}
    below = _below_maps(plan)
    return {call.id: _place(call, around.get(call.id), below) for call in plan.calls if call.regroups is None}


def map_places(plan: Plan) -> dict[str, Place]:
    """Return where the results of each map block stand, by its id.

    They are those of its last step, or of its switch.
    """
    below = _below_maps(plan)
    return {
        fan_out.id: replace(_place(fan_out.calls[0], fan_out, below), id=fan_out.result, field="")
        for fan_out in plan.fan_outs
        if not fan_out.keeps
    }


def _below_maps(plan: Plan) -> frozenset[str]:
    """Return the ids of the map blocks that are below others."""
    regroupings = {call.id: call.regroups for call in plan.calls if call.regroups is not None}
    below: set[str] = set()
    for fan_out in plan.fan_outs:
        match regroupings.get(fan_out.source):
            case Gather(level) if level not in below:
                pass
            case Spread() | Gather():
                below.add(fan_out.id)
            case None:
                pass
    return frozenset(below)


def _place(call: Call, fan_out: FanOut | None, below: frozenset[str]) -> Place:
    if fan_out is None:
        return Place(call.id, fans_out=call.fans_out)
    inner = tuple(other.id for other in fan_out.calls)
    field = source_name(Output(call.id)) if Output(call.id) in fan_out.keeps else ""
    result = "" if fan_out.keeps else fan_out.result
    return Place(call.id, fan_out.source, inner, call.fans_out, fan_out.id, result, field, paths=fan_out.id in below)


def result_of(plan: Plan, output: Callable[[str], object], case_of: Callable[[Switch], Case]) -> object:
    """Return the result of a run.

    * ``output``: loads the result of a step that ran once.
    * ``case_of``: says which case of a switch was chosen.
    """
    givers = (giver_of(plan.ops, source.id, case_of) for source in plan.outputs)
    values = tuple(map(output, givers))
    return values if plan.returns_tuple else values[0]


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line of a run's log.

    ``time``: ISO 8601 in UTC. ``step``: empty where it is not known. ``item``: the path of the item, such as ``(3,)``;
    ``()`` outside of map blocks, and where it is not known.
    """

    time: str
    step: str
    item: ItemPath
    text: str

    def __str__(self) -> str:
        return " ".join(part for part in (self.time, item_name(self.step, self.item), self.text) if part)


class Paths(Protocol):
    """How the items of a map block are named."""

    def path(self, index: int) -> ItemPath:
        """Return the path of an item."""

    def index(self, path: ItemPath) -> int | None:
        """Return the place of an item, None where there is no such item."""


class FlatPaths:
    """Those of a map block that is below no other."""

    def __init__(self, items: int) -> None:
        self._items = items

    def path(self, index: int) -> ItemPath:
        """Return the path of an item."""
        return (index,)

    def index(self, path: ItemPath) -> int | None:
        """Return the place of an item, None where there is no such item."""
        return path[0] if len(path) == 1 and 0 <= path[0] < self._items else None


class ItemSource(Protocol):
    """Values by index, each loaded when it is asked for."""

    def __len__(self) -> int:
        """Return how many items there are.

        Failed ones and those without a result count.
        """

    def value(self, index: int) -> object:
        """Return one value.

        Raises RunError for an item that failed, StoreError for a value that is not there.
        """

    def failures(self) -> Mapping[int, Failure]:
        """Return the items that failed, with why."""

    def paths(self) -> Paths:
        """Return how the items are named."""


class GivenItems(ItemSource, Protocol):
    """The items that the source of a map block gave."""

    def value_beside(self, index: int, name: str) -> object:
        """Load a value that comes with an item of a map below a map."""


class Kept(Protocol):
    """What one run keeps, wherever it is.

    All methods raise StoreError for what is not there or cannot be read.
    """

    def places(self) -> Mapping[str, Place]:
        """Return the run's steps in order, by id."""

    def maps(self) -> Mapping[str, Place]:
        """Return the run's map blocks in order, by id."""

    def output(self, step_id: str) -> object:
        """Return the result of a step that runs once.

        No map block may run over it.
        """

    def result(self) -> object:
        """Return what the flow returned."""

    def items(self, step_id: str) -> GivenItems:
        """Return the items that the source of a map block gave."""

    def results(self, place: Place) -> ItemSource:
        """Return what a map block's step returned for each item."""

    def log(self) -> Iterator[LogLine]:
        """Yield what was printed and logged, in order of time."""


class Catalog(Protocol):
    """The runs of one flow."""

    def list(self) -> list[RunInfo]:
        """Return all runs, the latest first."""

    def info(self, run_id: str) -> RunInfo:
        """Return what is known of a run.

        Raises RunFolderError for an id that no run of the flow has.
        """

    def kept(self, run_id: str) -> Kept:
        """Return what a run keeps."""


class Items(Sequence[object]):
    """The values of a map block's items, in their order.

    It is a sequence that loads each value when it is touched.

    Touching an item that failed raises RunError with its failure, and one that has no result StoreError; `failures`
    lists the failed ones, `succeeded` leaves them out. A slice is such a sequence too, and loads nothing.

    Those of a map below a map come one after another, and each has a path, too: ``items[3, 7]`` is the item 3/7.
    """

    def __init__(self, source: ItemSource, indexes: range | None = None) -> None:
        self._source = source
        self._indexes = range(len(source)) if indexes is None else indexes

    def __len__(self) -> int:
        return len(self._indexes)

    @overload
    def __getitem__(self, index: int) -> object: ...
    @overload
    def __getitem__(self, index: slice) -> Items: ...
    @overload
    def __getitem__(self, index: ItemPath) -> object: ...
    def __getitem__(self, index: int | slice | ItemPath) -> object:
        if isinstance(index, slice):
            return Items(self._source, self._indexes[index])
        if isinstance(index, tuple):
            place = self._source.paths().index(index)
            if place is None or place not in self._indexes:
                raise IndexError(f"there is no item {format_item(index)}.")
            return self._source.value(place)
        try:
            item = self._indexes[index]
        except IndexError:
            raise IndexError(f"there is no item {index}: there are {len(self)}.") from None
        return self._source.value(item)

    def paths(self) -> list[ItemPath]:
        """Return how the items are named, in order.

        ``(3, 7)`` is the item 3/7 of a map below a map.
        """
        paths = self._source.paths()
        return [paths.path(index) for index in self._indexes]

    def failures(self) -> dict[int, Failure]:
        """Return the items that failed, with why.

        By their index in the map block.
        """
        return {index: failure for index, failure in sorted(self._source.failures().items()) if index in self._indexes}

    def succeeded(self) -> Iterator[object]:
        """Yield the values of the items that did not fail, in order.

        The step after the map block gets the same.
        """
        failed = self._source.failures()
        for index in self._indexes:
            if index not in failed:
                yield self._source.value(index)

    def to_pandas(self) -> pd.DataFrame:
        """Return the values of the items that did not fail as a data frame.

        Its index has the items. Values that are rows (dicts, dataclasses, named tuples) fill its columns, data frames
        stand below one another, and other values are in the column ``value``. All are loaded. Raises LokkiError
        without pandas.
        """
        failed, paths = self._source.failures(), self._source.paths()
        indexes = [index for index in self._indexes if index not in failed]
        return frame_of([paths.path(index) for index in indexes], [self._source.value(index) for index in indexes])

    def __repr__(self) -> str:
        failed = len(self.failures())
        return f"<{len(self)} items{f', {failed} failed' if failed else ''}>"

    def _short(self, index: int) -> str:
        """Write an item for a table, or why there is none."""
        try:
            return short(self._source.value(index))
        except (RunError, StoreError) as error:
            return f"({error})"

    def _repr_html_(self) -> str:
        failed, paths = self.failures(), self._source.paths()
        rows = [
            (
                format_item(paths.path(index)),
                f"failed: {failed[index]}" if index in failed else self._short(index),
            )
            for index in self._indexes[:_SHOWN_ITEMS]
        ]
        more = len(self) - len(rows)
        return table(("item", "value"), rows, f"{self!r}{f'; {more} more' if more > 0 else ''}")


class ManifestItems:
    """The items of a map block's manifest.

    ``content`` has one on each line.
    """

    def __init__(self, content: bytes | mmap, load: Load) -> None:
        self._content = content
        self._load = load
        self._starts = _line_starts(content)

    def __len__(self) -> int:
        return len(self._starts)

    def value(self, index: int) -> object:
        """Load an item.

        Raises RunError for one that failed in a level before.
        """
        entry = self.entry(index)
        if entry.failed is not None:
            raise failed_item(entry.path, entry.failed)
        return self._load(entry.ref)

    def value_beside(self, index: int, name: str) -> object:
        """Load a value that comes with an item."""
        return self._load(value_beside(self.entry(index).values, name, index))

    def entry(self, index: int) -> ManifestEntry:
        """Return the line of an item."""
        start = self._starts[index]
        end = self._content.find(b"\n", start)
        try:
            [entry] = entries([self._content[start : end if end >= 0 else None].rstrip(b",\r\n")])
        except ValueError as error:  # msgspec's errors are ValueErrors
            raise damaged(f"the list of items is damaged at item {index}: {error}") from None
        return entry

    def path(self, index: int) -> ItemPath:
        """Return the path of an item."""
        return self.entry(index).path

    def index(self, path: ItemPath) -> int | None:
        """Return the place of an item, None where there is no such item."""
        return next((index for index in range(len(self)) if self.entry(index).path == path), None)

    def paths(self) -> Paths:
        """Return how the items are named."""
        return self

    def failures(self) -> Mapping[int, Failure]:
        """Return nothing, as what a source gave has not failed."""
        return {}


def failed_item(item: ItemPath, failure: Failure) -> RunError:
    """Return the error for touching an item that failed."""
    return RunError(f"item {format_item(item)} failed: {failure}. failures() has its traceback.")


def short(value: object) -> str:
    """Return a value's repr, cut off at 200 characters."""
    try:
        text = repr(value)
    except Exception as error:  # a value's own code may raise anything
        text = f"<{type(value).__name__} whose repr() raised {describe_error(error)}>"
    return text if len(text) <= _SHOWN_TEXT else f"{text[: _SHOWN_TEXT - 1]}…"


def _line_starts(content: bytes | mmap) -> array[int]:
    """Return where the lines begin that hold items.

    Those are all but the brackets around them.
    """
    starts = array("q")
    start = 0
    while start < len(content):
        end = content.find(b"\n", start)
        end = len(content) if end < 0 else end
        if content[start : start + 1] == b"{":
            starts.append(start)
        start = end + 1
    return starts
