"""Calling a step: arguments made anew for each call, tries and waits, limits on time."""

import datetime
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from lokki import Retry, flow, step
from lokki.base.failures import Failure
from lokki.engine.invocation import Attempts, Invocation, StepFailedError, StoppedError, prepare, run
from lokki.errors import ParameterError
from lokki.plan import lower
from lokki.plans.operations import Call


@dataclass
class Outside:
    """What an invocation needs from outside, noted."""

    slept: list[float] = field(default_factory=list)
    limited: list[float] = field(default_factory=list)
    retried: list[tuple[str, int, float, str]] = field(default_factory=list)

    @property
    def attempts(self) -> Attempts:
        def limit(function: Callable[[], object], seconds: float) -> object:
            self.limited.append(seconds)
            return function()

        def tell(step: str, attempt: int, wait: float, failure: Failure) -> None:
            self.retried.append((step, attempt, wait, failure.message))

        return Attempts(self.slept.append, limit, tell)


def invocation(fn: Callable[..., object], retry: Retry | None = None, timeout: float | None = None) -> Invocation:
    return Invocation("flap", fn, True, lambda values: ([], {}), retry, timeout, {})


def failing(times: int, error: type[BaseException] = ConnectionResetError) -> Callable[[object], object]:
    left = [times]

    def fn(value: object) -> object:
        left[0] -= 1
        if left[0] >= 0:
            raise error(f"left {left[0]}")
        return value

    return fn


def test_a_step_that_succeeds_is_called_once() -> None:
    outside = Outside()
    assert run(invocation(lambda value: [value]), 5, outside.attempts) == [5]
    assert outside == Outside()


def test_waits_follow_the_retry_and_no_wait_follows_the_last_try() -> None:
    outside = Outside()
    retry = Retry(attempts=4, delay=1, backoff=2, max_delay=3, on=(OSError,))
    with pytest.raises(StepFailedError) as caught:
        run(invocation(failing(4), retry), 5, outside.attempts)
    assert outside.slept == [1, 2, 3]
    assert outside.retried == [("flap", 1, 1, "left 3"), ("flap", 2, 2, "left 2"), ("flap", 3, 3, "left 1")]
    assert (caught.value.failure.attempts, caught.value.failure.message) == (4, "left 0")
    assert isinstance(caught.value.__cause__, ConnectionResetError)
    assert run(invocation(failing(3), retry), 5, Outside().attempts) == 5


def test_tries_that_were_used_up_elsewhere_count() -> None:
    outside = Outside()
    retry = Retry(attempts=3, delay=1, backoff=2)
    with pytest.raises(StepFailedError):
        run(invocation(failing(9), retry), 5, outside.attempts, 1)
    assert outside.retried == [("flap", 2, 2, "left 8")]


def test_only_errors_that_the_retry_names_are_tried_again() -> None:
    for error in (ValueError, SystemExit, GeneratorExit):
        outside = Outside()
        with pytest.raises(StepFailedError) as caught:
            run(invocation(failing(1, error), Retry(on=(OSError,))), 5, outside.attempts)
        assert (caught.value.failure.error, outside.retried) == (error.__name__, [])


def test_each_further_try_gets_the_value_anew() -> None:
    def take_all(value: list[int]) -> list[int]:
        taken = [value.pop() for _ in range(2)]
        if tries.append(taken) or len(tries) < 3:
            raise ConnectionResetError
        return taken

    tries: list[list[int]] = []
    retry = Retry(attempts=3, on=(OSError,))
    assert run(invocation(take_all, retry), [1, 2], Outside().attempts, fresh_value=lambda: [1, 2]) == [2, 1]
    assert tries == [[2, 1]] * 3


@pytest.mark.parametrize("error", [KeyboardInterrupt, StoppedError])
def test_what_ends_the_run_is_no_failure_of_the_step(error: type[BaseException]) -> None:
    with pytest.raises(error):
        run(invocation(failing(1, error), Retry()), 5, Outside().attempts)


def test_each_try_is_limited() -> None:
    outside = Outside()
    assert run(invocation(failing(2), Retry(delay=0), timeout=7), 5, outside.attempts) == 5
    assert outside.limited == [7, 7, 7]


@step
def fly(bird: str, days: list[datetime.date], height: float = 1.0) -> object:
    days.append(datetime.date(2000, 1, 1))
    return (bird, days, height)


@step
def bird() -> str:
    return "goose"


@flow
def flying(day: datetime.date, height: float = 2.5):
    return bird().next(fly(days=[day], height=height))


def call_of(graph_params: dict[str, object]) -> tuple[Call, dict[str, object]]:
    return list(lower(flying()).calls)[1], graph_params


def test_arguments_are_converted_and_made_anew_for_each_call() -> None:
    call, params = call_of({"day": "2026-01-01", "height": 3})
    prepared = prepare(call, fly, params)  # type: ignore[arg-type]
    for _ in range(2):
        name, days, height = prepared("duck")  # type: ignore[misc]
        assert (name, days, height) == ("duck", [datetime.date(2026, 1, 1), datetime.date(2000, 1, 1)], 3.0)
        assert type(height) is float
    assert prepared.defined_at == f"{__file__}:{fly.fn.__code__.co_firstlineno}"


def test_a_parameter_of_the_wrong_type_is_named_before_anything_runs() -> None:
    call, params = call_of({"day": "someday", "height": 3})
    with pytest.raises(ParameterError, match=r"the argument 'days' of fly\(\) is "):
        prepare(call, fly, params)  # type: ignore[arg-type]
