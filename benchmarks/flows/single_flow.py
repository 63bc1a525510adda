"""The same map as trivial_flow.py's, with a child execution for each item."""

from __future__ import annotations

from lokki import StepNode, flow, main, step


@step
def numbers(count: int) -> list[int]:
    return list(range(count))


@step
def double(number: int) -> int:
    return number * 2


@step
def total(values: list[int]) -> int:
    return sum(values)


@flow
def single_flow(count: int = 100) -> StepNode[..., int]:
    """Double numbers and add them up."""
    return numbers(count=count).map(double, batch=1).agg(total)


if __name__ == "__main__":
    main(single_flow)
