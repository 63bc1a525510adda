"""Lines that Lambda and its runtime write as JSON, as they write them where the log format is text.

https://docs.aws.amazon.com/lambda/latest/dg/monitoring-cloudwatchlogs-logformat.html
"""

from __future__ import annotations

import msgspec


class _Metrics(
    msgspec.Struct, rename={"seconds": "durationMs", "billed": "billedDurationMs", "memory": "memorySizeMB"}
):
    seconds: float = 0.0
    billed: float = 0.0
    memory: int = 0


class _Record(msgspec.Struct, rename={"request": "requestId"}):
    """What a line of the platform tells of an invocation."""

    request: str = ""
    status: str = "success"
    metrics: _Metrics = msgspec.field(default_factory=_Metrics)


class _Line(msgspec.Struct, rename={"request": "requestId", "trace": "stackTrace", "error": "errorType"}):
    """A line of the platform, which has a type, or one of Python's logging."""

    type: str = ""
    record: _Record = msgspec.field(default_factory=_Record)
    timestamp: str = ""
    level: str = ""
    request: str = ""
    message: object = None
    error: str = ""
    errorMessage: str = ""  # noqa: N815  as the runtime names it
    trace: list[str] = msgspec.field(default_factory=list)


_DECODER = msgspec.json.Decoder(_Line)

_PLATFORM_WORDS = {"platform.initStart": "INIT_START", "platform.start": "START", "platform.report": "REPORT"}
"""How a line of the platform begins as text, by its type as JSON; others tell of nothing that is shown.
https://docs.aws.amazon.com/lambda/latest/dg/telemetry-schema-reference.html"""


def text_of_line(text: str) -> str:
    """Return a line as it is in text format.

    What is no JSON of Lambda's is returned as it is, and so is what users write as JSON.
    """
    if not text.startswith("{"):
        return text
    try:
        line = _DECODER.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return text
    if line.type.startswith("platform."):
        return _platform_text(line)
    is_logged = line.timestamp and line.level and line.request and (line.message is not None or line.error)
    return _logged_text(line) if is_logged else text


def _platform_text(line: _Line) -> str:
    word = _PLATFORM_WORDS.get(line.type, "TELEMETRY")
    record = line.record
    if word != "REPORT":
        return f"{word} RequestId: {record.request}"
    times = f"Duration: {record.metrics.seconds:.2f} ms\tBilled Duration: {record.metrics.billed:g} ms"
    memory = f"\tMemory Size: {record.metrics.memory} MB" if record.metrics.memory else ""
    return f"REPORT RequestId: {record.request}\t{times}{memory}\tStatus: {record.status}"


def _logged_text(line: _Line) -> str:
    """Return what a logger wrote, or an error that the runtime tells."""
    message = line.message
    shown = message if isinstance(message, str) else "" if message is None else msgspec.json.encode(message).decode()
    error = f"{line.error}: {line.errorMessage}" if line.error else ""
    frames = [frame.rstrip("\n") for frame in line.trace]
    return "\n".join(
        [
            f"[{line.level}]\t{line.timestamp}\t{line.request}\t{shown or error}",
            *(["Traceback (most recent call last):", *frames] if frames else []),
            *([error] if shown and error else []),
        ]
    )
