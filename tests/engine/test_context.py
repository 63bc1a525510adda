"""What the flow's file sets for its thread when it is imported holds in every step, on whichever executor it runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.command import Place
from support.local_runs import EXECUTORS

FLOW = """
import contextvars, decimal, sqlite3, sys, threading
from decimal import Decimal
import numpy
from lokki import flow, main, step

TENANT = contextvars.ContextVar("tenant", default="nobody")
TENANT.set("acme")
decimal.getcontext().prec = 50
numpy.seterr(divide="raise")

def seen() -> list[object]:
    return [TENANT.get(), decimal.getcontext().prec, str(1 / Decimal(3)), numpy.geterr()["divide"]]

def change() -> None:
    TENANT.set("changed")
    decimal.getcontext().prec = 5
    numpy.seterr(divide="ignore")

@step(timeout=TIMEOUT)
def numbers() -> list[int]:
    before = seen()
    change()
    return [number if before == seen_at_import else -1 for number in range(40)]

@step(timeout=TIMEOUT)
def look(number: int) -> list[object]:
    found = seen()
    change()
    return found

@step(timeout=TIMEOUT)
def gather(found: list[list[object]]) -> list[object]:
    return [len(found), *{str(each): each for each in [*found, seen()]}.values()]

seen_at_import = seen()

@flow
def context_flow():
    return numbers().map(look).agg(gather)

if __name__ == "__main__":
    main(context_flow)
"""

THIRD = "0." + 50 * "3"


@pytest.mark.parametrize("timeout", ["None", "60"])
@pytest.mark.parametrize("executor", EXECUTORS)
def test_each_call_of_a_step_sees_the_context_as_it_was_after_the_import(
    tmp_path: Path, executor: str, timeout: str
) -> None:
    place = Place(tmp_path)
    place.write("context.py", FLOW.replace("TIMEOUT", timeout))
    ran = place.run("context.py", "run", "--quiet", "--executor", executor, "--output", "r.json")
    assert (ran.code, ran.err) == (0, "")
    assert (tmp_path / "r.json").read_text().split() == [
        "[", "40,", "[", '"acme",', "50,", f'"{THIRD}",', '"raise"', "]", "]"
    ]  # fmt: skip
