"""Switches: how they are drawn in chains and in maps, and which cases are refused."""

# Chains are wrong on purpose here; what mypy says of them is the subject of test_typing.py.
# mypy: disable-error-code="arg-type, misc, call-arg, call-overload, return-value, dict-item"

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.interpreter import interpret
from test_graph_flows import called_ids

from lokki import FlowError, StepNode, flow, step
from lokki.graph import FlowGraph, SwitchEntry
from lokki.plan import lower, plan_lines
from lokki.plan_json import plan_from_json, plan_to_json, shape


class Grade(enum.Enum):
    GOOD = "good"
    BAD = "bad"
    NONE = None


@step
def numbers() -> list[int]:
    return [0, 1, 2, 3]


@step
def number(value: int = 1) -> int:
    return value


@step
def is_even(value: int) -> bool:
    return value % 2 == 0


@step
def size(value: int) -> Literal["small", "large"]:
    return "small" if value < 2 else "large"


@step
def grade(value: int) -> Grade:
    return [Grade.GOOD, Grade.BAD, Grade.NONE][value % 3]


@step
def modulo(value: int, by: int = 3) -> int:
    return value % by


def test_a_step_that_chooses_has_a_name_that_leaves_room_for_its_cases() -> None:
    def choosing(value: int) -> bool:
        return value > 0

    def drawn(length: int) -> FlowGraph:
        choosing.__name__ = "c" * length
        chooser = step(choosing)

        @flow
        def long_names() -> StepNode[..., Any]:
            return number().switch(chooser, {True: half, False: half})

        return long_names()

    assert lower(drawn(69)).calls
    with pytest.raises(FlowError, match=r"is too long for a switch: .* more than 80 characters\. Shorten it by 3\."):
        drawn(72)


@step
def share(value: int) -> float:
    return value / 2


@step
def half(value: int) -> str:
    return f"half {value // 2}"


@step
def keep(value: int, mark: str = "") -> str:
    return f"keep {value}{mark}"


@step
def join(texts: list[str]) -> str:
    return ", ".join(texts)


@step
def shout(text: str) -> str:
    return text.upper()


@flow
def halved(value: int) -> StepNode[..., str]:
    text = half(value)
    return text.next(shout).after(keep(value))


def lines(draw: Callable[..., Any]) -> list[str]:
    return plan_lines(lower(flow(draw)()))


def test_a_switch_runs_the_case_for_what_its_step_returns() -> None:
    def chosen(value: int = 1) -> StepNode[..., str]:
        mark = shout("m")
        text = number(value).switch(is_even, {True: halved, False: keep(mark=mark.result)})
        return text.next(shout)

    graph = flow(chosen)()
    plan = lower(graph)
    assert plan_lines(plan) == [
        "side by side:",
        '- shout = shout(text="m")',
        "- number = number(value=$value)",
        "is_even = is_even() of number.result",
        "switch on is_even:",
        "  true gives halved_shout:",
        "    side by side:",
        "    - halved_half = half() of number.result",
        "    - halved_keep = keep() of number.result",
        "    halved_shout = shout() of halved_half.result after halved_keep",
        "  false gives keep:",
        "    keep = keep(mark=shout.result) of number.result",
        "shout_2 = shout()",
    ]
    assert [interpret(plan, {"value": value}) for value in (4, 5)] == ["HALF 2", "KEEP 5M"]
    assert SwitchEntry("is_even.switch", "is_even", (True, False)) in graph.entries
    assert called_ids(graph) == [call.id for call in plan.calls]
    assert [each.name for each in graph.steps] == ["shout", "number", "is_even", "half", "keep"]
    assert plan_from_json(plan_to_json(plan)) == shape(plan)


def test_a_switch_in_a_map_chooses_for_each_item() -> None:
    def chosen() -> StepNode[..., str]:
        block = numbers().map(number).switch(size, {"small": halved, "large": keep})
        return block.next(shout).agg(join)

    assert called_ids(flow(chosen)()) == [call.id for call in lower(flow(chosen)()).calls]
    assert lines(chosen) == [
        "numbers = numbers()",
        "map over numbers:",
        "  number = number()",
        "  size = size()",
        "  switch on size:",
        '    "small" gives halved_shout:',
        "      halved_half = half() of number.result",
        "      halved_keep = keep() of number.result",
        "      halved_shout = shout() of halved_half.result after halved_keep",
        '    "large" gives keep:',
        "      keep = keep() of number.result",
        "  shout = shout()",
        "join = join()",
    ]
    assert interpret(lower(flow(chosen)())) == "HALF 0, HALF 0, KEEP 2, KEEP 3"


def test_a_switch_has_a_default_and_cases_for_members_of_an_enum() -> None:
    def chosen(value: int = 0) -> StepNode[..., str]:
        return number(value).switch(grade, {Grade.GOOD: keep("!"), Grade.NONE: keep("?")}, default=half)

    plan = lower(flow(chosen)())
    assert list(plan.calls)[1].cases == ("good", "NONE", None)
    assert [interpret(plan, {"value": value}) for value in (0, 1, 2)] == ["keep 0!", "half 0", "keep 2?"]


def test_a_switch_ends_a_flow_and_is_an_argument() -> None:
    def chosen() -> tuple[StepNode[..., str], StepNode[..., str]]:
        text = number().switch(modulo(by=2), {0: half, 1: keep})
        return text, number(7).next(keep(mark=text.result))

    assert interpret(lower(flow(chosen)())) == ("keep 1", "keep 7keep 1")


def said(body: Callable[..., Any]) -> str:
    """Return what is said of a flow, with HERE for the line after its def."""
    with pytest.raises(FlowError) as error:
        flow(body)()
    place = f"{__file__}:{body.__code__.co_firstlineno + 1}: "
    return str(error.value).replace(place, "HERE: ")


def test_cases_are_checked_against_what_the_step_returns() -> None:
    def not_covered() -> Any:
        return number().switch(size, {"small": half})

    def no_false() -> Any:
        return number().switch(is_even, {True: half})

    def no_member() -> Any:
        return number().switch(grade, {Grade.GOOD: half, Grade.BAD: keep})

    def impossible() -> Any:
        return number().switch(size, {"small": half, "medium": keep}, default=keep)

    def one_for_true() -> Any:
        return number().switch(is_even, {1: half}, default=keep)

    def of_a_float() -> Any:
        return number().switch(share, {1: half})

    def mixed() -> Any:
        return number().switch(modulo, {1: half, "2": keep})

    def illegal() -> Any:
        return number().switch(modulo, {(1, 2): half})

    def none() -> Any:
        return number().switch(modulo, {})

    def for_none() -> Any:
        return number().switch(modulo, {None: half})

    def on_a_flow() -> Any:
        return number().switch(halved, {"A": half})

    def on_the_wrong_value() -> Any:
        return number().next(keep).switch(is_even, {True: shout, False: shout})

    def a_case_for_the_wrong_value() -> Any:
        return number().switch(is_even, {True: half, False: shout})

    def what_follows() -> Any:
        return number().switch(is_even, {True: half, False: number}).next(shout)

    def a_map_over_it() -> Any:
        return number().switch(is_even, {True: half, False: half}).map(shout).agg(join)

    assert said(not_covered) == (
        "HERE: the switch on size() has no case for 'large', which it may return (Literal['small', 'large']). "
        "Add one, or default=."
    )
    assert "no case for False, which it may return (bool)" in said(no_false)
    assert "no case for 'NONE', which it may return (Grade)" in said(no_member)
    assert said(impossible) == ("HERE: the case 'medium' cannot happen: size() returns Literal['small', 'large'].")
    assert "the case 1 cannot happen: is_even() returns bool." in said(one_for_true)
    assert said(of_a_float) == (
        "HERE: share() returns float, on which no switch can choose. Let it return a bool, str, int, Enum or Literal, "
        "or give a default=."
    )
    assert said(mixed) == "HERE: the switch on modulo() has cases of several kinds, int, str. Give one kind."
    assert said(illegal) == (
        "HERE: the switch on modulo() has a case for (1, 2). Cases are for a bool, an int, a str or a member of an "
        "Enum; default= is for all else."
    )
    assert said(none) == ("HERE: number().switch() takes a dict of cases, such as {True: step, False: other_step}.")
    assert said(for_none) == (
        "HERE: number().switch() has a case for None. Give what is for all other values as default=."
    )
    assert said(on_a_flow) == "HERE: number().switch() takes a step that chooses, but halved is a flow."
    assert said(on_the_wrong_value) == "HERE: is_even() takes int as 'value', but gets what keep() returns: str."
    assert said(a_case_for_the_wrong_value) == (
        "HERE: shout() takes str as 'text', but gets what number() returns: int."
    )
    assert said(what_follows) == (
        "HERE: shout() takes str as 'text', but gets what the switch on is_even() gives: str | int."
    )
    assert said(a_map_over_it).startswith("HERE: .map() cannot run over what ")


@given(st.lists(st.integers(0, 5), max_size=4), st.booleans())
def test_switches_choose_as_a_direct_call_does(values: list[int], is_mapped: bool) -> None:
    def drawn(values: list[int]) -> Any:
        source = same(values)
        if is_mapped:
            block: Any = source.map(number)
            return block.switch(modulo, {0: half, 2: halved}, default=keep("x")).agg(join)
        return source.next(count).switch(modulo(by=2), {0: half, 1: halved})

    def expected(value: int, cases: dict[int, Callable[[int], str]]) -> str:
        return cases.get(value % (3 if is_mapped else 2), lambda value: keep.fn(value, "x"))(value)

    def halved_value(value: int) -> str:
        return shout.fn(half.fn(value))

    plan = lower(flow(drawn)())
    if is_mapped:
        direct = join.fn([expected(value, {0: half.fn, 2: halved_value}) for value in values])
    else:
        direct = expected(len(values), {0: half.fn, 1: halved_value})
    assert interpret(plan, {"values": values}) == direct


@step
def same(values: list[int]) -> list[int]:
    return values


@step
def count(values: list[int]) -> int:
    return len(values)
