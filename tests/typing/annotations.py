"""The annotations that test_typing.py tries in all pairs, as mypy and as lokki sees them. `KINDS` are source text."""

from __future__ import annotations

import collections
import datetime
import decimal
import enum
import pathlib
import typing
from collections.abc import (
    Callable,
    Collection,
    Generator,
    Hashable,
    ItemsView,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
    Sized,
)
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, Never, NewType, Optional, Protocol, TextIO, TypedDict, Union

__all__ = [
    "Annotated",
    "Any",
    "Callable",
    "Collection",
    "Generator",
    "Hashable",
    "ItemsView",
    "Iterable",
    "Iterator",
    "Literal",
    "Mapping",
    "Never",
    "Optional",
    "Sequence",
    "Sized",
    "TextIO",
    "Union",
    "collections",
    "datetime",
    "decimal",
    "pathlib",
    "typing",
]

type Json = bool | int | float | str | list[Json] | dict[str, Json] | None
type OtherJson = None | str | float | int | bool | list[OtherJson] | dict[str, OtherJson]
type Numbers = list[float]
type Pair[T] = tuple[T, T]


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Word(enum.StrEnum):
    YES = "yes"


@dataclass
class Bird:
    name: str


@dataclass
class Goose(Bird):
    loud: bool


class Point(NamedTuple):
    x: int
    y: int


class Row(TypedDict):
    name: str


class LongRow(Row):
    size: int


class Named(Protocol):
    name: str


class Rows(Protocol):
    def __iter__(self) -> Iterator[str]: ...


class Backwards[V, K](dict[K, V]): ...


class Bag[T](list[T]): ...


class Odd[T](list[int]): ...


class Untyped(Any): ...


class Letters:
    def __iter__(self) -> Iterator[str]:
        return iter("abc")


BirdId = NewType("BirdId", int)

KINDS = [
    "int",
    "float",
    "complex",
    "bool",
    "str",
    "bytes",
    "bytearray",
    "None",
    "object",
    "Any",
    "Never",
    "BirdId",
    "int | None",
    "Optional[str]",
    "Union[int, str]",
    "int | str | None",
    'Annotated[int, "pieces"]',
    'Literal["a"]',
    'Literal["a", "b"]',
    'Literal["a"] | Literal["b"]',
    "Literal[1, 2]",
    "Literal[True, False]",
    "Literal[True] | Literal[False]",
    "Literal[Color.RED, Color.BLUE]",
    "Literal[Color.RED] | None",
    "Color",
    "Word",
    "type[Color]",
    "type",
    "Bird",
    "Goose",
    "Point",
    "Row",
    "LongRow",
    "Named",
    "Rows",
    "Letters",
    "Untyped",
    "list",
    "list[int]",
    "list[float]",
    "list[bool]",
    "list[str]",
    "list[Bird]",
    "list[Goose]",
    "list[int | str]",
    "list[int] | str",
    "list[list[int]]",
    "tuple[int, int]",
    "tuple[int, str]",
    "tuple[float, ...]",
    "tuple[int, ...]",
    "tuple[int, *tuple[str, ...]]",
    "tuple[()]",
    "set[int]",
    "frozenset[int]",
    "dict[str, int]",
    "dict[str, object]",
    "dict[str, Any]",
    "Mapping[str, int]",
    "Mapping[str, object]",
    "Mapping[str, float]",
    "collections.OrderedDict[str, int]",
    "collections.defaultdict[str, int]",
    "collections.Counter[str]",
    "collections.deque[int]",
    "Backwards[int, str]",
    "Bag[int]",
    "Odd[str]",
    "Sequence[int]",
    "Sequence[float]",
    "Sequence[str]",
    "Sequence[Bird]",
    "Iterable[int]",
    "Iterable[float]",
    "Iterable[str]",
    "Iterable[Bird]",
    "Iterable[tuple[int, int]]",
    "Iterable[tuple[str, int]]",
    "Iterable[Any]",
    "Iterable[Color]",
    "Collection[int]",
    "Iterator[int]",
    "Generator[int]",
    "Generator[str, None, None]",
    "ItemsView[str, int]",
    "enumerate[int]",
    "range",
    "Sized",
    "Hashable",
    "Callable[[int], str]",
    "Callable[..., object]",
    "typing.SupportsInt",
    "typing.SupportsFloat",
    "TextIO",
    "typing.IO[str]",
    "typing.List[int]",
    "typing.Dict[str, int]",
    "datetime.date",
    "datetime.datetime",
    "datetime.timedelta",
    "decimal.Decimal",
    "pathlib.Path",
    "pathlib.PurePath",
    "Json",
    "OtherJson",
    "Numbers",
    "Pair[int]",
    "Pair[str]",
]
