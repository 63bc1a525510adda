"""Large results of a map that the step after it gets without reading the disk.

They are on disk all the same, checked and forced there like all others: whoever reads a second time reads them there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import suppress

from lokki.local_run.detached import DetachedValue, detach
from lokki.local_run.free_memory import free_memory
from lokki.store.arrays import SHARED_BYTES
from lokki.store.codec import copy_pickled

MOST_BYTES = 2**30
"""How many bytes of pickles may be ready at one time in any case."""

_SHARE = 4
"""What part of the memory that is free then they may take beyond that; what comes later is read from disk."""


class ReadyResults:
    """Copies of a map's large results, made by the workers themselves.

    A copy is made of the pickle that was written, so it is what reading the file would give. That spares the step
    after the map most of the reading, which it does alone while the workers copy side by side.

    ``free_memory``: is asked once, when ``most_bytes`` are used up, how many bytes are free.
    """

    def __init__(self, most_bytes: int = MOST_BYTES, free_memory: Callable[[], int] = free_memory) -> None:
        self._values: dict[int, object] = {}
        self._room = most_bytes
        self._free_memory: Callable[[], int] | None = free_memory
        self._lock = threading.Lock()

    def reserve(self, size: int) -> bool:
        """Tell whether there is room for a result, and keep it for that one.

        ``size``: of its pickle, in bytes. For small ones there is none: to read them takes less time.
        """
        if size < SHARED_BYTES:
            return False
        with self._lock:
            if size > self._room and self._free_memory is not None:
                self._room += self._free_memory() // _SHARE
                self._free_memory = None
            if size > self._room:
                return False
            self._room -= size
            return True

    def add(self, index: int, value: object, pickled: list[memoryview]) -> DetachedValue | None:
        """Copy an item's result, for which there must be room.

        What is returned must be given to `settle` as soon as nobody refers to the result any more: it may need no copy.
        """
        with suppress(Exception):  # its class may raise anything, and does so again where the step reads it
            if type(value) in (bytes, str):
                self._values[index] = value
                return None
            if (detached := detach(value, pickled)) is not None:
                return detached
            self._values[index] = copy_pickled(pickled)
        return None

    def settle(self, index: int, detached: DetachedValue) -> None:
        """Take a result that `add` has left."""
        with suppress(Exception):  # as in `add`
            self._values[index] = detached.value()

    def take(self) -> Mapping[int, object]:
        """Return the copies, which are the caller's from here on."""
        values, self._values = self._values, {}
        return values
