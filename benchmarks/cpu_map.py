"""A map that keeps two CPUs busy, on lokki's worker processes and on a bare pool."""

from __future__ import annotations

from measuring import FLOWS, PROGRAMS, Program, Row, Table, interleaved, median, median_and_min, python, seconds

REPEATS = 3
LIMIT, SIZE = 1_000_000, 10_000
LONGEST = "525"
"""Numbers in the longest Collatz chain that starts below 1,000,000, from 837,799: https://oeis.org/A006877"""

TARGET = 0.9
LOKKI, BARE = "lokki run --executor processes --workers 2", "bare ProcessPoolExecutor(2).map"


def measure() -> Table:
    arguments = (str(LIMIT), str(SIZE))
    flow = (FLOWS / "cpu_flow.py", "run", "--limit", str(LIMIT), "--size", str(SIZE))
    programs = [
        Program(LOKKI, python(*flow, "--executor", "processes", "--workers", "2"), LONGEST),
        Program(BARE, python(PROGRAMS / "cpu_process_pool.py", *arguments), LONGEST),
    ]
    samples = interleaved(programs, {}, REPEATS)
    speed = median(samples[BARE]) / median(samples[LOKKI])
    rows = (
        Row(BARE, median_and_min(seconds(samples[BARE]))),
        Row(LOKKI, median_and_min(seconds(samples[LOKKI])), f"{speed:.2f}", f"≥ {TARGET}", speed >= TARGET),
    )
    note = "Wall time of the whole process, start-up included. Ratio: lokki's speed / the bare pool's."
    return Table(f"CPU-bound map of {LIMIT // SIZE} items on 2 processes", note, rows)
