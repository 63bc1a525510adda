"""Which values travel inside a state, and how references read as JSON."""

import json
import math
from collections import OrderedDict
from decimal import Decimal
from enum import IntEnum, StrEnum

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lokki.base.values import (
    DEPTH_LIMIT,
    INLINE_LIMIT,
    Inline,
    Json,
    Ref,
    Stored,
    inline_json,
    is_exact_json,
    ref_from_json,
    ref_to_json,
)
from lokki.errors import StoreError


class Color(IntEnum):
    RED = 1


class Bird(StrEnum):
    GOOSE = "goose"


class Name(str):
    __slots__ = ()


def nested(depth: int) -> list[object]:
    value: list[object] = []
    for _ in range(depth):
        value = [value]
    return value


def doubling(depth: int) -> list[object]:
    value: list[object] = []
    for _ in range(depth):
        value = [value, value]
    return value


def cyclic() -> list[object]:
    value: list[object] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (False, "false"),
        (0, "0"),
        (-7, "-7"),
        (2**53, "9007199254740992"),
        (-(2**53), "-9007199254740992"),
        (0.5, "0.5"),
        (-123.456, "-123.456"),
        (1e-7, "1e-7"),
        ("", '""'),
        ("flappy goose", '"flappy goose"'),
        ('é "\n', '"é \\"\\n"'),
        ([], "[]"),
        ({}, "{}"),
        ([1, [True, None], {"b": 1, "a": "x"}], '[1,[true,null],{"b":1,"a":"x"}]'),
    ],
)
def test_exact_json_travels_inline_as_compact_text(value: object, text: str) -> None:
    assert (inline_json(value, INLINE_LIMIT), is_exact_json(value)) == (text.encode(), True)


NOT_EXACT = [
    2**53 + 1,
    -(2**53) - 1,
    1.0,
    -0.0,
    1e300,
    0.1 + 0.2,
    math.pi,
    math.nan,
    math.inf,
    -math.inf,
    "\ud800",
    b"x",
    (1, 2),
    {1},
    Color.RED,
    Bird.GOOSE,
    Name("goose"),
    Decimal("0.5"),
    OrderedDict(a=1),
    {1: 2},
    {None: 1},
    {Name("a"): 1},
    {"\udfff": 1},
    np.int64(3),
    np.float64(0.5),
    np.bool_(True),
    range(3),
]


@pytest.mark.parametrize("value", NOT_EXACT, ids=repr)
@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: [x], lambda x: {"a": [0, x]}], ids=["bare", "list", "dict"])
def test_what_json_or_jsonata_would_change_does_not_travel_inline(wrap, value: object) -> None:
    assert (inline_json(wrap(value), INLINE_LIMIT), is_exact_json(wrap(value))) == (None, False)


def test_the_limit_counts_bytes_of_utf8_text() -> None:
    assert inline_json("é", 4) == '"é"'.encode()
    assert inline_json("é", 3) is None
    assert inline_json([1, 2], 5) == b"[1,2]"
    assert inline_json([1, 2], 4) is None
    assert inline_json(10, 1) is None


@pytest.mark.parametrize("value", [None, 1, True, "", [], {}], ids=repr)
def test_a_limit_of_zero_turns_inlining_off(value: object) -> None:
    assert inline_json(value, 0) is None


def test_nesting_beyond_the_limit_does_not_travel_inline() -> None:
    assert inline_json(nested(DEPTH_LIMIT), INLINE_LIMIT) == b"[" * 101 + b"]" * 101
    assert is_exact_json(nested(DEPTH_LIMIT)) is True
    assert inline_json(nested(DEPTH_LIMIT + 1), INLINE_LIMIT) is None
    assert is_exact_json(nested(DEPTH_LIMIT + 1)) is False


@pytest.mark.parametrize("value", [cyclic(), nested(50_000), doubling(90)], ids=["cyclic", "deep", "doubling"])
def test_hostile_shapes_are_refused_at_once(value: object) -> None:
    assert (inline_json(value, INLINE_LIMIT), is_exact_json(value)) == (None, False)


exact_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.text()
    | st.integers(-(10**14), 10**14).map(lambda n: n / 1000).filter(lambda x: not x.is_integer()),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=20,
)


def types(value: object) -> object:
    """Return a value with the type of everything in it, and dicts as ordered pairs."""
    if isinstance(value, list):
        return [types(each) for each in value]
    if isinstance(value, dict):
        return [(key, types(each)) for key, each in value.items()]
    return type(value), value


@given(exact_json)
def test_inline_text_reads_back_as_the_same_value_of_the_same_types(value: Json) -> None:
    text = inline_json(value, 10**6)
    assert text is not None
    assert types(json.loads(text)) == types(value)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda children: (
        st.lists(children)
        | st.tuples(children)
        | st.dictionaries(st.text() | st.integers(), children)
        | st.frozensets(st.integers())
    ),
    max_leaves=20,
)


def through_doubles(value: object) -> object:
    """Do what JSONata does: every number is a double, printed with 15 significant digits and without a trailing .0."""
    if isinstance(value, list):
        return [through_doubles(each) for each in value]
    if isinstance(value, dict):
        return {key: through_doubles(each) for key, each in value.items()}
    if type(value) is int:
        return int(float(value))
    if type(value) is float:
        rounded = float(f"{value:.15g}")
        return int(rounded) if rounded.is_integer() else rounded
    return value


@given(anything)
def test_a_value_travels_inline_only_if_jsonata_hands_it_on_unchanged(value: object) -> None:
    text = inline_json(value, 10**6)
    assert (text is not None) == is_exact_json(value)
    if text is not None:
        assert types(through_doubles(json.loads(text))) == types(value)


@pytest.mark.parametrize(
    ("ref", "obj"),
    [
        (Inline(None), {"result": None}),
        (Inline({"result_url": "x"}), {"result": {"result_url": "x"}}),
        (Stored("s3://b/k"), {"result_url": "s3://b/k"}),
        (Stored("s3://b/k", (0, 12)), {"result_url": "s3://b/k", "range": [0, 12]}),
        (Stored("s3://b/k", crc32=0), {"result_url": "s3://b/k", "crc32": 0}),
        (Stored("s3://b/k", (0, 12), 7), {"result_url": "s3://b/k", "range": [0, 12], "crc32": 7}),
    ],
)
def test_a_reference_reads_as_json_and_back(ref: Ref, obj: dict[str, Json]) -> None:
    assert ref_to_json(ref) == obj
    assert ref_from_json(obj) == ref


@pytest.mark.parametrize(
    "obj",
    [
        None,
        "s3://b/k",
        [],
        {},
        {"result": 1, "result_url": "s3://b/k"},
        {"result": 1, "range": [0, 1]},
        {"result": 1, "more": 2},
        {"result_url": 3},
        {"result_url": "s3://b/k", "range": None},
        {"result_url": "s3://b/k", "range": [0]},
        {"result_url": "s3://b/k", "range": [0, 1, 2]},
        {"result_url": "s3://b/k", "range": [-1, 2]},
        {"result_url": "s3://b/k", "range": [0, -2]},
        {"result_url": "s3://b/k", "range": [True, 2]},
        {"result_url": "s3://b/k", "range": [0.5, 2]},
        {"result_url": "s3://b/k", "range": "01"},
        {"result_url": "s3://b/k", "crc32": None},
        {"result_url": "s3://b/k", "crc32": -1},
        {"result": 1, "crc32": 1},
        {"result_url": "s3://b/k", "range": [0, 1], "more": 2},
    ],
    ids=repr,
)
def test_anything_else_is_a_store_error_that_shows_what_a_reference_looks_like(obj: object) -> None:
    with pytest.raises(StoreError) as caught:
        ref_from_json(obj)
    shown = repr(obj) if len(repr(obj)) <= 80 else repr(obj)[:77] + "..."
    assert str(caught.value) == (
        f"{shown} is not a reference to a result; lokki writes "
        '{"result": <json>}, {"result_url": <url>} or {"result_url": <url>, "range": [<offset>, <length>]}. '
        "Hand on what the previous step returned, unchanged."
    )
