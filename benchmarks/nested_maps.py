"""A map below a map beside one flat map of as many items, all of which cost nothing."""

from __future__ import annotations

from measuring import FLOWS, Program, Row, Table, interleaved, median, median_and_min, python, seconds

REPEATS = 3
LISTS = SIZE = 1000
MOST = 2.5
FLAT = f"one map of {LISTS * SIZE:,} items: lokki run"
NESTED = f"{LISTS:,} lists of {SIZE:,} items: lokki run"


def measure() -> Table:
    prints = str(LISTS * SIZE * (LISTS * SIZE - 1))
    options = ("run", "--lists", str(LISTS), "--size", str(SIZE))
    programs = [
        Program(FLAT, python(FLOWS / "nested_flow.py", "flat", *options), prints),
        Program(NESTED, python(FLOWS / "nested_flow.py", "nested", *options), prints),
    ]
    samples = interleaved(programs, {}, REPEATS)
    ratio = median(samples[NESTED]) / median(samples[FLAT])
    rows = (
        Row(FLAT, median_and_min(seconds(samples[FLAT]))),
        Row(NESTED, median_and_min(seconds(samples[NESTED])), f"{ratio:.2f}", f"≤ {MOST}", ratio <= MOST),
    )
    note = "Wall time of the whole process, median of interleaved runs. Ratio: to the row above."
    return Table("A map below a map", note, rows)
