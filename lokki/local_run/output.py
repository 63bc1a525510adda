"""Takes what steps print and log, line by line, with the step and the item that it came from."""

from __future__ import annotations

import codecs
import io
import logging
import sys
import threading
from collections.abc import Buffer, Callable
from contextlib import suppress
from typing import TextIO

from lokki.base.item_path import ItemPath
from lokki.engine.context import place
from lokki.engine.events import StepOutput
from lokki.local_run.forks import watch
from lokki.local_run.levels import LogLevels

type Emit = Callable[[StepOutput], None]

_DESCRIPTORS = {"stdout": 1, "stderr": 2}

_LEVELS = LogLevels()

LONGEST_LINE = 2**20
"""Characters after which a line that does not end is handed on as far as it is."""


class Lines:
    r"""Cuts text into lines, however it comes in.

    Of a progress bar that redraws itself with carriage returns, the last state is the one to see.

    >>> lines = Lines()
    >>> lines.feed("a"), lines.feed("b\nc"), lines.feed("10%\r100%\r\n"), lines.rest()
    ([], ['ab'], ['100%'], None)
    """

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._size = 0
        self._cut = False

    def feed(self, text: str) -> list[str]:
        """Take text and return the lines that it completes."""
        *ends, rest = text.split("\n")
        lines = [line for end in ends if (line := self._end(end)) is not None]
        if rest:
            self._pieces.append(rest)
            self._size += len(rest)
        if self._size > LONGEST_LINE:
            state = self._joined("")
            if len(state) > LONGEST_LINE // 2:
                lines.append(state)
                self._cut = True
            else:  # a progress bar, most of which was drawn over
                self._pieces, self._size = [state], len(state)
        return lines

    def rest(self) -> str | None:
        """Take and return what was begun and not ended, if anything."""
        return self._joined("") if self._pieces else None

    def _end(self, text: str) -> str | None:
        line = self._joined(text)
        nothing_new = self._cut and not line
        self._cut = False
        return None if nothing_new else line

    def _joined(self, text: str) -> str:
        line = "".join([*self._pieces, text])
        self._pieces, self._size = [], 0
        return line.rstrip("\r").rpartition("\r")[2]


class LineStream(io.TextIOBase):
    """Stands in for stdout or stderr and hands on whole lines.

    They are kept apart by thread, step and item. It answers as Python's own stream does, but stays open: it is the
    stream of other steps too.

    * ``replaced``: the stream that it stands in for; None in a program that was started without it.
    * ``through``: a stream that everything is written to at once as well, for debuggers that talk with the user.
    """

    mode = "w"
    newlines = None
    line_buffering = True
    write_through = False

    def __init__(self, name: str, emit: Emit, replaced: TextIO | None, through: TextIO | None) -> None:
        super().__init__()
        self._name = name
        self._emit = emit
        self._replaced = replaced
        self._through = through
        self._begun: dict[int, tuple[tuple[str, ItemPath], Lines]] = {}
        self._is_plain = False
        self.buffer = LineBytes(self)
        watch(self)

    @property
    def name(self) -> str:
        """The name of the stream that this one stands in for.

        ``<stdout>``, for example.
        """
        return f"<{self._name}>"

    @property
    def encoding(self) -> str:  # type: ignore[override]  # typeshed has an attribute that cannot be overridden otherwise
        """The encoding of the stream that this one stands in for."""
        return getattr(self._replaced, "encoding", None) or "utf-8"

    @property
    def errors(self) -> str:  # type: ignore[override]  # as above
        """What the replaced stream does about text that it cannot encode."""
        return getattr(self._replaced, "errors", None) or ("strict" if self._name == "stdout" else "backslashreplace")

    def fileno(self) -> int:
        """Return the descriptor of the replaced stream.

        Programs that a step starts write there.
        """
        return self._replaced.fileno() if self._replaced is not None else _DESCRIPTORS[self._name]

    def isatty(self) -> bool:
        """Tell whether what is written is seen at once on a terminal.

        So it is only for a debugger.
        """
        return self._through is not None and self._through.isatty()

    def writable(self) -> bool:
        """Return True."""
        return True

    def reconfigure(
        self,
        *,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        line_buffering: bool | None = None,
        write_through: bool | None = None,
    ) -> None:
        """Leave everything as it is.

        Programs call this to set an encoding, and lines have none yet.
        """

    def detach(self) -> LineBytes:  # type: ignore[override]  # typeshed has BinaryIO, which is no class of io's
        """Return ``buffer``, for programs that put their own stream around it."""
        return self.buffer

    def close(self) -> None:
        """Write out what is held back, and stay open."""
        self.flush()

    def flush(self) -> None:
        """Write out what went to the stream that this one stands in for."""
        if self._replaced is not None and not self._replaced.closed:
            self._replaced.flush()

    def let_go(self) -> None:
        """Write to the descriptor in a process that a step forked.

        Nobody takes lines there.
        """
        self._replaced = _plain(self._name, self._replaced)
        self._through = None
        self._begun = {}  # the parent writes what it had begun
        self._is_plain = True
        if getattr(sys, self._name) is self:
            setattr(sys, self._name, self._replaced)

    def write(self, text: str) -> int:
        """Take text, and hand on whole lines at once."""
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        text = str.__str__(text)  # no subclass of str, whose methods would be the user's
        if self._is_plain and self._replaced is not None:
            return self._replaced.write(text)
        if self._through is not None:
            self._through.write(text)
            self._through.flush()
        thread, at = threading.get_ident(), place()
        begun_at, lines = self._begun.get(thread, (at, None))
        if lines is None or begun_at != at:
            self._finish(thread)
            lines = Lines()
            self._begun[thread] = at, lines
        for line in lines.feed(text):
            self._hand_on(at, line)
        return len(text)

    def finish(self) -> None:
        """Hand on lines that were begun and not ended."""
        for thread in list(self._begun):
            self._finish(thread)

    def _finish(self, thread: int) -> None:
        at, lines = self._begun.pop(thread, (("", ()), Lines()))
        rest = lines.rest()
        if rest is not None:
            self._hand_on(at, rest)

    def _hand_on(self, at: tuple[str, ItemPath], line: str) -> None:
        self._emit(StepOutput(*at, self._name, line))


class LineBytes(io.BufferedIOBase):
    """The ``buffer`` of a `LineStream`, which makes text of bytes.

    Bytes that are no UTF-8 are shown in hexadecimal. Like its stream it stays open: a wrapper that a step puts around
    it closes it when it is collected.
    """

    mode = "wb"

    def __init__(self, stream: LineStream) -> None:
        super().__init__()
        self._text = stream
        self._name = stream.name
        self._decoders: dict[int, codecs.IncrementalDecoder] = {}

    @property
    def name(self) -> str:
        """The name of the stream."""
        return self._name

    @property
    def raw(self) -> LineBytes:
        """Nothing is held back, so that it is the same object."""
        return self

    def fileno(self) -> int:
        """Return the descriptor of the stream, for programs that a step starts."""
        return self._text.fileno()

    def isatty(self) -> bool:
        """Tell what the stream tells."""
        return self._text.isatty()

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, data: Buffer) -> int:
        """Take bytes, and hand on whole lines at once."""
        content = bytes(data)
        thread = threading.get_ident()
        decoder = self._decoders.get(thread)
        if decoder is None:
            decoder = self._decoders[thread] = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        self._text.write(decoder.decode(content))
        return len(content)

    def detach(self) -> LineBytes:  # type: ignore[override]  # as above
        """Return this object, which has nothing below it."""
        return self

    def close(self) -> None:
        """Write out what is held back, and stay open."""
        self.flush()

    def flush(self) -> None:
        """Do nothing, as nothing is held back."""

    def finish(self) -> None:
        """Hand on a line that was begun and not ended."""
        self._text.finish()


class LogHandler(logging.Handler):
    """Hands on log records, where the program has not set up logging itself."""

    def __init__(self, emit: Emit, levels: LogLevels, through: TextIO | None) -> None:
        super().__init__()
        self._emit_line = emit
        self.addFilter(levels.shows)
        self._through = through
        watch(self)
        self.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))

    def let_go(self) -> None:
        """Write plainly to stderr in a process that a step forked."""
        self._through = None
        self._emit_line = _write_plainly

    def emit(self, record: logging.LogRecord) -> None:
        """Hand on one record, line by line."""
        try:
            text = self.format(record)
        except RecursionError:
            raise  # as logging's own handlers do: to print it would need the stack that is used up
        except Exception:  # what is logged may raise anything while it becomes text
            self.handleError(record)  # prints which call it was, as logging does everywhere
            return
        if self._through is not None:
            self._through.write(text + "\n")
        step_id, item = place()
        for line in text.split("\n"):
            self._emit_line(StepOutput(step_id, item, "log", line))


def _write_plainly(output: StepOutput) -> None:
    sys.stderr.write(f"{output.text}\n")


def _plain(name: str, like: TextIO | None) -> TextIO:
    """Open descriptor 1 or 2 anew, with locks of its own.

    Another thread may have held those of the old stream.
    """
    encoding, errors = (like.encoding, like.errors) if like is not None else ("utf-8", "backslashreplace")
    return open(_DESCRIPTORS[name], "w", buffering=1, encoding=encoding, errors=errors, closefd=False)


def capture_streams(emit: Emit, levels: LogLevels = _LEVELS, through: TextIO | None = None) -> Callable[[], None]:
    """Take what this process prints and logs, and return what ends that.

    Logging that the program has set up is left as it is, but written where everything goes; otherwise records of these
    levels and above are taken. ``through``: a stream that everything is written to at once as well.
    """
    replaced = (sys.stdout, sys.stderr)
    out = LineStream("stdout", emit, replaced[0], through)
    err = LineStream("stderr", emit, replaced[1], through)
    sys.stdout, sys.stderr = out, err
    root = logging.getLogger()
    inherited = [handler for handler in root.handlers if isinstance(handler, LogHandler)]
    for handler in inherited:
        root.removeHandler(handler)  # that of the process which this one was forked from
    moved = [
        (handler, handler.setStream(err))
        for handler in root.handlers
        if isinstance(handler, logging.StreamHandler)
        and (handler.stream in (*replaced, sys.__stdout__, sys.__stderr__) or isinstance(handler.stream, LineStream))
    ]
    own = None if root.handlers else LogHandler(emit, levels, through)
    level_before = root.level
    if own is not None:
        root.addHandler(own)
        if level_before == logging.WARNING and not inherited:  # nobody has chosen a level
            root.setLevel(min(levels.own, levels.libraries))

    def end() -> None:
        finish_lines()  # of what a step has put in the place of these streams, too
        out.finish()
        err.finish()
        sys.stdout, sys.stderr = replaced
        for handler, stream in moved:
            if stream is not None:
                handler.setStream(stream)
        if own is not None:
            root.removeHandler(own)
            root.setLevel(level_before)

    return end


def finish_lines() -> None:
    """Hand on lines that have no end yet.

    Where a step or a map block has ended, nothing will end them.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, LineStream):
            stream.finish()
        elif isinstance(buffer := getattr(stream, "buffer", None), LineBytes):  # a step has put its own stream around
            with suppress(OSError, ValueError):
                stream.flush()
                buffer.finish()


def flush_all() -> None:
    """Write out what Python holds back for stdout and stderr.

    Nobody may be there to take it.
    """
    for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
        if stream is not None and not stream.closed:
            with suppress(OSError):
                stream.flush()
