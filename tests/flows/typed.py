"""A flow with a parameter of each kind that the command line knows."""

# ruff: noqa: B006, B008

import enum
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Literal
from uuid import UUID

from lokki import flow, main, step


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Box:
    width: int
    label: str = ""


@step
def show(
    count: int,
    ratio: float,
    name: str,
    day: date,
    at: datetime,
    clock: time,
    wait: timedelta,
    path: Path,
    dry: bool,
    color: Color,
    mode: Literal["fast", "slow", 3],
    note: str | None,
    most: int | None,
    tags: list[str],
    sizes: list[int],
    colors: set[Color],
    key: UUID,
    price: Decimal,
    box: Box,
    extra: dict[str, int],
    loose: object,
    workers: int,
) -> str:
    return "\n".join(f"{name} = {value!r}" for name, value in locals().items())


@flow
def typed_flow(
    count: int,
    ratio: float = 0.5,
    name: str = "goose",
    day: date = date(2026, 1, 1),
    at: datetime = datetime(2026, 1, 1, 12, 30),
    clock: time = time(9, 30),
    wait: timedelta = timedelta(minutes=5),
    path: Path = Path("data"),
    dry: bool = False,
    color: Color = Color.RED,
    mode: Literal["fast", "slow", 3] = "fast",
    note: str | None = None,
    most: int | None = None,
    tags: list[str] = ["a"],
    sizes: list[int] = [1, 2],
    colors: set[Color] = {Color.BLUE},
    key: UUID = UUID(int=1),
    price: Decimal = Decimal("1.50"),
    box: Box = Box(3),
    extra: dict[str, int] = {},
    loose=7,
    workers: int = 2,
):
    """Take one of everything.

    In it:
      * lists and
      * layout stay as they are
    """
    return show(
        count, ratio, name, day, at, clock, wait, path, dry, color, mode, note, most, tags, sizes, colors, key, price,
        box, extra, loose, workers,
    )  # fmt: skip


if __name__ == "__main__":
    main(typed_flow)
