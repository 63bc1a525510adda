"""CloudFormation's API: change sets, stacks, and what they tell of themselves.

https://docs.aws.amazon.com/AWSCloudFormation/latest/APIReference/Welcome.html
"""

from __future__ import annotations

import re
import threading
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from urllib.parse import unquote, urlparse

from botocore.exceptions import ClientError

from aws.loopback_changes import Plan
from aws.loopback_deployment import Stack
from aws.loopback_history import now, without_none
from aws.loopback_protocol import ApiError, Fields, page
from aws.loopback_resources import Clients, Resource
from aws.loopback_template import Template, read_template
from lokki.emulator.states.services import ACCOUNT, REGION

_PREFIX = f"arn:aws:cloudformation:{REGION}:{ACCOUNT}:"
_BODY_LIMIT, _URL_LIMIT = 51_200, 1_048_576
_NO_CHANGES = "The submitted information didn't contain changes. Submit different information to create a change set."


@dataclass
class ChangeSet:
    """A change set; ``status`` and ``execution`` as AWS has them."""

    arn: str
    name: str
    stack: Stack
    template: Template
    changes: list[Fields]
    request: Fields
    created: datetime
    status: str = "CREATE_COMPLETE"
    execution: str = "AVAILABLE"
    reason: str = ""


@dataclass
class CloudFormation:
    """The service. Stacks are made, changed and deleted on threads."""

    clients: Clients
    types: Mapping[str, Resource]
    stacks: list[Stack] = field(default_factory=list)
    change_sets: dict[str, ChangeSet] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)

    @property
    def operations(self) -> dict[str, Callable[[Fields], Fields]]:
        """All operations by name."""
        return {
            "CreateChangeSet": self.create_change_set,
            "DescribeChangeSet": self.describe_change_set,
            "ExecuteChangeSet": self.execute_change_set,
            "DeleteChangeSet": self.delete_change_set,
            "ListChangeSets": self.list_change_sets,
            "CreateStack": self.create_stack,
            "UpdateStack": self.update_stack,
            "DeleteStack": self.delete_stack,
            "DescribeStacks": self.describe_stacks,
            "ListStacks": self.list_stacks,
            "DescribeStackEvents": self.describe_stack_events,
            "DescribeEvents": self.describe_events,
            "DescribeStackResources": self.describe_stack_resources,
            "DescribeStackResource": self.describe_stack_resource,
            "ListStackResources": self.list_stack_resources,
            "GetTemplate": self.get_template,
            "GetTemplateSummary": self.get_template_summary,
            "ValidateTemplate": self.validate_template,
            "UpdateTerminationProtection": self.protect,
        }

    def wait(self) -> None:
        """Wait until no stack is being changed."""
        for stack in self.stacks:
            stack.join()

    # change sets

    def create_change_set(self, request: Fields) -> Fields:
        name = request["ChangeSetName"]
        kind = request.get("ChangeSetType", "UPDATE")
        with self.lock:
            stack = self._live(request["StackName"])
            if kind == "CREATE":
                if stack is not None and stack.status != "REVIEW_IN_PROGRESS":
                    raise _invalid(
                        f"Stack [{stack.name}] already exists and cannot be created again with the changeSet [{name}]."
                    )
                new = stack is None
                stack = stack or self._new(request)
            else:
                new = False
                if stack is None:
                    raise _invalid(f"Stack [{request['StackName']}] does not exist")
                stack.check_updatable()
            if any(each.name == name for each in self._of(stack)):
                raise ApiError("AlreadyExistsException", f"ChangeSet {name} cannot be created due to a mismatch")
            template = self._template(request, stack)
            changes = Plan(template, stack.template, stack.resources, self.types).make()
            if new:
                self.stacks.append(stack)
                stack.set_status("REVIEW_IN_PROGRESS", "User Initiated")
            arn = f"{_PREFIX}changeSet/{name}/{uuid.uuid4()}"
            made = ChangeSet(arn, name, stack, template, changes, request, now())
            if not changes and not self._outputs_differ(stack, template, request):
                made.status, made.execution, made.reason = "FAILED", "UNAVAILABLE", _NO_CHANGES
            self.change_sets[arn] = made
        return {"Id": arn, "StackId": stack.arn}

    def describe_change_set(self, request: Fields) -> Fields:
        found = self._change_set(request)
        shown, token = page(found.changes, {"nextToken": request.get("NextToken")}, 100)
        described = {
            "ChangeSetName": found.name,
            "ChangeSetId": found.arn,
            "StackId": found.stack.arn,
            "StackName": found.stack.name,
            "Description": found.request.get("Description"),
            "Parameters": _parameters(found.template),
            "CreationTime": found.created,
            "ExecutionStatus": found.execution,
            "Status": found.status,
            "StatusReason": found.reason or None,
            "Capabilities": found.request.get("Capabilities", []),
            "Tags": found.request.get("Tags", []),
            "Changes": shown,
            "NextToken": token.get("nextToken"),
            "IncludeNestedStacks": False,
        }
        return without_none(described)

    def execute_change_set(self, request: Fields) -> Fields:
        with self.lock:
            found = self._change_set(request)
            if found.execution != "AVAILABLE":
                raise ApiError(
                    "InvalidChangeSetStatus",
                    f"ChangeSet [{found.arn}] cannot be executed in its current status of [{found.status}]",
                )
            stack = found.stack
            create = stack.status == "REVIEW_IN_PROGRESS"
            if not create:
                stack.check_updatable()
            for other in self._of(stack):
                if other is not found:
                    del self.change_sets[other.arn]
            stack.change_set = found.arn
            found.execution = "EXECUTE_COMPLETE"
            asked = {**found.request, "RetainExceptOnCreate": request.get("RetainExceptOnCreate", False)}
            self._deploy(stack, found.template, asked, create=create)
        return {}

    def delete_change_set(self, request: Fields) -> Fields:
        try:
            found = self._change_set(request)
        except ApiError:
            return {}
        self.change_sets.pop(found.arn)
        return {}

    def list_change_sets(self, request: Fields) -> Fields:
        stack = self._existing(request["StackName"])
        summaries = [
            without_none(
                {
                    "StackId": stack.arn,
                    "StackName": stack.name,
                    "ChangeSetId": each.arn,
                    "ChangeSetName": each.name,
                    "ExecutionStatus": each.execution,
                    "Status": each.status,
                    "StatusReason": each.reason or None,
                    "CreationTime": each.created,
                    "Description": each.request.get("Description"),
                }
            )
            for each in self._of(stack)
        ]
        return {"Summaries": summaries}

    # stacks

    def create_stack(self, request: Fields) -> Fields:
        with self.lock:
            if self._live(request["StackName"]) is not None:
                raise ApiError("AlreadyExistsException", f"Stack [{request['StackName']}] already exists")
            stack = self._new(request)
            template = self._template(request, stack)
            self.stacks.append(stack)
            self._deploy(stack, template, request, create=True)
        return {"StackId": stack.arn}

    def update_stack(self, request: Fields) -> Fields:
        with self.lock:
            stack = self._existing(request["StackName"])
            stack.check_updatable()
            template = self._template(request, stack)
            changes = Plan(template, stack.template, stack.resources, self.types).make()
            if not changes and not self._outputs_differ(stack, template, request):
                raise _invalid("No updates are to be performed.")
            self._deploy(stack, template, request, create=False)
        return {"StackId": stack.arn}

    def delete_stack(self, request: Fields) -> Fields:
        with self.lock:
            stack = self._live(request["StackName"])
            if stack is None:
                return {}
            if stack.protected:
                raise _invalid(f"Stack [{stack.arn}] cannot be deleted while TerminationProtection is enabled")
            if stack.status.endswith("_IN_PROGRESS") and stack.status != "REVIEW_IN_PROGRESS":
                raise _invalid(f"Stack [{stack.name}] cannot be deleted while in status {stack.status}")
            for each in self._of(stack):
                del self.change_sets[each.arn]
            stack.start_deletion()
        return {}

    def describe_stacks(self, request: Fields) -> Fields:
        if "StackName" in request:
            return {"Stacks": [self._existing(request["StackName"]).described()]}
        return {"Stacks": [each.described() for each in reversed(self.stacks) if each.status != "DELETE_COMPLETE"]}

    def list_stacks(self, request: Fields) -> Fields:
        wanted = request.get("StackStatusFilter")
        found = [each for each in reversed(self.stacks) if not wanted or each.status in wanted]
        return {"StackSummaries": [each.summary() for each in found]}

    def describe_stack_events(self, request: Fields) -> Fields:
        stack = self._existing(request["StackName"])
        shown, token = page(stack.told(), {"nextToken": request.get("NextToken")}, 100)
        return {"StackEvents": shown, **({"NextToken": token["nextToken"]} if token else {})}

    def describe_events(self, request: Fields) -> Fields:
        if "StackName" not in request:
            raise AssertionError("the loopback AWS knows DescribeEvents by StackName only")
        failed = request.get("Filters", {}).get("FailedEvents", False)
        names = (
            "EventId", "StackId", "LogicalResourceId", "PhysicalResourceId", "ResourceType", "Timestamp",
            "ResourceStatus", "ResourceStatusReason", "ResourceProperties",
        )  # fmt: skip
        found = [
            {"EventType": "STACK_EVENT", **{name: each[name] for name in names if name in each}}
            for each in self._existing(request["StackName"]).told()
            if not failed or each["ResourceStatus"].endswith("_FAILED")
        ]
        shown, token = page(found, {"nextToken": request.get("NextToken")}, 100)
        return {"OperationEvents": shown, **({"NextToken": token["nextToken"]} if token else {})}

    def describe_stack_resources(self, request: Fields) -> Fields:
        return {"StackResources": self._existing(request["StackName"]).listed_resources("Timestamp", whole=True)}

    def describe_stack_resource(self, request: Fields) -> Fields:
        stack, wanted = self._existing(request["StackName"]), request["LogicalResourceId"]
        for each in stack.listed_resources("LastUpdatedTimestamp", whole=True):
            if each["LogicalResourceId"] == wanted:
                return {"StackResourceDetail": each}
        raise _invalid(f"Resource {wanted} does not exist for stack {stack.name}")

    def list_stack_resources(self, request: Fields) -> Fields:
        found = self._existing(request["StackName"]).listed_resources("LastUpdatedTimestamp", whole=False)
        shown, token = page(found, {"nextToken": request.get("NextToken")}, 100)
        return {"StackResourceSummaries": shown, **({"NextToken": token["nextToken"]} if token else {})}

    def get_template(self, request: Fields) -> Fields:
        if "ChangeSetName" in request:
            text = self._change_set(request).template.text
        else:
            template = self._existing(request["StackName"]).template
            text = "{}" if template is None else template.text
        return {"TemplateBody": text, "StagesAvailable": ["Original", "Processed"]}

    def get_template_summary(self, request: Fields) -> Fields:
        if "StackName" in request:
            template = self._existing(request["StackName"]).template
        else:
            template = read_template(self._body(request, None), [], None, "", "")
        assert template is not None
        declared = [
            {"ParameterKey": name, "ParameterType": each["Type"]}
            | ({"DefaultValue": str(each["Default"])} if "Default" in each else {})
            for name, each in template.content.get("Parameters", {}).items()
        ]
        types = sorted({each["Type"] for each in template.content["Resources"].values()})
        return {"Parameters": declared, "ResourceTypes": types, "Capabilities": _capabilities(template)}

    def validate_template(self, request: Fields) -> Fields:
        template = read_template(self._body(request, None), [], None, "", "")
        template.check(self.types)
        declared = [{"ParameterKey": name} for name in template.content.get("Parameters", {})]
        return {"Parameters": declared, "Capabilities": _capabilities(template)}

    def protect(self, request: Fields) -> Fields:
        stack = self._existing(request["StackName"])
        stack.protected = request["EnableTerminationProtection"]
        return {"StackId": stack.arn}

    def _deploy(self, stack: Stack, template: Template, request: Fields, *, create: bool) -> None:
        on_failure = request.get("OnStackFailure", "ROLLBACK")
        if on_failure not in ("ROLLBACK", "DELETE") or request.get("DisableRollback"):
            raise AssertionError("the loopback AWS always rolls back")
        stack.deletes_failed = create and on_failure == "DELETE"
        stack.retains_new = not request.get("RetainExceptOnCreate", False)
        stack.capabilities, stack.tags = request.get("Capabilities", []), request.get("Tags", stack.tags)
        stack.role = request.get("RoleARN", stack.role)
        stack.start_deployment(template, create=create)

    def _template(self, request: Fields, stack: Stack) -> Template:
        text = self._body(request, stack.template)
        template = read_template(text, request.get("Parameters", []), stack.template, stack.arn, stack.name)
        template.check(self.types)
        needed = _capabilities(template)
        given = set(request.get("Capabilities", []))
        if needed and not given & {*needed, "CAPABILITY_NAMED_IAM"}:
            raise ApiError("InsufficientCapabilitiesException", f"Requires capabilities : [{needed[0]}]")
        return template

    def _body(self, request: Fields, previous: Template | None) -> str:
        if "TemplateBody" in request:
            text: str = request["TemplateBody"]
            if len(text.encode()) > _BODY_LIMIT:
                raise _invalid(
                    "1 validation error detected: Value at 'templateBody' failed to satisfy constraint: Member must "
                    f"have length less than or equal to {_BODY_LIMIT}"
                )
            return text
        if "TemplateURL" in request:
            bucket, _, key = unquote(urlparse(request["TemplateURL"]).path).lstrip("/").partition("/")
            host = urlparse(request["TemplateURL"]).netloc
            if virtual := re.match(r"(.+)\.s3[.-]", host):
                bucket, key = virtual[1], f"{bucket}/{key}" if key else bucket
            try:
                found = self.clients("s3").get_object(Bucket=bucket, Key=key)["Body"].read()
            except ClientError as error:
                raise _invalid(f"S3 error: {error.response['Error']['Message']}") from None
            if len(found) > _URL_LIMIT:
                raise _invalid(f"Template may not exceed {_URL_LIMIT} bytes in size.")
            return str(found.decode())
        if request.get("UsePreviousTemplate") and previous is not None:
            return previous.text
        raise _invalid("Either Template URL or Template Body must be specified.")

    def _outputs_differ(self, stack: Stack, template: Template, request: Fields) -> bool:
        if stack.template is None:
            return True
        same = stack.template.content.get("Outputs") == template.content.get("Outputs")
        return not same or request.get("Tags", stack.tags) != stack.tags

    def _new(self, request: Fields) -> Stack:
        name = request["StackName"]
        if not re.fullmatch(r"[a-zA-Z][-a-zA-Z0-9]{0,127}", name):
            raise _invalid(f"1 validation error detected: Value '{name}' at 'stackName' failed to satisfy constraint")
        return Stack(f"{_PREFIX}stack/{name}/{uuid.uuid4()}", name, self.types, description="")

    def _live(self, name: str) -> Stack | None:
        found = (each for each in self.stacks if name in (each.name, each.arn) and each.status != "DELETE_COMPLETE")
        return next(found, None)

    def _existing(self, name: str) -> Stack:
        found = self._live(name) or next((each for each in self.stacks if each.arn == name), None)
        if found is None:
            raise _invalid(f"Stack with id {name} does not exist")
        return found

    def _of(self, stack: Stack) -> list[ChangeSet]:
        return [each for each in self.change_sets.values() if each.stack is stack]

    def _change_set(self, request: Fields) -> ChangeSet:
        name, stack = request["ChangeSetName"], request.get("StackName")
        for each in self.change_sets.values():
            if each.arn == name or (each.name == name and stack in (each.stack.name, each.stack.arn)):
                return each
        if stack is not None and self._live(stack) is None:
            raise _invalid(f"Stack [{stack}] does not exist")
        raise ApiError("ChangeSetNotFound", f"ChangeSet [{name}] does not exist", 404)


def _parameters(template: Template) -> list[Fields]:
    return [{"ParameterKey": name, "ParameterValue": value} for name, value in template.parameters.items()]


def _capabilities(template: Template) -> list[str]:
    roles = [each for each in template.content["Resources"].values() if each["Type"] == "AWS::IAM::Role"]
    if any("RoleName" in each.get("Properties", {}) for each in roles):
        return ["CAPABILITY_NAMED_IAM"]
    return ["CAPABILITY_IAM"] if roles else []


def _invalid(message: str) -> ApiError:
    return ApiError("ValidationError", message)
