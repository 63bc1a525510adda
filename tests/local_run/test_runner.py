"""Running flows on this machine: results, retries, time limits, failures, tolerated failures, events."""

import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest
import steps
from support.local_runs import EXECUTORS, TESTS, Local, forkable
from support.random_chains import check

from lokki import Retry, flow, step
from lokki.engine.events import (
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
    StepRetried,
    StepStarted,
)
from lokki.errors import LokkiError, ParameterError, RunError
from lokki.graph import FlowGraph
from lokki.runner import Executor, LocalRunner


@pytest.fixture
def local(tmp_path: Path) -> Local:
    return Local(tmp_path)


def failure(local: Local, graph: FlowGraph) -> str:
    with pytest.raises(RunError) as caught:
        local.run(graph)
    return str(caught.value)


# --- the law ---


@pytest.mark.parametrize("executor", ["threads", "inline"])
def test_a_random_chain_gives_what_a_direct_call_of_its_functions_gives(executor: Executor) -> None:
    check(executor, 25)


def chains_on_processes(examples: int) -> None:
    program = [sys.executable, "-m", "support.random_chains", "processes", str(examples)]
    done = subprocess.run(program, env=forkable(), cwd=TESTS, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def test_a_random_chain_on_processes_gives_what_a_direct_call_of_its_functions_gives() -> None:
    chains_on_processes(8)


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["threads", "inline"])
def test_many_random_chains_give_what_a_direct_call_of_their_functions_gives(executor: Executor) -> None:
    check(executor, 1000)


@pytest.mark.slow
def test_many_random_chains_on_processes_give_what_a_direct_call_of_their_functions_gives() -> None:
    chains_on_processes(500)


# --- results and their order ---


@pytest.mark.parametrize("executor", EXECUTORS)
def test_results_come_in_the_order_of_the_items(tmp_path: Path, executor: Executor) -> None:
    result = Local(tmp_path, executor, workers=3).run(steps.listed(), {"count": 3000})
    assert result == [number * 2 for number in range(3000)]


def test_a_step_alone_is_a_flow_with_all_its_events(local: Local) -> None:
    @flow
    def alone(count: int):
        return steps.numbers(count)

    assert local.run(alone(), {"count": 3}, run_id="one") == [0, 1, 2]
    seconds = [event.seconds for event in local.of(StepFinished) + local.of(RunFinished)]
    assert local.events == [
        RunStarted("alone", "one", {"count": 3}, False, str(local.root / "runs" / "one")),
        StepStarted("numbers"),
        StepFinished("numbers", seconds[0], len('{"result":[0,1,2]}')),
        RunFinished(seconds[1]),
    ]


def test_a_map_tells_how_many_items_it_has_and_how_many_are_finished(local: Local) -> None:
    assert local.run(steps.doubled(), {"count": 500}) == sum(range(500)) * 2
    [started], [finished] = local.of(MapStarted), local.of(MapFinished)
    assert started == MapStarted("numbers", ("double",), 500, 0, 2)
    assert finished == MapFinished("numbers", 500, 0, finished.seconds)
    assert sum(event.count for event in local.of(ItemsFinished)) == 500


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_map_over_nothing_gives_an_empty_list(tmp_path: Path, executor: Executor) -> None:
    assert Local(tmp_path, executor).run(steps.doubled(), {"count": 0}) == 0


def test_steps_get_values_of_their_own(local: Local) -> None:
    """As deployed, where steps share no memory: what one does to a value, no other sees."""
    kept: list[list[int]] = []

    @step
    def make() -> list[list[int]]:
        return [[1]]

    @step
    def keep(value: list[int]) -> list[int]:
        kept.append(value)
        return value

    @step
    def spoil(value: list[int], more: list[int]) -> list[int]:
        value.append(2)
        more.append(3)
        return value + more

    @flow
    def spoiling():
        return make().map(keep).next(spoil(more=[])).next(spoil(more=[])).agg(steps.collect)

    assert local.run(spoiling()) == [[1, 2, 3, 2, 3]]
    assert kept == [[1]]


def test_no_more_items_run_at_one_time_than_the_map_allows(tmp_path: Path) -> None:
    now, most, lock = [0], [0], threading.Lock()

    @step
    def watch(number: int) -> int:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.01)
        with lock:
            now[0] -= 1
        return number

    @flow
    def bounded():
        return steps.numbers(24).map(watch, concurrency=3).agg(steps.count)

    local = Local(tmp_path, workers=8)
    assert local.run(bounded()) == 24
    assert most == [3]
    assert local.of(MapStarted)[0].workers == 3


def test_slow_items_are_shared_evenly_among_workers(tmp_path: Path) -> None:
    @flow
    def even():
        return steps.numbers(4).map(steps.sleep(seconds=0.3)).agg(steps.count)

    local = Local(tmp_path, workers=4)
    local.run(even())
    assert local.of(MapFinished)[0].seconds < 0.5


# --- sources ---


def test_a_generator_is_written_as_it_comes_and_never_held(local: Local) -> None:
    alive = [0, 0]

    class Item:
        def __init__(self) -> None:
            self.payload = b"honk" * 25_000
            alive[0] += 1
            alive[1] = max(alive)

        def __del__(self) -> None:
            alive[0] -= 1

        def __reduce__(self) -> tuple[type[bytes], tuple[bytes]]:
            return (bytes, (self.payload,))

    @step
    def stream() -> Iterator[object]:
        for _ in range(2000):
            yield Item()

    @flow
    def streaming():
        return stream().map(steps.nothing).agg(steps.count)

    assert local.run(streaming()) == 2000
    assert alive[0] == 0
    assert alive[1] <= 3


def test_a_generator_that_raises_fails_its_step_and_is_tried_again_whole(local: Local) -> None:
    runs = []

    @step(retry=Retry(attempts=2, delay=0))
    def stream() -> Iterator[int]:
        runs.append(1)
        yield 1
        if len(runs) == 1:
            raise FileNotFoundError("feathers.csv")
        yield 2

    @flow
    def streaming():
        return stream().map(steps.double).agg(steps.collect)

    assert local.run(streaming()) == [2, 4]
    [retried] = local.of(StepRetried)
    assert (retried.failure.error, retried.failure.message) == ("FileNotFoundError", "feathers.csv")


def test_a_generator_that_raises_for_good_is_named_with_its_line(local: Local) -> None:
    @step
    def stream() -> Iterator[int]:
        yield 1
        raise OSError("no feathers")

    @flow
    def streaming():
        return stream().map(steps.double).agg(steps.collect)

    line = stream.fn.__code__.co_firstlineno + 3
    assert failure(local, streaming()) == f"stream() raised OSError: no feathers at {__file__}:{line}"
    assert [type(event) for event in local.events[-2:]] == [StepFailed, RunFailed]


def test_a_generator_has_the_timeout_of_its_step(local: Local) -> None:
    @step(timeout=0.2)
    def stream() -> Iterator[int]:
        yield 1
        time.sleep(2)
        yield 2

    @flow
    def streaming():
        return stream().map(steps.double).agg(steps.collect)

    assert "stream() raised StepTimeoutError: took longer than its timeout of 0.2 seconds" in failure(
        local, streaming()
    )


@pytest.mark.parametrize("result", ["goose", b"goose", {"goose": 1}, None, 5])
def test_a_source_must_return_items(local: Local, result: object) -> None:
    @step
    def source():
        return result

    @flow
    def mapped():
        return source().map(steps.same).agg(steps.count)

    line = source.fn.__code__.co_firstlineno
    assert failure(local, mapped()) == (
        f"source() raised ResultError: source() returned {type(result).__name__}, but .map() runs over its items: "
        f"return a list or another iterable at {__file__}:{line}"
    )


@pytest.mark.parametrize("executor", ["threads", "inline"])
def test_python_shows_the_users_traceback_with_the_error_of_a_map(tmp_path: Path, executor: Executor) -> None:
    @step
    def refuse(number: int) -> int:
        raise ValueError(f"not {number}")

    @flow
    def refusing():
        return steps.numbers(1).map(refuse).agg(steps.count)

    with pytest.raises(RunError) as caught:
        Local(tmp_path, executor).run(refusing())
    line = refuse.fn.__code__.co_firstlineno + 2
    shown = "".join(traceback.format_exception(caught.value))
    assert (
        f'  File "{__file__}", line {line}, in refuse\n    raise ValueError(f"not {{number}}")\nValueError: not 0\n'
        in shown
    )
    assert isinstance(caught.value.__cause__, ValueError)


# --- results that do not pickle ---


@pytest.mark.parametrize("executor", ["threads", "inline"])
@pytest.mark.parametrize(
    ("graph", "step_id", "error"),
    [
        (steps.locks_last(), "lock", "ResultError"),
        (steps.locks_inside(), "lock", "ResultError"),
        (steps.odd_last(), "odd", "ResultError"),
    ],
)
def test_a_result_that_does_not_pickle_is_its_items_failure(
    tmp_path: Path, executor: Executor, graph: FlowGraph, step_id: str, error: str
) -> None:
    message = failure(Local(tmp_path, executor), graph)
    assert message.startswith(
        f"item 2 failed in the map over numbers() (tolerated: none); {step_id}() raised {error}: "
    )
    assert f"at {steps.__file__}:" in message


def test_an_item_that_does_not_pickle_is_named(local: Local) -> None:
    @step
    def source() -> list[object]:
        return [1, threading.Lock()]

    @flow
    def mapped():
        return source().map(steps.same).agg(steps.count)

    assert "source() raised ResultError: item 1: A result of type _thread.lock does not pickle" in failure(
        local, mapped()
    )


def test_a_result_of_a_step_alone_that_does_not_pickle_is_named(local: Local) -> None:
    @step
    def lock() -> object:
        return threading.Lock()

    @step
    def odd() -> object:
        return steps.Locked()

    assert "lock() raised ResultError: A result of type _thread.lock does not pickle" in failure(
        local, flow(lambda_flow(lock))()
    )
    assert (
        "odd() raised ResultError: A result of type steps.Locked does not pickle: RuntimeError: no pickling here"
        in failure(local, flow(lambda_flow(odd))())
    )


def lambda_flow(node):
    def one_step():
        return node()

    return one_step


# --- failures ---


def test_a_failure_names_the_users_line_even_where_a_library_raised(local: Local) -> None:
    import json

    @step
    def parse() -> object:
        return json.loads("{goose")

    line = parse.fn.__code__.co_firstlineno + 2
    message = failure(local, flow(lambda_flow(parse))())
    assert message.startswith("parse() raised JSONDecodeError: Expecting property name")
    assert message.endswith(f"at {__file__}:{line}")
    [failed] = local.of(StepFailed)
    assert "/lokki/" not in failed.failure.traceback.replace(str(TESTS.parent / "tests"), "")
    assert "/lokki/" in failed.failure.full_traceback


def test_the_steps_own_exception_is_the_cause(local: Local) -> None:
    @step
    def fail() -> None:
        raise KeyError("goose")

    with pytest.raises(RunError) as caught:
        local.run(flow(lambda_flow(fail))())
    assert isinstance(caught.value.__cause__, KeyError)


def test_sys_exit_and_other_odd_exceptions_are_failures_of_the_step(local: Local) -> None:
    class OddError(Exception):
        def __str__(self) -> str:
            raise ValueError("no text")

    @step
    def leave() -> None:
        sys.exit(3)

    @step
    def odd() -> None:
        raise OddError

    @step
    def generator_exit() -> None:
        raise GeneratorExit

    assert "leave() raised SystemExit: 3 at " in failure(local, flow(lambda_flow(leave))())
    assert "OddError: (its text cannot be shown: str() raised ValueError) at " in failure(
        local, flow(lambda_flow(odd))()
    )
    assert "raised GeneratorExit" in failure(local, flow(lambda_flow(generator_exit))())


@pytest.mark.parametrize("executor", ["threads", "inline"])
def test_a_step_that_raises_keyboard_interrupt_interrupts_the_run(tmp_path: Path, executor: Executor) -> None:
    local = Local(tmp_path, executor)
    with pytest.raises(KeyboardInterrupt):
        local.run(steps.interrupted())
    assert isinstance(local.events[-1], RunInterrupted)


# --- retries ---


def test_tries_are_counted_and_their_waits_grow(local: Local) -> None:
    at: list[float] = []

    @step(retry=Retry(attempts=4, delay=0.02, backoff=3, max_delay=0.1, on=(OSError,)))
    def flaky() -> str:
        at.append(time.monotonic())
        if len(at) < 4:
            raise ConnectionResetError(f"try {len(at)}")
        return "landed"

    assert local.run(flow(lambda_flow(flaky))()) == "landed"
    retried = local.of(StepRetried)
    assert [(event.id, event.item, event.attempt, round(event.wait, 3)) for event in retried] == [
        ("flaky", (), 1, 0.02),
        ("flaky", (), 2, 0.06),
        ("flaky", (), 3, 0.1),
    ]
    assert [event.failure.message for event in retried] == ["try 1", "try 2", "try 3"]
    waited = [later - earlier for earlier, later in pairwise(at)]
    assert all(wait >= event.wait for wait, event in zip(waited, retried, strict=True))


def test_only_what_the_retry_names_is_tried_again(local: Local) -> None:
    calls: list[int] = []

    @step(retry=Retry(attempts=5, delay=0, on=(ConnectionError,)))
    def wrong() -> None:
        calls.append(1)
        raise ValueError("wrong")

    assert "wrong() raised ValueError: wrong at " in failure(local, flow(lambda_flow(wrong))())
    assert len(calls) == 1


@pytest.mark.parametrize("executor", ["threads", "inline"])
def test_an_item_that_fails_at_every_try_says_how_often_it_was_tried(tmp_path: Path, executor: Executor) -> None:
    @step(retry=Retry(attempts=3, delay=0))
    def fail(number: int) -> int:
        if number == 3:
            raise ValueError("never")
        return number

    @flow
    def failing():
        return steps.numbers(5).map(fail).agg(steps.count)

    local = Local(tmp_path, executor)
    assert "ValueError: never at " in (message := failure(local, failing()))
    assert message.endswith("(tried 3 times)")
    assert [(event.item, event.attempt) for event in local.of(StepRetried)] == [((3,), 1), ((3,), 2)]


# --- tolerated failures ---


@pytest.mark.parametrize(
    ("tolerate", "failing", "passes"),
    [
        (None, 0, True), (None, 1, False), (0, 1, False), (2, 2, True), (2, 3, False),
        (0.2, 2, True), (0.2, 3, False), (0.0, 1, False), (1.0, 10, True),
    ],
)  # fmt: skip
@pytest.mark.parametrize("executor", ["threads", "inline"])
def test_as_many_items_may_fail_as_the_map_tolerates(
    tmp_path: Path, executor: Executor, tolerate: int | float | None, failing: int, passes: bool
) -> None:
    @step
    def fail(number: int) -> int:
        if number < failing:
            raise ValueError(f"item {number} is bad")
        return number

    @flow
    def tolerant():
        return steps.numbers(10).map(fail, tolerate=tolerate).agg(steps.collect)

    local = Local(tmp_path, executor)
    if passes:
        assert local.run(tolerant()) == list(range(failing, 10))
        assert sorted(event.item for event in local.of(ItemFailed)) == [(index,) for index in range(failing)]
        [finished] = local.of(MapFinished)
        assert (finished.succeeded, finished.failed) == (10 - failing, failing)
    else:
        message = failure(local, tolerant())
        assert "failed in the map over numbers() (tolerated: " in message
        assert "fail() raised ValueError: item " in message
        assert isinstance(local.events[-1], RunFailed)


# --- time limits ---


@pytest.mark.parametrize("executor", ["threads", "inline"])
def test_a_step_that_takes_too_long_fails_and_the_others_go_on(tmp_path: Path, executor: Executor) -> None:
    local = Local(tmp_path, executor)
    began = time.monotonic()
    assert local.run(steps.too_slow(), {"log": str(tmp_path / "log")}) == [0, 1, 3, 4]
    assert time.monotonic() - began < 5
    [failed] = local.of(ItemFailed)
    assert (failed.item, failed.failure.error) == ((2,), "StepTimeoutError")
    assert failed.failure.message == "took longer than its timeout of 0.3 seconds"
    line = steps.sleepy.fn.__code__.co_firstlineno
    # The step, which is all that a deployed run can name, too; the traceback leads to where it slept.
    assert failed.failure.where == f"{steps.__file__}:{line}"
    assert f'File "{steps.__file__}", line {line + 4}, in sleepy' in failed.failure.traceback


@pytest.mark.parametrize("executor", ["threads", "inline"])
def test_a_step_that_took_too_long_is_tried_again(tmp_path: Path, executor: Executor) -> None:
    local = Local(tmp_path, executor)
    assert local.run(steps.slow_at_first(), {"log": str(tmp_path / "log")}) == [0, 1, 2, 3, 4]
    assert [(event.item, event.attempt) for event in local.of(StepRetried)] == [((2,), 1), ((2,), 2)]
    assert sorted(steps.noted(tmp_path / "log")) == ["0", "1", "2", "2", "2", "3", "4"]


def test_a_step_cannot_catch_that_its_time_is_up(local: Local) -> None:
    ended = threading.Event()

    @step(timeout=0.1)
    def stubborn() -> None:
        try:
            while True:
                with suppress(Exception):
                    time.sleep(0.01)
        finally:
            ended.set()

    assert "StepTimeoutError" in failure(local, flow(lambda_flow(stubborn))())
    assert ended.wait(5)


@pytest.mark.parametrize("executor", ["threads", "inline"])
@pytest.mark.parametrize("graph", [steps.late_in_map(), steps.late_in_step()])
def test_a_run_ends_when_the_flows_time_is_up(tmp_path: Path, executor: Executor, graph: FlowGraph) -> None:
    local = Local(tmp_path, executor)
    began = time.monotonic()
    assert failure(local, graph) == "the run took longer than the flow's timeout of 0.3 seconds."
    assert time.monotonic() - began < 5


def test_the_flows_time_ends_a_wait_for_the_next_try(local: Local) -> None:
    @step(retry=Retry(attempts=2, delay=30))
    def fail(number: int = 0) -> int:
        raise ValueError

    @flow(timeout=0.3)
    def waiting():
        return fail(1)

    @flow(timeout=0.3)
    def waiting_in_map():
        return steps.numbers(3).map(fail).agg(steps.count)

    began = time.monotonic()
    for graph in (waiting(), waiting_in_map()):
        assert failure(local, graph) == "the run took longer than the flow's timeout of 0.3 seconds."
    assert time.monotonic() - began < 5


# --- the environment of steps ---


@pytest.mark.parametrize("executor", ["threads", "inline"])
def test_a_step_has_its_environment_while_it_runs(
    tmp_path: Path, executor: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BIRD", "mine")
    assert Local(tmp_path, executor).run(steps.with_environment()) == ["goose"] * 3
    assert steps.os.environ["BIRD"] == "mine"


def test_inner_steps_with_different_environments_need_processes_or_inline(tmp_path: Path) -> None:
    assert Local(tmp_path, "inline").run(steps.with_two_environments()) == [["goose", "duck"]] * 3
    assert failure(Local(tmp_path), steps.with_two_environments()) == (
        "read_other_bird() wants BIRD='duck', another step of the same map block 'goose'; threads share one "
        "environment. Use the executor 'processes'."
    )


# --- bad input ---


def test_parameters_that_do_not_fit_leave_no_run_behind(local: Local) -> None:
    with pytest.raises(ParameterError, match="unknown parameter 'goose'"):
        local.run(steps.doubled(), {"goose": 1})
    assert not (local.root / "runs").exists()


@pytest.mark.parametrize(
    ("options", "message"), [({"executor": "fast"}, "no executor 'fast'"), ({"workers": 0}, "workers=0")]
)
def test_a_runner_refuses_what_it_cannot_do(options: dict[str, object], message: str) -> None:
    with pytest.raises(RunError, match=message):
        LocalRunner(**options)  # type: ignore[arg-type]


def test_a_run_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LokkiError, match="cannot be made"):
        Local(tmp_path / "file").run(steps.doubled())


def test_steps_that_wait_run_32_at_a_time_by_default(tmp_path: Path) -> None:
    everybody = threading.Barrier(32, timeout=60)

    @step
    def meet(number: int) -> int:
        everybody.wait()
        return number

    @flow
    def meeting():
        return steps.numbers(64).map(meet).agg(steps.total)

    assert LocalRunner(root=tmp_path).run(meeting()) == sum(range(64))


def test_steps_may_change_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()

    @step
    def wander(number: int) -> int:
        monkeypatch.chdir(tmp_path / "elsewhere")
        return number

    @flow
    def wandering():
        return steps.numbers(4).map(wander).agg(steps.total)

    assert Local(Path("relative")).run(wandering()) == 6
    assert not list((tmp_path / "elsewhere").iterdir())
