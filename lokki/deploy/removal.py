"""Removing a deployed flow: what would go, as a value, and letting it go."""

from __future__ import annotations

import re
from dataclasses import dataclass

from botocore.exceptions import ClientError

from lokki.builder.packages.sizes import size_text
from lokki.deploy.aws import Aws, aws_errors, code_of
from lokki.deploy.bucket import remove_all, stored
from lokki.deploy.changes import JsonObject, resource_properties, template_resources
from lokki.deploy.deployed import check_stack_name, stack_name
from lokki.deploy.images import Registry, registry_of, remove_repository
from lokki.deploy.retention import end_retention
from lokki.deploy.stack import Notify, Stacks, StackState, stack_resources
from lokki.errors import AwsError

_IMAGE = re.compile(r"\$\{ECRRepoPrefix\}/([^:]+):")


@dataclass(frozen=True, slots=True)
class Removal:
    """What a flow has on AWS.

    - ``values``, ``packages``: number and bytes of its objects
    - ``running``: how many runs are in progress
    """

    flow: str
    stack: str
    stack_id: str
    region: str
    bucket: str
    resources: tuple[tuple[str, str], ...]
    values: tuple[int, int]
    packages: tuple[int, int]
    registry: Registry | None
    repositories: tuple[str, ...]
    running: int
    keep_data: bool


def plan_removal(aws: Aws, flow: str, stack: str | None = None, *, keep_data: bool = False) -> Removal:
    """Find all that a flow has on AWS.

    Raises AwsError where there is nothing, or something of somebody else's.
    """
    name = stack or stack_name(flow)
    check_stack_name(name)
    state = Stacks(aws).find(name)
    if state is None:
        raise AwsError(f"{flow} is not deployed: there is no stack {name} in {aws.region}. Nothing was removed.")
    if state.parameters.get("FlowName") != flow:
        raise AwsError(f"the stack {name} does not hold the flow {flow}. Nothing was removed; give --stack-name.")
    bucket = state.parameters["S3Bucket"]
    with aws_errors(f"read the stack {name}"):
        resources = tuple((logical_id, kind) for logical_id, kind, _ in stack_resources(aws, name))
    repositories = _repositories(state.template)
    return Removal(
        flow,
        name,
        state.id,
        aws.region,
        bucket,
        resources,
        stored(aws, bucket, f"lokki/{flow}/"),
        stored(aws, bucket, f"lokki-packages/{flow}/"),
        registry_of(state.parameters["ECRRepoPrefix"], aws) if repositories else None,
        repositories,
        _running(aws, state),
        keep_data,
    )


def describe_removal(plan: Removal) -> list[str]:
    """Say what would go."""
    kinds = [kind.rpartition("::")[2] for _, kind in plan.resources]
    counted = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
    lines = [f"the stack {plan.stack} in {plan.region}: {counted}"]
    if plan.packages[0]:
        lines.append(f"s3://{plan.bucket}/lokki-packages/{plan.flow}/: {_objects(plan.packages)} of code")
    if plan.repositories and plan.registry is not None:
        names = ", ".join(plan.registry.prefix + name for name in plan.repositories)
        lines.append(f"repositories with all their images: {names}")
    if plan.values[0]:
        results = " stay (--keep-data)" if plan.keep_data else ", the results of all runs"
        lines.append(f"s3://{plan.bucket}/lokki/{plan.flow}/: {_objects(plan.values)}{results}")
    if plan.running:
        lines.append(
            f"{plan.running} {'run that goes on, and fails' if plan.running == 1 else 'runs that go on, and fail'}"
        )
    return lines


def remove(aws: Aws, plan: Removal, tell: Notify) -> None:
    """Remove what the plan names.

    Raises AwsError; what is removed by then is gone, and doing it again removes the rest.
    """
    Stacks(aws).delete(plan.stack, plan.stack_id, tell)
    if plan.registry is not None:
        for name in plan.repositories:
            if remove_repository(aws, plan.registry, plan.registry.prefix + name):
                tell(f"  {plan.registry.prefix + name}: deleted")
    prefixes = [f"lokki-packages/{plan.flow}/", *([] if plan.keep_data else [f"lokki/{plan.flow}/"])]
    for prefix in prefixes:
        if count := remove_all(aws, plan.bucket, prefix):
            tell(f"  s3://{plan.bucket}/{prefix}: {count} objects deleted")
    end_retention(aws, plan.bucket, plan.flow, tell)


def _repositories(template: JsonObject) -> tuple[str, ...]:
    names: dict[str, None] = {}
    for resource in template_resources(template).values():
        code = resource_properties(resource).get("Code")
        uri = code.get("ImageUri") if isinstance(code, dict) else None
        if isinstance(uri, dict) and (image := _IMAGE.match(str(uri.get("Fn::Sub")))):
            names[image[1]] = None
    return tuple(names)


def _running(aws: Aws, state: StackState) -> int:
    machine = state.outputs.get("StateMachineArn", "")
    if not machine:
        return 0
    with aws_errors("list the runs that go on"):
        try:
            pages = aws.states.get_paginator("list_executions").paginate(
                stateMachineArn=machine, statusFilter="RUNNING"
            )
            return sum(len(page["executions"]) for page in pages)
        except ClientError as error:
            if code_of(error) == "StateMachineDoesNotExist":
                return 0
            raise


def _objects(objects: tuple[int, int]) -> str:
    count, size = objects
    return f"{count:,} {'object' if count == 1 else 'objects'} ({size_text(size)})"
