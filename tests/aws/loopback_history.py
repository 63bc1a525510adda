"""Executions, map runs and their histories as Step Functions tells of them, from the emulator's events."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, cast

from aws.loopback_protocol import Fields
from lokki.emulator.states.history import HistoryEvent
from lokki.emulator.states.services import REGION

UNSUCCESSFUL = ("FAILED", "TIMED_OUT", "ABORTED")

_ENDS = {
    "ExecutionSucceeded": "SUCCEEDED",
    "ExecutionFailed": "FAILED",
    "ExecutionTimedOut": "TIMED_OUT",
    "ExecutionAborted": "ABORTED",
}
_NOT_TOLD = ("TaskRetried",)


type Branch = tuple[str, int]
"""The state that has it, and its number there."""


def branches_of(states: Fields, branch: Branch | None = None) -> dict[str, Branch]:
    """Return the branch that each state of a definition is in, those in no branch left out."""
    found: dict[str, Branch] = {}
    for name, state in states.items():
        if branch is not None:
            found[name] = branch
        for number, inner in enumerate(state.get("Branches", ())):
            found |= branches_of(inner["States"], (name, number))
    return found


@dataclass
class Record:
    """One execution. ``machine_arn``: of its state machine, or of its map's part of it for a child."""

    arn: str
    name: str
    machine_arn: str
    input: str
    started: datetime
    role: str = ""
    version_arn: str = ""
    alias_arn: str = ""
    status: str = "RUNNING"
    stopped: datetime | None = None
    output: str | None = None
    error: str | None = None
    cause: str | None = None
    redrives: int = 0
    redriven: datetime | None = None
    map_run: MapRunRecord | None = None
    items: int = 0
    branches: Mapping[str, Branch] = field(default_factory=dict)
    """The branch that each state is in, where it is in one."""
    events: list[Fields] = field(default_factory=list)
    last: dict[Branch | None, int] = field(default_factory=dict)
    """The last event of each branch, and outside of all."""
    functions: dict[str, str] = field(default_factory=dict)
    version: str = "$LATEST"

    def end(self, status: str, details: Fields) -> None:
        """Take how it ended."""
        self.status, self.stopped = status, now()
        self.output = _text(details["output"]) if "output" in details else None
        self.error, self.cause = details.get("error"), details.get("cause")

    def begin_again(self) -> None:
        """Take that it is redriven."""
        self.redrives += 1
        self.status, self.redriven = "RUNNING", now()
        self.stopped = self.output = self.error = self.cause = None

    def tell(self, kind: str, name: str = "", /, *, at: str = "", **details: Any) -> None:
        """Add an event; ``name``: the field of its details, ``at``: the state whose event it is.

        Branches mix their events: each follows on the one before it in its branch, the first on the fork's start.
        """
        number = len(self.events) + 1
        branch = self.branches.get(at)
        previous = self.last.get(branch, 0)
        if branch is not None and branch not in self.last:
            previous = self.last[self.branches.get(branch[0])]
        ends = [inner for inner in self.last if inner is not None and inner[0] == at]
        if kind in ("ParallelStateSucceeded", "ParallelStateFailed"):  # the branch that ended last, or that failed
            previous = max((self.last[inner] for inner in ends), default=previous)
        elif kind == "ParallelStateEntered":
            for inner in ends:  # it comes here again
                del self.last[inner]
        # The first state follows on nothing, as AWS has it.
        previous = 0 if number == 2 else previous
        self.last[branch] = number
        event = {"timestamp": now(), "type": kind, "id": number, "previousEventId": previous}
        self.events.append(event | ({name: details} if name else {}))

    def described(self) -> Fields:
        """Return the answer of DescribeExecution."""
        reason, redrivable = "", "REDRIVABLE"
        if self.status not in UNSUCCESSFUL:
            redrivable, reason = "NOT_REDRIVABLE", f"Execution is {self.status} and cannot be redriven"
        elif self.map_run is not None:
            redrivable = "REDRIVABLE_BY_MAP_RUN"
        found: Fields = {
            "executionArn": self.arn,
            "stateMachineArn": self.machine_arn,
            "name": self.name,
            "status": self.status,
            "startDate": self.started,
            "stopDate": self.stopped,
            "input": self.input,
            "inputDetails": {"included": True},
            "output": self.output,
            "outputDetails": None if self.output is None else {"included": True},
            "error": self.error or None,
            "cause": self.cause or None,
            "mapRunArn": None if self.map_run is None else self.map_run.arn,
            "stateMachineVersionArn": self.version_arn or None,
            "stateMachineAliasArn": self.alias_arn or None,
            "redriveCount": self.redrives,
            "redriveDate": self.redriven,
            "redriveStatus": redrivable,
            "redriveStatusReason": reason or None,
        }
        return without_none(found)

    def listed(self) -> Fields:
        """Return its item in the answer of ListExecutions."""
        found = {
            "executionArn": self.arn,
            "stateMachineArn": self.machine_arn,
            "name": self.name,
            "status": self.status,
            "startDate": self.started,
            "stopDate": self.stopped,
            "mapRunArn": None if self.map_run is None else self.map_run.arn,
            "itemCount": None if self.map_run is None else self.items,
            "stateMachineVersionArn": self.version_arn or None,
            "stateMachineAliasArn": self.alias_arn or None,
            "redriveCount": self.redrives,
            "redriveDate": self.redriven,
        }
        return without_none(found)


@dataclass
class MapRunRecord:
    """One map run: its children that were started, and how many items and children it has in all."""

    arn: str
    parent: Record
    machine_arn: str
    started: datetime
    settings: Fields
    state: str
    status: str = "RUNNING"
    stopped: datetime | None = None
    redrives: int = 0
    redriven: datetime | None = None
    children: dict[str, Record] = field(default_factory=dict)

    def described(self) -> Fields:
        """Return the answer of DescribeMapRun."""
        found = {
            "mapRunArn": self.arn,
            "executionArn": self.parent.arn,
            "status": self.status,
            "startDate": self.started,
            "stopDate": self.stopped,
            "maxConcurrency": self.settings["maxConcurrency"],
            "toleratedFailurePercentage": float(self.settings["toleratedFailurePercentage"]),
            "toleratedFailureCount": self.settings["toleratedFailureCount"],
            "itemCounts": self._counts(self.settings["items"], items=True),
            "executionCounts": self._counts(self.settings["children"], items=False),
            "redriveCount": self.redrives,
            "redriveDate": self.redriven,
        }
        return without_none(found)

    def listed(self) -> Fields:
        """Return its item in the answer of ListMapRuns."""
        found = {
            "executionArn": self.parent.arn,
            "mapRunArn": self.arn,
            "stateMachineArn": self.machine_arn,
            "startDate": self.started,
            "stopDate": self.stopped,
        }
        return without_none(found)

    def _counts(self, total: int, *, items: bool) -> dict[str, int]:
        names = {"RUNNING": "running", "SUCCEEDED": "succeeded", "FAILED": "failed", "TIMED_OUT": "timedOut"}
        counts = dict.fromkeys([*names.values(), "aborted"], 0)
        for child in self.children.values():
            counts[names.get(child.status, "aborted")] += child.items if items else 1
        ended = counts["succeeded"] + counts["failed"] + counts["timedOut"]
        return {
            **counts,
            "pending": total - sum(counts.values()),
            "total": total,
            "resultsWritten": 0 if self.status == "RUNNING" else ended,
            "failuresNotRedrivable": 0,
            "pendingRedrive": 0,
        }


@dataclass
class Histories:
    """Follows one execution, its map runs and its children. Not for several threads: the caller holds a lock."""

    root: Record
    map_runs: list[MapRunRecord] = field(default_factory=list)

    def follow(self, event: HistoryEvent) -> None:
        """Take an event of the emulator. What comes after the end of the execution is not told."""
        if self.root.status != "RUNNING" or event.type in _NOT_TOLD:
            return
        record = self.root if event.child is None else self._child(event)
        details = cast("Fields", event.details)
        kind = event.type
        if kind in _ENDS:
            record.end(_ENDS[kind], details)
        if kind.startswith("MapRun"):
            self._map_run(kind, event.state, details)
        elif kind == "ExecutionRedriven" and record is not self.root:
            record.begin_again()
        _tell(record, kind, event.state, details)

    def abort(self, error: str, cause: str) -> None:
        """End the execution and all that runs in it."""
        given = without_none({"error": error or None, "cause": cause or None})
        for map_run in self.map_runs:
            for child in map_run.children.values():
                if child.status == "RUNNING":
                    child.end("ABORTED", {})
                    child.tell("ExecutionAborted", "executionAbortedEventDetails")
            if map_run.status == "RUNNING":
                map_run.status, map_run.stopped = "ABORTED", now()
                self.root.tell("MapRunAborted")
        self.root.end("ABORTED", given)
        self.root.tell("ExecutionAborted", "executionAbortedEventDetails", **given)

    def _child(self, event: HistoryEvent) -> Record:
        assert event.child is not None
        label = event.execution.rpartition(":")[0].rpartition("/")[2]
        map_run = next(run for run in reversed(self.map_runs) if run.machine_arn.endswith(f"/{label}"))
        known = map_run.children.get(event.execution)
        if known is None or event.type == "ExecutionStarted":
            name = event.execution.rpartition(":")[2]
            given = _text(event.details.get("input"))
            known = Record(event.execution, name, map_run.machine_arn, given, now(), self.root.role)
            known.map_run, known.items = map_run, event.child.items
            map_run.children[event.execution] = known
        return known

    def _map_run_of(self, state: str) -> MapRunRecord:
        return next(run for run in reversed(self.map_runs) if run.state == state)

    def _map_run(self, kind: str, state: str, details: Fields) -> None:
        if kind == "MapRunStarted":
            label = details["mapRunArn"].rpartition(":")[0].rpartition("/")[2]
            machine = f"{self.root.machine_arn}/{label}"
            self.map_runs.append(MapRunRecord(details["mapRunArn"], self.root, machine, now(), details, state))
            return
        map_run = self._map_run_of(state)
        if kind == "MapRunRedriven":
            map_run.redrives += 1
            map_run.status, map_run.stopped, map_run.redriven = "RUNNING", None, now()
        else:
            map_run.status, map_run.stopped = {"MapRunSucceeded": "SUCCEEDED"}.get(kind, "FAILED"), now()


def _tell(record: Record, kind: str, state: str, details: Fields) -> None:
    """Write an event of the emulator as AWS has it."""
    error = {name: details[name] for name in ("error", "cause") if details.get(name)}
    if kind.endswith("StateEntered"):
        record.tell(kind, "stateEnteredEventDetails", at=state, name=state, **_data("input", details["input"]))
        if kind == "MapStateEntered":
            record.tell("MapStateStarted", "mapStateStartedEventDetails", at=state, length=0)
    elif kind.endswith("StateExited"):
        record.tell(kind, "stateExitedEventDetails", at=state, name=state, **_data("output", details["output"]))
    elif kind.startswith("Task"):
        _tell_of_task(record, kind, state, details, error)
    elif kind in ("MapRunStarted", "MapRunRedriven"):
        told = {"mapRunArn": details["mapRunArn"]}
        if kind == "MapRunRedriven" and record.map_run is None:
            told["redriveCount"] = record.redrives
        record.tell(kind, f"{kind[0].lower()}{kind[1:]}EventDetails", at=state, **told)
    elif kind == "MapRunFailed":
        record.tell(kind, "mapRunFailedEventDetails", at=state, **error)
        record.tell("MapStateFailed", at=state)
    elif kind == "ExecutionStarted":
        record.tell(kind, "executionStartedEventDetails", **_data("input", details["input"]), roleArn=record.role)
    elif kind == "ExecutionRedriven":
        record.tell(kind, "executionRedrivenEventDetails", redriveCount=details["redriveCount"])
    elif kind == "ExecutionSucceeded":
        record.tell(kind, "executionSucceededEventDetails", **_data("output", details["output"]))
    elif kind == "ExecutionAborted":
        record.tell(kind, "executionAbortedEventDetails")
    elif kind in ("ExecutionFailed", "ExecutionTimedOut"):
        record.tell(kind, f"{kind[0].lower()}{kind[1:]}EventDetails", **error)
    elif kind == "MapRunSucceeded":
        record.tell(kind, at=state)
        record.tell("MapStateSucceeded", at=state)
    elif kind.startswith("Parallel"):
        record.tell(kind, at=state)
    else:
        raise AssertionError(f"the loopback AWS does not know the event {kind}")


def _tell_of_task(record: Record, kind: str, state: str, details: Fields, error: Fields) -> None:
    """The optimized integration of Lambda tells of the whole request and response."""
    common = {"resourceType": "lambda", "resource": "invoke"}
    if kind == "TaskScheduled":
        function = record.functions[state] = details["function"]
        text = _text({"FunctionName": function, "Payload": details["parameters"]})
        record.tell(kind, "taskScheduledEventDetails", at=state, **common, region=REGION, parameters=text)
        record.tell("TaskStarted", "taskStartedEventDetails", at=state, **common)
    elif kind == "TaskSucceeded":
        parts = record.functions[state].split(":")
        executed = parts[7] if len(parts) == 8 else "$LATEST"
        answer = {"ExecutedVersion": executed, "Payload": details["output"], "StatusCode": 200}
        record.tell(kind, "taskSucceededEventDetails", at=state, **common, **_data("output", answer))
    else:
        record.tell(kind, f"{kind[0].lower()}{kind[1:]}EventDetails", at=state, **common, **error)


def told(event: Fields, *, data: bool) -> Fields:
    """Return an event, without input and output if they are not asked for."""
    if data:
        return event
    hidden = ("input", "inputDetails", "output", "outputDetails")
    found: Fields = {}
    for name, value in event.items():
        found[name] = value
        if isinstance(value, dict):
            kept = {key: each for key, each in value.items() if key not in hidden}
            found[name] = {**kept, "parameters": "{}"} if "parameters" in kept else kept  # which a client needs
    return found


def now() -> datetime:
    """Return the time of day."""
    return datetime.now(UTC)


def without_none(fields: Fields) -> Fields:
    """Leave out the fields that have no value."""
    return {name: value for name, value in fields.items() if value is not None}


def _data(name: str, value: object) -> Fields:
    return {name: _text(value), f"{name}Details": {"truncated": False}}


def _text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
