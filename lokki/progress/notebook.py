"""What a run shows below the cell of a notebook."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Protocol

from lokki.engine.events import Event, ItemsFinished, MapStarted, StepOutput
from lokki.observing.report import RunReport, map_op
from lokki.progress.displays import Words, state

DRAWN_SECONDS = 0.2
"""How often the lines are drawn anew while a map block runs."""


def in_notebook() -> bool:
    """Tell whether this program is the kernel of a notebook."""
    ipython = sys.modules.get("IPython")  # without it, this is none
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


class _Handle(Protocol):
    """What IPython tells of its `DisplayHandle` in words alone."""

    def display(self, obj: object, **options: object) -> object:
        """Draw something."""

    def update(self, obj: object, **options: object) -> object:
        """Draw something in its place."""


def cell_output() -> Callable[[str], None]:
    """Return what draws text below the current cell.

    Each text takes the place of the one before.
    """
    # Only in a notebook, which has it.
    from IPython.display import DisplayHandle

    handle: _Handle = DisplayHandle()  # type: ignore[no-untyped-call]
    handle.display({"text/plain": ""}, raw=True)

    def draw(text: str) -> None:
        handle.update({"text/plain": text}, raw=True)

    return draw


class NotebookLines:
    """Shows what happened in lines, and how far map blocks are."""

    def __init__(self, draw: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._draw = draw
        self._clock = clock
        self._words = Words()
        self._lines: list[str] = []
        self._began: dict[str, float] = {}
        self._drawn = clock()

    def show(self, event: Event, report: RunReport) -> None:
        """Draw anew what there is to see after an event."""
        now = self._clock()
        line = self._words.line(event, report)
        match event:
            case StepOutput():  # what worker processes print joins what this one prints
                print(line, file=sys.stdout if event.stream == "stdout" else sys.stderr)
            case ItemsFinished():
                if now - self._drawn >= DRAWN_SECONDS:
                    began = self._began.items()
                    blocks = [(op, begin) for op_id, begin in began if (op := report.ops[op_id]).status == "running"]
                    self._draw_lines(now, *(state(op, now - begin) for op, begin in blocks))
            case MapStarted():
                self._began[map_op(report, event.id).id] = now
            case _ if line is not None:
                self._lines.append(line)
                self._draw_lines(now)

    def _draw_lines(self, now: float, *more: str) -> None:
        self._drawn = now
        self._draw("\n".join([*self._lines, *more]))

    def close(self) -> None:
        """Do nothing, since each line is drawn at once."""
