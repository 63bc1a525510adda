"""Rows of progress bars as rich draws them.

This is imported where there is a terminal only, since rich takes long to import.
"""

from __future__ import annotations

from rich.console import Console
from rich.progress import ProgressColumn, Task, TimeRemainingColumn
from rich.text import Text

from lokki.progress.row import Fact, fit_row

_SPINNER = 2
"""Characters of the spinner and the space behind it."""


class RowColumn(ProgressColumn):
    """Draws all of a row but its spinner, fitted to the terminal."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console
        self._title_width = 0
        self._time = TimeRemainingColumn(elapsed_when_finished=True)

    def render(self, task: Task) -> Text:
        """Draw the row of a task.

        Its field ``facts`` has what stands behind the bar.
        """
        facts: tuple[Fact, ...] = task.fields["facts"]
        time = self._time.render(task)
        self._title_width = max(self._title_width, len(task.description))
        row = fit_row(task.description.ljust(self._title_width), facts, time.plain, self._console.width - _SPINNER)
        filled = row.bar if task.total is None else int(row.bar * min(1.0, task.completed / (task.total or 1)))
        style = "bar.finished" if task.finished else "bar.pulse" if task.total is None else "bar.complete"
        bar = Text.assemble(("━" * filled, style), ("━" * (row.bar - filled), "bar.back"))
        pieces = [Text(row.title), bar, Text(row.text), Text(row.time, time.style)]
        return Text(" ").join(piece for piece in pieces if piece.plain)
