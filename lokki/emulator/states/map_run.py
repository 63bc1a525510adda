"""A map run: the child executions of a distributed map, how many may fail, and where their results go.

https://docs.aws.amazon.com/step-functions/latest/dg/state-map-distributed.html
"""

from __future__ import annotations

import threading
import uuid
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Literal

import msgspec

from lokki.base.quotas import CHILDREN_AT_ONCE
from lokki.base.values import Json
from lokki.emulator.states.failures import RESULT_WRITER_FAILED, THRESHOLD, ExecutionTimeoutError, StatesError
from lokki.emulator.states.items import Share
from lokki.emulator.states.map_settings import MapSettings
from lokki.emulator.states.outcome import Outcome, timestamp
from lokki.emulator.states.results import KINDS, Kind, Result, files, manifest, transformed
from lokki.emulator.states.services import ACCOUNT, REGION, EmulationStoppedError
from lokki.emulator.states.state import ChildExecution, Visit
from lokki.errors import StoreError

type StartChild = Callable[[Share, str], ChildExecution]
"""Makes the child execution for a share of the items, with a name."""


@dataclass(frozen=True, slots=True)
class MapTry:
    """What a map run works with in one try of its state."""

    settings: MapSettings
    visit: Visit
    start: StartChild


@dataclass(slots=True)
class _ChildRun:
    """One child execution of a map run, started or not.

    ``written``: its result is in a result file.
    """

    share: Share
    name: str
    execution: ChildExecution | None = None
    outcome: Outcome | None = None
    written: bool = False


class _SavedOutcome(msgspec.Struct):
    status: Literal["SUCCEEDED", "FAILED", "TIMED_OUT", "ABORTED"]
    output: msgspec.Raw
    error: str
    cause: str


class _SavedChild(msgspec.Struct):
    input: msgspec.Raw
    index: int
    items: int
    written: bool
    outcome: _SavedOutcome | None
    execution: msgspec.Raw


class _SavedMapRun(msgspec.Struct):
    """What `MapRun.snapshot` returns."""

    id: str
    children: list[_SavedChild]
    order: list[int]
    written: dict[Kind, list[tuple[str, int]]]


def map_run_id(machine: str, seed: str) -> str:
    """Derive an id, so that a run that is done again has the same keys."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{machine}/{seed}"))


class MapRun:
    """The children of one map run.

    `run` may be called again for a redrive, after `renew`.
    https://docs.aws.amazon.com/step-functions/latest/dg/redrive-map-run.html
    """

    def __init__(self, attempt: MapTry, machine: str, identity: str, shares: list[Share]) -> None:
        self.id = identity
        self._machine = f"{machine}/{attempt.settings.label}"
        self.arn = f"arn:aws:states:{REGION}:{ACCOUNT}:mapRun:{self._machine}:{self.id}"
        self._try = attempt
        space = uuid.UUID(identity)  # children of a run that is done again have the same names
        self._children = [_ChildRun(share, str(uuid.uuid5(space, str(share.index)))) for share in shares]
        self._items = sum(share.items for share in shares)
        self._lock = threading.Lock()
        self._ended: list[_ChildRun] = []
        self._failed_items = 0
        self._exceeded = False
        self._written: dict[Kind, list[tuple[str, int]]] = {}

    def renew(self, attempt: MapTry) -> None:
        """Prepare another try, for failed and pending children only."""
        self._try = attempt
        # Those that succeeded before somebody stopped the emulation are in no result file yet.
        self._ended = [child for child in self._ended if _succeeded(child) and not child.written]
        self._failed_items, self._exceeded = 0, False

    def snapshot(self) -> dict[str, Json]:
        """Return what another process needs to continue the map run."""
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
        written: dict[str, Json] = {
            kind: [[key, size] for key, size in listing] for kind, listing in self._written.items()
        }
        return {"id": self.id, "children": children, "order": order, "written": written}

    @classmethod
    def restored(cls, attempt: MapTry, machine: str, snapshot: bytes) -> MapRun:
        """Make a map run from its snapshot, as JSON.

        Raises msgspec.MsgspecError for what is not one.
        """
        saved = msgspec.json.decode(snapshot, type=_SavedMapRun)
        shares = [Share(msgspec.json.decode(child.input), child.index, child.items) for child in saved.children]
        map_run = cls(attempt, machine, saved.id, shares)
        by_index = {}
        for child, record in zip(map_run._children, saved.children, strict=True):
            by_index[record.index] = child
            _restore(child, record, attempt.start)
        map_run._ended = [by_index[index] for index in saved.order]
        map_run._written = saved.written
        return map_run

    def details(self) -> dict[str, Json]:
        """Return what the event of the map run's start has."""
        settings, visit = self._try.settings, self._try.visit
        percentage = visit.number(settings.tolerated_percentage, "ToleratedFailurePercentage")
        return {
            "mapRunArn": self.arn,
            "items": self._items,
            "finished": sum(child.share.items for child in self._children if _succeeded(child)),
            "concurrency": self._concurrency(),
            "children": len(self._children),
            "maxConcurrency": visit.whole(settings.max_concurrency, "MaxConcurrency") or 0,
            "toleratedFailureCount": visit.whole(settings.tolerated_count, "ToleratedFailureCount") or 0,
            "toleratedFailurePercentage": percentage or 0,
        }

    def counts(self) -> dict[str, Json]:
        """Return how many items succeeded, failed and are pending."""
        succeeded = sum(child.share.items for child in self._children if _succeeded(child))
        pending = sum(child.share.items for child in self._children if child.outcome is None)
        return {"succeeded": succeeded, "failed": self._items - succeeded - pending, "pending": pending}

    def run(self) -> Json:
        """Run all children that have not succeeded, and return the result.

        Raises StatesError, States.ExceedToleratedFailureThreshold when too many items failed; the results of the
        others are written all the same.
        """
        # A redrive runs what failed and what was pending, and nothing that succeeded.
        pending = deque(child for child in self._children if not _succeeded(child))
        threads = self._concurrency()
        if threads == 1:  # on this thread, since nothing would run beside it
            self._run_pending(pending)
        elif pending:
            self._run_threads(pending, min(threads, len(pending)))
        if self._visit.services.stop.is_set():
            raise EmulationStoppedError  # between two children: what is left must not be taken for done
        if self._visit.execution.left() <= 0:
            # Children that ended with the execution are no failures that could be tolerated: it times out, and AWS
            # aborts the map run: https://docs.aws.amazon.com/step-functions/latest/dg/statemachine-structure.html
            raise ExecutionTimeoutError(f"The execution took longer than it may, in '{self._visit.state}'.")
        # Written before the threshold is looked at: a map that fails leaves its results, for the catch and for people.
        result = self._write()
        if self._exceeded:
            raise StatesError(THRESHOLD, "The specified tolerated failure threshold was exceeded")
        return result

    @property
    def _visit(self) -> Visit:
        return self._try.visit

    def _concurrency(self) -> int:
        limit = self._visit.whole(self._try.settings.max_concurrency, "MaxConcurrency") or CHILDREN_AT_ONCE
        return max(1, min(limit, CHILDREN_AT_ONCE, self._visit.services.settings.workers))

    def _run_threads(self, pending: deque[_ChildRun], threads: int) -> None:
        stop = self._visit.services.stop
        with ThreadPoolExecutor(threads, thread_name_prefix="lokki-map") as pool:
            started = [pool.submit(self._run_pending, pending) for _ in range(threads)]
            try:
                for future in started:
                    future.result()
            except BaseException:
                stop.set()  # the other threads end at their next wait, and the pool waits for them
                raise

    def _run_pending(self, pending: deque[_ChildRun]) -> None:
        while True:
            with self._lock:
                if not pending or self._must_end():
                    return
                child = pending.popleft()
            self._run_child(child)
            with self._lock:
                self._ended.append(child)
                if not _succeeded(child):
                    self._failed_items += child.share.items
                    self._exceeded = self._exceeded or self._too_many()

    def _must_end(self) -> bool:
        """Tell whether no other child may start."""
        return self._exceeded or self._visit.services.stop.is_set() or self._visit.execution.left() <= 0

    def _run_child(self, child: _ChildRun) -> None:
        """Run a child, or redrive a STANDARD one that failed.

        EXPRESS executions cannot be redriven, and start again:
        https://docs.aws.amazon.com/step-functions/latest/dg/redrive-map-run.html
        """
        if child.execution is not None and not self._try.settings.express:
            child.outcome = child.execution.redrive()
            return
        child.execution = self._try.start(child.share, child.name)
        child.outcome = child.execution.run()

    def _too_many(self) -> bool:
        """Tell whether more items failed than count or percentage allow.

        Without either, none may fail.
        """
        settings, failed = self._try.settings, self._failed_items
        count = self._visit.number(settings.tolerated_count, "ToleratedFailureCount")
        share = self._visit.number(settings.tolerated_percentage, "ToleratedFailurePercentage")
        if count is None and share is None:
            return failed > 0
        return (count is not None and failed > count) or (share is not None and failed * 100 / self._items > share)

    def _write(self) -> Json:
        """Write result files and manifest, or return the results themselves."""
        writer = self._try.settings.writer
        if writer.destination is None:
            return list(transformed((self._result(child) for child in self._children), writer.transformation))
        bucket, prefix = (
            str(self._visit.fill(template, f"ResultWriter.{name}"))
            for template, name in zip(writer.destination, ("Bucket", "Prefix"), strict=True)
        )
        folder = f"{prefix.removesuffix('/')}/{self.id}" if prefix else self.id
        try:
            self._write_files(bucket, folder)
        except StoreError as error:
            raise StatesError(RESULT_WRITER_FAILED, str(error)) from None
        return {"MapRunArn": self.arn, "ResultWriterDetails": {"Bucket": bucket, "Key": f"{folder}/manifest.json"}}

    def _write_files(self, bucket: str, folder: str) -> None:
        """Write what ended in this try, in the order in which it ended.

        The manifest lists the files with earlier successes too.
        """
        writer, objects = self._try.settings.writer, self._visit.services.objects
        pending = [child for child in self._children if child.outcome is None]
        unwritten = [child for child in self._ended if not child.written]
        results = [self._result(child) for child in (*unwritten, *pending)]
        listed: dict[Kind, list[tuple[str, int]]] = {"SUCCEEDED": list(self._written.get("SUCCEEDED", []))}
        # Numbers continue those of an earlier try: its files stay, and the manifest lists those with successes.
        numbers = Counter({kind: len(listing) for kind, listing in self._written.items()})
        for kind in KINDS:
            values = transformed((result for result in results if result.kind == kind), writer.transformation)
            for content in files(values, writer.output_type, self._visit.services.settings.file_bytes):
                key = f"{folder}/{kind}_{numbers[kind]}.json"
                numbers[kind] += 1
                objects.write(bucket, key, content)
                listed.setdefault(kind, []).append((key, len(content)))
                self._written.setdefault(kind, []).append((key, len(content)))
        objects.write(bucket, f"{folder}/manifest.json", manifest(bucket, self.arn, listed))
        # Failures are not written for good: after a redrive the manifest lists the new outcome of those children.
        for child in unwritten:
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
            if outcome.status != "ABORTED":
                record |= {"Error": outcome.error, "Cause": outcome.cause}
            record["RedriveStatus"] = "REDRIVABLE_BY_MAP_RUN"
        return Result(outcome.status, dict(sorted(record.items())), outcome.output)


def _succeeded(child: _ChildRun) -> bool:
    return child.outcome is not None and child.outcome.status == "SUCCEEDED"


def _restore(child: _ChildRun, record: _SavedChild, start: StartChild) -> None:
    child.written = record.written
    if (saved := record.outcome) is not None:
        child.outcome = Outcome(saved.status, msgspec.json.decode(saved.output), saved.error, saved.cause)
    if bytes(record.execution) != b"null":  # msgspec takes no union with Raw
        child.execution = start(child.share, child.name)
        child.execution.restore(bytes(record.execution))
