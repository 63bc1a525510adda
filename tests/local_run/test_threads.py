"""A map on threads begins with one for each CPU, and starts more while they are of use."""

import pytest

from lokki.local_run.threads import Gauge

GLANCES: dict[str, tuple[list[float], list[int]]] = {
    "steps that wait": ([0.1, 0.2, 0.4, 0.7], [0, 1, 2]),
    "steps that compute": ([1.9, 1.7, 1.6, 2.0, 1.5], []),
    "steps that compute on one CPU at a time": ([1.0] * 9, [2]),
    "steps that wait half of the time": ([1.0, 1.0, 1.0, 1.9, 1.8, 1.9], [2]),
    "steps that wait most of the time": ([0.3, 0.6, 0.6, 0.6, 1.1, 1.1, 1.1, 1.9], [0, 3, 6]),
    "steps that compute and then wait": ([1.9, 1.9, 0.1, 0.2], [2, 3]),
}


@pytest.mark.parametrize("steps", GLANCES)
def test_more_threads_start_while_cpus_are_free_and_the_last_ones_used_more_of_them(steps: str) -> None:
    busy, expected = GLANCES[steps]
    gauge = Gauge(cpus=2)
    assert [glance for glance, cpus in enumerate(busy) if gauge.wants_threads(cpus)] == expected


@pytest.mark.parametrize("busy", [1.0, 1.1, 1.2])
def test_no_more_threads_start_where_those_there_wait_for_the_interpreters_lock(busy: float) -> None:
    gauge = Gauge(cpus=4)
    assert not any(gauge.wants_threads(busy, is_locked=glance % 3 != 2) for glance in range(20))


def test_more_threads_start_where_the_lock_is_held_for_part_of_the_time() -> None:
    gauge = Gauge(cpus=2)
    assert [glance for glance in range(6) if gauge.wants_threads(0.7, is_locked=True)] == [2]


def test_no_more_threads_start_while_the_first_items_import_a_library() -> None:
    gauge = Gauge(cpus=2)
    assert not any(gauge.wants_threads(1.0, is_warm=False) for _ in range(20))
    assert [glance for glance in range(6) if gauge.wants_threads(1.0)] == [2]
