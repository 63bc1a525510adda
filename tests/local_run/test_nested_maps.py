"""Maps below maps, run here."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lokki.errors import RunError
from tests.support.local_runs import Local
from tests.support.nested_flows import Body, bodies, whole

relaxed = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture]}


def check(root: Path, body: Body, count: int, tolerate: int | None, executor: str) -> None:
    graph, expected = whole(body, count, tolerate)
    local = Local(root, executor=executor, workers=3)
    if expected is None:
        with pytest.raises(RunError):
            local.run(graph(count))
    else:
        assert local.run(graph(count)) == expected


@given(
    st.integers(0, 2).flatmap(bodies),
    st.integers(0, 4),
    st.sampled_from([None, 1, 3]),
    st.sampled_from(["inline", "threads"]),
)
@settings(max_examples=300, **relaxed)
def test_random_nested_maps_give_what_loops_give(
    tmp_path: Path, body: Body, count: int, tolerate: int | None, executor: str
) -> None:
    check(tmp_path, body, count, tolerate, executor)
