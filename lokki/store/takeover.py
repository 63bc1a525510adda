"""What a run takes over from an earlier one that failed, by reference; only ``redrive --latest`` makes such runs."""

from __future__ import annotations

import msgspec

from lokki.base.values import JsonField, Stored
from lokki.errors import StoreError
from lokki.store.base import Store
from lokki.store.keys import LATEST_SUFFIX, Keys


class MapTakeover(msgspec.Struct, frozen=True):
    """The items of a map that have results.

    * ``source``: the id of the call that gave the items.
    * ``manifest``: the key of the list of all items.
    * ``items``: how many there are.
    * ``results``: the keys of the manifests of their results, the oldest first.
    * ``complete``: whether the map had ended, so that no item runs again.
    """

    source: str
    manifest: str
    items: int
    results: tuple[str, ...]
    complete: bool


class Takeover(msgspec.Struct, frozen=True):
    """What a run takes over.

    * ``run``: the id of the earlier run.
    * ``replies``: what its calls replied, by their ids, with references to what is in the store.
    * ``maps``: what it has of maps, by the names under which their results are kept.
    """

    run: str
    replies: dict[str, dict[str, JsonField]] = {}
    maps: dict[str, MapTakeover] = {}


def write_takeover(store: Store, keys: Keys, takeover: Takeover) -> None:
    """Write what a run is to take over, before it starts."""
    store.write(keys.takeover(), [msgspec.json.encode(takeover)])


def read_takeover(store: Store, keys: Keys) -> Takeover | None:
    """Read what a run takes over.

    None for a run that takes nothing over.

    Raises StoreError for what cannot be read.
    """
    if not keys.prefix.endswith(LATEST_SUFFIX):
        return None
    url = store.url(keys.takeover())
    try:
        return msgspec.json.decode(store.read(Stored(url)), type=Takeover)
    except msgspec.DecodeError as error:
        raise StoreError(f"{url} is not what lokki writes for redrive --latest: {error}.") from None
    except StoreError as error:
        if is_missing(error):  # a run that somebody named so
            return None
        raise


def is_missing(error: StoreError) -> bool:
    """Tell whether an object is not there.

    Who may not list a bucket is denied an object that is not there:
    https://docs.aws.amazon.com/AmazonS3/latest/API/API_GetObject.html
    """
    cause = error.__cause__
    return isinstance(cause, FileNotFoundError) or type(cause).__name__ == "PermissionDeniedError"
