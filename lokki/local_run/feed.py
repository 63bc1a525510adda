"""Hands out the items of a map block, in chunks whose size follows how long items take.

What a kill can cost each worker is so bounded: the items that it finished in the last 50 ms (`CHUNK_SECONDS`), whose
results it has not written yet, and the one that it is at. Of that one, inner steps that took longer than 50 ms are
kept.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass, field

from lokki.base.item_path import ItemPath
from lokki.local_run.journal import Parts
from lokki.local_run.journal_reader import DONE, Partial, Scan, scan_part
from lokki.store.manifest import entries

CHUNK_SECONDS = 0.05
"""How long a chunk should keep a worker, and after how long it writes the results that it has."""

LARGEST_CHUNK = 1024


@dataclass(frozen=True, slots=True)
class PendingRetry:
    """An item to try again, as its worker had to end.

    * ``position``: of the inner step that failed, which was tried ``attempts`` times.
    * ``wait``: seconds until the next try.
    """

    index: int
    position: int
    attempts: int
    wait: float


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some items for a worker.

    * ``lines``: those of the manifest; ``indexes``: the items' indexes.
    * ``partials``: where unfinished ones go on.
    * ``retry``: the item, if its last worker ended at it.
    """

    lines: list[bytes]
    indexes: list[int]
    partials: dict[int, Partial] = field(default_factory=dict)
    retry: PendingRetry | None = None

    def path_of(self, index: int) -> ItemPath:
        """Return how one of its items is named."""
        [entry] = entries([self.lines[self.indexes.index(index)]])
        return entry.path


def chunk_size(seconds_per_item: float | None, pending: int, workers: int) -> int:
    """Return how many items to hand out at once.

    One, while nobody knows how long an item takes; then what fills 50 ms, at most 1024, and never so many that other
    workers would run dry.

    >>> chunk_size(None, 1000, 4), chunk_size(2.0, 1000, 4), chunk_size(1e-5, 100_000, 4), chunk_size(1e-5, 80, 4)
    (1, 1, 1024, 10)
    """
    if seconds_per_item is None:
        return 1
    fitting = (
        int(CHUNK_SECONDS / seconds_per_item) if seconds_per_item > CHUNK_SECONDS / LARGEST_CHUNK else LARGEST_CHUNK
    )
    return max(1, min(fitting, LARGEST_CHUNK, pending // (2 * workers)))


class Feed:
    """Hands out the unfinished items of a map block in order.

    Not safe to use from two threads at once.
    """

    def __init__(self, lines: Iterator[bytes], progress: Scan, workers: int) -> None:
        self._lines = enumerate(lines)
        self._progress = progress
        self._workers = workers
        self._returned: list[Chunk] = []
        self.items = len(progress.status)
        self.pending = len(progress.status) - progress.finished

    def take(self, seconds_per_item: float | None) -> Chunk | None:
        """Return the next items for a worker, or None when there are no more.

        ``seconds_per_item``: how long the worker's last items took.
        """
        # First, so that an item that killed its worker is not what the whole map waits for at its end.
        if self._returned:
            return self._returned.pop()
        size = chunk_size(seconds_per_item, self.pending, self._workers)
        lines: list[bytes] = []
        indexes: list[int] = []
        status = self._progress.status
        for index, line in self._lines:
            if status[index] != DONE:
                lines.append(line)
                indexes.append(index)
                if len(lines) == size:
                    break
        if not lines:
            return None
        self.pending -= len(lines)
        return self._chunk(lines, indexes)

    def give_back(self, chunk: Chunk, *, without: Container[int], retry: PendingRetry | None = None) -> None:
        """Take back the items that a worker has not done which ended.

        ``without``: the indexes of those that it has done. Each of the others comes out again alone.
        """
        for line, index in zip(chunk.lines, chunk.indexes, strict=True):
            if index not in without:
                last_try = retry if retry is not None and retry.index == index else chunk.retry
                self._returned.append(self._chunk([line], [index], last_try))

    def take_over(self, parts: Parts, name: str) -> None:
        """Learn what a worker that died had written."""
        scan_part(parts, name, self._progress)

    def is_finished(self, index: int) -> bool:
        """Tell whether an item is known to have a result."""
        return self._progress.status[index] == DONE

    def _chunk(self, lines: list[bytes], indexes: list[int], retry: PendingRetry | None = None) -> Chunk:
        partials = self._progress.partials
        unfinished = {index: partials[index] for index in indexes if index in partials} if partials else {}
        return Chunk(lines, indexes, unfinished, retry)
