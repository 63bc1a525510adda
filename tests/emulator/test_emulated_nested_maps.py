"""Maps below maps, as AWS runs them."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.definitions import definition_values, filled
from support.handled_emulation import emulate_here
from support.nested_flows import Body, bodies, whole

from lokki import StepNode, flow, step
from lokki.builder.compiled import compile_flow
from lokki.builder.state_machine import state_machine_of
from lokki.config import LokkiConfig


def check(body: Body, count: int, tolerate: int | None, inline_limit: int) -> None:
    graph, expected = whole(body, count, tolerate)
    emulated = emulate_here(graph(count), inline_limit=inline_limit)
    if expected is None:
        assert emulated.outcome.status == "FAILED"
    else:
        assert emulated.outcome.status == "SUCCEEDED", emulated.outcome
        assert emulated.result() == expected


shapes = st.integers(0, 2).flatmap(bodies)
counts, tolerances, limits = st.integers(0, 4), st.sampled_from([None, 1, 3]), st.sampled_from([0, 4096])


@given(shapes, counts, tolerances, limits)
@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
def test_random_nested_maps_are_emulated(body: Body, count: int, tolerate: int | None, inline_limit: int) -> None:
    check(body, count, tolerate, inline_limit)


@pytest.mark.slow
@given(shapes, counts, tolerances, limits)
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
def test_many_random_nested_maps_are_emulated(body: Body, count: int, tolerate: int | None, inline_limit: int) -> None:
    check(body, count, tolerate, inline_limit)


@step
def sizes(lists: int, size: int) -> list[int]:
    return [size] * lists


@step
def members(size: int) -> list[int]:
    return list(range(size))


@step
def total(values: list[int]) -> int:
    return sum(values)


@flow
def one_list(size: int) -> StepNode[..., int]:
    return members(size).map(double).agg(total)


@step
def double(number: int) -> int:
    return number * 2


@flow
def doubled(lists: int = 2, size: int = 3) -> StepNode[..., int]:
    return sizes(lists, size).map(one_list).agg(total)


def test_a_map_below_a_map_is_three_map_runs_however_many_lists_there_are() -> None:
    compiled = compile_flow(doubled(), LokkiConfig())
    definition = filled(state_machine_of(compiled), definition_values(compiled, "bucket"))
    assert isinstance(definition, dict)
    states = definition["States"]
    assert isinstance(states, dict)
    kinds = [state["Type"] for state in states.values() if isinstance(state, dict)]
    assert kinds.count("Map") == 3
    emulated = emulate_here(doubled(), {"lists": 12, "size": 5})
    assert emulated.result() == 12 * 20


def test_requests_to_s3_do_not_grow_with_the_number_of_small_items() -> None:
    few, many = (emulate_here(doubled(), {"lists": 4, "size": size}) for size in (5, 100))
    assert (few.result(), many.result()) == (4 * 20, 4 * 9900)
    assert few.objects.requests == many.objects.requests
