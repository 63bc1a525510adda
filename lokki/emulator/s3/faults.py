"""What goes wrong in S3 when chaos is asked for."""

from __future__ import annotations

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
