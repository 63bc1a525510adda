"""Stdout and stderr of a process that runs a flow.

What reaches them past Python is shown as a line of the run, too.
"""

from __future__ import annotations

import codecs
import io
import os
import select
import sys
import threading
from contextlib import suppress
from typing import TextIO

from lokki.engine.events import StepOutput
from lokki.local_run import descriptors
from lokki.local_run.forks import watch
from lokki.local_run.output import Emit, Lines, flush_all


class RedirectedStreams:
    """Takes what goes to the descriptors 1 and 2 past Python.

    Programs that a step starts write there. In two parts, since a thread must not run before worker processes are
    forked: making it redirects the descriptors into a pipe, `start` reads from it.

    * ``terminal`` is the real stderr, ``stdout`` the real stdout.
    * ``direct``: there is no pipe, both descriptors are the real stderr, where a debugger can talk with the user.
    """

    def __init__(self, *, direct: bool = False) -> None:
        descriptors.open_closed()
        flush_all()
        self.stdout = _duplicate(1, sys.stdout)
        self.terminal = _duplicate(2, sys.stderr)
        self._read: int | None = None
        self._ended, self._end = os.pipe()
        self._thread: threading.Thread | None = None
        watch(self)
        if direct:
            descriptors.replace(1, self.terminal.fileno())
            return
        descriptors.write_lines_of_c()
        self._read, write = os.pipe()
        descriptors.replace(1, write)
        descriptors.replace(2, write)
        os.close(write)

    def let_go(self) -> None:
        """Leave the terminal to the parent.

        Whoever reads its output waits until nobody can write there.
        """
        own = (self.stdout.fileno(), self.terminal.fileno(), self._ended, self._end)
        for descriptor in own if self._read is None else (*own, self._read):
            descriptors.hide(descriptor)

    def start(self, emit: Emit) -> None:
        """Begin to hand on what is written."""
        if self._read is not None and self._thread is None:
            arguments = (self._read, self._ended, emit)
            self._thread = threading.Thread(target=_hand_on, args=arguments, name="lokki-output", daemon=True)
            self._thread.start()

    def end(self, emit: Emit) -> None:
        """Hand on what was written so far, and stop taking it.

        From now on both descriptors are the real stderr: what C code or another thread still holds back must not come
        out behind the result on stdout.
        """
        self.start(emit)
        flush_all()
        with suppress(OSError):  # the terminal has gone
            self.terminal.flush()
        self._read = None  # which is closed by the thread
        descriptors.replace(1, self.terminal.fileno())
        descriptors.replace(2, self.terminal.fileno())
        os.write(self._end, b".")
        if self._thread is not None:
            # A signal in start() leaves a thread that is not known to be started.
            with suppress(RuntimeError):
                self._thread.join(1.0)

    def discard(self) -> None:
        """Drop what is held back for a stdout that cannot be written to.

        Python would complain at its end.
        """
        descriptors.hide(self.stdout.fileno())


class BorrowedStreams:
    """Stdout and stderr of a process that goes on after the run.

    They take the place of `RedirectedStreams`, and nothing is redirected.
    What runs there may have replaced them, as notebooks and pytest do; then the replacements are written to.
    """

    def __init__(self) -> None:
        self.stdout: TextIO = sys.stdout or io.StringIO()
        self.terminal: TextIO = sys.stderr or io.StringIO()

    def start(self, emit: Emit) -> None:
        """Do nothing, as what goes past Python goes where it always goes."""

    def end(self, emit: Emit) -> None:
        """Write out what is held back."""
        flush_all()

    def discard(self) -> None:
        """Do nothing, as a stream that cannot be written to is not lokki's."""


def _hand_on(descriptor: int, finish: int, emit: Emit) -> None:
    """Read lines to the end and hand them on.

    Bytes that are no UTF-8 are shown in hexadecimal. The end may never come, while a program that a step left running
    holds the pipe open: what is there when ``finish`` can be read is all.
    """
    decode = codecs.getincrementaldecoder("utf-8")("backslashreplace").decode
    lines = Lines()
    while chunk := _next(descriptor, finish):
        for line in lines.feed(decode(chunk)):
            emit(StepOutput("", (), "stderr", line))
    rest = lines.rest()
    if rest is not None:
        emit(StepOutput("", (), "stderr", rest))
    os.close(descriptor)


def _next(descriptor: int, finish: int) -> bytes:
    """Return the next bytes, or none at the end.

    That is when there is nobody to write, or nothing more after ``finish``.
    """
    ready = select.poll()
    ready.register(descriptor, select.POLLIN)
    ready.register(finish, select.POLLIN)
    return os.read(descriptor, 2**16) if descriptor in dict(ready.poll()) else b""


def _duplicate(descriptor: int, stream: TextIO | None) -> TextIO:
    encoding = stream.encoding if stream is not None else "utf-8"
    return os.fdopen(os.dup(descriptor), "w", encoding=encoding, errors="backslashreplace", newline="\n")
