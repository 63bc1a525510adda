"""A flow's file without the guard around main(): worker processes that import it must not run the flow again."""

from lokki import flow, main, step


@step
def numbers() -> list[int]:
    return [1, 2, 3]


@step
def double(number: int) -> int:
    return number * 2


@step
def total(found: list[int]) -> int:
    return sum(found)


@flow
def unguarded_flow():
    return numbers().map(double).agg(total)


main(unguarded_flow)
