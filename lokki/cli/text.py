"""How commands write paths, tables and counts for people."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def from_here(text: str) -> str:
    """Shorten the paths in a text that are below the current directory."""
    try:
        here = str(Path.cwd())
    except FileNotFoundError:  # a step has removed it
        return text
    return text if here == "/" else text.replace(f"{here}/", "")


def count_text(number: int, noun: str) -> str:
    """Write a number of things.

    >>> count_text(1, "run"), count_text(0, "run"), count_text(1200, "item")
    ('1 run', '0 runs', '1,200 items')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def align_columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Return the rows of a table as lines, its columns aligned."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
