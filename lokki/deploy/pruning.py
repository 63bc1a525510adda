"""Old versions of a flow's functions and state machine: which nothing needs any more, as a value, and deleting them.

Every version keeps its package, and an account has 75 GB for them:
https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from lokki.base.quotas import REDRIVE_DAYS
from lokki.builder.packages.sizes import size_text
from lokki.deploy.aws import Aws, aws_errors
from lokki.deploy.changes import JsonObject, resource_properties, template_resources
from lokki.deploy.deployed import Deployed
from lokki.deploy.live import Version, live_version, versions
from lokki.deploy.stack import Notify, Stacks, stack_resources

REDRIVABLE: Final = timedelta(days=REDRIVE_DAYS)
"""How long after its end a run that did not succeed can be redriven."""

_FUNCTION: Final = "AWS::Lambda::Function"
_FUNCTION_VERSION: Final = re.compile(r"arn:[\w-]+:lambda:[\w-]+:\d+:function:[\w-]+:\d+")


@dataclass(frozen=True, slots=True)
class FunctionVersion:
    """A version of a function that is to be deleted.

    With the bytes of its package.
    """

    function: str
    number: str
    size: int


@dataclass(frozen=True, slots=True)
class Pruning:
    """What is to be deleted, and how many versions of the state machine stay."""

    flow: str
    state_machine: tuple[Version, ...]
    functions: tuple[FunctionVersion, ...]
    remaining: int

    @property
    def size(self) -> int:
        """The bytes of the packages that go."""
        return sum(version.size for version in self.functions)


def plan_pruning(aws: Aws, deployed: Deployed, keep: int, now: datetime | None = None) -> Pruning:
    """Find the versions that nothing needs.

    New runs need theirs, runs in progress too, and those that can be redriven.

    ``keep``: how many of the latest versions of the state machine stay besides, for a rollback.
    """
    listed = versions(aws, deployed.state_machine)
    with aws_errors("look for versions that are still used"):
        used = {live_version(aws, deployed.state_machine), *(version.arn for version in listed[:keep])}
        used |= set(_of_executions(aws, deployed.state_machine, now or datetime.now(UTC)))
        stays = [version for version in listed if version.arn in used]
        functions = _resources(aws, deployed.stack, "AWS::Lambda::Version")
        functions |= {arn for version in stays for arn in _functions_of(aws, version)}
        unused = tuple(
            version
            for function in sorted(_step_functions(aws, deployed.stack))
            for version in _unused_versions(aws, function, functions)
        )
    goes = tuple(version for version in listed if version.arn not in used)
    return Pruning(deployed.flow, goes, unused, len(stays))


def pruning_in_words(plan: Pruning) -> list[str]:
    """Say what would go."""
    machines, functions = len(plan.state_machine), len(plan.functions)
    return [
        f"{machines} {'version' if machines == 1 else 'versions'} of the state machine, of {machines + plan.remaining}",
        f"{functions} {'version' if functions == 1 else 'versions'} of functions ({size_text(plan.size)} of code)",
    ]


def prune(aws: Aws, plan: Pruning, tell: Notify) -> None:
    """Delete the versions that the plan names.

    Raises AwsError; what is deleted by then is gone, and doing it again does the rest.
    """
    # Those of the state machine first: none is ever there that names a function's version that is not.
    for version in plan.state_machine:
        with aws_errors(f"delete {version} of the state machine"):
            aws.states.delete_state_machine_version(stateMachineVersionArn=version.arn)
    for unused in plan.functions:
        with aws_errors(f"delete version {unused.number} of {unused.function}"):
            aws.functions.delete_function(FunctionName=unused.function, Qualifier=unused.number)
    for line in pruning_in_words(plan):
        tell(f"deleted {line}")


def _of_executions(aws: Aws, state_machine: str, now: datetime) -> Iterator[str]:
    """Yield the versions of runs in progress or that can be redriven."""
    pages = aws.states.get_paginator("list_executions")
    for status in ("RUNNING", "PENDING_REDRIVE", "FAILED", "TIMED_OUT", "ABORTED"):
        for page in pages.paginate(stateMachineArn=state_machine, statusFilter=status):
            for execution in page["executions"]:
                stop = execution.get("stopDate")
                if stop is None or now - stop < REDRIVABLE:
                    yield execution.get("stateMachineVersionArn", "")


def _functions_of(aws: Aws, version: Version) -> list[str]:
    """Return the function versions that a machine's version invokes."""
    definition = aws.states.describe_state_machine(stateMachineArn=version.arn)["definition"]
    return _FUNCTION_VERSION.findall(definition)


def _resources(aws: Aws, stack: str, kind: str) -> set[str]:
    return {physical for _, type_name, physical in stack_resources(aws, stack) if type_name == kind}


def _step_functions(aws: Aws, stack: str) -> Iterator[str]:
    """Yield the names of the functions of steps, and none of the user's own."""
    state = Stacks(aws).find(stack)
    own = step_function_ids(state.template if state is not None else {})
    for logical_id, _, physical in stack_resources(aws, stack):
        if logical_id in own:
            yield physical


def step_function_ids(template: JsonObject) -> set[str]:
    """Return the logical ids of steps' functions.

    The template of the user's, merged into the stack, may have functions too, whose versions are the user's to delete.
    """
    ids = set()
    for name, resource in template_resources(template).items():
        match resource_properties(resource):
            case {"Environment": {"Variables": {"LOKKI_FLOW_NAME": _}}} if resource.get("Type") == _FUNCTION:
                ids.add(name)
    return ids


def _unused_versions(aws: Aws, function: str, used: set[str]) -> Iterator[FunctionVersion]:
    for page in aws.functions.get_paginator("list_versions_by_function").paginate(FunctionName=function):
        for version in page["Versions"]:
            if version["Version"] != "$LATEST" and version["FunctionArn"] not in used:
                yield FunctionVersion(function, version["Version"], version["CodeSize"])
