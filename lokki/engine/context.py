"""Which step, and which item of a map block, the current thread is at.

That is how lines that steps print are told apart.
"""

from __future__ import annotations

import threading

from lokki.base.item_path import ItemPath


class _Place(threading.local):
    id: str = ""
    item: ItemPath = ()


_place = _Place()


def at_item(step_id: str, item: ItemPath) -> None:
    """Note that this thread is at a step, and in a map block at an item.

    An empty id: at none.
    """
    _place.id = step_id
    _place.item = item


def place() -> tuple[str, ItemPath]:
    """Return the step and the item that this thread is at."""
    return _place.id, _place.item
