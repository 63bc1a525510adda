"""Chance that a seed decides, and nothing else, for faults that can be repeated."""

from __future__ import annotations

import hashlib


def chance(*subject: object) -> float:
    """Return a number from 0 to 1 that depends on the arguments only.

    So a seed gives the same faults whatever the order in which threads ask.
    """
    digest = hashlib.sha256("/".join(map(str, subject)).encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32
