"""Watching a run until it ends: asks Step Functions again and again, and tells lokki's events."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime

from lokki.builder.states import machine_of
from lokki.engine.events import Event, ItemFailed
from lokki.errors import RunFolderError, StoreError
from lokki.operate.executions import DeployedRuns
from lokki.operate.watching import Watch, WatchedMap, take_history, take_map_run
from lokki.plan_json import plan_from_definition

FIRST, LONGEST, GROWTH = 1.0, 5.0, 1.25
"""Seconds between two looks at a run. One look is a call of GetExecutionHistory, and one of DescribeMapRun in a map,
of which an account has a quota per second and region. https://docs.aws.amazon.com/step-functions/latest/dg/service-quotas.html"""


_MOST_READ = 100_000
"""Items of a map up to which its results are read for those that failed in batches: some 300 bytes each."""

_PATIENCE = 10
"""How many seconds a run that was started may not be there yet."""


def begin(runs: DeployedRuns, run_id: str) -> Watch:
    """Begin to watch a run. Raises RunFolderError for one that there is not."""
    info = runs.describe(run_id)
    return Watch(runs.deployed.flow, run_id, info.params, machine_of(plan_from_definition(runs.definition(run_id))))


def begin_new(runs: DeployedRuns, run_id: str, sleep: Callable[[float], None]) -> Watch:
    """Begin to watch a run that was started just now.

    Step Functions may not yet tell of it.

    https://docs.aws.amazon.com/step-functions/latest/apireference/API_DescribeExecution.html (eventually consistent)
    """
    for _ in range(_PATIENCE):
        try:
            return begin(runs, run_id)
        except RunFolderError:
            sleep(FIRST)
    return begin(runs, run_id)


def look(runs: DeployedRuns, watch: Watch) -> tuple[Watch, list[Event]]:
    """Look at a run once, and return what is new."""
    emitted: list[Event] = []
    events = runs.history(watch.run_id, watch.last)
    asked: set[str] = set()  # maps in progress are asked once a look, those that end once more
    while True:
        watch, more = take_history(watch, events)
        emitted += more
        any_ended = False
        for arn, run in watch.maps.items():
            if run.outcome or arn not in asked:
                asked.add(arn)
                watch, more = _look_at_map(runs, watch, run)
                emitted += more
                any_ended = any_ended or arn not in watch.maps
        if not any_ended:
            return watch, emitted


def look_back(runs: DeployedRuns, watch: Watch) -> tuple[Watch, list[tuple[datetime, Event]]]:
    """Look at a run once, and return what is new, each with when it was.

    What is known of maps is told when they ended; of those in progress, with the last that happened.
    """
    emitted: list[tuple[datetime, Event]] = []
    at = datetime.min
    for event in runs.history(watch.run_id, watch.last):
        at = event["timestamp"]
        watch, events = take_history(watch, [event])
        if watch.last < event["id"]:  # it waits for the numbers of maps that end by it
            for run in [run for run in watch.maps.values() if run.outcome]:
                watch, more = _look_at_map(runs, watch, run)
                events += more
            watch, more = take_history(watch, [event])
            events += more
        emitted += [(at, new) for new in events]
    for run in [*watch.maps.values()]:
        watch, events = _look_at_map(runs, watch, run)
        emitted += [(at, new) for new in events]
    return watch, emitted


def follow(
    runs: DeployedRuns, watch: Watch, emit: Callable[[Event], None], sleep: Callable[[float], None]
) -> Iterator[Watch]:
    """Emit what happens in a run until it has ended.

    Yields what is known after each look.
    """
    pause = FIRST
    while True:
        watch, events = look(runs, watch)
        for event in events:
            emit(event)
        yield watch
        if watch.outcome:
            return
        sleep(pause)
        pause = min(pause * GROWTH, LONGEST)


def _look_at_map(runs: DeployedRuns, watch: Watch, run: WatchedMap) -> tuple[Watch, list[Event]]:
    numbers = runs.map_run(run.arn)
    counts = numbers["itemCounts"]
    limit = watch.most - len(run.reported)
    is_new = counts["failed"] + counts["timedOut"] > run.failed
    failed = runs.failed_children(run.arn, limit, run.reported, run.redriven_at) if is_new and limit > 0 else []
    return take_map_run(watch, numbers, failed, _failed_inside(runs, watch, run, counts["total"]))


def _failed_inside(runs: DeployedRuns, watch: Watch, run: WatchedMap, items: int) -> list[ItemFailed]:
    """Return the items of an ended map that failed inside batches."""
    state = watch.machine.maps[run.state]
    if run.outcome != "succeeded" or not state.tolerates or items > _MOST_READ:
        return []
    # They are told of where they can be read: a run is not followed less for a bucket that its user may not read.
    with suppress(StoreError):
        return runs.failed_inside(watch.run_id, state, run.arn, items)
    return []
