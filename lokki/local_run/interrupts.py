"""Ctrl-C, SIGTERM and SIGHUP, which end a run so that it can be resumed.

Each raises KeyboardInterrupt in the main thread, wherever that is. Why that is not all: Python drops an exception that
comes up in a place from which none can be raised: a ``__del__``, a callback of the collector, a function called at a
fork. Some code of users' catches everything. So the signal is remembered, too, and `raise_interrupt` raises it where a
run looks for it: between two operations, two messages, two glances at threads.

A step may still keep the main thread, waiting for processes that the same Ctrl-C broke. So a run can also say what to
do when it has not ended some seconds after a signal: `give_up_by`.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from lokki.local_run import forks

type _Handler = Callable[[int, FrameType | None], object] | int | None

GIVE_UP_SECONDS = 9.0
"""How long after a signal a run may take to end: the 8 seconds for what is running, and a little for the rest."""

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""SIGTERM is how containers and CI end a job, SIGHUP comes when a terminal is closed."""


class _Interrupts:
    """The signals that came in, and how this process treated them before.

    * ``pending``: whether one has yet to be raised.
    * ``held``: how many pieces of code must be whole before one is.
    * ``wake``: the descriptor that tells the thread of `given_up_by`.
    """

    def __init__(self) -> None:
        self.pending = False
        self.held = 0
        self.handlers: dict[int, _Handler] = {}
        self.wake: int | None = None

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Take a signal."""
        self.pending = True
        if self.wake is not None:
            # All that is safe in a handler: the thread that waits for it does the rest.
            os.write(self.wake, b".")
        # An exception in what runs at a fork would be dropped with a complaint.
        if not self.held and (frame is None or frame.f_globals.get("__name__") != forks.__name__):
            raise KeyboardInterrupt

    def let_go(self) -> None:
        """Treat signals in a process that a step forked as before the run."""
        self.pending, self.held, self.wake = False, 0, None
        self.restore()

    def install(self, numbers: Sequence[signal.Signals]) -> None:
        """Take the signals, but for those that this process was told to ignore.

        ``nohup`` tells it so.
        """
        for number in numbers:
            previous = signal.getsignal(number)
            own = previous is not signal.default_int_handler if number == signal.SIGINT else previous is None
            if previous is not signal.SIG_IGN and not own:
                self.handlers[number] = previous
                signal.signal(number, self.handle)

    def restore(self) -> None:
        """Treat signals as before, but where a step has set a handler."""
        for number, previous in self.handlers.items():
            if signal.getsignal(number) == self.handle:
                signal.signal(number, previous)
        self.handlers = {}


_interrupts = _Interrupts()


@contextmanager
def interruptible(numbers: Sequence[signal.Signals] = _ENDING) -> Iterator[None]:
    """Let these signals interrupt a run.

    On another thread than the main one nothing can be done.
    """
    if threading.current_thread() is not threading.main_thread() or _interrupts.handlers:
        yield
        return
    _interrupts.pending = False
    _interrupts.install(numbers)
    forks.watch(_interrupts)
    try:
        yield
    finally:
        forks.forget(_interrupts)
        _interrupts.restore()


@contextmanager
def given_up_by(give_up: Callable[[], object]) -> Iterator[None]:
    """Call a function if what runs meanwhile has not ended after a signal.

    It is called on a thread of its own, `GIVE_UP_SECONDS` after the signal.
    """
    if not _interrupts.handlers or _interrupts.wake is not None:
        yield
        return
    awake, wake = os.pipe()
    os.set_blocking(wake, False)
    over = threading.Event()

    def wait() -> None:
        os.read(awake, 1)
        if not over.wait(GIVE_UP_SECONDS):
            give_up()
        os.close(awake)

    # Not started by the handler: what it interrupts may hold the locks that starting a thread needs.
    threading.Thread(target=wait, name="lokki-interrupts", daemon=True).start()
    _interrupts.wake = wake
    try:
        yield
    finally:
        _interrupts.wake = None
        os.write(wake, b".")  # closing it would not do: a process that a step forked may have it, too
        over.set()
        os.close(wake)


def raise_interrupt() -> None:
    """Raise KeyboardInterrupt if a signal came in of which nobody has learnt.

    Does nothing on other threads than the main one.
    """
    if _interrupts.pending and not _interrupts.held and threading.current_thread() is threading.main_thread():
        _interrupts.pending = False
        raise KeyboardInterrupt


def is_interrupted() -> bool:
    """Tell whether a signal came in of which nobody has learnt."""
    return _interrupts.pending


def acknowledge_interrupt() -> None:
    """Note that the run has learnt of a KeyboardInterrupt and is ending."""
    _interrupts.pending = False


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Keep signals back while something is done that must be whole.

    They are raised afterwards.
    """
    _interrupts.held += 1
    try:
        yield
    finally:
        _interrupts.held -= 1
    raise_interrupt()
