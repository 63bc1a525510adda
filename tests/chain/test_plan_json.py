"""Plans as JSON: what is written reads back, whatever the flow, and what is not known is refused."""

import datetime
import enum
import json

import pytest
import steps
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import CHAINS, draw

from lokki import flow, step
from lokki.base.options import FlowOptions, MapOptions
from lokki.base.values import Json
from lokki.errors import StoreError
from lokki.graph import FlowGraph, FlowParameter
from lokki.plan import Plan, lower, plan_lines
from lokki.plan_json import plan_from_json, plan_to_json, shape
from lokki.plans.operations import Argument, Call, FanOut
from lokki.plans.templates import Item, Output, ParamRef, Results


class Color(enum.Enum):
    RED = "red"


@step
def load(day: datetime.date, *tags: str, **others: object) -> list[str]:
    return [str(day), *tags]


@step
def clean(row: str, limit: int = 1) -> str:
    return row[:limit]


@step
def join(rows: list[str]) -> str:
    return ", ".join(rows)


@flow(schedule="rate(1 hour)", timeout=3.5)
def report(day: datetime.date = datetime.date(2026, 1, 1), limit: int = 3, color: Color = Color.RED):
    head = load(day, "a", "b", **{"a -> b": 1, "$param": {"$param": "literal"}})
    return head.map(clean(limit), concurrency=2, tolerate=0.5).next(clean(limit=5)).agg(join).next(clean)


def through_text(plan: Plan) -> Plan:
    return plan_from_json(json.loads(json.dumps(plan_to_json(plan))))


def test_a_plan_is_written_with_all_but_functions_annotations_and_defaults() -> None:
    assert plan_to_json(lower(report())) == {
        "format": 1,
        "flow": "report",
        "ops": [
            {
                "kind": "call",
                "id": "load",
                "step": "load",
                "fans_out": True,
                "arguments": [
                    {"parameter": "day", "value": {"$param": "day"}},
                    {"parameter": "tags", "value": "a", "variadic": True},
                    {"parameter": "tags", "value": "b", "variadic": True},
                    {"parameter": "others", "keyword": "a -> b", "value": 1},
                    {"parameter": "others", "keyword": "$param", "value": {"$$param": "literal"}},
                ],
            },
            {
                "kind": "map",
                "id": "load.map",
                "source": "load",
                "concurrency": 2,
                "tolerate": 0.5,
                "body": [
                    {
                        "kind": "call",
                        "id": "clean",
                        "step": "clean",
                        "reads": {"kind": "item"},
                        "arguments": [{"parameter": "limit", "value": {"$param": "limit"}}],
                    },
                    {
                        "kind": "call",
                        "id": "clean_2",
                        "step": "clean",
                        "reads": {"kind": "output", "id": "clean"},
                        "arguments": [{"parameter": "limit", "keyword": "limit", "value": 5}],
                    },
                ],
            },
            {"kind": "call", "id": "join", "step": "join", "reads": {"kind": "results", "id": "load.map"}},
            {"kind": "call", "id": "clean_3", "step": "clean", "reads": {"kind": "output", "id": "join"}},
        ],
        "params": [
            {"name": "day", "default": "2026-01-01"},
            {"name": "limit", "default": 3},
            {"name": "color", "default": "red"},
        ],
        "options": {"schedule": "rate(1 hour)", "timeout": 3.5},
    }


@given(CHAINS)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), database=None)
def test_the_plan_of_a_random_flow_reads_back_as_it_was_written(chain: object) -> None:
    plan = lower(draw(chain))  # type: ignore[arg-type]
    assert through_text(plan) == shape(plan)
    assert plan_lines(through_text(plan)) == plan_lines(plan)
    assert shape(plan).ops == plan.ops


values = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
templates = st.recursive(
    values | st.builds(ParamRef, st.text()),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text() | st.sampled_from(["$param", "$$", "$"]), inner, max_size=3)
    ),
)
defaults = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.sampled_from([0.5, 1e300]) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner),
)
map_options = st.builds(
    MapOptions,
    st.none() | st.integers(1),
    st.none() | st.integers(1),
    st.none() | st.integers(0) | st.floats(0.0, 1.0),
)
calls = st.builds(
    Call,
    st.text(),
    st.text(),
    st.lists(st.builds(Argument, st.text(), templates, st.none() | st.text(), st.booleans()), max_size=3).map(tuple),
    st.none() | st.builds(Output, st.text()) | st.just(Item()) | st.builds(Results, st.text()),
    st.booleans(),
)
blocks = st.recursive(
    st.lists(calls, max_size=3).map(tuple),
    lambda block: st.lists(calls | st.builds(FanOut, st.text(), st.text(), block, map_options), max_size=3).map(tuple),
    max_leaves=4,
)
parameters = st.builds(FlowParameter, st.text()) | st.builds(FlowParameter, st.text(), default=defaults)
plans = st.builds(
    Plan,
    st.text(),
    st.lists(parameters, max_size=3).map(tuple),
    blocks,
    st.sampled_from([FlowOptions(), FlowOptions(timeout=3), FlowOptions("cron(0 6 * * ? *)", "Europe/Helsinki", 1.5)]),
)


@given(plans)
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck), database=None)
def test_any_plan_reads_back_as_it_was_written_maps_below_maps_too(plan: Plan) -> None:
    read = through_text(plan)
    assert repr(read.ops) == repr(plan.ops)  # with the types of numbers: 1 == 1.0 == True
    assert read.options == plan.options
    assert read.params == plan.params


def test_a_plan_that_was_read_tells_what_a_flow_does_and_has_no_functions() -> None:
    plan = lower(report())
    read = through_text(plan)
    assert read.steps == {}
    assert [call.id for call in read.calls] == ["load", "clean", "clean_2", "join", "clean_3"]
    assert [(fan_out.id, fan_out.source) for fan_out in read.fan_outs] == [("load.map", "load")]
    assert [param.default for param in read.params] == ["2026-01-01", 3, "red"]


def test_a_plan_with_a_map_below_a_map_is_walked_from_the_outside_in() -> None:
    inner = FanOut("split.map", "split", (Call("double", "double", (), Item()),))
    outer = FanOut("load.map", "load", (Call("split", "split", (), Item(), True), inner))
    plan = Plan("nested", (), (Call("load", "load", (), None, True), outer), FlowOptions())
    assert [call.id for call in plan.calls] == ["load", "split", "double"]
    assert list(plan.fan_outs) == [outer, inner]
    assert plan.fan_out("split.map") == inner
    assert [call.id for call in outer.calls] == ["split", "double"]
    assert plan_lines(plan) == [
        "load = load()",
        "map over load:",
        "  split = split()",
        "  map over split: double = double()",
    ]


def written(**changes: Json) -> dict[str, Json]:
    return plan_to_json(lower(FlowGraph("short", steps.values("ints", 3)))) | changes


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            written(format=3),
            "the plan has the format 3, of which this lokki knows nothing. Install a newer lokki.",
        ),
        ([], "the plan has the format None, of which this lokki knows nothing. Install a newer lokki."),
        (
            written(ops=[{"kind": "loop", "id": "a"}]),
            "the plan is none that lokki writes: Invalid value 'loop' - at `$.ops[0].kind`.",
        ),
        (
            written(ops=[{"kind": "call", "id": "a", "step": "a", "when": "b"}]),
            "the plan is none that lokki writes: Object contains unknown field `when` - at `$.ops[0]`.",
        ),
        (
            written(ops=[{"kind": "map", "id": "a.map", "source": "a", "body": [{"kind": "map", "id": "b"}]}]),
            ("the plan is none that lokki writes: Object missing required field `source` - at `$.ops[0].body[0]`."),
        ),
        (
            written(ops=[{"kind": "call", "id": "a", "step": "a", "reads": {"kind": "choice"}}]),
            "the plan is none that lokki writes: Invalid value 'choice' - at `$.ops[0].reads.kind`.",
        ),
        (
            written(ops=[{"kind": "map", "id": "a.map", "source": "a", "body": [], "batch": 0}]),
            "the plan is none that lokki writes: .map(batch=0): give a whole number of at least 1.",
        ),
        (written(ops=7), "the plan is none that lokki writes: Expected `array`, got `int` - at `$.ops`."),
    ],
)
def test_a_plan_of_another_kind_is_refused(value: object, message: str) -> None:
    with pytest.raises(StoreError) as error:
        plan_from_json(value)
    assert str(error.value) == message
