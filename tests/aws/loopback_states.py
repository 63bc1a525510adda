"""Step Functions: the API over executions, beside that over state machines.

https://docs.aws.amazon.com/step-functions/latest/apireference/Welcome.html
"""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Callable

from aws.loopback_history import Record, now, told
from aws.loopback_machines import FIRST_REVISION, PREFIX, StateMachines, Version, checked_name, targets
from aws.loopback_protocol import ApiError, Fields, page
from aws.loopback_runs import Run, Runs


class StepFunctions(StateMachines):
    """The service; `operations` is its API."""

    def __init__(self, runs: Runs) -> None:
        super().__init__(runs)
        self._used: dict[str, Version] = {}

    @property
    def operations(self) -> dict[str, Callable[[Fields], Fields]]:
        """All operations by name."""
        return {
            **super().operations,
            "StartExecution": self.start,
            "StopExecution": self.stop,
            "RedriveExecution": self.redrive,
            "DescribeExecution": self.describe,
            "DescribeStateMachineForExecution": self.describe_machine_for_execution,
            "GetExecutionHistory": self.history,
            "ListExecutions": self.list_executions,
            "ListMapRuns": self.list_map_runs,
            "DescribeMapRun": self.describe_map_run,
        }

    def describe_machine_for_execution(self, request: Fields) -> Fields:
        arn = request["executionArn"]
        run = self.runs.root_of(arn)
        if run is None:
            raise _no_execution(arn)
        machine = self.machine(run.record.machine_arn)
        record = self.runs.record(arn)
        assert record is not None
        used = self._used[run.record.arn]
        described: Fields = {
            "stateMachineArn": record.machine_arn,
            "name": record.machine_arn.rpartition(":")[2],
            "definition": used.definition,
            "roleArn": used.role,
            "updateDate": used.created,
        }
        if record.map_run is not None:
            described |= {"mapRunArn": record.map_run.arn, "label": record.machine_arn.rpartition("/")[2]}
        if used.revision != FIRST_REVISION:
            described["revisionId"] = used.revision
        return described | {name: value for name, value in machine.settings.items() if name.endswith("Configuration")}

    def start(self, request: Fields) -> Fields:
        """Start an execution; the same request while it runs has the same answer."""
        arn = request["stateMachineArn"]
        machine = self.machine(arn)
        name = checked_name(request.get("name") or str(uuid.uuid4()))
        given = request.get("input", "{}")
        try:
            json.loads(given)
        except ValueError as error:
            raise ApiError("InvalidExecutionInput", f"Invalid State Machine Execution Input: '{error}'") from None
        execution = f"{PREFIX}execution:{machine.name}:{name}"
        with self.runs.lock:
            known = self.runs.run(execution)
            if known is not None:
                if known.record.status == "RUNNING" and known.record.input == given:
                    return {"executionArn": execution, "startDate": known.record.started}
                raise ApiError("ExecutionAlreadyExists", f"Execution Already Exists: '{execution}'")
            alias, version = machine.aliases.get(arn), machine.versions.get(arn)
            if alias is not None:
                weights = [each["weight"] for each in alias.routes]
                version = machine.versions[random.choices(targets(alias.routes), weights)[0]]
            used = version or Version("", machine.definition, machine.role, machine.revision, machine.created)
            record = Record(execution, name, machine.arn, given, now(), used.role)
            record.version_arn = version.arn if version else ""
            record.alias_arn = alias.arn if alias else ""
            self._used[execution] = used
            self.runs.start(record, used.definition)
        return {"executionArn": execution, "startDate": record.started}

    def stop(self, request: Fields) -> Fields:
        run = self._run(request["executionArn"])
        self.runs.stop(run, request.get("error", ""), request.get("cause", ""))
        return {"stopDate": run.record.stopped}

    def redrive(self, request: Fields) -> Fields:
        arn = request["executionArn"]
        record = self._record(arn)
        run = self.runs.run(arn)
        if run is None or record.status == "RUNNING" or not self.runs.redrive(run):
            reason = record.described().get("redriveStatusReason", "Execution is a child of a Map Run")
            raise ApiError("ExecutionNotRedrivable", f"{reason}: '{arn}'")
        return {"redriveDate": run.record.redriven}

    def describe(self, request: Fields) -> Fields:
        with self.runs.lock:
            found = self._record(request["executionArn"]).described()
        if request.get("includedData") == "METADATA_ONLY":
            found = {name: value for name, value in found.items() if name not in ("input", "output")}
            found |= {name: {"included": False} for name in ("inputDetails", "outputDetails") if name in found}
        return found

    def history(self, request: Fields) -> Fields:
        with self.runs.lock:
            record = self._record(request["executionArn"])
            if ":express:" in record.arn:
                raise ApiError("ExecutionDoesNotExist", f"Execution Does Not Exist: '{record.arn}'")
            events = list(record.events)
        if request.get("reverseOrder"):
            events.reverse()
        shown, token = page(events, request, 100)
        return {"events": [told(each, data=request.get("includeExecutionData", True)) for each in shown], **token}

    def list_executions(self, request: Fields) -> Fields:
        if ("stateMachineArn" in request) == ("mapRunArn" in request):
            raise ApiError("ValidationException", "Exactly one of stateMachineArn and mapRunArn must be given")
        with self.runs.lock:
            records = self._of_map_run(request["mapRunArn"]) if "mapRunArn" in request else self._of_machine(request)
            records.sort(key=lambda record: record.started, reverse=True)
            wanted = request.get("statusFilter")
            if request.get("redriveFilter"):
                kept = request["redriveFilter"] == "REDRIVEN"
                records = [each for each in records if (each.redrives > 0) == kept]
            found = [each.listed() for each in records if wanted in (None, each.status)]
        shown, token = page(found, request, 100)
        return {"executions": shown, **token}

    def list_map_runs(self, request: Fields) -> Fields:
        with self.runs.lock:
            self._record(request["executionArn"])
            run = self.runs.run(request["executionArn"])
            found = [] if run is None else [each.listed() for each in reversed(run.histories.map_runs)]
        shown, token = page(found, request, 100)
        return {"mapRuns": shown, **token}

    def describe_map_run(self, request: Fields) -> Fields:
        with self.runs.lock:
            found = self.runs.map_run(request["mapRunArn"])
            if found is None:
                raise ApiError("ResourceNotFound", f"Request references a missing map run: '{request['mapRunArn']}'")
            return found.described()

    def _of_machine(self, request: Fields) -> list[Record]:
        arn = request["stateMachineArn"]
        machine = self.machine(arn)
        records = [run.record for run in self.runs.of_machine(machine.arn)]
        return [each for each in records if arn in (machine.arn, each.version_arn, each.alias_arn)]

    def _of_map_run(self, arn: str) -> list[Record]:
        found = self.runs.map_run(arn)
        if found is None:
            raise ApiError("ResourceNotFound", f"Request references a missing map run: '{arn}'")
        return list(found.children.values())

    def _record(self, arn: str) -> Record:
        found = self.runs.record(arn)
        if found is None:
            raise _no_execution(arn)
        return found

    def _run(self, arn: str) -> Run:
        record = self._record(arn)
        run = self.runs.run(arn)
        if run is None:
            raise ApiError("ValidationException", f"A child execution is stopped with its parent: '{record.arn}'")
        return run


def _no_execution(arn: str) -> ApiError:
    if not arn.startswith((f"{PREFIX}execution:", f"{PREFIX}express:")):
        return ApiError("InvalidArn", f"Invalid Arn: '{arn}'")
    return ApiError("ExecutionDoesNotExist", f"Execution Does Not Exist: '{arn}'")
