"""The resource types that stacks may have: each made, changed and deleted through the API of its service.

https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-template-resource-type-ref.html
"""

from __future__ import annotations

import contextlib
import io
import json
import uuid
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from botocore.exceptions import ClientError

from aws.loopback_functions import LoopbackFunctions
from aws.loopback_protocol import Fields
from lokki.emulator.states.services import ACCOUNT, REGION

type Clients = Callable[[str], Any]


class ResourceError(Exception):
    """A resource cannot be made, changed or deleted; the reason that its event has."""


@dataclass(frozen=True, slots=True)
class Made:
    """A resource that was made: what Ref and GetAtt give."""

    physical: str
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Where:
    """Who asks: the logical id in its stack, for generated names."""

    stack: str
    logical: str

    def name(self, longest: int = 64) -> str:
        """Make a name as CloudFormation does."""
        end = f"-{uuid.uuid4().hex[:12]}"
        return f"{self.stack}-{self.logical}"[: longest - len(end)] + end


class Resource:
    """A resource type. ``replaced_by``: properties whose change makes a new one; ``known``: the others.

    ``volatile``: attributes that change with each change of it.
    """

    replaced_by: frozenset[str] = frozenset()
    known: frozenset[str] = frozenset()
    volatile: frozenset[str] = frozenset()

    def __init__(self, clients: Clients) -> None:
        self.client = clients

    def create(self, properties: Fields, where: Where) -> Made:
        raise NotImplementedError

    def update(self, made: Made, properties: Fields) -> Made:
        raise ResourceError("this resource cannot be changed")

    def delete(self, made: Made) -> None:
        raise NotImplementedError

    def check(self, properties: Fields) -> None:
        """Raise ResourceError for a property that the type does not have."""
        if unknown := sorted(set(properties) - self.known - self.replaced_by):
            raise ResourceError(f"extraneous key [{unknown[0]}] is not permitted")


_RESERVED = "ReservedConcurrentExecutions"


class Function(Resource):
    replaced_by = frozenset({"FunctionName", "PackageType"})
    known = frozenset(
        {
            "Architectures", "Code", "Description", "Environment", "EphemeralStorage", "Handler", "ImageConfig",
            "KmsKeyArn", "Layers", "LoggingConfig", "MemorySize", "ReservedConcurrentExecutions", "Role", "Runtime",
            "SnapStart", "Tags", "Timeout", "TracingConfig", "VpcConfig",
        }
    )  # fmt: skip

    def __init__(self, clients: Clients, functions: LoopbackFunctions) -> None:
        super().__init__(clients)
        self._functions = functions

    def create(self, properties: Fields, where: Where) -> Made:
        name = properties.get("FunctionName") or where.name()
        client = self.client("lambda")
        try:
            client.get_function(FunctionName=name)
        except client.exceptions.ResourceNotFoundException:
            pass
        else:
            raise ResourceError(f"{name} already exists in stack, or outside of it")
        given = {**_whole_numbers(properties), "FunctionName": name, "Code": self._code(properties["Code"])}
        given["Tags"] = _mapping(properties.get("Tags", []))
        # moto knows the layers of its own account only.
        client.create_function(**{key: given[key] for key in given.keys() - {"Layers", _RESERVED}})
        return self._made(name, properties)

    def update(self, made: Made, properties: Fields) -> Made:
        client = self.client("lambda")
        client.update_function_code(FunctionName=made.physical, **self._code(properties["Code"]))
        names = (
            "Description", "Handler", "KMSKeyArn", "LoggingConfig", "MemorySize", "Role", "Runtime", "Timeout",
            "TracingConfig", "VpcConfig",
        )  # fmt: skip
        given = {name: value for name, value in _whole_numbers(properties).items() if name in names}
        given["Environment"] = properties.get("Environment", {"Variables": {}})
        client.update_function_configuration(FunctionName=made.physical, **given)
        return self._made(made.physical, properties)

    def delete(self, made: Made) -> None:
        client = self.client("lambda")
        with contextlib.suppress(client.exceptions.ResourceNotFoundException):
            client.delete_function(FunctionName=made.physical)
        self._functions.forget(made.physical)

    def _made(self, name: str, properties: Fields) -> Made:
        if reserved := properties.get(_RESERVED):
            self.client("lambda").put_function_concurrency(FunctionName=name, **{_RESERVED: int(reserved)})
        else:
            self.client("lambda").delete_function_concurrency(FunctionName=name)
        self._functions.set_logging(name, properties.get("LoggingConfig", {}))
        self._functions.set_snap_start(name, properties.get("SnapStart", {}).get("ApplyOn", "None"))
        return Made(name, {"Arn": f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{name}"})

    def _code(self, code: Fields) -> Fields:
        """Return the code's place. moto takes a key that does not exist for an empty package."""
        if "S3Key" in code:
            try:
                self.client("s3").head_object(Bucket=code["S3Bucket"], Key=code["S3Key"])
            except ClientError:
                kind, what = "NoSuchKey", "key does not exist."
                try:
                    self.client("s3").head_bucket(Bucket=code["S3Bucket"])
                except ClientError:
                    kind, what = "NoSuchBucket", "bucket does not exist"
                raise ResourceError(
                    f"Error occurred while GetObject. S3 Error Code: {kind}. S3 Error Message: The specified {what}"
                ) from None
        if isinstance(code.get("ZipFile"), str):
            content = io.BytesIO()
            with zipfile.ZipFile(content, "w") as archive:
                archive.writestr("index.py", code["ZipFile"])
            return {"ZipFile": content.getvalue()}
        return code


class FunctionVersion(Resource):
    replaced_by = frozenset({"FunctionName", "Description", "CodeSha256"})

    def __init__(self, clients: Clients, functions: LoopbackFunctions) -> None:
        super().__init__(clients)
        self._functions = functions

    def create(self, properties: Fields, where: Where) -> Made:
        arn, new = self._functions.publish(properties["FunctionName"], properties.get("Description", ""))
        function, _, version = arn.rpartition(":")
        if not new:
            raise ResourceError(
                f"A version for this Lambda function exists ( {version} ). Modify the function to create a new version."
            )
        return Made(arn, {"FunctionArn": function, "Version": version})

    def delete(self, made: Made) -> None:
        function, _, version = made.physical.rpartition(":")
        client = self.client("lambda")
        with contextlib.suppress(client.exceptions.ResourceNotFoundException):
            client.delete_function(FunctionName=function, Qualifier=version)


def _characters(document: object) -> int:
    """Return what IAM counts of a policy: all but white space."""
    return len(json.dumps(document, separators=(",", ":")))


class ManagedPolicy(Resource):
    """Names of its own are not taken; moto does not hold policies to IAM's limits, which this does."""

    replaced_by = frozenset({"Description"})
    known = frozenset({"Description", "PolicyDocument"})

    def create(self, properties: Fields, where: Where) -> Made:
        self._check(properties)
        document = json.dumps(properties["PolicyDocument"])
        client = self.client("iam")
        made = client.create_policy(
            PolicyName=where.name(128), PolicyDocument=document, Description=properties.get("Description", "")
        )
        return Made(made["Policy"]["Arn"])

    def update(self, made: Made, properties: Fields) -> Made:
        self._check(properties)
        client = self.client("iam")
        before = client.list_policy_versions(PolicyArn=made.physical)["Versions"]
        document = json.dumps(properties["PolicyDocument"])
        client.create_policy_version(PolicyArn=made.physical, PolicyDocument=document, SetAsDefault=True)
        for each in before:
            client.delete_policy_version(PolicyArn=made.physical, VersionId=each["VersionId"])
        return made

    def delete(self, made: Made) -> None:
        client = self.client("iam")
        with contextlib.suppress(client.exceptions.NoSuchEntityException):
            client.delete_policy(PolicyArn=made.physical)

    def _check(self, properties: Fields) -> None:
        size = _characters(properties["PolicyDocument"])
        if size > 6144:
            raise ResourceError(f"Cannot exceed quota for PolicySize: 6144 (it has {size})")


class Role(Resource):
    replaced_by = frozenset({"RoleName", "Path"})
    known = frozenset(
        {
            "AssumeRolePolicyDocument", "Description", "ManagedPolicyArns", "PermissionsBoundary", "Policies", "Tags",
        }
    )  # fmt: skip

    def create(self, properties: Fields, where: Where) -> Made:
        name = properties.get("RoleName") or where.name()
        client = self.client("iam")
        client.create_role(
            RoleName=name,
            Path=properties.get("Path", "/"),
            AssumeRolePolicyDocument=json.dumps(properties["AssumeRolePolicyDocument"]),
            Description=properties.get("Description", ""),
            Tags=properties.get("Tags", []),
        )
        self._put(name, properties)
        return self._made(name)

    def update(self, made: Made, properties: Fields) -> Made:
        client = self.client("iam")
        document = json.dumps(properties["AssumeRolePolicyDocument"])
        client.update_assume_role_policy(RoleName=made.physical, PolicyDocument=document)
        self._clear(made.physical)
        self._put(made.physical, properties)
        return self._made(made.physical)

    def delete(self, made: Made) -> None:
        client = self.client("iam")
        try:
            self._clear(made.physical)
            client.delete_role(RoleName=made.physical)
        except client.exceptions.NoSuchEntityException:
            pass

    def _made(self, name: str) -> Made:
        found = self.client("iam").get_role(RoleName=name)["Role"]
        return Made(name, {"Arn": found["Arn"], "RoleId": found["RoleId"]})

    def _put(self, name: str, properties: Fields) -> None:
        client = self.client("iam")
        # https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html
        if sum(_characters(each["PolicyDocument"]) for each in properties.get("Policies", [])) > 10_240:
            raise ResourceError(f"Maximum policy size of 10240 bytes exceeded for role {name}")
        if len(properties.get("ManagedPolicyArns", [])) > 10:
            raise ResourceError("Cannot exceed quota for PoliciesPerRole: 10")
        if "PermissionsBoundary" in properties:
            client.put_role_permissions_boundary(RoleName=name, PermissionsBoundary=properties["PermissionsBoundary"])
        for each in properties.get("Policies", []):
            document = json.dumps(each["PolicyDocument"])
            client.put_role_policy(RoleName=name, PolicyName=each["PolicyName"], PolicyDocument=document)
        for arn in properties.get("ManagedPolicyArns", []):
            client.attach_role_policy(RoleName=name, PolicyArn=arn)

    def _clear(self, name: str) -> None:
        client = self.client("iam")
        for policy in client.list_role_policies(RoleName=name)["PolicyNames"]:
            client.delete_role_policy(RoleName=name, PolicyName=policy)
        for attached in client.list_attached_role_policies(RoleName=name)["AttachedPolicies"]:
            client.detach_role_policy(RoleName=name, PolicyArn=attached["PolicyArn"])


class LogGroup(Resource):
    replaced_by = frozenset({"LogGroupName"})
    known = frozenset({"KmsKeyId", "LogGroupClass", "RetentionInDays", "Tags"})

    def create(self, properties: Fields, where: Where) -> Made:
        name = properties.get("LogGroupName") or where.name(512)
        client = self.client("logs")
        key = {"kmsKeyId": properties["KmsKeyId"]} if "KmsKeyId" in properties else {}
        client.create_log_group(logGroupName=name, tags=_mapping(properties.get("Tags", [])), **key)
        return self._retained(name, properties)

    def update(self, made: Made, properties: Fields) -> Made:
        return self._retained(made.physical, properties)

    def delete(self, made: Made) -> None:
        client = self.client("logs")
        with contextlib.suppress(client.exceptions.ResourceNotFoundException):
            client.delete_log_group(logGroupName=made.physical)

    def _retained(self, name: str, properties: Fields) -> Made:
        if "RetentionInDays" in properties:
            days = int(properties["RetentionInDays"])
            self.client("logs").put_retention_policy(logGroupName=name, retentionInDays=days)
        return Made(name, {"Arn": f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:{name}:*"})


def reason(error: Exception) -> str:
    """Say why a resource failed, as its event does."""
    if isinstance(error, ClientError):
        described = error.response["Error"]
        code, message = described.get("Code", ""), described.get("Message", "")
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 400)
        return f'Resource handler returned message: "{message} (Status Code: {status})" (HandlerErrorCode: {code})'
    return f'Resource handler returned message: "{error}"'


def _mapping(tags: list[dict[str, str]]) -> dict[str, str]:
    return {each["Key"]: each["Value"] for each in tags}


def _whole_numbers(properties: Fields) -> Fields:
    return {
        # The API of Lambda spells one property otherwise.
        name.replace("KmsKey", "KMSKey"): int(value) if name in ("MemorySize", "Timeout") else value
        for name, value in properties.items()
        if name != "Tags"
    }
