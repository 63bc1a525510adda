"""Times a chain of 50 steps that cost nothing, in one process: python chain_of_steps.py.

Prints one line of JSON: the median seconds of a run as it is, and of one that forces each outcome to disk on its own,
in turn; and how often each forced something to disk.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

from lokki import StepNode, flow, step
from lokki.store.local import LocalStore

TURNS = 9


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


def timed(folder: Path) -> float:
    began = time.perf_counter()
    assert chain.using(root=folder).run() == 49
    return time.perf_counter() - began


def main() -> None:
    writes = {"soon": LocalStore.write_soon, "each": LocalStore.write}
    seconds: dict[str, list[float]] = {name: [] for name in writes}
    forced: dict[str, int] = {}
    with tempfile.TemporaryDirectory(dir=".") as folder:
        for turn in range(TURNS + 1):
            for name, write in writes.items():
                with patch.object(os, "fsync", wraps=os.fsync) as fsync, patch.object(LocalStore, "write_soon", write):
                    duration = timed(Path(folder))
                forced[name] = fsync.call_count
                if turn:  # the first reads and compiles what the others find
                    seconds[name].append(duration)
    print(json.dumps({**{name: statistics.median(values) for name, values in seconds.items()}, "forced": forced}))


if __name__ == "__main__":
    main()
