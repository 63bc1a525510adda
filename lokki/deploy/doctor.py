"""What stands between a flow and its first deployment: each check a line, with what to do where it is not right.

Nothing is changed. A check that the account does not allow is a warning that says so.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from botocore.exceptions import ClientError

from lokki.base.access import parts_of_url
from lokki.base.starts import S3Created
from lokki.builder.compiled import Compiled, compile_flow
from lokki.builder.names import deployed_name
from lokki.builder.packages.sizes import size_text
from lokki.builder.placeholders import (
    BUCKET_PARAMETER,
    CONCURRENCY_PARAMETER,
    FLOW_PARAMETER,
    fill_placeholders,
    substitutions,
)
from lokki.builder.state_machine import state_machine_of
from lokki.builder.timing import at_once
from lokki.config import LokkiConfig
from lokki.deploy.aws import Aws, aws_errors, code_of
from lokki.deploy.bucket import check_bucket
from lokki.deploy.deployed import stack_name
from lokki.deploy.own_bucket import KEY_ARN, bucket_key, find_own_bucket
from lokki.errors import AwsError, LokkiError
from lokki.graph import FlowGraph

type CheckState = Literal["ok", "warning", "failed"]

NEEDED: Final = {
    "bucket": ("s3:ListBucket",),
    "objects": ("s3:GetObject", "s3:PutObject", "s3:DeleteObject"),
    "stack": (
        "cloudformation:CreateChangeSet",
        "cloudformation:DescribeChangeSet",
        "cloudformation:DescribeStacks",
        "cloudformation:ExecuteChangeSet",
        "cloudformation:GetTemplate",
    ),
    "roles": ("iam:CreateRole", "iam:GetRole", "iam:PassRole", "iam:PutRolePolicy"),
    "functions": (
        "lambda:CreateFunction",
        "lambda:GetFunction",
        "lambda:PublishVersion",
        "lambda:UpdateFunctionCode",
        "lambda:UpdateFunctionConfiguration",
    ),
    "state machine": (
        "states:CreateStateMachine",
        "states:CreateStateMachineAlias",
        "states:PublishStateMachineVersion",
        "states:StartExecution",
        "states:UpdateStateMachine",
    ),
    "logs": ("logs:CreateLogGroup", "logs:PutRetentionPolicy"),
}
"""What whoever deploys calls, or CloudFormation for them; docs/examples/deploy-role.json has all of it."""

FEW_FUNCTIONS: Final = 100
"""Below this a new account's limit on functions at one time is worth a request for more."""

_ASSUMED: Final = re.compile(r"arn:(?P<partition>[\w-]+):sts::(?P<account>\d+):assumed-role/(?P<role>[^/]+)/.+")


@dataclass(frozen=True, slots=True)
class Check:
    """One line of what was checked, how it is, and the remedy."""

    state: CheckState
    text: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.state:8}{self.text}{f': {self.remedy}' if self.remedy else ''}"


@dataclass(frozen=True, slots=True)
class Deployer:
    """Who deploys.

    The account, and the ARN of the user, role or session.
    """

    account: str
    arn: str

    @property
    def policy_source(self) -> str:
        """The ARN that has the policies, for a session its role."""
        session = _ASSUMED.fullmatch(self.arn)
        if session is None:
            return self.arn
        return f"arn:{session['partition']}:iam::{session['account']}:role/{session['role']}"


def examine(aws: Aws, graph: FlowGraph, config: LokkiConfig) -> Iterator[Check]:
    """Yield the checks, in the order in which a deployment would fail."""
    try:
        with aws_errors("ask who you are"):
            identity = aws.sts.get_caller_identity()
    except AwsError as error:
        yield Check("failed", "credentials", str(error))
        return
    deployer = Deployer(identity["Account"], identity["Arn"])
    yield Check("ok", f"credentials: {deployer.arn}, account {deployer.account}")
    yield Check("ok", f"region: {aws.region}")
    bucket = config.artifact_bucket
    try:
        bucket = bucket or _own_bucket(aws)
        check_bucket(aws, bucket)
    except AwsError as error:
        yield Check("failed", f"bucket {bucket}".rstrip(), str(error).removeprefix("artifact_bucket: "))
    else:
        yield Check("ok", f"bucket {bucket}: in {aws.region}")
        for check in _BUCKET_CHECKS:
            yield from _asked(check, aws, bucket, deployer, config)
    yield from _asked(_quotas, aws, bucket, deployer, config)
    for listened in _listened(graph):
        yield from _asked(_events, aws, listened, deployer, config)
    yield from _definition(aws, graph, config)
    yield from _permissions(aws, graph, config, bucket, deployer)


type BucketCheck = Callable[[Aws, str, Deployer, LokkiConfig], Iterator[Check]]


def _asked(check: BucketCheck, aws: Aws, bucket: str, deployer: Deployer, config: LokkiConfig) -> Iterator[Check]:
    """Yield what a check finds, or that it was not allowed to look."""
    try:
        with aws_errors(f"look at {check.__name__.strip('_').replace('_', ' ')}"):
            yield from check(aws, bucket, deployer, config)
    except AwsError as error:
        yield Check("warning", check.__name__.strip("_").replace("_", " "), str(error))


def _own_bucket(aws: Aws) -> str:
    own = find_own_bucket(aws)
    if not own.exists:
        raise AwsError(
            f"lokki.yml names none, and {own.name} is not there: make it with: lokki bootstrap --region {aws.region}"
        )
    return own.name


def _owner(aws: Aws, bucket: str, deployer: Deployer, config: LokkiConfig) -> Iterator[Check]:
    """Check whose the bucket is.

    In somebody else's, code and results can be read and replaced.
    """
    try:
        aws.s3.head_bucket(Bucket=bucket, ExpectedBucketOwner=deployer.account)
    except ClientError as error:
        if code_of(error) != "403":
            raise
        remedy = f"it belongs to another account than {deployer.account}; name one of your own unless that is meant"
        yield Check("warning", f"owner of {bucket}", remedy)
    else:
        yield Check("ok", f"owner of {bucket}: this account")


def _encryption(aws: Aws, bucket: str, deployer: Deployer, config: LokkiConfig) -> Iterator[Check]:
    """Check the bucket's key.

    Only who may use a customer's key can read the objects under it.

    https://docs.aws.amazon.com/AmazonS3/latest/userguide/UsingKMSEncryption.html
    """
    key = bucket_key(aws, bucket)
    if not key:
        yield Check("ok", f"encryption of {bucket}: by S3's own keys")
    elif config.kms_key or KEY_ARN.fullmatch(key):
        yield Check("ok", f"encryption of {bucket}: by {config.kms_key or key}, which the roles may use")
    else:
        remedy = "name the key in lokki.yml by its ARN: kms_key: arn:aws:kms:<region>:<account>:key/<id>"
        yield Check("failed", f"encryption of {bucket}: by {key}", remedy)


def _lifecycle(aws: Aws, bucket: str, deployer: Deployer, config: LokkiConfig) -> Iterator[Check]:
    """Check the rules by which the bucket deletes objects.

    Parts of unfinished uploads must go away; rules that delete what runs wrote are named.
    """
    try:
        rules = aws.s3.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
    except ClientError as error:
        if code_of(error) != "NoSuchLifecycleConfiguration":
            raise
        rules = []
    enabled = [rule for rule in rules if rule["Status"] == "Enabled"]
    if any("AbortIncompleteMultipartUpload" in rule for rule in enabled):
        yield Check("ok", f"lifecycle of {bucket}: unfinished uploads go away")
    else:
        remedy = "parts of unfinished uploads stay and cost: add a rule with AbortIncompleteMultipartUpload"
        yield Check("warning", f"lifecycle of {bucket}", remedy)


_BUCKET_CHECKS: Final[tuple[BucketCheck, ...]] = (_owner, _encryption, _lifecycle)


def _quotas(aws: Aws, bucket: str, deployer: Deployer, config: LokkiConfig) -> Iterator[Check]:
    """Check how many functions may run at one time, and how much code fits.

    https://docs.aws.amazon.com/lambda/latest/api/API_GetAccountSettings.html
    """
    settings = aws.functions.get_account_settings()
    limit, usage = settings["AccountLimit"], settings["AccountUsage"]
    at_once = limit["ConcurrentExecutions"]
    text = f"functions at one time: {at_once:,}"
    if at_once < FEW_FUNCTIONS:
        remedy = "maps are slow with so few: ask for more in Service Quotas, Lambda, Concurrent executions"
        yield Check("warning", text, remedy)
    else:
        yield Check("ok", text)
    used, most = usage["TotalCodeSize"], limit["TotalCodeSize"]
    code = f"code of all functions: {size_text(used)} of {size_text(most)}"
    yield Check("warning", code, "delete old versions with prune") if used > 0.8 * most else Check("ok", code)


def _listened(graph: FlowGraph) -> list[str]:
    """Return the buckets whose objects start runs of the flow."""
    starts = [start for start in graph.options.on if isinstance(start, S3Created)]
    return [*dict.fromkeys(parts_of_url(start.url)[0] for start in starts)]


def _events(aws: Aws, bucket: str, deployer: Deployer, config: LokkiConfig) -> Iterator[Check]:
    """Check that a bucket tells EventBridge of its objects.

    https://docs.aws.amazon.com/AmazonS3/latest/userguide/enable-event-notifications-eventbridge.html
    """
    text = f"events of {bucket}"
    try:
        # By its type it always has all parts, which S3 leaves out where they are off.
        configuration: Mapping[str, object] = aws.s3.get_bucket_notification_configuration(Bucket=bucket)
    except ClientError as error:
        if code_of(error) != "NoSuchBucket":
            raise
        yield Check("failed", text, "there is no such bucket, so nothing would start the flow")
        return
    if "EventBridgeConfiguration" in configuration:
        yield Check("ok", f"{text}: are sent to EventBridge")
    else:
        remedy = (
            "are not sent to EventBridge, so nothing starts the flow: turn them on in the bucket's properties, Event "
            "notifications, Amazon EventBridge"
        )
        yield Check("failed", text, remedy)


def _definition(aws: Aws, graph: FlowGraph, config: LokkiConfig) -> Iterator[Check]:
    """Let Step Functions check the state machine, as a build would write it."""
    try:
        text = _filled_definition(aws, compile_flow(graph, config))
        with aws_errors("let Step Functions check the state machine"):
            answer = aws.states.validate_state_machine_definition(definition=text, type="STANDARD")
    except LokkiError as error:
        yield Check("failed" if not isinstance(error, AwsError) else "warning", "state machine", str(error))
        return
    if answer["result"] == "OK":
        yield Check("ok", "state machine: Step Functions takes it")
        return
    for diagnostic in answer["diagnostics"]:
        where = diagnostic.get("location", "")
        yield Check(
            "failed", f"state machine{where and f' at {where}'}", f"{diagnostic['code']}: {diagnostic['message']}"
        )


def _filled_definition(aws: Aws, compiled: Compiled) -> str:
    """Return a flow's definition with values such as CloudFormation fills in."""
    partition = aws.session.get_partition_for_region(aws.region)
    values = {
        "AWS::Partition": partition,
        BUCKET_PARAMETER: "bucket",
        FLOW_PARAMETER: "flow",
        CONCURRENCY_PARAMETER: str(at_once(compiled.config)),
    }
    arn = f"arn:{partition}:lambda:{aws.region}:123456789012:function:step:1"
    texts = substitutions(compiled, {function.name: arn for function in compiled.functions})
    definition = json.dumps(state_machine_of(compiled), ensure_ascii=False)
    return fill_placeholders(
        definition, {placeholder: fill_placeholders(text, values) for placeholder, text in texts.items()}
    )


def _permissions(aws: Aws, graph: FlowGraph, config: LokkiConfig, bucket: str, deployer: Deployer) -> Iterator[Check]:
    """Ask IAM what the deployer may do.

    The root user may do all.

    https://docs.aws.amazon.com/IAM/latest/APIReference/API_SimulatePrincipalPolicy.html
    """
    if deployer.arn.endswith(":root"):
        yield Check("warning", "permissions: all, as the root user", "use a role or a user of your own instead")
        return
    try:
        with aws_errors("ask IAM what you may do"):
            for group, resources in _resources(aws, graph, config, bucket, deployer).items():
                denied = list(_denied(aws, deployer, NEEDED[group], resources))
                what = f"permissions for {group}"
                remedy = f"ask for {', '.join(denied)} (docs/examples/deploy-role.json has all that is needed)"
                yield Check("failed", what, remedy) if denied else Check("ok", what)
    except AwsError as error:
        yield Check("warning", "permissions", str(error))


def _resources(
    aws: Aws, graph: FlowGraph, config: LokkiConfig, bucket: str, deployer: Deployer
) -> dict[str, list[str]]:
    """Return ARNs such as the flow's parts will have, by what they are."""
    flow = deployed_name(graph.name, config)
    partition = aws.session.get_partition_for_region(aws.region)
    here = f"{aws.region}:{deployer.account}"
    resources = {
        "stack": [f"arn:{partition}:cloudformation:{here}:stack/{stack_name(flow)}/1"],
        "functions": [f"arn:{partition}:lambda:{here}:function:{flow}-step"],
        "state machine": [f"arn:{partition}:states:{here}:stateMachine:{flow}"],
        "logs": [f"arn:{partition}:logs:{here}:log-group:/aws/lambda/{flow}-step"],
    }
    if bucket:
        resources["bucket"] = [f"arn:{partition}:s3:::{bucket}"]
        resources["objects"] = [f"arn:{partition}:s3:::{bucket}/lokki/{flow}/run"]
    if not (config.roles.pipeline and config.roles.lambda_):
        resources["roles"] = [f"arn:{partition}:iam::{deployer.account}:role/{stack_name(flow)}-role"]
    return resources


def _denied(aws: Aws, deployer: Deployer, actions: Sequence[str], resources: list[str]) -> Iterator[str]:
    pages = aws.iam.get_paginator("simulate_principal_policy").paginate(
        PolicySourceArn=deployer.policy_source, ActionNames=list(actions), ResourceArns=resources
    )
    for page in pages:
        for result in page["EvaluationResults"]:
            if result["EvalDecision"] != "allowed":
                yield result["EvalActionName"]
