"""Flows that are steps of flows: how they are drawn into them, and what is refused."""

# Chains are wrong on purpose here; what mypy says of them is the subject of test_typing.py.
# mypy: disable-error-code="arg-type, misc, call-arg, call-overload, return-value"

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.interpreter import interpret

from lokki import FlowError, FlowGraph, StepNode, flow, step
from lokki.plan import lower, plan_lines
from lokki.plan_json import plan_from_json, plan_to_json, shape


@step
def customers(day: str = "monday") -> list[str]:
    return ["ann", "bob"]


@step
def months(customer: str, count: int = 2) -> list[int]:
    return list(range(count))


@step
def bill(month: int, customer: str, rate: int) -> str:
    return f"{customer}{month * rate}"


@step
def join(texts: list[str]) -> str:
    return "+".join(texts)


@step
def shout(text: str, times: int = 1) -> str:
    return text.upper() * times


@step
def pair(first: str, second: str) -> str:
    return f"({first} {second})"


@step
def note(value: object = None) -> None:
    return None


@step
def since(text: str, day: datetime.date) -> str:
    return f"{text} {day.year}"


@flow
def per_customer(customer: str, rate: int = 1) -> StepNode[..., str]:
    return months(customer).map(bill(customer=customer, rate=rate)).agg(join)


@flow
def framed(text: str, other: str = "-") -> StepNode[..., str]:
    loud = shout(text)
    return pair(loud.result, other).next(shout(2))


@flow(timeout=5)
def dated(text: str, day: datetime.date = datetime.date(2026, 1, 2)) -> StepNode[..., str]:
    return since(text, day).next(framed(other="x"))


def lines(draw: Callable[..., Any]) -> list[str]:
    return plan_lines(lower(flow(draw)()))


def test_a_flow_called_with_all_its_arguments_starts_a_chain() -> None:
    def billed(rate: int = 3) -> StepNode[..., str]:
        return per_customer("ann", rate=rate).next(shout)

    assert lines(billed) == [
        'per_customer_months = months(customer="ann")',
        'map over per_customer_months: per_customer_bill = bill(customer="ann", rate=$rate)',
        "per_customer_join = join()",
        "shout = shout()",
    ]
    assert interpret(lower(flow(billed)())) == "ANN0+ANN3"


def test_a_flow_gets_what_comes_down_the_chain_as_its_first_parameter() -> None:
    def chained() -> StepNode[..., str]:
        return customers().next(join).next(framed(other="o")).next(framed)

    assert lines(chained) == [
        "customers = customers()",
        "join = join()",
        "framed_shout = shout()",
        'framed_pair = pair(second="o")',
        "framed_shout_2 = shout(times=2)",
        "framed_shout_3 = shout()",
        'framed_pair_2 = pair(second="-")',
        "framed_shout_4 = shout(times=2)",
    ]


def test_a_flow_runs_for_each_item_and_reads_what_is_common_to_all() -> None:
    def mapped() -> StepNode[..., str]:
        extra = shout("e")
        block = customers().map(framed(other=extra.result)).next(shout)
        return block.agg(framed_list(extra.result)).next(shout)

    @flow
    def framed_list(texts: list[str], last: str) -> StepNode[..., str]:
        return pair(join(texts).result, last)

    assert lines(mapped) == [
        "side by side:",
        '- shout = shout(text="e")',
        "- customers = customers()",
        (
            "map over customers: framed_shout = shout() -> framed_pair = pair(second=shout.result) -> "
            "framed_shout_2 = shout(times=2) -> shout_2 = shout()"
        ),
        "framed_list_join = join()",
        "framed_list_pair = pair(second=shout.result)",
        "shout_3 = shout()",
    ]
    assert interpret(lower(flow(mapped)())) == "((ANN E)(ANN E)+(BOB E)(BOB E) E)"


def test_a_body_may_read_the_item_more_than_once() -> None:
    @flow
    def doubled(text: str) -> StepNode[..., str]:
        first, second = shout(text), shout(text, 2)
        return pair(second.result, first.result).after(note(text))

    def mapped() -> StepNode[..., str]:
        return customers().map(doubled).agg(join)

    assert lines(mapped) == [
        "customers = customers()",
        (
            "map over customers: doubled_shout = shout() -> doubled_shout_2 = shout(times=2) of customers.map.item -> "
            "doubled_note = note() of customers.map.item -> "
            "doubled_pair = pair(second=doubled_shout.result) of doubled_shout_2.result after doubled_note"
        ),
        "join = join()",
    ]
    assert interpret(lower(flow(mapped)())) == "(ANNANN ANN)+(BOBBOB BOB)"


def test_arguments_pass_through_flows_and_are_converted_once() -> None:
    def outer(day: datetime.date) -> StepNode[..., str]:
        return dated("a", day=day).next(dated)

    plan = lower(flow(outer)())
    assert [line for line in plan_lines(plan) if "since" in line] == [
        'dated_since = since(day=$day, text="a")',
        'dated_since_2 = since(day="2026-01-02")',
    ]
    assert "dated_framed_pair" in {call.id for call in plan.calls}
    assert plan.options.timeout is None
    first = "(A 2025 X)(A 2025 X)"
    assert interpret(plan, {"day": "2025-01-01"}) == f"({first} 2026 X)({first} 2026 X)"


def test_a_flow_starts_when_what_it_waits_for_has_ended() -> None:
    @flow
    def cleanup(ignored: str) -> StepNode[..., None]:
        return note().after(shout("b"))

    def ordered() -> StepNode[..., str]:
        first = shout("a").next(cleanup)
        return per_customer("ann").after(first)

    assert lines(ordered) == [
        'shout = shout(text="a")',
        'cleanup_shout = shout(text="b") of nothing after shout',
        "cleanup_note = note() of nothing after cleanup_shout",
        'per_customer_months = months(customer="ann") of nothing after cleanup_note',
        'map over per_customer_months: per_customer_bill = bill(customer="ann", rate=1)',
        "per_customer_join = join()",
    ]


def test_a_flow_called_outside_of_flows_is_drawn() -> None:
    assert isinstance(per_customer("ann"), FlowGraph)
    assert per_customer("ann").params[0].default == "ann"


# Refusals.


def said(body: Callable[..., Any], line: int = 1) -> str:
    """Return what is said of a flow, with HERE for the line that is so many after its def."""
    with pytest.raises(FlowError) as error:
        flow(body)()
    place = f"{__file__}:{body.__code__.co_firstlineno + line}: "
    return str(error.value).replace(place, "HERE: ")


def test_arguments_that_a_flow_does_not_take_are_refused_at_the_users_line() -> None:
    def missing() -> Any:
        return customers().next(join).next(needs_two)

    def too_many() -> Any:
        return customers().next(join).next(framed("a", "b"))

    def unknown() -> Any:
        return per_customer("ann", rat=3)

    def of_the_wrong_type() -> Any:
        return customers().map(framed(other=3)).agg(join)

    def of_a_wrong_result() -> Any:
        return per_customer("ann", rate=shout("a").result)

    def of_wrong_items() -> Any:
        return months("a").map(framed).agg(join)

    @flow
    def needs_two(first: str, second: str) -> StepNode[..., str]:
        return pair(first, second)

    assert said(missing) == (
        "HERE: needs_two(first: 'str', second: 'str') -> 'StepNode[..., str]' cannot be called as the flow calls it: "
        "missing a required argument: 'second'. Its first argument is what join() returns. Bind what is missing in the "
        "flow: needs_two(…)."
    )
    assert "framed(text: 'str', other: 'str' = '-') -> " in said(too_many)
    assert "cannot be called as the flow calls it: too many positional arguments. " in said(too_many)
    assert "got an unexpected keyword argument 'rat'. " in said(unknown)
    assert said(of_the_wrong_type) == (
        "HERE: the argument 'other' of framed() is 3, not str (Expected `str`, got `int`)."
    )
    assert said(of_a_wrong_result) == (
        """HERE: per_customer() takes int as 'rate', but the result of shout() is str."""
    )
    assert said(of_wrong_items) == "HERE: framed() takes str as 'text', but gets each item of months(): int."


def test_what_a_flow_gives_must_fit_what_follows() -> None:
    def wrong() -> Any:
        return per_customer("ann").next(join)

    assert said(wrong) == ("HERE: join() takes list[str] as 'texts', but gets what join() returns: str.")


def test_a_flow_that_reaches_itself_is_refused() -> None:
    @flow
    def first(text: str) -> StepNode[..., str]:
        return shout(text).next(second)

    @flow
    def second(text: str) -> StepNode[..., str]:
        return shout(text).next(first)

    with pytest.raises(FlowError) as error:
        second()
    place, _, message = str(error.value).partition(": ")
    assert place.startswith(f"{__file__}:")
    assert message == (
        "the flow second() reaches itself: second() > first() > second(). A flow is a step of other flows only; "
        "what is to be repeated belongs into a loop inside a step, or into a map."
    )


@step
def is_long(text: str) -> bool:
    return len(text) > 3


def test_a_map_in_a_case_of_a_mapped_flow_is_refused_with_what_to_write() -> None:
    def nested() -> Any:
        return customers().map(shout).switch(is_long, {True: per_customer, False: shout}).agg(join)

    with pytest.raises(FlowError) as error:
        flow(nested)()
    assert str(error.value).partition(": ")[2] == (
        "months().map(bill()) is in the body of per_customer(), a case of a switch inside of a map, and a map there "
        "would run for some items only. Let a step return the list, empty where there is nothing to do, and map over "
        "that."
    )


def test_a_map_below_a_map_is_lowered_into_flat_maps() -> None:
    def nested() -> Any:
        return customers().map(per_customer(rate=3), tolerate=1).agg(join)

    assert lines(nested) == [
        "customers = customers()",
        (
            "map over customers as customers.map.level_1 and keeps customers.map.item, per_customer_months.result: "
            "per_customer_months = months() of item"
        ),
        "per_customer_months.map.spread = all members of per_customer_months.result in customers.map.level_1",
        (
            "map over per_customer_months.map.spread as per_customer_months.map with customers.map.item: "
            "per_customer_bill = bill(customer=customers.map.item, rate=3)"
        ),
        (
            "per_customer_months.map.gather = the results of per_customer_months.map for each item of "
            "customers.map.level_1, by per_customer_months.map.spread"
        ),
        "map over per_customer_months.map.gather as customers.map: per_customer_join = join()",
        "join = join()",
    ]


def test_flows_without_one_result_are_no_steps() -> None:
    @flow
    def several(text: str) -> Any:
        return shout(text), note(text)

    @flow
    def is_open(text: str) -> Any:
        return months(text).map(shout)

    @flow
    def nothing(text: str) -> Any:
        return None

    @flow
    def drops(text: str) -> Any:
        note(text)
        return shout(text)

    for used, message in (
        (several, "several() returns several chains, so it cannot be a step of another flow."),
        (is_open, "the flow is_open() ends in an open Map block: months().map(shout)."),
        (nothing, "the flow nothing() returned None."),
        (drops, "note() was started and dropped: it is not part of what drops() returns"),
    ):
        with pytest.raises(FlowError) as error:
            flow(using_flow(used))()
        assert message in str(error.value)


def using_flow(used: Any) -> Callable[[], Any]:
    def using() -> Any:
        return customers().next(join).next(used)

    return using


def test_a_placeholder_of_a_flow_that_is_a_step_has_no_value_either() -> None:
    @flow
    def decides(text: str) -> Any:
        return shout(text) if text else note()

    def uses() -> Any:
        return decides("a")

    with pytest.raises(FlowError, match="the flow's parameter 'text' has no value while the flow is drawn"):
        flow(uses)()


# A law: a flow of random steps, folded into flows at random, computes the same.


@step
def combine(*values: Any) -> list[Any]:
    return ["combine", *values]


@flow
def one_level(value: Any, label: int) -> StepNode[..., Any]:
    return combine(value, label).next(combine(label))


@flow
def two_levels(value: Any, label: int) -> StepNode[..., Any]:
    inner = one_level(value, label)
    return combine(inner.result, value).next(one_level(label=label))


def one_level_value(value: Any, label: int) -> Any:
    return combine.fn(combine.fn(value, label), label)


def two_levels_value(value: Any, label: int) -> Any:
    return one_level_value(combine.fn(one_level_value(value, label), value), label)


PIECES = {"step": (combine, combine.fn), "one": (one_level, one_level_value), "two": (two_levels, two_levels_value)}


@given(st.lists(st.tuples(st.sampled_from(sorted(PIECES)), st.sampled_from(["next", "map", "argument"])), max_size=5))
def test_flows_as_steps_compute_what_their_functions_do(pieces: list[tuple[str, str]]) -> None:
    def drawn() -> Any:
        chain: Any = combine(0)
        for number, (name, verb) in enumerate(pieces):
            used: Any = PIECES[name][0]
            if verb == "argument":
                chain = used(chain.result, number)
            elif verb == "next":
                chain = chain.next(used(number) if name == "step" else used(label=number))
            else:
                chain = chain.map(used(number) if name == "step" else used(label=number)).agg(combine)
        return chain

    value: Any = combine.fn(0)
    for number, (name, verb) in enumerate(pieces):
        call = PIECES[name][1]
        value = combine.fn([call(item, number) for item in value]) if verb == "map" else call(value, number)
    plan = lower(flow(drawn)())
    assert interpret(plan) == value
    assert plan_from_json(plan_to_json(plan)) == shape(plan)
