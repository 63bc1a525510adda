"""Step Functions: state machines with versions and aliases, and the API over their executions.

https://docs.aws.amazon.com/step-functions/latest/apireference/Welcome.html
"""

from __future__ import annotations

import json
import random
import re
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from lokki.emulator.definition import read_definition
from lokki.emulator.services import ACCOUNT, REGION
from lokki.errors import EmulatorError
from support.loopback_history import UNSUCCESSFUL, Record, now, told, without_none
from support.loopback_protocol import ApiError, Fields, page
from support.loopback_runs import Run, Runs

_PREFIX = f"arn:aws:states:{REGION}:{ACCOUNT}:"
_BAD_NAME = re.compile(r"[\s<>{}\[\]?*\"#%\\^|~`$&,;:/\x00-\x1f\x7f-\x9f]")
_FIRST_REVISION = "INITIAL"


@dataclass(frozen=True, slots=True)
class Version:
    """A published version: what the state machine was then."""

    arn: str
    definition: str
    role: str
    revision: str
    created: datetime
    description: str = ""


@dataclass
class Alias:
    """An alias: the versions that it points to, with their weights."""

    arn: str
    name: str
    routes: list[Fields]
    created: datetime
    updated: datetime
    description: str = ""


@dataclass
class Machine:
    """A state machine."""

    arn: str
    name: str
    definition: str
    role: str
    created: datetime
    settings: Fields
    revision: str = _FIRST_REVISION
    published: int = 0
    versions: dict[str, Version] = field(default_factory=dict)
    aliases: dict[str, Alias] = field(default_factory=dict)


class StepFunctions:
    """The service; `operations` is its API."""

    def __init__(self, runs: Runs) -> None:
        self.runs = runs
        self._machines: dict[str, Machine] = {}
        self._used: dict[str, Version] = {}
        self._lock = threading.RLock()

    @property
    def operations(self) -> dict[str, Callable[[Fields], Fields]]:
        """All operations by name."""
        return {
            "CreateStateMachine": self.create_machine,
            "UpdateStateMachine": self.update_machine,
            "DeleteStateMachine": self.delete_machine,
            "DescribeStateMachine": self.describe_machine,
            "DescribeStateMachineForExecution": self.describe_machine_for_execution,
            "ListStateMachines": self.list_machines,
            "PublishStateMachineVersion": self.publish,
            "DeleteStateMachineVersion": self.delete_version,
            "ListStateMachineVersions": self.list_versions,
            "CreateStateMachineAlias": self.create_alias,
            "UpdateStateMachineAlias": self.update_alias,
            "DescribeStateMachineAlias": self.describe_alias,
            "DeleteStateMachineAlias": self.delete_alias,
            "ListStateMachineAliases": self.list_aliases,
            "StartExecution": self.start,
            "StopExecution": self.stop,
            "RedriveExecution": self.redrive,
            "DescribeExecution": self.describe,
            "GetExecutionHistory": self.history,
            "ListExecutions": self.list_executions,
            "ListMapRuns": self.list_map_runs,
            "DescribeMapRun": self.describe_map_run,
            "ListTagsForResource": self.list_tags,
        }

    # state machines

    def create_machine(self, request: Fields) -> Fields:
        name = _checked_name(request["name"])
        arn = f"{_PREFIX}stateMachine:{name}"
        _check_definition(request["definition"], name)
        with self._lock:
            known = self._machines.get(arn)
            if known is not None and (known.definition, known.role) != (request["definition"], request["roleArn"]):
                raise ApiError("StateMachineAlreadyExists", f"State Machine Already Exists: '{arn}'")
            if known is None:
                settings = {"type": request.get("type", "STANDARD"), **_configurations(request)}
                settings["tags"] = request.get("tags", [])
                known = Machine(arn, name, request["definition"], request["roleArn"], now(), settings)
                self._machines[arn] = known
            return {"stateMachineArn": arn, "creationDate": known.created}

    def update_machine(self, request: Fields) -> Fields:
        machine = self.machine(request["stateMachineArn"])
        definition = request.get("definition", machine.definition)
        _check_definition(definition, machine.name)
        with self._lock:
            machine.definition, machine.role = definition, request.get("roleArn", machine.role)
            machine.settings |= _configurations(request)
            machine.revision = str(uuid.uuid4())
        return {"updateDate": now(), "revisionId": machine.revision}

    def delete_machine(self, request: Fields) -> Fields:
        with self._lock:
            found = self._machines.pop(request["stateMachineArn"], None)
        if found is not None:
            self.runs.forget(found.arn)
        return {}

    def describe_machine(self, request: Fields) -> Fields:
        arn = request["stateMachineArn"]
        machine = self.machine(arn)
        version = machine.versions.get(arn)
        described: Fields = {
            "stateMachineArn": arn,
            "name": machine.name,
            "status": "ACTIVE",
            "definition": version.definition if version else machine.definition,
            "roleArn": version.role if version else machine.role,
            "creationDate": version.created if version else machine.created,
            **{name: value for name, value in machine.settings.items() if name != "tags"},
        }
        revision = version.revision if version else machine.revision
        if revision != _FIRST_REVISION:
            described["revisionId"] = revision
        if version and version.description:
            described["description"] = version.description
        return described

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
        if used.revision != _FIRST_REVISION:
            described["revisionId"] = used.revision
        return described | {name: value for name, value in machine.settings.items() if name.endswith("Configuration")}

    def list_machines(self, request: Fields) -> Fields:
        found = sorted(self._machines.values(), key=lambda machine: machine.name)
        shown, token = page(found, request, 100)
        return {
            "stateMachines": [
                {
                    "stateMachineArn": each.arn,
                    "name": each.name,
                    "type": each.settings["type"],
                    "creationDate": each.created,
                }
                for each in shown
            ],
            **token,
        }

    def list_tags(self, request: Fields) -> Fields:
        machine = self._machines.get(request["resourceArn"])
        if machine is None:
            raise ApiError("ResourceNotFound", f"Resource not found: '{request['resourceArn']}'")
        return {"tags": machine.settings["tags"]}

    def machine(self, arn: str) -> Machine:
        """Return the state machine with an ARN, also a qualified one. Raises ApiError."""
        if not arn.startswith(f"{_PREFIX}stateMachine:"):
            raise ApiError("InvalidArn", f"Invalid Arn: '{arn}'")
        found = self._machines.get(":".join(arn.split(":")[:7]))
        qualified = arn.count(":") > 6
        if found is None or (qualified and arn not in found.versions and arn not in found.aliases):
            raise ApiError("StateMachineDoesNotExist", f"State Machine Does Not Exist: '{arn}'")
        return found

    # versions

    def publish(self, request: Fields) -> Fields:
        """Publish a version; of a revision that has one, return that."""
        machine = self.machine(request["stateMachineArn"])
        revision = request.get("revisionId", machine.revision)
        with self._lock:
            if revision != machine.revision:
                raise ApiError(
                    "ConflictException",
                    f"Failed to publish the State Machine version for revision {revision}. The current State Machine "
                    f"revision is {machine.revision}.",
                )
            known = next((each for each in machine.versions.values() if each.revision == revision), None)
            if known is None:
                machine.published += 1
                arn = f"{machine.arn}:{machine.published}"
                described = request.get("description", "")
                known = Version(arn, machine.definition, machine.role, revision, now(), described)
                machine.versions[arn] = known
        return {"creationDate": known.created, "stateMachineVersionArn": known.arn}

    def delete_version(self, request: Fields) -> Fields:
        arn = request["stateMachineVersionArn"]
        if not re.fullmatch(rf"{re.escape(_PREFIX)}stateMachine:[^:]+:\d+", arn):
            raise ApiError("ValidationException", f"Invalid version ARN: '{arn}'")
        machine = self._machines.get(arn.rpartition(":")[0])
        if machine is None:
            return {}
        users = [each.name for each in machine.aliases.values() if arn in _targets(each.routes)]
        if users:
            raise ApiError(
                "ConflictException",
                "Version to be deleted must not be referenced by an alias. Current list of aliases referencing this "
                f"version: [{', '.join(users)}]",
            )
        machine.versions.pop(arn, None)
        return {}

    def list_versions(self, request: Fields) -> Fields:
        machine = self.machine(request["stateMachineArn"])
        shown, token = page(list(reversed(machine.versions.values())), request, 100)
        versions = [{"stateMachineVersionArn": each.arn, "creationDate": each.created} for each in shown]
        return {"stateMachineVersions": versions, **token}

    # aliases

    def create_alias(self, request: Fields) -> Fields:
        machine = self._routed(request["routingConfiguration"])
        name = request["name"]
        if not re.fullmatch(r"(?=.*[a-zA-Z_\-.])[a-zA-Z0-9_\-.]{1,80}", name):
            raise ApiError("InvalidName", f"Invalid Name: '{name}'")
        arn = f"{machine.arn}:{name}"
        with self._lock:
            if arn in machine.aliases:
                raise ApiError("ConflictException", f"Alias with name '{name}' already exists")
            made = Alias(arn, name, request["routingConfiguration"], now(), now(), request.get("description", ""))
            machine.aliases[arn] = made
        return {"stateMachineAliasArn": arn, "creationDate": made.created}

    def update_alias(self, request: Fields) -> Fields:
        alias = self._alias(request["stateMachineAliasArn"])
        if "routingConfiguration" in request:
            machine = self._routed(request["routingConfiguration"])
            if alias.arn not in machine.aliases:
                raise ApiError("ValidationException", "Routing configuration must be of the alias's state machine")
            alias.routes = request["routingConfiguration"]
        alias.description = request.get("description", alias.description)
        alias.updated = now()
        return {"updateDate": alias.updated}

    def describe_alias(self, request: Fields) -> Fields:
        alias = self._alias(request["stateMachineAliasArn"])
        found = {
            "stateMachineAliasArn": alias.arn,
            "name": alias.name,
            "description": alias.description or None,
            "routingConfiguration": alias.routes,
            "creationDate": alias.created,
            "updateDate": alias.updated,
        }
        return without_none(found)

    def delete_alias(self, request: Fields) -> Fields:
        alias = self._alias(request["stateMachineAliasArn"])
        del self.machine(alias.arn).aliases[alias.arn]
        return {}

    def list_aliases(self, request: Fields) -> Fields:
        arn = request["stateMachineArn"]
        machine = self.machine(arn)
        found = [each for each in machine.aliases.values() if arn == machine.arn or arn in _targets(each.routes)]
        shown, token = page(found, request, 100)
        aliases = [{"stateMachineAliasArn": each.arn, "creationDate": each.created} for each in shown]
        return {"stateMachineAliases": aliases, **token}

    def _alias(self, arn: str) -> Alias:
        machine = self._machines.get(arn.rpartition(":")[0])
        alias = None if machine is None else machine.aliases.get(arn)
        if alias is None:
            raise ApiError("ResourceNotFound", f"Request references a resource that does not exist: '{arn}'")
        return alias

    def _routed(self, routes: list[Fields]) -> Machine:
        """Check a routing configuration; return the state machine that it is of."""
        if not 1 <= len(routes) <= 2 or sum(each["weight"] for each in routes) != 100:
            raise ApiError("ValidationException", "Sum of routing configuration weights must be 100")
        machines = []
        for target in _targets(routes):
            machine = self._machines.get(target.rpartition(":")[0])
            if machine is None or target not in machine.versions:
                raise ApiError("ResourceNotFound", f"Request references a resource that does not exist: '{target}'")
            machines.append(machine)
        if len({each.arn for each in machines}) > 1:
            raise ApiError("ValidationException", "Versions of an alias must be of one state machine")
        return machines[0]

    # executions

    def start(self, request: Fields) -> Fields:
        """Start an execution; the same request while it runs has the same answer."""
        arn = request["stateMachineArn"]
        machine = self.machine(arn)
        name = _checked_name(request.get("name") or str(uuid.uuid4()))
        given = request.get("input", "{}")
        try:
            json.loads(given)
        except ValueError as error:
            raise ApiError("InvalidExecutionInput", f"Invalid State Machine Execution Input: '{error}'") from None
        execution = f"{_PREFIX}execution:{machine.name}:{name}"
        with self.runs.lock:
            known = self.runs.run(execution)
            if known is not None:
                if known.record.status == "RUNNING" and known.record.input == given:
                    return {"executionArn": execution, "startDate": known.record.started}
                raise ApiError("ExecutionAlreadyExists", f"Execution Already Exists: '{execution}'")
            alias, version = machine.aliases.get(arn), machine.versions.get(arn)
            if alias is not None:
                weights = [each["weight"] for each in alias.routes]
                version = machine.versions[random.choices(_targets(alias.routes), weights)[0]]
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
        if run is None or record.status not in UNSUCCESSFUL:
            reason = record.described().get("redriveStatusReason", "Execution is a child of a Map Run")
            raise ApiError("ExecutionNotRedrivable", f"{reason}: '{arn}'")
        self.runs.redrive(run)
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
    if not arn.startswith((f"{_PREFIX}execution:", f"{_PREFIX}express:")):
        return ApiError("InvalidArn", f"Invalid Arn: '{arn}'")
    return ApiError("ExecutionDoesNotExist", f"Execution Does Not Exist: '{arn}'")


def _checked_name(name: str) -> str:
    if not 1 <= len(name) <= 80 or _BAD_NAME.search(name):
        raise ApiError("InvalidName", f"Invalid Name: '{name}'")
    return name


def _check_definition(definition: str, name: str) -> None:
    try:
        read_definition(json.loads(definition), name)
    except (EmulatorError, ValueError) as error:
        raise ApiError("InvalidDefinition", f"Invalid State Machine Definition: '{error}'") from None


def _configurations(request: Fields) -> Fields:
    names = ("loggingConfiguration", "tracingConfiguration", "encryptionConfiguration")
    return {name: request[name] for name in names if name in request}


def _targets(routes: list[Fields]) -> list[str]:
    return [each["stateMachineVersionArn"] for each in routes]
