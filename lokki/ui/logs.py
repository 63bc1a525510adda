"""Parts of the log of a run on this machine, read without the rest of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lokki.base.item_path import ItemPath
from lokki.errors import StoreError
from lokki.results.items import LogLine
from lokki.results.log import log_line

LINES = 500
"""How many lines a page shows."""

_BLOCK = 2**18
_MOST = 2**26
"""Bytes that are read for one page: lines of one item may be few among very many."""


@dataclass(frozen=True, slots=True)
class LogChoice:
    """Which lines of a log are shown.

    * ``steps``: of these alone; empty for all. ``item``: of this one alone, ``()`` for all.
    * ``before``: lines that stand before this place of the log; None for the last ones.
    """

    steps: Collection[str] = ()
    item: ItemPath = ()
    before: int | None = None

    def has(self, line: LogLine) -> bool:
        """Tell whether a line is shown."""
        return (not self.steps or line.step in self.steps) and (not self.item or line.item == self.item)


@dataclass(frozen=True, slots=True)
class LogPart:
    """Some lines of a log, in order.

    ``earlier``: the place before which to go on; None where nothing is before.
    """

    lines: list[LogLine]
    earlier: int | None = None


def log_part(path: Path, choice: LogChoice) -> LogPart:
    """Read the last lines of a log that are chosen.

    None for a run that kept no log. Raises StoreError for a log that cannot be read.
    """
    lines: deque[LogLine] = deque()
    start = end = 0
    try:
        end = path.stat().st_size if choice.before is None else min(choice.before, path.stat().st_size)
        start = end
        for start, text in _lines_backwards(path, end):
            line = log_line(text)
            if line is not None and choice.has(line):
                lines.appendleft(line)
            if len(lines) >= LINES or end - start >= _MOST:
                break
    except FileNotFoundError:
        return LogPart([])
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}.") from error
    return LogPart(list(lines), start or None)


def last_lines(lines: Iterable[LogLine], choice: LogChoice) -> LogPart:
    """Return the last lines that are chosen.

    ``lines``: a log that can only be read from its start.
    """
    return LogPart(list(deque(filter(choice.has, lines), maxlen=LINES)))


def _lines_backwards(path: Path, end: int) -> Iterator[tuple[int, bytes]]:
    """Yield the whole lines before a place, the last first.

    Each with where it begins.
    """
    with path.open("rb") as file:
        rest = b""  # of a line whose start was not read yet
        while end > 0:
            start = max(0, end - _BLOCK)
            file.seek(start)
            block = file.read(end - start) + rest
            lines = block.splitlines(keepends=True)
            rest = lines.pop(0) if start else b""
            place = start + len(block)
            for line in reversed(lines):
                place -= len(line)
                yield place, line
            end = start
