"""SIGKILL and Ctrl-C at random moments of a run with branches: nothing that has its result on disk runs again.

The bound on the items of a map is that of `test_kill_storm`; of calls, those run again that ran when it was killed.
"""

import random
import shutil
import signal
import time
from pathlib import Path

import pytest
import steps
from support.local_runs import EXECUTORS, Program, assert_clean, outcomes_in, start, wait_until
from test_kill_storm import WORKERS, Noted, lost

from lokki.local_run import journal_reader
from lokki.local_run.journal import Parts
from lokki.local_run.runs import Runs
from lokki.plan import lower

ITEMS = 300
RESULT = [list(range(ITEMS)), ITEMS + 1, [[7], list(range(0, 40, 2)), list(range(ITEMS))]]
IDS = {
    str(argument.template): call.id
    for call in lower(steps.graph_storm()).calls
    for argument in call.arguments
    if argument.parameter == "name"
}


class Storm:
    """One run that is ended again and again."""

    def __init__(self, root: Path, chance: random.Random) -> None:
        self.root = root
        self._chance = chance
        self._lines = 0

    def session(self, executor: str) -> Program:
        """Start the run, or go on with it, however far it got."""
        params = {"log": str(self.root / "log"), "count": ITEMS}
        if not (self.root / "runs" / "run").exists():
            for half in self.root.glob("runs/.new-*"):  # killed while it made the run's folder: see `runs clean`
                shutil.rmtree(half)
            return start(self.root, "graph_storm", executor, params)
        return start(self.root, "graph_storm", executor, params, "again")

    def wait_for_a_moment(self, program: Program) -> None:
        """Wait until the run has got on, and a little longer."""
        lines = self._chance.choice([1, 2, 4, 8, 100])
        wait_until(lambda: program.process.poll() is not None or len(self._log()) >= self._lines + lines)
        time.sleep(self._chance.uniform(0, 0.1))

    def check(self, calls: set[str], items: set[int]) -> None:
        """Assert that a session did nothing again that was finished before, and lost no more than the bound."""
        session = self._log()[self._lines :]
        self._lines += len(session)
        fields = [line.split() for line in session]
        began = {name for name, word, *_ in fields if word == "begins"}
        ended = {name for name, word, *_ in fields if word == "ends"}
        assert not began & calls, "a call ran again that had its result on disk"
        noted = [
            Noted(kind, int(item), int(at) / 1e9, worker)
            for kind, item, at, worker in (line for line in fields if len(line) == 4)
        ]
        assert not {entry.item for entry in noted} & items, "an item ran again that had its result on disk"
        lost(noted, self.finished_items())
        # One that ended was about to write what it gave; no more run at once than there are workers.
        assert len(began - self.finished_calls()) <= WORKERS, (began, ended)

    def finished_calls(self) -> set[str]:
        """Return the calls that have outcomes on disk."""
        ended = outcomes_in(self.root / "runs" / "run")
        return {name for name, call_id in IDS.items() if call_id in ended}

    def finished_items(self) -> set[int]:
        """Return the items of the long map that have results on disk."""
        folder = self.root / "runs" / "run" / IDS["source"] / "map_results"
        if not folder.exists():
            return set()
        status = journal_reader.scan(Parts(folder, Runs(self.root).load("run").seal), ITEMS).status
        return {item for item in range(ITEMS) if status[item] == journal_reader.DONE}

    def _log(self) -> list[str]:
        return steps.noted(self.root / "log")


def storm_of(root: Path, ends: int, seed: int, *, number: int, code: int) -> None:
    """End runs again and again by a signal, each until it is finished."""
    chance = random.Random(seed)
    done = runs = 0
    while done < ends:
        runs += 1
        storm = Storm(root / str(runs), chance)
        finished = False
        while not finished:
            calls, items = storm.finished_calls(), storm.finished_items()
            program = storm.session(EXECUTORS[done % len(EXECUTORS)])
            try:
                if done < ends:
                    storm.wait_for_a_moment(program)
                    program.kill(number, group=number == signal.SIGKILL and chance.random() < 0.5)
                ended = program.wait()
                program.wait_for_all()
            finally:
                program.close()
            storm.check(calls, items)
            finished = ended == 0
            assert finished or ended == code, program.errors()
            done += not finished
        assert program.result() == RESULT
        assert_clean(storm.root)


def test_a_few_kills_of_a_graph_lose_no_more_than_the_bound(tmp_path: Path) -> None:
    storm_of(tmp_path, 2, 1, number=signal.SIGKILL, code=-signal.SIGKILL)


@pytest.mark.slow
def test_many_kills_of_a_graph_lose_no_more_than_the_bound(tmp_path: Path) -> None:
    storm_of(tmp_path, 15, 2, number=signal.SIGKILL, code=-signal.SIGKILL)


@pytest.mark.slow
def test_ctrl_c_at_any_moment_of_a_graph_loses_no_more_than_the_bound(tmp_path: Path) -> None:
    storm_of(tmp_path, 6, 3, number=signal.SIGINT, code=130)
