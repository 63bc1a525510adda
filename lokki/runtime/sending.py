"""Writing the items of a map block from Lambda, while they are made.

A function has 512 MB of memory and of ``/tmp``; neither would hold the manifest of ten million items.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Condition

from lokki.runtime.event import ItemCount
from lokki.store.base import Store
from lokki.store.keys import Keys
from lokki.store.manifest import ManifestWriter

_AHEAD = 2**24
"""Bytes that wait for an upload to take them; one chunk may always wait, however large."""


def send_items(store: Store, keys: Keys, step_id: str, items: Iterable[object], inline_limit: int) -> ItemCount:
    """Write pack and manifest of a map block from its items.

    In one pass and in bounded memory; returns how many items there are.

    The items are made in the thread of the caller. The manifest becomes visible last, so that where there is a
    manifest there is a whole pack; if anything fails, neither is written.
    Raises ResultError for an item that does not pickle, StoreError when the store cannot write, and what the items
    raise.
    """
    pack_key = keys.items(step_id)
    writer = ManifestWriter(store.url(pack_key), inline_limit)
    with ThreadPoolExecutor(2, thread_name_prefix="lokki-send") as pool:
        pack = _Upload(pool, store, pack_key)
        manifest = _Upload(pool, store, keys.map_manifest(step_id))
        try:
            for members, lines in writer.parts(items):
                if members:
                    pack.send(b"".join(members))
                manifest.send(lines)
            pack.finish()
            manifest.finish()
        except BaseException:
            pack.cancel()
            manifest.cancel()
            raise
    return ItemCount(writer.count, writer.size)


class _CancelledError(Exception):
    """Ends an upload so that nothing of it is left."""


class _Upload:
    """An object that a thread writes while its content is made."""

    def __init__(self, pool: ThreadPoolExecutor, store: Store, key: str) -> None:
        self._chunks: deque[bytes] = deque()
        self._held = 0
        self._changed = Condition()
        self._ended = self._cancelled = False
        self._written = pool.submit(store.write, key, self._content())
        self._written.add_done_callback(lambda _: self._end())

    def send(self, chunk: bytes) -> None:
        """Hand on some of the content.

        Waits while too much is in progress. Raises StoreError when the upload failed.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._ended or not self._held or self._held + len(chunk) <= _AHEAD)
            if not self._ended:
                self._chunks.append(chunk)
                self._held += len(chunk)
                self._changed.notify_all()
                return
        self._written.result()  # only an upload that failed ends before it is told to

    def finish(self) -> None:
        """Wait until all is written.

        Raises StoreError when it cannot be.
        """
        self._end()
        self._written.result()

    def cancel(self) -> None:
        """End the upload with nothing written, unless it is finished."""
        self._cancelled = True
        self._end()

    def _end(self) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _content(self) -> Iterator[bytes]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._chunks or self._ended)
                if self._cancelled:
                    raise _CancelledError
                if not self._chunks:
                    return
                chunk = self._chunks.popleft()
                self._held -= len(chunk)
                self._changed.notify_all()
            yield chunk
