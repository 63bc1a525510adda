"""The IAM roles of a deployed flow: what a run does, on the flow's own resources, and nothing else.

Roles have no names of their own: CloudFormation makes names that are unique in the account, so a flow can be deployed
to two regions. https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/aws-properties-name.html
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from lokki.base.access import Allow, Permission, Read, Resource, Write, parts_of_url, secret_permission
from lokki.base.quotas import (
    FUNCTION_NAME_LENGTH,
    INLINE_POLICY_CHARACTERS,
    MANAGED_POLICIES,
    MANAGED_POLICY_CHARACTERS,
)
from lokki.base.values import Json
from lokki.chain import AnyStep
from lokki.errors import FlowError

type TemplatePart = dict[str, Json]
"""A resource of a template, or a part of one, as JSON."""

_BUCKET = "arn:${AWS::Partition}:s3:::"
_FUNCTIONS = "arn:${AWS::Partition}:lambda:${AWS::Region}:${AWS::AccountId}:function:${FlowName}-*"
"""All functions of the flow, and of flows whose names begin with its name and ``-``."""

FLOW_OBJECTS = "arn:${AWS::Partition}:s3:::${S3Bucket}/lokki/${FlowName}/"


def sub(text: str) -> TemplatePart:
    """Return a text whose placeholders CloudFormation fills."""
    return {"Fn::Sub": text}


def ref(name: str) -> TemplatePart:
    """Return a reference to a parameter or a resource."""
    return {"Ref": name}


def attribute(resource: str, name: str = "Arn") -> TemplatePart:
    """Return an attribute of a resource, by default its ARN."""
    return {"Fn::GetAtt": [resource, name]}


@dataclass(frozen=True, slots=True)
class RoleSettings:
    """What the settings say of all roles.

    - ``tracing``: whether runs are traced
    - ``kms_key``, ``permissions_boundary``: ARNs, or ""
    - ``encrypted_environment``: whether the key is that of functions' variables, too
    - ``vpc``: whether functions run in a network of the account
    """

    tracing: bool = True
    kms_key: str = ""
    permissions_boundary: str = ""
    tags: tuple[Json, ...] = ()
    encrypted_environment: bool = False
    vpc: bool = False


def own_permissions(step: AnyStep) -> tuple[Permission, ...]:
    """Return what a step may do beside what all may."""
    return (*step.options.permissions, *map(secret_permission, step.options.secrets.values()))


@dataclass(frozen=True, slots=True)
class FunctionRole:
    """A role of functions.

    - ``id``: its logical id
    - ``description``: of whom it is
    - ``log_groups``: the logical ids of those that the functions write to
    - ``permissions``: what users allow
    """

    id: str
    description: str
    log_groups: tuple[str, ...]
    permissions: tuple[Permission, ...] = ()


def lambda_role(role: FunctionRole, settings: RoleSettings) -> TemplatePart:
    """Return a role of functions.

    It is for their log groups, the objects under the flow's prefix and what users allow. With ListBucket, a missing
    object is 404 and not 403:
    https://docs.aws.amazon.com/AmazonS3/latest/API/API_GetObject.html#API_GetObject_Permissions

    Raises FlowError for permissions that fit no role.
    """
    log_groups: list[Json] = [attribute(group) for group in role.log_groups]
    statements: list[TemplatePart] = [
        policy_statement("WriteLogs", ["logs:CreateLogStream", "logs:PutLogEvents"], log_groups),
        # Large objects are written in parts, and a write that fails is aborted:
        # https://docs.aws.amazon.com/AmazonS3/latest/userguide/mpuoverview.html#mpuAndPermissions
        policy_statement(
            "UseArtifacts", ["s3:AbortMultipartUpload", "s3:GetObject", "s3:PutObject"], sub(FLOW_OBJECTS + "*")
        ),
        policy_statement(
            "TellMissingArtifacts",
            ["s3:ListBucket"],
            sub("arn:${AWS::Partition}:s3:::${S3Bucket}"),
            {"StringLike": {"s3:prefix": sub("lokki/${FlowName}/*")}},
        ),
    ]
    if settings.kms_key:
        statements.append(_use_key(settings.kms_key))
    if settings.encrypted_environment:
        statements.append(_read_environment(settings.kms_key))
    if settings.vpc:
        statements += _interface_statements()
    if settings.tracing:
        # These have no resources: https://docs.aws.amazon.com/lambda/latest/dg/services-xray.html
        statements.append(policy_statement("Trace", ["xray:PutTraceSegments", "xray:PutTelemetryRecords"], "*"))
    statements += user_statements(role.permissions)
    trust = _trust("lambda.amazonaws.com")
    resources = _role(role.id, role.description, trust, statements, settings)
    policies = len(resources) - 1
    problem = f"they need {policies} managed policies in one role, and IAM takes {MANAGED_POLICIES}"
    if role.permissions and (policies > MANAGED_POLICIES or any(map(_is_too_long, resources.values()))):
        if policies <= MANAGED_POLICIES:
            problem = f"one of them is longer than the {MANAGED_POLICY_CHARACTERS:,} characters of a managed policy"
        raise FlowError(
            f"permissions= or lambda_defaults.permissions: {problem}. Put what they name under fewer prefixes, such as "
            "arn:…:table/birds-*, and name fewer actions at once, such as s3:Get*."
        )
    return resources


def _read_environment(key: str) -> TemplatePart:
    """Allow to decrypt the variables of the flow's functions.

    Lambda names the function in what it decrypts: https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars-encryption.html
    """
    function: Json = {"StringLike": {"kms:EncryptionContext:aws:lambda:FunctionArn": sub(_FUNCTIONS)}}
    return policy_statement("ReadEnvironment", ["kms:Decrypt"], key, function)


def from_code() -> Json:
    """Return the condition that a function's code makes the call.

    Calls carry the function of the flow that they come from:
    https://docs.aws.amazon.com/lambda/latest/dg/permissions-source-function-arn.html
    """
    return {"ArnLike": {"lambda:SourceFunctionArn": sub(_FUNCTIONS)}}


def _interface_statements() -> list[TemplatePart]:
    """Let Lambda make network interfaces, and the code of steps none.

    Lambda uses the role of the function for that, and asks whether it may for all resources:
    https://docs.aws.amazon.com/lambda/latest/dg/configuration-vpc.html#configuration-vpc-permissions
    """
    names = [
        "AssignPrivateIpAddresses",
        "CreateNetworkInterface",
        "DeleteNetworkInterface",
        "DescribeNetworkInterfaces",
        "DescribeSubnets",
        "UnassignPrivateIpAddresses",
    ]
    actions = [f"ec2:{name}" for name in names]
    allow = policy_statement("ManageInterfaces", actions, "*")
    return [allow, policy_statement("NotByCode", actions, "*", from_code()) | {"Effect": "Deny"}]


def _is_too_long(resource: Json) -> bool:
    """Tell whether a managed policy has more characters than IAM takes."""
    if not isinstance(resource, dict) or resource["Type"] != "AWS::IAM::ManagedPolicy":
        return False
    properties = resource["Properties"]
    return isinstance(properties, dict) and characters(properties["PolicyDocument"]) > MANAGED_POLICY_CHARACTERS


def user_statements(permissions: Sequence[Permission]) -> Iterator[TemplatePart]:
    """Yield the statements that allow what users say, each thing once.

    A request that lists a bucket has the prefix as a condition key; one for the whole bucket need not have one:
    https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazons3.html

    Writing in parts is allowed by PutObject, and what aborts it by a permission of its own:
    https://docs.aws.amazon.com/AmazonS3/latest/userguide/mpuoverview.html#mpuAndPermissions
    """
    reads = dict.fromkeys(parts_of_url(entry.url) for entry in permissions if isinstance(entry, Read))
    writes = dict.fromkeys(parts_of_url(entry.url) for entry in permissions if isinstance(entry, Write))
    if reads:
        yield policy_statement("ReadObjects", ["s3:GetObject"], [_objects(*place) for place in reads])
    for number, (bucket, prefixes) in enumerate(_listed(reads), 1):
        condition: Json = None if "*" in prefixes else {"StringLike": {"s3:prefix": prefixes}}
        yield policy_statement(f"ListObjects{number}", ["s3:ListBucket"], [sub(_BUCKET + bucket)], condition)
    if writes:
        actions = ["s3:AbortMultipartUpload", "s3:PutObject"]
        yield policy_statement("WriteObjects", actions, [_objects(*place) for place in writes])
    resources: dict[tuple[str, ...], dict[str | Resource, None]] = {}
    for entry in permissions:
        if isinstance(entry, Allow):
            resources.setdefault(entry.actions, {}).update(dict.fromkeys(entry.resources))
    for number, (names, arns) in enumerate(resources.items(), 1):
        yield policy_statement(f"Allow{number}", names, [resource_value(arn) for arn in arns])


def resource_value(entry: str | Resource) -> Json:
    """Return an ARN, or what stands for one in a template."""
    if isinstance(entry, str):
        return sub(entry) if "${" in entry else entry
    return attribute(entry.id, entry.attribute) if entry.attribute else ref(entry.id)


def _listed(reads: Iterable[tuple[str, str]]) -> Iterator[tuple[str, list[Json]]]:
    """Yield buckets with prefixes to list, as many as fit a statement."""
    by_bucket: dict[str, list[str]] = {}
    for bucket, keys in reads:
        by_bucket.setdefault(bucket, []).append(keys)
    for bucket, prefixes in by_bucket.items():
        if "*" in prefixes:
            yield bucket, ["*"]
            continue
        part: list[Json] = []
        for prefix in prefixes:
            if part and characters([*part, prefix]) > _LISTED_CHARACTERS:
                yield bucket, part
                part = []
            part.append(prefix)
        yield bucket, part


_LISTED_CHARACTERS = MANAGED_POLICY_CHARACTERS // 2
"""Most characters of the prefixes in one statement, which cannot be cut further."""


def _objects(bucket: str, keys: str) -> TemplatePart:
    return sub(f"{_BUCKET}{bucket}/{keys}")


def step_functions_role(name: str, functions: Sequence[str], settings: RoleSettings, *, maps: bool) -> TemplatePart:
    """Return the role of the state machine.

    It is for its functions and logs, and with maps for its own child executions and their files.
    https://docs.aws.amazon.com/step-functions/latest/dg/iam-policies-eg-dist-map.html
    """
    statements: list[TemplatePart] = [
        # Versions only, each by its qualified ARN:
        # https://docs.aws.amazon.com/lambda/latest/dg/configuration-versions.html#versioning-permissions
        policy_statement(
            "InvokeSteps", ["lambda:InvokeFunction"], [sub(f"${{{function}.Arn}}:*") for function in functions]
        ),
        # https://docs.aws.amazon.com/step-functions/latest/dg/cw-logs.html#cloudwatch-iam-policy
        policy_statement(
            "DeliverLogs",
            [
                "logs:CreateLogDelivery",
                "logs:DeleteLogDelivery",
                "logs:DescribeLogGroups",
                "logs:DescribeResourcePolicies",
                "logs:GetLogDelivery",
                "logs:ListLogDeliveries",
                "logs:PutResourcePolicy",
                "logs:UpdateLogDelivery",
            ],
            "*",
        ),
    ]
    if settings.tracing:
        # https://docs.aws.amazon.com/step-functions/latest/dg/concepts-xray-tracing.html
        actions = ["GetSamplingRules", "GetSamplingTargets", "PutTelemetryRecords", "PutTraceSegments"]
        statements.append(policy_statement("Trace", [f"xray:{action}" for action in actions], "*"))
    if maps:
        statements += _map_statements()
    if maps and settings.kms_key:
        statements.append(_use_key(settings.kms_key))
    trust = _trust("states.amazonaws.com", _ours("states", "*"))
    return _role(name, "The state machine of ${FlowName}", trust, statements, settings)


def schedule_role(name: str, settings: RoleSettings, queue: str = "") -> TemplatePart:
    """Return the role with which EventBridge Scheduler starts runs.

    It starts them through the alias, which is authorized by the ARN of the state machine:
    https://docs.aws.amazon.com/step-functions/latest/dg/auth-version-alias.html
    https://docs.aws.amazon.com/scheduler/latest/UserGuide/cross-service-confused-deputy-prevention.html

    ``queue``: the logical id of the one that gets runs which could not be started; Scheduler uses this role for it too:
    https://docs.aws.amazon.com/scheduler/latest/UserGuide/configuring-schedule-dlq.html
    """
    statements = [policy_statement("StartRuns", ["states:StartExecution"], ref("StateMachine"))]
    if queue:
        statements.append(policy_statement("KeepDropped", ["sqs:SendMessage"], attribute(queue)))
    condition = _ours("scheduler", "schedule-group/default")
    trust = _trust("scheduler.amazonaws.com", condition)
    return _role(name, "The schedule of ${FlowName}", trust, statements, settings)


def rule_role(name: str, machines: Sequence[str], settings: RoleSettings) -> TemplatePart:
    """Return the role with which rules of EventBridge start state machines.

    ``machines``: their logical ids.
    https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-events-iam-roles.html
    """
    start = policy_statement("StartMachines", ["states:StartExecution"], [ref(machine) for machine in machines])
    trust = _trust("events.amazonaws.com", _ours("events", "rule/*"))
    return _role(name, "The rules of ${FlowName}", trust, [start], settings)


def event_machine_role(
    name: str, description: str, statements: list[TemplatePart], settings: RoleSettings
) -> TemplatePart:
    """Return the role of a state machine that is told of events."""
    trust = _trust("states.amazonaws.com", _ours("states", "*"))
    return _role(name, description, trust, statements, settings)


def _map_statements() -> list[TemplatePart]:
    # Whichever version runs, starting is authorized by the ARN of the state machine:
    # https://docs.aws.amazon.com/step-functions/latest/dg/auth-version-alias.html
    # Child executions are execution:<state machine>/<label>:<id>, as redriving names them:
    # https://docs.aws.amazon.com/step-functions/latest/dg/redrive-map-run.html#maprun-iam-permission
    executions = "arn:${AWS::Partition}:states:${AWS::Region}:${AWS::AccountId}:execution:${FlowName}"
    machine = "arn:${AWS::Partition}:states:${AWS::Region}:${AWS::AccountId}:stateMachine:${FlowName}"
    return [
        policy_statement("StartItems", ["states:StartExecution"], sub(machine)),
        policy_statement(
            "FollowItems",
            ["states:DescribeExecution", "states:StopExecution", "states:RedriveExecution"],
            [sub(executions + ":*"), sub(executions + "/*")],
        ),
        policy_statement("ReadItems", ["s3:GetObject"], sub(FLOW_OBJECTS + "*/map_manifest.json")),
        policy_statement(
            "WriteResults",
            ["s3:AbortMultipartUpload", "s3:GetObject", "s3:ListMultipartUploadParts", "s3:PutObject"],
            sub(FLOW_OBJECTS + "*/map_results/*"),
        ),
    ]


def policy_statement(sid: str, actions: Sequence[str], resource: Json, condition: Json = None) -> TemplatePart:
    """Return a statement that allows actions on resources."""
    statement: TemplatePart = {"Sid": sid, "Effect": "Allow", "Action": list(actions), "Resource": resource}
    return statement if condition is None else statement | {"Condition": condition}


def _ours(service: str, resource: str) -> TemplatePart:
    """Return the condition that a role is used for this account only.

    https://docs.aws.amazon.com/step-functions/latest/dg/procedure-create-iam-role.html#prevent-cross-service-confused-deputy
    """
    arn = f"arn:${{AWS::Partition}}:{service}:${{AWS::Region}}:${{AWS::AccountId}}:"
    resource_type = "stateMachine:" if service == "states" else ""
    return {
        "StringEquals": {"aws:SourceAccount": ref("AWS::AccountId")},
        "ArnLike": {"aws:SourceArn": sub(f"{arn}{resource_type}{resource}")},
    }


def _use_key(key: str) -> TemplatePart:
    """Allow what S3 asks of a key for reading, and for writing also in parts.

    https://docs.aws.amazon.com/AmazonS3/latest/userguide/mpuoverview.html#mpuAndPermissions
    """
    through_s3: Json = {"StringLike": {"kms:ViaService": sub("s3.${AWS::Region}.amazonaws.com*")}}
    return policy_statement("UseKey", ["kms:Decrypt", "kms:GenerateDataKey"], key, through_s3)


def _trust(service: str, condition: Json = None) -> TemplatePart:
    trust: TemplatePart = {"Effect": "Allow", "Principal": {"Service": service}, "Action": "sts:AssumeRole"}
    return trust if condition is None else trust | {"Condition": condition}


def _role(
    name: str, description: str, trust: TemplatePart, statements: list[TemplatePart], settings: RoleSettings
) -> TemplatePart:
    """Return a role and its managed policies, by logical id.

    These are for what the inline policy has no room for.
    """
    inline, overflow = _divided(statements)
    policies = {f"{name}Policy{number}": _policy(description, part) for number, part in enumerate(overflow, 1)}
    properties: TemplatePart = {
        "Description": sub(description),
        "AssumeRolePolicyDocument": _document([trust]),
        "Policies": [{"PolicyName": "run", "PolicyDocument": _document(inline)}],
    }
    if policies:
        properties["ManagedPolicyArns"] = [ref(policy) for policy in policies]
    if settings.permissions_boundary:
        properties["PermissionsBoundary"] = settings.permissions_boundary
    properties["Tags"] = list(settings.tags)
    return {name: {"Type": "AWS::IAM::Role", "Properties": properties}, **policies}


def _policy(description: str, statements: list[TemplatePart]) -> TemplatePart:
    properties: TemplatePart = {"Description": sub(description), "PolicyDocument": _document(statements)}
    return {"Type": "AWS::IAM::ManagedPolicy", "Properties": properties}


def _document(statements: list[TemplatePart]) -> TemplatePart:
    return {"Version": "2012-10-17", "Statement": [*statements]}


def _divided(statements: list[TemplatePart]) -> tuple[list[TemplatePart], list[list[TemplatePart]]]:
    """Divide statements between the inline policy and managed ones.

    The second list has the statements of each managed policy.
    The statements that name a resource for each step are the ones that grow; each is cut into as many as it needs.
    """
    inline = list(statements)
    overflow: list[TemplatePart] = []
    while characters(_document(inline)) > INLINE_POLICY_CHARACTERS:
        largest = max(inline, key=characters)
        inline.remove(largest)
        overflow += _cut(largest)
    return inline, _packed(overflow)


def _packed(statements: list[TemplatePart]) -> list[list[TemplatePart]]:
    """Put neighbouring statements into one managed policy as long as they fit."""
    policies: list[list[TemplatePart]] = []
    for statement in statements:
        if policies and characters(_document([*policies[-1], statement])) <= MANAGED_POLICY_CHARACTERS:
            policies[-1].append(statement)
        else:
            policies.append([statement])
    return policies


def _cut(statement: TemplatePart) -> Iterator[TemplatePart]:
    """Cut a statement by its resources, so that each fits a managed policy."""
    resources = statement["Resource"]
    if not isinstance(resources, list):  # one resource, which no number of steps makes longer
        yield statement
        return
    rest = characters(_document([statement | {"Resource": []}]))
    part: list[Json] = []
    size = rest
    for resource in resources:
        more = characters(resource) + len(",")
        if part and size + more > MANAGED_POLICY_CHARACTERS:
            yield statement | {"Resource": part}
            part, size = [], rest
        part.append(resource)
        size += more
    yield statement | {"Resource": part}


_LONGEST = {
    "AWS::Partition": "aws-us-gov",
    "AWS::Region": "ap-southeast-99",
    "AWS::AccountId": "123456789012",
    "S3Bucket": "b" * 63,
    "FlowName": "f" * FUNCTION_NAME_LENGTH,
}
"""The longest that a template's values are; the name of a function is longer than that of its flow."""

_LONGEST_ARN = "arn:aws-us-gov:lambda:ap-southeast-99:123456789012:log-group:/aws/lambda/" + "f" * FUNCTION_NAME_LENGTH
"""The longest ARN of a function, or of its log group but for ``:*``."""


def characters(value: Json) -> int:
    """Return how many characters a part of a policy has at most.

    Counted is what it has when CloudFormation has filled it in.

    >>> characters(["logs:PutLogEvents", {"Fn::Sub": "arn:${AWS::Partition}:s3:::a"}])
    45
    """
    return len(json.dumps(_filled(value), separators=(",", ":")))


def _filled(value: Json) -> Json:
    match value:
        case {"Fn::Sub": str(text)}:
            return re.sub(r"\$\{([\w:.]+)\}", lambda reference: _LONGEST.get(reference[1], _LONGEST_ARN), text)
        case {"Fn::GetAtt": _}:
            return f"{_LONGEST_ARN}:*"
        case {"Ref": _}:
            return _LONGEST_ARN
        case dict():
            return {name: _filled(member) for name, member in value.items()}
        case list():
            return [_filled(member) for member in value]
    return value
