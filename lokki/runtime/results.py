"""Loading the results of a map block for the step that collects them."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from operator import itemgetter

from lokki.base.options import MapOptions
from lokki.base.values import Stored
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
    url = store.url(source.key)
    values: dict[int, object] = {}
    stored: list[tuple[int, Stored]] = []
    failed: set[int] = set()
    # By fields and not by `ItemResult.ref`: this is done for each of a million results.
    for entry in item_results(store, url, read_result_files(store, url), source.items):
        if isinstance(entry.failed, BatchFailure):
            failed.add(entry.index)
        elif isinstance(entry.result_url, str):
            stored.append((entry.index, Stored(entry.result_url, entry.range, entry.crc32)))
            values[entry.index] = None
        else:
            values[entry.index] = entry.result
    _check_complete(url, source, values.keys(), failed, tolerate)
    stored.sort(key=itemgetter(0))  # the results of a batch are neighbours in one object: fewer requests
    for (index, _), value in zip(stored, load_many(store, [place for _, place in stored]), strict=True):
        values[index] = value
    return [values[index] for index in sorted(values)]


def _check_complete(
    url: str, source: ResultsKey, succeeded: AbstractSet[int], failed: AbstractSet[int], tolerate: float | None
) -> None:
    """Raise an error for items without a result that are not tolerated.

    Items fail inside of their batch, which says so, or with their state machine's execution, which leaves nothing here.
    """
    lost = source.items - len(succeeded)
    if lost > len(failed) and tolerate is None:
        raise StoreError(f"{url} lists results of {len(succeeded)} items of {source.items}. Run the map again.")
    if MapOptions(tolerate=tolerate).too_many(lost, source.items):
        raise TooManyFailuresError(
            f"{lost} of {source.items} items of the map failed; tolerated: {'none' if tolerate is None else tolerate}."
        )
