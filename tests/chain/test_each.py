"""Maps over a list that the flow was given, and over what a switch gives: drawn, refused, and run in every way."""

# Chains are wrong on purpose here; what mypy says of them is the subject of test_typing.py.
# mypy: disable-error-code="arg-type, misc, call-arg, call-overload, return-value"

from __future__ import annotations

import datetime
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import each_flows
import pytest
from each_flows import aged, kind, lists, nothing, number, plus, summed, total, up_to, year
from support.interpreter import interpret

from lokki import FlowError, StepNode, each, flow, step
from lokki.base.options import Executor
from lokki.errors import ParameterError
from lokki.pictures.drawing import draw
from lokki.plan import lower, plan_lines
from lokki.plan_json import plan_from_json, plan_to_json, shape


@step
def untyped(value):  # type: ignore[no-untyped-def]
    return value


@step
def loose(value: object) -> int:
    return 1


@flow
def by_year(days: list[datetime.date]) -> StepNode[..., int]:
    return each(days).map(loose).next(number).agg(total)


def expected(value: int) -> str:
    numbers = list(range(value)) if value > 1 else [1] if value == 1 else []
    both = sum(number + 4041 for number in numbers) + sum(number + 10 for number in numbers)
    return f"4041 31 {both} 2"


def test_a_list_of_the_flow_is_the_items_of_a_map_in_the_function_of_its_step() -> None:
    plan = lower(aged())
    assert plan_lines(plan) == [
        "birds = items for age(bird=$birds)",
        "map over birds: age = age(today=$today)",
        "total = total()",
    ]
    assert draw(plan).splitlines()[0] == "birds(bird=$birds)"
    assert set(plan.steps) == {"age", "total"}
    first = next(plan.calls)
    assert (first.step, first.passes_on, first.fans_out) == ("age", True, True)
    assert plan_from_json(plan_to_json(plan)) == shape(plan)


def test_a_list_that_a_flow_is_handed_needs_no_call_where_a_call_gave_it() -> None:
    def direct() -> Any:
        return number(3).next(up_to).next(summed)

    def bound() -> Any:
        return summed([1, 2], more=2)

    assert plan_lines(lower(flow(direct)())) == [
        "number = number(value=3)",
        "up_to = up_to()",
        "map over up_to: summed_plus = plus(more=1)",
        "summed_total = total()",
    ]
    assert plan_lines(lower(flow(bound)()))[:1] == ["summed_numbers = items for plus(value=[1, 2])"]
    assert interpret(lower(flow(bound)())) == 7


def test_the_items_are_converted_for_the_step_that_says_what_it_takes() -> None:
    def drawn(days: list[datetime.date]) -> Any:
        dates = each(days)
        return dates.map(loose).agg(plus_all(more=dates.map(year).agg(total).result))

    plan = lower(flow(drawn)())
    assert next(plan.calls).step == "year"
    assert interpret(plan, {"days": [datetime.date(2020, 1, 1), "2021-01-01"]}) == 2 + 4041


@step
def plus_all(numbers: list[int], more: int) -> int:
    return sum(numbers) + more


@pytest.mark.parametrize("value", [0, 1, 3])
@pytest.mark.parametrize("executor", ["inline", "threads"])
def test_the_lists_of_a_flow_are_mapped_over_here(value: int, executor: Executor, tmp_path: Path) -> None:
    assert interpret(lower(lists()), {"value": value}) == expected(value)
    launcher = lists.using(root=tmp_path, executor=executor, progress=False)
    assert launcher.run(value=value) == expected(value)


@step
def tables(count: int) -> list[list[int]]:
    return [list(range(size)) for size in range(count)]


@flow
def of_a_table(row: list[int], more: int) -> StepNode[..., int]:
    return each(row).map(plus(more=more)).agg(total)


@flow
def of_a_list(row: list[int], values: list[int]) -> StepNode[..., int]:
    return each(values).map(plus(more=1)).agg(total)


@flow
def of_a_switch(row: list[int]) -> StepNode[..., int]:
    chosen = total(row).switch(kind, {"many": up_to, "one": up_to, "none": nothing})
    return chosen.map(plus(more=1)).agg(total)


@pytest.mark.parametrize("executor", ["inline", "threads"])
def test_lists_are_mapped_over_below_maps(executor: Executor, tmp_path: Path) -> None:
    @flow
    def nested(values: list[int], count: int = 4) -> Any:
        rows = tables(count)
        sums = rows.map(of_a_table(more=3)).agg(gathered)
        return sums, rows.map(of_a_list(values=values)).agg(gathered), rows.map(of_a_switch()).agg(gathered)

    result = nested.using(root=tmp_path, executor=executor, progress=False).run(values=[10, 20])
    assert result == ([0, 3, 7, 12], [32] * 4, [0, 0, 1, 6])


@step
def gathered(numbers: list[int]) -> list[int]:
    return numbers


@pytest.mark.slow
def test_the_lists_of_a_flow_are_mapped_over_in_processes_and_emulated(tmp_path: Path) -> None:
    for options in (("run", "--executor", "processes"), ("emulate",), ("emulate", "--value", "0")):
        done = subprocess.run(
            [sys.executable, each_flows.__file__, *options],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert (done.returncode, done.stdout) == (0, f"{expected(0 if '0' in options else 3)}\n"), done.stderr


def test_what_is_no_list_when_it_runs_is_told_by_its_name(tmp_path: Path) -> None:
    @flow
    def anything(values):  # type: ignore[no-untyped-def]
        return each(values).map(untyped).agg(total)

    with pytest.raises(ParameterError, match=r"^the list 'values' for untyped\(\) is 5, not list"):
        anything.using(root=tmp_path, progress=False).run(values=5)


def said(body: Callable[..., Any]) -> str:
    """Return what is said of a flow, with HERE for the line after its def."""
    with pytest.raises(FlowError) as error:
        flow(body)()
    return str(error.value).replace(f"{__file__}:{body.__code__.co_firstlineno + 1}: ", "HERE: ")


def test_what_cannot_be_mapped_over_is_refused_at_the_users_line() -> None:
    def no_map(days: list[datetime.date]) -> Any:
        return each(days).next(untyped)

    def no_list(days: str) -> Any:
        return each(days).map(year).agg(total)

    def of_another_type(days: list[int]) -> Any:
        return each(days).map(year).agg(total)

    def no_annotation(days: list[datetime.date]) -> Any:
        return each(days).map(untyped).agg(total)

    def a_wrong_list() -> Any:
        return each(["monday"]).map(year).agg(total)

    def a_chain() -> Any:
        return each(number(3).next(up_to)).map(number).agg(total)

    def a_switch_of_numbers() -> Any:
        return number(3).switch(kind, {"many": number, "one": up_to, "none": nothing}).map(number).agg(total)

    assert said(no_map) == "HERE: each() begins a map: each(…).map(step). Pass the flow's parameter 'days' to a step."
    assert said(no_list) == (
        "HERE: .map() cannot run over the flow's parameter 'days', str: it takes a list or another iterable "
        "(strings, bytes and mappings have no items that could be meant)."
    )
    assert said(of_another_type) == (
        "HERE: year() takes date as 'day', but gets each item of the flow's parameter 'days': int."
    )
    assert said(no_annotation) == (
        "HERE: no step of each().map(untyped) takes an item as date, so it would get the JSON of one. "
        "Annotate its parameter: value: date."
    )
    assert said(a_wrong_list) == (
        "HERE: each() gives year() what it does not take: ['monday'], not list[date] "
        "(Invalid RFC3339 encoded date - at `$[0]`)."
    )
    assert said(a_chain) == (
        "HERE: each() takes a parameter of the flow, a result or a list, and no StepNode. "
        "Let a step return what the map runs over: step(…).map(…)."
    )
    assert said(a_switch_of_numbers) == (
        "HERE: .map() cannot run over what the switch on kind() gives, int | list[int]: it takes a "
        "list or another iterable (strings, bytes and mappings have no items that could be meant)."
    )
    with pytest.raises(FlowError, match=r"each\(\) begins a chain in the body of a flow"):
        each([1])
