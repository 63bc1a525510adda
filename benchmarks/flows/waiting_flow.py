"""A map over steps that wait, and one over steps that compute, each for about as long as the other."""

from __future__ import annotations

import time

from lokki import StepNode, flow, main, step


@step
def numbers(count: int) -> list[int]:
    return list(range(count))


@step
def wait(number: int) -> int:
    time.sleep(0.02)
    return number


@step
def compute(number: int) -> int:
    return sum(range(200_000)) - sum(range(200_000)) + number


@step
def total(values: list[int]) -> int:
    return sum(values)


@flow
def waiting(count: int = 1000) -> StepNode[..., int]:
    return numbers(count).map(wait).agg(total)


@flow
def computing(count: int = 1000) -> StepNode[..., int]:
    return numbers(count).map(compute).agg(total)


if __name__ == "__main__":
    main(waiting, computing)
