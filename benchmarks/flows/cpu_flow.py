"""A map that keeps CPUs busy: the longest Collatz chain that starts below a number."""

from __future__ import annotations

from lokki import StepNode, flow, main, step


@step
def cut_into_ranges(limit: int, size: int) -> list[range]:
    return [range(start, min(start + size, limit)) for start in range(1, limit, size)]


def longest_chain(numbers: range) -> int:
    """Return how many numbers the longest chain has that starts in a range."""
    longest = 0
    for start in numbers:
        number, length = start, 1
        while number != 1:
            number = number // 2 if number % 2 == 0 else 3 * number + 1
            length += 1
        longest = max(longest, length)
    return longest


@step
def longest(numbers: range) -> int:
    return longest_chain(numbers)


@step
def longest_of_all(lengths: list[int]) -> int:
    return max(lengths)


@flow
def cpu_flow(limit: int = 400_000, size: int = 10_000) -> StepNode[..., int]:
    """Find the longest Collatz chain that starts below a limit."""
    return cut_into_ranges(limit=limit, size=size).map(longest).agg(longest_of_all)


if __name__ == "__main__":
    main(cpu_flow)
