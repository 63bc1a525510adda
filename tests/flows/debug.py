"""A step with a breakpoint."""

from lokki import flow, main, step


@step
def start() -> list[int]:
    return [1, 2]


@step
def look(number: int) -> int:
    doubled = number * 2
    if number == 2:
        breakpoint()
    return doubled


@step
def end(numbers: list[int]) -> int:
    return sum(numbers)


@flow
def debug_flow():
    return start().map(look).agg(end)


if __name__ == "__main__":
    main(debug_flow)
