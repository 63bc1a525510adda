"""Answering for calls whose results an earlier run has, in a run of ``redrive --latest``.

Only functions that take part in such a run load this module. What it does follows from the earlier run alone, so an
event that comes twice is answered alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from itertools import batched

import msgspec

from lokki.base.values import Stored
from lokki.runtime.event import ItemCount, Request, ResultsKey
from lokki.runtime.work import Reply, Work
from lokki.store.base import Store
from lokki.store.keys import Keys
from lokki.store.manifest import item_lines
from lokki.store.map_results import item_results, read_result_files
from lokki.store.takeover import MapTakeover, Takeover

_LINES = 1024


def with_earlier_results(request: Request, takeover: Takeover) -> Request:
    """Return a request whose results of maps have those that were taken over."""

    def with_earlier(source: ResultsKey) -> ResultsKey:
        # Step Functions adds a folder for each Map Run: <map>/map_results/<map run>/manifest.json
        earlier = takeover.maps.get(source.key.rsplit("/", 4)[-4])
        return source if earlier is None else ResultsKey(source.key, earlier.items, earlier.results)

    source = request.input
    results = {name: with_earlier(value) for name, value in request.values.items() if isinstance(value, ResultsKey)}
    return msgspec.structs.replace(
        request,
        input=with_earlier(source) if isinstance(source, ResultsKey) else source,
        values={**request.values, **results},
    )


def taken_reply(work: Work, takeover: Takeover) -> Reply | None:
    """Return the reply of a call that the earlier run did.

    None for one that is to run.
    Where a map runs over its result, the items are those that have no result yet.
    Raises StoreError for what the earlier run has and cannot be read, CostLimitError for too many items that are left.
    """
    request, keys, store = work.request, work.keys, work.settings.store
    call_id = request.call.id
    recorded = takeover.replies.get(call_id)
    if recorded is None or request.bind:
        return None
    reply: Reply = {**recorded}
    if work.handled.regroups is not None:
        earlier = Keys(f"{keys.prefix.rpartition('/')[0]}/{takeover.run}")
        store.write(keys.groups(call_id), [store.read(Stored(store.url(earlier.groups(call_id))))])
    size = 0
    for item_map in takeover.maps.values():
        if item_map.source == call_id:
            left = _LeftItems(store, item_map)
            store.write(keys.left_items(call_id), left.text())
            size = left.size
            reply |= {"map_manifest_key": keys.left_items(call_id), "items": left.count}
    if isinstance(items := reply.get("items"), int):
        work.check_cost(ItemCount(items, size))
    return reply | work.checked_params()


class _LeftItems:
    """The items of a map that have no result yet, as lines of a manifest."""

    def __init__(self, store: Store, item_map: MapTakeover) -> None:
        self._store = store
        self._map = item_map
        self.count = self.size = 0

    def text(self) -> Iterator[bytes]:
        """Yield the manifest of these items, and count them."""
        begin = b"[\n"
        for lines in batched(() if self._map.complete else self._lines(), _LINES, strict=False):
            yield begin + b",\n".join(lines)
            begin = b",\n"
            self.count += len(lines)
            self.size += sum(map(len, lines))
        yield b"\n]\n" if self.count else b"[\n]\n"

    def _lines(self) -> Iterator[bytes]:
        listed = self._listed()
        content = BytesIO(self._store.read(Stored(self._store.url(self._map.manifest))))
        return (line for index, line in enumerate(item_lines(content)) if not listed[index])

    def _listed(self) -> bytearray:
        """Return for each item whether it has a result."""
        listed = bytearray(self._map.items)
        *earlier, last = self._map.results
        url = self._store.url(last)
        files = read_result_files(self._store, url, earlier)
        for entry in item_results(self._store, url, files, self._map.items):
            listed[entry.index] = True
        return listed
