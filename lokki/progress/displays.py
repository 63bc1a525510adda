"""What a run shows on the terminal, as live bars, plain lines or JSON.

Each display gets events, and the report so far.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol, TextIO

import msgspec

from lokki.base.item_path import item_name
from lokki.base.values import Json
from lokki.engine.events import (
    CodeChanged,
    Event,
    ItemFailed,
    ItemsFailed,
    ItemsFinished,
    MapFinished,
    MapStarted,
    RunFailed,
    RunFinished,
    RunInterrupted,
    RunStarted,
    StepFinished,
    StepNotChosen,
    StepOutput,
    StepRetried,
    StepSkipped,
    StepStarted,
    event_to_json,
)
from lokki.observing.report import OpReport, RunReport, map_op
from lokki.plans.operations import MAP
from lokki.progress.row import Fact

if TYPE_CHECKING:
    from rich.progress import TaskID

LINES_PER_MAP = 10
"""How many failed items and retries of a map block are shown one by one; all of them are in the run's log."""

PLAIN_SECONDS = 10.0
"""How often a map block's state is shown where nothing can be redrawn."""


DRAW_SECONDS = 0.1
"""How often live bars are drawn."""


class Display(Protocol):
    """Shows a run."""

    def show(self, event: Event, report: RunReport) -> None:
        """Show an event, which ``report`` has folded in."""

    def close(self) -> None:
        """Leave the terminal in order."""


class Nothing:
    """Shows nothing."""

    def show(self, event: Event, report: RunReport) -> None:
        """Show nothing."""

    def close(self) -> None:
        """Do nothing."""


class JsonLines:
    """Writes each event and its time as JSON, for programs that read logs."""

    def __init__(self, stream: TextIO, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._stream = stream
        self._now = now

    def show(self, event: Event, report: RunReport) -> None:
        """Write an event."""
        self.write(event_to_json(event))

    def write(self, fields: Mapping[str, Json]) -> None:
        """Write a line of these fields and the time."""
        line = {"time": self._now().isoformat(timespec="milliseconds"), **fields}
        try:
            text = msgspec.json.encode(line).decode()
        except UnicodeEncodeError:
            text = json.dumps(line)  # escapes halves of surrogate pairs, which no UTF-8 could hold
        self._stream.write(text + "\n")
        self._stream.flush()

    def close(self) -> None:
        """Do nothing, since each line is written at once."""


class PlainLines:
    """Writes a line for each thing that happened.

    While a map block runs, one every 10 seconds says how far it is.
    """

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic, words: Words | None = None) -> None:
        self._stream = stream
        self._clock = clock
        self._words = words or Words()
        # By map block: those of branches run at one time.
        self._began: dict[str, float] = {}
        self._shown: dict[str, float] = {}

    def show(self, event: Event, report: RunReport) -> None:
        """Write the line for an event, if it has one."""
        now = self._clock()
        if isinstance(event, MapStarted):
            self._began[event.id] = self._shown[event.id] = now
        text = self._words.line(event, report)
        if isinstance(event, ItemsFinished) and now - self._shown.setdefault(event.id, now) >= PLAIN_SECONDS:
            self._shown[event.id] = now
            text = state(map_op(report, event.id), now - self._began.setdefault(event.id, now))
        if text is not None:
            self._stream.write(text + "\n")
            self._stream.flush()

    def close(self) -> None:
        """Do nothing, since each line is written at once."""


class LiveBars:
    """Draws a bar for each map block and a line for each step.

    What steps print passes above them. The terminal is drawn ten times a second by a thread of its own, so that no
    worker waits for it. ``width``: the columns to draw in, default those of the terminal.
    """

    def __init__(self, stream: TextIO, words: Words | None = None, width: int | None = None) -> None:
        # rich takes a tenth of a second to import, which only a terminal needs.
        from rich.console import Console
        from rich.progress import Progress, SpinnerColumn
        from rich.segment import Segment, Segments

        # It needs rich.
        from lokki.progress.bars import RowColumn

        self._segment, self._segments = Segment, Segments
        self._console = Console(file=stream, width=width, emoji=False, markup=False, highlight=False)
        self._progress = Progress(
            SpinnerColumn(finished_text="[green]✓"),
            RowColumn(self._console),
            console=self._console,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._tasks: dict[str, TaskID] = {}
        self._words = words or Words()
        self._began: dict[str, float] = {}
        self._lock = threading.Lock()
        self._lines: list[str] = []
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def show(self, event: Event, report: RunReport) -> None:
        """Move the bars, and keep lines above them for the next drawing."""
        match event:
            case StepStarted(step_id):
                self._tasks[step_id] = self._progress.add_task(step_id, total=None, facts=())
            case StepFinished(step_id):
                said = () if event.items is None else (Fact(f"{event.items:,} items"),)
                self._progress.update(self._task(step_id), total=1, completed=1, facts=said)
            case MapStarted(step_id):
                self._add_bar(map_op(report, step_id), event)
            case ItemsFinished(step_id) | ItemFailed(step_id) | ItemsFailed(step_id) | MapFinished(step_id):
                self._move(map_op(report, step_id))
            case StepRetried() | RunFailed() | RunInterrupted():
                for op in report.ops.values():
                    if op.status not in ("finished", "restored", "skipped"):
                        self._move(op)
        line = self._words.line(event, report)
        if line is not None and not isinstance(event, StepFinished | MapFinished):
            with self._lock:
                self._lines.append(line)
        if self._thread is None:
            self._progress.start()
            self._thread = threading.Thread(target=self._draw_again, name="lokki-bars", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Leave the bars as they are and give the terminal back."""
        self._stop.set()
        if self._thread is not None:
            # A signal in start() leaves a thread that is not known to be started. It ends at once when it begins.
            with suppress(RuntimeError):
                self._thread.join()
        try:
            self._draw()
        finally:
            self._progress.stop()
            self._console.show_cursor(True)

    def _draw_again(self) -> None:
        try:
            while not self._stop.wait(DRAW_SECONDS):
                self._draw()
        except OSError:
            return  # the terminal has gone; the run goes on

    def _draw(self) -> None:
        with self._lock:
            lines, self._lines = self._lines, []
        if lines:
            # As one segment: rich would take half a millisecond to lay out each line.
            self._console.print(self._segments([self._segment("\n".join([*lines, ""]))]), soft_wrap=True)
        if self._thread is not None:
            self._progress.refresh()

    def _add_bar(self, op: OpReport, event: MapStarted) -> None:
        self._began[op.id] = time.monotonic()
        # A map block of no items is full at once.
        total, completed = (event.items, event.finished) if event.items else (1, 1)
        self._tasks[op.id] = self._progress.add_task(op.title, total=total, facts=())
        self._progress.update(self._tasks[op.id], completed=completed)

    def _task(self, op_id: str) -> TaskID:
        if op_id not in self._tasks:
            self._tasks[op_id] = self._progress.add_task(op_id, total=None, facts=())
        return self._tasks[op_id]

    def _move(self, op: OpReport) -> None:
        is_over = op.status in ("failed", "interrupted")
        if op.items and op.is_map:
            now = time.monotonic()
            elapsed = op.seconds if op.status == "finished" else now - self._began.setdefault(op.id, now)
            said = (*facts(op, elapsed), *([Fact(op.status)] if is_over else []))
            self._progress.update(self._task(op.id), completed=op.finished + op.failed, facts=said)
        elif is_over:
            self._progress.update(self._task(op.id), facts=(Fact(op.status),))


class Words:
    """The lines for events, the same wherever they are shown.

    * ``command``: how the command that runs the flow is called, for hints; empty where that is not known.
    * ``lines_per_map``: how many failures of one map block get a line; None for all.
    """

    def __init__(self, command: str = "", lines_per_map: int | None = LINES_PER_MAP) -> None:
        self._command = command
        self._lines_per_map = lines_per_map
        self._shown: Counter[str] = Counter()

    def line(self, event: Event, report: RunReport) -> str | None:
        """Return the line for an event, or None when it has none."""
        match event:
            case RunStarted():
                return f"{event.flow}: run {event.run_id} {'resumed' if event.resumed else 'started'}"
            case RunFinished():
                return f"{report.flow}: finished in {seconds(event.seconds)}"
            case StepSkipped():
                source = event.id.removesuffix(MAP)
                return f"{source if source == event.id else f'map over {source}'}: kept from before"
            case StepNotChosen():
                return f"{event.id}: skipped"
            case CodeChanged():
                return self._changed(event, report)
            case StepFinished():
                items = "done" if event.items is None else f"{event.items:,} items"
                return f"{event.id}: {items} in {seconds(event.seconds)}"
            case MapStarted():
                self._shown[map_op(report, event.id).id] = 0
                return None
            case MapFinished():
                op = map_op(report, event.id)
                failed = f", {event.failed:,} failed" if event.failed else ""
                return f"{op.title}: {event.succeeded:,} items{failed} in {seconds(event.seconds)}"
            case StepOutput():
                return f"{item_name(event.id, event.item)} | {event.text}" if event.id else event.text
            case StepRetried() | ItemFailed():
                return self._trouble(event, report)
            case _:
                return None

    def _trouble(self, event: StepRetried | ItemFailed, report: RunReport) -> str | None:
        failure = event.failure
        what = failure.summary
        if isinstance(event, StepRetried):
            text = f"{item_name(event.id, event.item)}: try {event.attempt} failed, next in {event.wait:g} s: {what}"
        else:
            text = f"{item_name(failure.step, event.item)}: failed: {what}"
        most = self._lines_per_map
        block = map_op(report, event.id).id if isinstance(event, ItemFailed) else _block_of(event.id, report)
        if not block or most is None:
            return text
        self._shown[block] += 1
        if self._shown[block] < most:
            return text
        return f"{text}\n(further failed tries and items are in the run's log)" if self._shown[block] == most else None

    def _changed(self, event: CodeChanged, report: RunReport) -> str:
        text = f"{event.step}: its code has changed since it gave the results that are kept"
        if event.items is not None:
            text += f" of {event.items:,} {'item' if event.items == 1 else 'items'}"
        command = f"{self._command} --resume {report.run_id} --from {event.step}"
        return f"{text}; run it again with: {command}" if self._command else text


def _block_of(step_id: str, report: RunReport) -> str:
    """Return the id of the map block that a step is in."""
    return next((op.id for op in report.ops.values() if op.is_map and step_id in op.steps), "")


def seconds(value: float) -> str:
    """Write a duration.

    >>> seconds(0.004), seconds(12.3), seconds(75), seconds(3700)
    ('0.00 s', '12.3 s', '1 min 15 s', '1 h 1 min')
    """
    if value < 60:
        return f"{value:.2f} s" if value < 10 else f"{value:.1f} s"
    minutes, rest = divmod(int(value), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def facts(op: OpReport, elapsed: float) -> tuple[Fact, ...]:
    """Return the facts of how far a map block is.

    Such as ``40/100``, ``6 running``, ``1 failed``, ``2 retried``, ``12.5 items/s``.
    """
    done = op.finished + op.failed
    said = [Fact(f"{done:,}/{op.items or 0:,}")]
    running = min(op.workers, (op.items or 0) - done)
    if running > 0 and op.status == "running":
        said.append(Fact(f"{running} running", 4))
    if op.failed:
        said.append(Fact(f"{op.failed:,} failed", 1))
    if op.retried:
        said.append(Fact(f"{op.retried:,} retried", 3))
    rate = (done - op.restored) / elapsed if elapsed > 0 else 0.0
    if rate:
        said.append(Fact(f"{rate:,.1f} items/s" if rate < 100 else f"{rate:,.0f} items/s", 2))
    return tuple(said)


def counts(op: OpReport, elapsed: float) -> str:
    """Say how far a map block is.

    Such as ``40/100, 6 running, 1 failed, 2 retried, 12.5 items/s``.
    """
    return ", ".join(fact.text for fact in facts(op, elapsed))


def state(op: OpReport, elapsed: float) -> str:
    """Say how far a map block is, and how long it will take."""
    done = op.finished + op.failed - op.restored
    left = ((op.items or 0) - op.finished - op.failed) * elapsed / done if done else None
    return f"{op.title}: {counts(op, elapsed)}" + (f", {seconds(left)} left" if left else "")
