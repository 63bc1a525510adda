"""The row of a progress bar, fitted to the width of the terminal.

The count and the time left are the last to go.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

LONGEST_BAR = 30
_SHORTEST_BAR = 5
_SHORTEST_TITLE = 6


@dataclass(frozen=True, slots=True)
class Fact:
    """A piece of what a row says.

    ``rank``: 0 for one that always stays; else the higher it is, the sooner the piece is left out.
    """

    text: str
    rank: int = 0


@dataclass(frozen=True, slots=True)
class Row:
    """A title, a bar, facts and the time left, beside each other.

    ``bar``: its length in characters.
    """

    title: str
    bar: int
    facts: tuple[Fact, ...]
    time: str

    @property
    def text(self) -> str:
        """The facts as they are shown."""
        return ", ".join(fact.text for fact in self.facts)

    @property
    def width(self) -> int:
        """How many characters the row takes."""
        return sum(len(piece) + 1 for piece in (self.title, "-" * self.bar, self.text, self.time) if piece) - 1


def fit_row(title: str, facts: Sequence[Fact], time: str, width: int) -> Row:
    """Return the row that fits into so many characters.

    First the bar grows shorter, then facts go, then the bar, then the end of the title; facts of rank 1 go last.

    >>> facts = [Fact("40/100"), Fact("6 running", 3), Fact("1 failed", 1)]
    >>> rows = [fit_row("flap → weigh", facts, "0:00:12", width) for width in (80, 60, 40)]
    >>> [(row.bar, row.text) for row in rows[:2]]
    [(30, '40/100, 6 running, 1 failed'), (11, '40/100, 6 running, 1 failed')]
    >>> (rows[2].title, rows[2].bar, rows[2].text)
    ('flap → weigh', 0, '40/100, 1 failed')
    """
    row = Row(title, LONGEST_BAR, tuple(facts), time)
    ranks = sorted({fact.rank for fact in facts if fact.rank > 1}, reverse=True)
    narrowings: list[Callable[[Row], Row]] = [
        *(partial(_without_facts, rank=rank) for rank in ranks),
        _without_bar,
        partial(_with_short_title, width=width),
        partial(_without_facts, rank=1),
    ]
    for narrowed in narrowings:
        row = _with_bar(row, width)
        if row.width <= width:
            return row
        row = narrowed(row)
    return row


def _with_bar(row: Row, width: int) -> Row:
    """Return the row with the longest bar that leaves room for all else.

    It is never too short to be a bar.
    """
    room = row.bar - max(0, row.width - width)
    return replace(row, bar=max(_SHORTEST_BAR, room)) if row.bar else row


def _without_bar(row: Row) -> Row:
    return replace(row, bar=0)


def _without_facts(row: Row, rank: int) -> Row:
    return replace(row, bar=LONGEST_BAR if row.bar else 0, facts=tuple(fact for fact in row.facts if fact.rank < rank))


def _with_short_title(row: Row, width: int) -> Row:
    title = row.title.rstrip()
    room = max(_SHORTEST_TITLE, len(row.title) - (row.width - width))
    return replace(row, title=title if len(title) <= room else f"{title[: room - 1]}…")
