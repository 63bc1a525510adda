"""Step Functions on loopback: state machines with versions and aliases, whose executions lokki's emulator runs.

What the API does is AWS's reference: https://docs.aws.amazon.com/step-functions/latest/apireference/
"""

from __future__ import annotations

import json
import re
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from lokki.emulator.definition import read_definition
from lokki.emulator.execution import Execution
from lokki.emulator.history import HistoryEvent
from lokki.emulator.outcome import Identity
from lokki.emulator.services import ACCOUNT, REGION, Caller, Objects, RealClock, Reply, Services, Settings, StoppedError
from lokki.values import Json
from support.loopback_functions import LoopbackFunctions
from support.loopback_history import UNSUCCESSFUL, Histories, MapRunRecord, Record, now, told, without_none
from support.loopback_protocol import Api, ApiError, Fields, page

_NAME = re.compile(r"[^\s<>{}\[\]?*\"#%\\^|~`$&,;:/\x00-\x1f\x7f-\x9f]{1,80}")
_PAGE = 100
_HISTORY_PAGE = 100


@dataclass(frozen=True)
class Revision:
    """What a state machine is at some time; never changed."""

    definition: str
    role: str
    id: str


@dataclass
class Version:
    """A published version."""

    arn: str
    revision: Revision
    created: datetime


@dataclass
class Machine:
    """A state machine. Numbers of versions are never used twice."""

    arn: str
    name: str
    revision: Revision
    created: datetime
    versions: dict[int, Version] = field(default_factory=dict)
    published: int = 0
    aliases: dict[str, tuple[str, datetime]] = field(default_factory=dict)


@dataclass
class Running:
    """An execution, and all that it needs to be redriven."""

    record: Record
    histories: Histories
    revision: Revision
    execution: Execution
    services: Services
    stop: threading.Event
    thread: threading.Thread | None = None


@dataclass
class _Invoked:
    """The functions for one execution, which may be stopped."""

    functions: LoopbackFunctions
    stop: threading.Event

    def invoke(self, function: str, payload: bytes, timeout: float, caller: Caller) -> Reply:
        return self.functions.invoke(function, payload, timeout, caller, self.stop)


class States:
    """The service. ``scale``: how much of the waits between tries passes really."""

    def __init__(self, functions: LoopbackFunctions, objects: Objects, scale: float = 0.01) -> None:
        self._functions = functions
        self._objects = objects
        self._scale = scale
        self._lock = threading.RLock()
        self._machines: dict[str, Machine] = {}
        self._running: dict[str, Running] = {}
        self.api = Api("stepfunctions", {name: getattr(self, f"_{_snake(name)}") for name in OPERATIONS})

    # what CloudFormation does with state machines

    def put(self, name: str, definition: str, role: str) -> Machine:
        """Make a state machine, or update it: a new revision."""
        read_definition(json.loads(definition), name)
        revision = Revision(definition, role, str(uuid.uuid4()))
        arn = f"arn:aws:states:{REGION}:{ACCOUNT}:stateMachine:{name}"
        with self._lock:
            known = self._machines.get(arn)
            if known is None:
                known = self._machines[arn] = Machine(arn, name, revision, now())
            known.revision = revision
            return known

    def publish(self, arn: str, revision: str) -> str:
        """Publish a version of the current revision; the same again for the same revision. Returns its ARN."""
        machine = self._machine(arn)
        if revision and revision != machine.revision.id:
            raise ApiError("ConflictException", f"The current revision of {arn} is {machine.revision.id}.")
        for version in machine.versions.values():
            if version.revision is machine.revision:
                return version.arn
        machine.published += 1
        made = Version(f"{arn}:{machine.published}", machine.revision, now())
        machine.versions[machine.published] = made
        return made.arn

    def set_alias(self, arn: str, name: str, version: str) -> str:
        """Point an alias at a version; returns its ARN."""
        machine = self._machine(arn)
        self._version(machine, version)
        machine.aliases[name] = (version, now())
        return f"{arn}:{name}"

    def drop_alias(self, arn: str) -> None:
        """Delete an alias."""
        machine, _, name = arn.rpartition(":")
        self._machine(machine).aliases.pop(name, None)

    def drop_version(self, arn: str) -> None:
        """Delete a version that no alias points at."""
        machine = self._machine(arn.rpartition(":")[0])
        if any(version == arn for version, _ in machine.aliases.values()):
            raise ApiError("ConflictException", f"An alias points at {arn}.")
        machine.versions.pop(int(arn.rpartition(":")[2]), None)

    def drop(self, arn: str) -> None:
        """Delete a state machine, with its versions and aliases."""
        with self._lock:
            self._machines.pop(arn, None)

    def close(self) -> None:
        """End all executions."""
        for running in [*self._running.values()]:
            running.stop.set()
        self.wait()

    def wait(self) -> None:
        """Wait until no execution runs, and its logs are there."""
        while threads := [each.thread for each in self._running.values() if each.thread and each.thread.is_alive()]:
            for thread in threads:
                thread.join()
        self._functions.logs.settle()

    # executions

    def _start_execution(self, asked: Fields) -> Fields:
        given, name = asked.get("input", "{}"), asked.get("name") or str(uuid.uuid4())
        if not _NAME.fullmatch(name):
            raise ApiError("InvalidName", f"Invalid Name: '{name}'")
        try:
            parsed = json.loads(given)
        except ValueError:
            raise ApiError("InvalidExecutionInput", "Invalid State Machine Execution Input") from None
        with self._lock:
            machine, revision, version, alias = self._qualified(asked["stateMachineArn"])
            arn = f"{machine.arn.replace(':stateMachine:', ':execution:')}:{name}"
            before = self._running.get(arn)
            if before is not None:
                if before.record.status == "RUNNING" and before.record.input == given:
                    return {"executionArn": arn, "startDate": before.record.started}
                raise ApiError("ExecutionAlreadyExists", f"Execution Already Exists: '{arn}'")
            record = Record(arn, name, machine.arn, given, now(), version, alias)
            running = self._running[arn] = self._made(machine, revision, record, parsed)
            self._go(running, running.execution.run)
        return {"executionArn": arn, "startDate": record.started}

    def _redrive_execution(self, asked: Fields) -> Fields:
        with self._lock:
            running = self._known(asked["executionArn"])
            record = running.record
            if record.status not in UNSUCCESSFUL:
                reason = f"Execution is {record.status} and cannot be redriven"
                raise ApiError("ExecutionNotRedrivable", f"{reason}: '{record.arn}'")
            stopped = running.stop.is_set()
            record.begin_again()
            if stopped:  # what was stopped has no running parts any more
                again = self._made(
                    self._machine(record.machine_arn), running.revision, record, json.loads(record.input)
                )
                again.histories.map_runs = running.histories.map_runs
                again.execution.restore(running.execution.snapshot())
                running = self._running[record.arn] = again
            self._go(running, running.execution.redrive)
        return {"redriveDate": record.redriven}

    def _stop_execution(self, asked: Fields) -> Fields:
        with self._lock:
            running = self._known(asked["executionArn"])
            if running.record.status == "RUNNING":
                running.histories.abort(asked.get("error", ""), asked.get("cause", ""))
                running.stop.set()
        return {"stopDate": running.record.stopped}

    def _describe_execution(self, asked: Fields) -> Fields:
        with self._lock:
            return self._record(asked["executionArn"]).described()

    def _get_execution_history(self, asked: Fields) -> Fields:
        with self._lock:
            events = list(self._record(asked["executionArn"]).events)
        if asked.get("reverseOrder"):
            events.reverse()
        found, token = page(events, asked, _HISTORY_PAGE)
        return {"events": [told(event, data=asked.get("includeExecutionData", True)) for event in found], **token}

    def _list_executions(self, asked: Fields) -> Fields:
        with self._lock:
            if "mapRunArn" in asked:
                records = [*self._map_run(asked["mapRunArn"]).children.values()]
            else:
                arn = asked["stateMachineArn"]
                self._qualified(arn)
                records = [
                    each.record
                    for each in self._running.values()
                    if arn in (each.record.machine_arn, each.record.version_arn, each.record.alias_arn)
                ]
            wanted = asked.get("statusFilter")
            latest = [each for each in reversed(records) if wanted is None or each.status == wanted]
            found, token = page(latest, asked, _PAGE)
            return {"executions": [each.listed() for each in found], **token}

    def _list_map_runs(self, asked: Fields) -> Fields:
        with self._lock:
            running = self._known(asked["executionArn"])
            found, token = page(running.histories.map_runs[::-1], asked, _PAGE)
            return {"mapRuns": [each.listed() for each in found], **token}

    def _describe_map_run(self, asked: Fields) -> Fields:
        with self._lock:
            return self._map_run(asked["mapRunArn"]).described()

    # state machines

    def _list_state_machines(self, asked: Fields) -> Fields:
        found, token = page([*self._machines.values()], asked, _PAGE)
        listed = [
            {"stateMachineArn": each.arn, "name": each.name, "type": "STANDARD", "creationDate": each.created}
            for each in found
        ]
        return {"stateMachines": listed, **token}

    def _describe_state_machine(self, asked: Fields) -> Fields:
        machine, revision, version, _ = self._qualified(asked["stateMachineArn"])
        return {
            "stateMachineArn": version or machine.arn,
            "name": machine.name,
            "status": "ACTIVE",
            "definition": revision.definition,
            "roleArn": revision.role,
            "type": "STANDARD",
            "creationDate": machine.created,
            "revisionId": revision.id,
        }

    def _describe_state_machine_for_execution(self, asked: Fields) -> Fields:
        record = self._record(asked["executionArn"])
        root = record if record.map_run is None else record.map_run.parent
        running = self._known(root.arn)
        found: Fields = {
            "stateMachineArn": record.machine_arn,
            "name": root.machine_arn.rpartition(":")[2],
            "definition": running.revision.definition,
            "roleArn": running.revision.role,
            "updateDate": record.started,
            "revisionId": running.revision.id,
            "mapRunArn": None if record.map_run is None else record.map_run.arn,
            "label": None if record.map_run is None else record.machine_arn.rpartition("/")[2],
        }
        return without_none(found)

    def _publish_state_machine_version(self, asked: Fields) -> Fields:
        arn = self.publish(asked["stateMachineArn"], asked.get("revisionId", ""))
        return {"stateMachineVersionArn": arn, "creationDate": now()}

    def _delete_state_machine_version(self, asked: Fields) -> Fields:
        self.drop_version(asked["stateMachineVersionArn"])
        return {}

    def _list_state_machine_versions(self, asked: Fields) -> Fields:
        machine = self._machine(asked["stateMachineArn"])
        latest = sorted(machine.versions.items(), reverse=True)
        found, token = page([version for _, version in latest], asked, _PAGE)
        listed = [{"stateMachineVersionArn": each.arn, "creationDate": each.created} for each in found]
        return {"stateMachineVersions": listed, **token}

    def _describe_state_machine_alias(self, asked: Fields) -> Fields:
        machine, name = self._alias(asked["stateMachineAliasArn"])
        version, changed = machine.aliases[name]
        return {
            "stateMachineAliasArn": asked["stateMachineAliasArn"],
            "name": name,
            "routingConfiguration": [{"stateMachineVersionArn": version, "weight": 100}],
            "creationDate": machine.created,
            "updateDate": changed,
        }

    def _list_state_machine_aliases(self, asked: Fields) -> Fields:
        machine = self._machine(asked["stateMachineArn"])
        found = [
            {"stateMachineAliasArn": f"{machine.arn}:{name}", "creationDate": changed}
            for name, (_, changed) in machine.aliases.items()
        ]
        return {"stateMachineAliases": found}

    def _update_state_machine_alias(self, asked: Fields) -> Fields:
        machine, name = self._alias(asked["stateMachineAliasArn"])
        [route] = asked["routingConfiguration"]
        self.set_alias(machine.arn, name, route["stateMachineVersionArn"])
        return {"updateDate": now()}

    # finding things

    def _machine(self, arn: str) -> Machine:
        if arn not in self._machines:
            raise ApiError("StateMachineDoesNotExist", f"State Machine Does Not Exist: '{arn}'")
        return self._machines[arn]

    def _alias(self, arn: str) -> tuple[Machine, str]:
        machine_arn, _, name = arn.rpartition(":")
        machine = self._machines.get(machine_arn)
        if machine is None or name not in machine.aliases:
            raise ApiError("ResourceNotFound", f"Resource not found: '{arn}'")
        return machine, name

    def _version(self, machine: Machine, arn: str) -> Version:
        number = arn.rpartition(":")[2]
        if not number.isdigit() or int(number) not in machine.versions:
            raise ApiError("ResourceNotFound", f"Resource not found: '{arn}'")
        return machine.versions[int(number)]

    def _qualified(self, arn: str) -> tuple[Machine, Revision, str, str]:
        """Return machine and revision that an ARN stands for, and the ARNs of version and alias, if it has them."""
        if arn in self._machines:
            return self._machines[arn], self._machines[arn].revision, "", ""
        machine_arn, _, qualifier = arn.rpartition(":")
        machine = self._machine(machine_arn) if machine_arn in self._machines else self._machine(arn)
        alias = arn if qualifier in machine.aliases else ""
        if alias:
            arn = machine.aliases[qualifier][0]
        try:
            version = self._version(machine, arn)
        except ApiError:
            raise ApiError("StateMachineDoesNotExist", f"State Machine Does Not Exist: '{arn}'") from None
        return machine, version.revision, version.arn, alias

    def _known(self, arn: str) -> Running:
        if arn not in self._running:
            raise ApiError("ExecutionDoesNotExist", f"Execution Does Not Exist: '{arn}'")
        return self._running[arn]

    def _record(self, arn: str) -> Record:
        if arn in self._running:
            return self._running[arn].record
        for map_run in self._map_runs():
            if arn in map_run.children:
                return map_run.children[arn]
        raise ApiError("ExecutionDoesNotExist", f"Execution Does Not Exist: '{arn}'")

    def _map_run(self, arn: str) -> MapRunRecord:
        for map_run in self._map_runs():
            if map_run.arn == arn:
                return map_run
        raise ApiError("ResourceNotFound", f"Resource not found: '{arn}'")

    def _map_runs(self) -> Iterator[MapRunRecord]:
        return (map_run for each in self._running.values() for map_run in each.histories.map_runs)

    # running

    def _made(self, machine: Machine, revision: Revision, record: Record, given: Json) -> Running:
        read = read_definition(json.loads(revision.definition), machine.name)
        stop, histories = threading.Event(), Histories(record)

        def listen(event: HistoryEvent) -> None:
            with self._lock:
                histories.follow(event)

        clock = RealClock(stop, self._scale)
        invoked = _Invoked(self._functions, stop)
        services = Services(invoked, self._objects, clock, listen, Settings(workers=2), stop=stop)
        execution = Execution(services, read.states, Identity(machine.name, record.name, read.timeout), given)
        return Running(record, histories, revision, execution, services, stop)

    def _go(self, running: Running, work: Callable[[], Any]) -> None:
        before = running.thread

        def run() -> None:
            if before is not None:
                before.join()
            try:
                work()
            except StoppedError:
                return

        running.thread = threading.Thread(target=run, name=f"execution-{running.record.name}", daemon=True)
        running.thread.start()


OPERATIONS = (
    "StartExecution", "RedriveExecution", "StopExecution", "DescribeExecution", "GetExecutionHistory", "ListExecutions",
    "ListMapRuns", "DescribeMapRun", "ListStateMachines", "DescribeStateMachine", "DescribeStateMachineForExecution",
    "PublishStateMachineVersion", "DeleteStateMachineVersion", "ListStateMachineVersions", "DescribeStateMachineAlias",
    "ListStateMachineAliases", "UpdateStateMachineAlias",
)  # fmt: skip


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
