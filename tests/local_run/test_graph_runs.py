"""Flows that are graphs on this machine: branches side by side, values of the run, switches, and resuming anywhere."""

import json
import os
import random
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.interpreter import Interpreter, interpret
from support.local_runs import EXECUTORS, Local, drop_outcomes
from test_graph_flows import Node, drawn, evaluated, graphs, orders

from lokki import Retry, RunError, flow, step
from lokki.base.options import FlowOptions
from lokki.chain import StepNode
from lokki.decorators import Flow
from lokki.engine.events import (
    Event,
    MapFinished,
    MapStarted,
    StepFinished,
    StepNotChosen,
    StepSkipped,
    StepStarted,
)
from lokki.engine.switching import choose_case
from lokki.errors import NoCaseError, RunFolderError
from lokki.graph import FlowGraph
from lokki.local_run.again import Rerun
from lokki.local_run.body import body_of
from lokki.local_run.execution import LocalExecution, Setup
from lokki.local_run.folder import RunFolder
from lokki.local_run.outcomes import StepOutcome
from lokki.local_run.run_values import RunValues
from lokki.local_run.runs import RunRecord, Runs
from lokki.local_run.schedule import dependencies, schedule, units_in
from lokki.plan import Plan, lower
from lokki.plan_json import plan_to_json
from lokki.plans.operations import Argument, Block, Call, Case, FanOut, Fork, Switch
from lokki.plans.templates import Item, Output, Results
from lokki.runner import Executor, Resume

CALLED: list[str] = []
FAILING: set[str] = set()


def note(name: str) -> None:
    CALLED.append(name)
    if name in FAILING:
        raise ValueError(f"{name} fails")


@step
def load(count: int = 3) -> list[int]:
    note("load")
    return list(range(count))


@step
def train(rows: list[int]) -> dict[str, int]:
    note("train")
    return {"weight": sum(rows)}


@step
def slow_stats(rows: list[int]) -> int:
    note("slow_stats")
    return len(rows)


@step
def score(row: int, model: dict[str, int]) -> int:
    # A step may spoil what it gets: no other item sees that.
    model["weight"] += row
    return model["weight"]


@step
def rank(scores: list[int], model: dict[str, int]) -> list[int]:
    note("rank")
    return [*sorted(scores, reverse=True), model["weight"]]


@step
def report(parts: list[object], named: dict[str, object]) -> object:
    note("report")
    return [parts, named]


@flow
def scores_flow(count: int = 3) -> StepNode[..., Any]:
    raw = load(count)
    model = raw.next(train)
    stats = raw.next(slow_stats)
    ranked = raw.map(score(model=model.result)).agg(rank(model=model.result))
    return report([ranked.result, stats.result], {"model": model.result})


@pytest.fixture(autouse=True)
def _forget() -> None:
    CALLED.clear()
    FAILING.clear()


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_graph_gives_what_its_functions_give(executor: Executor, tmp_path: Path) -> None:
    expected = [[[5, 4, 3, 3], 3], {"model": {"weight": 3}}]
    assert Local(tmp_path, executor).run(scores_flow()) == expected == interpret(lower(scores_flow()))


@step
def meet(name: str, number: int) -> str:
    BARRIER.wait(timeout=20)
    return name * number


BARRIER = threading.Barrier(2)


@flow
def meeting_flow() -> StepNode[..., Any]:
    return report([meet("a", 1).result, meet("b", 2).result], {})


def test_branches_run_at_the_same_time(tmp_path: Path) -> None:
    assert Local(tmp_path).run(meeting_flow()) == [["a", "bb"], {}]


AT_ONCE: list[int] = []
_lock = threading.Lock()
_now = 0


@step
def busy(number: int) -> int:
    global _now
    with _lock:
        _now += 1
        AT_ONCE.append(_now)
    time.sleep(0.01)
    with _lock:
        _now -= 1
    return number


@flow
def busy_flow() -> StepNode[..., Any]:
    maps = [load(4).map(busy).agg(train) for _ in range(2)]
    calls = [busy(number) for number in range(4)]
    return report([chain.result for chain in (*maps, *calls)], {})


def test_no_more_steps_run_at_once_than_there_are_workers(tmp_path: Path) -> None:
    AT_ONCE.clear()
    Local(tmp_path, workers=3).run(busy_flow())
    assert (len(AT_ONCE), max(AT_ONCE)) == (12, 3)


@step(env={"COLOR": "red"})
def red() -> str | None:
    time.sleep(0.02)
    return os.environ.get("COLOR")


@step(env={"COLOR": "blue"})
def blue() -> str | None:
    time.sleep(0.02)
    return os.environ.get("COLOR")


@step
def colorless() -> str | None:
    return os.environ.get("COLOR")


@flow
def colors_flow() -> StepNode[..., Any]:
    return report([chain.result for chain in (red(), blue(), colorless(), red(), blue())], {})


def test_steps_side_by_side_have_the_environment_that_they_want(tmp_path: Path) -> None:
    assert Local(tmp_path, workers=5).run(colors_flow()) == [["red", "blue", None, "red", "blue"], {}]
    assert "COLOR" not in os.environ


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("failing", ["train", "slow_stats", "rank"])
def test_a_branch_that_fails_fails_the_run_and_what_is_finished_is_kept(
    executor: Executor, failing: str, tmp_path: Path
) -> None:
    local = Local(tmp_path, executor)
    FAILING.add(failing)
    with pytest.raises(RunError, match=f"{failing} fails"):
        local.run(scores_flow(), run_id="run")
    first = list(CALLED)
    CALLED.clear()
    FAILING.clear()
    result = local.run(scores_flow(), resume=Resume("run"))
    assert result == interpret(lower(scores_flow()))
    del CALLED[-len(lower(scores_flow()).steps) :]  # the interpreter's own
    kept = {event.id for event in local.events if isinstance(event, StepSkipped)} & {"load", "train", "slow_stats"}
    assert kept == set(first) - {failing} - {"rank", "report"}


@pytest.mark.parametrize(
    ("from_step", "again"),
    [
        ("slow_stats", ["slow_stats", "report"]),
        ("train", ["train", "rank", "report"]),
        ("rank", ["rank", "report"]),
        ("score", ["rank", "report"]),
        ("load", ["load", "train", "slow_stats", "rank", "report"]),
    ],
)
def test_from_a_step_runs_again_what_depends_on_it_and_nothing_else(
    from_step: str, again: list[str], tmp_path: Path
) -> None:
    local = Local(tmp_path)
    result = local.run(scores_flow(), run_id="run")
    CALLED.clear()
    assert local.run(scores_flow(), resume=Resume("run", from_step=from_step)) == result
    assert sorted(CALLED) == sorted(again)


@pytest.mark.parametrize("step_id", ["load", "train"])
def test_what_is_gone_is_made_again_with_all_that_depends_on_it(step_id: str, tmp_path: Path) -> None:
    local = Local(tmp_path, "processes")  # whose workers start only where a map is left to run
    result = local.run(scores_flow(), run_id="run")
    drop_outcomes(tmp_path / "runs" / "run", step_id)
    CALLED.clear()
    assert local.run(scores_flow(), resume=Resume("run")) == result
    again = {"load", "train", "slow_stats", "rank", "report"} if step_id == "load" else {"train", "rank", "report"}
    assert sorted(CALLED) == sorted(again)


@given(graphs())
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_graphs_give_what_direct_calls_give(tmp_path: Path, nodes: list[Node]) -> None:
    for executor in ("threads", "inline"):
        root = tmp_path / f"{time.monotonic_ns()}"
        assert Local(root, executor).run(drawn(nodes)) == evaluated(nodes)  # type: ignore[arg-type]


@pytest.mark.slow
@given(graphs())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_many_random_graphs_give_what_direct_calls_give(tmp_path: Path, nodes: list[Node]) -> None:
    for executor in ("threads", "inline"):
        root = tmp_path / f"{time.monotonic_ns()}"
        assert Local(root, executor).run(drawn(nodes)) == evaluated(nodes)  # type: ignore[arg-type]


def end_and_resume(local: Local, graph: FlowGraph, params: dict[str, object], moment: int, expected: object) -> bool:
    """End a run at some event, and assert that it goes on there; tell whether there was that event."""

    def interrupt(event: Event) -> None:
        if len(local.events) == moment:
            raise KeyboardInterrupt

    local.also = interrupt
    try:
        result, interrupted = local.run(graph, params, run_id="run"), False
    except KeyboardInterrupt:
        # A map and its source have one id.
        steps, maps = ({event.id for event in local.of(kind)} for kind in (StepFinished, MapFinished))
        local.also = lambda event: None
        result, interrupted = local.run(graph, params, resume=Resume("run")), True
        assert steps.isdisjoint(event.id for event in local.of(StepStarted))
        assert maps.isdisjoint(event.id for event in local.of(MapStarted))
    assert result == expected
    return interrupted


@given(graphs(), st.sampled_from(["threads", "inline"]), st.integers(1, 30))
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_random_graph_that_ends_at_any_event_goes_on_there(
    tmp_path: Path, nodes: list[Node], executor: Executor, moment: int
) -> None:
    local = Local(tmp_path / f"{time.monotonic_ns()}", executor)
    end_and_resume(local, drawn(nodes), {}, moment, evaluated(nodes))


@pytest.mark.slow
@given(graphs(), st.sampled_from(["threads", "inline"]), st.integers(1, 60))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_many_random_graphs_that_end_at_any_event_go_on_there(
    tmp_path: Path, nodes: list[Node], executor: Executor, moment: int
) -> None:
    local = Local(tmp_path / f"{time.monotonic_ns()}", executor)
    end_and_resume(local, drawn(nodes), {}, moment, evaluated(nodes))


@given(graphs())
def test_what_depends_on_an_unfinished_unit_is_not_kept(nodes: list[Node]) -> None:
    plan = lower(drawn(nodes))
    chance = random.Random(len(nodes))
    there = {unit.id for unit in units_in(plan.ops) if chance.random() < 0.7}
    remaining = schedule(plan.ops, lambda unit: unit.id in there)
    waits = dependencies(plan.ops)
    assert remaining.kept <= there
    assert all(waits[unit_id] <= remaining.kept for unit_id in remaining.kept)
    others = {unit.id for unit in (*remaining.stale, *remaining.partial)}
    assert remaining.kept | others == {unit.id for unit in units_in(plan.ops)}
    assert all(unit_id not in there or not waits[unit_id] <= remaining.kept for unit_id in others)


# Switches that are drawn: with branches, maps and switches in their cases.


@step
def count_up(count: int) -> list[int]:
    return list(range(count))


@step
def size(number: int) -> Literal["small", "large"]:
    return "small" if number < 4 else "large"


@step
def is_even(number: int) -> bool:
    return number % 2 == 0


@step
def plus(number: int, by: list[int]) -> int:
    by.append(1)
    return number + sum(by)


@step
def times(number: int, by: int = 10) -> int:
    return number * by


@step
def pair(first: int, second: int) -> int:
    return first * 1000 + second


@flow
def again_chosen(number: int, by: list[int]) -> StepNode[..., int]:
    return times(number).switch(is_even, {True: plus(by=by), False: times(by=3)})


@flow
def in_branches(number: int, by: list[int]) -> StepNode[..., int]:
    return pair(times(number, 2).result, plus(number, by).result)


@flow
def in_map(number: int) -> StepNode[..., int]:
    return count_up(number).map(times).agg(total)


@flow
def chosen_for_items(count: int = 9) -> StepNode[..., Any]:
    rows, by = count_up(count), count_up(3)
    block = rows.map(times(by=1)).switch(size, {"small": again_chosen(by=by.result), "large": plus(by=by.result)})
    return block.next(times(by=2)).agg(total)


@flow
def chosen_once(count: int = 9) -> StepNode[..., Any]:
    by = count_up(3)
    chosen = count_up(count).next(total).switch(size, {"small": in_branches(by=by.result), "large": in_map})
    return chosen.next(times(by=2))


CHOOSING = [
    ("threads", chosen_for_items, 0),
    *[(executor, chosen_for_items, 9) for executor in EXECUTORS],
    ("threads", chosen_once, 3),
    ("inline", chosen_once, 9),
]


@pytest.mark.parametrize(("executor", "choosing", "count"), CHOOSING)
def test_what_is_drawn_with_switches_gives_what_its_functions_give(
    executor: Executor, choosing: Flow[..., Any], count: int, tmp_path: Path
) -> None:
    local = Local(tmp_path, executor)
    params: dict[str, object] = {"count": count}
    expected = interpret(lower(choosing()), params)
    assert local.run(choosing(), params, run_id="run") == expected
    for from_step in (None, "times", "size"):
        assert local.run(choosing(), params, resume=Resume("run", from_step=from_step)) == expected
        assert any(local.of(StepStarted) + local.of(MapStarted)) is (from_step is not None)


@pytest.mark.slow
@pytest.mark.parametrize(("executor", "choosing", "count"), CHOOSING)
def test_what_is_drawn_with_switches_goes_on_wherever_it_ended(
    executor: Executor, choosing: Flow[..., Any], count: int, tmp_path: Path
) -> None:
    params: dict[str, object] = {"count": count}
    expected = interpret(lower(choosing()), params)
    moment = 1
    while end_and_resume(Local(tmp_path / str(moment), executor), choosing(), params, moment, expected):
        moment += 5 if executor == "processes" else 1


# Switches by hand: shapes that no flow draws, and exact outcomes.


@step
def grade(value: int, limit: int = 2) -> object:
    note(f"grade {value}")
    return {0: "low", 1: True}.get(value, value)


@step
def double(value: int) -> int:
    note("double")
    return value * 2


@step
def negate(value: int) -> int:
    note("negate")
    return -value


@step
def total(values: list[int]) -> int:
    note("total")
    return sum(values)


STEPS: Mapping[str, StepNode[..., Any]] = {
    each.name: each for each in (load, grade, double, negate, total, train, score, report)
}


def cases(prefix: str, reads: Any) -> tuple[Case, ...]:
    return (
        Case("low", (Call(f"{prefix}double", "double", (), reads),), f"{prefix}double"),
        Case(
            None,
            (
                Call(f"{prefix}negate", "negate", (), reads),
                Call(f"{prefix}double_2", "double", (), Output(f"{prefix}negate")),
            ),
            f"{prefix}double_2",
        ),
    )


def mapped(*, with_model: bool) -> Plan:
    body: Block = (
        Call("grade", "grade", (), Item(), cases=("low", None)),
        Switch("grade.switch", "grade", cases("", Item("load.map"))),
        Call("negate_2", "negate", (), Output("grade.switch")),
    )
    if with_model:
        argument = Argument("model", Output("train"), "model")
        body = (*body, Call("score", "score", (argument,), Output("negate_2")))
    ops: Block = (
        Call("load", "load", (), None, fans_out=True, keeps_value=True),
        Call("train", "train", (), Output("load")),
        FanOut("load.map", "load", body),
        Call("total", "total", (), Results("load.map")),
    )
    return Plan("mapped", (), ops, FlowOptions(), STEPS)


def execute(
    plan: Plan, root: Path, executor: Executor = "threads", rerun: Rerun | None = None
) -> tuple[object, list[Any]]:
    events: list[Any] = []
    runs = Runs(root)
    if rerun is None:
        runs.new(RunRecord("run", plan.flow, {}, plan_to_json(plan), dict.fromkeys(STEPS, ""), "running", "2026-01-01"))
    setup = Setup(runs, executor, 2, events.append, 64)
    record = runs.load("run")
    with runs.locked("run"):
        execution = LocalExecution(setup, plan, record, dict.fromkeys(STEPS, ""))
        return execution.execute(rerun), events


@pytest.mark.parametrize("with_model", [False, True])
@pytest.mark.parametrize("executor", ["threads", "inline"])
def test_each_item_of_a_map_takes_the_case_that_was_chosen_for_it(
    executor: Executor, with_model: bool, tmp_path: Path
) -> None:
    plan = mapped(with_model=with_model)
    assert not body_of(next(plan.fan_outs)).is_line
    result, _ = execute(plan, tmp_path, executor)
    assert result == Interpreter(plan, {}).run(plan.ops, {})[Output("total")] == (15 if with_model else 6)


def chosen_plan(value: int) -> Plan:
    on = Call("grade", "grade", (), Output("pick"), cases=("low", None))
    ops: Block = (
        Call("pick", "double", (Argument("value", value, "value"),), None),
        on,
        Switch("grade.switch", "grade", cases("", Output("pick"))),
        Fork(
            "negate_3.fork",
            (
                (Call("negate_3", "negate", (), Output("grade.switch")),),
                (Call("negate_4", "negate", (), Output("grade.switch")),),
            ),
        ),
    )
    return Plan("chosen", (), ops, FlowOptions(), STEPS, (Output("grade.switch"), Output("negate_4")))


@pytest.mark.parametrize(("value", "result", "skipped"), [(0, 0, ["negate", "double_2"]), (2, -8, ["double"])])
def test_a_switch_runs_one_case_and_says_what_is_skipped(
    value: int, result: int, skipped: list[str], tmp_path: Path
) -> None:
    plan = chosen_plan(value)
    assert execute(plan, tmp_path)[0] == (result, -result)
    resumed, events = execute(plan, tmp_path, rerun=Rerun())
    assert resumed == (result, -result)
    assert [event.id for event in events if isinstance(event, StepNotChosen)] == skipped
    assert not any(isinstance(event, StepStarted) for event in events)


def test_whether_a_resumed_run_has_maps_to_run_is_known_after_each_outcome_was_read_once(tmp_path: Path) -> None:
    read: list[str] = []

    class Counting(RunFolder):
        def outcome(self, step_id: str) -> StepOutcome | None:
            read.append(step_id)
            return super().outcome(step_id)

    local = Local(tmp_path)
    FAILING.add("rank")
    with pytest.raises(RunError, match="rank fails"):
        local.run(scores_flow(), run_id="run")
    plan, runs = lower(scores_flow()), Runs(tmp_path)
    folder = Counting(runs.folder, runs.store, runs.load("run").seal)
    assert not RunValues(plan, folder).maps_remain()
    assert sorted(read) == ["load", "rank", "slow_stats", "train"]


def test_a_resumed_run_keeps_to_what_was_chosen(tmp_path: Path) -> None:
    plan = chosen_plan(0)
    FAILING.add("negate")
    with pytest.raises(RunError, match="negate fails"):
        execute(plan, tmp_path)
    FAILING.clear()
    FAILING.add("grade 0")  # it would fail, were it asked again
    assert execute(plan, tmp_path, rerun=Rerun())[0] == (0, 0)


def test_a_run_whose_switch_is_finished_has_no_failed_items_to_run_again(tmp_path: Path) -> None:
    plan = chosen_plan(0)
    execute(plan, tmp_path)
    with pytest.raises(RunFolderError, match="no item of the run 'run' failed"):
        execute(plan, tmp_path, rerun=Rerun(failed_items=True))


def test_a_case_that_the_switch_does_not_have_is_chosen_anew(tmp_path: Path) -> None:
    plan = chosen_plan(0)
    execute(plan, tmp_path)
    folder = Runs(tmp_path).folder_of(Runs(tmp_path).load("run"))
    outcome = folder.outcome("grade")
    assert outcome is not None
    assert outcome["case"] == "low"
    folder.write_outcome("grade", json.dumps(outcome | {"case": "high and dry"}).encode())
    result, events = execute(plan, tmp_path, rerun=Rerun())
    assert result == (0, 0)
    assert next(event.id for event in events if isinstance(event, StepStarted)) == "grade"


@flow
def waiting_flow(number: int = 3) -> StepNode[..., Any]:
    chosen = double(number).switch(size, {"small": negate, "large": plus(by=[])})
    return chosen.after(load(0))


def test_the_step_that_chooses_waits_for_what_its_switch_waits_for(tmp_path: Path) -> None:
    plan = lower(waiting_flow())
    assert ("load", "size") in orders(plan.ops)
    local = Local(tmp_path)
    assert local.run(waiting_flow(), run_id="run") == interpret(plan) == 7
    assert [event.id for event in local.of(StepFinished)][-2:] == ["size", "plus"]


def reordered(*values: str) -> Flow[..., Any]:
    by_value: dict[str, Any] = {"small": negate, "large": double}

    @flow
    def reordered_flow(number: int = 2) -> StepNode[..., Any]:
        return plus(number, []).switch(size, {value: by_value[value] for value in values})

    return reordered_flow


def test_a_resumed_run_keeps_to_the_case_by_its_value_when_the_cases_have_moved(tmp_path: Path) -> None:
    local = Local(tmp_path)
    assert local.run(reordered("small", "large")(), run_id="run") == -3
    assert local.run(reordered("large", "small")(), resume=Resume("run", force=True)) == -3
    assert local.of(StepStarted) == []


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_case_that_is_chosen_again_may_be_another(executor: Executor, tmp_path: Path) -> None:
    local = Local(tmp_path, executor)
    chosen_by_file = tmp_path / "chosen"
    chosen_by_file.write_text("many")
    assert local.run(mapped_or_not(), {"path": str(chosen_by_file)}, run_id="run") == 30
    chosen_by_file.write_text("one")
    assert local.run(mapped_or_not(), resume=Resume("run", from_step="read_text")) == 1
    chosen_by_file.write_text("many")
    assert local.run(mapped_or_not(), resume=Resume("run", from_step="read_text")) == 30
    assert local.run(mapped_or_not(), resume=Resume("run")) == 30


@step
def read_text(path: str) -> str:
    return Path(path).read_text()


@step
def kind_of(text: str) -> Literal["many", "one"]:
    return "many" if text == "many" else "one"


@step
def length(text: str) -> int:
    return len(text)


@flow
def many(text: str) -> StepNode[..., int]:
    return length(text).next(count_up).map(times).agg(add_up)


@step
def add_up(numbers: list[int]) -> int:
    return sum(numbers) // 2


@flow
def mapped_or_not(path: str = "") -> StepNode[..., Any]:
    return read_text(path).switch(kind_of, {"many": many, "one": text_as_one})


@step
def text_as_one(text: str) -> int:
    return 1


def test_from_a_step_that_was_skipped_is_refused_with_what_chooses(tmp_path: Path) -> None:
    local = Local(tmp_path)
    local.run(waiting_flow(), run_id="run")
    with pytest.raises(RunFolderError) as error:
        local.run(waiting_flow(), resume=Resume("run", from_step="negate"))
    assert str(error.value) == (
        "negate was skipped in run: its switch chose another case. Run the step again that chooses: --from size."
    )
    assert local.run(waiting_flow(), resume=Resume("run", from_step="size")) == 7


@step
def kinds_of(pair: tuple[int, str], several: set[int], rest: list[object]) -> str:
    return f"{pair!r} {several!r} {rest!r}"


@step
def word() -> str:
    return "word"


@flow
def containing_flow() -> StepNode[..., Any]:
    number = plus(1, [])
    return kinds_of((number.result, word().result), several=[number.result, 2], rest=(number.result, 1))


@pytest.mark.parametrize("executor", EXECUTORS)
def test_results_in_a_container_arrive_in_the_one_that_the_annotation_names(executor: Executor, tmp_path: Path) -> None:
    assert Local(tmp_path, executor).run(containing_flow()) == "(2, 'word') {2} [2, 1]"


def test_a_value_without_a_case_is_a_failure_of_the_step(tmp_path: Path) -> None:
    plan = Plan(
        "none",
        (),
        (
            Call("grade", "grade", (Argument("value", 7, "value"),), None, cases=("low", 1)),
            Switch("grade.switch", "grade", (Case("low", (Call("load", "load", (), None),), "load"),)),
        ),
        FlowOptions(),
        STEPS,
    )
    with pytest.raises(
        RunError, match=r"NoCaseError: grade\(\) returned 7, for which its switch has no case \('low', 1\)"
    ):
        execute(plan, tmp_path)


def test_true_is_no_one_and_one_is_no_text() -> None:
    assert [choose_case((1, True, "1", None), value, "f") for value in (1, True, "1", 2.5, None, "x")] == [
        0,
        1,
        2,
        3,
        3,
        3,
    ]
    with pytest.raises(NoCaseError):
        choose_case((1,), True, "f")


@step
def numbers() -> Any:
    return (number for number in range(3))


@flow
def twice_flow() -> StepNode[..., Any]:
    source = numbers()
    return report([source.map(double).agg(total).result, source.result], {})


def test_a_generator_that_is_mapped_over_and_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="can be gone through once, but the flow maps over it and reads it as a value"):
        Local(tmp_path).run(twice_flow())


TRIES: list[int] = []


@step(retry=Retry(attempts=3, delay=0.01))
def spoils(rows: list[int], more: list[int]) -> list[int]:
    TRIES.append(1)
    rows.append(9)
    more.append(9)
    if len(TRIES) < 3:
        raise OSError("not yet")
    return rows + more


@flow
def spoiled_flow() -> StepNode[..., Any]:
    rows = load()
    return rows.next(spoils(more=rows.result))


def test_each_try_gets_its_values_anew(tmp_path: Path) -> None:
    TRIES.clear()
    assert Local(tmp_path).run(spoiled_flow()) == [0, 1, 2, 9, 0, 1, 2, 9]


@step(timeout=0.2)
def late() -> None:
    time.sleep(20)


@flow
def late_flow() -> StepNode[..., Any]:
    return report([late().result, load().result], {})


def test_a_branch_that_is_late_fails_at_its_timeout(tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(RunError, match=r"took longer than its timeout of 0\.2 seconds"):
        Local(tmp_path).run(late_flow())
    assert time.monotonic() - began < 10


@flow(timeout=0.5)
def short_flow() -> StepNode[..., Any]:
    return report([slumber().result, load().result], {})


@step
def slumber() -> None:
    time.sleep(20)


def test_a_run_with_branches_ends_when_its_time_is_up(tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(RunError, match=r"longer than the flow's timeout of 0\.5 seconds"):
        Local(tmp_path).run(short_flow())
    assert time.monotonic() - began < 12


def test_a_run_of_a_graph_says_what_it_returns_when_its_record_is_read(tmp_path: Path) -> None:
    Local(tmp_path).run(scores_flow(), run_id="run")
    record = json.loads((tmp_path / "runs" / "run" / "run.json").read_text())
    assert (record["status"], record["plan"]["format"]) == ("finished", 2)
