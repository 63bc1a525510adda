"""The IAM roles of a deployed flow: what a run does, on the flow's own resources, and nothing else.

Roles have no names of their own: CloudFormation makes names that are unique in the account, so a flow can be deployed
to two regions. https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/aws-properties-name.html
"""

from __future__ import annotations

from collections.abc import Sequence

from lokki.values import Json

type Mapped = dict[str, Json]

FLOW_OBJECTS = "arn:${AWS::Partition}:s3:::${S3Bucket}/lokki/${FlowName}/"


def sub(text: str) -> Mapped:
    """Return ``Fn::Sub`` of a text."""
    return {"Fn::Sub": text}


def ref(name: str) -> Mapped:
    """Return ``Ref`` to a parameter or a resource."""
    return {"Ref": name}


def attribute(resource: str, name: str = "Arn") -> Mapped:
    """Return ``Fn::GetAtt`` of a resource."""
    return {"Fn::GetAtt": [resource, name]}


def lambda_role(log_groups: Sequence[str], *, tracing: bool) -> Mapped:
    """Return the role of the functions: their log groups, and the objects under the flow's prefix.

    With ListBucket, a missing object is 404 and not 403:
    https://docs.aws.amazon.com/AmazonS3/latest/API/API_GetObject.html#API_GetObject_Permissions
    """
    statements: list[Json] = [
        _allow("WriteLogs", ["logs:CreateLogStream", "logs:PutLogEvents"], [attribute(group) for group in log_groups]),
        # Large objects are written in parts, and a write that fails is aborted:
        # https://docs.aws.amazon.com/AmazonS3/latest/userguide/mpuoverview.html#mpuAndPermissions
        _allow("UseArtifacts", ["s3:AbortMultipartUpload", "s3:GetObject", "s3:PutObject"], sub(FLOW_OBJECTS + "*")),
        _allow(
            "TellMissingArtifacts",
            ["s3:ListBucket"],
            sub("arn:${AWS::Partition}:s3:::${S3Bucket}"),
            {"StringLike": {"s3:prefix": sub("lokki/${FlowName}/*")}},
        ),
    ]
    if tracing:
        # These have no resources: https://docs.aws.amazon.com/lambda/latest/dg/services-xray.html
        statements.append(_allow("Trace", ["xray:PutTraceSegments", "xray:PutTelemetryRecords"], "*"))
    return _role("The functions of ${FlowName}", "lambda.amazonaws.com", statements)


def step_functions_role(functions: Sequence[str], *, maps: bool, tracing: bool) -> Mapped:
    """Return the role of the state machine: its functions, its logs, and with maps its own child executions and files.

    https://docs.aws.amazon.com/step-functions/latest/dg/iam-policies-eg-dist-map.html
    """
    statements: list[Json] = [
        # Versions only, each by its qualified ARN:
        # https://docs.aws.amazon.com/lambda/latest/dg/configuration-versions.html#versioning-permissions
        _allow("InvokeSteps", ["lambda:InvokeFunction"], [sub(f"${{{function}.Arn}}:*") for function in functions]),
        # https://docs.aws.amazon.com/step-functions/latest/dg/cw-logs.html#cloudwatch-iam-policy
        _allow(
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
    if tracing:
        # https://docs.aws.amazon.com/step-functions/latest/dg/concepts-xray-tracing.html
        actions = ["GetSamplingRules", "GetSamplingTargets", "PutTelemetryRecords", "PutTraceSegments"]
        statements.append(_allow("Trace", [f"xray:{action}" for action in actions], "*"))
    if maps:
        statements += _map_statements()
    return _role("The state machine of ${FlowName}", "states.amazonaws.com", statements, _ours("states", "*"))


def schedule_role() -> Mapped:
    """Return the role with which EventBridge Scheduler starts runs.

    It starts them through the alias, which is authorized by the ARN of the state machine:
    https://docs.aws.amazon.com/step-functions/latest/dg/auth-version-alias.html
    https://docs.aws.amazon.com/scheduler/latest/UserGuide/cross-service-confused-deputy-prevention.html
    """
    start = _allow("StartRuns", ["states:StartExecution"], ref("StateMachine"))
    condition = _ours("scheduler", "schedule-group/default")
    return _role("The schedule of ${FlowName}", "scheduler.amazonaws.com", [start], condition)


def _map_statements() -> list[Json]:
    # Whichever version runs, starting is authorized by the ARN of the state machine:
    # https://docs.aws.amazon.com/step-functions/latest/dg/auth-version-alias.html
    # Child executions are execution:<state machine>/<label>:<id>, as redriving names them:
    # https://docs.aws.amazon.com/step-functions/latest/dg/redrive-map-run.html#maprun-iam-permission
    executions = "arn:${AWS::Partition}:states:${AWS::Region}:${AWS::AccountId}:execution:${FlowName}"
    machine = "arn:${AWS::Partition}:states:${AWS::Region}:${AWS::AccountId}:stateMachine:${FlowName}"
    return [
        _allow("StartItems", ["states:StartExecution"], sub(machine)),
        _allow(
            "FollowItems",
            ["states:DescribeExecution", "states:StopExecution", "states:RedriveExecution"],
            [sub(executions + ":*"), sub(executions + "/*")],
        ),
        _allow("ReadItems", ["s3:GetObject"], sub(FLOW_OBJECTS + "*/map_manifest.json")),
        _allow(
            "WriteResults",
            ["s3:AbortMultipartUpload", "s3:GetObject", "s3:ListMultipartUploadParts", "s3:PutObject"],
            sub(FLOW_OBJECTS + "*/map_results/*"),
        ),
    ]


def _allow(sid: str, actions: Sequence[str], resource: Json, condition: Json = None) -> Mapped:
    statement: Mapped = {"Sid": sid, "Effect": "Allow", "Action": list(actions), "Resource": resource}
    return statement if condition is None else statement | {"Condition": condition}


def _ours(service: str, resource: str) -> Mapped:
    """Return the condition that a service takes the role for a resource of this account.

    https://docs.aws.amazon.com/step-functions/latest/dg/procedure-create-iam-role.html#prevent-cross-service-confused-deputy
    """
    arn = f"arn:${{AWS::Partition}}:{service}:${{AWS::Region}}:${{AWS::AccountId}}:"
    resource_type = "stateMachine:" if service == "states" else ""
    return {
        "StringEquals": {"aws:SourceAccount": ref("AWS::AccountId")},
        "ArnLike": {"aws:SourceArn": sub(f"{arn}{resource_type}{resource}")},
    }


def _role(description: str, service: str, statements: list[Json], condition: Json = None) -> Mapped:
    trust: Mapped = {"Effect": "Allow", "Principal": {"Service": service}, "Action": "sts:AssumeRole"}
    if condition is not None:
        trust["Condition"] = condition
    return {
        "Type": "AWS::IAM::Role",
        "Properties": {
            "Description": sub(description),
            "AssumeRolePolicyDocument": {"Version": "2012-10-17", "Statement": [trust]},
            "Policies": [
                {"PolicyName": "run", "PolicyDocument": {"Version": "2012-10-17", "Statement": statements}},
            ],
        },
    }
