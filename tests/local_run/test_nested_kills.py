"""SIGKILL at random moments of a run with maps below maps: what has its result on disk does not run again."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from support.local_runs import EXECUTORS

WORKERS = 4
LISTS = 12
SECONDS = 0.02
"""How long an item takes."""

MOST_LOST = 5
"""Items of a worker that a kill may cost: the one that it is at, and those that it finished in the last 50 ms."""

FLOW = f"""
import os
import time
from lokki import StepNode, flow, main, step

@step
def sizes() -> list[int]:
    return [number % 5 * 4 for number in range({LISTS})]

@step
def members(size: int) -> list[int]:
    return list(range(size))

@step
def work(member: int, size: int) -> int:
    time.sleep({SECONDS})
    log = os.open(os.environ["LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(log, f"work {{size}}/{{member}}\\n".encode())
    os.close(log)
    return size * 100 + member

@step
def close(results: list[int], size: int) -> int:
    time.sleep({SECONDS})
    return sum(results)

@step
def total(results: list[int]) -> list[int]:
    return results

@flow
def one_list(size: int) -> StepNode[..., int]:
    return members(size).map(work(size=size)).agg(close(size=size))

@flow
def nested():
    return sizes().map(one_list).agg(total)

if __name__ == "__main__":
    main(nested)
"""

SIZES = [number % 5 * 4 for number in range(LISTS)]
RESULT = [sum(size * 100 + member for member in range(size)) for size in SIZES]


@pytest.mark.slow
@pytest.mark.parametrize("executor", EXECUTORS)
def test_kills_of_nested_maps_lose_no_more_than_the_bound(executor: str, tmp_path: Path) -> None:
    (tmp_path / "flow.py").write_text(FLOW)
    log, runs, chance = tmp_path / "log", tmp_path / ".lokki" / "runs", random.Random(7)
    variables = {**os.environ, "LOG": str(log)}
    run = [sys.executable, "flow.py", "run", "--executor", executor, "--workers", str(WORKERS)]
    kills = 0
    while True:
        # A kill may come when the result is on disk: a run is then finished, and only found by its name.
        command = [*run, "--resume", *(folder.name for folder in runs.iterdir())] if runs.exists() else run
        with subprocess.Popen(
            command, cwd=tmp_path, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        ) as process:
            began = len(log.read_text().splitlines()) if log.exists() else 0
            enough = began + chance.randint(1, 40)
            while kills < 6 and process.poll() is None:
                if log.exists() and len(log.read_text().splitlines()) >= enough:
                    time.sleep(chance.uniform(0, 0.1))
                    os.killpg(process.pid, signal.SIGKILL)
                    kills += 1
                    break
                time.sleep(0.005)
            out, errors = process.communicate()
        if process.returncode != -signal.SIGKILL:
            assert process.returncode == 0, errors.decode()
            break
    assert kills >= 2
    assert out.decode() == f"{RESULT}\n"
    # Lists of one size are alike: each of their members runs once for each of them.
    times = Counter(log.read_text().splitlines())
    again = times.total() - sum(SIZES)
    assert 0 <= again <= kills * WORKERS * MOST_LOST
    assert times.keys() == {f"work {size}/{member}" for size in SIZES for member in range(size)}
