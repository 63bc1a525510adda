"""The log in a run's folder, of every event and all that steps printed."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from lokki.engine.events import Event, MapFinished, RunFailed, RunStarted, StepFailed, StepFinished, StepOutput
from lokki.local_run.descriptors import hide
from lokki.local_run.folder import LOG
from lokki.local_run.forks import watch
from lokki.local_run.output import Emit, finish_lines
from lokki.observing.report import RunReport, fold
from lokki.progress.displays import Display, JsonLines, Nothing
from lokki.store.local import open_to_append


class Recorder:
    """Folds events into the report, and writes and shows them.

    It may be called from any thread. ``started`` is called when the run begins: worker processes are forked by then,
    so that threads may be started.
    """

    def __init__(self, display: Display, started: Callable[[Emit], None]) -> None:
        self.report = RunReport()
        self._display = display
        self._started = started
        self._file: TextIO | None = None
        self._log: Display = Nothing()
        # One thread may come here twice: what is written makes Python collect garbage, whose __del__ prints.
        self._lock = threading.RLock()
        self._closed = False
        watch(self)

    def __call__(self, event: Event) -> None:
        """Take an event."""
        with self._lock:
            if isinstance(event, StepFinished | StepFailed | MapFinished | RunFailed):
                finish_lines()
            self._take(event)
            if not self._closed:
                self._show(event)

    def let_go(self) -> None:
        """Take nothing more in a process that a step forked."""
        # There, locks of other threads stay locked.
        self._lock = threading.RLock()
        self._closed = True
        self._display = self._log = Nothing()
        if self._file is not None and not self._file.closed:
            hide(self._file.fileno())

    def take_shown(self, event: StepOutput) -> None:
        """Take what a step printed and what the terminal shows already."""
        with self._lock:
            self._take(event)

    def close(self) -> None:
        """End the display and the log.

        Threads that are left behind may still call.
        """
        with self._lock:
            self._closed = True
            self._log = Nothing()
            if self._file is not None:
                self._file.close()
        with suppress(OSError):
            self._display.close()

    def _take(self, event: Event) -> None:
        self.report = fold(self.report, event)
        if isinstance(event, RunStarted) and self._file is None:
            # Only its owner may read it: steps print parameters and results.
            descriptor = open_to_append(Path(event.folder).absolute() / LOG)
            self._file = os.fdopen(descriptor, "a", encoding="utf-8", newline="\n")
            self._log = JsonLines(self._file)
            self._started(self)
        try:
            self._log.show(event, self.report)
        except OSError as error:
            self._log = Nothing()
            self._show(StepOutput("", (), "stderr", f"the log {LOG} ends here: {error}"))

    def _show(self, event: Event) -> None:
        try:
            self._display.show(event, self.report)
        except OSError:
            self._display = Nothing()  # the terminal has gone; the run goes on
