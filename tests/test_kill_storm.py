"""SIGKILL at random moments of a map: the result is right, and no item with a result on disk runs again.

The bound on what runs twice, from `lokki.local_run.feed`: for each kill and each worker, the items that it finished in
the last 50 ms, not yet written, and the one that it was at.
"""

import random
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import steps
from support.local_runs import Program, assert_clean, start, wait_until

from lokki.local_run import journal

UNWRITTEN = 0.05
"""How long a worker may hold back results, in seconds."""

WORKERS = 2
ITEMS = 2000
PREEMPTED = 0.03
"""How long a worker may lie still between two of its lines of code, on a busy machine, in seconds."""


@dataclass(frozen=True)
class Noted:
    """A line of the side log: the item whose first (a) or last (c) inner step ran, when, and in which worker."""

    kind: str
    item: int
    seconds: float
    worker: str


@dataclass
class Storm:
    """One run that is killed again and again."""

    root: Path
    chance: random.Random
    kills: int = 0
    seen: int = 0

    def session(self, executor: str) -> Program:
        params = {"log": str(self.root / "log"), "count": ITEMS}
        flags = ("resume",) if (self.root / "runs" / "run").exists() else ()
        return start(self.root, "storm", executor, params, *flags)

    def noted(self) -> list[Noted]:
        """Return what the session that ended noted."""
        lines = [line.split() for line in steps.noted(self.root / "log")]
        found = [Noted(kind, int(item), int(at) / 1e9, worker) for kind, item, at, worker in lines[self.seen :]]
        self.seen = len(lines)
        return found

    def finished(self) -> set[int]:
        """Return the items that have results on disk."""
        folder = self.root / "runs" / "run" / "numbers" / "map_results"
        if not folder.exists():
            return set()
        status = journal.scan(folder, ITEMS).status
        return {item for item in range(ITEMS) if status[item] == journal.DONE}

    def wait_for_a_moment(self, program: Program) -> None:
        if self.chance.random() < 0.25:
            time.sleep(self.chance.uniform(0, 0.6))  # while it starts
            return
        log = self.root / "log"
        before = log.stat().st_size if log.exists() else 0
        wait_until(lambda: program.process.poll() is not None or (log.exists() and log.stat().st_size > before))
        time.sleep(self.chance.uniform(0, 0.05))


def lost(session: list[Noted], finished: set[int]) -> None:
    """Assert that what a killed session began and has no result for is within the bound."""
    for worker in {noted.worker for noted in session}:
        began = {noted.item: noted.seconds for noted in session if noted.worker == worker and noted.kind == "a"}
        ended = {noted.item: noted.seconds for noted in session if noted.worker == worker and noted.kind == "c"}
        without = set(began) - finished
        assert len(without - set(ended)) <= 1, "more than the item that it was at"
        unwritten = without & set(ended)
        if unwritten:
            span = max(began[item] for item in unwritten) - min(ended[item] for item in unwritten)
            assert span <= UNWRITTEN + PREEMPTED
    assert len({noted.worker for noted in session}) <= WORKERS


def kill_storm(root: Path, kills: int, seed: int) -> None:
    chance = random.Random(seed)
    done = runs = 0
    while done < kills:
        runs += 1
        storm = Storm(root / str(runs), chance)
        done = weather(storm, done, kills)
        if done == kills:
            return


def weather(storm: Storm, done: int, kills: int) -> int:
    """Kill a run until it is finished, or often enough and then let it finish; return how many kills there were."""
    finished: set[int] = set()
    while True:
        executor = ("threads", "processes")[done % 2]
        program = storm.session(executor)
        try:
            if done < kills:
                storm.wait_for_a_moment(program)
                program.kill(signal.SIGKILL, group=storm.chance.random() < 0.5)
            ended = program.wait()
            program.wait_for_all()
        finally:
            program.close()
        session = storm.noted()
        assert not {noted.item for noted in session} & finished, "an item ran again that had a result on disk"
        if ended == 0:
            assert program.result() == list(range(ITEMS))
            assert_clean(storm.root)
            return done
        assert ended == -signal.SIGKILL, program.errors()
        done += 1
        finished = storm.finished()
        lost(session, finished)


def test_a_few_kills_lose_no_more_than_the_bound(tmp_path: Path) -> None:
    kill_storm(tmp_path, 6, seed=1)


@pytest.mark.slow
def test_a_hundred_kills_lose_no_more_than_the_bound(tmp_path: Path) -> None:
    kill_storm(tmp_path, 100, seed=2)
