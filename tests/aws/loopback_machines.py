"""Step Functions: state machines with their versions and aliases.

https://docs.aws.amazon.com/step-functions/latest/dg/concepts-cd-aliasing-versioning.html
"""

from __future__ import annotations

import json
import re
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from aws.loopback_history import now, without_none
from aws.loopback_integrations import with_integrations
from aws.loopback_protocol import ApiError, Fields, page
from aws.loopback_runs import Runs
from lokki.emulator.states.definition import read_definition
from lokki.emulator.states.services import ACCOUNT, REGION
from lokki.errors import EmulatorError

PREFIX = f"arn:aws:states:{REGION}:{ACCOUNT}:"
_BAD_NAME = re.compile(r"[\s<>{}\[\]?*\"#%\\^|~`$&,;:/\x00-\x1f\x7f-\x9f]")
FIRST_REVISION = "INITIAL"


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
    revision: str = FIRST_REVISION
    published: int = 0
    versions: dict[str, Version] = field(default_factory=dict)
    aliases: dict[str, Alias] = field(default_factory=dict)


class StateMachines:
    """The part of the service that is about state machines; `operations` is its API."""

    def __init__(self, runs: Runs) -> None:
        self.runs = runs
        self._machines: dict[str, Machine] = {}
        self._lock = threading.RLock()

    @property
    def operations(self) -> dict[str, Callable[[Fields], Fields]]:
        """All operations by name."""
        return {
            "CreateStateMachine": self.create_machine,
            "UpdateStateMachine": self.update_machine,
            "DeleteStateMachine": self.delete_machine,
            "DescribeStateMachine": self.describe_machine,
            "ListStateMachines": self.list_machines,
            "PublishStateMachineVersion": self.publish,
            "DeleteStateMachineVersion": self.delete_version,
            "ListStateMachineVersions": self.list_versions,
            "CreateStateMachineAlias": self.create_alias,
            "UpdateStateMachineAlias": self.update_alias,
            "DescribeStateMachineAlias": self.describe_alias,
            "DeleteStateMachineAlias": self.delete_alias,
            "ListStateMachineAliases": self.list_aliases,
            "ListTagsForResource": self.list_tags,
            "ValidateStateMachineDefinition": self.validate,
        }

    # state machines

    def create_machine(self, request: Fields) -> Fields:
        name = checked_name(request["name"])
        arn = f"{PREFIX}stateMachine:{name}"
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

    def validate(self, request: Fields) -> Fields:
        """Say whether a definition would be taken."""
        try:
            _check_definition(request["definition"], "validated")
        except ApiError as error:
            problem = {"severity": "ERROR", "code": "SCHEMA_VALIDATION_FAILED", "message": error.message}
            return {"result": "FAIL", "diagnostics": [problem], "truncated": False}
        return {"result": "OK", "diagnostics": [], "truncated": False}

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
        if revision != FIRST_REVISION:
            described["revisionId"] = revision
        if version and version.description:
            described["description"] = version.description
        return described

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
        if not arn.startswith(f"{PREFIX}stateMachine:"):
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
        if not re.fullmatch(rf"{re.escape(PREFIX)}stateMachine:[^:]+:\d+", arn):
            raise ApiError("ValidationException", f"Invalid version ARN: '{arn}'")
        machine = self._machines.get(arn.rpartition(":")[0])
        if machine is None:
            return {}
        users = [each.name for each in machine.aliases.values() if arn in targets(each.routes)]
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
        found = [each for each in machine.aliases.values() if arn == machine.arn or arn in targets(each.routes)]
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
        for target in targets(routes):
            machine = self._machines.get(target.rpartition(":")[0])
            if machine is None or target not in machine.versions:
                raise ApiError("ResourceNotFound", f"Request references a resource that does not exist: '{target}'")
            machines.append(machine)
        if len({each.arn for each in machines}) > 1:
            raise ApiError("ValidationException", "Versions of an alias must be of one state machine")
        return machines[0]


def checked_name(name: str) -> str:
    if not 1 <= len(name) <= 80 or _BAD_NAME.search(name):
        raise ApiError("InvalidName", f"Invalid Name: '{name}'")
    return name


def _check_definition(definition: str, name: str) -> None:
    try:
        read_definition(with_integrations(json.loads(definition)), name)
    except (EmulatorError, ValueError) as error:
        raise ApiError("InvalidDefinition", f"Invalid State Machine Definition: '{error}'") from None


def _configurations(request: Fields) -> Fields:
    names = ("loggingConfiguration", "tracingConfiguration", "encryptionConfiguration")
    return {name: request[name] for name in names if name in request}


def targets(routes: list[Fields]) -> list[str]:
    return [each["stateMachineVersionArn"] for each in routes]
