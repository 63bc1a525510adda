"""What building takes, as zip packages: with uv's cache warm and lokki's empty, and again when nothing has changed."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measuring import EXAMPLES, Row, Table

REPEATS = 3
FLOWS = {"birds": (EXAMPLES / "birds_flow_example.py", 1.5), "penguins": (EXAMPLES / "penguins/penguins_flow.py", 15.0)}
UNCHANGED_SECONDS = 0.5


def measure() -> Table:
    rows = []
    for name, (flow, target) in FLOWS.items():
        _timed(flow)  # fills uv's cache, which the first build of a day may have to
        times = [_timed(flow) for _ in range(REPEATS)]
        first = statistics.median(time for time, _ in times)
        again = statistics.median(time for _, time in times)
        rows.append(Row(f"{name}: build", f"{first:.2f} s", "", f"≤ {target:g} s", first <= target))
        limit = UNCHANGED_SECONDS
        rows.append(Row(f"{name}: again, unchanged", f"{again:.2f} s", "", f"≤ {limit:g} s", again <= limit))
    note = f"Wall time of `python flow.py build`, whole process, median of {REPEATS} runs."
    return Table("Building zip packages", note, tuple(rows))


def _timed(flow: Path) -> tuple[float, float]:
    """Build in an empty folder, and once more; return the seconds of both."""
    with tempfile.TemporaryDirectory(prefix="lokki-bench-build-") as folder:
        (Path(folder) / "lokki.yml").write_text("artifact_bucket: my-bucket\n")
        environment = os.environ | {"LOKKI_BUILD_DIR": f"{folder}/out", "XDG_CACHE_HOME": f"{folder}/cache"}
        # uv keeps its own cache where it is: only lokki's must be empty.
        environment["UV_CACHE_DIR"] = subprocess.run(
            ["uv", "cache", "dir"], capture_output=True, text=True, check=True
        ).stdout.strip()
        return _once(flow, folder, environment), _once(flow, folder, environment)


def _once(flow: Path, folder: str, environment: dict[str, str]) -> float:
    began = time.perf_counter()
    done = subprocess.run([sys.executable, flow, "build"], cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode != 0 or "in " not in done.stdout:
        sys.exit(f"{flow.name} build: exit code {done.returncode}\n{done.stderr[-2000:]}")
    return time.perf_counter() - began
