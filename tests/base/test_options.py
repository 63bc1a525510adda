"""Options of steps, maps and flows: what makes sense is kept, what does not is refused when it is written."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lokki.base.options import FlowOptions, MapOptions, Retry, StepOptions
from lokki.errors import FlowError


def test_a_retry_waits_longer_each_time_up_to_the_most() -> None:
    retry = Retry(attempts=6, delay=1, backoff=3, max_delay=20)
    assert [retry.wait(failed) for failed in range(1, 6)] == [1, 3, 9, 20, 20]


@given(
    st.integers(1, 100),
    st.floats(0, 1e6),
    st.floats(1, 1e300),
    st.floats(0, 1e6),
)
def test_a_wait_is_never_above_the_most_nor_below_zero(failed: int, delay: float, backoff: float, most: float) -> None:
    assert 0 <= Retry(delay=delay, backoff=backoff, max_delay=most).wait(failed) <= most


def test_a_retry_matches_instances_of_its_classes() -> None:
    retry = Retry(on=(ConnectionError, KeyError))
    assert [retry.matches(error) for error in (ConnectionResetError(), KeyError(), ValueError(), SystemExit())] == [
        True,
        True,
        False,
        False,
    ]


def test_more_items_than_tolerated_are_too_many() -> None:
    assert [MapOptions().too_many(failed, 10) for failed in (0, 1)] == [False, True]
    assert [MapOptions(tolerate=2).too_many(failed, 10) for failed in (2, 3)] == [False, True]
    assert [MapOptions(tolerate=0.5).too_many(failed, 10) for failed in (5, 6)] == [False, True]
    assert [MapOptions(tolerate=0.0).too_many(failed, 10) for failed in (0, 1)] == [False, True]
    assert not MapOptions(tolerate=0.5).too_many(0, 0)


@given(st.integers(1, 10_000), st.data())
def test_a_share_tolerates_exactly_that_many(total: int, data: st.DataObject) -> None:
    failed = data.draw(st.integers(0, total))
    options = MapOptions(tolerate=failed / total)
    assert not options.too_many(failed, total)
    assert failed == total or options.too_many(failed + 1, total)


def test_hundredths_are_tolerated_as_written() -> None:
    assert [n for n in range(101) if MapOptions(tolerate=float(f"{n / 100:.2f}")).too_many(n, 100)] == []


def test_variables_of_a_step_are_copied() -> None:
    env = {"REGION": "eu-north-1"}
    options = StepOptions(env=env)
    env["REGION"] = "elsewhere"
    assert options == StepOptions(env={"REGION": "eu-north-1"})


def test_good_options_are_kept() -> None:
    assert dataclasses.asdict(StepOptions(memory=10240, timeout=0.5, dependencies=("pandas>=2",))) == {
        "memory": 10240,
        "timeout": 0.5,
        "retry": None,
        "env": {},
        "dependencies": ("pandas>=2",),
        "disk": None,
        "memory_max": None,
        "permissions": (),
        "secrets": {},
        "layers": (),
        "reserved_concurrency": None,
        "resources": {},
        "seconds": None,
    }
    assert FlowOptions("cron(0 6 * * ? *)", "Europe/Helsinki", 3600).timezone == "Europe/Helsinki"
    assert FlowOptions("rate(5 minutes)").schedule == "rate(5 minutes)"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Retry(attempts=0), "Retry(attempts=0): give the number of tries, 1 to 100, the first included."),
        (lambda: Retry(attempts=True), "Retry(attempts=True): give the number of tries, 1 to 100, the first included."),
        (lambda: Retry(attempts=101), "Retry(attempts=101): give the number of tries, 1 to 100, the first included."),
        (lambda: Retry(delay=-1), "Retry(delay=-1): give a number of at least 0."),
        (lambda: Retry(backoff=0.5), "Retry(backoff=0.5): give a number of at least 1."),
        (lambda: Retry(max_delay=float("inf")), "Retry(max_delay=inf): give a number of at least 0."),
        (
            lambda: Retry(on=()),
            "Retry(on=()): give classes of exceptions, such as on=(ConnectionError,).",
        ),
        (
            lambda: Retry(on=KeyError),  # type: ignore[arg-type]
            "Retry(on=<class 'KeyError'>): give classes of exceptions, such as on=(ConnectionError,).",
        ),
        (
            lambda: Retry(on=(KeyboardInterrupt,)),  # type: ignore[arg-type]
            "Retry(on=(<class 'KeyboardInterrupt'>,)): give classes of exceptions, such as on=(ConnectionError,).",
        ),
        (lambda: StepOptions(memory=64), "@step(memory=64): give whole megabytes, 128 to 10240, as AWS Lambda offers."),
        (
            lambda: StepOptions(memory=1024, memory_max=1024),
            (
                "@step(memory=1024, memory_max=1024): memory_max is for another try after one that ran out of memory: "
                "give more than memory."
            ),
        ),
        (
            lambda: StepOptions(memory_max=10241),
            "@step(memory_max=10241): give whole megabytes, 128 to 10240, as AWS Lambda offers.",
        ),
        (lambda: StepOptions(disk=511), "@step(disk=511): give whole megabytes, 512 to 10240, as AWS Lambda offers."),
        (lambda: StepOptions(timeout=0), "@step(timeout=0): give seconds, above 0 and at most 1800, Lambda's longest."),
        (lambda: StepOptions(seconds=0), "@step(seconds=0): give the seconds that one call takes, above 0."),
        (
            lambda: StepOptions(seconds="0.2"),  # type: ignore[arg-type]
            "@step(seconds='0.2'): give the seconds that one call takes, above 0.",
        ),
        (
            lambda: StepOptions(timeout=1801),
            "@step(timeout=1801): give seconds, above 0 and at most 1800, Lambda's longest.",
        ),
        (
            lambda: StepOptions(retry=3),  # type: ignore[arg-type]
            "@step(retry=3): give a Retry, such as retry=Retry(attempts=3).",
        ),
        (
            lambda: StepOptions(env={"A": 1}),  # type: ignore[dict-item]
            "@step(env={'A': 1}): give a dict of strings, such as env={'REGION': 'eu-north-1'}.",
        ),
        (
            lambda: StepOptions(env={"1A": ""}),
            (
                "@step(env=…): '1A' cannot name a variable: AWS takes two or more ASCII letters, digits and '_', a "
                "letter first."
            ),
        ),
        (
            lambda: StepOptions(env={"AWS_REGION": "x"}),
            "@step(env=…): 'AWS_REGION' is set by AWS Lambda or lokki itself. Use another name.",
        ),
        (
            lambda: StepOptions(env={"LOKKI_FLOW_NAME": "x"}),
            "@step(env=…): 'LOKKI_FLOW_NAME' is set by AWS Lambda or lokki itself. Use another name.",
        ),
        (
            lambda: StepOptions(env={"A": "1"}),
            (
                "@step(env=…): 'A' cannot name a variable: AWS takes two or more ASCII letters, digits and '_', a "
                "letter first."
            ),
        ),
        (
            lambda: StepOptions(env={"FÅGEL": "1"}),
            (
                "@step(env=…): 'FÅGEL' cannot name a variable: AWS takes two or more ASCII letters, digits and '_', a "
                "letter first."
            ),
        ),
        (
            lambda: StepOptions(env={"AWS_XRAY_DAEMON_ADDRESS": "x"}),
            "@step(env=…): 'AWS_XRAY_DAEMON_ADDRESS' is set by AWS Lambda or lokki itself. Use another name.",
        ),
        (
            lambda: StepOptions(env={"NAMES": "å" * 2050}),
            (
                "@step(env=…): the variables have 4,105 bytes together; Lambda takes 4,096. Keep large settings in a "
                "file of the project."
            ),
        ),
        (
            lambda: StepOptions(env={"BIRD": "duck\0"}),
            "@step(env=…): 'BIRD' has a value that is no text for a variable: it holds NUL or half a character.",
        ),
        (
            lambda: StepOptions(env={"BIRD": "\ud83e"}),
            "@step(env=…): 'BIRD' has a value that is no text for a variable: it holds NUL or half a character.",
        ),
        (
            lambda: StepOptions(dependencies=(1,)),  # type: ignore[arg-type]
            "@step(dependencies=(1,)): give a list, such as dependencies=['pandas>=2'].",
        ),
        (lambda: MapOptions(concurrency=0), ".map(concurrency=0): give a whole number of at least 1."),
        (lambda: MapOptions(batch=1.5), ".map(batch=1.5): give a whole number of at least 1."),  # type: ignore[arg-type]
        (
            lambda: MapOptions(tolerate=1.5),
            ".map(tolerate=1.5): give how many items may fail, as a number (tolerate=5) or as a share (tolerate=0.05).",
        ),
        (
            lambda: MapOptions(tolerate=-1),
            ".map(tolerate=-1): give how many items may fail, as a number (tolerate=5) or as a share (tolerate=0.05).",
        ),
        (
            lambda: FlowOptions(schedule="daily"),
            (
                "@flow(schedule='daily'): give 'rate(1 hour)' or 'cron(0 6 * * ? *)' "
                "(minutes, hours, day of month, month, day of week, year)."
            ),
        ),
        (
            lambda: FlowOptions(timezone="Europe/Helsinki"),
            "@flow(timezone=…) is the time zone of a schedule: give schedule= too.",
        ),
        (
            lambda: FlowOptions(schedule="rate(1 hour)", timezone=3),  # type: ignore[arg-type]
            "@flow(timezone=3): give a time zone's name, such as 'Europe/Helsinki'.",
        ),
        (
            lambda: FlowOptions(max_cost=float("inf")),
            "@flow(max_cost=inf): give the dollars that one run may cost, above 0.",
        ),
        (
            lambda: FlowOptions(max_cost=True),
            "@flow(max_cost=True): give the dollars that one run may cost, above 0.",
        ),
        (
            lambda: FlowOptions(timeout=-1),
            "@flow(timeout=-1): give the seconds that a whole run may take, above 0.",
        ),
    ],
)
def test_options_that_make_no_sense_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(FlowError) as error:
        make()
    assert str(error.value) == message
