"""Arguments and parameters as JSON and back."""

from __future__ import annotations

import contextlib
import datetime
import decimal
import enum
import json
import math
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, NewType, TypedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.exact import exact

from lokki.base.convert import ConversionError, as_states_hands_on, from_json, to_json
from lokki.base.signatures import UNKNOWN
from lokki.base.values import Json


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Word(enum.StrEnum):
    YES = "yes"


class Size(enum.IntEnum):
    LARGE = 3


@dataclass
class Bird:
    name: str
    born: datetime.date
    color: Color | None = None
    nests: list[Path] = field(default_factory=list)


@dataclass
class Flock:
    birds: dict[str, Bird]
    id: uuid.UUID
    price: decimal.Decimal


class Row(TypedDict):
    name: str


class Unknown:
    pass


BirdId = NewType("BirdId", int)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
PLAIN: st.SearchStrategy[Json] = st.recursive(
    st.none() | st.booleans() | st.integers() | FLOATS | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=10,
)
PATHS = TEXT.filter(lambda text: "\0" not in text).map(Path)
BIRDS = st.builds(Bird, TEXT, st.dates(), st.sampled_from(Color) | st.none(), st.lists(PATHS, max_size=2))
FIXED = st.none() | st.sampled_from([datetime.UTC, datetime.timezone(datetime.timedelta(hours=-3, minutes=-30))])
TYPED: list[tuple[object, st.SearchStrategy[object]]] = [
    (bool, st.booleans()),
    (int, st.integers(-(2**60), 2**60)),
    (float, FLOATS),
    (str, TEXT),
    (bytes, st.binary(max_size=8)),
    (type(None), st.none()),
    (datetime.date, st.dates()),
    (datetime.datetime, st.datetimes(timezones=FIXED).map(lambda moment: moment.replace(fold=0))),
    (datetime.time, st.times(timezones=FIXED).map(lambda time: time.replace(fold=0))),
    (datetime.timedelta, st.timedeltas(datetime.timedelta(days=-9999), datetime.timedelta(days=9999))),
    (uuid.UUID, st.uuids()),
    (decimal.Decimal, st.decimals(allow_nan=False, allow_infinity=False)),
    (Path, PATHS),
    (Path | None, PATHS | st.none()),
    (Color, st.sampled_from(Color)),
    (Size, st.sampled_from(Size)),
    (Literal["a", "b"], st.sampled_from(["a", "b"])),
    (Bird, BIRDS),
    (list[Bird], st.lists(BIRDS, max_size=2)),
    (Flock, st.builds(Flock, st.dictionaries(TEXT, BIRDS, max_size=2), st.uuids(), st.just(decimal.Decimal("1.10")))),
    (dict[str, list[datetime.date]], st.dictionaries(TEXT, st.lists(st.dates(), max_size=2), max_size=2)),
    (dict[int, str], st.dictionaries(st.integers(0, 9), TEXT, max_size=2)),
    (set[int], st.sets(st.integers(0, 9))),
    (tuple[int, str], st.tuples(st.integers(0, 9), TEXT)),
    (tuple[Path, ...], st.lists(PATHS, max_size=2).map(tuple)),
    (Sequence[int], st.lists(st.integers(0, 9))),
    (Iterable[int], st.lists(st.integers(0, 9))),
    (str | Path, TEXT),
    (str | datetime.date, TEXT),
    (Annotated[int, "pieces"], st.integers(0, 9)),
    (BirdId, st.integers(0, 9).map(BirdId)),
    (Row, st.builds(lambda name: {"name": name}, TEXT)),
    (Json, PLAIN),
    (UNKNOWN, PLAIN),
    (object, PLAIN),
]


@given(st.sampled_from(TYPED).flatmap(lambda kind: st.tuples(st.just(kind[0]), kind[1])))
def test_a_value_arrives_as_it_was(kind_and_value: tuple[object, object]) -> None:
    annotation, value = kind_and_value
    arrived = from_json(to_json(value, annotation), annotation)
    assert (arrived, type(arrived), exact(arrived)) == (value, type(value), exact(value))


def test_a_value_has_the_json_form_that_msgspec_gives_it() -> None:
    bird = Bird("goose", datetime.date(2026, 1, 1), Color.RED, [Path("a/b")])
    assert to_json(bird, Bird) == {"name": "goose", "born": "2026-01-01", "color": "red", "nests": ["a/b"]}
    assert to_json(PurePosixPath("a/b"), PurePosixPath) == "a/b"
    assert to_json(decimal.Decimal("1.10"), decimal.Decimal) == "1.10"
    assert to_json(3, float) == 3


def test_the_json_form_is_taken_for_the_value() -> None:
    assert to_json("2026-01-01", datetime.date) == "2026-01-01"
    assert from_json("2026-01-01", datetime.date) == datetime.date(2026, 1, 1)
    assert to_json("red", Color) == "red"
    assert from_json("a/b", Path) == Path("a/b")


def test_enums_that_are_strings_or_numbers_are_taken_for_them() -> None:
    assert (to_json(Word.YES, str), to_json(Size.LARGE, int)) == ("yes", 3)


def test_what_arrives_is_a_copy() -> None:
    tags = ["a"]
    made = to_json({"tags": tags}, UNKNOWN)
    tags.append("b")
    assert made == {"tags": ["a"]}
    assert from_json(made, UNKNOWN) is not made


CYCLE: list[object] = []
CYCLE.append(CYCLE)


@pytest.mark.parametrize(
    ("value", "annotation", "message"),
    [
        ("x", int, "'x', not int (Expected `int`, got `str`)"),
        (datetime.date(2026, 1, 1), str, "datetime.date(2026, 1, 1), not str (Expected `str`, got `date`)"),
        (
            [datetime.date(2026, 1, 1)],
            list[str],
            "[datetime.date(2026, 1, 1)], not list[str] (Expected `str`, got `date` - at `$[0]`)",
        ),
        (Color.RED, str, "<Color.RED: 'red'>, not str (Expected `str`, got `Color`)"),
        ("green", Color, "'green', not Color (Invalid enum value 'green')"),
        (None, int, "None, not int (Expected `int`, got `null`)"),
        (True, int, "True, not int (Expected `int`, got `bool`)"),
        ((1, 2), UNKNOWN, "tuple, which is no JSON value; annotate the parameter to have it converted"),
        (
            datetime.date(2026, 1, 1),
            UNKNOWN,
            "datetime.date, which is no JSON value; annotate the parameter to have it converted",
        ),
        (Word.YES, UNKNOWN, "<Word.YES: 'yes'>, which is no JSON value"),
        ({1: 2}, UNKNOWN, "{1: 2}, which is no JSON value"),
        (math.nan, UNKNOWN, "nan, which is no JSON value"),
        ("\ud800", UNKNOWN, "'\\ud800', which is no JSON value"),
        (math.inf, float, "inf, a number that JSON does not have"),
        (math.nan, float | None, "nan, a number that JSON does not have"),
        (CYCLE, UNKNOWN, "list, which is nested too deep for JSON, or contains itself"),
        (
            {"day": datetime.time(1)},
            dict[str, Any],
            "{'day': datetime.time(1, 0)}, which would not arrive as it is but as {'day': '01:00:00'}",
        ),
        (
            {"bird": Color.RED},
            dict[str, Any],
            "{'bird': <Color.RED: 'red'>}, which would not arrive as it is but as {'bird': 'red'}",
        ),
        (
            {"bird": Color.RED},
            dict[str, object],
            "dict, which cannot be made again from JSON by dict[str, object] (object is not supported)",
        ),
        ("x", Unknown, "not Unknown but str"),
        (5, str | Path, "not str | Path but int"),
    ],
)  # fmt: skip
def test_a_value_that_would_not_arrive_is_refused(value: object, annotation: object, message: str) -> None:
    with pytest.raises(ConversionError) as error:
        to_json(value, annotation)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("value", "annotation"),
    [(Path("a"), str | Path), (Unknown(), Unknown), (Unknown(), dict[str, int]), (CYCLE, list[Any]), ("\ud800", str)],
)
def test_what_json_cannot_hold_is_refused(value: object, annotation: object) -> None:
    with pytest.raises(ConversionError):
        to_json(value, annotation)


@given(PLAIN)
def test_step_functions_keeps_values(value: Json) -> None:
    with contextlib.suppress(ConversionError):  # a large integer; see below
        handed_on = as_states_hands_on(value)
        assert handed_on == value
        assert json.dumps(as_states_hands_on(handed_on)) == json.dumps(handed_on)


def test_integral_numbers_become_integers() -> None:
    assert json.dumps(as_states_hands_on([1.0, {"half": 0.5}, 0.0, True])) == '[1, {"half": 0.5}, 0, true]'


def test_an_integer_above_2_to_the_53_is_refused() -> None:
    assert as_states_hands_on([2**53, -(2**53)]) == [2**53, -(2**53)]
    with pytest.raises(ConversionError) as error:
        as_states_hands_on({"id": 2**53 + 1})
    assert str(error.value) == (
        "9007199254740993, a number that Step Functions would round (above 2**53); pass it as a string"
    )
