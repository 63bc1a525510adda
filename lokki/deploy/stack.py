"""The stack of a flow on CloudFormation: what it is, what a change set would do, and doing it with its events."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Final

import yaml
from botocore.exceptions import ClientError

from lokki.deploy.aws import Aws, aws_errors, code_of, message_of
from lokki.deploy.changes import Action, JsonObject, ResourceChange
from lokki.errors import AwsError

if TYPE_CHECKING:
    from mypy_boto3_cloudformation.type_defs import ChangeTypeDef, CreateChangeSetInputTypeDef, StackEventTypeDef

type Notify = Callable[[str], None]
"""Takes a line about what is done, for the user."""

_PAUSE: Final = 3.0
"""Most seconds between two looks at a stack that changes."""

_NOTHING: Final = ("didn't contain changes", "No updates are to be performed")
_ACTIONS: Final[Mapping[str, Action]] = {"Add": "created", "Remove": "deleted", "Modify": "changed"}
_CANNOT_BE_UPDATED: Final = ("ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "CREATE_FAILED", "DELETE_FAILED")
_CONSEQUENCES: Final = ("cancelled", "Resource creation cancelled", "The following resource(s) failed")
"""Reasons of failures that follow from another one."""

_ADVICE: Final = (
    (r"NoSuchKey|S3 Error", "A package is not in the bucket (any more): deploy again."),
    (r"not authorized to perform|AccessDenied", "Ask who administers the account for this permission."),
    (
        r"already exists",
        "This stack did not make what has that name: choose another flow_name in lokki.yml, or delete it.",
    ),
    (r"cannot be assumed by", "A role in lokki.yml must trust lambda.amazonaws.com or states.amazonaws.com."),
    (r"[Ll]imit ?[Ee]xceeded|quota|[Ll]imit of", "Ask AWS for more (Service Quotas), or delete what nobody needs."),
    (r"[Ss]ource image|ImageUri", "The image is not in the registry (any more): deploy again."),
)


@dataclass(frozen=True, slots=True)
class StackState:
    """A stack as it is.

    - ``template``: what it was created from
    - ``parameters``, ``outputs``: by name
    """

    id: str
    status: str
    template: JsonObject
    parameters: Mapping[str, str]
    outputs: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ChangeSet:
    """What CloudFormation would do.

    ``creates``: whether the stack is new.
    """

    id: str
    stack_id: str
    creates: bool
    changes: tuple[ResourceChange, ...]


class Stacks:
    """The stacks of an account.

    ``sleep``: waits so many seconds between two looks.
    """

    def __init__(self, aws: Aws, sleep: Callable[[float], None] = time.sleep) -> None:
        self.aws = aws
        self._sleep = sleep
        self._seen: set[str] = set()

    def find(self, name: str) -> StackState | None:
        """Return a stack by its name or id.

        None when it does not exist, or only what a dry run left does.
        """
        with aws_errors(f"read the stack {name}"):
            try:
                [description] = self.aws.cloudformation.describe_stacks(StackName=name)["Stacks"]
            except ClientError as error:
                if code_of(error) == "ValidationError" and "does not exist" in message_of(error):
                    return None
                raise
            if description["StackStatus"] in ("REVIEW_IN_PROGRESS", "DELETE_COMPLETE"):
                return None
            text = self.aws.cloudformation.get_template(StackName=name, TemplateStage="Original")["TemplateBody"]
            template: JsonObject = yaml.safe_load(str(text))  # a text, where the template was given as one
            return StackState(
                description["StackId"],
                description["StackStatus"],
                template,
                {pair["ParameterKey"]: pair["ParameterValue"] for pair in description.get("Parameters", [])},
                {pair["OutputKey"]: pair["OutputValue"] for pair in description.get("Outputs", [])},
            )

    def propose(
        self, name: str, template: bytes, parameters: Mapping[str, str], *, creates: bool, url: str = ""
    ) -> ChangeSet | None:
        """Create a change set and return it, None if nothing would change.

        ``url``: where a large template is.

        https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/using-cfn-updating-stacks-changesets.html
        """
        request: CreateChangeSetInputTypeDef = {
            "StackName": name,
            "ChangeSetName": f"lokki-{secrets.token_hex(6)}",
            "ChangeSetType": "CREATE" if creates else "UPDATE",
            "Capabilities": ["CAPABILITY_IAM"],
            "Parameters": [{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
        }
        if creates:
            request["OnStackFailure"] = "DELETE"  # one whose creation failed could not be deployed again
        if url:
            request["TemplateURL"] = url
        else:
            request["TemplateBody"] = template.decode()
        with aws_errors(f"plan the stack {name}"):
            created = self.aws.cloudformation.create_change_set(**request)
            while (description := self.aws.cloudformation.describe_change_set(ChangeSetName=created["Id"]))[
                "Status"
            ] in (
                "CREATE_PENDING",
                "CREATE_IN_PROGRESS",
            ):
                self._sleep(0.5)
            if description["Status"] != "CREATE_COMPLETE":
                reason = description.get("StatusReason", "")
                self.discard(ChangeSet(created["Id"], created["StackId"], creates, ()))
                if any(words in reason for words in _NOTHING):
                    return None
                raise AwsError(f"CloudFormation refuses the template of {name}: {reason}")
            pages = self.aws.cloudformation.get_paginator("describe_change_set").paginate(ChangeSetName=created["Id"])
            changes = [_change(change) for page in pages for change in page.get("Changes", [])]
        return ChangeSet(created["Id"], created["StackId"], creates, tuple(changes))

    def discard(self, proposed: ChangeSet) -> None:
        """Delete a change set, and the empty stack that stands for a new one."""
        with aws_errors("discard a change set"):
            self.aws.cloudformation.delete_change_set(ChangeSetName=proposed.id)
            if proposed.creates:
                self.aws.cloudformation.delete_stack(StackName=proposed.stack_id)

    def execute(self, name: str, proposed: ChangeSet, tell: Notify) -> None:
        """Execute a change set and wait for its end, telling events.

        Raises AwsError when it failed and was rolled back.
        """
        with aws_errors(f"change the stack {name}"):
            self._look_at_events(proposed.stack_id)
            self.aws.cloudformation.execute_change_set(
                ChangeSetName=proposed.id,
                # With what is new, its versions go too when it fails.
                RetainExceptOnCreate=True,
            )
            status, failures = self._follow(proposed.stack_id, tell)
        if status not in ("CREATE_COMPLETE", "UPDATE_COMPLETE"):
            raise AwsError(_failed(name, status, failures, creates=proposed.creates))

    def delete(self, name: str, stack_id: str, tell: Notify) -> None:
        """Delete a stack and wait until it is gone, telling events.

        Raises AwsError when it cannot be deleted.
        """
        with aws_errors(f"delete the stack {name}"):
            self._look_at_events(stack_id)
            self.aws.cloudformation.delete_stack(StackName=stack_id)
            status, failures = self._follow(stack_id, tell)
        if status != "DELETE_COMPLETE":
            reason = _first(failures)
            raise AwsError(f"the stack {name} could not be deleted, it is {status}. {reason} Fix that and try again.")

    def resource(self, name: str, logical_id: str) -> str:
        """Return the physical id of a resource of a stack, "" when it has none."""
        with aws_errors(f"read the stack {name}"):
            try:
                details = self.aws.cloudformation.describe_stack_resource(StackName=name, LogicalResourceId=logical_id)
            except ClientError as error:
                if code_of(error) == "ValidationError":
                    return ""
                raise
        return details["StackResourceDetail"].get("PhysicalResourceId", "")

    def _follow(self, stack_id: str, tell: Notify) -> tuple[str, list[StackEventTypeDef]]:
        """Tell events until the stack is at rest.

        Returns its status and the events that failed, in their order.
        """
        failures: list[StackEventTypeDef] = []
        wait = 0.1
        while True:
            # In this order: an event that comes before the last status is told.
            [description] = self.aws.cloudformation.describe_stacks(StackName=stack_id)["Stacks"]
            for event in self._look_at_events(stack_id):
                if event.get("ResourceStatus", "").endswith("FAILED"):
                    failures.append(event)
                if line := _told(event):
                    tell(line)
            if not description["StackStatus"].endswith("_IN_PROGRESS"):
                return description["StackStatus"], failures
            self._sleep(min(wait, _PAUSE))
            wait *= 1.5

    def _look_at_events(self, stack_id: str) -> list[StackEventTypeDef]:
        """Return the events that are new since the last look, the oldest first."""
        pages = self.aws.cloudformation.get_paginator("describe_stack_events").paginate(StackName=stack_id)
        latest_first = (event for page in pages for event in page["StackEvents"])
        new = list(takewhile(lambda event: event["EventId"] not in self._seen, latest_first))
        self._seen.update(event["EventId"] for event in new)
        return new[::-1]


def check_updatable(name: str, status: str) -> None:
    """Raise AwsError, with what to do, for a stack that cannot be changed now.

    https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/view-stack-events.html
    """
    if status in _CANNOT_BE_UPDATED:
        raise AwsError(
            f"the stack {name} is {status}: what was started there failed, and such a stack cannot be updated. "
            "Remove it by destroy, and deploy again."
        )
    if status == "UPDATE_ROLLBACK_FAILED":
        raise AwsError(
            f"the stack {name} is {status}: an update failed, and so did its rollback. Fix what its events in the "
            f"console say, and continue with: aws cloudformation continue-update-rollback --stack-name {name}"
        )
    if status.endswith("_IN_PROGRESS"):
        raise AwsError(f"the stack {name} is being changed ({status}). Wait until that has ended, and try again.")


def _change(change: ChangeTypeDef) -> ResourceChange:
    details = change.get("ResourceChange", {})
    action = _ACTIONS.get(details.get("Action", ""), "changed")
    if action == "changed" and details.get("Replacement") == "True":
        action = "replaced"
    targets = [detail.get("Target", {}) for detail in details.get("Details", [])]
    names = {
        target.get("Name") or target.get("Attribute", "")
        for target in targets
        if target.get("Attribute") in ("Properties", "Tags")
    }
    return ResourceChange(
        details.get("LogicalResourceId", ""), details.get("ResourceType", ""), action, tuple(sorted(names - {""}))
    )


def _told(event: StackEventTypeDef) -> str:
    """Return a line for an event that says something new, else "".

    One that only begins something, or repeats another, does not.
    """
    status, reason = event.get("ResourceStatus", ""), event.get("ResourceStatusReason", "")
    if status.endswith("FAILED"):
        return f"  {event.get('LogicalResourceId', '')}: {status}: {reason}"
    if event.get("ResourceType") == "AWS::CloudFormation::Stack" and "ROLLBACK_IN_PROGRESS" in status:
        return "  it failed, and is rolled back"
    if status.endswith("_COMPLETE") and event.get("ResourceType") != "AWS::CloudFormation::Stack":
        return f"  {event.get('LogicalResourceId', '')}: {status.removesuffix('_COMPLETE').lower().replace('_', ' ')}d"
    return ""


def _failed(name: str, status: str, failures: list[StackEventTypeDef], *, creates: bool) -> str:
    reason = _first(failures) or f"CloudFormation says no more than {status}."
    outcome = "Nothing of it is left." if creates else "All is as it was before."
    if status.endswith("ROLLBACK_FAILED") or status == "DELETE_FAILED":
        outcome = f"The stack is {status}; its events in the console say more."
    return f"the stack {name} could not be {'created' if creates else 'updated'}: {reason} {outcome} {_advice(reason)}"


def _first(failures: list[StackEventTypeDef]) -> str:
    """Return the reason of the first failure, "" if there is none.

    Failures that follow from another one are passed over.
    """
    for event in failures:
        reason = " ".join(event.get("ResourceStatusReason", "").split())
        if reason and not any(reason.startswith(words) or words in reason for words in _CONSEQUENCES):
            return f"{event.get('LogicalResourceId', '')} ({event.get('ResourceType', '')}): {reason.rstrip('.')}."
    return ""


def _advice(reason: str) -> str:
    return next((advice for pattern, advice in _ADVICE if re.search(pattern, reason)), "Fix that and deploy again.")


def stack_resources(aws: Aws, name: str) -> Iterator[tuple[str, str, str]]:
    """Yield logical id, type and physical id of everything in a stack."""
    for page in aws.cloudformation.get_paginator("list_stack_resources").paginate(StackName=name):
        for resource in page["StackResourceSummaries"]:
            if resource["ResourceStatus"] not in ("DELETE_COMPLETE", "DELETE_SKIPPED"):  # what is kept is no more of it
                yield resource["LogicalResourceId"], resource["ResourceType"], resource.get("PhysicalResourceId", "")
