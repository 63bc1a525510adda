"""What building takes, as zip packages: with uv's cache warm and lokki's empty, and again when nothing has changed."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measuring import EXAMPLES, Row, Table, at_most, median_and_min

REPEATS = 3
REBUILDS = 5
"""After each build: one takes a fraction of a second, which a busy moment of the machine doubles."""

FLOWS = {"birds": (EXAMPLES / "birds_flow_example.py", 1.5), "penguins": (EXAMPLES / "penguins/penguins_flow.py", 15.0)}
UNCHANGED_SECONDS = 0.5


def measure() -> Table:
    rows = [row for name, (flow, target) in FLOWS.items() for row in _measure_flow(name, flow, target)]
    note = (
        f"Wall time of `python flow.py build`, whole process: median of {REPEATS} builds, and of {REPEATS * REBUILDS} "
        "that found nothing changed, each beside an import of the flow's file in a process of its own, which a build "
        "does, too. Ratio: median of that of each pair."
    )
    return Table("Building zip packages", note, tuple(rows))


def _measure_flow(name: str, flow: Path, target: float) -> list[Row]:
    _timed(flow)  # fills uv's cache, which the first build of a day may have to
    builds = [_timed(flow) for _ in range(REPEATS)]
    first = statistics.median(seconds for seconds, _ in builds)
    pairs = [pair for _, again in builds for pair in again]
    again, alone = zip(*pairs, strict=True)
    ratio = statistics.median(rebuild / importing for rebuild, importing in pairs)
    return [
        Row(f"{name}: build", f"{first:.2f} s", "", *at_most(first, target)),
        Row(
            f"{name}: again, unchanged",
            median_and_min(again),
            f"{ratio:.2f}×",
            *at_most(statistics.median(again), UNCHANGED_SECONDS),
        ),
        Row(f"{name}: importing the flow's file", median_and_min(alone), "1.00×"),
    ]


def _timed(flow: Path) -> tuple[float, list[tuple[float, float]]]:
    """Build in an empty folder, and again; return the seconds of the first, and of each other and an import beside."""
    with tempfile.TemporaryDirectory(prefix="lokki-bench-build-") as folder:
        (Path(folder) / "lokki.yml").write_text("artifact_bucket: my-bucket\n")
        environment = os.environ | {"LOKKI_BUILD_DIR": f"{folder}/out", "XDG_CACHE_HOME": f"{folder}/cache"}
        # uv keeps its own cache where it is: only lokki's must be empty.
        environment["UV_CACHE_DIR"] = subprocess.run(
            ["uv", "cache", "dir"], capture_output=True, text=True, check=True
        ).stdout.strip()
        first = _once(flow, folder, environment)
        return first, [(_once(flow, folder, environment), _import(flow)) for _ in range(REBUILDS)]


def _once(flow: Path, folder: str, environment: dict[str, str]) -> float:
    began = time.perf_counter()
    done = subprocess.run([sys.executable, flow, "build"], cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode != 0 or "in " not in done.stdout:
        sys.exit(f"{flow.name} build: exit code {done.returncode}\n{done.stderr[-2000:]}")
    return time.perf_counter() - began


def _import(flow: Path) -> float:
    """Import a flow's file in a process of its own; return the seconds."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", f"import {flow.stem}"], cwd=flow.parent, check=True)
    return time.perf_counter() - began
