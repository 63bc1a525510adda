"""The examples, run as a user runs them: what they print is compared whole."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
EXECUTORS = ("threads", "processes")

BIRDS = """\
flappy goose, flappy duck, flappy seagul
"""

BODY_MASS = """\
body_mass_g of 342 penguins
species    island     birds    mean    std     min     max  outliers
Adelie     Biscoe        44  3709.7  487.7  2850.0  4775.0
Adelie     Dream         56  3688.4  455.1  2900.0  4650.0
Adelie     Torgersen     51  3706.4  445.1  2900.0  4700.0
Chinstrap  Dream         68  3733.1  384.3  2700.0  4800.0  PAL0809 N72A1 (-2.9)
Gentoo     Biscoe       123  5076.0  504.1  3950.0  6300.0  PAL0809 N6A1 (-2.6), PAL0708 N39A2 (+2.6)
"""

BILL_LENGTH = """\
bill_length_mm of 342 penguins
species    island     birds    mean    std     min     max  outliers
Adelie     Biscoe        44    39.0    2.5    34.5    45.6
Adelie     Dream         56    38.5    2.5    32.1    44.1
Adelie     Torgersen     51    39.0    3.0    33.5    46.0
Chinstrap  Dream         68    48.8    3.3    40.9    58.0  PAL0910 N98A2 (+3.0), PAL0708 N71A2 (+3.7)
Gentoo     Biscoe       123    47.5    3.1    40.9    59.6  PAL0708 N56A2 (+3.7)
"""

# https://oeis.org/A006880 and https://oeis.org/A007508 for 10^6; https://oeis.org/A005250 for the gap
PRIMES_TO_A_MILLION = """\
78,498 primes, 8,169 pairs of twins
widest gap: 114, from 492,113 to 492,227
"""


def run_example(name: str, *options: str, folder: Path) -> str:
    """Run an example in an empty folder and return what it printed; fail with what it said when it failed."""
    command = [sys.executable, str(EXAMPLES / name), "run", *options]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


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
