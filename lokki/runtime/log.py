"""The handler's log, which has one JSON line for each event.

Starts, ends, retries and failures have lines, and none has a value of the user's.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TextIO

import msgspec

from lokki.base.values import Json

_LEVELS = {"DEBUG": 10, "INFO": 20, "WARNING": 30, "ERROR": 40, "CRITICAL": 50}


class Log:
    """Writes JSON lines of at least a level.

    Each has the fields that tell which flow, run and step it is of.
    """

    def __init__(self, fields: Mapping[str, Json], level: str = "INFO", stream: TextIO | None = None) -> None:
        self._fields = dict(fields)
        self._level = _LEVELS.get(level.upper(), 20)
        self._stream = stream

    def about(self, **fields: Json) -> Log:
        """Return a log whose lines have further fields.

        Fields that are None are left out.
        """
        log = Log(self._fields | {name: value for name, value in fields.items() if value is not None})
        log._level, log._stream = self._level, self._stream
        return log

    def write(self, level: str, event: str, **fields: Json) -> None:
        """Write a line.

        The stream is looked up now, since Lambda's runtime replaces stdout before it calls a handler.
        """
        if _LEVELS[level] >= self._level:
            present = {name: value for name, value in fields.items() if value is not None}
            line = {"level": level, "event": event, **self._fields, **present}
            print(msgspec.json.encode(line).decode(), file=self._stream or sys.stdout, flush=True)
