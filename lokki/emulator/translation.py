"""The history of an emulated run, translated to lokki's own events.

So it is shown and reported as a local run is.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import msgspec

from lokki.base.failures import Failure
from lokki.base.item_path import ItemPath, item_from_json
from lokki.base.naming import ALONE_SUFFIX, LARGER_SUFFIX
from lokki.base.values import Json
from lokki.builder.states import Machine
from lokki.emulator.states.history import Child, HistoryEvent
from lokki.emulator.states.services import Caller
from lokki.engine.causes import item_at_fault, reported_failure
from lokki.engine.events import (
    Event,
    ItemFailed,
    ItemsFinished,
    MapFinished,
    MapStarted,
    StepFailed,
    StepFinished,
    StepNotChosen,
    StepOutput,
    StepRetried,
    StepStarted,
)
from lokki.store.map_results import BatchFailure


class _MapStart(msgspec.Struct):
    items: int
    finished: int
    concurrency: int


class _MapCounts(msgspec.Struct):
    succeeded: int
    failed: int


class _Retry(msgspec.Struct):
    attempt: int
    wait: float


class _FailedItem(msgspec.Struct):
    """An item of a batch that failed and was tolerated, in lokki's own reply."""

    index: int
    failed: BatchFailure
    path: ItemPath | None = None


class _Item(msgspec.Struct):
    index: int
    path: ItemPath = ()


class _OneOfBatch(msgspec.Struct):
    """The event of a function that is invoked on one item of a batch."""

    items: list[_Item]
    first: int
    size: int


class _Source(msgspec.Struct):
    """The reply of a map's source."""

    items: int


class EventTranslator:
    """Turns history events into lokki's events, on any thread.

    ``machine`` says what the states are.
    """

    def __init__(self, machine: Machine, emit: Callable[[Event], None]) -> None:
        self._machine = machine
        self._calls = machine.calls
        self._emit = emit
        self._lock = threading.Lock()
        self._maps = machine.maps
        self._entered: dict[str, float] = {}
        self._failed_inside: dict[str, int] = {}
        self._last: dict[str, tuple[str, Failure]] = {}
        # By child: which item of its batch failed it.
        self._at_fault: dict[str, int] = {}
        # By child: the paths of the items of a map below a map.
        self._paths: dict[str, dict[int, ItemPath]] = {}
        self._tries: dict[str, int] = {}
        self._current = ""
        # By state, since branches run side by side: its reply, what a source handed on, and how a state failed last.
        self._replies: dict[str, Json] = {}
        self._items: dict[str, int | None] = {}
        self._failed: dict[str, HistoryEvent] = {}

    def __call__(self, event: HistoryEvent) -> None:
        """Translate an event, and emit what it means."""
        with self._lock:  # not while emitting: a display may take its time, and children run on many threads
            events = self._child(event, event.child) if event.child is not None else self._main(event)
        for translation in events:
            self._emit(translation)

    def output(self, caller: Caller | None, text: str) -> StepOutput | StepRetried | None:
        """Return the event for what a function wrote.

        Returns None for what lokki and the runtime client write themselves, but for another try of an item in a batch,
        which is in no history.
        """
        if text.startswith("[ERROR]") or "LAMBDA_WARNING" in text:
            return None
        if (line := _own_log(text)) is not None:
            return _retry_in_batch(line)
        if caller is None:
            return StepOutput("", (), "stdout", text)
        item = () if caller.index is None or caller.items != 1 else (caller.index,)
        return StepOutput(self._calls.get(caller.state, ""), item, "stdout", text)

    def _main(self, event: HistoryEvent) -> list[Event]:
        state, details = event.state, event.details
        match event.type:
            case "TaskStateEntered" | "TaskStateExited" if state not in self._calls:
                pass  # the state that completes the parameters: no step of the flow
            case "TaskStateEntered":
                self._current, self._items[state] = state, None
                if state.endswith(LARGER_SUFFIX):  # the same call, which goes on
                    self._entered[state] = self._entered.get(state.removesuffix(LARGER_SUFFIX), event.seconds)
                    return []
                self._entered[state] = event.seconds
                return [StepStarted(self._calls[state])]
            case "MapStateEntered":
                self._current = state
                self._entered[state] = event.seconds
            case "TaskSucceeded":
                self._failed.pop(state, None)
                self._items[state] = _items_of_source(details["output"])
                self._replies[state] = details["output"]
            case "TaskStateExited" if (caught := self._failed.pop(state, None)) is not None:
                failure = self._failure(caught)
                return [StepRetried(self._calls[state], (), self._tries.pop(state, 0) + 1, 0.0, failure)]
            case "TaskStateExited":
                reply = self._replies.pop(state, details["output"])  # what it gives to the next state may be less
                size = len(msgspec.json.encode(reply))
                seconds = event.seconds - self._entered[state]
                step = self._calls[state]
                skipped = map(StepNotChosen, self._machine.not_chosen(step, reply))
                return [StepFinished(step, seconds, size, self._items[state]), *skipped]
            # No event for MapRunFailed: the items that failed were reported one by one, and the execution fails next.
            case "TaskFailed" | "TaskTimedOut" | "MapRunFailed":
                self._failed.pop(state, None)  # so that the last that failed is the last here
                self._failed[state] = event
            case "MapStateExited":
                self._failed.pop(state, None)
            case "ParallelStateFailed":  # what failed it did so in a branch, or nothing did
                self._current = state
            case "TaskRetried":
                return self._retried(event, None)
            case "MapRunStarted" | "MapRunRedriven":
                return [self._map_started(event)]
            case "MapRunSucceeded":
                return [self._map_finished(event)]
            case "ExecutionFailed":  # no step fails when the run itself is out of time
                return self._run_failed(event)
        return []

    def _run_failed(self, event: HistoryEvent) -> list[Event]:
        """Return the failure of the step that failed the run.

        Steps that run beside it may have failed, too: it is the last one with the run's own error.
        """
        same = (state for state, failed in reversed(self._failed.items()) if _same_error(failed, event))
        state = next(same, "") or self._current
        if state not in self._calls:
            return []
        last = self._failed.get(state)
        is_last = last is not None and last.details["error"] == event.details["error"]
        return [StepFailed(self._calls[state], _failure(self._calls[state], last if last and is_last else event))]

    def _child(self, event: HistoryEvent, child: Child) -> list[Event]:
        if "cause" in event.details:
            at_fault, cause = item_at_fault(str(event.details["cause"]), child.indexes)
            event = replace(event, details={**event.details, "cause": cause})
            if at_fault is not None:
                self._at_fault[event.execution] = at_fault
        match event.type:
            case "ExecutionStarted":
                if paths := _paths_of(event.details["input"]):
                    self._paths[event.execution] = paths
            case "TaskScheduled":
                self._at_fault.pop(event.execution, None)
                if event.state.endswith((ALONE_SUFFIX, LARGER_SUFFIX)):
                    self._note_alone(event)
            case "TaskFailed" | "TaskTimedOut":
                self._last[event.execution] = (event.state, self._failure(event))
            case "TaskRetried":
                return self._retried(event, child)
            case "TaskSucceeded":
                self._last.pop(event.execution, None)
            case "TaskStateExited" if (caught := self._last.pop(event.execution, None)) is not None:
                return [StepRetried(self._calls[event.state], self._path(event, child), 1, 0.0, caught[1])]
            case "ExecutionSucceeded":
                self._last.pop(event.execution, None)
                self._at_fault.pop(event.execution, None)
                self._paths.pop(event.execution, None)
                return self._finished(event, child)
            case "ExecutionFailed" | "ExecutionTimedOut":
                last = self._last.pop(event.execution, None)
                step_id = self._calls[last[0]] if last is not None else self._maps[child.map].inner[0]
                failure = self._failure_of(event, step_id, last)
                at_fault = self._at_fault.pop(event.execution, None)
                indexes = child.indexes if at_fault is None else [at_fault]
                paths, key = self._paths.pop(event.execution, {}), self._maps[child.map].key
                return [ItemFailed(key, paths.get(index, (index,)), failure) for index in indexes]
        return []

    def _note_alone(self, event: HistoryEvent) -> None:
        """Note the item of a batch that a function is invoked on alone.

        It may die of it.
        """
        with suppress(msgspec.ValidationError):  # an item that is in no batch, or several of one
            batch = msgspec.convert(event.details["parameters"], _OneOfBatch)
            if batch.size == 1 and batch.first < len(batch.items):
                self._at_fault[event.execution] = batch.items[batch.first].index

    def _finished(self, event: HistoryEvent, child: Child) -> list[Event]:
        """Return the events of a child's items.

        In a batch, some may have failed and been tolerated.
        """
        map_id = self._maps[child.map].key
        failed = _tolerated_items(event.details["output"])
        self._failed_inside[child.map] = self._failed_inside.get(child.map, 0) + len(failed)
        events: list[Event] = [ItemFailed(map_id, item.path or (item.index,), item.failed.failure) for item in failed]
        if child.items > len(failed):
            slowest = ((child.index,), event.seconds) if child.items == 1 else ((), 0.0)
            events.append(ItemsFinished(map_id, child.items - len(failed), event.seconds, *slowest))
        return events

    def _map_started(self, event: HistoryEvent) -> MapStarted:
        self._failed_inside[event.state] = 0
        block = self._maps[event.state]
        start = msgspec.convert(event.details, _MapStart)
        return MapStarted(block.key, block.inner, start.items, start.finished, start.concurrency)

    def _map_finished(self, event: HistoryEvent) -> MapFinished:
        inside = self._failed_inside[event.state]
        counts = msgspec.convert(event.details, _MapCounts)
        seconds = event.seconds - self._entered[event.state]
        return MapFinished(self._maps[event.state].key, counts.succeeded - inside, counts.failed + inside, seconds)

    def _path(self, event: HistoryEvent, child: Child) -> ItemPath:
        """Return the item that a try failed of.

        Of several items of a batch none, where the failure does not say which one it was: their function died.
        """
        at_fault = self._at_fault.get(event.execution, child.index if child.items == 1 else None)
        return () if at_fault is None else self._paths.get(event.execution, {}).get(at_fault, (at_fault,))

    def _retried(self, event: HistoryEvent, child: Child | None) -> list[Event]:
        if event.state not in self._calls:  # a map or a fork: its steps tell of themselves
            return []
        item = () if child is None else self._path(event, child)
        retry = msgspec.convert(event.details, _Retry)
        if child is None:
            self._tries[event.state] = retry.attempt
        return [StepRetried(self._calls[event.state], item, retry.attempt, retry.wait, self._failure(event))]

    def _failure_of(self, event: HistoryEvent, step_id: str, last: tuple[str, Failure] | None = None) -> Failure:
        """Return why an execution failed.

        That is its last task's failure if it has the same error.
        """
        last = last or self._last.get(event.execution)
        failure = _failure(step_id, event)
        return last[1] if last is not None and last[1].error == failure.error else failure

    def _failure(self, event: HistoryEvent) -> Failure:
        return _failure(self._calls.get(event.state, event.state), event)


def _same_error(failed: HistoryEvent, ended: HistoryEvent) -> bool:
    return all(failed.details.get(name, "") == ended.details.get(name, "") for name in ("error", "cause"))


def _items_of_source(output: Json) -> int | None:
    """Return how many items a source handed on, or None for other steps."""
    is_source = isinstance(output, dict) and "map_manifest_key" in output
    return msgspec.convert(output, _Source).items if is_source else None


def _paths_of(child_input: Json) -> dict[int, ItemPath]:
    """Return the paths of a child's items, where these have any."""
    fields = child_input if isinstance(child_input, dict) else {}
    items = [fields["item"]] if "item" in fields else fields.get("Items")
    first = items[0] if isinstance(items, list) and items else None
    # Looked at first: there are many children, and few flows with such maps.
    if not isinstance(first, dict) or "path" not in first:
        return {}
    return {item.index: item.path for item in msgspec.convert(items, list[_Item])}


def _tolerated_items(output: Json) -> list[_FailedItem]:
    """Return the items that failed in a batch that did not."""
    replies = output if isinstance(output, list) else []
    failed = [reply for reply in replies if isinstance(reply, dict) and "failed" in reply]
    return [msgspec.convert(reply, _FailedItem) for reply in failed]


def _failure(step: str, event: HistoryEvent) -> Failure:
    return reported_failure(step, str(event.details["error"]), str(event.details.get("cause", "")))


class _LogLine(msgspec.Struct):
    """What counts of a line that lokki's handler logs."""

    event: str
    flow: str
    step: str
    call: str = ""
    item: int | list[int] | None = None
    attempt: int = 0
    wait: float = 0.0
    error: str = ""


def _own_log(text: str) -> _LogLine | None:
    if not text.startswith('{"level":'):
        return None
    try:
        return msgspec.json.decode(text, type=_LogLine)
    except msgspec.MsgspecError:
        return None


def _retry_in_batch(line: _LogLine) -> StepRetried | None:
    if line.event != "retry":
        return None
    # No line has the message of an error: it may hold what nobody may read.
    failure = Failure(line.call, line.error, "")
    return StepRetried(line.call, item_from_json(line.item), line.attempt, line.wait, failure)
