"""A map of large results: what running, checkpointing and joining them costs."""

from __future__ import annotations

import tempfile
from pathlib import Path

from measuring import (
    FLOWS,
    PROGRAMS,
    Program,
    Row,
    Sample,
    Table,
    interleaved,
    median,
    median_and_min,
    python,
    seconds,
)
from peers import JOBLIB, install

MOST_STARTUP_SECONDS = 0.25
"""What starting lokki may cost, which has a target of its own."""

REPEATS = 5
LOKKI, THREADS, MEMORY = "lokki run", "bare ThreadPoolExecutor.map", "joblib.Memory on threads"
TARGETS: dict[tuple[str, int, int], tuple[str, float]] = {
    ("bytes", 2000, 100_000): (THREADS, 1.7),
    ("arrays", 2000, 100_000): (THREADS, 1.7),
    ("rows", 2000, 100_000): (THREADS, 2.0),
    ("bytes", 500, 1_000_000): (THREADS, 1.5),
    ("arrays", 500, 1_000_000): (THREADS, 1.5),
    ("rows", 500, 1_000_000): (THREADS, 2.0),
    ("frames", 200, 10_000_000): (MEMORY, 1.0),
}
"""What lokki's time is compared with for each kind, number and size of results, and the largest ratio.

Rows: pickling and unpickling alone take 0.65 times as long as making them, and neither lets another thread run.
"""


def measure() -> Table:
    with tempfile.TemporaryDirectory(prefix="lokki-bench-peers-") as folder:
        joblib = install(JOBLIB, Path(folder), "pandas")
        rows = [row for case in TARGETS for row in _rows(*case, joblib)]
    note = (
        "Wall time of the whole process, median of interleaved runs, and peak resident memory: of the process and of "
        "what it maps. lokki and joblib.Memory write every result to disk, the bare pool none. lokki also "
        "forces it to disk, and copies what others could change for the step after the map. Ratio: lokki's time less "
        f"its start-up (its run of one item less the pool's of one, at most {MOST_STARTUP_SECONDS} s) / that of the "
        "program in the target, of the medians and, in brackets, of the shortest runs."
    )
    return Table("Local map of large results", note, tuple(rows))


def _rows(kind: str, count: int, size: int, joblib: Path | None) -> list[Row]:
    peer, limit = TARGETS[kind, count, size]
    single = interleaved(_programs(kind, 1, size, None), {}, REPEATS)
    startup = min(MOST_STARTUP_SECONDS, median(single[LOKKI]) - median(single[THREADS]))
    samples = interleaved(_programs(kind, count, size, joblib if peer == MEMORY else None), {}, REPEATS)
    what = f"{count:,} {kind} of {_size(size)}"
    rows = [Row(f"{what}: {name}", _measured(samples[name])) for name in samples if name != LOKKI]
    if peer not in samples:
        return [Row(f"{what}: {LOKKI}", _measured(samples[LOKKI])), *rows]
    ratio = (median(samples[LOKKI]) - startup) / median(samples[peer])
    shortest = (min(seconds(samples[LOKKI])) - startup) / min(seconds(samples[peer]))
    both = f"{ratio:.2f} ({shortest:.2f})"
    own = Row(f"{what}: {LOKKI}", _measured(samples[LOKKI]), both, f"≤ {limit} × {peer}", ratio <= limit)
    return [own, *rows]


def _programs(kind: str, count: int, size: int, joblib: Path | None) -> list[Program]:
    prints = str(count * _length(kind, size))
    case = (kind, str(count), str(size))
    options = ("--kind", kind, "--count", str(count), "--size", str(size))
    program = PROGRAMS / "large_map.py"
    programs = [
        Program(LOKKI, python(FLOWS / "large_flow.py", "run", *options), prints),
        Program(THREADS, python(program, "threads", *case), prints),
    ]
    if joblib is not None:
        programs.append(Program(MEMORY, python(program, "memory", *case, executable=joblib), prints))
    return programs


def _length(kind: str, size: int) -> int:
    """What ``len`` says of a result."""
    return size // {"bytes": 1, "arrays": 8, "frames": 80, "rows": 80}[kind]


def _measured(samples: list[Sample]) -> str:
    peak = max(sample.peak_mb for sample in samples)
    return f"{median_and_min(seconds(samples))}, {peak:.0f} MB"


def _size(size: int) -> str:
    return f"{size // 1000} KB" if size < 1_000_000 else f"{size // 1_000_000} MB"
