"""The examples, run as a user runs them: what they print is compared whole."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.examples import BILL_LENGTH, BIRDS, BODY_MASS, PRIMES_TO_A_MILLION, run_example

EXECUTORS = ("threads", "processes")


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
