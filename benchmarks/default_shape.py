"""A million items in the default shape: what they cost beside their Lambda time, and when they would be done."""

from __future__ import annotations

import msgspec
from measuring import PROGRAMS, Program, Row, Table, python, run_once

FUNCTIONS, SECONDS = 1_000, 0.2
MANY, SOME, FEW = 1_000_000, 100_000, 10
MOST_PRICE, MOST_TIME = 1.15, 1.3
"""Of a million items: dollars in multiples of those of their Lambda time, and time of what would be ideal."""


class Run(msgspec.Struct):
    """What programs/default_shape_run.py prints."""

    children: int
    transitions: int
    invocations: int
    billed: float
    dollars: float
    work_dollars: float
    finish: float
    ideal: float


def measure() -> Table:
    many, some, few = (_run(items) for items in (MANY, SOME, FEW))
    price, time = many.dollars / many.work_dollars, many.finish / many.ideal
    rows = (
        Row(f"{MANY:,} items: price", _price(many), f"{price:.2f}", f"≤ {MOST_PRICE}", price <= MOST_PRICE),
        Row(f"{MANY:,} items: time", _time(many), f"{time:.2f}", f"≤ {MOST_TIME}", time <= MOST_TIME),
        Row(f"{SOME:,} items: price", _price(some), f"{some.dollars / some.work_dollars:.2f}"),
        Row(f"{SOME:,} items: time", _time(some), f"{some.finish / some.ideal:.2f}"),
        Row(f"{FEW} items", _price(few), f"{few.children} children", f"{FEW} children", few.children == FEW),
    )
    note = (
        f"Items of {SECONDS} s in the default shape, at {FUNCTIONS:,} functions at one time. The state machine that "
        "lokki builds is interpreted by the emulator, every state of every child; functions take no real time but "
        "move a clock. Transitions, children, invocations and billed seconds are what the emulator counts. Ratio: "
        "dollars / those of the items' Lambda time alone; seconds / those of as many items at a time without a pause. "
        "Cold starts, the handler's own milliseconds, and the steps before and after the map are not in it."
    )
    return Table("Default shape, on a simulated clock", note, rows)


def _run(items: int) -> Run:
    command = python(PROGRAMS / "default_shape_run.py", str(items), str(SECONDS), str(FUNCTIONS))
    sample = run_once(Program(f"default shape of {items:,} items", command, "work_dollars"))
    return msgspec.json.decode(sample.output.splitlines()[-1], type=Run)


def _price(run: Run) -> str:
    counts = f"{run.children:,} children, {run.transitions:,} transitions, {run.invocations:,} invocations"
    return f"${run.dollars:.4f}; {counts}, {run.billed:,.0f} s billed"


def _time(run: Run) -> str:
    return f"{run.finish:,.0f} s; ideal: {run.ideal:,.0f} s"
