"""Texts of values, equal where the values are the same in every way that a step could see."""


def exact(value: object) -> str:
    """Write a value with its type, its sign and its zone; a set, which has no order of its own, sorted."""
    if isinstance(value, set | frozenset):
        return f"{type(value).__name__} of {sorted(map(repr, value))}"
    return repr(value)
