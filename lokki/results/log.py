"""The log of a run on this machine, from the events that the command line keeps in the run's folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from lokki.base.item_path import item_from_json
from lokki.errors import StoreError
from lokki.local_run.folder import LOG
from lokki.results.items import LogLine


def log_lines(folder: Path) -> Iterator[LogLine]:
    """Yield what was printed and logged, and what failed.

    Nothing for a run that kept no log.
    """
    path = folder / LOG
    try:
        with path.open("rb") as lines:
            yield from filter(None, map(log_line, lines))
    except FileNotFoundError:
        return
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}. Start a new run.") from error


def log_line(line: bytes) -> LogLine | None:
    """Read a line of the log, None for an event that says nothing there."""
    event = _event(line)
    time, step, kind = str(event.get("time", "")), str(event.get("id", "")), event.get("event")
    item = item_from_json(event.get("index"))
    if kind == "step_output":
        return LogLine(time, step, item, str(event.get("text", "")))
    failure = event.get("failure")
    if kind in ("step_retried", "step_failed", "item_failed") and isinstance(failure, dict):
        words = "will be tried again" if kind == "step_retried" else "failed"
        message = f"{words}: {failure.get('error')}: {failure.get('message')}"
        return LogLine(time, str(failure.get("step", step)), item, message)
    return None


def _event(line: bytes) -> dict[str, object]:
    """Read a line of the log as an event.

    One that is damaged, or was being written when the run was killed, says nothing.
    """
    try:
        event: object = msgspec.json.decode(line)
    except (ValueError, RecursionError):  # msgspec's errors are ValueErrors
        return {}
    return event if isinstance(event, dict) else {}
