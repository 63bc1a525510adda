"""What all benchmarks share: running programs as processes of their own, and saying what came out."""

from __future__ import annotations

import functools
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
FLOWS = HERE / "flows"
PROGRAMS = HERE / "programs"
EXAMPLES = HERE.parent / "examples"


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of a program: wall seconds from start to exit, the most memory that one of its processes had, stdout."""

    seconds: float
    peak_mb: float
    output: str


@dataclass(frozen=True, slots=True)
class Program:
    """A program to measure, and what it must print for the measurement to count."""

    name: str
    command: tuple[str, ...]
    prints: str


@dataclass(frozen=True, slots=True)
class Row:
    """A line of a table; ``passed`` is None where there is no target."""

    what: str
    measured: str
    ratio: str = ""
    target: str = ""
    passed: bool | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """What one benchmark found, and in one sentence what its columns hold."""

    title: str
    note: str
    rows: tuple[Row, ...]

    @property
    def missed(self) -> list[Row]:
        """The rows whose target was missed."""
        return [row for row in self.rows if row.passed is False]


def python(*arguments: str | Path, executable: Path | None = None) -> tuple[str, ...]:
    """Return a command that runs this Python, or the one of another environment.

    That one runs isolated (``-I``): a PYTHONPATH would have the peer import this lokki, and be measured as it.
    """
    interpreter = (sys.executable,) if executable is None else (str(executable), "-I")
    return (*interpreter, *map(str, arguments))


@contextmanager
def compiled_modules() -> Iterator[None]:
    """Let all programs find their modules compiled, as Python does unless it is told otherwise, in a temporary folder.

    Where PYTHONDONTWRITEBYTECODE is set, lokki would be compiled anew in each run, but what uv compiled would not.
    """
    names = ("PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX")
    before = {name: os.environ.pop(name) for name in names if name in os.environ}
    with tempfile.TemporaryDirectory(prefix="lokki-bench-bytecode-") as folder:
        os.environ["PYTHONPYCACHEPREFIX"] = folder
        try:
            yield
        finally:
            del os.environ["PYTHONPYCACHEPREFIX"]
            os.environ.update(before)


def run_once(program: Program) -> Sample:
    """Run a program in an empty folder of its own. Raises SystemExit when it fails or prints something else.

    Deleting the folder is not counted.
    """
    folder = Path(tempfile.mkdtemp(prefix="lokki-bench-"))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LOKKI_")}
    try:
        with (folder / "stderr").open("wb") as errors:
            began = time.perf_counter()
            with subprocess.Popen(
                program.command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True
            ) as process:
                assert process.stdout is not None
                output = process.stdout.read()
                # Not process.wait(): only wait4 tells of the resources of this one process and of its own children.
                _, status, usage = os.wait4(process.pid, 0)
                seconds = time.perf_counter() - began
                process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0 or program.prints not in output:
            told = (folder / "stderr").read_text(errors="replace")[-2000:]
            sys.exit(f"{program.name}: exit code {process.returncode}, printed {output[-500:]!r}\n{told}")
    finally:
        shutil.rmtree(folder)
    return Sample(seconds, usage.ru_maxrss * _MAXRSS_UNIT / 1e6, output)


_NOTHING_SECONDS = 0.011
_SLOWNESS_RUNS = 31

_MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024
"""Bytes in which getrusage(2) counts: Linux says kilobytes, macOS bytes."""


def interleaved(programs: Sequence[Program], repeats: Mapping[str, int], default: int) -> dict[str, list[Sample]]:
    """Run all programs in turn, so that a slow moment of the machine meets all; some fewer times than the others.

    There and back, so that no program always has what the same one before it leaves behind, such as memory that a
    virtual machine takes away a moment later. Each runs once before, uncounted, which compiles and reads files for the
    first time.
    """
    for program in programs:
        run_once(program)
    samples: dict[str, list[Sample]] = {program.name: [] for program in programs}
    for turn in range(default):
        for program in programs if turn % 2 == 0 else reversed(programs):
            if turn < repeats.get(program.name, default):
                samples[program.name].append(run_once(program))
    return samples


@functools.cache
def slowness() -> float:
    """Return how many times as long as on the machine that targets in seconds are for things take here, at least 1.

    There, ``python -c pass`` takes 11 ms.
    """
    nothing = Program("python -c pass", python("-c", "pass"), "")
    return max(1.0, median([run_once(nothing) for _ in range(_SLOWNESS_RUNS)]) / _NOTHING_SECONDS)


def at_most(measured: float, limit: float, sign: str = "") -> tuple[str, bool]:
    """Return a target in seconds as a row has it, and whether it is reached. ``sign``: + for seconds above others."""
    return f"≤ {sign}{limit:g} s × {slowness():.2f}", measured <= limit * slowness()


def at_least(rate: float, limit: int) -> tuple[str, bool]:
    """Return a target in items a second as a row has it, and whether it is reached."""
    return f"≥ {limit:,} items/s / {slowness():.2f}", rate >= limit / slowness()


def seconds(samples: Sequence[Sample]) -> list[float]:
    return [sample.seconds for sample in samples]


def median(samples: Sequence[Sample]) -> float:
    return statistics.median(seconds(samples))


def median_and_min(times: Sequence[float]) -> str:
    """Write times for people: ``0.412 s (min 0.401 s, 5 runs)``."""
    runs = f"{len(times)} run{'' if len(times) == 1 else 's'}"
    return f"{statistics.median(times):.3f} s (min {min(times):.3f} s, {runs})"


def markdown(table: Table) -> str:
    lines = [f"## {table.title}", "", table.note, "", "| what | measured | ratio | target | |", "|---|---|---|---|---|"]
    verdicts = {True: "pass", False: "**MISSED**", None: ""}
    lines += [
        f"| {row.what} | {row.measured} | {row.ratio} | {row.target} | {verdicts[row.passed]} |" for row in table.rows
    ]
    return "\n".join([*lines, ""])
