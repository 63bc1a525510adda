"""SIGKILL at random moments of a map: the result is right, and no item with a result on disk runs again.

The bound on what runs twice, from `lokki.local_run.feed`: for each kill and each worker, the items that it finished in
the last 50 ms, not yet written, and the one that it was at. A kill after the run's record says that it is finished
loses nothing: resumed by its id, the run gives its result again.
"""

import random
import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import steps
from support.local_runs import EXECUTORS, Program, assert_clean, start, wait_until

from lokki.local_run import journal, journal_reader
from lokki.local_run.feed import CHUNK_SECONDS
from lokki.local_run.runs import Runs

WORKERS = 2
ITEMS = 2000


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
    seen: int = 0

    def session(self, executor: str) -> Program:
        """Start the run, or go on with it, however far it got."""
        params = {"log": str(self.root / "log"), "count": ITEMS}
        (self.root / "result.json").unlink(missing_ok=True)  # of a session that was killed after it wrote it
        if not self.exists:
            for begun in self.root.glob("runs/.new-*"):  # killed while it made the run's folder: see `runs clean`
                shutil.rmtree(begun)
            return start(self.root, "storm", executor, params)
        # A finished run is none of those that need to go on: it gives its result again when it is named.
        return start(self.root, "storm", executor, params, "again" if self.ended else "resume")

    @property
    def exists(self) -> bool:
        """Whether there is a run; a kill may have come before."""
        return (self.root / "runs" / "run").exists()

    @property
    def ended(self) -> bool:
        """Whether the run's record says that it is finished; a kill may have come after."""
        return self.exists and Runs(self.root).load("run").status == "finished"

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
        status = journal_reader.scan(journal.Parts(folder, Runs(self.root).load("run").seal), ITEMS).status
        return {item for item in range(ITEMS) if status[item] == journal_reader.DONE}

    def wait_for_a_moment(self, program: Program) -> None:
        if self.chance.random() < 0.25:
            time.sleep(self.chance.uniform(0, 0.6))  # while it starts
            return
        log = self.root / "log"
        before = log.stat().st_size if log.exists() else 0
        wait_until(lambda: program.process.poll() is not None or (log.exists() and log.stat().st_size > before))
        time.sleep(self.chance.uniform(0, 0.05))


def lost(session: list[Noted], finished: set[int]) -> None:
    """Assert that what a killed session began and has no result for is within the bound.

    A worker looks at the clock after each item and writes what it has if the last time was more than 50 ms ago, so that
    it begins no other item before. However long it lies still on a busy machine, all items without results but the one
    that it began last have therefore ended within 50 ms of when it began the first of them.
    """
    for worker in {noted.worker for noted in session}:
        began = {noted.item: noted.seconds for noted in session if noted.worker == worker and noted.kind == "a"}
        ended = {noted.item: noted.seconds for noted in session if noted.worker == worker and noted.kind == "c"}
        before = sorted(set(began) - finished, key=lambda item: began[item])[:-1]
        assert set(before) <= set(ended), "more than the item that it was at"
        if before:
            assert max(ended[item] for item in before) - began[before[0]] <= CHUNK_SECONDS
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
        assert not storm.ended or finished == set(range(ITEMS)), "finished, with items that have no result"


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_kill_after_the_finish_loses_nothing(tmp_path: Path, executor: str) -> None:
    log = tmp_path / "log"
    params = {"log": str(log), "count": 30}
    for flag, code in (("killed", -signal.SIGKILL), ("resume", 1), ("again", 0)):
        program = start(tmp_path, "storm", executor, params, flag)
        try:
            assert program.wait() == code
            program.wait_for_all()
        finally:
            program.close()
    assert "the latest, run, is finished; --resume run gives its result." in program.errors()
    assert program.result() == list(range(30))
    assert len(steps.noted(log)) == 2 * 30, "an item ran again"
    assert_clean(tmp_path)


def test_a_few_kills_lose_no_more_than_the_bound(tmp_path: Path) -> None:
    kill_storm(tmp_path, 6, seed=1)


@pytest.mark.slow
def test_a_hundred_kills_lose_no_more_than_the_bound(tmp_path: Path) -> None:
    kill_storm(tmp_path, 100, seed=2)
