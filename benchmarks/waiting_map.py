"""Maps on lokki's default number of threads: of steps that wait, and of steps that compute."""

from __future__ import annotations

import os

from local_map import MOST_STARTUP_SECONDS
from measuring import FLOWS, PROGRAMS, Program, Row, Table, interleaved, median, median_and_min, python, seconds

REPEATS = 3
COUNT = 1000
MOST_WAITING, MOST_COMPUTING = 1.5, 1.1
BARE, WAITING = "waiting: bare ThreadPoolExecutor(32).map", "waiting: lokki run"
START = "waiting: lokki run, of one item"
FEW, COMPUTING = f"computing: lokki run --workers {(os.process_cpu_count() or 1) + 4}", "computing: lokki run"


def measure() -> Table:
    prints = str(COUNT * (COUNT - 1) // 2)
    flow, few = FLOWS / "waiting_flow.py", str((os.process_cpu_count() or 1) + 4)
    programs = [
        Program(BARE, python(PROGRAMS / "waiting_pool.py", str(COUNT)), prints),
        Program(START, python(flow, "run", "waiting", "--count", "1"), "0"),
        Program(WAITING, python(flow, "run", "waiting", "--count", str(COUNT)), prints),
        Program(FEW, python(flow, "run", "computing", "--count", str(COUNT), "--workers", few), prints),
        Program(COMPUTING, python(flow, "run", "computing", "--count", str(COUNT)), prints),
    ]
    samples = interleaved(programs, {}, REPEATS)
    startup = min(MOST_STARTUP_SECONDS, median(samples[START]))
    waiting = (median(samples[WAITING]) - startup) / median(samples[BARE])
    computing = median(samples[COMPUTING]) / median(samples[FEW])
    rows = (
        Row(BARE, median_and_min(seconds(samples[BARE]))),
        Row(START, median_and_min(seconds(samples[START]))),
        Row(
            WAITING,
            median_and_min(seconds(samples[WAITING])),
            f"{waiting:.2f}",
            f"≤ {MOST_WAITING}",
            waiting <= MOST_WAITING,
        ),
        Row(FEW, median_and_min(seconds(samples[FEW]))),
        Row(
            COMPUTING,
            median_and_min(seconds(samples[COMPUTING])),
            f"{computing:.2f}",
            f"≤ {MOST_COMPUTING}",
            computing <= MOST_COMPUTING,
        ),
    )
    note = (
        "Wall time of the whole process, 20 ms an item where it waits. Ratio of the waiting one: time less start-up "
        f"(at most {MOST_STARTUP_SECONDS} s) / the bare pool's; of the computing one: to the row above."
    )
    return Table(f"Maps of {COUNT:,} items at the default number of threads", note, rows)
