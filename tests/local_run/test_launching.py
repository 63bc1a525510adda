"""Flows are run from Python: in scripts, in tests, in threads and below an event loop."""

from __future__ import annotations

import asyncio
import contextvars
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

import pytest

import lokki
from lokki import Flow, FlowError, ParameterError, RunError, StepNode, flow, step
from lokki.errors import RunFolderError

HERE = Path(__file__).name
RATE = contextvars.ContextVar("RATE", default=1)


@step
def numbers(limit: int, since: date) -> list[int]:
    print("counting")
    return [since.day + number for number in range(limit)]


@step
def invert(number: int) -> float:
    return 1 / (number - 3)


@step
def total(values: list[float]) -> float:
    return sum(values)


@flow
def sums_flow(limit: int, since: date = date(2026, 1, 4)) -> StepNode[..., float]:
    return numbers(limit, since).map(invert).agg(total)


@step
def fail(problem: str) -> str:
    raise ConnectionError(problem)


@flow
def failing_flow(problem: str = "no network") -> StepNode[..., str]:
    return fail(problem)


@step
def nap(seconds: float) -> float:
    async def sleep() -> float:
        await asyncio.sleep(seconds)
        return seconds * RATE.get()

    return asyncio.run(sleep())


@flow
def napping_flow(seconds: float = 0.01) -> StepNode[..., float]:
    return nap(seconds)


@step
def show(executor: str) -> str:
    return executor


@flow
def showing_flow(executor: str) -> StepNode[..., str]:
    return show(executor)


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_flow_is_called_and_its_run_is_kept() -> None:
    assert sums_flow.run(limit=3) == 1 + 1 / 2 + 1 / 3
    run = lokki.local("sums-flow").latest()
    assert (run.status, run.result(), list(run.step("invert"))) == ("finished", 1 + 1 / 2 + 1 / 3, [1, 1 / 2, 1 / 3])
    assert run.params == {"limit": 3, "since": "2026-01-04"}


def test_parameters_are_given_as_the_function_takes_them() -> None:
    assert sums_flow.run(1, date(2026, 1, 5)) == sums_flow.run(1, since="2026-01-05") == 1 / 2


@pytest.mark.parametrize("executor", ["threads", "processes", "inline"])
def test_each_executor_gives_the_same(executor: lokki.base.options.Executor) -> None:
    assert sums_flow.run(limit=3, executor=executor) == 1 + 1 / 2 + 1 / 3


def test_a_parameter_named_as_the_option_is_the_parameter() -> None:
    assert showing_flow.run(executor="north") == "north"
    assert showing_flow.using(executor="inline").run("south") == "south"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sums_flow.run(), "'limit' is required (int)."),
        (
            lambda: sums_flow.run(limt=3),
            "unknown parameter 'limt' (the flow takes limit, since); 'limit' is required (int).",
        ),
        (
            lambda: sums_flow.run(limit=3, workers=2),
            "'workers' is no parameter of sums_flow() but an option of its runs: sums_flow.using(workers=…).run(…).",
        ),
        (lambda: sums_flow.run(3, limit=3), "sums_flow(): multiple values for argument 'limit'."),
        (lambda: sums_flow.run(1, date(2026, 1, 1), 3), "sums_flow(): too many positional arguments."),
        (lambda: sums_flow.run("three"), "'limit' is 'three', not int (Expected `int`, got `str`)."),
        (lambda: sums_flow.using(run_id="a b").run(1), None),
    ],
)  # fmt: skip
def test_parameters_that_do_not_fit_are_refused_before_anything_runs(call: object, message: str | None) -> None:
    with pytest.raises(lokki.LokkiError) as error:
        call()  # type: ignore[operator]
    assert message is None or (type(error.value), str(error.value)) == (ParameterError, message)
    assert not Path(".lokki").exists()


def test_options_that_do_not_exist_are_refused() -> None:
    with pytest.raises(RunError, match="there is no executor 'fibers': choose threads, processes or inline"):
        sums_flow.run(1, executor="fibers")  # type: ignore[call-overload]


def test_a_failure_has_the_users_own_exception_as_its_cause() -> None:
    with pytest.raises(RunError) as caught:
        failing_flow.run()
    error = caught.value
    line = fail.fn.__code__.co_firstlineno + 2
    assert str(error) == f"fail() raised ConnectionError: no network at {__file__}:{line}"
    assert error.__notes__ == [f"fix it and resume with: failing_flow.resume({error.run_id!r})"]
    assert (type(error.__cause__), str(error.__cause__)) == (ConnectionError, "no network")
    frames = traceback.extract_tb(error.__cause__.__traceback__ if error.__cause__ else None)
    assert [(Path(frame.filename).name, frame.lineno) for frame in frames] == [(HERE, line)]
    assert lokki.local("failing-flow").run(error.run_id).status == "failed"


@pytest.mark.parametrize("executor", ["threads", "inline"])
def test_a_failed_item_has_its_own_exception_as_the_cause(executor: lokki.base.options.Executor) -> None:
    with pytest.raises(RunError, match="item 0 failed in the map over numbers") as caught:
        sums_flow.run(4, since=date(2026, 1, 3), executor=executor)
    cause = caught.value.__cause__
    assert isinstance(cause, ZeroDivisionError)
    assert [frame.name for frame in traceback.extract_tb(cause.__traceback__)] == ["invert"]


def test_a_failure_in_a_worker_process_shows_its_traceback() -> None:
    with pytest.raises(RunError) as caught:
        sums_flow.run(4, since=date(2026, 1, 3), executor="processes")
    assert "return 1 / (number - 3)" in caught.value.__notes__[0]


def test_a_run_is_resumed_with_its_parameters(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    flag = tmp_path / "flag"

    @step
    def read(path: str) -> str:
        return Path(path).read_text()

    @flow
    def reading_flow(path: str) -> StepNode[..., str]:
        return read(path)

    with pytest.raises(RunError) as caught:
        reading_flow.using(root=runs, progress=False).run(str(flag))
    run_id = caught.value.run_id
    assert caught.value.__notes__ == [
        f"fix it and resume with: reading_flow.using(root={str(runs)!r}).resume({run_id!r})"
    ]
    flag.write_text("green")
    assert reading_flow.using(root=runs).resume() == "green"
    assert reading_flow.using(root=runs).resume(run_id) == "green"
    with pytest.raises(RunFolderError, match=r"no run of reading-flow in .* is left to resume"):
        reading_flow.using(root=runs).resume()
    assert [run.status for run in lokki.local("reading-flow", runs).runs()] == ["finished"]


def test_what_steps_print_is_printed_and_progress_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    sums_flow.using(run_id="one").run(limit=2)
    shown = capsys.readouterr()
    assert shown.out == "counting\n"
    assert shown.err.startswith("sums-flow: run one started\nnumbers: 2 items in ")
    sums_flow.using(run_id="two", progress=False).run(limit=2)
    assert capsys.readouterr().err == ""


def test_nothing_is_left_changed_in_the_process() -> None:
    def state() -> list[object]:
        handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
        files = [os.fstat(descriptor).st_ino for descriptor in (1, 2)]
        return [*handlers, sys.stdout, sys.stderr, *files, threading.active_count()]

    before = state()
    seen: list[object] = []

    @step
    def look() -> None:
        seen.extend(state()[:7])

    @flow
    def looking_flow() -> StepNode[..., None]:
        return look()

    looking_flow.run()
    assert seen == before[:7]
    assert state() == before


def test_runs_go_on_side_by_side_in_threads() -> None:
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda limit: sums_flow.using(progress=False, workers=2).run(limit), [1, 2, 3, 1]))
    assert results == [1, 1 + 1 / 2, 1 + 1 / 2 + 1 / 3, 1]
    assert len(lokki.local("sums-flow").runs()) == 4


def test_a_step_may_use_asyncio_below_a_running_loop_and_sees_the_callers_context() -> None:
    async def main() -> tuple[float, float]:
        RATE.set(3)
        return napping_flow.run(), await asyncio.to_thread(napping_flow.run, 0.02)

    assert asyncio.run(main()) == (0.03, 0.06)


def test_a_flow_is_no_part_of_a_flow() -> None:
    @flow
    def outer() -> StepNode[..., float]:
        return nap(sums_flow.run(limit=1))

    with pytest.raises(FlowError, match=r"sums_flow\.run\(\) runs a flow while another one is drawn. Use it as a step"):
        outer.run()


SCRIPT = """
import asyncio, sys, time
from pathlib import Path
import lokki
from lokki import flow, step

@step
def items():
    return [1, 2]

@step
def wait(item):
    Path(f"began-{item}").touch()
    while not Path("stop").exists():  # in pieces, between which an exception can reach a thread
        time.sleep(0.01)

@flow
def waiting_flow():
    return items().map(wait).agg(wait)

async def main():
    waiting_flow.run()

try:
    asyncio.run(main()) if sys.argv[1] == "loop" else waiting_flow.using(executor=sys.argv[1]).run()
except KeyboardInterrupt:
    print("interrupted", lokki.local("waiting-flow").latest().status)
"""


@pytest.mark.parametrize("where", ["threads", "inline", "loop"])
def test_ctrl_c_interrupts_a_run_that_can_then_be_resumed(tmp_path: Path, where: str) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    script = subprocess.Popen([sys.executable, "script.py", where], stdout=subprocess.PIPE, text=True)
    until = time.monotonic() + 60
    while not (tmp_path / "began-1").exists() and time.monotonic() < until:
        time.sleep(0.02)
    script.send_signal(signal.SIGINT)
    if where == "loop":  # the first one asyncio.run takes for a word to the loop, which does not listen
        time.sleep(0.5)
        script.send_signal(signal.SIGINT)
    time.sleep(0.5)
    (tmp_path / "stop").touch()
    out, _ = script.communicate(timeout=60)
    assert (out, script.returncode) == ("interrupted interrupted\n", 0)


def test_types_say_what_a_run_returns() -> None:
    untyped: Flow[...] = sums_flow
    assert isinstance(untyped.run(limit=1), float)


UNGUARDED = """
from lokki import flow, step

@step
def numbers() -> list[int]:
    return [1, 2]

@step
def double(number: int) -> int:
    return 2 * number

@step
def total(values: list[int]) -> int:
    return sum(values)

@flow
def sums_flow():
    return numbers().map(double).agg(total)

print(sums_flow.run(executor=EXECUTOR))
"""


def test_a_script_that_runs_its_flow_whoever_imports_it_is_refused_by_its_workers(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(UNGUARDED.replace("EXECUTOR", '"processes"'))
    run = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True, timeout=100)
    assert run.returncode == 1
    assert 'Put the call below: if __name__ == "__main__":' in run.stderr
    assert len(list((tmp_path / ".lokki" / "runs").iterdir())) == 1


def test_a_script_that_runs_its_flow_whoever_imports_it_is_refused_by_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(UNGUARDED.replace("EXECUTOR", '"inline"'))
    command = [sys.executable, "-m", "lokki", "run", "script.py"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert (run.returncode, run.stdout) == (1, "")
    assert 'Put the call below: if __name__ == "__main__":' in run.stderr
    assert not (tmp_path / ".lokki").exists()
    assert subprocess.run([sys.executable, "script.py"], capture_output=True, text=True).stdout == "6\n"


@step
def run_another(number: int) -> float:
    return sums_flow.using(progress=False).run(number)


@step
def one_and_two() -> list[int]:
    return [1, 2]


@flow
def nesting_flow() -> StepNode[..., float]:
    return one_and_two().map(run_another).agg(total)


@pytest.mark.parametrize("executor", ["threads", "processes"])
def test_a_step_may_run_another_flow(executor: lokki.base.options.Executor) -> None:
    assert nesting_flow.run(executor=executor) == 1 + 1 + 1 / 2
