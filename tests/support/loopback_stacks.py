"""CloudFormation on loopback: change sets that are executed, resource after resource, and undone when one fails.

moto's makes resources without regard to what they refer to, does not undo what failed and knows neither versions nor
aliases; this one knows only what lokki's templates use, and refuses all else.
https://docs.aws.amazon.com/AWSCloudFormation/latest/APIReference/
"""

from __future__ import annotations

import json
import re
import threading
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from graphlib import TopologicalSorter
from typing import Any

import yaml

from support.loopback_history import now, without_none
from support.loopback_protocol import Api, ApiError, Fields
from support.loopback_resources import Client, Made, ResourceError, Resources

type Template = dict[str, Any]

_PSEUDO = {
    "AWS::Region": "us-east-1",
    "AWS::AccountId": "123456789012",
    "AWS::Partition": "aws",
    "AWS::URLSuffix": "amazonaws.com",
}
_PLACEHOLDER = re.compile(r"\$\{([A-Za-z0-9:.]+)\}")
_BODY_LIMIT = 51_200


@dataclass(frozen=True)
class Item:
    """A resource of a stack as it was made: its part of the template, its resolved properties, and what it is."""

    kind: str
    declared: Template
    properties: Template
    made: Made
    changed: datetime


@dataclass
class ChangeSet:
    """A planned change. ``changes``: in AWS's format."""

    id: str
    name: str
    stack: Stack
    creates: bool
    text: str
    parameters: dict[str, str]
    changes: list[Fields]
    status: str
    reason: str = ""
    on_failure: str = "ROLLBACK"


@dataclass
class Stack:
    """A stack. ``items``: what it has, by logical id."""

    id: str
    name: str
    status: str
    created: datetime
    text: str = ""
    parameters: dict[str, str] = field(default_factory=dict)
    items: dict[str, Item] = field(default_factory=dict)
    outputs: dict[str, tuple[str, str]] = field(default_factory=dict)
    events: list[Fields] = field(default_factory=list)
    worker: threading.Thread | None = None

    @property
    def template(self) -> Template:
        """What it was made from."""
        return yaml.safe_load(self.text) if self.text else {}

    def tell(self, logical_id: str, kind: str, physical: str, status: str, reason: str = "") -> None:
        """Add an event."""
        self.events.append(
            without_none(
                {
                    "StackId": self.id,
                    "EventId": f"{logical_id}-{uuid.uuid4()}",
                    "StackName": self.name,
                    "LogicalResourceId": logical_id,
                    "PhysicalResourceId": physical,
                    "ResourceType": kind,
                    "Timestamp": now(),
                    "ResourceStatus": status,
                    "ResourceStatusReason": reason or None,
                }
            )
        )

    def become(self, status: str, reason: str = "") -> None:
        """Be in another status, and tell of it."""
        self.tell(self.name, "AWS::CloudFormation::Stack", self.id, status, reason)
        self.status = status


class Stacks:
    """The service."""

    def __init__(self, client: Client, resources: Resources) -> None:
        self._client = client
        self._kinds = resources.kinds
        self._lock = threading.RLock()
        self._stacks: dict[str, Stack] = {}
        self._change_sets: dict[str, ChangeSet] = {}
        self.api = Api(
            "cloudformation",
            {
                "CreateChangeSet": self._create_change_set,
                "CreateStack": self._create_stack,
                "DeleteChangeSet": self._delete_change_set,
                "DeleteStack": self._delete_stack,
                "DescribeChangeSet": self._describe_change_set,
                "DescribeStackEvents": lambda asked: {"StackEvents": self._find(asked["StackName"]).events[::-1]},
                "DescribeStackResource": self._describe_stack_resource,
                "DescribeStacks": self._describe_stacks,
                "ExecuteChangeSet": self._execute_change_set,
                "GetTemplate": lambda asked: {"TemplateBody": self._find(asked["StackName"]).text},
                "ListStackResources": self._list_stack_resources,
            },
        )

    def wait(self) -> None:
        """Wait until no stack changes."""
        for stack in [*self._stacks.values()]:
            if stack.worker is not None:
                stack.worker.join()

    # operations

    def _create_change_set(self, asked: Fields) -> Fields:
        text, parameters = self._text(asked), _given(asked)
        creates = asked.get("ChangeSetType", "UPDATE") == "CREATE"
        stack = self._named(asked["StackName"])
        if creates and stack is not None and stack.status != "REVIEW_IN_PROGRESS":
            raise ApiError("AlreadyExistsException", f"Stack [{stack.name}] already exists")
        if stack is None:
            if not creates:
                raise ApiError("ValidationError", f"Stack [{asked['StackName']}] does not exist")
            stack = self._new(asked["StackName"], "REVIEW_IN_PROGRESS")
        template = yaml.safe_load(text)
        self._check(template, parameters, asked)
        changes = [*self._changes(stack, template, parameters)]
        made = ChangeSet(
            f"arn:aws:cloudformation:us-east-1:123456789012:changeSet/{asked['ChangeSetName']}/{uuid.uuid4()}",
            asked["ChangeSetName"],
            stack,
            creates,
            text,
            parameters,
            changes,
            "CREATE_COMPLETE" if changes else "FAILED",
            ""
            if changes
            else "The submitted information didn't contain changes. Submit different information to create "
            "a change set.",
            asked.get("OnStackFailure", "ROLLBACK"),
        )
        self._change_sets[made.id] = made
        return {"Id": made.id, "StackId": stack.id}

    def _describe_change_set(self, asked: Fields) -> Fields:
        found = self._change_set(asked["ChangeSetName"])
        return without_none(
            {
                "ChangeSetName": found.name,
                "ChangeSetId": found.id,
                "StackId": found.stack.id,
                "StackName": found.stack.name,
                "Status": found.status,
                "StatusReason": found.reason or None,
                "ExecutionStatus": "AVAILABLE" if found.changes else "UNAVAILABLE",
                "Changes": found.changes,
            }
        )

    def _delete_change_set(self, asked: Fields) -> Fields:
        self._change_sets.pop(self._change_set(asked["ChangeSetName"]).id)
        return {}

    def _execute_change_set(self, asked: Fields) -> Fields:
        found = self._change_set(asked["ChangeSetName"])
        if not found.changes:
            raise ApiError("InvalidChangeSetStatus", f"ChangeSet [{found.id}] cannot be executed in its current status")
        self._begin(found, retains=not asked.get("RetainExceptOnCreate", False))
        return {}

    def _create_stack(self, asked: Fields) -> Fields:
        if self._named(asked["StackName"]) is not None:
            raise ApiError("AlreadyExistsException", f"Stack [{asked['StackName']}] already exists")
        text, parameters = self._text(asked), _given(asked)
        self._check(yaml.safe_load(text), parameters, asked)
        stack = self._new(asked["StackName"], "CREATE_IN_PROGRESS")
        made = ChangeSet("", "", stack, True, text, parameters, [{}], "CREATE_COMPLETE")
        made.on_failure = asked.get("OnFailure", "ROLLBACK")
        self._begin(made, retains=True)
        return {"StackId": stack.id}

    def _delete_stack(self, asked: Fields) -> Fields:
        stack = self._named(asked["StackName"])
        if stack is None:
            return {}
        if stack.status == "REVIEW_IN_PROGRESS":
            stack.status = "DELETE_COMPLETE"
            return {}
        stack.become("DELETE_IN_PROGRESS", "User Initiated")
        stack.worker = threading.Thread(target=self._delete, args=(stack,), daemon=True)
        stack.worker.start()
        return {}

    def _describe_stacks(self, asked: Fields) -> Fields:
        if "StackName" in asked:
            return {"Stacks": [_described(self._find(asked["StackName"]))]}
        return {"Stacks": [_described(each) for each in self._stacks.values() if each.status != "DELETE_COMPLETE"]}

    def _describe_stack_resource(self, asked: Fields) -> Fields:
        stack, name = self._find(asked["StackName"]), asked["LogicalResourceId"]
        if name not in stack.items:
            raise ApiError("ValidationError", f"Resource {name} does not exist for stack {stack.name}")
        return {
            "StackResourceDetail": {**_summary(name, stack.items[name], "LastUpdatedTimestamp"), "StackId": stack.id}
        }

    def _list_stack_resources(self, asked: Fields) -> Fields:
        stack = self._find(asked["StackName"])
        items = stack.items.items()
        return {"StackResourceSummaries": [_summary(name, item, "LastUpdatedTimestamp") for name, item in items]}

    # finding things

    def _new(self, name: str, status: str) -> Stack:
        stack = Stack(f"arn:aws:cloudformation:us-east-1:123456789012:stack/{name}/{uuid.uuid4()}", name, status, now())
        self._stacks[stack.id] = stack
        return stack

    def _named(self, name: str) -> Stack | None:
        """Return a stack by its name or id; deleted ones have no name any more."""
        by_name = (each for each in self._stacks.values() if each.name == name and each.status != "DELETE_COMPLETE")
        return self._stacks.get(name) or next(by_name, None)

    def _find(self, name: str) -> Stack:
        found = self._named(name)
        if found is None:
            raise ApiError("ValidationError", f"Stack with id {name} does not exist")
        return found

    def _change_set(self, name: str) -> ChangeSet:
        if name not in self._change_sets:
            raise ApiError("ChangeSetNotFound", f"ChangeSet [{name}] does not exist", 404)
        return self._change_sets[name]

    def _text(self, asked: Fields) -> str:
        if "TemplateURL" in asked:
            found = re.fullmatch(r"https://([^.]+)\.s3\.[a-z0-9-]+\.amazonaws\.com/(.+)", asked["TemplateURL"])
            if found is None:
                raise ApiError("ValidationError", "TemplateURL must be a supported URL.")
            content = self._client("s3").get_object(Bucket=found[1], Key=found[2])["Body"].read()
            return str(content.decode())
        text = str(asked["TemplateBody"])
        if len(text.encode()) > _BODY_LIMIT:
            raise ApiError(
                "ValidationError",
                "1 validation error detected: Value at 'templateBody' failed to satisfy constraint: Member must have "
                f"length less than or equal to {_BODY_LIMIT}",
            )
        return text

    def _check(self, template: Template, parameters: Mapping[str, str], asked: Fields) -> None:
        declared = template.get("Parameters", {})
        if unknown := sorted(set(parameters) - set(declared)):
            raise ApiError("ValidationError", f"Parameters: [{', '.join(unknown)}] do not exist in the template")
        missing = [name for name, each in declared.items() if name not in parameters and "Default" not in each]
        if missing:
            raise ApiError("ValidationError", f"Parameters: [{', '.join(missing)}] must have values")
        for name, resource in template["Resources"].items():
            if resource["Type"] not in self._kinds:
                raise ApiError(
                    "ValidationError",
                    f"Template format error: Unrecognized resource types: [{resource['Type']}]",
                )
            if unknown := sorted(_references(resource) - {*template["Resources"], *declared, *_PSEUDO}):
                raise ApiError(
                    "ValidationError", f"Template format error: Unresolved resource dependencies {unknown} in {name}"
                )
        roles = any(each["Type"] == "AWS::IAM::Role" for each in template["Resources"].values())
        if roles and "CAPABILITY_IAM" not in asked.get("Capabilities", []):
            raise ApiError("InsufficientCapabilitiesException", "Requires capabilities : [CAPABILITY_IAM]")

    # what would change

    def _changes(self, stack: Stack, template: Template, parameters: Mapping[str, str]) -> Iterator[Fields]:
        """Yield what executing would do: what refers to something that is replaced or changes may change, too."""
        before, after = stack.template.get("Resources", {}), template["Resources"]
        values = _values(template, parameters)
        told = {name: value for name, value in values.items() if stack.parameters.get(name) != value}
        moved: dict[str, bool] = {}  # what was made, replaced (True) or changed (False)
        for name in _ordered(after):
            resource = after[name]
            if name not in before:
                moved[name] = True
                yield _change("Add", name, resource["Type"])
                continue
            old, new = before[name].get("Properties", {}), resource.get("Properties", {})
            names = {each for each in {*old, *new} if old.get(each) != new.get(each)}
            names |= {each for each, value in new.items() if _references(value) & set(told)}
            names |= {each for each, value in new.items() if _moves(value, moved)}
            if not names:
                continue
            replacing = bool(names & self._kinds[resource["Type"]].replacing)
            moved[name] = replacing
            yield _change("Modify", name, resource["Type"], names, replacing, stack.items[name].made.physical)
        for name in before:
            if name not in after:
                yield _change("Remove", name, before[name]["Type"], physical=stack.items[name].made.physical)

    # doing it

    def _begin(self, change: ChangeSet, *, retains: bool) -> None:
        stack = change.stack
        stack.become("CREATE_IN_PROGRESS" if change.creates else "UPDATE_IN_PROGRESS", "User Initiated")
        stack.worker = threading.Thread(target=self._apply, args=(change, retains), daemon=True)
        stack.worker.start()

    def _apply(self, change: ChangeSet, retains: bool) -> None:
        stack = change.stack
        before = dict(stack.items)
        template = yaml.safe_load(change.text)
        values = {**_values(template, change.parameters), **_PSEUDO}
        replaced: list[tuple[str, Item]] = []
        try:
            for name in _ordered(template["Resources"]):
                self._put(stack, name, template["Resources"][name], values, replaced)
        except ResourceError:
            self._undo(change, before, retains)
            return
        gone = [(name, stack.items.pop(name)) for name in reversed([*before]) if name not in template["Resources"]]
        for name, item in gone:
            if item.declared.get("DeletionPolicy") != "Retain":
                self._remove(stack, name, item)
        for name, item in replaced:
            if item.declared.get("UpdateReplacePolicy") != "Retain":
                self._remove(stack, name, item)
        stack.text, stack.parameters = change.text, _values(template, change.parameters)
        stack.outputs = {
            name: (str(_resolved(each["Value"], values, stack.items)), each.get("Description", ""))
            for name, each in template.get("Outputs", {}).items()
        }
        stack.become("CREATE_COMPLETE" if change.creates else "UPDATE_COMPLETE")

    def _put(
        self, stack: Stack, name: str, declared: Template, values: Mapping[str, str], replaced: list[tuple[str, Item]]
    ) -> None:
        """Make a resource, or change or replace it."""
        kind, item = declared["Type"], stack.items.get(name)
        doing = "CREATE" if item is None else "UPDATE"
        try:
            properties = _resolved(declared.get("Properties", {}), values, stack.items)
            if item is not None and item.properties == properties:
                stack.items[name] = replace(item, declared=declared)
                return
            stack.tell(name, kind, item.made.physical if item else "", f"{doing}_IN_PROGRESS")
            if item is None:
                made = self._kinds[kind].make(f"{stack.name}-{name}", properties)
            elif any(item.properties.get(each) != properties.get(each) for each in self._kinds[kind].replacing):
                made = self._kinds[kind].make(f"{stack.name}-{name}", properties)
                replaced.append((name, item))
            else:
                made = self._kinds[kind].change(item.made, item.properties, properties)
        except ResourceError as error:
            stack.tell(name, kind, "", f"{doing}_FAILED", str(error))
            raise
        stack.items[name] = Item(kind, declared, properties, made, now())
        stack.tell(name, kind, made.physical, f"{doing}_COMPLETE")

    def _undo(self, change: ChangeSet, before: Mapping[str, Item], retains: bool) -> None:
        """Put everything back as it was before."""
        stack = change.stack
        deletes = change.creates and change.on_failure == "DELETE"
        beginning = "DELETE_IN_PROGRESS" if deletes else "ROLLBACK_IN_PROGRESS"
        stack.become(beginning if change.creates else "UPDATE_ROLLBACK_IN_PROGRESS", "The following resource(s) failed")
        for name, item in reversed([*stack.items.items()]):
            old = before.get(name)
            if old is item:
                continue
            if old is not None and old.made.physical == item.made.physical:
                made = self._kinds[item.kind].change(item.made, item.properties, old.properties)
                stack.items[name] = replace(old, made=made)
                stack.tell(name, item.kind, made.physical, "UPDATE_COMPLETE")
                continue
            stack.items.pop(name)
            if old is not None:
                stack.items[name] = old
            if not (retains and item.declared.get("DeletionPolicy") == "Retain"):
                self._remove(stack, name, item)
        ending = "DELETE_COMPLETE" if deletes else "ROLLBACK_COMPLETE"
        if change.creates and not deletes:
            stack.text, stack.parameters = change.text, _values(yaml.safe_load(change.text), change.parameters)
        stack.become(ending if change.creates else "UPDATE_ROLLBACK_COMPLETE")

    def _delete(self, stack: Stack) -> None:
        failed = False
        for name, item in reversed([*stack.items.items()]):
            if item.declared.get("DeletionPolicy") != "Retain":
                failed = not self._remove(stack, name, item) or failed
            else:
                stack.tell(name, item.kind, item.made.physical, "DELETE_SKIPPED")
        if not failed:
            stack.items.clear()
        stack.become("DELETE_FAILED" if failed else "DELETE_COMPLETE")

    def _remove(self, stack: Stack, name: str, item: Item) -> bool:
        stack.tell(name, item.kind, item.made.physical, "DELETE_IN_PROGRESS")
        try:
            self._kinds[item.kind].delete(item.made, item.properties)
        except ResourceError as error:
            stack.tell(name, item.kind, item.made.physical, "DELETE_FAILED", str(error))
            return False
        stack.tell(name, item.kind, item.made.physical, "DELETE_COMPLETE")
        return True


def _resolved(value: Any, values: Mapping[str, str], items: Mapping[str, Item]) -> Any:
    """Return a value with its functions resolved; others than lokki uses are refused."""
    match value:
        case {"Ref": str(name), **rest} if not rest:
            return values[name] if name in values else items[name].made.physical
        case {"Fn::GetAtt": [str(name), str(attribute)], **rest} if not rest:
            return items[name].made.attributes[attribute]
        case {"Fn::Sub": str(text), **rest} if not rest:
            return _PLACEHOLDER.sub(lambda found: str(_placed(found[1], values, items)), text)
        case dict():
            for name in value:
                if name.startswith("Fn::"):
                    raise ResourceError(f"The loopback CloudFormation does not know {name}.")
            return {name: _resolved(each, values, items) for name, each in value.items()}
        case list():
            return [_resolved(each, values, items) for each in value]
    return value


def _placed(name: str, values: Mapping[str, str], items: Mapping[str, Item]) -> Any:
    if "." in name:
        return _resolved({"Fn::GetAtt": name.split(".", 1)}, values, items)
    return _resolved({"Ref": name}, values, items)


def _references(value: Any) -> set[str]:
    """Return the names that a value refers to."""
    match value:
        case {"Ref": str(name), **rest} if not rest:
            return {name}
        case {"Fn::GetAtt": [str(name), _], **rest} if not rest:
            return {name}
        case {"Fn::Sub": str(text), **rest} if not rest:
            return {name.partition(".")[0] for name in _PLACEHOLDER.findall(text)}
        case dict():
            return set().union(*map(_references, value.values()))
        case list():
            return set().union(*map(_references, value))
    return set()


def _moves(value: Any, moved: Mapping[str, bool]) -> bool:
    """Tell whether a value changes since what it refers to is made anew, or is changed and has another revision."""
    text = json.dumps(value)
    return any(
        is_new or '"StateMachineRevisionId"' in text for name, is_new in moved.items() if name in _references(value)
    )


def _ordered(resources: Mapping[str, Template]) -> list[str]:
    """Return the resources' names, each behind those that it refers to."""
    names = {name: _references(each) & set(resources) for name, each in resources.items()}
    return [*TopologicalSorter(names).static_order()]


def _values(template: Template, given: Mapping[str, str]) -> dict[str, str]:
    defaults = {
        name: str(each["Default"]) for name, each in template.get("Parameters", {}).items() if "Default" in each
    }
    return {**defaults, **given}


def _given(asked: Fields) -> dict[str, str]:
    return {each["ParameterKey"]: each["ParameterValue"] for each in asked.get("Parameters", [])}


def _change(
    action: str, name: str, kind: str, properties: set[str] | None = None, replacing: bool = False, physical: str = ""
) -> Fields:
    details = [
        {
            "Target": {
                "Attribute": "Tags" if each == "Tags" else "Properties",
                "Name": each,
                "RequiresRecreation": "Always" if replacing else "Never",
            },
            "Evaluation": "Static",
            "ChangeSource": "DirectModification",
        }
        for each in sorted(properties or ())
    ]
    found = {
        "Action": action,
        "LogicalResourceId": name,
        "PhysicalResourceId": physical or None,
        "ResourceType": kind,
        "Replacement": str(replacing) if action == "Modify" else None,
        "Scope": sorted({each["Target"]["Attribute"] for each in details}) if action == "Modify" else [],  # type: ignore[index]
        "Details": details,
    }
    return {"Type": "Resource", "ResourceChange": without_none(found)}


def _described(stack: Stack) -> Fields:
    return {
        "StackId": stack.id,
        "StackName": stack.name,
        "CreationTime": stack.created,
        "StackStatus": stack.status,
        "Parameters": [{"ParameterKey": key, "ParameterValue": value} for key, value in stack.parameters.items()],
        "Outputs": [
            {"OutputKey": key, "OutputValue": value, "Description": text}
            for key, (value, text) in stack.outputs.items()
        ],
    }


def _summary(name: str, item: Item, time: str) -> Fields:
    return {
        "LogicalResourceId": name,
        "PhysicalResourceId": item.made.physical,
        "ResourceType": item.kind,
        time: item.changed,
        "ResourceStatus": "UPDATE_COMPLETE",
    }
