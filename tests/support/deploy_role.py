"""The policy of a role that may deploy and operate a flow: what lokki calls, and what CloudFormation calls for it.

The first is recorded from runs of the commands, the second is in AWS's own schemas of the resource types, as cfn-lint
ships them: CloudFormation acts with the permissions of whoever executes a change set.
https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/control-access-with-iam.html
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import cfnlint

from lokki.base.values import Json

TYPES = (
    "AWS::IAM::ManagedPolicy",
    "AWS::IAM::Role",
    "AWS::Lambda::Function",
    "AWS::Lambda::Version",
    "AWS::Logs::LogGroup",
    "AWS::Scheduler::Schedule",
    "AWS::StepFunctions::StateMachine",
    "AWS::StepFunctions::StateMachineAlias",
    "AWS::StepFunctions::StateMachineVersion",
)
"""What lokki's templates are made of; a test compares this with the golden templates and one of many steps."""

EVENT_TYPES = (
    "AWS::CloudWatch::Alarm",
    "AWS::Events::Connection",
    "AWS::Events::Rule",
    "AWS::SNS::Topic",
    "AWS::SQS::Queue",
    "AWS::SQS::QueuePolicy",
)
"""What is in the templates of flows that tell how they end, or are started by events."""

_EVENT_SERVICES = ("cloudwatch", "events", "secretsmanager", "sns", "sqs")
_SERVICES = ("iam", "lambda", "logs", "s3", "scheduler", "states")
"""Others are for what lokki's templates do not use: keys of the account's own, networks, file systems."""

STACKS = (
    "CreateChangeSet", "DeleteChangeSet", "DeleteStack", "DescribeChangeSet", "DescribeStackEvents",
    "DescribeStackResource", "DescribeStacks", "ExecuteChangeSet", "GetTemplate", "ListStackResources",
)  # fmt: skip
OBJECTS = ("DeleteObject", "DeleteObjectVersion", "GetObject", "PutObject")
BUCKET = ("GetEncryptionConfiguration", "ListBucket", "ListBucketVersions")
RUNS = (
    "DescribeExecution", "DescribeMapRun", "DescribeStateMachineAlias", "DescribeStateMachineForExecution",
    "GetExecutionHistory", "ListExecutions", "ListMapRuns", "ListStateMachineVersions", "RedriveExecution",
    "StartExecution", "StopExecution", "UpdateStateMachineAlias",
)  # fmt: skip
ACCOUNT = ("GetAccountSettings",)
LOGS = ("FilterLogEvents",)
IMAGES = (
    "BatchCheckLayerAvailability", "CompleteLayerUpload", "CreateRepository", "DeleteRepository", "DescribeImages",
    "GetAuthorizationToken", "GetRepositoryPolicy", "InitiateLayerUpload", "PutImage", "PutLifecyclePolicy",
    "SetRepositoryPolicy", "UploadLayerPart",
)  # fmt: skip
"""What docker and Lambda call themselves is AWS's list:
https://docs.aws.amazon.com/AmazonECR/latest/userguide/image-push-iam.html,
https://docs.aws.amazon.com/lambda/latest/dg/images-create.html#gettingstarted-images-permissions"""

NOT_SEEN = {"states:StopExecution"}
"""Allowed, and not called in the story: the command `stop`."""

_S3 = {
    "CompleteMultipartUpload": ("PutObject",),
    "CreateMultipartUpload": ("PutObject",),
    "DeleteObjects": ("DeleteObject", "DeleteObjectVersion"),
    "GetBucketEncryption": ("GetEncryptionConfiguration",),
    "GetObject": ("GetObject",),
    "HeadBucket": ("ListBucket",),
    "HeadObject": ("GetObject", "ListBucket"),
    "ListObjectVersions": ("ListBucketVersions",),
    "ListObjectsV2": ("ListBucket",),
    "PutObject": ("PutObject",),
    "UploadPart": ("PutObject",),
}
"""https://docs.aws.amazon.com/AmazonS3/latest/userguide/using-with-s3-policy-actions.html"""

_SIGNED = {"cloudformation": "cloudformation", "lambda": "lambda", "logs": "logs", "stepfunctions": "states"}


def policy() -> str:
    """Return the policy as it is in docs/examples."""
    statements: list[Json] = [
        _allow("Stacks", "cloudformation", STACKS),
        _allow("WhatStacksAreMadeOf", "", for_resources()),
        _allow("Objects", "s3", OBJECTS, "arn:aws:s3:::my-bucket/lokki*"),
        _allow("Bucket", "s3", BUCKET, "arn:aws:s3:::my-bucket"),
        _allow("Runs", "states", RUNS),
        _allow("Logs", "logs", LOGS),
        _allow("HowManyFunctionsRunAtOnce", "lambda", ACCOUNT),
        _allow("OnlyForImages", "ecr", IMAGES),
        _allow("OnlyForNotificationsAndEvents", "", for_resources(EVENT_TYPES, _EVENT_SERVICES)),
    ]
    return json.dumps({"Version": "2012-10-17", "Statement": statements}, indent=2) + "\n"


def own() -> set[str]:
    """Return the actions that lokki itself calls, as IAM names them."""
    return {
        *(f"cloudformation:{each}" for each in STACKS),
        *(f"s3:{each}" for each in (*OBJECTS, *BUCKET)),
        *(f"states:{each}" for each in RUNS),
        *(f"logs:{each}" for each in LOGS),
        *(f"lambda:{each}" for each in ACCOUNT),
    }


def actions(calls: Iterable[tuple[str, str]]) -> set[str]:
    """Return the actions that IAM checks for calls; for asking who one is, none."""
    found: set[str] = set()
    for service, action in calls:
        if service == "s3":
            found |= {f"s3:{each}" for each in _S3[action]}
        elif service != "sts":
            found.add(f"{_SIGNED[service]}:{action}")
    return found


def for_resources(types: Iterable[str] = TYPES, services: Iterable[str] = _SERVICES) -> list[str]:
    """Return what CloudFormation calls to make, read, change and delete the resources of a stack."""
    found: set[str] = set()
    for path in (Path(cfnlint.__file__).parent / "data" / "schemas" / "resources").glob("*.json"):
        schema = json.loads(path.read_text())
        if schema["typeName"] in types:
            for handler in ("create", "read", "update", "delete"):
                found.update(schema.get("handlers", {}).get(handler, {}).get("permissions", []))
    return sorted(each for each in found if each.partition(":")[0] in services and "REST." not in each)


def _allow(sid: str, service: str, names: Iterable[str], resource: str = "*") -> Json:
    allowed: list[Json] = [f"{service}:{name}" if service else name for name in names]
    return {"Sid": sid, "Effect": "Allow", "Action": allowed, "Resource": resource}
