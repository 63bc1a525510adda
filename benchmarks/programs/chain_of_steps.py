"""Times a chain of 50 steps that cost nothing, in one process: python chain_of_steps.py.

Prints one line of JSON: the median seconds of a run as it is, and of one that keeps each outcome in a file of its own
and forces each to disk, in turn; and how often each forced something to disk.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

import msgspec

from lokki import StepNode, flow, step
from lokki.local_run import folder as folder_module
from lokki.local_run.outcomes import OutcomeJournal, StepOutcome
from lokki.runner import LocalRunner
from lokki.store.local import LocalStore

TURNS = 15


@step
def start() -> int:
    return 0


@step
def increase(number: int) -> int:
    return number + 1


@flow
def chain() -> StepNode[..., int]:
    steps = start()
    for _ in range(49):
        steps = steps.next(increase)
    return steps


class FilesOfTheirOwn(OutcomeJournal):
    """Keeps outcomes as the first lokki did: each in a file, in a folder of its step, forced to disk at once."""

    def find(self, name: str) -> tuple[StepOutcome | None] | None:
        path = self.path.parent / name / "output.json"
        return (msgspec.json.decode(path.read_bytes(), type=StepOutcome),) if path.exists() else None

    def add(self, name: str, outcome: bytes) -> None:
        LocalStore(self.path.parent).write(f"{name}/output.json", [outcome])


def timed(folder: Path) -> float:
    began = time.perf_counter()
    assert LocalRunner(root=folder).run(chain()) == 49
    return time.perf_counter() - began


def main() -> None:
    journals: dict[str, type[OutcomeJournal]] = {"journal": OutcomeJournal, "files": FilesOfTheirOwn}
    seconds: dict[str, list[float]] = {name: [] for name in journals}
    forced: dict[str, int] = {}
    with tempfile.TemporaryDirectory(dir=".") as folder:
        for turn in range(TURNS + 1):
            for name, journal in journals.items():
                with (
                    patch.object(os, "fsync", wraps=os.fsync) as fsync,
                    patch.object(folder_module, "OutcomeJournal", journal),
                ):
                    duration = timed(Path(folder))
                forced[name] = fsync.call_count
                if turn:  # the first reads and compiles what the others find
                    seconds[name].append(duration)
    print(json.dumps({**{name: statistics.median(values) for name, values in seconds.items()}, "forced": forced}))


if __name__ == "__main__":
    main()
