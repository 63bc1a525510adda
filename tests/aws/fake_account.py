"""A deployed flow as Step Functions and CloudWatch tell of it: what ran in this process, in the shapes of their APIs.

Stands in for clients of boto3; what is asked for is kept in ``calls``.
"""

# ruff: noqa: N803, A002 - the names of AWS's arguments

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from botocore.exceptions import ClientError

from aws.deployed import Deployed as InProcess
from lokki.deploy.deployed import Deployed
from lokki.emulator.states.history import HistoryEvent

START = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
ARN = "arn:aws:states:us-east-1:123456789012"

_DETAILS = {
    "TaskStateEntered": "stateEnteredEventDetails", "MapStateEntered": "stateEnteredEventDetails",
    "TaskStateExited": "stateExitedEventDetails", "MapStateExited": "stateExitedEventDetails",
    "TaskFailed": "taskFailedEventDetails", "TaskTimedOut": "taskTimedOutEventDetails",
    "MapRunStarted": "mapRunStartedEventDetails", "ExecutionFailed": "executionFailedEventDetails",
}  # fmt: skip


def refusal(code: str, message: str = "") -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": message or code}}, "Operation")


@dataclass
class Pages:
    """A paginator of one page, or of pages that are given."""

    pages: list[dict[str, Any]]

    def paginate(self, **given: Any) -> Iterator[dict[str, Any]]:
        yield from self.pages


@dataclass
class FakeStates:
    """Step Functions for one flow: runs by id, told event by event. ``shown``: how many events are there by now."""

    flow: InProcess
    infos: dict[str, dict[str, Any]] = field(default_factory=dict)
    events: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    children: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    maps: dict[str, dict[str, Any]] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    shown: int = 10**9
    definitions: dict[str, str] = field(default_factory=dict)

    def start_execution(self, stateMachineArn: str, name: str, input: str) -> dict[str, Any]:
        self.calls.append(stateMachineArn)
        if name in self.infos:
            raise refusal("ExecutionAlreadyExists")
        self.run(name, json.loads(input))
        return {}

    def run(self, name: str, params: dict[str, Any]) -> None:
        self.definitions[name] = json.dumps(self.flow.machine)
        outcome = self.flow.run(params, name)
        arn = f"{ARN}:execution:{self.flow.graph.name}:{name}"
        failed = {"error": outcome.error, "cause": str(outcome.cause)} if outcome.error else {}
        self.infos[name] = {
            "executionArn": arn, "name": name, "status": outcome.status, "startDate": START,
            "stopDate": START + timedelta(seconds=2), "input": json.dumps(params), **failed,
            "redriveStatusReason": "Execution is SUCCEEDED and cannot be redriven",
        }  # fmt: skip
        self.events[name] = []
        last: dict[str, int] = {}  # of each state: branches mix their events
        for number, event in enumerate(self._main(), 1):
            told = _told(number, event)
            self.events[name].append(told | {"previousEventId": last.get(event.state, 0)})
            last[event.state] = number
        for event in self.flow.history:
            if event.child is None and "mapRunArn" in event.details:
                self._add_map(arn, cast("str", event.details["mapRunArn"]), event.state)

    def _main(self) -> list[HistoryEvent]:
        return [event for event in self.flow.history if event.child is None and event.type != "TaskRetried"]

    def _add_map(self, execution: str, map_run: str, state: str) -> None:
        ends = [each for each in self.flow.history if each.child is not None and each.child.map == state]
        inputs = {each.execution: each.details.get("input") for each in ends if each.type == "ExecutionStarted"}
        counts = {"succeeded": 0, "failed": 0, "timedOut": 0, "total": 0}
        self.children[map_run] = []
        for each in ends:
            if each.type not in ("ExecutionSucceeded", "ExecutionFailed") or each.child is None:
                continue
            counts["succeeded" if each.type == "ExecutionSucceeded" else "failed"] += each.child.items
            counts["total"] += each.child.items
            if each.type == "ExecutionFailed":
                found = {"startDate": START, "input": json.dumps(inputs[each.execution]), **each.details}
                self.children[map_run].append({"executionArn": each.execution, "status": "FAILED", **found})
        children = sum(each.type == "ExecutionStarted" for each in ends)
        status = (
            "SUCCEEDED"
            if any(
                each.type == "MapRunSucceeded" and each.state == state and each.child is None
                for each in self.flow.history
            )
            else "FAILED"
        )
        self.maps[map_run] = {
            "mapRunArn": map_run, "executionArn": execution, "status": status, "startDate": START,
            "maxConcurrency": 0, "itemCounts": counts,
            "executionCounts": {"total": children},
        }  # fmt: skip

    def describe_execution(self, executionArn: str) -> dict[str, Any]:
        for child in (each for found in self.children.values() for each in found):
            if child["executionArn"] == executionArn:
                return child
        name = executionArn.rpartition(":")[2]
        if name not in self.infos:
            raise refusal("ExecutionDoesNotExist")
        return self.infos[name]

    def describe_state_machine_for_execution(self, executionArn: str) -> dict[str, Any]:
        return {"definition": self.definitions[executionArn.rpartition(":")[2]]}

    def describe_state_machine_alias(self, stateMachineAliasArn: str) -> dict[str, Any]:
        return {"routingConfiguration": [{"stateMachineVersionArn": f"{ARN}:stateMachine:x:2", "weight": 100}]}

    def describe_state_machine(self, stateMachineArn: str) -> dict[str, Any]:
        return {"definition": json.dumps(self.flow.machine)}

    def describe_map_run(self, mapRunArn: str) -> dict[str, Any]:
        return self.maps[mapRunArn]

    def stop_execution(self, executionArn: str, error: str, cause: str) -> None:
        self.calls.append(f"stop {cause}")

    def redrive_execution(self, executionArn: str) -> None:
        raise refusal("ExecutionNotRedrivable")

    def get_paginator(self, name: str) -> FakeStates.Paginator:
        return FakeStates.Paginator(self, name)

    @dataclass
    class Paginator:
        states: FakeStates
        name: str

        def paginate(self, **given: Any) -> Iterator[dict[str, Any]]:
            states = self.states
            match self.name:
                case "get_execution_history":
                    events = states.events[given["executionArn"].rpartition(":")[2]][: states.shown]
                    yield {"events": events[::-1]}
                case "list_map_runs":
                    wanted = given["executionArn"]
                    yield {"mapRuns": [each for each in states.maps.values() if each["executionArn"] == wanted]}
                case "list_executions" if "mapRunArn" in given:
                    wanted = given["statusFilter"] == "FAILED"
                    yield {"executions": states.children[given["mapRunArn"]] if wanted else []}
                case _:
                    yield from ({"executions": [info]} for info in states.infos.values())


def _told(number: int, event: HistoryEvent) -> dict[str, Any]:
    details: dict[str, Any] = {
        key: json.dumps(value) if key in ("input", "output") else value for key, value in event.details.items()
    }
    told = {"id": number, "timestamp": START + timedelta(seconds=event.seconds), "type": event.type}
    if event.type == "TaskSucceeded":  # with the whole response of the function
        response = {"ExecutedVersion": "1", "Payload": event.details["output"]}
        told["taskSucceededEventDetails"] = {"output": json.dumps(response)}
    if event.type in _DETAILS:
        told[_DETAILS[event.type]] = {"name": event.state, **details}
    return told


@dataclass
class FakeLogs:
    """CloudWatch: pages of events by log group."""

    groups: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def get_paginator(self, name: str) -> Any:
        logs = self

        class Paginator:
            def paginate(self, logGroupName: str, startTime: int, endTime: int = 2**60) -> Iterator[dict[str, Any]]:
                if logGroupName not in logs.groups:
                    raise refusal("ResourceNotFoundException")
                yield {"events": []}  # pages may be empty before the last
                for event in logs.groups[logGroupName]:
                    if startTime <= event["timestamp"] <= endTime:
                        yield {"events": [event]}

        return Paginator()


@dataclass
class FakeAws:
    """An account, as far as commands for a deployed flow use it."""

    states: FakeStates
    logs: FakeLogs
    variables: dict[str, str]

    def environ(self) -> dict[str, str]:
        return self.variables


def deployed(flow: InProcess, log_groups: dict[str, str]) -> Deployed:
    """Return where the flow is said to be deployed."""
    name = flow.graph.name
    return Deployed(name, name, f"{ARN}:stateMachine:{name}", flow.s3.bucket, log_groups)
