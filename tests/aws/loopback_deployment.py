"""One stack of CloudFormation: resource after resource made, changed or deleted, with events, and back if one fails.

https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/view-stack-events-by-operation.html
"""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from aws.loopback_changes import Existing
from aws.loopback_history import now, without_none
from aws.loopback_protocol import ApiError, Fields
from aws.loopback_resources import Made, Resource, Where, reason
from aws.loopback_template import Template, differs

_STACK = "AWS::CloudFormation::Stack"
_UPDATABLE = ("CREATE_COMPLETE", "UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE")


class _FailedError(Exception):
    """A resource failed: which, and how."""


@dataclass
class Stack:
    """A stack."""

    arn: str
    name: str
    types: Mapping[str, Resource]
    description: str
    status: str = "REVIEW_IN_PROGRESS"
    reason: str = ""
    template: Template | None = None
    tags: list[Fields] = field(default_factory=list)
    capabilities: list[str] = field(default_factory=list)
    role: str | None = None
    change_set: str | None = None
    protected: bool = False
    deletes_failed: bool = False
    retains_new: bool = True
    created: datetime = field(default_factory=now)
    updated: datetime | None = None
    deleted: datetime | None = None
    resources: dict[str, Existing] = field(default_factory=dict)
    states: dict[str, Fields] = field(default_factory=dict)
    events: list[Fields] = field(default_factory=list)
    outputs: list[Fields] = field(default_factory=list)
    thread: threading.Thread | None = None

    # what it is

    def check_updatable(self) -> None:
        """Raise ApiError for a stack that cannot be updated now."""
        if self.status not in _UPDATABLE:
            raise ApiError("ValidationError", f"Stack:{self.arn} is in {self.status} state and can not be updated.")

    def described(self) -> Fields:
        """Return its part of the answer of DescribeStacks."""
        known = self.template
        parameters = {} if known is None else known.parameters
        return without_none(
            {
                "StackId": self.arn,
                "StackName": self.name,
                "ChangeSetId": self.change_set,
                "Description": None if known is None else known.content.get("Description"),
                "Parameters": [{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
                "CreationTime": self.created,
                "LastUpdatedTime": self.updated,
                "DeletionTime": self.deleted,
                "RollbackConfiguration": {},
                "StackStatus": self.status,
                "StackStatusReason": self.reason or None,
                "DisableRollback": False,
                "NotificationARNs": [],
                "Capabilities": self.capabilities,
                "Outputs": self.outputs,
                "RoleARN": self.role,
                "Tags": self.tags,
                "EnableTerminationProtection": self.protected,
                "DriftInformation": {"StackDriftStatus": "NOT_CHECKED"},
            }
        )

    def summary(self) -> Fields:
        """Return its part of the answer of ListStacks."""
        names = ("StackId", "StackName", "CreationTime", "LastUpdatedTime", "DeletionTime", "StackStatus")
        found = self.described()
        found["TemplateDescription"] = found.get("Description")
        wanted = (*names, "StackStatusReason", "DriftInformation", "TemplateDescription")
        return without_none({name: found.get(name) for name in wanted})

    def told(self) -> list[Fields]:
        """Return its events, newest first."""
        return list(reversed(self.events))

    def listed_resources(self, moment: str, *, whole: bool) -> list[Fields]:
        """Return its resources; ``moment``: the name of the field with the time of the last change."""
        found = []
        for name, state in self.states.items():
            each = {
                "LogicalResourceId": name,
                "PhysicalResourceId": state["physical"] or None,
                "ResourceType": state["type"],
                moment: state["time"],
                "ResourceStatus": state["status"],
                "ResourceStatusReason": state["reason"] or None,
            }
            found.append(without_none({**each, **({"StackId": self.arn, "StackName": self.name} if whole else {})}))
        return found

    def set_status(self, status: str, reason: str = "") -> None:
        """Take a status and tell of it."""
        self.reason = reason
        self._tell(self.name, self.arn, _STACK, status, reason)
        self.status = status

    # what is done to it

    def start_deployment(self, template: Template, *, create: bool) -> None:
        """Make it, or change it, as a template says, on a thread."""
        self.set_status("CREATE_IN_PROGRESS" if create else "UPDATE_IN_PROGRESS", "User Initiated")
        if not create:
            self.updated = now()
        self._start(lambda: self._deploy(template, create=create))

    def start_deletion(self) -> None:
        """Delete it, on a thread."""
        self.set_status("DELETE_IN_PROGRESS", "User Initiated")
        self._start(self._delete)

    def join(self) -> None:
        """Wait for what is being done."""
        if self.thread is not None:
            self.thread.join()

    def _start(self, work: Callable[[], None]) -> None:
        self.join()
        self.thread = threading.Thread(target=work, name=f"cfn-{self.name}")
        self.thread.start()

    def _deploy(self, template: Template, *, create: bool) -> None:
        before, self.template = self.template, template
        old = dict(self.resources)
        outputs = self.outputs
        changed: list[tuple[Existing | None, Existing]] = []
        try:
            for name in template.resources:
                self._bring(name, template, changed)
            self.outputs = template.outputs(self._value)
        except _FailedError:
            self.outputs = outputs
            self._roll_back(before, old, changed, create=create)
            return
        if create:
            self.set_status("CREATE_COMPLETE")
            return
        self.set_status("UPDATE_COMPLETE_CLEANUP_IN_PROGRESS")
        for was, new in reversed(changed):
            if was is not None and was.made.physical != new.made.physical:
                policy = template.content["Resources"][new.logical].get("UpdateReplacePolicy", "Delete")
                self._remove(was, policy, replaced=True)
        for name in reversed([name for name in self.resources if name not in template.resources]):
            self._remove(self.resources[name], self.resources[name].deletion)
        self.set_status("UPDATE_COMPLETE")

    def _bring(self, name: str, template: Template, changed: list[tuple[Existing | None, Existing]]) -> None:
        """Make a resource, or change or replace it, if it is not yet as the template says."""
        described = template.resources[name]
        kind = self.types[described["Type"]]
        known = self.resources.get(name)
        verb = "CREATE" if known is None else "UPDATE"
        physical = "" if known is None else known.made.physical
        properties: Fields = {}
        try:
            properties = template.properties(name, self._value)
            policy = described.get("DeletionPolicy", "Delete")
            names = [] if known is None else sorted({*known.properties, *properties})
            differing = [each for each in names if known and differs(known.properties.get(each), properties.get(each))]
            if known is not None and known.type == described["Type"] and not differing:
                known.deletion = policy
                return
            self._tell_of(name, described["Type"], f"{verb}_IN_PROGRESS", physical, properties=properties)
            kind.check(properties)
            in_place = known is not None and known.type == described["Type"] and not kind.replaced_by & set(differing)
            if known is not None and in_place:
                made = kind.update(known.made, properties)
            else:
                if known is not None:
                    why = "Requested update requires the creation of a new physical resource; hence creating one."
                    self._tell_of(name, described["Type"], f"{verb}_IN_PROGRESS", physical, why)
                    self._check_name(name, described["Type"], properties, known)
                made = kind.create(properties, Where(self.name, name))
                self._tell_of(
                    name, described["Type"], f"{verb}_IN_PROGRESS", made.physical, "Resource creation Initiated"
                )
        except Exception as error:
            self._tell_of(name, described["Type"], f"{verb}_FAILED", physical, reason(error), properties)
            raise _FailedError(name) from error
        new = Existing(name, described["Type"], made, properties, policy)
        self.resources[name] = new
        changed.append((known, new))
        self._tell_of(name, new.type, f"{verb}_COMPLETE", made.physical, properties=properties)

    def _check_name(self, name: str, kind: str, properties: Fields, known: Existing) -> None:
        """A resource with a name of its own cannot be replaced by one of the same name."""
        named = next((each for each in ("FunctionName", "StateMachineName", "RoleName", "LogGroupName") if
                      each in properties and kind.endswith(each.removesuffix("Name"))), None)  # fmt: skip
        if named is not None and known.properties.get(named) == properties[named]:
            raise ValueError(
                f"CloudFormation cannot update a stack when a custom-named resource requires replacing. Rename "
                f"{properties[named]} and update the stack again."
            )

    def _roll_back(
        self,
        before: Template | None,
        old: dict[str, Existing],
        changed: list[tuple[Existing | None, Existing]],
        *,
        create: bool,
    ) -> None:
        failed = [name for name, each in self.states.items() if each["status"] in ("CREATE_FAILED", "UPDATE_FAILED")]
        verb = "create" if create else "update"
        why = f"The following resource(s) failed to {verb}: [{', '.join(failed)}]. "
        deletes = create and self.deletes_failed
        beginning = "DELETE_IN_PROGRESS" if deletes else "ROLLBACK_IN_PROGRESS"
        self.set_status(beginning if create else "UPDATE_ROLLBACK_IN_PROGRESS", why)
        for was, new in reversed(changed):
            if was is None or was.made.physical != new.made.physical:
                continue
            self._tell_of(was.logical, was.type, "UPDATE_IN_PROGRESS", was.made.physical)
            was.made = self.types[was.type].update(was.made, was.properties)
            self._tell_of(was.logical, was.type, "UPDATE_COMPLETE", was.made.physical)
        if not create:
            self.set_status("UPDATE_ROLLBACK_COMPLETE_CLEANUP_IN_PROGRESS")
        for was, new in reversed(changed):
            if was is None:
                self._remove(new, "Retain" if self.retains_new and new.deletion == "Retain" else "Delete")
            elif was.made.physical != new.made.physical:
                self._remove(new, "Delete", replaced=True)
        self.resources = {} if create else old
        self.states = {name: each for name, each in self.states.items() if create or name in old}
        if create:
            self.set_status("DELETE_COMPLETE" if deletes else "ROLLBACK_COMPLETE")
        else:
            self.template = before
            for name in failed:
                if name in old:
                    self._tell_of(name, old[name].type, "UPDATE_COMPLETE", old[name].made.physical)
            self.set_status("UPDATE_ROLLBACK_COMPLETE")

    def _delete(self) -> None:
        for name in reversed(list(self.resources)):
            known = self.resources[name]
            if not self._remove(known, known.deletion):
                self.set_status("DELETE_FAILED", f"The following resource(s) failed to delete: [{name}]. ")
                return
        self.deleted = now()
        self.set_status("DELETE_COMPLETE")

    def _remove(self, known: Existing, policy: str, *, replaced: bool = False) -> bool:
        """Delete a resource, unless it is to be kept; tell whether that could be done."""
        name = known.logical
        if not replaced:
            self.resources.pop(name, None)
        if policy in ("Retain", "RetainExceptOnCreate"):
            self._tell(name, known.made.physical, known.type, "DELETE_SKIPPED")
            if not replaced:
                self._note(name, known.type, "DELETE_SKIPPED", known.made.physical, "")
            return True
        self._tell(name, known.made.physical, known.type, "DELETE_IN_PROGRESS")
        status, why = "DELETE_COMPLETE", ""
        try:
            self.types[known.type].delete(known.made)
        except Exception as error:
            status, why = "DELETE_FAILED", reason(error)
            if not replaced:
                self.resources[name] = known
        self._tell(name, known.made.physical, known.type, status, why)
        if not replaced:
            self._note(name, known.type, status, known.made.physical, why)
        return not why

    def _value(self, name: str, attribute: str) -> Any:
        made: Made = self.resources[name].made
        if not attribute:
            return made.physical
        if attribute not in made.attributes:
            raise ValueError(
                f"Requested attribute {attribute} does not exist in schema for {self.resources[name].type}"
            )
        return made.attributes[attribute]

    def _tell_of(
        self, name: str, kind: str, status: str, physical: str, why: str = "", properties: Fields | None = None
    ) -> None:
        self._note(name, kind, status, physical, why)
        self._tell(name, physical, kind, status, why, properties)

    def _note(self, name: str, kind: str, status: str, physical: str, why: str) -> None:
        self.states[name] = {"type": kind, "status": status, "physical": physical, "reason": why, "time": now()}

    def _tell(
        self, name: str, physical: str, kind: str, status: str, why: str = "", properties: Fields | None = None
    ) -> None:
        event = {
            "StackId": self.arn,
            "EventId": f"{name}-{status}-{uuid.uuid4()}",
            "StackName": self.name,
            "LogicalResourceId": name,
            "PhysicalResourceId": physical,
            "ResourceType": kind,
            "Timestamp": now(),
            "ResourceStatus": status,
            "ResourceStatusReason": why or None,
            "ResourceProperties": json.dumps(properties) if properties is not None else None,
        }
        self.events.append(without_none(event))
