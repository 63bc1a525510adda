"""Forcing to disk what was written, many changes at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress

FLUSH_SECONDS = 1.0
"""How much later than a change a power cut can still take it."""


class LaterFlush:
    """Forces something to disk a second after it changed.

    `flush` does so earlier. ``force``: what is done. Many changes within a second cost the disk no more than one.
    """

    def __init__(self, force: Callable[[], None]) -> None:
        self._force = force
        self._has_changed = False
        self._changing = threading.Lock()
        self._flushing = threading.Lock()
        self._waiting: _Waiting | None = None
        self._lost: OSError | None = None

    def changed(self) -> None:
        """Say that there is something new to force to disk."""
        with self._changing:
            self._has_changed = True
            if self._waiting is not None:
                return
            self._waiting = _Waiting(self._flush_later)
            self._waiting.start()

    def flush(self) -> None:
        """Force all changes to disk.

        No thread is left that would do so later. Raises OSError; what could not be forced to disk is tried again by the
        next flush.
        """
        with self._changing:
            waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.end()
        self._flush()
        # The system says only once that it lost what was written, and perhaps said so when nobody waited.
        lost, self._lost = self._lost, None
        if lost is not None:
            raise lost

    def _flush(self) -> None:
        # Whoever comes while another thread flushes waits: all changes before are on disk when this returns.
        with self._flushing:
            with self._changing:
                has_changed, self._has_changed = self._has_changed, False
            if not has_changed:
                return
            try:
                self._force()
            except (FileNotFoundError, NotADirectoryError):
                pass  # it was removed meanwhile
            except BaseException:
                self._has_changed = True
                raise

    def _flush_later(self) -> None:
        with self._changing:
            if self._waiting is threading.current_thread():
                self._waiting = None
        try:
            self._flush()
        except OSError as error:
            self._lost = error


class _Waiting(threading.Thread):
    """Calls a function a second later, unless it is ended before."""

    def __init__(self, function: Callable[[], None]) -> None:
        super().__init__(name="lokki-disk", daemon=True)
        self._function = function
        self._ended = threading.Event()

    def run(self) -> None:
        """Wait, and call the function."""
        if not self._ended.wait(FLUSH_SECONDS):
            self._function()

    def end(self) -> None:
        """End the thread, or wait for what it has begun."""
        self._ended.set()
        # A signal in start() leaves a thread that is not known to be started. It ends at once when it begins.
        with suppress(RuntimeError):
            self.join()
