"""Running something on a thread of its own, for a caller that waits for it.

Why: a step may call ``asyncio.run``, which Python refuses on a thread whose event loop is running, as that of every
cell of a notebook is.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable

from lokki.engine.async_exceptions import raise_in
from lokki.local_run.threads import STOP_SECONDS

_GLANCE = 0.1
"""Seconds between two glances at the thread: on Windows and macOS no signal ends a longer wait."""


class _Called(threading.Thread):
    """Calls a function in the caller's context, and keeps what comes of it."""

    def __init__(self, function: Callable[[], object]) -> None:
        super().__init__(name="lokki-run", daemon=True)
        self._call = contextvars.copy_context().run, function
        self.result: object = None
        self.error: BaseException | None = None

    def run(self) -> None:
        """Call the function."""
        run_in_context, function = self._call
        try:
            self.result = run_in_context(function)
        except BaseException as error:  # raised again by the thread that waits
            self.error = error


def call_on_thread(function: Callable[[], object]) -> object:
    """Return what a function returns on another thread, or raise its error.

    Ctrl-C is passed on to it; then it has the time that workers have to end, and two seconds to say so.
    """
    thread = _Called(function)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(_GLANCE)
    except KeyboardInterrupt:
        raise_in(thread.ident or 0, KeyboardInterrupt)
        thread.join(STOP_SECONDS + 2.0)
        raise
    if thread.error is not None:
        raise thread.error
    return thread.result
