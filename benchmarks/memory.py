"""The most memory that a run of a million items needs."""

from __future__ import annotations

from measuring import FLOWS, PROGRAMS, Program, Row, Table, python, run_once

COUNT = 1_000_000
TARGET_MB = 600
LOKKI, BARE = "lokki run", "bare ThreadPoolExecutor.map"


def measure() -> Table:
    prints = str(COUNT * (COUNT - 1))
    lokki = run_once(Program(LOKKI, python(FLOWS / "trivial_flow.py", "run", "--count", str(COUNT)), prints))
    bare = run_once(Program(BARE, python(PROGRAMS / "thread_pool.py", str(COUNT)), prints))
    rows = (
        Row(
            f"{LOKKI}, {lokki.seconds:.1f} s",
            f"{lokki.peak_mb:.0f} MB",
            "",
            f"≤ {TARGET_MB} MB",
            lokki.peak_mb <= TARGET_MB,
        ),
        Row(f"{BARE}, {bare.seconds:.1f} s", f"{bare.peak_mb:.0f} MB"),
    )
    note = "Peak resident memory (`ru_maxrss`) of the process, or of the largest of its children."
    return Table(f"Memory for {COUNT:,} trivial items", note, rows)
