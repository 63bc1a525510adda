"""The alias through which runs are started, and the versions of a state machine that it may point at.

A version of a state machine names the versions of the functions that it invokes, so pointing the alias back brings the
code of all steps back. https://docs.aws.amazon.com/step-functions/latest/dg/concepts-cd-aliasing-versioning.html
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import msgspec
from botocore.exceptions import ClientError

from lokki.base.values import Json
from lokki.builder.cloudformation import LIVE
from lokki.deploy.aws import Aws, aws_errors, code_of
from lokki.errors import AwsError


@dataclass(frozen=True, slots=True)
class Version:
    """A version of a state machine, and when it was deployed.

    Its ARN ends in its number.
    """

    arn: str
    created: datetime

    @property
    def number(self) -> int:
        """Its number, which is higher for later versions."""
        return int(self.arn.rpartition(":")[2])

    def __str__(self) -> str:
        return f"version {self.number} ({self.created.astimezone():%Y-%m-%d %H:%M:%S})"


@dataclass(frozen=True, slots=True)
class Rollback:
    """From which version to which the alias would go."""

    current: Version
    target: Version


def live_version(aws: Aws, state_machine: str) -> str:
    """Return the ARN of the version that new runs use.

    "" if there is no alias.
    """
    with aws_errors(f"read the alias {LIVE}"):
        try:
            alias = aws.states.describe_state_machine_alias(stateMachineAliasArn=f"{state_machine}:{LIVE}")
        except ClientError as error:
            if code_of(error) == "ResourceNotFound":
                return ""
            raise
    weights = {route["stateMachineVersionArn"]: route["weight"] for route in alias["routingConfiguration"]}
    return max(weights, key=lambda arn: weights[arn])


def live_definition(aws: Aws, state_machine: str) -> Json:
    """Return the definition of the state machine that new runs use.

    Raises AwsError where there is none.
    """
    version = live_version(aws, state_machine)
    if not version:
        raise AwsError(f"there is no alias {LIVE}, by which runs are started. Deploy again.")
    with aws_errors("read the state machine"):
        machine = aws.states.describe_state_machine(stateMachineArn=version)
    definition: Json = msgspec.json.decode(machine["definition"])
    return definition


def point_live_at(aws: Aws, state_machine: str, version: str) -> None:
    """Let new runs use a version."""
    with aws_errors(f"change the alias {LIVE}"):
        aws.states.update_state_machine_alias(
            stateMachineAliasArn=f"{state_machine}:{LIVE}",
            routingConfiguration=[{"stateMachineVersionArn": version, "weight": 100}],
        )


def versions(aws: Aws, state_machine: str) -> list[Version]:
    """Return all versions, the latest first."""
    listed: list[Version] = []
    token = ""
    with aws_errors("list the versions of the state machine"):
        while True:
            following = {"nextToken": token} if token else {}
            page = aws.states.list_state_machine_versions(stateMachineArn=state_machine, maxResults=1000, **following)
            listed += [
                Version(version["stateMachineVersionArn"], version["creationDate"])
                for version in page["stateMachineVersions"]
            ]
            token = page.get("nextToken", "")
            if not token:
                return sorted(listed, key=lambda version: version.number, reverse=True)


def plan_rollback(aws: Aws, state_machine: str, to: int | None = None) -> Rollback:
    """Find the version that a rollback goes to.

    The one before the version that new runs use, or the one of a number. Raises AwsError if there is none.
    """
    listed = versions(aws, state_machine)
    live = live_version(aws, state_machine)
    current = next((version for version in listed if version.arn == live), None)
    if current is None:
        raise AwsError(f"the alias {LIVE} points at no version that there is. Deploy again.")
    earlier = [version for version in listed if version.number < current.number]
    targets = earlier[:1] if to is None else [version for version in listed if version.number == to]
    latest = ", ".join(str(version) for version in listed[:5])
    if not targets:
        missing = "no earlier version" if to is None else f"no version {to}"
        raise AwsError(f"new runs use {current}, and there is {missing}. There are: {latest}.")
    if targets[0] == current:
        raise AwsError(f"new runs use {current} already. There are: {latest}.")
    return Rollback(current, targets[0])
