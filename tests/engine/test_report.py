"""The report is a fold over events: total, and its counts are those of the events."""

from __future__ import annotations

from functools import reduce

from hypothesis import given
from hypothesis import strategies as st

from lokki.base.failures import Failure
from lokki.engine.events import (
    CodeChanged,
    Event,
    ItemFailed,
    ItemsFinished,
    MapFinished,
    MapStarted,
    RunFailed,
    RunFinished,
    RunInterrupted,
    RunStarted,
    StepFailed,
    StepFinished,
    StepOutput,
    StepRetried,
    StepSkipped,
    StepStarted,
)
from lokki.observing.report import OpReport, RunReport, fold, map_op

FAILURE = Failure("work", "ValueError", "unlucky", "flow.py:3")
OTHER = Failure("work", "KeyError", "later")


def folded(*events: Event) -> RunReport:
    return reduce(fold, events, RunReport())


names = st.sampled_from(["a", "b", "c"])
counts = st.integers(0, 9)
paths = st.lists(counts, max_size=3).map(tuple)
events: st.SearchStrategy[Event] = st.one_of(
    st.builds(RunStarted, names, names, st.just({}), st.booleans(), names),
    st.builds(CodeChanged, names),
    st.builds(StepStarted, names),
    st.builds(StepSkipped, st.sampled_from(["a", "a.map"])),
    st.builds(StepFinished, names, st.just(1.0), counts, st.none() | counts),
    st.builds(StepRetried, names, paths, counts, st.just(0.5), st.just(FAILURE)),
    st.builds(StepFailed, names, st.just(FAILURE)),
    st.builds(MapStarted, names, st.tuples(names, names), counts, counts, counts),
    st.builds(ItemsFinished, names, counts, st.just(1.0)),
    st.builds(ItemFailed, names, paths, st.just(FAILURE)),
    st.builds(MapFinished, names, counts, counts, st.just(1.0)),
    st.builds(StepOutput, names, paths, names, names),
    st.builds(RunFinished, st.just(1.0)),
    st.builds(RunFailed, st.just(1.0), names),
    st.builds(RunInterrupted, st.just(1.0)),
)


@given(st.lists(events))
def test_any_sequence_of_events_makes_a_report(sequence: list[Event]) -> None:
    report = folded(*sequence)
    assert all(op_id == op.id for op_id, op in report.ops.items())


@given(st.lists(events), events)
def test_folding_leaves_the_report_before_as_it_was(sequence: list[Event], event: Event) -> None:
    report, same = folded(*sequence), folded(*sequence)
    fold(report, event)
    assert report == same


@given(
    st.integers(0, 5),
    st.lists(
        st.one_of(
            st.builds(ItemsFinished, st.just("a"), counts, st.just(1.0)),
            st.builds(ItemFailed, st.just("a"), paths, st.just(FAILURE)),
            st.builds(StepRetried, st.just("work"), paths, counts, st.just(0.5), st.just(FAILURE)),
            st.builds(StepOutput, names, paths, names, names),
        )
    ),
)
def test_the_counts_of_a_map_block_are_those_of_its_events(before: int, during: list[Event]) -> None:
    op = map_op(folded(MapStarted("a", ("work",), 100, before, 4), *during), "a")
    assert op == OpReport(
        "a.map",
        ("work",),
        items=100,
        restored=before,
        finished=before + sum(event.count for event in during if isinstance(event, ItemsFinished)),
        failed=sum(isinstance(event, ItemFailed) for event in during),
        retried=sum(isinstance(event, StepRetried) for event in during),
        workers=4,
        failure=next((event.failure for event in during if isinstance(event, ItemFailed)), None),
        failed_item=next((event.item for event in during if isinstance(event, ItemFailed)), ()),
    )


def test_a_whole_run_is_reported() -> None:
    report = folded(
        RunStarted("birds-flow", "monday", {}, False, ".lokki/runs/monday"),
        StepStarted("get_birds"),
        StepFinished("get_birds", 0.5, 20, 3),
        MapStarted("get_birds", ("flap_bird", "weigh"), 3, 0, 2),
        StepRetried("weigh", (1,), 1, 0.1, OTHER),
        ItemFailed("get_birds", (1,), FAILURE),
        ItemsFinished("get_birds", 2, 0.2),
        MapFinished("get_birds", 2, 1, 0.7),
        StepSkipped("join_birds"),
        RunFinished(1.5),
    )
    ops = (
        OpReport("get_birds", ("get_birds",), "finished", items=3, seconds=0.5),
        OpReport(
            "get_birds.map",
            ("flap_bird", "weigh"),
            "finished",
            items=3,
            finished=2,
            failed=1,
            retried=1,
            workers=2,
            seconds=0.7,
            failure=FAILURE,
            failed_item=(1,),
        ),
        OpReport("join_birds", ("join_birds",), "restored"),
    )
    assert report == RunReport(
        "birds-flow",
        "monday",
        ".lokki/runs/monday",
        False,
        "finished",
        seconds=1.5,
        ops={op.id: op for op in ops},
    )


def test_the_first_item_that_failed_is_why_a_map_failed() -> None:
    report = folded(
        RunStarted("f", "r", {}),
        MapStarted("a", ("work",), 9),
        ItemFailed("a", (4,), FAILURE),
        ItemFailed("a", (5,), OTHER),
        RunFailed(2.0, "too many"),
    )
    assert (report.status, report.message, report.failure) == ("failed", "too many", FAILURE)
    op = report.ops["a.map"]
    assert (op.status, op.failure, op.failed_item) == ("failed", FAILURE, (4,))


def test_failures_that_were_tolerated_are_not_why_a_later_step_failed() -> None:
    report = folded(
        MapStarted("a", ("work",), 9), ItemFailed("a", (4,), FAILURE), MapFinished("a", 8, 1, 1.0), StepStarted("b")
    )
    assert report.failure is None
    assert fold(report, StepFailed("b", OTHER)).failure == OTHER


def test_what_was_running_when_the_run_was_interrupted_is_interrupted() -> None:
    report = folded(StepStarted("a"), StepFinished("a", 1.0, 1), StepStarted("b"), RunInterrupted(2.0))
    assert {op.id: op.status for op in report.ops.values()} == {"a": "finished", "b": "interrupted"}


def test_a_resumed_run_begins_a_report_of_its_own() -> None:
    report = folded(StepStarted("a"), RunFailed(1.0, "no"), RunStarted("f", "r", {}, True, "x"))
    assert report == RunReport("f", "r", "x", True, earlier={"a": OpReport("a", ("a",), "failed")})
    restored = fold(report, StepSkipped("a"))
    assert restored.ops == {"a": OpReport("a", ("a",), "restored")}


def test_of_steps_side_by_side_the_one_that_failed_is_told_from_those_that_were_stopped() -> None:
    failure = Failure("train", "OSError", "no")
    report = RunReport()
    for event in (
        RunStarted("f", "r", {}), StepStarted("train"), StepStarted("score"), StepFailed("train", failure),
        MapStarted("rows", ("a",), 9), ItemsFinished("rows", 2, 0.1), RunFailed(1.0, "no"),
    ):  # fmt: skip
        report = fold(report, event)
    assert {op.id: op.status for op in report.ops.values()} == {
        "train": "failed", "score": "interrupted", "rows.map": "interrupted",
    }  # fmt: skip
