"""The values of a run that a call reads beside the one that comes to it, and those that items have on their way.

Only functions whose calls read or hand on such values load this module.
"""

from __future__ import annotations

from collections.abc import Buffer, Callable, Iterable, Iterator, Mapping, Sequence

from lokki.base.values import Json, Ref, Stored, ref_to_json
from lokki.engine.invocation import Inputs
from lokki.errors import EventError
from lokki.plans.templates import source_name
from lokki.runtime.event import Entry, HandledCall, ItemCall, ResultsKey, Value
from lokki.store.base import Store, reader


class FetchedObjects:
    """A store that fetches each value once and keeps its bytes."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._contents: dict[Stored, Buffer] = {}

    def url(self, key: str) -> str:
        """Return the URL of a key."""
        return self._store.url(key)

    def write(self, key: str, chunks: Iterable[Buffer]) -> Stored:
        """Write an object."""
        return self._store.write(key, chunks)

    def read(self, place: Stored) -> Buffer:
        """Return the bytes of a place."""
        self.fetch([place])
        return self._contents[place]

    def read_many(self, places: Iterable[Stored]) -> Iterator[Buffer]:
        """Yield the bytes of each place, in order."""
        requested = list(places)
        self.fetch(requested)
        return map(self._contents.__getitem__, requested)

    def fetch(self, places: Iterable[Stored]) -> None:
        """Fetch what is not here yet, several places at the same time."""
        missing = [place for place in dict.fromkeys(places) if place not in self._contents]
        if len(missing) == 1:  # which needs no threads
            self._contents[missing[0]] = self._store.read(missing[0])
        elif missing:
            self._contents |= zip(missing, self._store.read_many(missing), strict=True)


class CallValues:
    """What one invocation reads of its run.

    The bytes of a value are fetched once. Each use has a value of its own, since steps may change what they get.
    """

    def __init__(self, store: Store, handled: HandledCall, values: Mapping[str, Value]) -> None:
        self._store = store
        self._handled = handled
        self._values = values
        self._fetched = FetchedObjects(store)
        self._fresh: dict[str, Sequence[object]] = {}

    def fetch(self, *others: Value | None, store: Store | None = None) -> None:
        """Fetch the values that the event has, and others with them.

        ``store``: of which the results of maps are read; by default what keeps their bytes for further items.

        Raises StoreError for what cannot be read, whichever item would need it.
        """
        refs = (*self._values.values(), *others)
        self._fetched.fetch(ref for ref in refs if isinstance(ref, Stored))
        for name, value in self._values.items():
            if isinstance(value, ResultsKey):
                tolerate = self._handled.tolerates.get(name)
                self._fresh[name] = self._results(store or self._fetched, value, tolerate)

    def inputs(self, first: Value | None, *, lazy: bool = False) -> object:
        """Return what a call outside of map blocks is called with.

        ``lazy``: whether it takes the results of a map one by one.
        """
        # Results of maps are read once, so their bytes are not kept: they may be most of the function's memory.
        self.fetch(first, store=self._store)
        value: object = None
        if isinstance(first, ResultsKey):
            value = self._results(self._store, first, self._handled.tolerate, lazy=lazy)
        elif first is not None:
            value = reader(self._fetched, first)()
        return self._call_value(value, self._value)

    def of_item(self, entry: Entry) -> Callable[[], object]:
        """Return a loader of the call's input for an item.

        Each call of it loads it anew.
        """
        fetched = FetchedObjects(self._store)
        handled = self._handled
        name_of_first = handled.reads_value
        names = [name for name in sorted(handled.values) if name not in self._values]
        refs = {name: value_of(entry, name) for name in names}
        if not name_of_first and handled.call.reads is not None:
            refs[""] = entry.ref
        fetched.fetch(ref for ref in refs.values() if isinstance(ref, Stored))
        loaders = {name: reader(fetched, ref) for name, ref in refs.items()}

        def value(name: str) -> object:
            return loaders[name]() if name in loaders else self._value(name)

        def load() -> object:
            return self._call_value(None if handled.call.reads is None else value(name_of_first), value)

        return load

    def _call_value(self, first: object, value: Callable[[str], object]) -> object:
        sources = self._handled.call.values
        return Inputs(first, {source: value(source_name(source)) for source in sources}) if sources else first

    def _value(self, name: str) -> object:
        value = self._values[name]
        if not isinstance(value, ResultsKey):
            return reader(self._fetched, value)()
        if name in self._fresh:  # no call has got it yet
            return self._fresh.pop(name)
        return self._results(self._fetched, value, self._handled.tolerates.get(name))

    def _results(
        self, store: Store, source: ResultsKey, tolerate: float | None, *, lazy: bool = False
    ) -> Sequence[object]:
        from lokki.runtime.results import find_results, load_results  # only here: other functions start faster without

        return (find_results if lazy else load_results)(store, source, tolerate)


def value_of(entry: Entry, name: str) -> Ref:
    """Return where a value is that an item has.

    To the first call of a map block, the item itself is the current value. It has the name of the block's item, or of
    the inner map whose results it is.

    Raises EventError for one that it does not have.
    """
    if name in entry.values:
        return entry.values[name]
    if name.rpartition(".")[2].startswith(("item", "map")):
        return entry.ref
    raise EventError(f"item {entry.index} has no value {name}.")


def next_entry(item_call: ItemCall, entry: Entry, own: Ref, case: int | None) -> dict[str, Json]:
    """Return the entry of an item for the calls that follow.

    ``own``: the call's result. ``case``: the number of the case that it chose.

    Raises EventError for a value that the item does not have.
    """

    def ref(name: str) -> dict[str, Json]:
        return ref_to_json(value_of(entry, name) if name else own)

    values: Json = {name: ref(source) for name, source in item_call.hands_on.items()}
    cases: dict[str, Json] = {name: entry.cases[name] for name in item_call.keeps_cases if name in entry.cases}
    if case is not None:
        cases[item_call.switch] = case
    return _entry_json(entry, ref(item_call.result), values, cases)


def same_entry(entry: Entry) -> dict[str, Json]:
    """Return the entry of an item that a call is not run on."""
    values: Json = {name: ref_to_json(ref) for name, ref in entry.values.items()}
    return _entry_json(entry, ref_to_json(entry.ref), values, {**entry.cases})


def _entry_json(entry: Entry, ref: dict[str, Json], values: Json, cases: Json) -> dict[str, Json]:
    further = {"values": values, "cases": cases}
    return {
        "index": entry.index,
        **entry.path_field,
        **ref,
        **{name: field for name, field in further.items() if field},
    }
