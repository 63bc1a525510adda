"""A chain of steps that cost nothing: what waiting for the disk costs."""

from __future__ import annotations

import msgspec
from measuring import PROGRAMS, Program, Row, Table, python, run_once

TARGET = 0.5
"""Of the time that the first lokki took."""


class Speed(msgspec.Struct):
    """What programs/chain_of_steps.py prints: seconds, and how often something was forced to disk."""

    journal: float
    files: float
    forced: dict[str, int]


def measure() -> Table:
    sample = run_once(Program("chain of steps", python(PROGRAMS / "chain_of_steps.py"), "forced"))
    speed = msgspec.json.decode(sample.output.splitlines()[-1], type=Speed)
    ratio = speed.journal / speed.files
    rows = (
        Row(
            "lokki run",
            _measured(speed.journal, speed.forced["journal"]),
            f"{ratio:.2f}",
            f"≤ {TARGET}",
            ratio <= TARGET,
        ),
        Row(
            "the same, each outcome a file that is forced to disk",
            _measured(speed.files, speed.forced["files"]),
            "1.00",
        ),
    )
    note = (
        "Wall time of a run in a process that has made one before, median of 15 in turn. Outcomes are lines of one "
        "journal, forced to disk once a second and before the run ends. The first lokki made a folder and a file of "
        "each and forced both to disk."
    )
    return Table("Chain of 50 trivial steps", note, rows)


def _measured(seconds: float, forced: int) -> str:
    return f"{seconds * 1000:.1f} ms, {forced} times fsync"
