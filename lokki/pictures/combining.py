"""Pictures put together: below one another, beside one another, in a frame."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import batched

from lokki.pictures.shapes import (
    DETAIL_SIZE,
    PADDING,
    Box,
    BoxKind,
    Mark,
    Picture,
    Point,
    Shape,
    Wire,
    lines_size,
    moved,
    text_width,
)

GAP = 24
"""Between pictures below one another: room for an arrow."""

ASIDE = 20
RAIL = 14
"""From where branches part to the line that they part along, and from that where they meet to the end."""

CASE_HEIGHT = 18
WIDEST = 1100
"""About how wide pictures beside one another are before those that are left begin a new row."""

BUS = 16
"""Room at both sides for the lines that join the rows."""

_LEAST_WIDTH = 96
SHEET = 4


def _with_mark(lines: Sequence[str], mark: Mark | None) -> tuple[str, ...]:
    """Return lines with the text of a mark, if it has one, below them."""
    return (*lines, mark.text) if mark is not None and mark.text else tuple(lines)


def boxed(lines: Sequence[str], kind: BoxKind, title: str, mark: Mark | None = None) -> Picture:
    """Return a box around lines, of which the first is its name."""
    texts = _with_mark(lines, mark)
    width, height = lines_size(texts)
    side = 2 * PADDING + (16 if kind == "choice" else 0)
    width, height = _even(max(width + 2 * side, _LEAST_WIDTH)), height + 2 * PADDING - 4
    return Picture(width, height, width // 2, (Box(0, 0, width, height, kind, texts, title, mark),))


def stacked(pictures: Sequence[Picture]) -> Picture:
    """Put pictures below one another, with an arrow from each to the next."""
    axis = max(picture.axis for picture in pictures)
    shapes: list[Shape] = []
    y = 0
    for number, picture in enumerate(pictures):
        if number:
            gap = GAP - RAIL if picture.parts else GAP
            shapes.append(Wire(((axis, y), (axis, y + gap)), arrow=not picture.parts))
            y += gap
        shapes += moved(picture, axis - picture.axis, y)
        y += picture.height
    width = axis + max(picture.width - picture.axis for picture in pictures)
    return Picture(width, y, axis, tuple(shapes), parts=pictures[0].parts)


def framed(picture: Picture, lines: Sequence[str], title: str, mark: Mark | None = None) -> Picture:
    """Put a frame around a picture, below lines that say what it is."""
    texts = _with_mark(lines, mark)
    head_width, head_height = lines_size(texts)
    inner_width = max(picture.width, head_width)
    left = PADDING + 6 + (inner_width - picture.width) // 2
    width = _even(inner_width + 2 * (PADDING + 6))
    top = head_height + PADDING
    axis = left + picture.axis
    height = top + GAP + picture.height + GAP - 6
    shapes = (
        Box(SHEET, SHEET, width, height, "sheet"),
        Box(0, 0, width, height, "frame", texts, title, mark),
        Wire(((axis, top), (axis, top + GAP)), arrow=True),
        *moved(picture, left, top + GAP),
        Wire(((axis, top + GAP + picture.height), (axis, height))),
    )
    return Picture(width + SHEET, height, axis, shapes)


@dataclass(frozen=True, slots=True)
class Lane:
    """One of the pictures beside one another.

    ``case``: the value of a switch for which it is taken; empty for a branch.
    """

    picture: Picture
    case: str = ""

    @property
    def head(self) -> int:
        """How wide its case is, with some room around."""
        return text_width(self.case, DETAIL_SIZE) + 16 if self.case else 0

    @property
    def left(self) -> int:
        """What it takes to the left of its axis."""
        return max(self.picture.axis, self.head // 2)

    @property
    def width(self) -> int:
        """What it takes in all."""
        return self.left + max(self.picture.width - self.picture.axis, self.head - self.head // 2)


def beside(lanes: Sequence[Lane]) -> Picture:
    """Put pictures between lines along which they part and meet.

    Those that do not fit begin a new row. At the left a line leads down to the rows, at the right one leads on from
    them.
    """
    rows = list(_rows(lanes))
    side = BUS if len(rows) > 1 else 0
    inner = max(_row_width(row) for row in rows)
    width = _even(inner + 2 * side)
    axis = side + _middle(rows[0]) if len(rows) == 1 else width // 2
    shapes: list[Shape] = []
    placed_rows: list[_Row] = []
    y = RAIL
    for row in rows:
        lanes_at = _placed(row, side + (inner - _row_width(row)) // 2)
        ends = [(x, y + RAIL + _lane_height(lane)) for lane, x in lanes_at]
        for lane, x in lanes_at:
            shapes += _lane(lane, x, y + RAIL)
        placed_rows.append(_Row(y, max(below for _, below in ends) + RAIL, BUS // 2, width - BUS // 2, ends))
        y = placed_rows[-1].bottom + GAP
    first, last = placed_rows[0], placed_rows[-1]
    for row_at in placed_rows:
        shapes += _rails(axis, row_at, enters=row_at is first, leaves=row_at is last)
    if first is not last:
        shapes.append(Wire(((axis, first.top), (first.left, first.top), (first.left, last.top))))
        shapes.append(Wire(((first.right, first.bottom), (first.right, last.bottom), (axis, last.bottom))))
    return Picture(width, last.bottom + RAIL, axis, tuple(shapes), parts=True)


@dataclass(frozen=True, slots=True)
class _Row:
    """Where the lines around a row are, and where its lanes end.

    ``left`` and ``right``: those at its sides.
    """

    top: int
    bottom: int
    left: int
    right: int
    ends: Sequence[Point]


def _middle(row: Sequence[Lane]) -> int:
    """Return where a row is entered, above its middle lane or between its two."""
    places = [x for _, x in _placed(row, 0)]
    return (places[(len(places) - 1) // 2] + places[len(places) // 2]) // 2


def _rails(axis: int, row: _Row, *, enters: bool, leaves: bool) -> Iterator[Shape]:
    """Yield the lines that lead to the lanes of a row and on from them.

    ``enters``, ``leaves``: whether it is entered and left at the axis, and not by a line at its side.
    """
    way_in = ((axis, 0), (axis, row.top)) if enters else ((row.left, row.top),)
    way_out = ((axis, row.bottom), (axis, row.bottom + RAIL)) if leaves else ((row.right, row.bottom),)
    for x, below in row.ends:
        yield Wire(_corners((*way_in, (x, row.top), (x, row.top + RAIL))))
        yield Wire(_corners(((x, below), (x, row.bottom), *way_out)))


def _corners(points: tuple[Point, ...]) -> tuple[Point, ...]:
    """Leave out points on a straight line between others, and repeats."""
    corners: list[Point] = []
    for point in points:
        if corners and corners[-1] == point:
            continue
        if len(corners) > 1 and _is_straight(corners[-2], corners[-1], point):
            corners.pop()
        corners.append(point)
    return tuple(corners)


def _is_straight(first: Point, middle: Point, last: Point) -> bool:
    return first[0] == middle[0] == last[0] or first[1] == middle[1] == last[1]


def _lane(lane: Lane, x: int, y: int) -> Iterator[Shape]:
    """Yield the shapes of a lane between the lines of its row.

    ``x``: of its axis; ``y``: of its upper end.
    """
    start = y
    if lane.case:
        yield Box(x - lane.head // 2, y, lane.head, CASE_HEIGHT, "case", (lane.case,))
        start += CASE_HEIGHT
    yield Wire(((x, start), (x, start + GAP - 8)), arrow=True)
    yield from moved(lane.picture, x - lane.picture.axis, start + GAP - 8)


def _lane_height(lane: Lane) -> int:
    return (CASE_HEIGHT if lane.case else 0) + GAP - 8 + lane.picture.height


def _rows(lanes: Sequence[Lane]) -> Iterator[Sequence[Lane]]:
    """Yield the rows, each with about as many lanes as the others."""
    rows = -(-_row_width(lanes) // WIDEST)
    yield from batched(lanes, -(-len(lanes) // rows), strict=False)


def _row_width(row: Sequence[Lane]) -> int:
    return sum(lane.width for lane in row) + ASIDE * (len(row) - 1)


def _placed(row: Sequence[Lane], x: int) -> list[tuple[Lane, int]]:
    """Return the lanes of a row, each with where its axis is."""
    placed = []
    for lane in row:
        placed.append((lane, x + lane.left))
        x += lane.width + ASIDE
    return placed


def _even(number: int) -> int:
    return number + number % 2


def padded(picture: Picture, room: int) -> Picture:
    """Return a picture with room around it."""
    return replace(
        picture,
        width=picture.width + 2 * room,
        height=picture.height + 2 * room,
        axis=picture.axis + room,
        shapes=tuple(moved(picture, room, room)),
    )
