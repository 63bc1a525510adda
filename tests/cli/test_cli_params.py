"""A flow's parameters as options: text becomes typed values, and wrong text a line that names the option."""

from __future__ import annotations

import enum
import json
import typing
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal, NewType
from uuid import UUID

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from lokki.base import signatures
from lokki.base.convert import ConversionError, from_json
from lokki.cli.parameters import (
    PREFIX,
    check_required,
    default_text,
    from_text,
    list_element,
    metavar,
    options_for,
    read_parameters,
)
from lokki.graph import REQUIRED, FlowParameter
from lokki.plan import bind_parameters


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"
    SWAPPED = "OTHER"
    OTHER = "SWAPPED"


class Level(enum.IntEnum):
    LOW = 0
    HIGH = 1


@dataclass
class Box:
    width: int
    label: str = ""


type Alias = int
Meters = NewType("Meters", float)

texts = st.text(st.characters(codec="utf-8"))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
decimals = st.decimals(allow_nan=False, allow_infinity=False, places=3)
times = st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30))

ROUND_TRIPS: dict[object, tuple[st.SearchStrategy[object], typing.Callable[[typing.Any], str]]] = {
    int: (st.integers(-(2**53), 2**53), str),
    float: (st.floats(allow_nan=False, allow_infinity=False), repr),
    str: (texts, str),
    bool: (st.booleans(), lambda value: str(value).lower()),
    date: (st.dates(), date.isoformat),
    datetime: (times, datetime.isoformat),
    time: (st.times(), time.isoformat),
    Decimal: (decimals, str),
    UUID: (st.uuids(), str),
    Path: (texts.map(Path), str),
    Color: (st.sampled_from(Color), lambda value: value.value),
    Level: (st.sampled_from(Level), lambda value: str(value.value)),
    Literal["fast", "slow", 3]: (st.sampled_from(["fast", "slow", 3]), str),
    int | None: (st.none() | st.integers(-99, 99), json.dumps),
    str | None: (texts.filter(lambda text: text != "null"), str),
    Alias: (st.integers(-99, 99), str),
    Meters: (st.floats(-9, 9), repr),
    Annotated[str, "a remark"]: (texts, str),
    list[int]: (st.lists(st.integers(-99, 99)), json.dumps),
    dict[str, int]: (st.dictionaries(texts, st.integers(-99, 99)), json.dumps),
    Box: (st.builds(Box, st.integers(-99, 99), texts), lambda box: json.dumps(vars(box))),
    signatures.UNKNOWN: (json_values, json.dumps),
}


@pytest.mark.parametrize("annotation", ROUND_TRIPS, ids=str)
@given(data=st.data())
def test_every_value_can_be_given_as_text(annotation: object, data: st.DataObject) -> None:
    values, written = ROUND_TRIPS[annotation]
    value = data.draw(values)
    assert from_json(from_text(written(value), annotation), annotation) == value


def test_times_may_leave_out_what_is_zero() -> None:
    assert from_text("2026-02-03 04:05", datetime) == "2026-02-03T04:05:00"
    assert from_text("2026-02-03", datetime) == "2026-02-03T00:00:00"
    assert from_text("07:08", time) == "07:08:00"


def test_a_duration_is_given_as_iso_8601_has_it() -> None:
    assert from_json(from_text("PT1H5M", timedelta), timedelta) == timedelta(hours=1, minutes=5)


def test_a_member_of_an_enum_is_found_by_its_value_before_its_name() -> None:
    assert [from_text(text, Color) for text in ("red", "RED", "OTHER", "SWAPPED")] == [
        "red",
        "red",
        "OTHER",
        "SWAPPED",
    ]


def test_text_that_is_no_json_is_text_where_anything_is_taken() -> None:
    assert [from_text(text, signatures.UNKNOWN) for text in ("honk", "5", "null", "[1]", "\udc80")] == [
        "honk",
        5,
        None,
        [1],
        "\udc80",
    ]


@pytest.mark.parametrize(
    ("annotation", "text", "problem"),
    [
        (int, "many", "not int (Expected `int`, got `str`)"),
        (int, "1.5", "not int (Expected `int`, got `str`)"),
        (int, "", "not int (Expected `int`, got `str`)"),
        (float, "much", "not float (Expected `float`, got `str`)"),
        (float, "nan", "nan, a number that JSON does not have"),
        (date, "yesterday", "not date (Invalid isoformat string: 'yesterday')"),
        (datetime, "2026", "not datetime (Invalid isoformat string: '2026')"),
        (timedelta, "5", "not timedelta (Invalid ISO8601 duration)"),
        (UUID, "1", "not UUID (Invalid UUID)"),
        (Decimal, "x", "not Decimal (Invalid decimal string)"),
        (Color, "green", "none of red, blue, OTHER, SWAPPED"),
        (Literal["fast", 3], "slow", "none of fast, 3"),
        (int | None, "none", "not null and not int (Expected `int`, got `str`)"),
        (list[int], "1, 2", "no JSON, which list[int] is given as"),
        (list[int], '["a"]', "['a'], not list[int] (Expected `int`, got `str` - at `$[0]`)"),
        (Box, '{"label": 1}', "{'label': 1}, not Box (Expected `str`, got `int` - at `$.label`)"),
    ],
)
def test_text_of_another_kind_is_refused(annotation: object, text: str, problem: str) -> None:
    with pytest.raises(ConversionError) as caught:
        from_text(text, annotation)
    assert str(caught.value) == problem


def test_help_shows_what_a_parameter_takes() -> None:
    kinds = [
        int,
        str,
        float,
        bool,
        date,
        datetime,
        timedelta,
        Path,
        UUID,
        Color,
        Literal["a", 3],
        int | None,
        Box,
        Alias,
    ]
    assert [metavar(kind) for kind in (*kinds, list[int], signatures.UNKNOWN, Annotated[int, "x"])] == [
        "INTEGER", "TEXT", "FLOAT", "BOOL", "DATE", "DATETIME", "DURATION", "PATH", "UUID", "red|blue|OTHER|SWAPPED",
        "a|3",
        "INTEGER|null", "JSON", "INTEGER", "JSON", "VALUE", "INTEGER",
    ]  # fmt: skip


def test_lists_whose_members_are_text_are_repeated_options() -> None:
    lists = [list[int], set[Color], tuple[str, ...], Sequence[date], Iterable[Path], list[Alias], list[str] | None]
    others = [
        list[Box],
        list[list[int]],
        tuple[int, int],
        dict[str, int],
        str,
        list,
        int | list[int],
        signatures.UNKNOWN,
    ]
    assert [list_element(kind) for kind in lists] == [int, Color, str, date, Path, int, str]
    assert [list_element(kind) for kind in others] == [None] * len(others)


def test_defaults_are_shown_as_they_would_be_given() -> None:
    params = [
        FlowParameter("a", int, REQUIRED),
        FlowParameter("a", date, date(2026, 1, 1)),
        FlowParameter("a", Color, Color.RED),
        FlowParameter("a", str, ""),
        FlowParameter("a", list[int], [1, 2]),
        FlowParameter("a", int | None, None),
        FlowParameter("a", signatures.UNKNOWN, 7),
    ]
    assert [default_text(param) for param in params] == [
        "required",
        "default: 2026-01-01",
        "default: red",
        'default: ""',
        "default: [1,2]",
        "default: null",
        "default: 7",
    ]


# ---- the command line of parameters, driven by click as in a program


def command(params: Sequence[FlowParameter]) -> click.Command:
    """Make a command with the parameters' options that prints what it was given, bound as for a run."""
    options = options_for(params, {"--workers", "--help"})

    def callback(p: tuple[str, ...], params_file: str | None, **values: object) -> None:
        found = read_parameters(params, {key: values[key] for key in values if key.startswith(PREFIX)}, p, params_file)
        check_required(params, found, options)
        click.echo(json.dumps(bind_parameters(tuple(params), found)))

    own = [
        click.Option(["-p"], multiple=True),
        click.Option(["--params", "params_file"]),
        click.Option(["--workers"], type=int),
    ]
    return click.Command("run", params=[*options.values(), *own], callback=callback)


PARAMS = (
    FlowParameter("limit", int, REQUIRED),
    FlowParameter("my_name", str, "goose"),
    FlowParameter("dry", bool, False),
    FlowParameter("wet", bool | None, None),
    FlowParameter("tags", list[str], ["a"]),
    FlowParameter("sizes", set[int], {1}),
    FlowParameter("color", Color, Color.RED),
    FlowParameter("box", Box | None, None),
    FlowParameter("loose", signatures.UNKNOWN, 7),
    FlowParameter("workers", int, 2),
    FlowParameter("no_dry", int, 0),
)
DEFAULTS = {
    "my_name": "goose",
    "dry": False,
    "wet": None,
    "tags": ["a"],
    "sizes": [1],
    "color": "red",
    "box": None,
    "loose": 7,
    "workers": 2,
    "no_dry": 0,
}


def bound(*arguments: str) -> object:
    result = CliRunner().invoke(command(PARAMS), arguments)
    assert result.exit_code == 0, result.output
    return json.loads(result.output)


def refused(*arguments: str) -> str:
    result = CliRunner().invoke(command(PARAMS), arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    return result.stderr.partition("Error: ")[2].rstrip("\n")


def test_what_is_not_given_has_its_default() -> None:
    assert bound("--limit", "-5") == {"limit": -5, **DEFAULTS}


def test_options_are_typed() -> None:
    assert bound(
        *("--limit", "5", "--my-name", "duck", "--dry", "--no-wet", "--tags", "x", "--tags", "y", "--sizes", "3"),
        *("--color", "blue", "--box", '{"width": 2}', "--loose", "9"),
    ) == {
        "limit": 5,
        "my_name": "duck",
        "dry": True,
        "wet": False,
        "tags": ["x", "y"],
        "sizes": [3],
        "color": "blue",
        "box": {"width": 2},
        "loose": 9,
        "workers": 2,
        "no_dry": 0,
    }


def test_pairs_set_any_parameter_also_those_whose_name_an_option_has() -> None:
    pairs = ["limit=5", "tags=[]", "workers=9", "my_name=a=b", "wet=null", "dry=true", "no_dry=4"]
    expected = {"workers": 9, "my_name": "a=b", "tags": [], "dry": True, "no_dry": 4}
    assert bound(*(word for pair in pairs for word in ("-p", pair))) == {"limit": 5, **DEFAULTS, **expected}


def test_options_win_over_pairs_and_pairs_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "params.json"
    file.write_text('{"limit": 1, "loose": 1, "color": "blue"}')
    assert bound("--limit", "3", "-p", "limit=2", "-p", "loose=2", "--params", str(file)) == {
        "limit": 3,
        **DEFAULTS,
        "loose": 2,
        "color": "blue",
    }


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "Missing: --limit INTEGER."),
        (["--limit", "x"], "Invalid value for '--limit': 'x' is not int (Expected `int`, got `str`)"),
        (["--limit"], "Option '--limit' requires an argument."),
        (
            ["--limit", "9007199254740993"],
            (
                "Invalid value for --limit: 'limit' is 9007199254740993, a number that Step Functions would round "
                "(above 2**53); pass it as a string."
            ),
        ),
        (["--color", "green"], "Invalid value for '--color': 'green' is none of red, blue, OTHER, SWAPPED"),
        (["--sizes", "1", "--sizes", "x"], "Invalid value for '--sizes': 'x' is not int (Expected `int`, got `str`)"),
        (["-p", "limit"], "Invalid value for -p: 'limit' is no name=value, such as limit=5."),
        (["-p", "limt=5"], "Invalid value for -p: the flow has no parameter 'limt'. Did you mean 'limit'?"),
        (["-p", "limit=x"], "Invalid value for -p: limit: 'x' is not int (Expected `int`, got `str`)"),
        (["-p", "box={}"], None),
        (["--workers", "x"], "Invalid value for '--workers': 'x' is not a valid integer."),
        (["--params", "no.json"], None),
    ],
)
def test_what_is_wrong_is_said_in_one_line_that_names_the_option(arguments: list[str], line: str | None) -> None:
    said = refused(*arguments)
    assert len(said.splitlines()) == 1
    if line is not None:
        assert said == line
    else:
        assert said.startswith(f"Invalid value for {arguments[0]}: ")


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ('{"limit": "x"}', "'limit' is 'x', not int (Expected `int`, got `str`)."),
        ('{"limit": 1, "colour": 2}', "the flow has no parameter 'colour'. Did you mean 'color'?"),
        ("[1]", 'FILE holds no JSON object, such as {"limit": 5}.'),
        ("{", "FILE cannot be read as JSON: Input data was truncated."),
        ("\xff", None),
        ("", "FILE cannot be read as JSON: Input data was truncated."),
    ],
)
def test_a_wrong_file_of_parameters_is_said(tmp_path: Path, content: str, line: str | None) -> None:
    file = tmp_path / "params.json"
    file.write_bytes(content.encode("latin-1"))
    said = refused("--params", str(file)).replace(str(file), "FILE")
    assert said.startswith("Invalid value for --params: ")
    assert line is None or said == f"Invalid value for --params: {line}"


def test_required_parameters_without_an_option_are_named_as_pairs() -> None:
    params = (FlowParameter("workers", int, REQUIRED), FlowParameter("day", date, REQUIRED))
    result = CliRunner().invoke(command(params), [])
    assert result.stderr.splitlines()[-1] == "Error: Missing: -p workers=INTEGER, --day DATE."


def test_parameters_with_odd_names_have_options() -> None:
    params = tuple(FlowParameter(name, int, 0) for name in ("_private", "n", "größe", "A", "parameter_x", "p"))
    words = [f"{flag}=1" for flag in ("---private", "--n", "--größe", "--A", "--parameter-x", "--p")]
    result = CliRunner().invoke(command(params), words)
    assert json.loads(result.output) == {param.name: 1 for param in params}
