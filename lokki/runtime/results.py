"""Reading the results of a map block back: the manifest and files that Step Functions' ResultWriter writes.

Shape: https://docs.aws.amazon.com/step-functions/latest/dg/input-output-resultwriter.html
"""

from __future__ import annotations

from collections.abc import Buffer, Iterable, Iterator
from collections.abc import Set as AbstractSet
from operator import itemgetter

import msgspec

from lokki.base.options import MapOptions
from lokki.base.values import Stored
from lokki.errors import StoreError, TooManyFailuresError
from lokki.runtime.event import ResultsKey
from lokki.store.base import Store, load_many


class _File(msgspec.Struct, frozen=True):
    Key: str


class _Files(msgspec.Struct, frozen=True):
    SUCCEEDED: list[_File]


class _Manifest(msgspec.Struct, frozen=True):
    ResultFiles: _Files


class _Failure(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    step: str
    error: str
    message: str


class _Result(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """An item's result, where it is, or why it failed in its batch; or where the entries of a batch are."""

    index: int = -1
    result: object = msgspec.UNSET
    result_url: str | msgspec.UnsetType = msgspec.UNSET
    range: tuple[int, int] | None = None
    crc32: int | None = None
    failed: _Failure | msgspec.UnsetType = msgspec.UNSET
    entries_url: str | msgspec.UnsetType = msgspec.UNSET


_MANIFEST = msgspec.json.Decoder(_Manifest)
_RESULTS = msgspec.json.Decoder(list[_Result])


def load_results(store: Store, source: ResultsKey, tolerate: float | None) -> list[object]:
    """Load the results of all items that succeeded, in the order of the items.

    Small results come with the result files; others are read in parallel, in bounded memory.
    Raises TooManyFailuresError when more items failed than are tolerated, StoreError for results that cannot be read,
    are not those of this map block, or are not there although no item may fail.
    """
    url = store.url(source.key)
    values: dict[int, object] = {}
    stored: list[tuple[int, Stored]] = []
    failed: set[int] = set()
    for entry in _entries(store, url):
        if not 0 <= entry.index < source.items or entry.index in values or entry.index in failed:
            raise StoreError(f"{url} lists results of an item that this map did not have, or of one item twice.")
        if isinstance(entry.failed, _Failure):
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
    """Raise an error for items that have no result, unless the map tolerates so many failures.

    Items fail inside of their batch, which says so, or with their state machine's execution, which leaves nothing here.
    """
    lost = source.items - len(succeeded)
    if lost > len(failed) and tolerate is None:
        raise StoreError(f"{url} lists results of {len(succeeded)} items of {source.items}. Run the map again.")
    if MapOptions(tolerate=tolerate).too_many(lost, source.items):
        raise TooManyFailuresError(
            f"{lost} of {source.items} items of the map failed; tolerated: {'none' if tolerate is None else tolerate}."
        )


def _entries(store: Store, url: str) -> Iterator[_Result]:
    """Yield the results in the files that a manifest lists; those in objects of their own at the end."""
    manifest = _decode(_MANIFEST, store.read(Stored(url)), url)
    spilled: list[str] = []
    for entry in _decoded(store, [store.url(file.Key) for file in manifest.ResultFiles.SUCCEEDED]):
        if isinstance(entry.entries_url, str):
            spilled.append(entry.entries_url)
        else:
            yield entry
    yield from _decoded(store, spilled)


def _decoded(store: Store, urls: list[str]) -> Iterator[_Result]:
    for url, content in zip(urls, store.read_many(map(Stored, urls)), strict=True):
        entries = _decode(_RESULTS, content, url)
        _check_fields(entries, url)
        yield from entries


def _check_fields(entries: Iterable[_Result], url: str) -> None:
    for entry in entries:
        given = (entry.result, entry.result_url, entry.failed, entry.entries_url)
        loose = (entry.range, entry.crc32) != (None, None) and entry.result_url is msgspec.UNSET
        if given.count(msgspec.UNSET) != len(given) - 1 or loose:
            raise StoreError(f"{url} has an entry that holds no result, or more than one.")


def _decode[T](decoder: msgspec.json.Decoder[T], content: Buffer, url: str) -> T:
    try:
        return decoder.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        if bytes(memoryview(content)[:1]) == b"{" and decoder is _RESULTS:
            raise StoreError(
                f"{url} holds single objects, as Step Functions writes for a map whose results are JSON Lines. "
                "lokki's state machines have OutputType JSON and Transformation FLATTEN: deploy what lokki built."
            ) from None
        raise StoreError(f"{url} is not what Step Functions writes for a map of lokki: {error}.") from None
