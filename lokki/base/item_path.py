"""How an item of a map block is named.

A path has an index for each map that the item is in, from the outermost to the innermost. People read ``work[3/7]`` and
write ``--item 3/7``; JSON has the index of an item in one map, and a list of indices of an item further down.
"""

from __future__ import annotations

import re

from lokki.base.values import Json
from lokki.errors import ParameterError

type ItemPath = tuple[int, ...]
"""The indices of an item: ``()`` outside of map blocks, ``(3,)`` in one, ``(3, 7)`` in a map below a map."""

_LARGEST = 10**15


def item_name(step_id: str, path: ItemPath) -> str:
    """Name a step, or a step on one item, for people.

    >>> item_name("load", ()), item_name("work", (3,)), item_name("work", (3, 7))
    ('load', 'work[3]', 'work[3/7]')
    """
    return f"{step_id}[{format_item(path)}]" if path else step_id


def format_item(path: ItemPath) -> str:
    """Write a path as the command line takes it.

    >>> format_item((3,)), format_item((3, 7))
    ('3', '3/7')
    """
    return "/".join(map(str, path))


def parse_item(text: str) -> ItemPath:
    """Read a path that a user wrote, or `format_item`.

    Raises ParameterError for anything but indices joined by ``/``.

    >>> parse_item("3"), parse_item("3/7")
    ((3,), (3, 7))
    """
    # Compiled here and not at the top: this module is part of every cold start.
    if not re.fullmatch(r"[0-9]{1,15}(/[0-9]{1,15})*", text):
        raise ParameterError(
            f"{text!r} names no item: give its index from 0, such as 3, or one index for each map, such as 3/7."
        )
    return tuple(map(int, text.split("/")))


def item_to_json(path: ItemPath) -> Json:
    """Return a path as events and logs have it.

    None outside of map blocks.

    >>> item_to_json(()), item_to_json((3,)), item_to_json((3, 7))
    (None, 3, [3, 7])
    """
    if not path:
        return None
    return path[0] if len(path) == 1 else [*path]


def item_from_json(value: object) -> ItemPath:
    """Read what `item_to_json` wrote, ``()`` for anything else."""
    members: list[object] = value if isinstance(value, list) else [value]
    path = tuple(index for index in members if type(index) is int and 0 <= index < _LARGEST)
    return path if len(path) == len(members) else ()
