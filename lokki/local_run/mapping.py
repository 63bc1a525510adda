"""What the workers of a map block share, whichever executor they are on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Container
from contextlib import AbstractContextManager, nullcontext

from lokki.base.options import MapOptions
from lokki.engine.events import Event, ItemFailed, ItemsFinished
from lokki.engine.limits import Deadline
from lokki.local_run.feed import Chunk, Feed, PendingRetry
from lokki.local_run.worker import FailedItem, MapJob, Report


class MapDispatcher:
    """Hands items to workers and counts what comes back, one worker at a time.

    Stops when more items failed than are tolerated, unless it is to ``keep_going``.
    """

    def __init__(
        self,
        job: MapJob,
        options: MapOptions,
        feed: Feed,
        deadline: Deadline,
        emit: Callable[[Event], None],
        keep_going: bool = False,
        slot: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self.job = job
        self.deadline = deadline
        self.slot = slot  # held while a worker runs a chunk, where other branches run steps, too
        self.stop = threading.Event()
        self.items = feed.items
        self.finished = 0
        self.failed = 0
        self.inherited = 0
        self.first_failure: FailedItem | None = None
        self.first_error: BaseException | None = None
        self._options = options
        self._feed = feed
        self._emit = emit
        self._keep_going = keep_going
        self._lock = threading.Lock()

    @property
    def ended(self) -> int:
        """How many items have come to their end here."""
        return self.finished + self.failed

    @property
    def too_many_failed(self) -> bool:
        """Whether more items failed than are tolerated."""
        return self._options.too_many(self.failed, self.items)

    def take(self, last: Report | None) -> Chunk | None:
        """Return the next items for a worker, or None when it should end.

        ``last``: its last report.
        """
        with self._lock:
            if self.stop.is_set() or self.deadline.passed:
                return None
            done = last.finished + len(last.failures) if last is not None else 0
            return self._feed.take(last.seconds / done if last is not None and done else None)

    def give_back(self, chunk: Chunk, *, without: Container[int], retry: PendingRetry | None = None) -> None:
        """Take back the items that a worker has not done which ended.

        ``without``: the indexes of those that it has done.
        """
        with self._lock:
            self._feed.give_back(chunk, without=without, retry=retry)

    def take_over(self, part: str, indexes: list[int]) -> set[int]:
        """Return which of these items a worker that died had written results of."""
        with self._lock:
            self._feed.take_over(self.job.parts, part)
            return {index for index in indexes if self._feed.is_finished(index)}

    def count(self, report: Report) -> None:
        """Count what a worker did and tell the listeners."""
        with self._lock:
            self.finished += report.finished
            if report.finished:
                self._emit(ItemsFinished(self.job.id, report.finished, report.seconds, *report.slowest, report.steps))
            for item in report.failures:
                self.failed += 1
                if self.first_failure is None:
                    self.first_failure = item
                if item.inherited:
                    self.inherited += 1
                else:
                    self._emit(ItemFailed(self.job.id, item.path, item.failure))
            # Counted and decided under one lock, so that no worker takes another item in between.
            if self.too_many_failed and not self._keep_going:
                self.stop.set()

    def note_error(self, index: int, error: BaseException) -> None:
        """Keep what a step raised in this process, if it is the first failure."""
        with self._lock:
            if self.first_failure is not None and self.first_failure.index == index:
                self.first_error = error

    def tell(self, event: Event) -> None:
        """Tell the listeners of something that happened in a worker."""
        with self._lock:
            self._emit(event)
