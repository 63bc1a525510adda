"""A map whose items cost nothing, so that only the runner is measured. lokki and lokkiflow both run this file.

Without postponed annotations, which lokkiflow cannot read its options from.
"""

from lokki import flow, main, step


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
def trivial_flow(count: int = 100):  # type: ignore[no-untyped-def]  # lokkiflow exports no type for it
    """Double numbers and add them up."""
    return numbers(count=count).map(double).agg(total)


if __name__ == "__main__":
    main(trivial_flow)
