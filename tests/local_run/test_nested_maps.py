"""Maps below maps, run here: what they give, what fails, and what of them goes on in a run that is resumed."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.handled_emulation import emulate_here
from support.interpreter import interpret
from support.local_runs import EXECUTORS, Local
from support.nested_flows import Body, bodies, whole

from lokki import StepNode, flow, local, step
from lokki.engine.events import ItemFailed, MapFinished
from lokki.errors import RunError
from lokki.graph import FlowGraph
from lokki.plan import lower
from lokki.runner import Executor, Resume

CALLED: list[str] = []
FAILING: set[str] = set()
LOCK = threading.Lock()


def note(name: str) -> None:
    with LOCK:
        CALLED.append(name)
    if name in FAILING:
        raise ValueError(f"{name} fails")


@step
def load(sizes: tuple[int, ...] = (2, 0, 3)) -> list[int]:
    return list(sizes)


@step
def months(size: int) -> list[int]:
    note(f"months {size}")
    return list(range(size))


@step
def bill(month: int, size: int, rate: int) -> int:
    note(f"bill {size}/{month}")
    return size * 100 + month + rate


@step
def total(bills: list[int], size: int) -> list[int]:
    note(f"total {size}")
    return [size, *bills]


@step
def join(totals: list[list[int]]) -> list[list[int]]:
    return totals


@flow
def per_customer(size: int, rate: int) -> StepNode[..., list[int]]:
    return months(size).map(bill(size=size, rate=rate)).agg(total(size=size))


@flow
def billing(rate: int = 1000) -> StepNode[..., list[list[int]]]:
    return load().map(per_customer(rate=rate)).agg(join)


@flow
def tolerant() -> StepNode[..., list[list[int]]]:
    return load().map(per_customer(rate=0), tolerate=1).agg(join)


@flow
def some_bills(size: int) -> StepNode[..., list[int]]:
    return months(size).map(bill(size=size, rate=0), tolerate=1).agg(total(size=size))


@flow
def forgiving() -> StepNode[..., list[list[int]]]:
    return load().map(some_bills, tolerate=1).agg(join)


@step
def pick(bills: list[int], other: list[int]) -> list[int]:
    return [*bills, *other]


@step
def sizes_of(bills: list[int]) -> list[int]:
    return bills[:2]


@flow
def closed_twice(size: int) -> StepNode[..., list[int]]:
    """A map block that is closed by two calls, of which one needs another map, too."""
    billed = months(size).map(bill(size=size, rate=0))
    first = billed.agg(total(size=size))
    second = first.next(sizes_of).map(bill(size=size, rate=1)).agg(total(size=7))
    return billed.agg(pick(second.result))


@flow
def twice() -> StepNode[..., list[list[int]]]:
    return load().map(closed_twice).agg(join)


TWICE = [[200, 201, 7, 203, 401], [7, 1], [300, 301, 302, 7, 304, 601]]


@pytest.fixture(autouse=True)
def _forget() -> None:
    CALLED.clear()
    FAILING.clear()


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_map_below_a_map_gives_what_loops_give(executor: Executor, tmp_path: Path) -> None:
    assert Local(tmp_path, executor).run(billing(5)) == [[2, 205, 206], [0], [3, 305, 306, 307]]


def test_the_results_of_an_inner_map_may_be_read_after_another_one(tmp_path: Path) -> None:
    assert Local(tmp_path).run(twice()) == interpret(lower(twice())) == TWICE
    assert emulate_here(twice()).result() == TWICE


def test_results_are_found_by_the_paths_of_items(tmp_path: Path) -> None:
    Local(tmp_path).run(billing(5))
    run = local("billing", tmp_path).latest()
    bills = run.step("per_customer_bill")
    assert (list(bills), bills.paths()) == ([205, 206, 305, 306, 307], [(0, 0), (0, 1), (2, 0), (2, 1), (2, 2)])
    assert (bills[2, 1], bills[3]) == (306, 306)
    with pytest.raises(IndexError, match="there is no item 1/0"):
        bills[1, 0]
    assert list(run.step("per_customer_months")) == [[0, 1], [], [0, 1, 2]]
    assert list(run.step("per_customer_total")) == [[2, 205, 206], [0], [3, 305, 306, 307]]
    assert run.steps == ["load", "per_customer_months", "per_customer_bill", "per_customer_total", "join"]


def test_events_name_an_item_of_a_map_below_a_map_by_its_path(tmp_path: Path) -> None:
    FAILING.add("bill 3/1")
    at = Local(tmp_path)
    with pytest.raises(RunError) as error:
        at.run(billing())
    assert str(error.value).startswith(
        "item 2/1 failed in the map over per_customer_months() (tolerated: none); per_customer_bill() raised "
        "ValueError: bill 3/1 fails at "
    )
    assert [(event.id, event.item) for event in at.of(ItemFailed)] == [("per_customer_months", (2, 1))]


def test_a_list_of_which_too_many_items_fail_fails_the_item_that_it_belongs_to(tmp_path: Path) -> None:
    FAILING.update(["bill 3/0", "bill 3/2", "bill 2/1"])
    at = Local(tmp_path)
    assert at.run(forgiving()) == [[2, 200], [0]]
    failed = {event.item: event.failure.message for event in at.of(ItemFailed)}
    assert failed == {
        (0, 1): "bill 2/1 fails",
        (2, 0): "bill 3/0 fails",
        (2, 2): "bill 3/2 fails",
    }
    # The items of the outer map are all counted in its last level.
    assert [(event.id, event.succeeded, event.failed) for event in at.of(MapFinished)] == [
        ("load.map.level_1", 3, 0),
        ("some_bills_months", 2, 3),
        ("load", 2, 1),
    ]
    failures = local("forgiving", tmp_path).latest().step("load.map").failures()
    assert failures[2].message == (
        "bill 3/0 fails (2 of 3 items, the first 2/0, in the map over some_bills_months(); tolerated: 1)"
    )


def test_an_item_that_fails_before_the_map_below_it_is_told_of_once(tmp_path: Path) -> None:
    FAILING.add("months 3")
    at = Local(tmp_path)
    assert at.run(tolerant()) == [[2, 200, 201], [0]]
    assert [(event.id, event.item) for event in at.of(ItemFailed)] == [("load.map.level_1", (2,))]
    assert local("tolerant", tmp_path).latest().step("load.map").failures()[2].message == "months 3 fails"


def resume(at: Local, graph: FlowGraph, **fields: Any) -> tuple[object, list[str]]:
    CALLED.clear()
    return at.run(graph, resume=Resume(**fields)), sorted(CALLED)


def test_a_run_that_failed_in_the_inner_map_goes_on_there(tmp_path: Path) -> None:
    FAILING.add("bill 3/1")
    at = Local(tmp_path, "inline")
    with pytest.raises(RunError):
        at.run(billing(0))
    FAILING.clear()
    result, called = resume(at, billing(0))
    assert result == [[2, 200, 201], [0], [3, 300, 301, 302]]
    assert called == ["bill 3/1", "bill 3/2", "total 0", "total 2", "total 3"]


def test_failed_inner_items_run_again_and_only_what_depends_on_them(tmp_path: Path) -> None:
    FAILING.update(["bill 3/0", "bill 3/2", "bill 2/1"])
    at = Local(tmp_path)
    at.run(forgiving())
    FAILING.clear()
    result, called = resume(at, forgiving(), retry_failed=True)
    assert result == [[2, 200, 201], [0], [3, 300, 301, 302]]
    # The list of the item 0 has one more member, the item 1 has nothing new.
    assert called == ["bill 2/1", "bill 3/0", "bill 3/2", "total 2", "total 3"]


def test_an_outer_item_that_runs_again_leaves_the_inner_items_of_others_alone(tmp_path: Path) -> None:
    FAILING.add("months 2")
    at = Local(tmp_path)
    assert at.run(tolerant()) == [[0], [3, 300, 301, 302]]
    FAILING.clear()
    result, called = resume(at, tolerant(), retry_failed=True)
    assert result == [[2, 200, 201], [0], [3, 300, 301, 302]]
    assert called == ["bill 2/0", "bill 2/1", "months 2", "total 2"]


@pytest.mark.parametrize(
    ("start", "again"),
    [
        ("per_customer_months", ["bill", "months", "total"]),
        ("per_customer_bill", ["bill", "total"]),
        ("per_customer_total", ["total"]),
    ],
)
def test_from_a_step_in_a_map_below_a_map_runs_again_what_follows(start: str, again: list[str], tmp_path: Path) -> None:
    at = Local(tmp_path)
    at.run(billing(5))
    result, called = resume(at, billing(5), from_step=start)
    assert result == [[2, 205, 206], [0], [3, 305, 306, 307]]
    assert sorted({name.split()[0] for name in called}) == again


def check(root: Path, body: Body, count: int, tolerate: int | None, executor: Executor) -> None:
    graph, expected = whole(body, count, tolerate)
    at = Local(root, executor, workers=3)
    if expected is None:
        with pytest.raises(RunError):
            at.run(graph(count))
    else:
        assert at.run(graph(count)) == expected


shapes = st.integers(0, 2).flatmap(bodies)
counts, tolerances = st.integers(0, 4), st.sampled_from([None, 1, 3])
executors = st.sampled_from(["inline", "threads"])
many = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
few = settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))


@given(shapes, counts, tolerances, executors)
@few
def test_random_nested_maps_give_what_loops_give(
    tmp_path: Path, body: Body, count: int, tolerate: int | None, executor: Executor
) -> None:
    check(tmp_path, body, count, tolerate, executor)


@pytest.mark.slow
@given(shapes, counts, tolerances, executors)
@many
def test_many_random_nested_maps_give_what_loops_give(
    tmp_path: Path, body: Body, count: int, tolerate: int | None, executor: Executor
) -> None:
    check(tmp_path, body, count, tolerate, executor)
