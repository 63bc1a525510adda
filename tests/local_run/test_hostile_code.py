"""Whatever the code of users raises, wherever lokki calls it: a failure of that step or item, and the run says so."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.command import Place
from support.local_runs import EXECUTORS, Local

from lokki import flow, step
from lokki.base.failures import Failure, failure_of
from lokki.engine.events import ItemFailed, RunFailed, StepFailed
from lokki.errors import LokkiError, RunError
from lokki.graph import FlowGraph
from lokki.runner import Executor


class Odd(BaseException):
    """As the exceptions of Rust extensions are, which end a thread that panics."""


class UnspeakableError(Exception):
    def __str__(self) -> str:
        raise Odd

    __repr__ = __str__


class Liar(str):
    """Text whose methods are not those of text."""

    __slots__ = ()

    def encode(self, encoding: str = "", errors: str = "") -> bytes:
        raise Odd

    def __format__(self, spec: str) -> str:
        raise Odd


class UntidyError(Exception):
    @property
    def __notes__(self) -> list[str]:
        raise Odd

    def __str__(self) -> str:
        return Liar("untidy")


class TwistedError(Exception):
    @property
    def __traceback__(self) -> None:
        raise Odd


ERRORS: dict[str, Callable[[], BaseException]] = {
    "os": lambda: FileNotFoundError(2, "No such file or directory", "/nonexistent/x"),
    "runtime": lambda: RuntimeError("cannot restore"),
    "exit": lambda: SystemExit(3),
    "generator": GeneratorExit,
    "odd": lambda: Odd("odd"),
    "unspeakable": UnspeakableError,
    "untidy": UntidyError,
    "twisted": TwistedError,
    "run": lambda: RunError("mine"),
    "recursion": RecursionError,
    "stop": StopIteration,
    "import": lambda: ImportError("no driver"),
    "attribute": lambda: AttributeError("no attribute"),
    "group": lambda: ExceptionGroup("several", [ValueError("one"), UnspeakableError()]),
}


class Unpicklable:
    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __reduce__(self) -> str:
        raise ERRORS[self.kind]()


class Ununpicklable:
    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __setstate__(self, state: dict[str, str]) -> None:
        raise ERRORS[state["kind"]]()


class Hostile:
    """An object of which nothing can be asked."""

    def _refuse(self, *args: object) -> bool:
        raise Odd

    __eq__ = __len__ = __bool__ = __iter__ = __getitem__ = __contains__ = __str__ = __repr__ = __format__ = _refuse  # type: ignore[assignment]
    __hash__ = None  # type: ignore[assignment]
    __class__ = property(_refuse)  # type: ignore[assignment]

    def __getattr__(self, name: str) -> object:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        raise Odd

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return Hostile, ()


@step
def kinds() -> list[int]:
    return [0, 1]


@step
def raises(number: int, kind: str) -> int:
    if number:
        raise ERRORS[kind]()
    return number


@step
def alone(kind: str) -> object:
    raise ERRORS[kind]()


@step
def unpicklable(number: int, kind: str) -> object:
    return Unpicklable(kind) if number else number


@step
def ununpicklable(number: int, kind: str) -> object:
    return Ununpicklable(kind) if number else number


@step
def items(kind: str) -> list[object]:
    return [0, Ununpicklable(kind)]


@step
def stopping(kind: str) -> Iterator[int]:
    yield 0
    raise ERRORS[kind]()


@step
def keep(value: object) -> int:
    return 1


@step
def count(values: list[object]) -> int:
    return len(values)


@step
def hostile(number: int) -> object:
    return Hostile()


@flow
def raising_flow(kind: str):
    return kinds().map(raises(kind=kind), tolerate=1).agg(count)


@flow
def alone_flow(kind: str):
    return alone(kind)


@flow
def unpicklable_flow(kind: str):
    return kinds().map(unpicklable(kind=kind), tolerate=1).agg(count)


@flow
def between_flow(kind: str):
    return kinds().map(ununpicklable(kind=kind), tolerate=1).next(keep).agg(count)


@flow
def items_flow(kind: str):
    return items(kind).map(keep, tolerate=1).agg(count)


@flow
def stopping_flow(kind: str):
    return stopping(kind).map(keep).agg(count)


@flow
def results_flow(kind: str):
    return kinds().map(ununpicklable(kind=kind)).agg(count)


@flow
def handed_on_flow(kind: str):
    return alone_object(kind).next(keep)


@step
def alone_object(kind: str) -> object:
    return Ununpicklable(kind)


@flow
def hostile_flow():
    return kinds().map(hostile).next(hostile_again).agg(count)


@step
def hostile_again(value: object) -> object:
    return value


@pytest.fixture
def local(tmp_path: Path) -> Local:
    return Local(tmp_path)


def is_a_line(text: str) -> bool:
    return "\n" not in text.strip()


@pytest.mark.parametrize("kind", ERRORS)
def test_any_error_has_a_description(kind: str) -> None:
    try:
        raise ERRORS[kind]()
    except BaseException as error:
        failure = failure_of("a", error, 1, "a.py:1")
    assert all(type(text) is str for text in (failure.message, failure.error, failure.traceback, str(failure)))
    assert failure.error == type(ERRORS[kind]()).__qualname__
    assert failure.traceback != ""
    assert is_a_line(str(failure))


@pytest.mark.parametrize("kind", ERRORS)
@pytest.mark.parametrize(
    "graph", [raising_flow, unpicklable_flow, between_flow, items_flow], ids=lambda flow: flow.name
)
@pytest.mark.parametrize("executor", ["threads", "inline"])
def test_only_the_item_fails(local: Local, executor: Executor, graph: Callable[..., FlowGraph], kind: str) -> None:
    local.executor = executor
    assert local.run(graph(), {"kind": kind}) == 1
    [failed] = local.of(ItemFailed)
    assert (failed.item, is_a_line(str(failed.failure))) == ((1,), True)
    with_place = {"raising-flow": failed.failure.error == type(ERRORS[kind]()).__qualname__}
    assert with_place.get(local.events[0].flow, True)


@pytest.mark.parametrize("kind", ["os", "exit", "odd", "unspeakable"])
@pytest.mark.parametrize(
    "graph", [raising_flow, unpicklable_flow, between_flow, items_flow], ids=lambda flow: flow.name
)
def test_only_the_item_fails_on_worker_processes(local: Local, graph: Callable[..., FlowGraph], kind: str) -> None:
    local.executor = "processes"
    assert local.run(graph(), {"kind": kind}) == 1
    assert [event.item for event in local.of(ItemFailed)] == [(1,)]


@pytest.mark.parametrize("kind", ERRORS)
@pytest.mark.parametrize("graph", [alone_flow, stopping_flow], ids=lambda flow: flow.name)
def test_a_step_that_runs_once_fails(local: Local, graph: Callable[..., FlowGraph], kind: str) -> None:
    with pytest.raises(RunError) as caught:
        local.run(graph(), {"kind": kind})
    [failed] = local.of(StepFailed)
    assert str(caught.value) == str(failed.failure)
    assert [event.message for event in local.of(RunFailed)] == [str(caught.value)]


@pytest.mark.parametrize("kind", ERRORS)
@pytest.mark.parametrize("graph", [results_flow, handed_on_flow], ids=lambda flow: flow.name)
def test_a_result_that_cannot_be_read_is_named_in_a_line(
    local: Local, graph: Callable[..., FlowGraph], kind: str
) -> None:
    with pytest.raises(LokkiError) as caught:
        local.run(graph(), {"kind": kind}, "r")
    assert re.search(r"(kinds|alone_object)/(map_results/part-000\d|output)\.pkl\.gz", str(caught.value))
    assert is_a_line(str(caught.value))
    assert type(ERRORS[kind]()).__qualname__ in str(caught.value)
    assert [event.message for event in local.of(RunFailed)] == [str(caught.value)]


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_value_that_raises_at_every_touch_travels(local: Local, executor: Executor) -> None:
    local.executor = executor
    assert local.run(hostile_flow()) == 2


# ---- what is printed


def test_a_message_of_several_lines_is_one_line_where_one_is_wanted() -> None:
    failure = Failure("a", "ValueError", "\nbad:\n1\n2", "a.py:1")
    assert str(failure) == "a() raised ValueError: bad: … at a.py:1"


SHOWN = """
from lokki import flow, main, step

class Thing:
    def __str__(self):
        raise {error}
    __repr__ = __str__

def nested(depth):
    found = []
    for _ in range(depth):
        found = [found]
    return found

@step
def get():
    return {result}

@flow
def a_flow():
    return get()

if __name__ == "__main__":
    main(a_flow)
"""


@pytest.mark.parametrize(
    ("result", "error"),
    [
        ("Thing()", "RuntimeError('no str for you')"),
        ("[Thing()]", "SystemExit(0)"),
        ("{'a': Thing()}", "ValueError('a\\nb')"),
        ("nested(3000)", "Exception"),
    ],
)
def test_a_result_that_cannot_be_shown_is_kept(tmp_path: Path, result: str, error: str) -> None:
    place = Place(tmp_path)
    place.write("shown.py", SHOWN.format(error=error, result=result))
    ran = place.run("shown.py", "run", "--run-id", "r")
    assert (ran.code, ran.out) == (1, "")
    assert re.fullmatch(
        r"error: the result cannot be shown: \w+(: .*)?; the result is kept: "
        r"write it to a file with: python shown.py run --resume r --output FILE",
        ran.lines[-1],
    )
    assert "Traceback" not in ran.err
    again = place.run("shown.py", "run", "--resume", "r", "--output", "result.pkl")
    assert (again.code, (tmp_path / "result.pkl").exists()) == (0, True)
    as_json = place.run("shown.py", "run", "--resume", "r", "--output", "result.json")
    assert (as_json.code, "the result is kept" in as_json.lines[-1], "Traceback" in as_json.err) == (1, True, False)


@pytest.mark.parametrize(
    ("result", "out"),
    [
        ("2**20000", None),
        ("[2**20000, -2**20000]", None),
        ("{2**20000}", None),
        ("'\\ud800'", "\\ud800\n"),
        ("2**70", f"{2**70}\n"),
        ("{2**70: 1}", f'{{\n  "{2**70}": 1\n}}\n'),
    ],
)
def test_a_result_that_is_hard_to_show_is_shown(tmp_path: Path, result: str, out: str | None) -> None:
    place = Place(tmp_path)
    place.write("shown.py", SHOWN.format(error="Exception", result=result))
    ran = place.run("shown.py", "run", "--quiet")
    assert (ran.code, ran.err) == (0, "")
    if isinstance(out, str):
        assert ran.out == out
    else:
        assert max(map(len, re.findall(r"\d+", ran.out))) == 6021


MULTILINE = """
from lokki import flow, main, step

@step
def numbers() -> list[int]:
    return [1]

@step
def bad(number: int) -> int:
    raise ValueError("first line\\n  sec" + "ond line\\nthird line")

@step
def count(found: list[int]) -> int:
    return len(found)

@flow
def a_flow():
    return numbers().map(bad).agg(count)

if __name__ == "__main__":
    main(a_flow)
"""


def test_a_message_of_several_lines_is_printed_once(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.write("lines.py", MULTILINE)
    ran = place.run("lines.py", "run", "--run-id", "r")
    assert (ran.code, ran.err.count("second line")) == (1, 1)
    assert (
        "error: item 0 failed in the map over numbers() (tolerated: none); "
        "bad() raised ValueError: first line … at lines.py:10" in ran.lines
    )


def test_an_import_that_fails_with_an_unspeakable_error_is_told(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.write(
        "odd.py",
        "class E(Exception):\n    def __str__(self):\n        raise KeyError\nfrom lokki import main\nraise E\n",
    )
    ran = place.run("lokki", "run", "odd.py")
    assert ran.code == 1
    assert ran.lines[-1] == "error: odd.py:5: E: (its text cannot be shown: str() raised KeyError)"


# ---- logging


LOGGING = """
import logging
from lokki import flow, main, step

class HalfMade:
    def __str__(self):
        return self.name

@step
def numbers() -> list[int]:
    logging.getLogger("half").info("got %s", HalfMade())
    return [1, 2]

@step
def log(number: int) -> int:
    logging.getLogger("half").info("got %s", HalfMade())
    return number

@step
def count(found: list[int]) -> int:
    return len(found)

@flow
def a_flow():
    return numbers().map(log).agg(count)

if __name__ == "__main__":
    main(a_flow)
"""


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_log_record_whose_text_raises_fails_nothing(tmp_path: Path, executor: str) -> None:
    place = Place(tmp_path)
    place.write("logs.py", LOGGING)
    ran = place.run("logs.py", "run", "--executor", executor)
    assert (ran.code, ran.out) == (0, "2\n")
    assert ran.err.count("--- Logging error ---") == 3
    assert "AttributeError: 'HalfMade' object has no attribute 'name'" in ran.err
