"""What a run shows: the same words everywhere, as lines with a fake clock, as JSON, and as bars."""

from __future__ import annotations

import io
import json
import re
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lokki.base.failures import Failure
from lokki.engine.events import (
    CodeChanged,
    Event,
    ItemFailed,
    ItemsFinished,
    MapFinished,
    MapStarted,
    RunFailed,
    RunFinished,
    RunInterrupted,
    RunStarted,
    StepFailed,
    StepFinished,
    StepOutput,
    StepRetried,
    StepSkipped,
    StepStarted,
)
from lokki.observing.report import OpReport, RunReport, fold
from lokki.progress.displays import Display, JsonLines, LiveBars, Nothing, PlainLines, Words, counts, facts, seconds
from lokki.progress.row import fit_row

FAILURE = Failure("work", "ValueError", "unlucky", "flow.py:3", "Traceback …", "Traceback …", 2)


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Shown:
    """Shows events on a display as a run does."""

    display: Display
    report: RunReport = field(default_factory=RunReport)

    def __call__(self, *events: Event) -> None:
        for event in events:
            self.report = fold(self.report, event)
            self.display.show(event, self.report)


def told_by(words: Words, *events: Event) -> list[str]:
    report = RunReport()
    lines = []
    for event in events:
        report = fold(report, event)
        line = words.line(event, report)
        lines += [] if line is None else [line]
    return lines


def plain(*events: Event) -> list[str]:
    stream = io.StringIO()
    Shown(PlainLines(stream, Clock()))(*events)
    return stream.getvalue().splitlines()


def test_every_event_has_its_line() -> None:
    assert plain(
        RunStarted("birds-flow", "monday", {}),
        RunStarted("birds-flow", "monday", {}, resumed=True),
        CodeChanged("get_birds"),
        StepSkipped("get_birds"),
        StepSkipped("get_birds.map"),
        StepStarted("get_birds"),
        StepOutput("get_birds", (), "stdout", "honk"),
        StepOutput("", (), "stderr", "from a child"),
        StepRetried("get_birds", (), 1, 0.5, FAILURE),
        StepFinished("get_birds", 12.34, 20, 3000),
        MapStarted("get_birds", ("flap", "weigh"), 3000, 0, 4),
        StepOutput("weigh", (17,), "log", "WARNING scales: heavy"),
        StepRetried("weigh", (17,), 2, 10.0, Failure("weigh", "OSError", "")),
        ItemsFinished("get_birds", 2999, 60.0),
        ItemFailed("get_birds", (5,), FAILURE),
        MapFinished("get_birds", 2999, 1, 75.0),
        StepStarted("join"),
        StepFinished("join", 0.001, 4),
        RunFinished(3700.0),
        StepFailed("join", FAILURE),
        RunFailed(1.0, "…"),
        RunInterrupted(1.0),
    ) == [
        "birds-flow: run monday started",
        "birds-flow: run monday resumed",
        "get_birds: its code has changed since it gave the results that are kept",
        "get_birds: kept from before",
        "map over get_birds: kept from before",
        "get_birds | honk",
        "from a child",
        "get_birds: try 1 failed, next in 0.5 s: ValueError: unlucky",
        "get_birds: 3,000 items in 12.3 s",
        "weigh[17] | WARNING scales: heavy",
        "weigh[17]: try 2 failed, next in 10 s: OSError",
        "work[5]: failed: ValueError: unlucky",
        "flap → weigh: 2,999 items, 1 failed in 1 min 15 s",
        "join: done in 0.00 s",
        "birds-flow: finished in 1 h 1 min",
    ]


def test_changed_code_is_told_with_the_command_that_runs_the_step_again() -> None:
    lines = told_by(
        Words("uv run birds.py run"),
        RunStarted("birds-flow", "monday", {}, resumed=True),
        CodeChanged("get_birds"),
        CodeChanged("flap", 1),
        CodeChanged("weigh", 2999),
    )
    assert lines[1:] == [
        (
            "get_birds: its code has changed since it gave the results that are kept; run it again with: "
            "uv run birds.py run --resume monday --from get_birds"
        ),
        (
            "flap: its code has changed since it gave the results that are kept of 1 item; run it again with: "
            "uv run birds.py run --resume monday --from flap"
        ),
        (
            "weigh: its code has changed since it gave the results that are kept of 2,999 items; run it again with: "
            "uv run birds.py run --resume monday --from weigh"
        ),
    ]


def test_a_run_that_keeps_going_shows_all_failures() -> None:
    failures = [ItemFailed("a", (index,), FAILURE) for index in range(50)]
    lines = told_by(Words(lines_per_map=None), MapStarted("a", ("work",), 100), *failures)
    assert lines == [f"work[{index}]: failed: ValueError: unlucky" for index in range(50)]


def test_of_very_many_failures_ten_are_shown_for_each_map_block() -> None:
    lines = plain(
        MapStarted("a", ("work",), 100),
        *(ItemFailed("a", (index,), FAILURE) for index in range(50)),
        MapStarted("b", ("work",), 100),
        *(ItemFailed("b", (index,), FAILURE) for index in range(2)),
    )
    assert lines == [
        *(f"work[{index}]: failed: ValueError: unlucky" for index in range(10)),
        "(further failed tries and items are in the run's log)",
        *(f"work[{index}]: failed: ValueError: unlucky" for index in range(2)),
    ]


def test_a_map_block_tells_its_state_every_ten_seconds() -> None:
    stream, clock = io.StringIO(), Clock(100.0)
    show = Shown(PlainLines(stream, clock))
    show(MapStarted("a", ("work",), 1000, 100, 4))
    for _ in range(60):
        clock.now += 0.5
        show(ItemsFinished("a", 5, 1.0))
    clock.now += 10
    show(ItemFailed("a", (1,), FAILURE), StepRetried("work", (2,), 1, 1.0, FAILURE), ItemsFinished("a", 498, 9.0))
    assert stream.getvalue().splitlines() == [
        "work: 200/1,000, 4 running, 10.0 items/s, 1 min 20 s left",
        "work: 300/1,000, 4 running, 10.0 items/s, 1 min 10 s left",
        "work: 400/1,000, 4 running, 10.0 items/s, 1 min 0 s left",
        "work[1]: failed: ValueError: unlucky",
        "work[2]: try 1 failed, next in 1 s: ValueError: unlucky",
        "work: 899/1,000, 4 running, 1 failed, 1 retried, 20.0 items/s, 5.06 s left",
    ]


def test_map_blocks_that_run_at_one_time_have_their_own_times_and_failures() -> None:
    stream, clock = io.StringIO(), Clock(100.0)
    show = Shown(PlainLines(stream, clock))
    show(MapStarted("a", ("work",), 1000, 0, 4))
    clock.now += 8
    show(MapStarted("b", ("weigh",), 100, 0, 2), *(ItemFailed("a", (index,), FAILURE) for index in range(9)))
    show(StepRetried("weigh", (1,), 1, 1.0, FAILURE), *(ItemFailed("a", (index,), FAILURE) for index in range(9, 12)))
    clock.now += 2
    show(ItemsFinished("a", 88, 1.0), ItemsFinished("b", 10, 1.0))
    clock.now += 8
    show(ItemsFinished("b", 10, 1.0), ItemsFinished("a", 1, 1.0), MapFinished("a", 989, 11, 20.0))
    assert stream.getvalue().splitlines() == [
        *(f"work[{index}]: failed: ValueError: unlucky" for index in range(9)),
        "weigh[1]: try 1 failed, next in 1 s: ValueError: unlucky",
        "work[9]: failed: ValueError: unlucky",
        "(further failed tries and items are in the run's log)",
        "work: 100/1,000, 4 running, 12 failed, 10.0 items/s, 1 min 30 s left",
        "weigh: 20/100, 2 running, 1 retried, 2.0 items/s, 40.0 s left",
        "work: 989 items, 11 failed in 20.0 s",
    ]


def test_bars_of_map_blocks_that_run_at_one_time_count_each_for_itself() -> None:
    text = bars(
        MapStarted("a", ("work",), 100, 0, 4),
        MapStarted("b", ("weigh",), 20, 0, 4),
        ItemsFinished("a", 60, 1.0),
        ItemsFinished("b", 20, 1.0),
        MapFinished("b", 20, 0, 2.0),
        ItemFailed("a", (1,), FAILURE),
        ItemsFinished("a", 39, 1.0),
        MapFinished("a", 99, 1, 10.0),
    )
    assert [line.rstrip() for line in re.sub(" +", " ", re.sub("━+", "━", text)).splitlines()] == [
        "work[1]: failed: ValueError: unlucky",
        "✓ work ━ 100/100, 1 failed, 10.0 items/s 0:00:00",
        "✓ weigh ━ 20/20, 10.0 items/s 0:00:00",
    ]


def test_json_lines_hold_all_of_each_event_and_its_time() -> None:
    stream = io.StringIO()
    start = datetime(2026, 11, 22, 14, 25, tzinfo=UTC)
    times = (start + timedelta(milliseconds=number) for number in range(9))
    Shown(JsonLines(stream, lambda: next(times)))(
        RunStarted("birds-flow", "monday", {"limit": 3}, False, "x"),
        StepOutput("weigh", (17,), "log", "lone \udc80 half, ünïcode"),
        ItemFailed("get_birds", (5,), FAILURE),
    )
    assert [json.loads(line) for line in stream.getvalue().splitlines()] == [
        {
            "time": "2026-11-22T14:25:00.000+00:00",
            "event": "run_started",
            "flow": "birds-flow",
            "run_id": "monday",
            "params": {"limit": 3},
            "resumed": False,
            "folder": "x",
        },
        {
            "time": "2026-11-22T14:25:00.001+00:00",
            "event": "step_output",
            "id": "weigh",
            "index": 17,
            "stream": "log",
            "text": "lone \udc80 half, ünïcode",
        },
        {
            "time": "2026-11-22T14:25:00.002+00:00",
            "event": "item_failed",
            "id": "get_birds",
            "index": 5,
            "failure": {
                "step": "work",
                "error": "ValueError",
                "message": "unlucky",
                "where": "flow.py:3",
                "traceback": "Traceback …",
                "full_traceback": "Traceback …",
                "attempts": 2,
            },
        },
    ]


def test_quiet_shows_nothing() -> None:
    display = Nothing()
    Shown(display)(RunStarted("f", "r", {}), RunFailed(1.0, "no"))
    display.close()


def bars(*events: Event) -> str:
    """Return what is on the terminal after the last drawing, without colours; lines above the bars come first."""
    stream = io.StringIO()
    display = LiveBars(stream)
    Shown(display)(*events)
    display.close()
    return stream.getvalue()


def test_bars_end_with_the_counts_of_each_map_block_and_a_line_for_each_step() -> None:
    text = bars(
        RunStarted("birds-flow", "monday", {}),
        StepStarted("get_birds"),
        StepFinished("get_birds", 1.0, 20, 2000),
        MapStarted("get_birds", ("flap", "weigh"), 2000, 0, 4),
        ItemFailed("get_birds", (1,), FAILURE),
        StepRetried("weigh", (17,), 2, 10.0, FAILURE),
        ItemsFinished("get_birds", 1999, 60.0),
        MapFinished("get_birds", 1999, 1, 20.0),
        StepStarted("join"),
        StepFinished("join", 1.0, 20),
    )
    assert [line.rstrip() for line in re.sub(" +", " ", re.sub("━+", "━", text)).splitlines()] == [
        "birds-flow: run monday started",
        "work[1]: failed: ValueError: unlucky",
        "weigh[17]: try 2 failed, next in 10 s: ValueError: unlucky",
        "✓ get_birds ━ 2,000 items 0:00:00",
        "✓ flap → weigh ━ 2,000/2,000, 1 failed, 1 retried, 100 items/s 0:00:00",
        "✓ join ━ 0:00:00",
    ]


@given(
    title=st.text("abc→ ", min_size=1, max_size=60).filter(str.strip),
    items=st.integers(1, 10**9),
    failed=st.integers(0, 10**6),
    retried=st.integers(0, 10**6),
    workers=st.integers(1, 64),
    width=st.integers(40, 200),
)
def test_a_row_fits_its_terminal_and_keeps_the_count_and_the_time_left(
    title: str, items: int, failed: int, retried: int, workers: int, width: int
) -> None:
    done = items // 2
    op = OpReport("a.map", (title,), items=items, finished=done, failed=failed, retried=retried, workers=workers)
    row = fit_row(title, facts(op, 3.0), "0:00:12", width)
    assert row.width <= width
    assert row.time == "0:00:12"
    assert row.text.startswith(f"{done + failed:,}/{items:,}")
    if width >= 60 + 1 + 5 + 1 + len(counts(op, 3.0)) + 1 + 7:
        assert (row.title, row.text) == (title, counts(op, 3.0))


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_bars_keep_count_and_time_left_on_a_narrow_terminal(columns: int) -> None:
    stream = io.StringIO()
    display = LiveBars(stream, width=columns)
    show = Shown(display)
    show(MapStarted("get_birds", ("flap_with_both_wings", "weigh_on_the_scales"), 100_000, 0, 32))
    show(ItemsFinished("get_birds", 50_000, 2.0), ItemFailed("get_birds", (1,), FAILURE))
    display.close()
    drawn = [line.rstrip() for line in stream.getvalue().splitlines() if "/100,000" in line]
    assert drawn
    for line in drawn:
        assert len(line) <= columns
        assert re.search(r" 50,001/100,000.* (\d:\d\d:\d\d|-:--:--)$", line)


def test_bars_show_how_a_failed_run_stood() -> None:
    text = bars(
        MapStarted("a", ("work",), 9, 3, 4), ItemFailed("a", (1,), FAILURE), StepStarted("b"), RunInterrupted(1.0)
    )
    assert "4/9, 1 failed" in text
    assert re.findall("(?:, | )interrupted", text) == [", interrupted", " interrupted"]
    assert "running" not in text


def test_bars_of_a_map_block_without_items_are_full() -> None:
    assert "✓ work" in bars(MapStarted("a", ("work",), 0), MapFinished("a", 0, 0, 0.1))


def test_what_steps_print_is_shown_above_the_bars_as_it_is() -> None:
    lines = [":smile: [bold]not markup[/bold]", "x" * 500, "\udc80"]
    text = bars(StepStarted("a"), *(StepOutput("a", (), "stdout", line) for line in lines))
    assert text.splitlines()[:3] == [f"a | {line}" for line in lines]


def test_bars_do_not_hold_up_a_step_that_prints_much() -> None:
    display = LiveBars(io.StringIO())
    show = Shown(display)
    show(StepStarted("a"))
    began = time.perf_counter()
    show(*(StepOutput("a", (), "stdout", f"line {number}") for number in range(10_000)))
    took = time.perf_counter() - began
    display.close()
    assert took < 2.0  # drawing for each line took 10 seconds


def test_durations_are_told_in_the_units_that_fit() -> None:
    assert [seconds(value) for value in (0, 9.994, 10, 59.94, 60, 3599, 3600, 90000)] == [
        "0.00 s",
        "9.99 s",
        "10.0 s",
        "59.9 s",
        "1 min 0 s",
        "59 min 59 s",
        "1 h 0 min",
        "25 h 0 min",
    ]
