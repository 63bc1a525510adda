"""What a resolved flow is lowered to: ids, who reads what, arguments as templates, parameters of a run."""

from __future__ import annotations

import datetime
import enum
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lokki import Flow, FlowError, ParameterError, StepNode, flow, step
from lokki.base.options import FlowOptions, MapOptions
from lokki.base.values import Json
from lokki.graph import FlowGraph, FlowParameter, Param
from lokki.plan import Plan, bind_parameters, lower, plan_lines
from lokki.plans.operations import Argument, Call, FanOut
from lokki.plans.templates import Item, Output, ParamRef, Results, Template, fill


class Color(enum.Enum):
    RED = "red"


@step
def load(day: datetime.date, tags: Sequence[str] = ()) -> list[str]:
    return [str(day)]


@step
def clean(row: str, limit: int = 1) -> str:
    return row[:limit]


@step
def join(rows: list[str], path: Path = Path("out")) -> str:
    return ", ".join(rows)


@step
def many(first: str, second: int, *rest: Path, last: str = "", **others: datetime.date) -> str:
    return first


@step
def anything(value: Any = None, extra: Any = None) -> Any:
    return value


def test_a_flow_is_lowered_to_its_calls_and_who_reads_what() -> None:
    @flow
    def report(day: datetime.date, limit: int = 3) -> StepNode[..., str]:
        block = load(day, ["a"]).map(clean(limit), concurrency=2).next(clean(limit=5))
        return block.agg(join(Path("a/b"))).next(clean)

    graph = report(datetime.date(2026, 1, 1))
    plan = lower(graph)
    assert plan == Plan(
        "report",
        (FlowParameter("day", datetime.date, datetime.date(2026, 1, 1)), FlowParameter("limit", int, 3)),
        (
            Call("load", "load", (Argument("day", ParamRef("day")), Argument("tags", ["a"])), None, True),
            FanOut(
                "load.map",
                "load",
                (
                    Call("clean", "clean", (Argument("limit", ParamRef("limit")),), Item()),
                    Call("clean_2", "clean", (Argument("limit", 5, "limit"),), Output("clean")),
                ),
                MapOptions(concurrency=2),
            ),
            Call("join", "join", (Argument("path", "a/b"),), Results("load.map")),
            Call("clean_3", "clean", (), Output("join")),
        ),
        FlowOptions(),
    )
    assert [call.params for call in plan.calls] == [("day",), ("limit",), (), (), ()]
    assert plan.steps == {step.name: step for step in graph.steps}
    assert [fan_out.source for fan_out in plan.fan_outs] == ["load"]


def arguments(chain: StepNode[..., Any]) -> tuple[Argument, ...]:
    return list(lower(FlowGraph("flow", chain)).calls)[-1].arguments


def test_arguments_by_position_and_in_args_and_kwargs_belong_to_their_parameters() -> None:
    day = datetime.date(2026, 1, 1)
    bound = many(2, Path("a"), Path("b"), last="x", first_day=day)
    expected = (
        Argument("second", 2),
        Argument("rest", "a", variadic=True),
        Argument("rest", "b", variadic=True),
        Argument("last", "x", "last"),
        Argument("others", "2026-01-01", "first_day"),
    )
    assert arguments(clean("a").next(bound)) == expected
    assert arguments(many("a", 2, Path("a"), Path("b"), last="x", first_day=day)) == (Argument("first", "a"), *expected)


def test_parameters_have_places_inside_lists_and_dicts() -> None:
    limit, day = Param("limit", int), Param("day", datetime.date)
    chain = anything([limit, {"a": (day, 1)}, None], extra={"b": [limit]})
    (first, second) = arguments(chain)
    assert first == Argument("value", [ParamRef("limit"), {"a": [ParamRef("day"), 1]}, None])
    assert second == Argument("extra", {"b": [ParamRef("limit")]}, "extra")
    (call,) = lower(FlowGraph("flow", chain)).calls
    assert call.params == ("day", "limit")


def test_members_beside_a_parameter_are_converted_by_the_annotation() -> None:
    @step
    def first_of(days: list[datetime.date], names: dict[str, Color]) -> str:
        return str(days[0])

    chain = first_of(
        [datetime.date(2026, 1, 1), Param("day", datetime.date)],  # type: ignore[list-item]
        {"a": Color.RED, "b": Param("color", Color)},  # type: ignore[dict-item]
    )
    assert [argument.template for argument in arguments(chain)] == [
        ["2026-01-01", ParamRef("day")],
        {"a": "red", "b": ParamRef("color")},
    ]


@pytest.mark.parametrize(
    ("chain", "message"),
    [
        (
            clean("a").next(clean("b")),
            "the argument 'limit' of clean() is 'b', not int (Expected `int`, got `str`).",
        ),
        (
            anything({1, 2}),
            (
                "the argument 'value' of anything() is set, which is no JSON value; "
                "annotate the parameter to have it converted."
            ),
        ),
        (
            anything({1: Param("limit", int)}),
            (
                "the argument 'value' of anything() is {1: <parameter limit>}; in a dict with parameters of the flow, "
                "keys must be strings."
            ),
        ),
        (
            anything([Param("limit", int), datetime.date(2026, 1, 1)]),
            (
                "the argument 'value' of anything() is datetime.date, which is no JSON value; "
                "annotate the parameter to have it converted."
            ),
        ),
    ],
)  # fmt: skip
def test_an_argument_that_cannot_travel_is_refused_at_the_users_line(chain: StepNode[..., Any], message: str) -> None:
    with pytest.raises(FlowError) as error:
        arguments(chain)
    place, _, said = str(error.value).partition(": ")
    assert said == message
    assert place == chain.where
    assert place.startswith(f"{__file__}:")


def test_a_default_that_cannot_travel_is_refused() -> None:
    @flow
    def wrong(limit: int = "many") -> StepNode[..., Any]:  # type: ignore[assignment]
        return anything(limit)

    with pytest.raises(FlowError) as error:
        wrong()
    assert str(error.value) == (
        "the default of wrong's parameter 'limit' is 'many', not int (Expected `int`, got `str`)."
    )


PARAMS = (
    FlowParameter("day", datetime.date),
    FlowParameter("limit", int, 100),
    FlowParameter("color", Color, Color.RED),
    FlowParameter("path", Path | None, None),
    FlowParameter("rest", default=[]),
)


def test_a_run_gets_the_json_of_all_its_parameters() -> None:
    assert bind_parameters(PARAMS, {"day": datetime.date(2026, 1, 1), "path": Path("a")}) == {
        "day": "2026-01-01",
        "limit": 100,
        "color": "red",
        "path": "a",
        "rest": [],
    }


def test_json_is_taken_for_the_values_it_makes() -> None:
    assert bind_parameters(PARAMS, {"day": "2026-01-01", "limit": 3.0, "color": "red", "rest": {"a": 1.0}}) == {
        "day": "2026-01-01",
        "limit": 3,
        "color": "red",
        "path": None,
        "rest": {"a": 1},
    }


def test_defaults_are_copied_for_each_run() -> None:
    first = bind_parameters(PARAMS, {"day": "2026-01-01"})
    assert isinstance(first["rest"], list)
    first["rest"].append("changed")
    assert bind_parameters(PARAMS, {"day": "2026-01-01"})["rest"] == []


def test_all_problems_with_parameters_are_named_at_once() -> None:
    with pytest.raises(ParameterError) as error:
        bind_parameters(PARAMS, {"limit": "x", "colour": "red", "rest": 2**60})
    assert str(error.value) == (
        "unknown parameter 'colour' (the flow takes color, day, limit, path, rest); "
        "'day' is required (date); "
        "'limit' is 'x', not int (Expected `int`, got `str`); "
        "'rest' is 1152921504606846976, a number that Step Functions would round (above 2**53); pass it as a string."
    )


def test_a_flow_without_parameters_says_so() -> None:
    with pytest.raises(ParameterError, match=r"^unknown parameter 'limit' \(the flow takes none\)\.$"):
        bind_parameters((), {"limit": 1})


def test_a_template_is_filled_with_the_parameters_of_a_run() -> None:
    template: Template = [ParamRef("limit"), {"a": ParamRef("day"), "b": "limit"}, None]
    assert fill(template, {"limit": 3, "day": "2026-01-01"}) == [3, {"a": "2026-01-01", "b": "limit"}, None]


# plan_lines() is equal exactly when two plans compute the same.

VALUES = st.sampled_from([None, True, 1, "1", "true", "$limit", "limit", "a, extra=1", [], [1], ["1"], {}, {"a": 1}])
CALLS = st.tuples(
    st.sampled_from(["next", "map", "agg"]),
    st.lists(VALUES | st.sampled_from([ParamRef("limit"), ParamRef("true")]), max_size=1),
    st.booleans(),
)
type Drawn = list[tuple[str, list[Any], bool]]


def drawn_plan(calls: Drawn) -> Plan:
    """Chain a step for each call, its argument by position or by name; an agg without a map is a next."""
    chain: Any = anything()
    for verb, templates, by_name in [*calls, ("agg", [], False)]:
        values = [Param(value.name, int) if isinstance(value, ParamRef) else value for value in templates]
        bound = anything(**dict.fromkeys(["extra"], values[0])) if values and by_name else anything(*values)
        joined = "next" if verb == "agg" and isinstance(chain, StepNode) else verb
        chain = getattr(chain, joined)(bound)
    return lower(FlowGraph("random", chain))


def computes(plan: Plan) -> object:
    """What a plan does, apart from how arguments are passed and from options."""

    def shape(call: Call) -> object:
        named = [(argument.parameter, template_shape(argument.template)) for argument in call.arguments]
        return call.id, call.step, call.reads, call.fans_out, named

    return [[shape(call) for call in op.calls] if isinstance(op, FanOut) else shape(op) for op in plan.ops]


def template_shape(template: object) -> object:
    """A template with the types of its values, since 1 == True."""
    if isinstance(template, list):
        return [template_shape(member) for member in template]
    if isinstance(template, dict):
        return {name: template_shape(member) for name, member in template.items()}
    return type(template), template


@given(st.lists(CALLS, max_size=4), st.lists(CALLS, max_size=4))
def test_plans_are_described_alike_exactly_when_they_compute_the_same(one: Drawn, other: Drawn) -> None:
    first, second = drawn_plan(one), drawn_plan(other)
    assert (plan_lines(first) == plan_lines(second)) == (computes(first) == computes(second))


@given(st.lists(CALLS, max_size=4))
def test_how_arguments_are_passed_changes_nothing_in_the_description(calls: Drawn) -> None:
    turned = [(verb, values, not by_name) for verb, values, by_name in calls]
    assert plan_lines(drawn_plan(calls)) == plan_lines(drawn_plan(turned))


def test_a_plan_is_described_in_lines_without_its_options() -> None:
    @flow
    def report(limit: int = 3) -> StepNode[..., str]:
        return load(datetime.date(2026, 1, 1), tags=["a"]).map(clean(limit), batch=2).next(clean).agg(join)

    plan = lower(report())
    assert plan_lines(plan) == [
        'load = load(day="2026-01-01", tags=["a"])',
        "map over load: clean = clean(limit=$limit) -> clean_2 = clean()",
        "join = join()",
    ]
    assert plan_lines(replace(plan, options=FlowOptions(timeout=3))) == plan_lines(plan)


def test_arguments_in_args_are_described_in_order_and_apart_from_names() -> None:
    one = many("a", 1, Path("x"), Path("y"))
    other = many("a", 1, Path("y"), Path("x"))
    texts = [plan_lines(lower(FlowGraph("flow", chain))) for chain in (one, other)]
    assert texts == [
        ['many = many(*rest="x", *rest="y", first="a", second=1)'],
        ['many = many(*rest="y", *rest="x", first="a", second=1)'],
    ]


def test_a_drawn_flow_is_bound_and_filled_from_end_to_end() -> None:
    @flow
    def report(day: datetime.date, limit: int = 3) -> StepNode[..., str]:
        return load(day).map(clean(limit)).agg(join)

    graph: Flow[...] = report
    plan = lower(graph())
    params: dict[str, Json] = bind_parameters(plan.params, {"day": "2026-01-01"})
    assert [[fill(argument.template, params) for argument in call.arguments] for call in plan.calls] == [
        ["2026-01-01"],
        [3],
        [],
    ]
