"""Lines of functions' logs are attributed to the runs, steps and items that they belong to, and to no other."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, cast

from aws.fake_account import FakeLogs
from awslambdaric.lambda_runtime_log_utils import JsonFormatter
from hypothesis import given
from hypothesis import strategies as st

from lokki.base.item_path import ItemPath, item_to_json
from lokki.cli.commands.logs import since_milliseconds
from lokki.operate.attribution import Attribution, StreamEvent
from lokki.operate.logs import LogWindow, follow_lines, run_lines


def own(event: str, run: str, **fields: object) -> str:
    about = {"flow": "f", "step": "flap", "run": run, "call": "flap"}
    return json.dumps({"level": "INFO", "event": event, **about, **fields}, separators=(",", ":"))


def invocation(request: str, run: str, item: ItemPath, printed: list[str]) -> list[str]:
    about = {"item": item_to_json(item)} if item else {}
    return [
        f"START RequestId: {request} Version: $LATEST\n",
        own("start", run, **about) + "\n",
        *(f"{line}\n" for line in printed),
        own("end", run, seconds=0.1, **about) + "\n",
        f"END RequestId: {request}\n",
        f"REPORT RequestId: {request}\tDuration: 1.00 ms\tBilled Duration: 1 ms\n",
    ]


def attributed(entries: list[tuple[str, str]]) -> list[tuple[str, ItemPath, str]]:
    attribution = Attribution()
    lines = [attribution.take(StreamEvent(time, stream, text)) for time, (stream, text) in enumerate(entries)]
    return [(line.subject.run, line.subject.item, line.text) for found in lines for line in found]


@st.composite
def interleaved(draw: st.DrawFn) -> tuple[list[tuple[str, str]], set[tuple[str, ItemPath, str]]]:
    """Draw streams of invocations of several runs, mixed; each printed line says which run and item it is of."""
    queues: dict[str, list[str]] = {}
    expected: set[tuple[str, ItemPath, str]] = set()
    for stream in draw(st.lists(st.sampled_from("abcd"), unique=True, min_size=1)):
        lines: list[str] = []
        for number in range(draw(st.integers(0, 4))):
            run, item = draw(st.sampled_from(["r1", "r2"])), draw(st.lists(st.integers(0, 3), max_size=2).map(tuple))
            printed = [f"{run} {item} {stream}{number}.{n}" for n in range(draw(st.integers(0, 3)))]
            expected |= {(run, item, text) for text in printed}
            lines += invocation(f"{stream}-{number}", run, item, printed)
        queues[stream] = lines
    mixed = []
    while any(queues.values()):
        stream = draw(st.sampled_from(sorted(name for name, lines in queues.items() if lines)))
        mixed.append((stream, queues[stream].pop(0)))
    return mixed, expected


@given(interleaved())
def test_interleaved_streams_never_mix_runs(
    drawn: tuple[list[tuple[str, str]], set[tuple[str, ItemPath, str]]],
) -> None:
    mixed, expected = drawn
    found = attributed(mixed)
    assert set(found) == expected
    assert len(found) == len(expected)


def as_json(text: str) -> str:
    """Return a line as Lambda writes it in JSON format; what is printed stays as it is."""
    kind, _, rest = text.partition(" RequestId: ")
    request = rest.split()[0] if rest else ""
    moment = "2026-11-28T12:00:00.000Z"
    match kind:
        case "START":
            line: dict[str, object] = {"type": "platform.start", "record": {"requestId": request, "version": "7"}}
        case "END":
            line = {"type": "platform.runtimeDone", "record": {"requestId": request, "status": "success"}}
        case "REPORT":
            metrics = {"durationMs": 1.5, "billedDurationMs": 2, "memorySizeMB": 512, "maxMemoryUsedMB": 64}
            status = "success" if "Status" not in text else "timeout"
            line = {"type": "platform.report", "record": {"requestId": request, "status": status, "metrics": metrics}}
        case _:
            if text.startswith('{"level"'):
                return text.replace("{", f'{{"timestamp":"{moment}",', 1)
            return text
    return json.dumps({"time": moment, **line}) + "\n"


@given(interleaved())
def test_lines_in_json_format_are_attributed_as_those_in_text(
    drawn: tuple[list[tuple[str, str]], set[tuple[str, ItemPath, str]]],
) -> None:
    mixed, _ = drawn
    assert attributed([(stream, as_json(text)) for stream, text in mixed]) == attributed(mixed)


def test_what_loggers_and_failing_invocations_write_as_json_is_shown_as_text() -> None:
    printed = ['{"timestamp": "x", "level": "INFO", "message": "mine"}', "{not json"]
    start, begin, *rest = invocation("q-1", "r1", (), printed)
    record = logging.LogRecord("birds", logging.WARNING, "flow.py", 3, "%s flew off", ("heron",), None, "count")
    record.aws_request_id = "q-1"
    try:
        raise ValueError("no wings")
    except ValueError:
        failing = logging.LogRecord("birds", logging.ERROR, "flow.py", 4, "odd", (), sys.exc_info(), "count")
    failing.aws_request_id = "q-1"
    logged = [JsonFormatter().format(record), JsonFormatter().format(failing)]
    late = "REPORT RequestId: q-1\tDuration: 1.00 ms\tStatus: timeout\n"
    entries = [as_json(start), as_json(begin), *rest[: len(printed)], *logged, as_json(late)]
    lines = [text for _, _, text in attributed([("a", entry) for entry in entries])]
    moment = lines[2].split("\t")[1]
    assert lines[:4] == [
        *printed,
        f"[WARNING]\t{moment}\tq-1\theron flew off",
        f"[ERROR]\t{lines[3].split(chr(9))[1]}\tq-1\todd",
    ]
    assert lines[4] == "Traceback (most recent call last):"
    assert lines[-2:] == [
        "ValueError: no wings",
        "REPORT RequestId: q-1 Duration: 1.50 ms Billed Duration: 2 ms Memory Size: 512 MB Status: timeout",
    ]


@given(interleaved(), st.integers(0, 20))
def test_a_window_that_begins_in_the_middle_shows_no_line_of_another_run(
    drawn: tuple[list[tuple[str, str]], set[tuple[str, ItemPath, str]]], cut: int
) -> None:
    mixed, expected = drawn
    assert set(attributed(mixed[cut:])) <= expected


def test_what_is_printed_while_a_function_is_loaded_belongs_to_its_first_invocation() -> None:
    lines = ["INIT_START Runtime Version: python:3.13\n", "model loaded\n", *invocation("q", "r1", (2,), ["honk"])]
    assert attributed([("s", line) for line in lines]) == [("r1", (2,), "model loaded"), ("r1", (2,), "honk")]


def test_a_traceback_of_the_runtime_and_a_timeout_belong_to_the_invocation() -> None:
    first = invocation("q1", "r1", (1,), [])[:2]
    failed = [own("failure", "r1", item=1, error="ValueError", where="birds.py:3")]
    trace = "[ERROR] ValueError: no\rTraceback (most recent call last):\r\u00a0\u00a0File birds.py\n"
    timeout = "2026-01-01T00:00:00.000Z q1 Task timed out after 3.00 seconds\n\n"
    ends = ["END RequestId: q1\n", "REPORT RequestId: q1\tDuration: 3000 ms\tStatus: timeout\n"]
    found = attributed([("s", line) for line in [*first, *failed, trace, *ends, timeout]])
    assert [text for _, _, text in found] == [
        "failed: ValueError at birds.py:3",
        "[ERROR] ValueError: no",
        "Traceback (most recent call last):",
        "  File birds.py",
        "REPORT RequestId: q1 Duration: 3000 ms Status: timeout",
        "2026-01-01T00:00:00.000Z q1 Task timed out after 3.00 seconds",
    ]
    assert {(run, item) for run, item, _ in found} == {("r1", (1,))}


def test_a_line_of_one_item_of_a_batch_says_nothing_of_those_after_it() -> None:
    lines = ["START RequestId: q\n", own("start", "r1", items=3), own("retry", "r1", item=2, wait=1, error="OSError")]
    assert attributed([("s", line) for line in [*lines, "honk"]]) == [
        ("r1", (2,), "will be tried again in 1 s: OSError"),
        ("r1", (), "honk"),
    ]


def events(stream: str, start: int, lines: list[str]) -> list[dict[str, Any]]:
    return [
        {"timestamp": start + n, "logStreamName": stream, "message": line, "eventId": f"{stream}{start}{n}"}
        for n, line in enumerate(lines)
    ]


def test_groups_are_merged_by_time_and_a_missing_one_has_no_lines() -> None:
    logs = FakeLogs({"/a": events("x", 5, invocation("q", "r", (0,), ["late"]))})
    logs.groups["/b"] = events("x", 1, invocation("q", "r", (), ["early"]))
    lines = run_lines(cast("Any", logs), ["/a", "/b", "/none"], "r", LogWindow(0))
    assert [str(line) for line in lines] == [
        "1970-01-01T00:00:00.003Z flap early",
        "1970-01-01T00:00:00.007Z flap[0] late",
    ]


def test_following_shows_each_line_once_and_ends_after_the_run() -> None:
    logs = FakeLogs({"/a": events("x", 0, invocation("q", "r", (0,), ["one"]))})
    ended = [False, False, True, True, True]

    def sleep(seconds: float) -> None:
        if len(logs.groups["/a"]) < 12:
            logs.groups["/a"] += events("x", 100, invocation("q2", "r", (1,), ["two"]))

    lines = follow_lines(cast("Any", logs), ["/a"], "r", LogWindow(0), lambda: ended.pop(0), sleep)
    assert [(line.item, line.text) for line in lines] == [((0,), "one"), ((1,), "two")]


def test_since_takes_a_time_ago_or_a_time() -> None:
    now = datetime(2026, 1, 1, 1, tzinfo=UTC)
    assert since_milliseconds("10m", now) == since_milliseconds("2026-01-01T00:50:00+00:00", now)
