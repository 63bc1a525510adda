"""What a stack is made of: each type of resource that lokki's templates have, made, changed and deleted for real.

Which changes replace a resource is in the page of each type:
https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-template-resource-type-ref.html
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

from support.loopback_functions import LoopbackFunctions
from support.loopback_protocol import ApiError
from support.loopback_states import States

type Properties = dict[str, Any]
type Client = Callable[[str], Any]


class ResourceError(Exception):
    """A resource could not be made, changed or deleted."""


@dataclass(frozen=True)
class Made:
    """A resource that there is: its physical id, and what GetAtt gives."""

    physical: str
    attributes: Mapping[str, str]


@dataclass(frozen=True)
class Kind:
    """A type of resource. ``replacing``: properties whose change makes another resource in its place."""

    make: Callable[[str, Properties], Made]
    change: Callable[[Made, Properties, Properties], Made]
    delete: Callable[[Made, Properties], None]
    replacing: frozenset[str] = frozenset()


class Resources:
    """All types, over the services of one account."""

    def __init__(self, client: Client, functions: LoopbackFunctions, states: States) -> None:
        self._client = client
        self._functions = functions
        self._states = states
        self.kinds: Mapping[str, Kind] = {
            "AWS::Logs::LogGroup": Kind(
                self._make_group, self._change_group, self._delete_group, frozenset({"LogGroupName"})
            ),
            "AWS::IAM::Role": Kind(self._make_role, self._change_role, self._delete_role, frozenset({"RoleName"})),
            "AWS::Lambda::Function": Kind(
                self._make_function,
                self._change_function,
                self._delete_function,
                frozenset({"FunctionName", "PackageType"}),
            ),
            "AWS::Lambda::Version": Kind(
                self._publish_function, _unchangeable, self._delete_version, frozenset({"FunctionName"})
            ),
            "AWS::StepFunctions::StateMachine": Kind(
                self._make_machine,
                self._change_machine,
                lambda made, properties: self._states.drop(made.physical),
                frozenset({"StateMachineName", "StateMachineType"}),
            ),
            "AWS::StepFunctions::StateMachineVersion": Kind(
                self._publish_machine,
                _unchangeable,
                lambda made, properties: self._states.drop_version(made.physical),
                frozenset({"StateMachineArn", "StateMachineRevisionId"}),
            ),
            "AWS::StepFunctions::StateMachineAlias": Kind(
                self._make_alias,
                self._change_alias,
                lambda made, properties: self._states.drop_alias(made.physical),
                frozenset({"Name"}),
            ),
            "AWS::Scheduler::Schedule": Kind(
                self._make_schedule, self._change_schedule, self._delete_schedule, frozenset({"Name", "GroupName"})
            ),
        }

    # log groups

    def _make_group(self, name: str, properties: Properties) -> Made:
        logs, group = self._client("logs"), properties["LogGroupName"]
        self._called(logs.create_log_group, logGroupName=group, tags=_tags(properties))
        logs.put_retention_policy(logGroupName=group, retentionInDays=properties["RetentionInDays"])
        return Made(group, {"Arn": f"arn:aws:logs:us-east-1:123456789012:log-group:{group}:*"})

    def _change_group(self, made: Made, before: Properties, after: Properties) -> Made:
        self._client("logs").put_retention_policy(logGroupName=made.physical, retentionInDays=after["RetentionInDays"])
        return made

    def _delete_group(self, made: Made, properties: Properties) -> None:
        self._called(self._client("logs").delete_log_group, logGroupName=made.physical)

    # roles

    def _make_role(self, name: str, properties: Properties) -> Made:
        iam = self._client("iam")
        role = f"{name[:50]}-{secrets.token_hex(6).upper()}"
        made = self._called(
            iam.create_role,
            RoleName=role,
            AssumeRolePolicyDocument=json.dumps(properties["AssumeRolePolicyDocument"]),
            Description=properties.get("Description", ""),
            Tags=properties.get("Tags", []),
        )
        self._put_policies(role, properties)
        return Made(role, {"Arn": made["Role"]["Arn"], "RoleId": made["Role"]["RoleId"]})

    def _put_policies(self, role: str, properties: Properties) -> None:
        for policy in properties.get("Policies", []):
            self._client("iam").put_role_policy(
                RoleName=role, PolicyName=policy["PolicyName"], PolicyDocument=json.dumps(policy["PolicyDocument"])
            )

    def _change_role(self, made: Made, before: Properties, after: Properties) -> Made:
        gone = {each["PolicyName"] for each in before.get("Policies", [])} - {
            each["PolicyName"] for each in after.get("Policies", [])
        }
        for name in gone:
            self._client("iam").delete_role_policy(RoleName=made.physical, PolicyName=name)
        self._put_policies(made.physical, after)
        return made

    def _delete_role(self, made: Made, properties: Properties) -> None:
        iam = self._client("iam")
        for policy in properties.get("Policies", []):
            iam.delete_role_policy(RoleName=made.physical, PolicyName=policy["PolicyName"])
        self._called(iam.delete_role, RoleName=made.physical)

    # functions

    def _make_function(self, name: str, properties: Properties) -> Made:
        self._check_code(properties["Code"])
        asked = {
            key: properties[key]
            for key in (
                "FunctionName", "Description", "PackageType", "Code", "Runtime", "Handler", "Architectures",
                "MemorySize", "Timeout", "Role", "Environment", "ImageConfig", "TracingConfig",
            )
            if key in properties
        }  # fmt: skip
        made = self._called(self._client("lambda").create_function, **asked, Tags=_tags(properties))
        self._keep_log_group(properties)
        return Made(made["FunctionName"], {"Arn": made["FunctionArn"]})

    def _change_function(self, made: Made, before: Properties, after: Properties) -> Made:
        functions = self._client("lambda")
        if before["Code"] != after["Code"]:
            self._check_code(after["Code"])
            self._called(functions.update_function_code, FunctionName=made.physical, **after["Code"])
        names = (
            "Description", "Runtime", "Handler", "MemorySize", "Timeout", "Role", "Environment", "ImageConfig",
            "TracingConfig",
        )  # fmt: skip
        changed = {name: after[name] for name in names if name in after and after[name] != before.get(name)}
        if changed:
            self._called(functions.update_function_configuration, FunctionName=made.physical, **changed)
        if changed or before["Code"] != after["Code"]:
            self._functions.changed(made.physical)
        self._keep_log_group(after)
        return made

    def _delete_function(self, made: Made, properties: Properties) -> None:
        self._called(self._client("lambda").delete_function, FunctionName=made.physical)
        self._functions.forget(made.physical)

    def _keep_log_group(self, properties: Properties) -> None:
        group = properties.get("LoggingConfig", {}).get("LogGroup")
        if group:
            self._functions.set_log_group(properties["FunctionName"], group)

    def _check_code(self, code: Properties) -> None:
        """Refuse code that is not there, as AWS does; moto makes a function without code."""
        if "S3Key" not in code:
            return
        try:
            self._client("s3").head_object(Bucket=code["S3Bucket"], Key=code["S3Key"])
        except ClientError:
            raise ResourceError(
                'Resource handler returned message: "Error occurred while GetObject. S3 Error Code: NoSuchKey. '
                'S3 Error Message: The specified key does not exist. (Service: Lambda, Status Code: 400)"'
            ) from None

    def _publish_function(self, name: str, properties: Properties) -> Made:
        arn, is_new = self._functions.publish(properties["FunctionName"], properties.get("Description", ""))
        if not is_new:
            raise ResourceError(
                f"A version for this Lambda function exists ( {arn.rpartition(':')[2]} ). Modify the function to "
                "create a new version."
            )
        return Made(arn, {"Version": arn.rpartition(":")[2], "FunctionArn": arn})

    def _delete_version(self, made: Made, properties: Properties) -> None:
        function, _, version = made.physical.rpartition(":")
        self._called(self._client("lambda").delete_function, FunctionName=function, Qualifier=version)

    # state machines

    def _make_machine(self, name: str, properties: Properties) -> Made:
        return self._put_machine(properties)

    def _change_machine(self, made: Made, before: Properties, after: Properties) -> Made:
        names = (
            "DefinitionString",
            "DefinitionSubstitutions",
            "RoleArn",
            "LoggingConfiguration",
            "TracingConfiguration",
        )
        if all(before.get(name) == after.get(name) for name in names):
            return made
        return self._put_machine(after)

    def _put_machine(self, properties: Properties) -> Made:
        values = properties.get("DefinitionSubstitutions", {})
        text = re.sub(r"\$\{(\w+)\}", lambda found: str(values.get(found[1], found[0])), properties["DefinitionString"])
        machine = self._states.put(properties["StateMachineName"], text, properties["RoleArn"])
        attributes = {"Arn": machine.arn, "Name": machine.name, "StateMachineRevisionId": machine.revision.id}
        return Made(machine.arn, attributes)

    def _publish_machine(self, name: str, properties: Properties) -> Made:
        try:
            arn = self._states.publish(properties["StateMachineArn"], properties.get("StateMachineRevisionId", ""))
        except ApiError as error:
            raise ResourceError(str(error)) from None
        return Made(arn, {"Arn": arn})

    def _make_alias(self, name: str, properties: Properties) -> Made:
        [route] = properties["RoutingConfiguration"]
        version = route["StateMachineVersionArn"]
        arn = self._states.set_alias(version.rpartition(":")[0], properties["Name"], version)
        return Made(arn, {"Arn": arn})

    def _change_alias(self, made: Made, before: Properties, after: Properties) -> Made:
        return self._make_alias("", after)

    # schedules

    def _make_schedule(self, name: str, properties: Properties) -> Made:
        made = self._called(self._client("scheduler").create_schedule, **properties)
        return Made(properties["Name"], {"Arn": made["ScheduleArn"]})

    def _change_schedule(self, made: Made, before: Properties, after: Properties) -> Made:
        self._called(self._client("scheduler").update_schedule, **after)
        return made

    def _delete_schedule(self, made: Made, properties: Properties) -> None:
        self._called(self._client("scheduler").delete_schedule, Name=made.physical)

    @staticmethod
    def _called(action: Callable[..., Any], **asked: Any) -> Any:
        try:
            return action(**asked)
        except ClientError as error:
            raise ResourceError(f'Resource handler returned message: "{error.response["Error"]["Message"]}"') from None


def _unchangeable(made: Made, before: Properties, after: Properties) -> Made:
    return made


def _tags(properties: Properties) -> dict[str, str]:
    return {each["Key"]: each["Value"] for each in properties.get("Tags", [])}
