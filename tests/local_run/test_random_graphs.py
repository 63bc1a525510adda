"""The law of graphs on this machine: they give what plain calls give, on each executor and when they are resumed."""

import random
from pathlib import Path

import pytest
from support.interpreter import interpret
from support.local_runs import Local
from support.random_flow_files import packaged
from support.random_flows import drawn, evaluate
from test_graph_runs import end_and_resume

from lokki.plan import lower
from lokki.runner import Executor

MOST = 2_000
"""How many graphs the slow tests run; the others run the first 50."""


def check(folder: Path, executor: Executor, seeds: range, at_once: int) -> None:
    """Compare runs with plain calls; so many graphs are drawn into one flow."""
    for start in seeds[::at_once]:
        members = range(start, start + at_once)
        graph = packaged(folder, members) if executor == "processes" else drawn(members)
        result = Local(folder / f"{start}", executor).run(graph)
        assert result == evaluate(members), f"seeds {members}"


def test_random_graphs_are_drawn_as_they_are_meant() -> None:
    for seed in range(50):
        members = range(seed, seed + 1)
        assert interpret(lower(drawn(members))) == evaluate(members), f"seed {seed}"


@pytest.mark.parametrize(("executor", "at_once"), [("inline", 25), ("threads", 25), ("processes", 50)])
def test_random_graphs_give_what_plain_calls_give(tmp_path: Path, executor: Executor, at_once: int) -> None:
    check(tmp_path, executor, range(50), at_once)


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["inline", "threads"])
def test_many_random_graphs_give_what_plain_calls_give(tmp_path: Path, executor: Executor) -> None:
    check(tmp_path, executor, range(50, MOST), 1)


@pytest.mark.slow
def test_many_random_graphs_give_what_plain_calls_give_in_processes(tmp_path: Path) -> None:
    """Fifty in a run: each run starts processes anew, which takes longer than a graph does."""
    check(tmp_path, "processes", range(50, MOST), 50)


@pytest.mark.slow
def test_many_random_graphs_go_on_where_they_were_interrupted(tmp_path: Path) -> None:
    executors: tuple[Executor, ...] = ("threads", "inline")
    for seed in range(500):
        members = range(seed, seed + 1)
        local = Local(tmp_path / f"{seed}", executors[seed % 2])
        moment = random.Random(seed).randint(1, 40)
        end_and_resume(local, drawn(members), {}, moment, evaluate(members))
