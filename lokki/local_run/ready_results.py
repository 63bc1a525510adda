"""Large results of a map that the step after it gets without reading the disk.

They are on disk all the same, checked and forced there like all others: whoever reads a second time reads them there.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import suppress

from lokki.store.codec import SHARED_BYTES, copy_pickled

MOST_BYTES = 2**30
"""How many bytes of pickles may be ready at one time; what comes later is read from disk."""


class ReadyResults:
    """Copies of a map's large results, made by the workers themselves.

    A copy is made of the pickle that was written, so it is what reading the file would give. That spares the step
    after the map most of the reading, which it does alone while the workers copy side by side.
    """

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._values: dict[int, object] = {}
        self._free = most_bytes
        self._lock = threading.Lock()

    def add(self, index: int, value: object, pickled: list[memoryview]) -> None:
        """Copy an item's result, unless it is small or there is no room."""
        size = sum(map(len, pickled))
        if size < SHARED_BYTES:
            return
        with self._lock:
            if size > self._free:
                return
            self._free -= size
        with suppress(Exception):  # its class may raise anything, and does so again where the step reads it
            self._values[index] = value if type(value) in (bytes, str) else copy_pickled(pickled)

    def take(self) -> Mapping[int, object]:
        """Return the copies, which are the caller's from here on."""
        values, self._values = self._values, {}
        return values
