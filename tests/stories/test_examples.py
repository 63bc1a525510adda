"""The examples, run as a user runs them: what they print is compared whole."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.examples import (
    BILL_LENGTH,
    BIRDS,
    BODY_MASS,
    EXAMPLES,
    ISLANDS,
    LOADED,
    PRIMES_TO_A_MILLION,
    SPECIES,
    SWEEP,
    VARIANTS,
    run_example,
)

EXECUTORS = ("threads", "processes")
GRAPHS = [
    ("classify_flow.py", SPECIES),
    ("variants_flow.py", VARIANTS),
    ("load_flow.py", LOADED),
    ("islands_flow.py", ISLANDS),
]


@pytest.mark.parametrize("executor", EXECUTORS)
def test_birds_flap(executor: str, tmp_path: Path) -> None:
    assert run_example("birds_flow_example.py", "--executor", executor, folder=tmp_path) == BIRDS


@pytest.mark.parametrize("executor", EXECUTORS)
def test_penguins_are_measured_and_the_odd_ones_found(executor: str, tmp_path: Path) -> None:
    assert run_example("penguins/penguins_flow.py", "--executor", executor, folder=tmp_path) == BODY_MASS


def test_penguins_take_another_measure_and_threshold(tmp_path: Path) -> None:
    options = ("--measure", "bill_length_mm", "--z", "2.8")
    assert run_example("penguins/penguins_flow.py", *options, folder=tmp_path) == BILL_LENGTH


@pytest.mark.parametrize("executor", EXECUTORS)
def test_primes_are_counted_across_the_borders_of_ranges(executor: str, tmp_path: Path) -> None:
    options = ("--limit", "1000000", "--size", "9973", "--executor", executor)
    assert run_example("primes_flow_example.py", *options, folder=tmp_path) == PRIMES_TO_A_MILLION


def test_there_are_no_primes_below_two(tmp_path: Path) -> None:
    assert run_example("primes_flow_example.py", "--limit", "2", folder=tmp_path) == "0 primes, 0 pairs of twins\n"


@pytest.mark.parametrize(("name", "expected"), GRAPHS)
def test_graphs_of_penguins_print_what_they_found(name: str, expected: str, tmp_path: Path) -> None:
    assert run_example(f"penguins/{name}", folder=tmp_path) == expected


@pytest.mark.slow
@pytest.mark.parametrize("executor", EXECUTORS)
def test_settings_of_a_model_are_tried_on_all_folds(executor: str, tmp_path: Path) -> None:
    assert run_example("sweep/sweep_flow.py", "--executor", executor, folder=tmp_path) == SWEEP


@pytest.mark.slow
@pytest.mark.parametrize(("name", "expected"), GRAPHS)
def test_graphs_of_penguins_run_on_processes(name: str, expected: str, tmp_path: Path) -> None:
    assert run_example(f"penguins/{name}", "--executor", "processes", folder=tmp_path) == expected


def test_nothing_is_loaded_when_a_check_fails(tmp_path: Path) -> None:
    options = ("run", "--fewest", "400", "--database", "birds.db")
    command = [sys.executable, str(EXAMPLES / "penguins/load_flow.py"), *options]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "error: check_size() raised ValueError: only 344 rows came, 400 should" in done.stderr
    assert not (tmp_path / "birds.db").exists()
