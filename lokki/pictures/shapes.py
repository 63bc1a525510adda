"""Boxes and wires on a plane, in pixels, and pictures made of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import ceil
from typing import Literal
from unicodedata import category, east_asian_width

type BoxKind = Literal["step", "choice", "frame", "sheet", "note", "case"]
"""What a box stands for.

A ``sheet`` peeps out behind the frame of a map block, a ``note`` has parameters or results, a ``case`` the value that a
branch of a switch is for.
"""

type Point = tuple[int, int]

NAME_SIZE, DETAIL_SIZE = 13, 11
"""Sizes of letters: of the first line of a box, and of those below it."""

NAME_HEIGHT, DETAIL_HEIGHT = 18, 15
PADDING = 10
SHOWN_LETTERS = 44
"""Columns of a line; what is longer is cut off in the picture, and whole in its box's title."""


@dataclass(frozen=True, slots=True)
class Mark:
    """What a run made of an operation.

    * ``status``: as a report has it, or ``waiting``; ``text``: such as ``3.2 s``.
    * ``link``: where a click leads to, such as ``#step-load``.
    """

    status: str
    text: str = ""
    link: str = ""


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle with lines of text.

    ``title``: what is shown while the pointer is on it, and read to those who do not see it.
    """

    x: int
    y: int
    width: int
    height: int
    kind: BoxKind
    lines: tuple[str, ...] = ()
    title: str = ""
    mark: Mark | None = None


@dataclass(frozen=True, slots=True)
class Wire:
    """A line through points, which may end as an arrow."""

    points: tuple[Point, ...]
    arrow: bool = False


type Shape = Box | Wire


@dataclass(frozen=True, slots=True)
class Picture:
    """Shapes within a rectangle, which is entered above and left below.

    Both at ``axis``. ``parts``: whether it begins with a line that parts, so that no arrow leads to it.
    """

    width: int
    height: int
    axis: int
    shapes: tuple[Shape, ...] = ()
    parts: bool = False


def moved(picture: Picture, right: int, down: int) -> Iterable[Shape]:
    """Yield the shapes of a picture, moved."""
    for shape in picture.shapes:
        match shape:
            case Box():
                yield replace(shape, x=shape.x + right, y=shape.y + down)
            case Wire():
                yield replace(shape, points=tuple((x + right, y + down) for x, y in shape.points))


def plain(text: str) -> str:
    """Replace letters that XML cannot hold, such as control characters.

    Lines stay: https://www.w3.org/TR/xml/#charsets
    """
    return "".join(
        letter if letter.isprintable() or letter in "\n\t" else "\N{REPLACEMENT CHARACTER}" for letter in text
    )


def columns(text: str) -> int:
    """Count the columns that a text takes where all letters are of one width.

    >>> columns("load"), columns("日本")
    (4, 4)
    """
    return sum(
        2 if east_asian_width(letter) in "WF" else 0 if category(letter) in ("Mn", "Me", "Cf") else 1 for letter in text
    )


def shortened(text: str, most: int = SHOWN_LETTERS) -> str:
    """Cut off what is beyond some columns, on one line.

    >>> shortened("a text", 4)
    'a t…'
    """
    line = "".join(letter if letter.isprintable() else " " for letter in text)
    if columns(line) <= most:
        return line
    while columns(line) >= most:
        line = line[:-1]
    return f"{line}…"


def text_width(line: str, size: int) -> int:
    """Return how wide a line is.

    Letters of one width are 0.60 to 0.61 of their height in all fonts that are asked for.
    """
    return ceil(columns(line) * size * 0.61)


def lines_size(lines: tuple[str, ...]) -> tuple[int, int]:
    """Return width and height of lines, of which the first is a name."""
    widths = [text_width(line, DETAIL_SIZE if number else NAME_SIZE) for number, line in enumerate(lines)]
    return max(widths, default=0), NAME_HEIGHT + DETAIL_HEIGHT * (len(lines) - 1)
