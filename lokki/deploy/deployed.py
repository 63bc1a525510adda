"""A flow as it is deployed: its stack, and where its parts are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from botocore.exceptions import ClientError

from lokki.base.quotas import STACK_NAME_LENGTH
from lokki.builder.cloudformation import LIVE
from lokki.deploy.aws import Aws, aws_errors, code_of, message_of
from lokki.errors import AwsError

_ARTIFACTS = re.compile(r"s3://([^/]+)/lokki/([^/]+)/")


@dataclass(frozen=True, slots=True)
class Deployed:
    """A deployed flow.

    - ``flow``: the name that it is deployed under
    - ``bucket``: where its values are
    - ``state_machine``: its ARN
    - ``log_groups``: those of its functions, by the function's logical id

    ``flow``: the name that it is deployed under, ``bucket``: where its values are.
    """

    flow: str
    stack: str
    state_machine: str
    bucket: str
    log_groups: Mapping[str, str]

    @property
    def live(self) -> str:
        """The ARN of the alias through which runs are started."""
        return f"{self.state_machine}:{LIVE}"

    @property
    def prefix(self) -> str:
        """What the keys of all its values begin with."""
        return f"lokki/{self.flow}/"


def stack_name(flow: str) -> str:
    """Return the name of a flow's stack, in letters, digits and `-`.

    Used unless another is asked for.

    >>> stack_name("birds-flow"), stack_name("bird_reports")
    ('birds-flow', 'bird-reports')

    https://docs.aws.amazon.com/AWSCloudFormation/latest/APIReference/API_CreateStack.html
    """
    return flow.replace("_", "-")


def check_stack_name(name: str) -> None:
    """Raise AwsError for what cannot name a stack."""
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9-]*", name) or len(name) > STACK_NAME_LENGTH:
        raise AwsError(
            f"{name!r} cannot name a stack: give at most {STACK_NAME_LENGTH} ASCII letters, digits and '-', a letter "
            "first."
        )


def find_deployed(aws: Aws, flow: str, stack: str | None = None) -> Deployed:
    """Find a deployed flow by the name of its stack.

    Default: the flow's own. Raises AwsError where there is none.
    """
    name = stack or stack_name(flow)
    check_stack_name(name)
    with aws_errors(f"read the stack {name}"):
        try:
            [summary] = aws.cloudformation.describe_stacks(StackName=name)["Stacks"]
        except ClientError as error:
            if code_of(error) == "ValidationError" and "does not exist" in message_of(error):
                raise AwsError(
                    f"{flow} is not deployed: there is no stack {name} in {aws.region}. Deploy it first, or give "
                    "--stack-name or --region."
                ) from None
            raise
        outputs = {output["OutputKey"]: output["OutputValue"] for output in summary.get("Outputs", [])}
        groups = _log_groups(aws, name)
    artifacts = _ARTIFACTS.fullmatch(outputs.get("Artifacts", ""))
    if artifacts is None or "StateMachineArn" not in outputs:
        raise AwsError(
            f"the stack {name} is {summary['StackStatus']} and holds no flow of lokki that could run. Deploy again, "
            "or give another --stack-name."
        )
    if artifacts[2] != flow:
        raise AwsError(f"the stack {name} holds the flow {artifacts[2]}, not {flow}. Give another --stack-name.")
    return Deployed(flow, name, outputs["StateMachineArn"], artifacts[1], groups)


def _log_groups(aws: Aws, stack: str) -> dict[str, str]:
    groups: dict[str, str] = {}
    for page in aws.cloudformation.get_paginator("list_stack_resources").paginate(StackName=stack):
        for resource in page["StackResourceSummaries"]:
            name, physical = resource["LogicalResourceId"], resource.get("PhysicalResourceId", "")
            if resource["ResourceType"] == "AWS::Logs::LogGroup" and name.endswith("LogGroup") and physical:
                groups[f"{name.removesuffix('LogGroup')}Function"] = physical
    return groups
