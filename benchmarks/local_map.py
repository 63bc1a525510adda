"""A map of items that cost nothing: what running, checkpointing and joining them costs."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
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
    run_once,
    seconds,
)
from peers import DASK, JOBLIB, LOKKIFLOW, METAFLOW, REDUN, install

MOST_STARTUP_SECONDS = 0.25
"""What starting lokki may cost, which has a target of its own."""

STARTUP_COUNT = 100
"""So few items that a run of them is nothing but starting."""

REPEATS = 5
PEERS: dict[str, dict[int, int]] = {
    JOBLIB: {100: REPEATS, 10_000: REPEATS, 100_000: REPEATS},
    DASK: {100: REPEATS, 10_000: REPEATS, 100_000: REPEATS},
    LOKKIFLOW: {100: REPEATS, 10_000: 2},
    REDUN: {100: 1},
    METAFLOW: {100: 1},
}
"""How often each peer runs, by numbers of items.

lokkiflow writes a file for each item, redun a record of a database, and Metaflow starts a process: where there are
many, that takes too long to be waited for."""

LOKKI, THREADS = "lokki run", "bare ThreadPoolExecutor.map"
PROCESSES = "bare ProcessPoolExecutor.map, in chunks"
TARGETS = {10_000: 1.5, 100_000: 1.0}


def measure() -> Table:
    with tempfile.TemporaryDirectory(prefix="lokki-bench-peers-") as folder:
        peers = {peer: install(peer, Path(folder)) for peer in PEERS}
        counts = (STARTUP_COUNT, *TARGETS)
        samples = {count: _samples(count, peers) for count in counts}
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


def _programs(count: int) -> list[Program]:
    prints = str(count * (count - 1))
    return [
        Program(LOKKI, python(FLOWS / "trivial_flow.py", "run", "--count", str(count)), prints),
        Program(THREADS, python(PROGRAMS / "thread_pool.py", str(count)), prints),
        Program(PROCESSES, python(PROGRAMS / "process_pool.py", str(count)), prints),
    ]


def _peer_programs(count: int, peers: Mapping[str, Path | None]) -> list[Program]:
    commands: dict[str, tuple[str | Path, ...]] = {
        JOBLIB: (PROGRAMS / "joblib_map.py", str(count)),
        DASK: (PROGRAMS / "dask_map.py", str(count)),
        LOKKIFLOW: (FLOWS / "trivial_flow.py", "run", "--count", str(count)),
        REDUN: (PROGRAMS / "redun_map.py", str(count)),
        METAFLOW: (PROGRAMS / "metaflow_map.py", "--no-pylint", "run", "--count", str(count)),
    }
    return [
        Program(peer.replace("==", " "), python(*commands[peer], executable=executable), str(count * (count - 1)))
        for peer, executable in peers.items()
        if executable is not None and count in PEERS[peer]
    ]


def _samples(count: int, peers: Mapping[str, Path | None]) -> dict[str, list[Sample]]:
    repeats = {peer.replace("==", " "): repeats.get(count, 0) for peer, repeats in PEERS.items()}
    programs = _peer_programs(count, peers)
    in_turn = [program for program in programs if repeats[program.name] > 1]
    samples = interleaved([*_programs(count), *in_turn], repeats, REPEATS)
    return samples | {program.name: [run_once(program)] for program in programs if program not in in_turn}


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
