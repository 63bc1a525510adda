"""A picture as SVG, light or dark as its reader's screen is."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from lokki.pictures.combining import padded
from lokki.pictures.drawing import draw
from lokki.pictures.flow_figure import Marks, figure_of
from lokki.pictures.shapes import (
    DETAIL_HEIGHT,
    DETAIL_SIZE,
    NAME_HEIGHT,
    NAME_SIZE,
    PADDING,
    Box,
    Picture,
    Point,
    Wire,
    plain,
)
from lokki.plan import Plan

MARGIN = 16
_CORNER = 8
_FONT = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', 'Liberation Mono', monospace"

# Colours stand in each rule and in no variables: programs that are no browsers draw this too, and know none.
_LIGHT = {
    ".paper": "fill: #ffffff",
    ".wire": "stroke: #818b98",
    ".name": "fill: #1f2328",
    ".detail": "fill: #59636e",
    ".step": "fill: #f6f8fa; stroke: #afb8c1",
    ".choice": "fill: #fff8c5; stroke: #bf8700",
    ".frame": "fill: #eef6ff; stroke: #54aeff",
    ".sheet": "fill: #ddeeff; stroke: #54aeff",
    ".note": "fill: #ffffff; stroke: #afb8c1",
    ".case": "fill: #fff8c5; stroke: #bf8700",
    ".finished": "stroke: #1a7f37",
    ".restored": "stroke: #8250df",
    ".running": "stroke: #0969da",
    ".failed": "fill: #ffebe9; stroke: #cf222e",
    ".interrupted": "stroke: #9a6700",
    ".skipped, .waiting": "fill: #ffffff; stroke: #afb8c1",
}
_DARK = {
    ".paper": "fill: #0d1117",
    ".wire": "stroke: #7d8590",
    ".name": "fill: #e6edf3",
    ".detail": "fill: #9198a1",
    ".step": "fill: #161b22; stroke: #484f58",
    ".choice": "fill: #2b2310; stroke: #bb8009",
    ".frame": "fill: #0f1d31; stroke: #316dca",
    ".sheet": "fill: #132a4a; stroke: #316dca",
    ".note": "fill: #0d1117; stroke: #484f58",
    ".case": "fill: #2b2310; stroke: #bb8009",
    ".finished": "stroke: #3fb950",
    ".restored": "stroke: #a371f7",
    ".running": "stroke: #58a6ff",
    ".failed": "fill: #341719; stroke: #f85149",
    ".interrupted": "stroke: #d29922",
    ".skipped, .waiting": "fill: #0d1117; stroke: #484f58",
}
_SHAPE = {
    "": f"font-family: {_FONT}; max-width: 100%; height: auto",
    ".name": f"font-size: {NAME_SIZE}px; font-weight: 600",
    ".detail": f"font-size: {DETAIL_SIZE}px",
    ".wire": "fill: none; stroke-width: 1.5",
    ".box": "stroke-width: 1.25",
    ".note, .skipped, .waiting": "stroke-dasharray: 4 3",
    ".finished, .restored, .running, .failed, .interrupted": "stroke-width: 2",
}


def svg(plan: Plan, marks: Marks | None = None) -> str:
    """Draw a plan, or a run of it.

    ``marks``: what the run made of its operations.
    """
    picture = padded(figure_of(plan, marks), MARGIN)
    # What a link leads to is read to all only if the drawing is not said to be one image.
    role = "group" if marks and any(mark.link for mark in marks.values()) else "img"
    title, text = escape(plain(f"The flow {plan.flow}")), escape(plain(draw(plan)))
    size = f'width="{picture.width}" height="{picture.height}"'
    view = f'{size} viewBox="0 0 {picture.width} {picture.height}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="lokki-drawing" role="{role}" aria-label="{title}" {view}>',
        f"<title>{title}</title>",
        f"<desc>{text}</desc>",
        f"<style>{drawing_style()}</style>",
        f'<rect class="paper" {size} rx="{_CORNER}"/>',
        *_shapes(picture),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def drawing_style() -> str:
    """Return the rules of a drawing, which hold in it alone.

    They are as its style element has them, the same in every drawing, so that a page's policy may name their checksum.
    """
    dark = "\n".join(f"  {line}" for line in _rules(_DARK))
    lines = [*_rules(_SHAPE), *_rules(_LIGHT), "@media (prefers-color-scheme: dark) {", dark, "}"]
    return "\n".join(["", *lines, ""])


def _rules(rules: dict[str, str]) -> Iterator[str]:
    for selector, text in rules.items():
        names = ", ".join(f".lokki-drawing {part}".rstrip() for part in selector.split(", "))
        yield f"{names} {{ {text} }}"


def _shapes(picture: Picture) -> Iterator[str]:
    # Wires first: where they reach a box, it is drawn over them. Frames are drawn before what is in them.
    frames = [shape for shape in picture.shapes if isinstance(shape, Box) and shape.kind in ("sheet", "frame")]
    wires = [shape for shape in picture.shapes if isinstance(shape, Wire)]
    others = [shape for shape in picture.shapes if isinstance(shape, Box) and shape not in frames]
    yield from (line for box in frames for line in _box(box))
    yield from map(_wire, wires)
    yield from (line for box in others for line in _box(box))


def _box(box: Box) -> Iterator[str]:
    status = f" {box.mark.status}" if box.mark is not None else ""
    size = f'width="{box.width}" height="{box.height}"'
    link = box.mark.link if box.mark is not None else ""
    if not box.lines:
        yield f'<rect class="box {box.kind}" x="{box.x}" y="{box.y}" {size} rx="{_CORNER}"/>'
        return
    yield f'<a href="{escape(link)}">' if link else "<g>"
    yield f"<title>{escape(plain(box.title or box.lines[0]))}</title>"
    if box.kind == "choice":
        yield f'<path class="box choice{status}" d="{_hexagon(box)}"/>'
    else:
        round_corner = box.height // 2 if box.kind == "case" else _CORNER
        yield f'<rect class="box {box.kind}{status}" x="{box.x}" y="{box.y}" {size} rx="{round_corner}"/>'
    yield from _lines(box)
    yield "</a>" if link else "</g>"


def _hexagon(box: Box) -> str:
    point, right, bottom = 12, box.x + box.width, box.y + box.height
    middle = box.y + box.height // 2
    return (
        f"M{box.x} {middle}L{box.x + point} {box.y}H{right - point}L{right} {middle}L{right - point} {bottom}"
        f"H{box.x + point}Z"
    )


def _lines(box: Box) -> Iterator[str]:
    if box.kind == "case":
        yield _text(box.x + box.width // 2, box.y + 13, "detail", "middle", box.lines[0])
        return
    is_frame = box.kind == "frame"
    x = box.x + PADDING + 6 if is_frame else box.x + box.width // 2
    y = box.y + PADDING + 11
    for number, line in enumerate(box.lines):
        kind = "detail" if number or box.kind == "note" else "name"
        yield _text(x, y, kind, "start" if is_frame else "middle", line)
        y += DETAIL_HEIGHT if number else NAME_HEIGHT - 1


def _text(x: int, y: int, kind: str, anchor: str, text: str) -> str:
    return f'<text class="{kind}" x="{x}" y="{y}" text-anchor="{anchor}" xml:space="preserve">{escape(text)}</text>'


def _wire(wire: Wire) -> str:
    head = ""
    if wire.arrow:
        x, y = wire.points[-1]
        head = f"M{x - 4} {y - 6}L{x} {y - 1}L{x + 4} {y - 6}"
    return f'<path class="wire" d="{_path(wire.points)}{head}"/>'


def _path(points: tuple[Point, ...]) -> str:
    """Return a path through points whose corners are round."""
    first, last = points[0], points[-1]
    text = f"M{first[0]} {first[1]}"
    for before_corner, corner, behind in zip(points, points[1:], points[2:], strict=False):
        radius = min(_CORNER, _length(before_corner, corner) // 2, _length(corner, behind) // 2)
        start, end = _toward(corner, before_corner, radius), _toward(corner, behind, radius)
        text += f"L{start[0]} {start[1]}Q{corner[0]} {corner[1]} {end[0]} {end[1]}"
    return f"{text}L{last[0]} {last[1]}"


def _length(start: Point, end: Point) -> int:
    return abs(start[0] - end[0]) + abs(start[1] - end[1])


def _toward(start: Point, end: Point, way: int) -> Point:
    """Return the point that is some way on from one point to another.

    One of them is right above or beside the other.
    """
    length = _length(start, end)
    return start[0] + (end[0] - start[0]) * way // length, start[1] + (end[1] - start[1]) * way // length
