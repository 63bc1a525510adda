"""A timeout changes neither the thread on which a step runs nor what it finds there, and ends it wherever it is."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from support.command import Place
from support.local_runs import EXECUTORS, Local

from lokki import flow, step
from lokki.engine.events import ItemFailed
from lokki.engine.limits import TimeLimit
from lokki.errors import RunError
from lokki.runner import Executor

FLOW = """
import ctypes, sqlite3, threading, time
from lokki import flow, main, step

connection = sqlite3.connect(":memory:")
own = threading.local()
own.value = "set at import"

def stay_in_c() -> None:
    mutex = ctypes.create_string_buffer(128)
    for _ in range(2):  # the second time for ever: it is locked, and no signal ends that
        ctypes.CDLL(None).pthread_mutex_lock(mutex)

@step(timeout=TIMEOUT)
def numbers(stuck: bool) -> list[int]:
    assert connection.execute("select 1").fetchone() == (1,)
    assert own.value == "set at import"
    assert threading.current_thread() is threading.main_thread()
    return [0, 1, 2, 3]

@step
def plain(number: int) -> tuple[int, int]:
    return number, threading.get_ident()

@step(timeout=TIMEOUT)
def limited(given: tuple[int, int], stuck: bool) -> list[object]:
    number, thread = given
    if stuck and number == 1:
        stay_in_c()
    return [number, thread == threading.get_ident(), getattr(own, "value", "nothing")]

@step(timeout=TIMEOUT)
def gather(found: list[list[object]], alone: bool) -> list[object]:
    assert connection.execute("select 1").fetchone() == (1,)
    if alone:
        stay_in_c()
    return found

@flow
def limit_flow(stuck: bool = False, alone: bool = False):
    return numbers(stuck).map(plain).next(limited(stuck=stuck)).agg(gather(alone=alone))

if __name__ == "__main__":
    main(limit_flow)
"""


@pytest.fixture
def place(tmp_path: Path) -> Place:
    place = Place(tmp_path)
    place.write("limits.py", FLOW)
    return place


@pytest.mark.parametrize("timeout", ["None", "60"])
@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_step_runs_on_the_same_thread_with_and_without_a_timeout(place: Place, executor: str, timeout: str) -> None:
    place.write("limits.py", (place.folder / "limits.py").read_text().replace("TIMEOUT", timeout))
    ran = place.run("limits.py", "run", "--quiet", "--executor", executor)
    value = '"nothing"' if executor == "threads" else '"set at import"'
    wanted = ", ".join(f"[{number}, true, {value}]" for number in range(4))
    assert (ran.code, ran.out) == (0, f"[{wanted}]\n"), ran.err


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_late_step_in_code_that_cannot_be_interrupted_does_not_hold_the_run(place: Place, executor: str) -> None:
    place.write("limits.py", (place.folder / "limits.py").read_text().replace("TIMEOUT", "0.5"))
    began = time.monotonic()
    ran = place.run("limits.py", "run", "--stuck", "--executor", executor, "--run-id", "r")
    assert (ran.code, ran.out, time.monotonic() - began < 40) == (1, "", True)
    assert re.search(r"limited\(\) raised StepTimeoutError: took longer than its timeout of 0.5 seconds", ran.lines[-2])
    assert ran.lines[-1].endswith("limits.py run --resume r")
    place.write("limits.py", (place.folder / "limits.py").read_text().replace("if stuck and", "if False and"))
    ran = place.run("limits.py", "run", "--resume", "r", "--quiet")
    assert (ran.code, re.findall(r"\[(\d), ", ran.out)) == (0, ["0", "1", "2", "3"]), ran.err


@pytest.mark.parametrize("executor", ["threads", "processes"])
def test_a_step_alone_that_cannot_be_interrupted_ends_the_run(place: Place, executor: str) -> None:
    place.write("limits.py", (place.folder / "limits.py").read_text().replace("TIMEOUT", "0.5"))
    ran = place.run("limits.py", "run", "--alone", "--executor", executor, "--run-id", "r")
    assert (ran.code, ran.out) == (1, "")
    assert "gather() raised StepTimeoutError: took longer than its timeout of 0.5 seconds" in ran.lines[-2]
    assert "in code that cannot be interrupted" in ran.lines[-2]
    assert ran.lines[-1].endswith("limits.py run --resume r")
    listed = place.run("limits.py", "runs")
    assert re.search(r"r +limit-flow +failed", listed.out)


# ---- in this process


@step
def many() -> list[int]:
    return list(range(150))


@step(timeout=0.02)
def near(number: int) -> int:
    end = time.monotonic() + 0.0175 + 0.00005 * number
    while time.monotonic() < end:
        pass
    return number


@step(timeout=0.2)
def swallowing(number: int) -> int:
    while number == 1:
        try:
            time.sleep(30)
        except BaseException as error:
            if isinstance(error, Exception):
                raise
            number = number if time.monotonic() < BEGAN[0] + 1 else 2
    return number


BEGAN = [0.0]


@step
def three() -> list[int]:
    return [0, 1, 2]


@step
def keep(found: list[int]) -> list[int]:
    return found


@flow
def near_flow():
    return many().map(near, tolerate=1.0).agg(keep)


@flow
def swallowing_flow():
    return three().map(swallowing, tolerate=1.0).agg(keep)


@pytest.mark.parametrize("executor", ["threads", "inline"])
def test_time_that_is_up_just_as_a_step_ends_hits_that_step_or_nothing(tmp_path: Path, executor: Executor) -> None:
    local = Local(tmp_path, executor)
    result = local.run(near_flow())
    failed = {event.item[0]: event.failure.error for event in local.of(ItemFailed)}
    assert isinstance(result, list)
    assert sorted([*result, *failed]) == list(range(150))
    assert set(failed.values()) <= {"StepTimeoutError"}


@pytest.mark.parametrize("executor", ["threads", "inline"])
def test_a_step_that_catches_everything_is_late_all_the_same(tmp_path: Path, executor: Executor) -> None:
    local = Local(tmp_path, executor)
    BEGAN[0] = time.monotonic()
    assert local.run(swallowing_flow()) == [0, 2]
    assert [(event.item, event.failure.error) for event in local.of(ItemFailed)] == [((1,), "StepTimeoutError")]


def test_an_interrupt_while_a_step_has_a_limit_is_raised() -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        TimeLimit()(interrupted, 60)


def test_what_a_limited_step_raises_is_raised(tmp_path: Path) -> None:
    @step(timeout=60)
    def bad() -> int:
        raise ValueError("bad")

    @flow
    def bad_flow():
        return bad()

    with pytest.raises(RunError, match="ValueError: bad"):
        Local(tmp_path).run(bad_flow())
