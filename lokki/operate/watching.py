"""What Step Functions says of a run, folded into lokki's events, so that it is shown as a local run is. Pure functions.

Branches mix their events. Most name no state; each names the event before it in its branch, and so its state:
https://docs.aws.amazon.com/step-functions/latest/apireference/API_HistoryEvent.html
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Literal

import msgspec

from lokki.base.failures import Failure
from lokki.base.naming import LARGER_SUFFIX
from lokki.base.quotas import CHILDREN_AT_ONCE
from lokki.base.values import Json
from lokki.builder.states import Machine, MapState
from lokki.engine.causes import TIMEOUT, child_failure, item_at_fault, reported_failure
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
    StepNotChosen,
    StepRetried,
    StepSkipped,
    StepStarted,
)
from lokki.operate.machine import function_reply
from lokki.store.map_results import child_items, child_paths

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
class StateVisit:
    """What is known of a state that was entered.

    ``failed_at``: when its last try failed, until there is another one; ``cause`` is the error of it as AWS says it.
    ``reply``: what its function gave; what the state hands on may be less.
    """

    entered: datetime
    running: bool = False
    tries: int = 0
    failed_at: datetime | None = None
    failure: Failure | None = None
    cause: tuple[str, str] = ("", "")
    reply: dict[str, Json] | None = None


@dataclass(frozen=True, slots=True)
class Watch:
    """What is known of a run from its history so far.

    - ``last``: the last event's id
    - ``current``: the state that was entered last
    - ``states``: the state of the last event of each branch, by the event's id
    - ``visits``: by the id of a call, or the name of a state that is none
    - ``items``: how many a call gave, by its id
    - ``done``, ``not_chosen``: the ids of what ended, and of calls that do not run
    - ``maps``: those to ask for, by ARN

    ``most``: how many failed children of a map are asked why.
    """

    flow: str
    run_id: str
    params: Mapping[str, Json]
    machine: Machine
    last: int = 0
    outcome: Ended = ""
    current: str = ""
    began: datetime | None = None
    states: Mapping[int, str] = field(default_factory=dict)
    visits: Mapping[str, StateVisit] = field(default_factory=dict)
    items: Mapping[str, int] = field(default_factory=dict)
    done: tuple[str, ...] = ()
    not_chosen: tuple[str, ...] = ()
    maps: Mapping[str, WatchedMap] = field(default_factory=dict)
    most: int = CHILDREN

    def key(self, state: str) -> str:
        """Return the key of a state in `visits`.

        A larger function's state has that of its call's first one.
        """
        return self.machine.calls.get(state, state)

    def state_of(self, event: HistoryEventTypeDef) -> str:
        """Return the state that an event is of.

        It is empty for the failure of a fork: what failed did so in a branch, or nothing that is a step did.
        """
        details = event.get("stateEnteredEventDetails") or event.get("stateExitedEventDetails")
        if details is not None:
            return details["name"]
        if event["type"] == "ParallelStateFailed":
            return ""
        return self.states.get(event.get("previousEventId", event["id"] - 1), self.current)

    def at(self, event: HistoryEventTypeDef) -> Watch:
        """Return what is known after an event, but for what it says."""
        previous, state = event.get("previousEventId", event["id"] - 1), self.state_of(event)
        # All branches of a fork begin after one event, which stays; of others only the last of a branch is needed. A
        # task that failed goes on there in a redrive, although its fork has ended with it.
        forks, stays = self.machine.forks, event["type"] == "ParallelStateFailed"
        states = {number: name for number, name in self.states.items() if number != previous or stays or name in forks}
        return replace(self, last=event["id"], states={**states, event["id"]: state})

    def visiting(self, state: str, visit: StateVisit) -> Watch:
        """Return what is known after a state has changed."""
        return replace(self, visits={**self.visits, self.key(state): visit})


def take_history(watch: Watch, events: list[HistoryEventTypeDef]) -> tuple[Watch, list[Event]]:
    """Fold new events of the history in.

    Stops before one that needs a map's numbers first.
    """
    emitted: list[Event] = []
    for event in events:
        if event["id"] <= watch.last:
            continue
        if waits := _awaited_maps(watch, event):
            # The numbers of these maps come first; this event is read again.
            return replace(watch, maps={**watch.maps, **waits}), emitted
        state = watch.state_of(event)
        watch, more = _taken(watch.at(event), event, state)
        emitted += more
    return watch, emitted


def _awaited_maps(watch: Watch, event: HistoryEventTypeDef) -> dict[str, WatchedMap]:
    """Return the maps whose numbers come before an event, as they end by it."""
    ends_all = event["type"] in ("ExecutionFailed", "ExecutionTimedOut")
    if not ends_all and event["type"] != "MapStateExited":
        return {}
    outcome: Literal["succeeded", "failed"] = "failed" if ends_all else "succeeded"
    at, state = event["timestamp"], watch.state_of(event)
    return {
        arn: replace(run, outcome=run.outcome or outcome, ended_at=run.ended_at or at)
        for arn, run in watch.maps.items()
        if ends_all or run.state == state
    }


def take_map_run(
    watch: Watch,
    numbers: DescribeMapRunOutputTypeDef,
    failed: list[DescribeExecutionOutputTypeDef],
    inside: Sequence[ItemFailed] = (),
) -> tuple[Watch, list[Event]]:
    """Fold in how far a map is, and its children that failed.

    Items are counted, not children; children that are known are passed over. ``inside``: the items that failed in
    batches which went on, at the end of a map; AWS counts them as succeeded.

    https://docs.aws.amazon.com/step-functions/latest/apireference/API_MapRunItemCounts.html
    """
    run = watch.maps.get(numbers["mapRunArn"])
    if run is None:
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
    # AWS counts all items of a batch that failed.
    told_failed = run.failed + sum(len(child_items(child.get("input", ""))) for child in new)
    now_failed = counts["failed"] + counts["timedOut"]
    emitted += why
    # Children that failed may be listed a moment later than they are counted: those are waited for.
    if now_failed > told_failed and (len(reported) >= watch.most or run.outcome):
        emitted.append(ItemsFailed(state.key, now_failed - told_failed))
        told_failed = now_failed
    run = replace(run, succeeded=max(run.succeeded, counts["succeeded"]), failed=told_failed, reported=reported)
    if not run.outcome:
        return replace(watch, maps={**watch.maps, run.arn: run}), emitted
    if run.outcome == "succeeded":
        seconds = ((run.ended_at or run.entered) - run.entered).total_seconds()
        emitted += inside[: watch.most]
        if len(inside) > watch.most:
            emitted.append(ItemsFailed(state.key, len(inside) - watch.most))
        emitted.append(MapFinished(state.key, run.succeeded - len(inside), run.failed + len(inside), seconds))
    others = {arn: other for arn, other in watch.maps.items() if arn != run.arn}
    return replace(watch, maps=others, done=(*watch.done, *_done(run, state))), emitted


def item_failures(state: MapState, child: DescribeExecutionOutputTypeDef) -> list[ItemFailed]:
    """Tell why a map's child failed, for the item at fault.

    Where that is not known, once for each of its items.
    """
    items = child_items(child.get("input", ""))
    at_fault, cause = item_at_fault(child.get("cause", ""), items)
    failure = child_failure(state.inner, child.get("error", "States.TaskFailed"), cause)
    paths = child_paths(child.get("input", ""))
    failed = items if at_fault is None else [at_fault]
    return [ItemFailed(state.key, paths.get(index, (index,)), failure) for index in failed]


def _taken(watch: Watch, event: HistoryEventTypeDef, state: str) -> tuple[Watch, list[Event]]:
    at = event["timestamp"]
    match event["type"]:
        case "ExecutionStarted":
            return replace(watch, began=at), [RunStarted(watch.flow, watch.run_id, dict(watch.params))]
        case "ExecutionRedriven":
            return _redriven(watch, at)
        case "TaskStateEntered" | "MapStateEntered":
            watch = replace(watch, current=state)
            if state.endswith(LARGER_SUFFIX):
                return watch, []  # it goes on with what its call has tried
            step = watch.machine.calls.get(state)
            return watch.visiting(state, StateVisit(at, running=True)), [StepStarted(step)] if step is not None else []
        case "TaskScheduled":
            return _scheduled(watch, at, state)
        case "TaskFailed" | "TaskTimedOut":
            details: TaskFailedEventDetailsTypeDef | TaskTimedOutEventDetailsTypeDef = (
                event.get("taskFailedEventDetails") or event["taskTimedOutEventDetails"]
            )
            cause = details.get("error", ""), details.get("cause", "")
            visit = watch.visits.get(watch.key(state), StateVisit(at))
            failure = reported_failure(watch.key(state), *cause)
            visit = replace(visit, failed_at=at, failure=failure, cause=cause, tries=visit.tries + 1)
            return watch.visiting(state, visit), []
        case "TaskSucceeded":
            visit = watch.visits.get(watch.key(state), StateVisit(at))
            return watch.visiting(state, replace(visit, reply=function_reply(event))), []
        case "TaskStateExited":
            return _step_finished(watch, event, state)
        case _:
            return _taken_of_maps(watch, event, state)


def _taken_of_maps(watch: Watch, event: HistoryEventTypeDef, state: str) -> tuple[Watch, list[Event]]:
    at = event["timestamp"]
    match event["type"]:
        case "MapRunStarted" | "MapRunRedriven":
            details = event.get("mapRunStartedEventDetails") or event.get("mapRunRedrivenEventDetails") or {}
            redriven_at = at if event["type"] == "MapRunRedriven" else None
            arn, visit, block = details.get("mapRunArn", ""), watch.visits.get(state), watch.machine.maps.get(state)
            items = None if block is None else watch.items.get(block.source)
            run = WatchedMap(arn, state, at if visit is None else visit.entered, items, redriven_at)
            return replace(watch, maps={**watch.maps, arn: run}), []
        case "MapRunSucceeded":
            return _map_ended(watch, state, "succeeded", at), []
        case "MapRunFailed" | "MapRunAborted":
            return _map_ended(watch, state, "failed", at), []
        case _:
            return _ended(watch, event, state)


def _map_ended(watch: Watch, state: str, outcome: Literal["succeeded", "failed"], at: datetime) -> Watch:
    maps = {
        arn: replace(run, outcome=outcome, ended_at=at) if run.state == state else run
        for arn, run in watch.maps.items()
    }
    return replace(watch, maps=maps)


def _scheduled(watch: Watch, at: datetime, state: str) -> tuple[Watch, list[Event]]:
    """Emit a try of a task.

    The first, one after a failure, or one of a run that was redriven.
    """
    step, visit = watch.machine.calls.get(state), watch.visits.get(watch.key(state), StateVisit(at))
    if step is None:  # the state that completes the parameters: no step of the flow
        return watch.visiting(state, replace(visit, running=True, failed_at=None)), []
    if not visit.running:
        return watch.visiting(state, replace(visit, running=True, entered=at)), [StepStarted(step)]
    if visit.failed_at is None or visit.failure is None:
        return watch, []
    wait = round((at - visit.failed_at).total_seconds(), 1)
    retried = StepRetried(step, (), visit.tries, wait, visit.failure)
    return watch.visiting(state, replace(visit, failed_at=None)), [retried]


def _step_finished(watch: Watch, event: HistoryEventTypeDef, state: str) -> tuple[Watch, list[Event]]:
    left, at = event["stateExitedEventDetails"], event["timestamp"]
    visit = watch.visits.get(watch.key(state), StateVisit(at))
    left_state = watch.visiting(state, replace(visit, running=False, failed_at=None, failure=None, reply=None))
    step = watch.machine.calls.get(state)
    if step is None:
        return left_state, []
    if visit.failed_at is not None and visit.failure is not None:
        # It goes on in the larger function: that is another try.
        watch = watch.visiting(state, replace(visit, failed_at=None))
        return watch, [StepRetried(step, (), visit.tries, 0.0, visit.failure)]
    output: Json = visit.reply or msgspec.json.decode(left.get("output", "null"))
    fans_out = isinstance(output, dict) and "map_manifest_key" in output
    items = msgspec.convert(output["items"], int) if isinstance(output, dict) and fans_out else None
    counted = watch.items if items is None else {**watch.items, step: items}
    skipped = watch.machine.not_chosen(step, output)
    watch = replace(left_state, items=counted, done=(*watch.done, step), not_chosen=(*watch.not_chosen, *skipped))
    finished = StepFinished(step, (at - visit.entered).total_seconds(), len(msgspec.json.encode(output)), items)
    return watch, [finished, *map(StepNotChosen, skipped)]


def _redriven(watch: Watch, at: datetime) -> tuple[Watch, list[Event]]:
    started = RunStarted(watch.flow, watch.run_id, dict(watch.params), resumed=True)
    skipped: list[Event] = [*map(StepSkipped, watch.done), *map(StepNotChosen, watch.not_chosen)]
    # Whatever had not ended begins again, whether its state is entered once more or not.
    visits = {name: StateVisit(visit.entered) for name, visit in watch.visits.items()}
    return replace(watch, began=at, outcome="", visits=visits), [started, *skipped]


def _ended(watch: Watch, event: HistoryEventTypeDef, state: str) -> tuple[Watch, list[Event]]:
    seconds = (event["timestamp"] - (watch.began or event["timestamp"])).total_seconds()
    match event["type"]:
        case "ExecutionSucceeded":
            return replace(watch, outcome="finished"), [RunFinished(seconds)]
        case "ExecutionAborted":
            return replace(watch, outcome="interrupted", maps={}), [RunInterrupted(seconds)]
        case "ExecutionFailed" | "ExecutionTimedOut":
            details = event.get("executionFailedEventDetails") or event.get("executionTimedOutEventDetails") or {}
            cause = details.get("error", TIMEOUT), details.get("cause", "")
            step = _failed_step(watch, cause, state)
            failure = reported_failure(step, *cause)
            message = f"{failure.error}: {failure.message}" if failure.message else failure.error
            # No step fails when the run itself is out of time.
            emitted: list[Event] = [StepFailed(step, failure)] if step and event["type"] == "ExecutionFailed" else []
            return replace(watch, outcome="failed"), [*emitted, RunFailed(seconds, message)]
        case _:
            return watch, []


def _failed_step(watch: Watch, cause: tuple[str, str], state: str) -> str:
    """Return the step whose error is that of the run.

    It is empty where it is none's. Of branches one fails, and others may have failed before: it is the last one.
    """
    steps = set(watch.machine.calls.values())
    failed = {
        name: visit.failed_at
        for name, visit in watch.visits.items()
        if name in steps and visit.failed_at is not None and visit.cause == cause
    }
    return max(failed, key=lambda name: failed[name]) if failed else watch.machine.calls.get(state, "")


def _done(run: WatchedMap, state: MapState) -> list[str]:
    return [state.id] if run.outcome == "succeeded" else []
