"""Map blocks on worker processes: importing the flow anew, dying, late, stuck, and gone when the run is."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import steps
from support.local_runs import Local, groups, start, wait_until

from lokki import flow, step
from lokki.engine.events import ItemFailed, MapStarted, RunInterrupted, StepRetried
from lokki.errors import RunError
from lokki.graph import FlowGraph


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Local]:
    others = set(children())  # functions that the account on loopback keeps warm
    yield Local(tmp_path, "processes")
    assert set(children()) <= others


def children() -> list[int]:
    """Return this process's children that are alive, but for multiprocessing's own."""
    found = []
    for pid, _ in groups():
        try:
            parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if parent == os.getpid() and b"resource_tracker" not in command:
            found.append(pid)
    return found


def test_results_come_in_order_from_processes(local: Local) -> None:
    assert local.run(steps.listed(), {"count": 200}) == [number * 2 for number in range(200)]
    assert local.of(MapStarted)[0].workers == 2


@pytest.mark.parametrize(("how", "death"), [
    ("exit", "the worker process exited with code 7"),
    ("SIGKILL", "the worker process was killed by SIGKILL (perhaps out of memory)"),
    ("SIGTERM", "the worker process was killed by SIGTERM"),
])  # fmt: skip
def test_an_item_that_ends_its_process_fails_and_the_others_go_on(
    local: Local, tmp_path: Path, how: str, death: str
) -> None:
    log = tmp_path / "log"
    result = local.run(steps.dying_tolerated(), {"log": str(log), "how": how})
    assert result == [number for number in range(20) if number != 5]
    [failed] = local.of(ItemFailed)
    assert (failed.item, failed.failure.error) == ((5,), "WorkerError")
    assert failed.failure.message == death
    assert failed.failure.where == f"{steps.__file__}:{steps.die_at.fn.__code__.co_firstlineno}"
    assert sum(line.endswith(" 5") for line in steps.noted(log)) == 1


def test_an_item_that_ends_its_process_fails_the_run_unless_tolerated(local: Local, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"item 5 failed .* WorkerError: the worker process was killed by SIGKILL"):
        local.run(steps.dying(), {"log": str(tmp_path / "log")})
    assert len(local.of(ItemFailed)) == 1


def test_an_item_whose_process_died_is_tried_again(local: Local, tmp_path: Path) -> None:
    assert local.run(steps.dying_twice(), {"log": str(tmp_path / "log")}) == list(range(8))
    assert [(event.item, event.attempt, event.failure.error) for event in local.of(StepRetried)] == [
        ((3,), 1, "WorkerError"),
        ((3,), 2, "WorkerError"),
    ]
    assert steps.noted(tmp_path / "log").count("3") == 3


def test_a_late_step_is_ended_with_its_process(local: Local, tmp_path: Path) -> None:
    log = tmp_path / "log"
    began = time.monotonic()
    assert local.run(steps.too_slow(), {"log": str(log)}) == [0, 1, 3, 4]
    assert time.monotonic() - began < 10
    [failed] = local.of(ItemFailed)
    assert (failed.item, failed.failure.error) == ((2,), "StepTimeoutError")
    late = next(int(line.split()[0]) for line in steps.noted(log) if line.endswith(" 2"))
    assert not Path(f"/proc/{late}").exists()


def test_a_late_step_is_tried_again_in_another_process(local: Local, tmp_path: Path) -> None:
    assert local.run(steps.slow_at_first(), {"log": str(tmp_path / "log")}) == [0, 1, 2, 3, 4]
    assert [(event.item, event.attempt) for event in local.of(StepRetried)] == [((2,), 1), ((2,), 2)]
    assert steps.noted(tmp_path / "log").count("2") == 3


def test_a_run_on_processes_ends_when_the_flows_time_is_up(local: Local) -> None:
    began = time.monotonic()
    with pytest.raises(RunError, match=r"flow's timeout of 0\.3 seconds"):
        local.run(steps.late_in_map())
    assert time.monotonic() - began < 6


def test_each_inner_step_on_processes_has_its_own_environment(local: Local) -> None:
    assert local.run(steps.with_two_environments()) == [["goose", "duck"]] * 3


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (steps.locks_last(), r"item 2 failed .* lock\(\) raised ResultError: A result of type _thread.lock"),
        (steps.locks_inside(), r"item 2 failed .* lock\(\) raised ResultError: A result of type _thread.lock"),
        (steps.odd_last(), r"item 2 failed .* odd\(\) raised ResultError: .* RuntimeError: no pickling here"),
    ],
)
def test_a_result_that_does_not_pickle_is_its_items_failure(local: Local, graph: FlowGraph, message: str) -> None:
    with pytest.raises(RunError, match=message):
        local.run(graph)


def test_a_step_that_raises_keyboard_interrupt_interrupts_the_run(local: Local) -> None:
    with pytest.raises(KeyboardInterrupt):
        local.run(steps.interrupted())
    assert isinstance(local.events[-1], RunInterrupted)


def test_several_map_blocks_share_the_processes(local: Local) -> None:
    assert local.run(steps.three_maps()) == sum(number * 4 + 2 for number in range(4))


def inside() -> FlowGraph:
    @step
    def hidden(number: int) -> int:
        return number + 1

    @flow
    def hidden_flow():
        return steps.numbers(4).map(hidden).agg(steps.total)

    return hidden_flow()


def test_a_flow_inside_a_function_is_refused_before_there_is_a_run(local: Local) -> None:
    with pytest.raises(RunError) as caught:
        local.run(inside())
    assert str(caught.value) == (
        "worker processes import the flow anew, but it is not at the top level of a module: "
        "move it to a file of its own, or use the executor 'threads'."
    )
    assert not local.root.joinpath("runs").exists()


# --- in programs of their own ---


MAIN = """
import sys
from dataclasses import dataclass
from pathlib import Path

from lokki import flow, step
from lokki.runner import LocalRunner

@dataclass
class Bird:
    name: str

@step
def birds() -> list[Bird]:
    return [Bird("goose"), Bird("duck")]

@step
def flap(bird: Bird) -> Bird:
    return Bird("flappy " + bird.name)

again = flap

def plain(bird: Bird) -> Bird:
    return Bird(bird.name + "!")

loud = step(plain)

@step
def join(birds: list[Bird]) -> str:
    return ", ".join(bird.name for bird in birds)

@flow
def birds_flow():
    return birds().map(flap).next(again).next(loud).next(loud).agg(join)

if __name__ == "__main__":
    print(LocalRunner(executor="processes", workers=2).run(birds_flow()))
"""


@pytest.mark.parametrize("package", [False, True])
def test_steps_and_classes_in_main_and_in_packages_run_under_any_name(tmp_path: Path, package: bool) -> None:
    if package:
        (tmp_path / "farm" / "yard").mkdir(parents=True)
        (tmp_path / "farm" / "__init__.py").touch()
        (tmp_path / "farm" / "yard" / "__init__.py").touch()
        (tmp_path / "farm" / "yard" / "birds.py").write_text(MAIN)
        program = [sys.executable, "-m", "farm.yard.birds"]
    else:
        (tmp_path / "birds-flow.py").write_text(MAIN)
        program = [sys.executable, "birds-flow.py"]
    done = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout == "flappy flappy goose!!, flappy flappy duck!!\n", done.stderr


def test_a_module_that_workers_cannot_import_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(
        "import sys\n"
        "assert 'lokki.local_run.worker_server' not in sys.modules, 'no workers here'\n"
        "from steps import doubled as original\n"
        "from lokki import flow\nimport steps\n"
        "@flow\ndef doubled():\n    return steps.numbers(3).map(steps.double).agg(steps.total)\n"
    )
    program = start(tmp_path, "broken:doubled", "processes", {})
    try:
        assert program.wait() == 1
    finally:
        program.close()
    assert "AssertionError: no workers here" in program.errors()
    assert program.errors().endswith(
        "RunError: the worker process exited with code 1 before it could start; what it printed above says why.\n"
    )


def test_no_worker_outlives_a_parent_that_is_killed(tmp_path: Path) -> None:
    program = start(tmp_path, "slow", "processes", {"log": str(tmp_path / "log"), "count": 1000})
    try:
        wait_until(lambda: len(steps.noted(tmp_path / "log")) > 4)
        assert len(program.members()) >= 3
        program.kill(signal.SIGKILL)
        wait_until(lambda: not program.members(), 5)
    finally:
        program.close()


@pytest.mark.slow
def test_a_hung_worker_is_killed_when_another_item_fails_for_good(tmp_path: Path) -> None:
    log = tmp_path / "log"
    program = start(tmp_path, "stuck", "processes", {"log": str(log)})
    try:
        began = time.monotonic()
        assert program.wait(30) == 1
        assert time.monotonic() - began < 20
        assert program.members() == []
    finally:
        program.close()
    assert "item 0 failed in the map over numbers()" in program.errors()


def test_a_step_on_a_worker_process_may_start_processes_of_its_own(local: Local) -> None:
    assert local.run(steps.in_children(), {"count": 2}) == [0, 1]
