"""Loading the results of a map block for the step that collects them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager

import msgspec

from lokki.base.options import MapOptions
from lokki.base.values import Stored
from lokki.engine.lazy import LazyResults, UnloadedError
from lokki.errors import StoreError, TooManyFailuresError
from lokki.runtime.event import ResultsKey
from lokki.store.base import Store, load_many
from lokki.store.map_results import BatchFailure, item_results, read_result_files


def load_results(store: Store, source: ResultsKey, tolerate: float | None) -> list[object]:
    """Load the results of all items that succeeded, in order.

    Small results come with the result files; others are read in parallel, in bounded memory.
    Raises TooManyFailuresError when more items failed than are tolerated, StoreError for results that cannot be read,
    are not those of this map block, or are not there although no item may fail.
    """
    values, stored = _listed(store, source, tolerate)
    indexes = sorted(stored)  # the results of a batch are neighbours in one object: fewer requests
    loaded = load_many(store, [stored[index] for index in indexes])
    values |= zip(indexes, loaded, strict=True)
    return [values[index] for index in sorted(values)]


def find_results(store: Store, source: ResultsKey, tolerate: float | None) -> LazyResults:
    """Return the results as `load_results` does, large ones not loaded yet.

    Raises as `load_results` does for what is not listed.
    """
    values, stored = _listed(store, source, tolerate)

    def load(indexes: Sequence[int]) -> Iterator[object]:
        contents = load_many(store, [stored[index] for index in indexes if index in stored])
        for index in indexes:
            yield next(contents) if index in stored else _copy(values[index])

    return LazyResults(sorted([*values, *stored]), load)


@contextmanager
def load_error() -> Iterator[None]:
    """Raise why a result could not be loaded, where that ended a step."""
    try:
        yield
    except UnloadedError as stopped:
        raise stopped.error from None


def _copy(value: object) -> object:
    """Copy a value that came as JSON, since a step may change what it gets."""
    return msgspec.json.decode(msgspec.json.encode(value)) if isinstance(value, list | dict) else value


def _listed(store: Store, source: ResultsKey, tolerate: float | None) -> tuple[dict[int, object], dict[int, Stored]]:
    """Return the small results by their indexes, and where others are."""
    url = store.url(source.key)
    values: dict[int, object] = {}
    stored: dict[int, Stored] = {}
    failed: set[int] = set()
    # By fields and not by `ItemResult.ref`: this is done for each of a million results.
    for entry in item_results(store, url, read_result_files(store, url, source.earlier), source.items):
        if isinstance(entry.failed, BatchFailure):
            failed.add(entry.index)
        elif isinstance(entry.result_url, str):
            stored[entry.index] = Stored(entry.result_url, entry.range, entry.crc32)
        else:
            values[entry.index] = entry.result
    _check_complete(url, source, len(values) + len(stored), failed, tolerate)
    return values, stored


def _check_complete(
    url: str, source: ResultsKey, succeeded: int, failed: AbstractSet[int], tolerate: float | None
) -> None:
    """Raise an error for items without a result that are not tolerated.

    Items fail inside of their batch, which says so, or with their state machine's execution, which leaves nothing here.
    """
    lost = source.items - succeeded
    if lost > len(failed) and tolerate is None:
        raise StoreError(f"{url} lists results of {succeeded} items of {source.items}. Run the map again.")
    if MapOptions(tolerate=tolerate).too_many(lost, source.items):
        raise TooManyFailuresError(
            f"{lost} of {source.items} items of the map failed; tolerated: {'none' if tolerate is None else tolerate}."
        )
