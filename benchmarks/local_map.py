"""A map of items that cost nothing: what running, checkpointing and joining them costs."""

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
from peers import JOBLIB, LOKKIFLOW, install

MOST_STARTUP_SECONDS = 0.25
"""What starting lokki may cost, which has a target of its own."""

STARTUP_COUNT = 100
"""So few items that a run of them is nothing but starting."""

REPEATS = 5
PEER = LOKKIFLOW.replace("==", " ")
PEER_REPEATS = {100: 5, 10_000: 2}
"""At 100,000 items the peer writes 100,000 files, and takes too long to be waited for."""

LOKKI, THREADS = "lokki run", "bare ThreadPoolExecutor.map"
PROCESSES = "bare ProcessPoolExecutor.map, in chunks"
TARGETS = {10_000: 1.5, 100_000: 1.0}


def measure() -> Table:
    with tempfile.TemporaryDirectory(prefix="lokki-bench-peers-") as folder:
        joblib, peer = install(JOBLIB, Path(folder)), install(LOKKIFLOW, Path(folder))
        counts = (STARTUP_COUNT, *TARGETS)
        samples = {count: _samples(count, joblib, peer) for count in counts}
    # Taking off more than starting takes would flatter lokki, down to ratios below zero.
    startup = min(MOST_STARTUP_SECONDS, median(samples[STARTUP_COUNT][LOKKI]))
    rows = [_row(count, name, samples[count], startup) for count in counts for name in samples[count]]
    note = (
        "Wall time of the whole process, median of interleaved runs. lokki writes every result to disk as it comes, "
        f"the bare programs none. Ratio: lokki's time less its start-up ({startup:.3f} s: its run of {STARTUP_COUNT} "
        f"items, at most {MOST_STARTUP_SECONDS} s) / bare `ThreadPoolExecutor.map`; in the other rows, their whole "
        "time / bare `ThreadPoolExecutor.map`."
    )
    return Table("Local map of trivial items", note, tuple(rows))


def _programs(count: int, joblib: Path | None, peer: Path | None) -> list[Program]:
    prints = str(count * (count - 1))
    flow = (FLOWS / "trivial_flow.py", "run", "--count", str(count))
    programs = [
        Program(LOKKI, python(*flow), prints),
        Program(THREADS, python(PROGRAMS / "thread_pool.py", str(count)), prints),
        Program(PROCESSES, python(PROGRAMS / "process_pool.py", str(count)), prints),
    ]
    if joblib is not None:
        command = python(PROGRAMS / "joblib_map.py", str(count), executable=joblib)
        programs.append(Program(JOBLIB.replace("==", " "), command, prints))
    if peer is not None and count in PEER_REPEATS:
        programs.append(Program(PEER, python(*flow, executable=peer), prints))
    return programs


def _samples(count: int, joblib: Path | None, peer: Path | None) -> dict[str, list[Sample]]:
    repeats = {PEER: PEER_REPEATS.get(count, 0)}
    return interleaved(_programs(count, joblib, peer), repeats, REPEATS)


def _row(count: int, name: str, samples: dict[str, list[Sample]], startup: float) -> Row:
    what, measured = f"{count:,} items: {name}", median_and_min(seconds(samples[name]))
    bare = median(samples[THREADS])
    if name != LOKKI:
        return Row(what, measured, f"{median(samples[name]) / bare:.2f}")
    target = TARGETS.get(count)
    if target is None:
        return Row(what, measured)
    ratio = (median(samples[LOKKI]) - startup) / bare
    return Row(what, measured, f"{ratio:.2f}", f"≤ {target}", ratio <= target)
