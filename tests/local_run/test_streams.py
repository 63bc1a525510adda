"""Steps that treat stdout and stderr as files, and draw progress bars of their own: on real terminals and pipes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.command import Place
from support.local_runs import EXECUTORS

FLOW = """
import contextlib, io, os, subprocess, sys, time
from lokki import flow, main, step
from tqdm import tqdm

def attributes(number):
    for name in ("encoding", "errors", "name", "mode", "line_buffering", "closed", "newlines"):
        getattr(sys.stdout, name), getattr(sys.stderr, name)

def wrap(number):
    out = io.TextIOWrapper(sys.stdout.buffer, encoding="utf-8", line_buffering=True)
    print("na\\u00efve", number, file=out)

def replace(number):
    sys.stdout = io.TextIOWrapper(sys.stdout.buffer, encoding="utf-8", line_buffering=True)
    print("na\\u00efve", number)

def detach(number):
    out = io.TextIOWrapper(sys.stdout.detach(), encoding="utf-8")
    print("na\\u00efve", number, file=out)

def write_bytes(number):
    sys.stdout.buffer.write(f"na\\u00efve {number}\\n".encode())

def close(number):
    sys.stdout.close()
    print("na\\u00efve", number)

def none(number):
    sys.stdout = sys.stderr = None
    print("nowhere")

def start(number):
    subprocess.run(["echo", f"na\\u00efve {number}"], check=True, stdout=sys.stdout, stderr=sys.stderr)

def bar(number):
    for _ in tqdm(range(20), desc=f"bar {number}"):
        time.sleep(0.01)
    tqdm.write(f"na\\u00efve {number}")

@step
def numbers(kind: str) -> list[int]:
    globals()[kind](9)
    return [1, 2, 3]

@step
def work(number: int, kind: str) -> int:
    globals()[kind](number)
    return number

@step
def total(found: list[int]) -> int:
    return sum(found)

@flow
def stream_flow(kind: str):
    return numbers(kind).map(work(kind=kind)).agg(total)

if __name__ == "__main__":
    main(stream_flow)
"""


@pytest.fixture
def place(tmp_path: Path) -> Place:
    place = Place(tmp_path)
    place.write("streams.py", FLOW)
    return place


def printed(place: Place) -> set[str]:
    """Return what the log has of what steps wrote."""
    log = place.folder / ".lokki" / "runs" / "r" / "events.jsonl"
    events = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return {event["text"] for event in events if event["event"] == "step_output" and event["text"]}


NAIVE = {f"na\u00efve {number}" for number in (1, 2, 3, 9)}


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("kind", ["wrap", "detach", "write_bytes", "close", "start"])
def test_what_a_step_writes_in_whatever_way_is_taken(place: Place, executor: str, kind: str) -> None:
    ran = place.run("streams.py", "run", "--kind", kind, "--executor", executor, "--run-id", "r", "--quiet")
    assert (ran.code, ran.out, ran.err) == (0, "6\n", "")
    assert printed(place) == NAIVE


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("kind", ["attributes", "replace", "none"])
def test_a_step_may_ask_and_replace_its_streams(place: Place, executor: str, kind: str) -> None:
    ran = place.run("streams.py", "run", "--kind", kind, "--executor", executor, "--run-id", "r", "--quiet")
    assert (ran.code, ran.out, ran.err) == (0, "6\n", "")
    assert printed(place) == (NAIVE if kind == "replace" else set())


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_a_program_that_is_started_without_streams_runs(place: Place, closed: str) -> None:
    command = f'"{sys.executable}" streams.py run --kind write_bytes --run-id r --output result.json {closed}'
    done = subprocess.run(
        ["sh", "-c", command], cwd=place.folder, env=place.environment({}), capture_output=True, text=True, check=False
    )
    assert (done.returncode, (place.folder / "result.json").read_text()) == (0, "6\n"), done
    assert printed(place) == NAIVE


@pytest.mark.parametrize("executor", ["threads", "processes"])
def test_progress_bars_of_steps_leave_the_terminal_whole(place: Place, executor: str) -> None:
    terminal = place.on_terminal("streams.py", "run", "--kind", "bar", "--executor", executor, "--run-id", "r")
    ran = terminal.end(60)
    assert (ran.code, ran.out) == (0, "6\n")
    lines = [line.rpartition("\r")[2] for line in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", ran.err).split("\n")]
    for number in (1, 2, 3):
        # More than one where tqdm drew its end again, on a busy machine.
        bars = [line for line in lines if f"bar {number}: 100%" in line]
        assert bars
        for bar in bars:
            assert re.fullmatch(rf"work\[\d\] \| bar {number}: 100%\|\S+\| 20/20 \[.*it/s\]", bar), bar
    assert any("work" in line and "3/3" in line for line in lines)
    assert {re.sub(r"^\w+(\[\d\])? \| ", "", line).rstrip() for line in lines} >= NAIVE
