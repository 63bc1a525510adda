"""Parameters arrive as they were given, whatever way they were given, or are refused where they are drawn or given."""

from __future__ import annotations

import codecs
import datetime as dt
import decimal
import enum
import math
import tempfile
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, NotRequired, TypedDict
from zoneinfo import ZoneInfo

import click
import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.exact import exact

from lokki import FlowError, ParameterError, flow, step
from lokki.base.convert import ConversionError, from_json, to_json
from lokki.cli.parameters import PREFIX, options_for, read_parameters
from lokki.graph import REQUIRED, FlowParameter
from lokki.plan import bind_parameters


class Color(enum.StrEnum):
    RED = "red"
    BLUE = "blue"


class Level(enum.Enum):
    LOW = 1
    HIGH = 2


@dataclass
class Box:
    width: float
    tags: list[str] = field(default_factory=list)


@dataclass
class Pair[T]:
    one: T
    rest: list[T]


class Options(TypedDict):
    limit: int
    box: NotRequired[Box]


class Point(NamedTuple):
    x: float
    box: Box | None = None


TEXT = st.text(max_size=4)
NUMBERS = st.floats() | st.sampled_from([-0.0, 1e16, 1e300, 2.0**53, 5e-324, 1.0])
INTEGERS = st.integers() | st.sampled_from([2**53, 2**53 + 1, -(2**63), 2**64])
ZONES = st.sampled_from([
    None, dt.UTC, dt.timezone(dt.timedelta(hours=2)), dt.timezone(dt.timedelta(hours=2), "EET"),
    ZoneInfo("Europe/Helsinki"), ZoneInfo("UTC"), dt.timezone(dt.timedelta(seconds=7)),
])  # fmt: skip
MOMENTS = st.datetimes(timezones=ZONES)
BOXES = st.builds(Box, NUMBERS, st.lists(TEXT, max_size=2))

KINDS: list[tuple[Any, st.SearchStrategy[object]]] = [
    (int, INTEGERS),
    (float, NUMBERS),
    (int | float, INTEGERS | NUMBERS),
    (str, TEXT),
    (bool, st.booleans()),
    (int | str | None, INTEGERS | TEXT | st.none()),
    (bytes, st.binary(max_size=4)),
    (dt.datetime, MOMENTS),
    (dt.date, st.dates()),
    (dt.time, st.times(timezones=ZONES)),
    (dt.timedelta, st.timedeltas()),
    (decimal.Decimal, st.decimals() | st.sampled_from([decimal.Decimal("1.10"), decimal.Decimal("-0")])),
    (uuid.UUID, st.uuids()),
    (Path, st.sampled_from([Path(), Path("a/b"), Path("/x")])),
    (Color, st.sampled_from(Color)),
    (Level, st.sampled_from(Level)),
    (Literal[1, "two"] | None, st.sampled_from([1, "two", None])),
    (Annotated[int, "pieces"], INTEGERS),
    (list[float], st.lists(NUMBERS, max_size=2)),
    (tuple[int, str], st.tuples(INTEGERS, TEXT)),
    (frozenset[str], st.frozensets(TEXT, max_size=2)),
    (dict[str, list[dt.datetime]], st.dictionaries(TEXT, st.lists(MOMENTS, max_size=2), max_size=2)),
    (dict[int, float], st.dictionaries(INTEGERS, NUMBERS, max_size=2)),
    (dict[str, Any], st.dictionaries(TEXT, INTEGERS | NUMBERS | TEXT, max_size=2)),
    (Box, BOXES),
    (Pair[Box], st.builds(Pair, BOXES, st.lists(BOXES, max_size=1))),
    (Options, st.fixed_dictionaries({"limit": INTEGERS}, optional={"box": BOXES})),
    (Point, st.builds(Point, NUMBERS, BOXES | st.none())),
]


@given(st.sampled_from(KINDS).flatmap(lambda kind: st.tuples(st.just(kind[0]), kind[1])))
@example((float, -0.0))
@example((float, 1e16))
@example((dt.datetime, dt.datetime(2026, 1, 1, tzinfo=ZoneInfo("Europe/Helsinki"))))
@example((dt.datetime, dt.datetime(2026, 10, 25, 3, 30, fold=1)))
def test_a_default_or_an_argument_from_python_arrives_as_it_was_or_is_refused(pair: tuple[Any, object]) -> None:
    annotation, value = pair
    param = FlowParameter("value", annotation, value)
    try:
        bound = bind_parameters((param,), {})
    except ParameterError:
        with pytest.raises(ParameterError):
            bind_parameters((param,), {"value": value})
        return
    assert bound == bind_parameters((param,), {"value": value})
    assert exact(from_json(bound["value"], annotation)) == exact(value)
    # What Step Functions hands on is JSON text, in which keys and digits are kept.
    assert exact(from_json(msgspec.json.decode(msgspec.json.encode(bound["value"])), annotation)) == exact(value)


@given(st.sampled_from(KINDS).flatmap(lambda kind: st.tuples(st.just(kind[0]), kind[1])))
@example((float, 1e16))
def test_each_way_of_the_command_line_gives_the_same(pair: tuple[Any, object]) -> None:
    annotation, value = pair
    param = FlowParameter("value", annotation, REQUIRED)
    try:
        expected = bind_parameters((param,), {"value": value})
    except ParameterError:
        return
    json = to_json(value, annotation)
    text = json if isinstance(json, str) else msgspec.json.encode(json).decode()
    # Of a number or a string text cannot tell which it is.
    ways = [by_file(param, json)] if annotation == int | str | None else [by_file(param, json), by_pair(param, text)]
    for way in ways:
        assert exact(from_json(way["value"], annotation)) == exact(from_json(expected["value"], annotation))


def by_file(param: FlowParameter, json: object) -> dict[str, Any]:
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        file.write(msgspec.json.encode({"value": json}))
        file.flush()
        return bind_parameters((param,), read_parameters((param,), {}, (), file.name))


def by_pair(param: FlowParameter, text: str) -> dict[str, Any]:
    return bind_parameters((param,), read_parameters((param,), {}, (f"value={text}",), None))


@pytest.mark.parametrize(
    ("annotation", "value", "problem"),
    [
        (
            dt.datetime,
            dt.datetime(2026, 1, 1, tzinfo=ZoneInfo("Europe/Helsinki")),
            (
                "2026-01-01 00:00:00+02:00, whose time zone Europe/Helsinki would arrive as a fixed offset; give "
                "an offset (datetime.timezone), and the zone's name as a string"
            ),
        ),
        (float, -0.0, "-0.0, whose sign Step Functions would drop; pass 0.0"),
        (float, math.inf, "inf, a number that JSON does not have"),
        (list[int], (1, 2), "(1, 2), which would not arrive as it is but as [1, 2]"),
        (
            int | float,
            1.0,
            "1.0, which would not arrive as it is but as 1; annotate its numbers as float",
        ),
        (
            Box,
            {"width": 3, "wdth": 1},
            "{'width': 3, 'wdth': 1}, with the key 'wdth', which Box does not have (did you mean 'width'?)",
        ),
        (
            Options,
            {"limit": 2, "zz": 3},
            "{'limit': 2, 'zz': 3}, with the key 'zz', which Options does not have (it has limit, box)",
        ),
        (
            dict[str, list[Options] | None],
            {"a": [{"limit": 2, "box": {"width": 1, "bogus": 2}}]},
            (
                "{'a': [{'limit': 2, 'box': {'width': 1, 'bogus': 2}}]}, with the key 'bogus', "
                "which Box does not have (it has width, tags)"
            ),
        ),
        (
            Point,
            [1.5, {"width": 1, "bogus": 2}],
            "[1.5, {'width': 1, 'bogus': 2}], with the key 'bogus', which Box does not have (it has width, tags)",
        ),
        (
            Pair[Box],
            {"one": {"width": 1}, "rest": [{"width": 1, "bogus": 2}]},
            (
                "{'one': {'width': 1}, 'rest': [{'width': 1, 'bogus': 2}]}, with the key 'bogus', "
                "which Box does not have (it has width, tags)"
            ),
        ),
    ],
)
def test_what_would_arrive_as_something_else_is_refused_where_it_is_drawn(
    annotation: Any, value: object, problem: str
) -> None:
    @step
    def show(value: Any) -> str:
        return repr(value)

    def function(value: Any = value) -> Any:
        return show(value)

    function.__annotations__["value"] = annotation
    with pytest.raises(FlowError) as error:
        flow(function)()
    assert str(error.value) == f"the default of function's parameter 'value' is {problem}."
    function.__defaults__ = None
    with pytest.raises(ParameterError) as given_wrongly:
        bind_parameters(flow(function).params, {"value": value})
    assert str(given_wrongly.value) == f"'value' is {problem}."


def test_a_step_without_annotations_is_not_handed_the_json_of_a_date() -> None:
    @step
    def show(day, names):  # type: ignore[no-untyped-def]
        return day

    @flow
    def shown(day: dt.date, names: dict[str, list[int]]):  # type: ignore[no-untyped-def]
        return show(day, names)

    with pytest.raises(FlowError) as error:
        shown()
    assert str(error.value).partition(": ")[2] == (
        "show() takes 'day' without an annotation, so it would get the JSON of the flow's parameter 'day' and no date. "
        "Annotate it: day: date."
    )


def test_keys_that_a_mapping_or_an_open_annotation_has_are_taken() -> None:
    for annotation, value in [
        (dict[str, int], {"any": 1}),
        (Any, {"any": {"key": 1}}),
        (Box | dict[str, int], {"any": 1}),
        (Options | None, {"limit": 1, "box": {"width": 1}}),
    ]:
        assert to_json(value, annotation) == value


@pytest.mark.parametrize(
    "content",
    [
        b'{"name": "\xc3\xa4"}',
        codecs.BOM_UTF8 + b'{"name": "\xc3\xa4"}',
        '{"name": "ä"}'.encode("utf-16"),
        codecs.BOM_UTF16_BE + '{"name": "ä"}'.encode("utf-16-be"),
    ],
)
def test_a_file_of_parameters_may_begin_with_a_mark_of_its_encoding(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "params.json"
    file.write_bytes(content)
    assert read_parameters((FlowParameter("name", str),), {}, (), str(file)) == {"name": "ä"}


@pytest.mark.parametrize("content", ['{"name": "ä"}'.encode("latin-1"), b"\xff\xfe{", b"\xef\xbb\xbf", b'{"name": 1'])
def test_a_file_that_cannot_be_read_gives_one_line(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "params.json"
    file.write_bytes(content)
    with pytest.raises(click.BadParameter) as error:
        read_parameters((FlowParameter("name", str),), {}, (), str(file))
    assert str(error.value).startswith(f"{file} cannot be read as JSON: ")
    assert "\n" not in str(error.value)


def test_an_option_of_the_command_line_takes_the_largest_doubles() -> None:
    param = FlowParameter("size", float)
    option = options_for([param], ())["size"]
    values = option.type.convert("1e16", option, None)
    given = read_parameters((param,), {f"{PREFIX}size": values}, (), None)
    assert repr(from_json(bind_parameters((param,), given)["size"], float)) == "1e+16"


def test_an_enum_is_given_by_its_value_or_its_name() -> None:
    param = FlowParameter("level", Level)
    for text, member in (("1", Level.LOW), ("2", Level.HIGH), ("HIGH", Level.HIGH)):
        assert from_json(by_pair(FlowParameter("value", Level), text)["value"], Level) is member
    with pytest.raises(ConversionError):
        to_json("MIDDLE", param.annotation)
