"""Events and failures: what a user is told of an error in a step."""

import asyncio
import json
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lokki.base.failures import Failure, failure_of, users_place
from lokki.engine.events import CodeChanged, ItemFailed, RunStarted, StepRetried, event_to_json


def raised(code: object) -> BaseException:
    try:
        code()  # type: ignore[operator]
    except BaseException as error:
        return error
    raise AssertionError("it did not raise")


def line_of(offset: int, function: object) -> str:
    return f"{__file__}:{function.__code__.co_firstlineno + offset}"  # type: ignore[attr-defined]


def test_a_failure_is_one_sentence() -> None:
    assert str(Failure("flap", "ValueError", "no", "birds.py:3")) == "flap() raised ValueError: no at birds.py:3"
    assert str(Failure("flap", "ValueError", "")) == "flap() raised ValueError"
    assert str(Failure("flap", "Late", "x", attempts=3)) == "flap() raised Late: x (tried 3 times)"


def test_a_failure_names_the_users_line_not_the_librarys() -> None:
    def parse() -> None:
        json.loads("[goose")

    failure = failure_of("parse", raised(parse))
    assert (failure.step, failure.error, failure.where) == ("parse", "JSONDecodeError", line_of(1, parse))
    assert "decoder.py" in failure.traceback


def test_an_error_without_a_line_of_the_users_is_at_the_steps_definition() -> None:
    error = ValueError("no")
    assert failure_of("flap", error, 2, "birds.py:3").where == "birds.py:3"
    assert failure_of("flap", error).where == ""
    assert users_place(None) == ""


def test_code_beside_lokki_is_the_users(tmp_path: Path) -> None:
    """A project in a folder whose name begins like lokki's is not lokki."""
    import lokki

    beside = str(Path(lokki.__file__).parent) + "_flows/birds.py"
    code = compile("def fail():\n    raise ValueError", beside, "exec")
    names: dict[str, object] = {}
    exec(code, names)
    failure = failure_of("fail", raised(names["fail"]))
    assert failure.where == f"{beside}:2"
    assert beside in failure.traceback


def test_causes_and_contexts_are_shown_without_lokkis_frames() -> None:
    def fail() -> None:
        try:
            raise KeyError("goose")
        except KeyError as error:
            raise ValueError("no bird") from error

    text = failure_of("fail", raised(fail)).traceback
    assert "KeyError: 'goose'" in text
    assert "direct cause" in text
    assert "ValueError: no bird" in text


def test_errors_that_cannot_be_shown_and_odd_ones_are_described() -> None:
    class SilentError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    def silent() -> None:
        raise SilentError

    def cancelled() -> None:
        raise asyncio.CancelledError("stop")

    assert failure_of("s", raised(silent)).message == "(its text cannot be shown: str() raised RuntimeError)"
    assert failure_of("s", raised(cancelled)).error == "CancelledError"


@given(st.text(st.characters()))
@example("bad \udc80")
def test_the_text_of_every_failure_can_be_written_to_a_file(text: str) -> None:
    def fail() -> None:
        raise ValueError(text) from OSError(text)

    failure = failure_of("s", raised(fail), 1, text)
    assert str(event_to_json(ItemFailed("get", (0,), failure))).encode()
    assert failure.message == text.encode("utf-8", "backslashreplace").decode()


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (CodeChanged("flap"), {"event": "code_changed", "step": "flap", "items": None}),
        (
            RunStarted("birds", "one", {"n": [1, None]}, True, "f"),
            {
                "event": "run_started", "flow": "birds", "run_id": "one", "params": {"n": [1, None]}, "resumed": True,
                "folder": "f",
            },
        ),
    ],
)  # fmt: skip
def test_an_event_is_a_json_object(event: CodeChanged | RunStarted, expected: object) -> None:
    assert event_to_json(event) == expected


@given(st.integers(), st.text(), st.floats(0, 100))
def test_every_event_with_a_failure_is_json(index: int, text: str, wait: float) -> None:
    failure = Failure("flap", "ValueError", text)
    for event in (ItemFailed("get", (index,), failure), StepRetried("flap", (index,), 1, wait, failure)):
        assert event_to_json(event)["failure"]["message"] == text  # type: ignore[index,call-overload]
