"""What goes wrong when chaos is asked for: how often, and decided by a seed and nothing else."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class S3Faults:
    """How often S3 misbehaves, each from 0 to 1.

    * ``refused``: requests answered with 503.
    * ``late``: requests answered ``late_seconds`` later.

    A request is never refused more than twice in a row, so that clients that try again as AWS's do get through.
    """

    seed: str = ""
    refused: float = 0.0
    late: float = 0.0
    late_seconds: float = 0.1


def chance(*subject: object) -> float:
    """Return a number from 0 to 1 that depends on the arguments only.

    So a seed gives the same faults whatever the order in which threads ask.
    """
    digest = hashlib.sha256("/".join(map(str, subject)).encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32
