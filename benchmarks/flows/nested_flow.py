"""The same trivial items in one map, and in a map below a map."""

import sys

from lokki import StepNode, flow, main, step


@step
def numbers(count: int) -> list[int]:
    return list(range(count))


@step
def members(number: int, size: int) -> list[int]:
    return list(range(number * size, (number + 1) * size))


@step
def all_members(lists: int, size: int) -> list[int]:
    return list(range(lists * size))


@step
def double(number: int) -> int:
    return number * 2


@step
def total(values: list[int]) -> int:
    return sum(values)


@flow
def one_list(number: int, size: int) -> StepNode[..., int]:
    return members(number, size).map(double).agg(total)


@flow
def nested_flow(lists: int = 10, size: int = 10) -> StepNode[..., int]:
    """Double numbers list by list, and add them up."""
    return numbers(lists).map(one_list(size=size)).agg(total)


@flow
def flat_flow(lists: int = 10, size: int = 10) -> StepNode[..., int]:
    """Double as many numbers, and add them up."""
    return all_members(lists, size).map(double).agg(total)


if __name__ == "__main__":
    main(nested_flow if sys.argv.pop(1) == "nested" else flat_flow)
