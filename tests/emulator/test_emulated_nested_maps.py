"""Maps below maps, as AWS runs them."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.handled_emulation import emulate_here
from support.nested_flows import Body, bodies, whole


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
