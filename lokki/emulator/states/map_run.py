"""A map run: the child executions of a distributed map, how many may fail, and where their results go.

https://docs.aws.amazon.com/step-functions/latest/dg/state-map-distributed.html
"""

from __future__ import annotations

import threading
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Literal, Protocol, cast

import msgspec

from lokki.base.quotas import CHILDREN_AT_ONCE
from lokki.base.values import Json
from lokki.emulator.states.definition import Map, Reader
from lokki.emulator.states.expressions import Scope
from lokki.emulator.states.failures import (
    ITEM_READER_FAILED,
    RESULT_WRITER_FAILED,
    RUNTIME,
    THRESHOLD,
    ExecutionTimeoutError,
    StatesError,
)
from lokki.emulator.states.history import Child
from lokki.emulator.states.items import Share, as_items, batches, read_items, single
from lokki.emulator.states.outcome import Outcome, in_range, timestamp
from lokki.emulator.states.results import KINDS, Kind, Result, files, manifest, transformed
from lokki.emulator.states.services import ACCOUNT, REGION, EmulationStoppedError, Services
from lokki.errors import StoreError


class ChildExecution(Protocol):
    """A child execution, as far as a map run knows it."""

    redrives: int

    @property
    def started(self) -> datetime:
        """When it began."""

    @property
    def stopped(self) -> datetime | None:
        """When it ended."""

    def run(self) -> Outcome:
        """Run it."""

    def redrive(self) -> Outcome:
        """Run it from where it failed."""

    def snapshot(self) -> dict[str, Json]:
        """Return what it needs to go on in another process."""

    def restore(self, snapshot: dict[str, Json]) -> None:
        """Be what a snapshot says."""


type StartChild = Callable[[Map, Json, str, Child], ChildExecution]


@dataclass(frozen=True, slots=True)
class MapWork:
    """What a map run works with in one try: its state, services, the scope of its fields, and how children start.

    ``left``: the seconds that the whole execution has left.
    """

    state: Map
    services: Services
    scope: Scope
    start: StartChild
    left: Callable[[], float]

    def fill(self, template: Json, name: str) -> Json:
        """Return the value of a field."""
        return self.services.expressions.fill(template, self.scope, f"{self.state.name}.{name}")

    def number(self, template: Json, name: str) -> float | None:
        """Return the value of a field that is a number, or missing. Raises StatesError for one out of its range."""
        return None if template is None else in_range(self.fill(template, name), name, self.state.name)

    def whole(self, template: Json, name: str) -> int | None:
        """Return the value of a field that is a whole number, or missing."""
        value = self.number(template, name)
        return None if value is None else int(value)


@dataclass(slots=True)
class _ChildRun:
    """One child execution of a map run, started or not; ``written``: its result is in a result file."""

    share: Share
    name: str
    execution: ChildExecution | None = None
    outcome: Outcome | None = None
    written: bool = False


class _KeptOutcome(msgspec.Struct):
    status: Literal["SUCCEEDED", "FAILED", "TIMED_OUT"]
    output: object
    error: str
    cause: str


class _KeptChild(msgspec.Struct):
    input: object
    index: int
    items: int
    written: bool
    outcome: _KeptOutcome | None
    execution: dict[str, object] | None


class _Kept(msgspec.Struct):
    """A snapshot of a map run, checked."""

    id: str
    children: list[_KeptChild]
    order: list[int]
    written: dict[Kind, list[tuple[str, int]]]


def map_run_id(machine: str, seed: str) -> str:
    """Derive an id, so that a run has the same keys when it is done again."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{machine}/{seed}"))


def read_shares(work: MapWork, states: Mapping[str, Json], variables: Mapping[str, Json]) -> list[Share]:
    """Read the items, override them by ItemSelector and put them into batches.

    https://docs.aws.amazon.com/step-functions/latest/dg/input-output-itemselector.html. Raises StatesError.
    """
    state = work.state
    items = _read(work)
    inputs: Iterable[Json] = items
    if state.selector is not None:
        inputs = _selected(work, state.selector[0], items, states, variables)
    if state.batcher is None:
        return list(single(inputs))
    batcher = state.batcher
    batch_input = None if batcher.batch_input is None else (work.fill(batcher.batch_input[0], "BatchInput"),)
    most = work.whole(batcher.max_items, "MaxItemsPerBatch")
    size = work.whole(batcher.max_bytes, "MaxInputBytesPerBatch")
    return list(batches(list(inputs), most, size, batch_input))


def _read(work: MapWork) -> list[Json]:
    source = work.state.source
    if not isinstance(source, Reader):
        items = as_items(work.fill(source[0], "Items"))
        if items is None:
            raise StatesError(RUNTIME, f"Items of '{work.state.name}' is neither an array nor an object.")
        return items
    bucket, key = work.fill(source.bucket, "ItemReader.Bucket"), work.fill(source.key, "ItemReader.Key")
    try:
        content = work.services.objects.read(str(bucket), str(key))
    except StoreError as error:
        raise StatesError(ITEM_READER_FAILED, str(error)) from None
    return read_items(content, source.input_type, work.whole(source.max_items, "MaxItems") or None)


def _selected(
    work: MapWork, selector: Json, items: list[Json], states: Mapping[str, Json], variables: Mapping[str, Json]
) -> Iterable[Json]:
    context = states["context"]
    assert isinstance(context, dict)
    for index, item in enumerate(items):
        here: Json = {**context, "Map": {"Item": {"Index": index, "Value": item}}}
        scope = Scope({**states, "context": here}, variables)
        yield work.services.expressions.fill(selector, scope, f"{work.state.name}.ItemSelector")


class MapRun:
    """The children of one map run; `run` may be called again for a redrive, after `renew`.

    https://docs.aws.amazon.com/step-functions/latest/dg/redrive-map-run.html
    """

    def __init__(self, work: MapWork, machine: str, identity: str, shares: list[Share]) -> None:
        self.id = identity
        self.arn = f"arn:aws:states:{REGION}:{ACCOUNT}:mapRun:{machine}/{work.state.label}:{self.id}"
        self._machine = f"{machine}/{work.state.label}"
        self._work = work
        space = uuid.UUID(identity)
        self._children = [_ChildRun(share, str(uuid.uuid5(space, str(share.index)))) for share in shares]
        self._items = sum(share.items for share in shares)
        self._lock = threading.Lock()
        self._ended: list[_ChildRun] = []
        self._failed_items = 0
        self._exceeded = False
        self._written: dict[Kind, list[tuple[str, int]]] = {}

    def renew(self, work: MapWork) -> None:
        """Go on with another try of the same map run: failed and pending children are to be run."""
        self._work = work
        # Those that succeeded before somebody stopped the emulation are in no result file yet.
        self._ended = [child for child in self._ended if _succeeded(child) and not child.written]
        self._failed_items, self._exceeded = 0, False

    def snapshot(self) -> dict[str, Json]:
        """Return what it needs to go on in another process."""
        children: list[Json] = [
            {
                "input": child.share.input,
                "index": child.share.index,
                "items": child.share.items,
                "written": child.written,
                "outcome": None if child.outcome is None else asdict(child.outcome),
                "execution": None if child.execution is None else child.execution.snapshot(),
            }
            for child in self._children
        ]
        order: list[Json] = [child.share.index for child in self._ended if not child.written]
        written: dict[str, Json] = {kind: [list(each) for each in found] for kind, found in self._written.items()}
        return {"id": self.id, "children": children, "order": order, "written": written}

    @classmethod
    def restored(cls, work: MapWork, machine: str, snapshot: dict[str, Json]) -> MapRun:
        """Make a map run as a snapshot says."""
        kept = msgspec.convert(snapshot, _Kept)
        made = cls(work, machine, kept.id, [Share(cast("Json", c.input), c.index, c.items) for c in kept.children])
        by_index = {}
        for child, known in zip(made._children, kept.children, strict=True):
            by_index[known.index] = child
            child.written = known.written
            if (ended := known.outcome) is not None:
                child.outcome = Outcome(ended.status, cast("Json", ended.output), ended.error, ended.cause)
            if known.execution is not None:
                part = Child(work.state.name, known.index, known.items)
                child.execution = work.start(work.state, child.share.input, child.name, part)
                child.execution.restore(cast("dict[str, Json]", known.execution))
        made._ended = [by_index[index] for index in kept.order]
        made._written = kept.written
        return made

    def described(self) -> dict[str, Json]:
        """Return what an event tells of the map run."""
        work, state = self._work, self._work.state
        return {
            "mapRunArn": self.arn,
            "items": self._items,
            "finished": sum(child.share.items for child in self._children if _succeeded(child)),
            "concurrency": self._concurrency(),
            "children": len(self._children),
            "maxConcurrency": work.whole(state.max_concurrency, "MaxConcurrency") or 0,
            "toleratedFailureCount": work.whole(state.tolerated_count, "ToleratedFailureCount") or 0,
            "toleratedFailurePercentage": work.number(state.tolerated_percentage, "ToleratedFailurePercentage") or 0,
        }

    def counts(self) -> dict[str, Json]:
        """Return how many items are done, failed and not started."""
        done = sum(child.share.items for child in self._children if _succeeded(child))
        pending = sum(child.share.items for child in self._children if child.outcome is None)
        return {"succeeded": done, "failed": self._items - done - pending, "pending": pending}

    def run(self) -> Json:
        """Run all children that have not succeeded; return the map's result.

        Raises StatesError, States.ExceedToleratedFailureThreshold when too many items failed; the results of the
        others are written all the same.
        """
        pending = deque(child for child in self._children if not _succeeded(child))
        threads = self._concurrency()
        if threads == 1:
            self._run_pending(pending)
        elif pending:
            self._run_threads(pending, min(threads, len(pending)))
        if self._work.services.stop.is_set():
            raise EmulationStoppedError  # between two children: what is left must not be taken for done
        if self._work.left() <= 0:
            # Children that ended with the execution are no failures that could be tolerated: it times out, and AWS
            # aborts the map run: https://docs.aws.amazon.com/step-functions/latest/dg/statemachine-structure.html
            raise ExecutionTimeoutError(f"The execution took longer than it may, in '{self._work.state.name}'.")
        result = self._write()
        if self._exceeded:
            raise StatesError(THRESHOLD, "The specified tolerated failure threshold was exceeded")
        return result

    def _concurrency(self) -> int:
        most = self._work.whole(self._work.state.max_concurrency, "MaxConcurrency") or CHILDREN_AT_ONCE
        return max(1, min(most, CHILDREN_AT_ONCE, self._work.services.settings.workers))

    def _run_threads(self, pending: deque[_ChildRun], threads: int) -> None:
        stop = self._work.services.stop
        with ThreadPoolExecutor(threads, thread_name_prefix="lokki-map") as pool:
            started = [pool.submit(self._run_pending, pending) for _ in range(threads)]
            try:
                for each in started:
                    each.result()
            except BaseException:
                stop.set()  # the other threads end at their next wait, and the pool waits for them
                raise

    def _run_pending(self, pending: deque[_ChildRun]) -> None:
        while True:
            with self._lock:
                if self._exceeded or not pending or self._work.services.stop.is_set() or self._work.left() <= 0:
                    return
                child = pending.popleft()
            self._run_child(child)
            with self._lock:
                self._ended.append(child)
                if not _succeeded(child):
                    self._failed_items += child.share.items
                    self._exceeded = self._exceeded or self._too_many()

    def _run_child(self, child: _ChildRun) -> None:
        """Run a child. A STANDARD one that failed goes on from its failed state, an EXPRESS one begins again."""
        state, share = self._work.state, child.share
        again = child.execution
        if again is not None and not state.express:
            child.outcome = again.redrive()
            return
        part = Child(state.name, share.index, share.items)
        child.execution = self._work.start(state, share.input, child.name, part)
        child.outcome = child.execution.run()

    def _too_many(self) -> bool:
        """Tell whether more items failed than count or percentage allow; with neither, none may fail."""
        state, failed = self._work.state, self._failed_items
        count = self._work.number(state.tolerated_count, "ToleratedFailureCount")
        share = self._work.number(state.tolerated_percentage, "ToleratedFailurePercentage")
        if count is None and share is None:
            return failed > 0
        return (count is not None and failed > count) or (share is not None and failed * 100 / self._items > share)

    def _write(self) -> Json:
        """Write result files and manifest, or return the results themselves."""
        writer = self._work.state.writer
        if writer.destination is None:
            return list(transformed((self._result(child) for child in self._children), writer.transformation))
        bucket, prefix = (
            str(self._work.fill(template, f"ResultWriter.{name}"))
            for template, name in zip(writer.destination, ("Bucket", "Prefix"), strict=True)
        )
        folder = f"{prefix.removesuffix('/')}/{self.id}" if prefix else self.id
        try:
            self._write_files(bucket, folder)
        except StoreError as error:
            raise StatesError(RESULT_WRITER_FAILED, str(error)) from None
        return {"MapRunArn": self.arn, "ResultWriterDetails": {"Bucket": bucket, "Key": f"{folder}/manifest.json"}}

    def _write_files(self, bucket: str, folder: str) -> None:
        """Write what ended in this try, in the order in which it ended; the manifest lists earlier successes too."""
        writer, objects = self._work.state.writer, self._work.services.objects
        pending = [child for child in self._children if child.outcome is None]
        ended = [child for child in self._ended if not child.written]
        results = [self._result(child) for child in (*ended, *pending)]
        listed: dict[Kind, list[tuple[str, int]]] = {"SUCCEEDED": list(self._written.get("SUCCEEDED", []))}
        numbers = Counter({kind: len(found) for kind, found in self._written.items()})
        for kind in KINDS:
            values = transformed((result for result in results if result.kind == kind), writer.transformation)
            limit = self._work.services.settings.file_bytes
            for content in files(values, writer.output_type, limit):
                key = f"{folder}/{kind}_{numbers[kind]}.json"
                numbers[kind] += 1
                objects.write(bucket, key, content)
                listed.setdefault(kind, []).append((key, len(content)))
                self._written.setdefault(kind, []).append((key, len(content)))
        objects.write(bucket, f"{folder}/manifest.json", manifest(bucket, self.arn, listed))
        for child in ended:
            child.written = _succeeded(child)

    def _result(self, child: _ChildRun) -> Result:
        """Return AWS's record of a child execution."""
        outcome, execution = child.outcome, child.execution
        arn = f"arn:aws:states:{REGION}:{ACCOUNT}:execution:{self._machine}:{child.name}"
        record: dict[str, Json] = {
            "ExecutionArn": arn,
            "Input": msgspec.json.encode(child.share.input).decode(),
            "InputDetails": {"Included": True},
            "Name": child.name,
            "StateMachineArn": f"arn:aws:states:{REGION}:{ACCOUNT}:stateMachine:{self._machine}",
        }
        if outcome is None or execution is None:
            return Result("PENDING", dict(sorted({**record, "Status": "PENDING"}.items())))
        record |= {
            "RedriveCount": execution.redrives,
            "Status": outcome.status,
            "StartDate": timestamp(execution.started),
        }
        if execution.stopped is not None:
            record["StopDate"] = timestamp(execution.stopped)
        if outcome.status == "SUCCEEDED":
            record |= {
                "Output": msgspec.json.encode(outcome.output).decode(),
                "OutputDetails": {"Included": True},
                "RedriveStatus": "NOT_REDRIVABLE",
                "RedriveStatusReason": "Execution is SUCCEEDED and cannot be redriven",
            }
        else:
            record |= {"Error": outcome.error, "Cause": outcome.cause, "RedriveStatus": "REDRIVABLE_BY_MAP_RUN"}
        return Result(outcome.status, dict(sorted(record.items())), outcome.output)


def _succeeded(child: _ChildRun) -> bool:
    return child.outcome is not None and child.outcome.status == "SUCCEEDED"
