"""A map whose results are large: python large_flow.py run --kind arrays --count 500 --size 1000000."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lokki import StepNode, flow, main, step

sys.path.insert(0, str(Path(__file__).parents[1] / "programs"))
from large_map import KINDS

if TYPE_CHECKING:
    from large_map import Result


@step
def numbers(count: int) -> list[int]:
    return list(range(count))


@step
def make(number: int, kind: str, size: int) -> Result:
    return KINDS[kind](number, size)


@step
def total(results: list[Result]) -> int:
    return sum(map(len, results))


@flow
def large(kind: str, count: int, size: int) -> StepNode[..., int]:
    """Make results of a size and add up their lengths."""
    return numbers(count=count).map(make(kind=kind, size=size)).agg(total)


if __name__ == "__main__":
    main(large)
