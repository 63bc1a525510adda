"""What Step Functions says of a run, folded into lokki's events, so that it is shown as a local run is. Pure functions.

A run's machine is a line of states, so that an event that names no state is one of the state entered last.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Literal

import msgspec

from lokki.base.failures import Failure
from lokki.base.naming import LARGER_SUFFIX
from lokki.base.quotas import CHILDREN_AT_ONCE
from lokki.base.values import Json
from lokki.builder.states import Machine, MapState
from lokki.engine.causes import TIMEOUT, reported_failure
from lokki.engine.events import (
    Event,
    ItemFailed,
    ItemsFailed,
    ItemsFinished,
    MapFinished,
    MapStarted,
    RunFailed,
    RunFinished,
    RunInterrupted,
    RunStarted,
    StepFailed,
    StepFinished,
    StepRetried,
    StepSkipped,
    StepStarted,
)
from lokki.results.remote import child_failure
from lokki.store.map_results import child_items

if TYPE_CHECKING:
    from mypy_boto3_stepfunctions.type_defs import (
        DescribeExecutionOutputTypeDef,
        DescribeMapRunOutputTypeDef,
        HistoryEventTypeDef,
        TaskFailedEventDetailsTypeDef,
        TaskTimedOutEventDetailsTypeDef,
    )

CHILDREN = 20
"""How many failed children of a map are asked why they failed; of all others only the number is told."""

type Ended = Literal["", "finished", "failed", "interrupted"]


@dataclass(frozen=True, slots=True)
class WatchedMap:
    """What was emitted of a map's run.

    ``failed`` counts items of which the number was emitted, ``reported`` has children by ARN.
    """

    arn: str
    state: str
    entered: datetime
    items: int | None = None
    redriven_at: datetime | None = None
    started: bool = False
    outcome: Literal["", "succeeded", "failed"] = ""
    ended_at: datetime | None = None
    succeeded: int = 0
    failed: int = 0
    reported: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Watch:
    """What is known of a run from its history so far.

    - ``last``: the last event's id
    - ``map_run``: one to ask for

    ``most``: how many failed children of a map are asked why.
    """

    flow: str
    run_id: str
    params: Mapping[str, Json]
    machine: Machine
    last: int = 0
    outcome: Ended = ""
    current: str = ""
    running: bool = False
    began: datetime | None = None
    entered: datetime | None = None
    items: int | None = None
    tries: int = 0
    failed_at: datetime | None = None
    failure: Failure | None = None
    done: tuple[str, ...] = ()
    map_run: WatchedMap | None = None
    most: int = CHILDREN


def take_history(watch: Watch, events: list[HistoryEventTypeDef]) -> tuple[Watch, list[Event]]:
    """Fold new events of the history in.

    Stops before one that needs a map's numbers first.
    """
    emitted: list[Event] = []
    for event in events:
        if event["id"] <= watch.last:
            continue
        if watch.map_run is not None and event["type"] in ("MapStateExited", "ExecutionFailed", "ExecutionTimedOut"):
            # The numbers of the map come first; this event is read again.
            outcome: Literal["succeeded", "failed"] = "succeeded" if event["type"] == "MapStateExited" else "failed"
            run = watch.map_run
            ended_at = run.ended_at or event["timestamp"]
            return replace(watch, map_run=replace(run, outcome=run.outcome or outcome, ended_at=ended_at)), emitted
        watch, more = _taken(replace(watch, last=event["id"]), event)
        emitted += more
    return watch, emitted


def take_map_run(
    watch: Watch, numbers: DescribeMapRunOutputTypeDef, failed: list[DescribeExecutionOutputTypeDef]
) -> tuple[Watch, list[Event]]:
    """Fold in how far a map is, and its children that failed.

    Items are counted, not children; children that are known are passed over.

    https://docs.aws.amazon.com/step-functions/latest/apireference/API_MapRunItemCounts.html
    """
    run = watch.map_run
    if run is None or run.arn != numbers["mapRunArn"]:
        return watch, []
    state = watch.machine.maps[run.state]
    counts = numbers["itemCounts"]
    emitted: list[Event] = []
    if not run.started:
        items = counts["total"] if run.items is None else run.items
        run = replace(run, succeeded=counts["succeeded"] if run.redriven_at is not None else 0)
        workers = (numbers["maxConcurrency"] or CHILDREN_AT_ONCE) * max(state.batch, 1)
        emitted.append(MapStarted(state.key, state.inner, items, run.succeeded, workers))
        run = replace(run, started=True, items=items)
    if counts["succeeded"] > run.succeeded:
        emitted.append(ItemsFinished(state.key, counts["succeeded"] - run.succeeded, 0.0))
    new = [child for child in failed if child["executionArn"] not in run.reported]
    new.sort(key=lambda child: child.get("stopDate") or child["startDate"])  # they are listed latest first
    why = [event for child in new for event in item_failures(state, child)]
    reported = run.reported | {child["executionArn"] for child in new}
    told_failed = run.failed + len(why)
    now_failed = counts["failed"] + counts["timedOut"]
    emitted += why
    # Children that failed may be listed a moment later than they are counted: those are waited for.
    if now_failed > told_failed and (len(reported) >= watch.most or run.outcome):
        emitted.append(ItemsFailed(state.key, now_failed - told_failed))
        told_failed = now_failed
    run = replace(run, succeeded=max(run.succeeded, counts["succeeded"]), failed=told_failed, reported=reported)
    if not run.outcome:
        return replace(watch, map_run=run), emitted
    if run.outcome == "succeeded":
        seconds = ((run.ended_at or run.entered) - run.entered).total_seconds()
        emitted.append(MapFinished(state.key, run.succeeded, run.failed, seconds))
    return replace(watch, map_run=None, done=(*watch.done, *_done(run, state))), emitted


def item_failures(state: MapState, child: DescribeExecutionOutputTypeDef) -> list[ItemFailed]:
    """Tell why a map's child failed, once for each of its items."""
    failure = child_failure(state.inner, child.get("error", "States.TaskFailed"), child.get("cause", ""))
    return [ItemFailed(state.key, (index,), failure) for index in child_items(child.get("input", ""))]


def _taken(watch: Watch, event: HistoryEventTypeDef) -> tuple[Watch, list[Event]]:
    at = event["timestamp"]
    match event["type"]:
        case "ExecutionStarted":
            return replace(watch, began=at), [RunStarted(watch.flow, watch.run_id, dict(watch.params))]
        case "ExecutionRedriven":
            return _redriven(watch, at)
        case "TaskStateEntered" | "MapStateEntered":
            state = event["stateEnteredEventDetails"]["name"]
            if state.endswith(LARGER_SUFFIX):
                return replace(watch, current=state), []
            watch = replace(watch, current=state, entered=at, tries=0, failed_at=None, running=True)
            return watch, [StepStarted(watch.machine.calls[state])] if state in watch.machine.calls else []
        case "TaskScheduled":
            return _scheduled(watch, at)
        case "TaskFailed" | "TaskTimedOut":
            details: TaskFailedEventDetailsTypeDef | TaskTimedOutEventDetailsTypeDef = (
                event.get("taskFailedEventDetails") or event["taskTimedOutEventDetails"]
            )
            step = watch.machine.calls.get(watch.current, watch.current)
            failure = reported_failure(step, details.get("error", ""), details.get("cause", ""))
            return replace(watch, failed_at=at, failure=failure, tries=watch.tries + 1), []
        case "TaskStateExited":
            return _step_finished(watch, event)
        case _:
            return _taken_of_maps(watch, event)


def _taken_of_maps(watch: Watch, event: HistoryEventTypeDef) -> tuple[Watch, list[Event]]:
    at, run = event["timestamp"], watch.map_run
    match event["type"]:
        case "MapRunStarted" | "MapRunRedriven":
            details = event.get("mapRunStartedEventDetails") or event.get("mapRunRedrivenEventDetails") or {}
            redriven_at = at if event["type"] == "MapRunRedriven" else None
            arn, entered = details.get("mapRunArn", ""), watch.entered or at
            return replace(watch, map_run=WatchedMap(arn, watch.current, entered, watch.items, redriven_at)), []
        case "MapRunSucceeded" if run is not None:
            return replace(watch, map_run=replace(run, outcome="succeeded", ended_at=at)), []
        case "MapRunFailed" | "MapRunAborted" if run is not None:
            return replace(watch, map_run=replace(run, outcome="failed", ended_at=at)), []
        case _:
            return _ended(watch, event)


def _scheduled(watch: Watch, at: datetime) -> tuple[Watch, list[Event]]:
    """Emit a try of a task.

    The first, one after a failure, or one of a run that was redriven.
    """
    if watch.current not in watch.machine.calls:  # the state that completes the parameters: no step of the flow
        return replace(watch, running=True, failed_at=None), []
    step = watch.machine.calls[watch.current]
    if not watch.running:
        return replace(watch, running=True, entered=at), [StepStarted(step)]
    if watch.failed_at is None or watch.failure is None:
        return watch, []
    wait = round((at - watch.failed_at).total_seconds(), 1)
    retried = StepRetried(step, (), watch.tries, wait, watch.failure)
    return replace(watch, failed_at=None), [retried]


def _step_finished(watch: Watch, event: HistoryEventTypeDef) -> tuple[Watch, list[Event]]:
    left = event["stateExitedEventDetails"]
    if left["name"] not in watch.machine.calls:
        return replace(watch, running=False, failed_at=None, failure=None), []
    if watch.failed_at is not None and watch.failure is not None:
        # It goes on in the larger function: that is another try.
        step = watch.machine.calls[left["name"]]
        return replace(watch, failed_at=None), [StepRetried(step, (), watch.tries, 0.0, watch.failure)]
    text = left.get("output", "null")
    output = msgspec.json.decode(text)
    items: int | None = output["items"] if isinstance(output, dict) and "map_manifest_key" in output else None
    seconds = (event["timestamp"] - (watch.entered or event["timestamp"])).total_seconds()
    step = watch.machine.calls[left["name"]]
    watch = replace(watch, items=items, running=False, failed_at=None, failure=None, done=(*watch.done, step))
    return watch, [StepFinished(step, seconds, len(text.encode()), items)]


def _redriven(watch: Watch, at: datetime) -> tuple[Watch, list[Event]]:
    started = RunStarted(watch.flow, watch.run_id, dict(watch.params), resumed=True)
    skipped = [StepSkipped(op) for op in watch.done]
    watch = replace(watch, began=at, outcome="", running=False, failed_at=None, failure=None, tries=0)
    return watch, [started, *skipped]


def _ended(watch: Watch, event: HistoryEventTypeDef) -> tuple[Watch, list[Event]]:
    seconds = (event["timestamp"] - (watch.began or event["timestamp"])).total_seconds()
    match event["type"]:
        case "ExecutionSucceeded":
            return replace(watch, outcome="finished"), [RunFinished(seconds)]
        case "ExecutionAborted":
            return replace(watch, outcome="interrupted", map_run=None), [RunInterrupted(seconds)]
        case "ExecutionFailed" | "ExecutionTimedOut":
            details = event.get("executionFailedEventDetails") or event.get("executionTimedOutEventDetails") or {}
            step = watch.machine.calls.get(watch.current, "")
            failure = reported_failure(step, details.get("error", TIMEOUT), details.get("cause", ""))
            message = f"{failure.error}: {failure.message}" if failure.message else failure.error
            # No step fails when the run itself is out of time.
            emitted: list[Event] = [StepFailed(step, failure)] if step and event["type"] == "ExecutionFailed" else []
            return replace(watch, outcome="failed"), [*emitted, RunFailed(seconds, message)]
        case _:
            return watch, []


def _done(run: WatchedMap, state: MapState) -> list[str]:
    return [state.id] if run.outcome == "succeeded" else []
