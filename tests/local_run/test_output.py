"""What steps print and log is taken in whole lines, with the step and the item that it came from."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lokki.engine.context import at_item
from lokki.engine.events import StepOutput
from lokki.local_run.levels import LogLevels
from lokki.local_run.output import LONGEST_LINE, Lines, capture_streams


@dataclass
class Capture:
    """What was handed on, and where the real streams would have written."""

    events: list[StepOutput] = field(default_factory=list)
    real: io.StringIO = field(default_factory=io.StringIO)

    @property
    def lines(self) -> list[str]:
        return [event.text for event in self.events]


@contextmanager
def captured(level: int = logging.INFO, handlers: tuple[logging.Handler, ...] = ()) -> Iterator[Capture]:
    """Capture with a logging set-up of its own, as in a program that has just started."""
    capture = Capture()
    root = logging.getLogger()
    before, level_before = list(root.handlers), root.level
    root.handlers[:] = handlers
    root.setLevel(logging.WARNING)
    streams = sys.stdout, sys.stderr
    end = capture_streams(capture.events.append, LogLevels(level, level))
    try:
        yield capture
    finally:
        end()
        assert (sys.stdout, sys.stderr) == streams
        assert root.handlers == list(handlers)
        root.handlers[:] = before
        root.setLevel(level_before)
        at_item("", ())


@given(st.lists(st.text("ab\n", max_size=9), max_size=9))
def test_lines_are_the_same_however_the_text_comes_in(pieces: list[str]) -> None:
    lines = Lines()
    found = [line for piece in pieces for line in lines.feed(piece)]
    rest = lines.rest()
    assert "\n".join([*found, rest or ""]) == "".join(pieces)


@given(st.lists(st.text("ab\r\n", max_size=9), max_size=9))
def test_of_a_line_drawn_over_the_last_state_is_kept(pieces: list[str]) -> None:
    lines = Lines()
    found = [line for piece in pieces for line in lines.feed(piece)]
    *whole, _ = "".join(pieces).split("\n")
    assert found == [line.rstrip("\r").rpartition("\r")[2] for line in whole]


def test_a_line_without_end_is_cut_and_nothing_is_lost() -> None:
    lines = Lines()
    found = [line for _ in range(5) for line in lines.feed("x" * (LONGEST_LINE // 2 + 1))]
    assert [len(line) for line in found] == [LONGEST_LINE + 2, LONGEST_LINE + 2]
    assert lines.rest() == "x" * (LONGEST_LINE // 2 + 1)


def test_a_long_line_and_its_end_are_one_line() -> None:
    lines = Lines()
    text = "x" * (LONGEST_LINE + 1)
    assert lines.feed(text) + lines.feed("\n") + lines.feed("\n") == [text, ""]


def test_a_progress_bar_without_end_does_not_fill_the_memory() -> None:
    lines = Lines()
    for number in range(30_000):
        assert lines.feed(f"\r{number:100}") == []
    assert lines.feed("\n") == [f"{29999:100}"]


def test_prints_carry_their_step_and_item() -> None:
    with captured() as capture:
        at_item("load", ())
        print("one", 1)
        at_item("work", (17,))
        print("two\nthree", file=sys.stderr)
        at_item("", ())
        print()
    assert capture.events == [
        StepOutput("load", (), "stdout", "one 1"),
        StepOutput("work", (17,), "stderr", "two"),
        StepOutput("work", (17,), "stderr", "three"),
        StepOutput("", (), "stdout", ""),
    ]


def test_a_line_that_is_not_ended_belongs_to_its_own_item() -> None:
    with captured() as capture:
        at_item("work", (1,))
        print("first", end="")
        at_item("work", (2,))
        print("second", end="")
    assert capture.events == [
        StepOutput("work", (1,), "stdout", "first"),
        StepOutput("work", (2,), "stdout", "second"),
    ]


def test_lines_of_threads_that_print_at_once_are_whole() -> None:
    def work(index: int) -> None:
        at_item("work", (index,))
        for number in range(200):
            print("item", index, "says", number)

    with captured() as capture:
        threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for index in range(8):
        mine = [event for event in capture.events if event.item == (index,)]
        assert mine == [StepOutput("work", (index,), "stdout", f"item {index} says {number}") for number in range(200)]
    assert len(capture.events) == 1600


def test_log_records_are_taken_from_the_level_on() -> None:
    with captured(logging.INFO) as capture:
        at_item("work", (3,))
        logging.getLogger("scales").info("weigh %d", 5)
        logging.getLogger("scales").debug("not shown")
        logging.getLogger("scales").error("two\nlines")
    assert capture.events == [
        StepOutput("work", (3,), "log", "INFO scales: weigh 5"),
        StepOutput("work", (3,), "log", "ERROR scales: two"),
        StepOutput("work", (3,), "log", "lines"),
    ]


def test_a_log_call_with_wrong_arguments_does_not_fail_the_step() -> None:
    with captured() as capture:
        logging.getLogger("scales").warning("weigh %d", "much")
    assert "Message: 'weigh %d'" in capture.lines


def test_logging_that_the_program_has_set_up_keeps_its_form() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("<%(message)s>"))
    real = handler.stream
    with captured(logging.DEBUG, (handler,)) as capture:
        at_item("work", (3,))
        logging.getLogger("scales").warning("heavy")
        logging.getLogger("scales").info("below the program's own level")
    assert capture.events == [StepOutput("work", (3,), "stderr", "<heavy>")]
    assert handler.stream is real


def test_a_handler_that_writes_elsewhere_is_left_alone() -> None:
    elsewhere = io.StringIO()
    with captured(logging.INFO, (logging.StreamHandler(elsewhere),)) as capture:
        logging.getLogger("scales").warning("heavy")
    assert (capture.events, elsewhere.getvalue()) == ([], "heavy\n")


def test_a_forked_worker_takes_over_from_its_parents_capture() -> None:
    with captured() as parent:
        worker: list[StepOutput] = []
        end = capture_streams(worker.append)
        logging.getLogger("scales").info("heavy")
        print("printed")
        end()
    assert worker == [StepOutput("", (), "log", "INFO scales: heavy"), StepOutput("", (), "stdout", "printed")]
    assert parent.events == []


def test_programs_may_ask_the_stream_for_its_descriptor() -> None:
    real = sys.stdout
    with captured():
        assert sys.stdout.fileno() == real.fileno()
        assert not sys.stdout.isatty()
        sys.stdout.flush()


# ---- as files do


def test_the_streams_answer_as_pythons_own_do() -> None:
    real = sys.stdout
    with captured() as capture:
        out, err = sys.stdout, sys.stderr
        assert (out.name, out.mode, out.encoding, out.errors) == ("<stdout>", "w", real.encoding, real.errors)
        assert (err.name, err.line_buffering) == ("<stderr>", True)
        assert (out.newlines, out.closed, out.seekable(), out.readable(), out.writable()) == (
            None, False, False, False, True
        )  # fmt: skip
        assert (out.buffer.name, out.buffer.mode, out.buffer.seekable()) == ("<stdout>", "wb", False)
        out.writelines(["a\n", "b\n"])
        assert isinstance(out, io.TextIOBase)
        out.reconfigure(encoding="utf-8", line_buffering=True)
        for number in (b"bytes", 5, None):
            with pytest.raises(TypeError, match=r"write\(\) argument must be str"):
                out.write(number)  # type: ignore[arg-type]
    assert capture.lines == ["a", "b"]


def test_bytes_become_lines_of_the_item_that_wrote_them() -> None:
    with captured() as capture:
        at_item("a", (3,))
        assert sys.stdout.buffer.write("na\u00efve\n".encode()) == 7
        sys.stdout.buffer.write(b"\xc3")
        sys.stdout.buffer.write(memoryview(b"\xaf\n\xff\xfe\n"))
        print("text", file=sys.stdout)
        sys.stdout.buffer.raw.write(b"raw\n")
    assert [(event.id, event.item, event.text) for event in capture.events] == [
        ("a", (3,), text) for text in ("na\u00efve", "\u00ef", "\\xff\\xfe", "text", "raw")
    ]


@pytest.mark.parametrize("part", ["buffer", "detach"])
def test_a_wrapper_around_the_bytes_writes_and_may_be_forgotten(part: str) -> None:
    with captured() as capture:
        for number in range(2):
            below = sys.stdout.buffer if part == "buffer" else sys.stdout.detach()
            wrapper = io.TextIOWrapper(below, encoding="utf-8", line_buffering=number == 0)
            print("na\u00efve", number, file=wrapper)
            del wrapper  # which closes what is below it
        print("and on")
    assert capture.lines == ["na\u00efve 0", "na\u00efve 1", "and on"]


def test_a_wrapper_in_the_place_of_a_stream_is_emptied_at_the_end() -> None:
    with captured() as capture:
        sys.stdout = io.TextIOWrapper(sys.stdout.buffer, encoding="utf-8")
        print("held back", end="")
    assert capture.lines == ["held back"]


def test_streams_that_are_closed_stay_open_for_other_steps() -> None:
    with captured() as capture:
        sys.stdout.close()
        sys.stdout.buffer.close()
        print("and on")
        with contextlib.redirect_stdout(io.StringIO()) as hidden:
            print("hidden")
    assert (capture.lines, hidden.getvalue()) == (["and on"], "hidden\n")


class Shouting(str):
    __slots__ = ()

    def split(self, *arguments: object) -> list[str]:  # type: ignore[override]
        raise ValueError


def test_text_of_a_class_of_the_users_is_text() -> None:
    with captured() as capture:
        sys.stdout.write(Shouting("loud\n"))
    assert capture.lines == ["loud"]
