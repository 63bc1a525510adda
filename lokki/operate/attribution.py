"""Which run, step and item a line of a function's log belongs to. A pure fold over the lines of each log stream.

One execution environment writes to one stream, one invocation at a time
(https://docs.aws.amazon.com/lambda/latest/operatorguide/log-structure.html). What user code prints carries no run id:
it belongs to the invocation whose lines surround it, and that to the run that lokki's own JSON lines in it name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import msgspec

from lokki.base.item_path import ItemPath, item_from_json
from lokki.operate.json_logs import text_of_line

HELD = 1000
"""Lines of an invocation that wait to learn which run it is; the first line of lokki's comes before the user's code."""

_PLATFORM = re.compile(r"(START|END|REPORT|INIT_START|INIT_REPORT|EXTENSION|TELEMETRY|XRAY|RESTORE_\w+)\b")
_START = re.compile(r"START RequestId: (\S+)")
_END = re.compile(r"END RequestId: ")
_REQUEST = re.compile(r"(?:RequestId: (\S+) Error: |\S+Z (\S+) )(Task timed out|Runtime )")
_FAILED = re.compile(r"Status: (?!success)\w+")


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """One event of a log stream.

    ``time``: milliseconds since 1970.
    """

    time: int
    stream: str
    text: str


@dataclass(frozen=True, slots=True)
class Subject:
    """What a line is about."""

    run: str
    call: str
    item: ItemPath = ()


@dataclass(frozen=True, slots=True)
class AttributedLine:
    """A line of a log that is shown, and what it is about."""

    time: int
    subject: Subject
    text: str


@dataclass(frozen=True, slots=True)
class _Stream:
    """What is known of a log stream so far.

    The invocation that runs, what it is about, and lines that wait to learn that.
    """

    request: str = ""
    subject: Subject | None = None
    is_open: bool = False
    held: tuple[StreamEvent, ...] = ()


@dataclass(slots=True)
class Attribution:
    """Attributes lines, taken one after another.

    The lines of each stream come in its order, streams in any.
    """

    _streams: dict[str, _Stream] = field(default_factory=dict)

    def subject_of(self, stream: str) -> Subject | None:
        """Return what the latest invocation in a stream is about, if known."""
        return self._streams.get(stream, _Stream()).subject

    def take(self, entry: StreamEvent) -> Iterator[AttributedLine]:
        """Take a line, and yield the lines that are attributed by it."""
        stream = self._streams.get(entry.stream, _Stream())
        text = text_of_line(entry.text.strip("\r\n"))
        entry = replace(entry, text=text)
        if _PLATFORM.match(text):
            lines = _failures(stream, entry, text)
            self._streams[entry.stream] = _on_platform_line(stream, text)
            yield from lines
            return
        if (failed := _REQUEST.match(text)) is not None:
            if stream.subject is not None and stream.request in ("", *failed.groups()):
                yield from _lines(entry, stream.subject)
            return
        own = own_line(text)
        if own is not None:
            subject = _subject_of(own)
            inside = subject if own.get("event") == "start" else replace(subject, item=())
            if stream.subject is not None and stream.subject.run == subject.run and own.get("event") != "start":
                inside = stream.subject  # a batch's line of one item says nothing of those after it
            attributed = replace(stream, subject=inside, is_open=True, held=())
            self._streams[entry.stream] = attributed
            for held in stream.held:
                yield from _lines(held, inside)
            words = _in_words(own)
            if words:
                yield AttributedLine(entry.time, subject, words)
            return
        if stream.is_open and stream.subject is not None:
            yield from _lines(entry, stream.subject)
        elif stream.is_open and len(stream.held) < HELD:
            self._streams[entry.stream] = replace(stream, held=(*stream.held, entry))


def own_line(text: str) -> dict[str, object] | None:
    """Return the fields of a line that lokki's handler wrote about a run.

    None for any other line.
    """
    # In JSON format Lambda may put a timestamp before the fields.
    if not text.startswith("{") or '"event":' not in text:
        return None
    try:
        line = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return None
    return line if isinstance(line, dict) and {"event", "flow", "step", "run"} <= line.keys() else None


def _on_platform_line(stream: _Stream, text: str) -> _Stream:
    if text.startswith("INIT_START"):
        return _Stream(is_open=True)
    if (started := _START.match(text)) is not None:
        # What is printed while the function is loaded belongs to the invocation that it is loaded for.
        return _Stream(started[1], None, is_open=True, held=stream.held if stream.request == "" else ())
    return replace(stream, is_open=False, held=()) if _END.match(text) else stream


def _failures(stream: _Stream, entry: StreamEvent, text: str) -> Iterator[AttributedLine]:
    """Yield a platform's line that tells of a failure.

    That is a REPORT with a status other than success.
    """
    if text.startswith("REPORT") and _FAILED.search(text) and stream.subject is not None and stream.request in text:
        yield AttributedLine(entry.time, stream.subject, " ".join(text.split()))


def _lines(entry: StreamEvent, subject: Subject) -> Iterator[AttributedLine]:
    """Yield the lines of an event.

    A traceback of Lambda's runtime is one event with carriage returns in it.
    """
    for text in re.split(r"\r\n|\r|\n", entry.text.strip("\r\n")):
        yield AttributedLine(entry.time, subject, text.replace("\u00a0", " ").rstrip())


def _subject_of(own: dict[str, object]) -> Subject:
    return Subject(str(own["run"]), str(own.get("call") or own["step"]), item_from_json(own.get("item")))


def _in_words(own: dict[str, object]) -> str:
    """Say in words what a line of lokki's tells.

    Start and end of an invocation are not worth a line.
    """
    place = f" at {own['where']}" if own.get("where") else ""
    match own.get("event"):
        case "retry":
            return f"will be tried again in {own.get('wait')} s: {own.get('error')}{place}"
        case "item failure" | "failure":
            return f"failed: {own.get('error')}{place}"
        case _:
            return ""
