"""How many items a batch has that sizes itself: in Python, and as the state machine computes it.

With at most ``c`` items at one time there is one item to a batch while there are no more than ``c``; then some times
``c`` batches, so that functions end together although items differ: ten times for few functions, twice for a thousand,
where that many batches are as many as the price allows. Where twice ``c`` batches would have two items and come in
rounds of which the last is half empty, there are ``c`` batches.
"""

from __future__ import annotations

import math

MOST_ITEMS = 2_000
"""Items of a batch that sizes itself.

A function that has time for one of them only, each time, stays far below the 25,000 events of an execution.
"""

_MOST_ROUNDS = 10
_CHILDREN = 1_000
"""Children up to which more of them hardly cost anything."""

_MANY_AT_ONCE = 5_000
"""Functions from which on twice as many children would cost too much."""


def default_batch(items: int, at_once: int) -> int:
    """Return the size of batches for so many items.

    ``at_once``: how many of them run at one time.

    >>> [default_batch(items, 1000) for items in (10, 1000, 1500, 3000, 4000, 1_000_000, 10_000_000)]
    [1, 1, 2, 3, 2, 500, 2000]
    >>> [default_batch(items, 10) for items in (0, 10, 100, 101, 1_000_000)]
    [1, 1, 1, 2, 2000]
    """
    rounds = _rounds(at_once)
    share = items / at_once
    # More rounds where batches would have too many items, and rounds of equal batches: a cut at so many items would
    # leave the last round nearly empty.
    rounds = max(rounds, math.ceil(share / MOST_ITEMS))
    return max(1, math.ceil(share if rounds == 2 and share <= 3 else share / rounds))


def batch_expression(items: str, at_once: str) -> str:
    """Return `default_batch` in JSONata.

    ``items`` and ``at_once`` are expressions.
    """
    rounds = f"$at_once > {_MANY_AT_ONCE} ? 1 : $min([{_MOST_ROUNDS}, $max([2, $floor({_CHILDREN} / $at_once)])])"
    share = f"$rounds = 2 and $share <= 3 ? $share : $share / $max([$rounds, $ceil($share / {MOST_ITEMS})])"
    size = f"$max([1, $ceil({share})])"
    # Arguments of functions instead of variables, which are those of the execution.
    sized = f"function($share, $rounds) {{ {size} }}"
    return f"(function($items, $at_once) {{ ({sized})($items / $at_once, {rounds}) }})({items}, {at_once})"


def _rounds(at_once: int) -> int:
    """Return how many children there are for each that runs at one time."""
    return 1 if at_once > _MANY_AT_ONCE else min(_MOST_ROUNDS, max(2, _CHILDREN // at_once))
