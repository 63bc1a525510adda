"""A chain of steps that cost nothing: what waiting for the disk costs."""

from __future__ import annotations

import msgspec
from measuring import PROGRAMS, Program, Row, Table, python, run_once

TARGET = 0.85
"""On a disk that takes everything at once. The slower the disk, and the busier, the smaller is the ratio."""


class Speed(msgspec.Struct):
    """What programs/chain_of_steps.py prints: seconds, and how often something was forced to disk."""

    soon: float
    each: float
    forced: dict[str, int]


def measure() -> Table:
    sample = run_once(Program("chain of steps", python(PROGRAMS / "chain_of_steps.py"), "forced"))
    speed = msgspec.json.decode(sample.output.splitlines()[-1], type=Speed)
    ratio = speed.soon / speed.each
    rows = (
        Row("lokki run", _measured(speed.soon, speed.forced["soon"]), f"{ratio:.2f}", f"≤ {TARGET}", ratio <= TARGET),
        Row("the same, forcing each outcome to disk on its own", _measured(speed.each, speed.forced["each"]), "1.00"),
    )
    note = (
        "Wall time of a run in a process that has made one before, median of 9 in turn. Outcomes are forced to disk "
        "once a second and before the run ends, several at a time. What that saves depends on the disk: on one "
        "machine, ratios were 0.8 while it was idle and 0.2 while others wrote to it."
    )
    return Table("Chain of 50 trivial steps", note, rows)


def _measured(seconds: float, forced: int) -> str:
    return f"{seconds * 1000:.1f} ms, {forced} times fsync"
