"""Roles in an emulation: what AWS would refuse is refused as AWS does, with the line to add; nothing else is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from http.client import HTTPConnection
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import botocore.session
import cfnlint
import pytest
from aws.policies import Call, allowing
from aws.policies import Statement as SecondOpinion
from botocore.awsrequest import AWSResponse
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st
from support.command import Ran
from support.deployed_project import CACHE
from test_emulator_doors import S3Server

from lokki import Allow, Read, Write
from lokki.emulator.iam.checking import Missing, Role, Roles
from lokki.emulator.iam.policies import Need, PolicyStatement, allowed
from lokki.emulator.iam.s3_needs import s3_needs
from lokki.emulator.iam.service_needs import ServiceCall, service_needs
from lokki.emulator.iam.suggestions import suggest, suggested_lines

HERE = "us-east-1:123456789012"
ACTIONS = json.loads((Path(cfnlint.__file__).parent / "data/AdditionalSpecs/Policies.json").read_text())
"""Of each service the actions that IAM has, in lower case: AWS's own list, as cfn-lint ships it."""


# --- what a request needs ---


def is_action(action: str) -> bool:
    service, _, name = action.partition(":")
    return name.lower() in ACTIONS[service]["Actions"]


VALUES = {
    "Statement": "SELECT * FROM birds",
    "RequestItems": {"birds": {}},
    "TransactItems": [{"Get": {"TableName": "birds"}}, {"ConditionCheck": {"TableName": "birds"}}],
    "Statements": [{"Statement": 'insert into "birds" value {}'}],
    "TransactStatements": [{"Statement": "UPDATE birds SET a=1"}, {"Statement": "DELETE FROM birds WHERE id=1"}],
    "SecretIdList": ["a"],
}


@pytest.mark.parametrize("service", ["dynamodb", "sqs", "secretsmanager", "ssm", "sns", "stepfunctions", "firehose"])
def test_every_operation_needs_actions_that_iam_has(service: str) -> None:
    model = botocore.session.get_session().get_service_model(service)
    wrong = [
        (operation, need.action)
        for operation in model.operation_names
        for need in service_needs(ServiceCall(model.signing_name, operation, "us-east-1", VALUES, lambda name: ""))
        # An operation that is newer than the list has the action of its name.
        if not is_action(need.action) and need.action.partition(":")[2] != operation
    ]
    assert wrong == []


def call(service: str, operation: str, **fields: Any) -> list[tuple[str, str]]:
    needs = service_needs(ServiceCall(service, operation, "us-east-1", fields, {"token": "arn:token-a"}.get))  # type: ignore[arg-type]
    return [(need.action, need.resource) for need in needs]


TABLE = f"arn:aws:dynamodb:{HERE}:table/birds"
QUEUE = f"arn:aws:sqs:{HERE}:birds"
URL = "http://127.0.0.1:1/123456789012/birds"
TOPIC = f"arn:aws:sns:{HERE}:birds"


@pytest.mark.parametrize(
    ("needs", "expected"),
    [
        (call("dynamodb", "GetItem", TableName="birds"), [("dynamodb:GetItem", TABLE)]),
        (call("dynamodb", "GetItem", TableName=TABLE), [("dynamodb:GetItem", TABLE)]),
        (call("dynamodb", "Query", TableName="birds", IndexName="by"), [("dynamodb:Query", f"{TABLE}/index/by")]),
        (call("dynamodb", "BatchGetItem", RequestItems={"birds": {}}), [("dynamodb:BatchGetItem", TABLE)]),
        (
            call("dynamodb", "TransactWriteItems", TransactItems=[{"Put": {"TableName": "birds"}}]),
            [("dynamodb:PutItem", TABLE)],
        ),
        (
            call("dynamodb", "ExecuteStatement", Statement='select name from "birds"."by" where a=1'),
            [("dynamodb:PartiQLSelect", f"{TABLE}/index/by")],
        ),
        (call("dynamodb", "ListTables"), [("dynamodb:ListTables", "*")]),
        (call("sqs", "SendMessageBatch", QueueUrl=URL), [("sqs:SendMessage", QUEUE)]),
        (call("sqs", "GetQueueUrl", QueueName="birds"), [("sqs:GetQueueUrl", QUEUE)]),
        (call("sns", "PublishBatch", TopicArn=TOPIC), [("sns:Publish", TOPIC)]),
        (call("sns", "Unsubscribe", SubscriptionArn=f"{TOPIC}:0"), [("sns:Unsubscribe", TOPIC)]),
        (call("sns", "Publish", PhoneNumber="+358"), [("sns:Publish", "")]),
        (call("ssm", "GetParameter", Name="/prod/a:3"), [("ssm:GetParameter", f"arn:aws:ssm:{HERE}:parameter/prod/a")]),
        (
            call("ssm", "GetParametersByPath", Path="/prod/"),
            [("ssm:GetParametersByPath", f"arn:aws:ssm:{HERE}:parameter/prod")],
        ),
        (
            call("secretsmanager", "GetSecretValue", SecretId="token"),
            [("secretsmanager:GetSecretValue", "arn:token-a")],
        ),
        (call("sts", "GetCallerIdentity"), []),
        (call("kms", "Decrypt", KeyId=f"arn:aws:kms:{HERE}:alias/a"), [("kms:Decrypt", "")]),
        (call("monitoring", "PutMetricData"), [("cloudwatch:PutMetricData", "")]),
        (call("tagging", "GetResources"), [("tag:GetResources", "")]),
        (call("cloudcontrolapi", "GetResource"), [("cloudformation:GetResource", "")]),
        (call("mturk-requester", "ListHITs"), [("mechanicalturk:ListHITs", "")]),
        (call("IoTSecuredTunneling", "OpenTunnel"), [("iot:OpenTunnel", "")]),
        (
            call("sts", "AssumeRole", RoleArn="arn:aws:iam::123456789012:role/a"),
            [
                ("sts:AssumeRole", "arn:aws:iam::123456789012:role/a"),
            ],
        ),
    ],
)
def test_actions_and_resources_are_those_of_the_service_authorization_reference(
    needs: object, expected: object
) -> None:
    assert needs == expected


@dataclass(frozen=True)
class Answered:
    """Takes requests from botocore before they are sent."""

    sent: list[Any]

    def __call__(self, request: object, **event: object) -> object:
        self.sent.append(request)
        return AWSResponse("http://127.0.0.1", 200, {}, BytesIO())


def s3_requests() -> Iterator[tuple[str, list[Need]]]:
    """Yield every operation of S3 as botocore sends it, with what it needs."""
    session = boto3.Session(aws_access_key_id="a", aws_secret_access_key="b", region_name="us-east-1")
    s3: Any = session.client("s3", endpoint_url="http://127.0.0.1:9")
    values = {"Bucket": "lake", "Key": "raw/a", "CopySource": "lake/raw/b", "UploadId": "u", "PartNumber": 1, "Id": "i"}
    for name in s3.meta.service_model.operation_names:
        shape = s3.meta.service_model.operation_model(name).input_shape
        given = {key: values[key] for key in shape.members if key in values} if shape else {}
        sent: list[Any] = []
        s3.meta.events.register_first(f"before-send.s3.{name}", Answered(sent))
        method = next(method for method, operation in s3.meta.method_to_api_mapping.items() if operation == name)
        s3.meta.config.parameter_validation = False
        with suppress(Exception):  # the answer is none of S3's
            getattr(s3, method)(**given)
        for request in sent[:1]:
            path, _, query = request.url.removeprefix("http://127.0.0.1:9").partition("?")
            headers = {key.lower(): str(value) for key, value in request.headers.items()}
            yield name, s3_needs(request.method, path, query, headers, lambda bucket, key: True)


def test_every_operation_of_s3_needs_actions_that_iam_has() -> None:
    needs = dict(s3_requests())
    assert len(needs) > 60
    assert {name: need.action for name, listed in needs.items() for need in listed if not is_action(need.action)} == {}
    assert {name: [need.action for need in needs[name]] for name in (
        "GetObject", "HeadObject", "PutObject", "CopyObject", "UploadPart", "CompleteMultipartUpload", "ListObjectsV2",
        "GetBucketLocation", "AbortMultipartUpload", "DeleteBucketCors", "DeleteBucketPolicy", "GetObjectTagging",
        "ListBuckets",
    )} == {
        "GetObject": ["s3:GetObject"],
        "HeadObject": ["s3:GetObject"],
        "PutObject": ["s3:PutObject"],
        "CopyObject": ["s3:PutObject", "s3:GetObject"],
        "UploadPart": ["s3:PutObject"],
        "CompleteMultipartUpload": ["s3:PutObject"],
        "ListObjectsV2": ["s3:ListBucket"],
        "GetBucketLocation": ["s3:GetBucketLocation"],
        "AbortMultipartUpload": ["s3:AbortMultipartUpload"],
        "DeleteBucketCors": ["s3:PutBucketCORS"],
        "DeleteBucketPolicy": ["s3:DeleteBucketPolicy"],
        "GetObjectTagging": ["s3:GetObjectTagging"],
        "ListBuckets": ["s3:ListAllMyBuckets"],
    }  # fmt: skip


WORDS = st.sampled_from(
    ["s3:GetObject", "S3:getobject", "s3:*", "s3:ListBucket", "s3:Get?bject", "a", "a/b", "a/*", "*", "?"]
)


@given(st.lists(st.tuples(WORDS, WORDS, st.none() | WORDS), max_size=4), WORDS, WORDS, st.none() | WORDS)
def test_two_evaluators_of_policies_agree(
    rules: list[tuple[str, str, str | None]], action: str, resource: str, prefix: str | None
) -> None:
    ours = [
        PolicyStatement((one,), (two,), {} if three is None else {"s3:prefix": (three,)}) for one, two, three in rules
    ]
    theirs = [
        SecondOpinion("", (one,), (two,), () if three is None else (("s3:prefix", (three,)),))
        for one, two, three in rules
    ]
    context = () if prefix is None else (("s3:prefix", prefix),)
    expected = bool(allowing(theirs, Call("r", action, resource, context)))
    assert allowed(ours, Need(action, resource, prefix)) == expected


def test_the_account_and_the_region_of_a_policy_are_those_of_the_emulation() -> None:
    statement = PolicyStatement(("sqs:*",), ("arn:aws-cn:sqs:cn-north-1:210987654321:birds",), {})
    elsewhere = QUEUE.replace("us-east-1", "eu-west-1")
    resources = (QUEUE, f"{QUEUE}-2", elsewhere)
    assert [allowed([statement], Need("sqs:SendMessage", arn)) for arn in resources] == [True, False, False]


# --- suggestions ---


def test_suggestions_allow_what_was_missing_by_prefixes_and_in_any_account() -> None:
    needs = [
        Need("s3:GetObject", "arn:aws:s3:::lake/raw/2026/a.csv"),
        Need("s3:ListBucket", "arn:aws:s3:::lake", "raw/"),
        Need("s3:GetObject", "arn:aws:s3:::lake/names.csv"),
        Need("s3:PutObject", "arn:aws:s3:::lake/out/\u9ce5/b"),
        Need("s3:DeleteObject", "arn:aws:s3:::lake/out/b"),
        Need("dynamodb:GetItem", TABLE),
        Need("dynamodb:PutItem", TABLE),
        Need("secretsmanager:GetSecretValue", f"arn:aws:secretsmanager:{HERE}:secret:token-AbCdEf"),
        Need("cloudwatch:PutMetricData", ""),
    ]
    place = "${AWS::Region}:${AWS::AccountId}"
    assert suggest(needs) == [
        Read("s3://lake/names.csv"),
        Read("s3://lake/raw/"),
        Write("s3://lake/out/?/"),
        Allow("cloudwatch:PutMetricData", "*"),
        Allow(["dynamodb:GetItem", "dynamodb:PutItem"], f"arn:aws:dynamodb:{place}:table/birds"),
        Allow("s3:DeleteObject", "arn:aws:s3:::lake/out/*"),
        Allow("secretsmanager:GetSecretValue", f"arn:aws:secretsmanager:{place}:secret:token-??????"),
    ]
    assert suggested_lines(needs)[1:4] == [
        'Read("s3://lake/raw/")',
        'Write("s3://lake/out/?/")',
        'Allow("cloudwatch:PutMetricData", "*")',
    ]


def test_the_same_actions_on_several_resources_are_one_permission() -> None:
    needs = [
        Need(action, f"{TABLE}-{number}") for number in (2, 1) for action in ("dynamodb:Query", "dynamodb:GetItem")
    ]
    place = "arn:aws:dynamodb:${AWS::Region}:${AWS::AccountId}:table/birds"
    assert suggest(needs) == [Allow(["dynamodb:GetItem", "dynamodb:Query"], f"{place}-1", f"{place}-2")]


def test_regions_that_code_chose_stay_and_resources_without_one_have_the_account_only() -> None:
    needs = [
        Need("sqs:SendMessage", QUEUE.replace("us-east-1", "eu-north-1")),
        Need("sts:AssumeRole", "arn:aws:iam::123456789012:role/reader"),
        Need("sns:Publish", "arn:aws:sns:us-east-1:210987654321:theirs"),
    ]
    assert suggest(needs) == [
        Allow("sns:Publish", "arn:aws:sns:${AWS::Region}:210987654321:theirs"),
        Allow("sqs:SendMessage", "arn:aws:sqs:eu-north-1:${AWS::AccountId}:birds"),
        Allow("sts:AssumeRole", "arn:aws:iam::${AWS::AccountId}:role/reader"),
    ]


def test_what_no_bucket_and_no_action_is_named_makes_no_permission_that_is_none() -> None:
    needs = [
        Need("s3:GetObject", "arn:aws:s3:::My_Lake/raw/a"),
        Need("s3:PutObject", 'arn:aws:s3:::lake/a"b/c'),
        Need("s3:ListBucket", "arn:aws:s3:::x", "raw/"),
        Need("execute-api:", ""),
        Need("sqs:Send Message", QUEUE),
        Need("sns:Publish", "no resource"),
    ]
    assert suggested_lines(needs) == [
        "Write('s3://lake/a\"b/')",
        'Allow("s3:GetObject", "arn:aws:s3:::My_Lake/raw/*")',
        'Allow("s3:ListBucket", "arn:aws:s3:::x")',
        'Allow("sns:Publish", "*")',
    ]
    written = eval(f"[{', '.join(suggested_lines(needs))}]", {"Allow": Allow, "Read": Read, "Write": Write})
    assert written == suggest(needs)


# --- refusals, as boto3 sees them ---

READS_LAKE = Role(
    "ReadsLakeRole",
    (
        PolicyStatement(("s3:GetObject",), ("arn:aws:s3:::lake/raw/*",), {}),
        PolicyStatement(("s3:ListBucket",), ("arn:aws:s3:::lake",), {"s3:prefix": ("raw/*",)}),
        PolicyStatement(("s3:DeleteObject",), ("arn:aws:s3:::lake/raw/b",), {}),
        PolicyStatement(("dynamodb:PutItem",), (TABLE,), {}),
    ),
)


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with S3Server("artifacts", roles=Roles({"reads": READS_LAKE})) as server:
        s3 = client(server, "s3", "owner")
        s3.create_bucket(Bucket="lake")
        for key in ("raw/a", "raw/b", "raw/c", "secret/a"):
            s3.put_object(Bucket="lake", Key=key, Body=b"honk")
        yield server


def client(server: S3Server, service: str, actor: str = "reads") -> Any:
    variables = server.variables(actor)
    return boto3.client(  # type: ignore[call-overload]
        service,
        endpoint_url=server.endpoint,
        region_name="us-east-1",
        aws_access_key_id=variables["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=variables["AWS_SECRET_ACCESS_KEY"],
        aws_session_token=variables["AWS_SESSION_TOKEN"],
    )


def code(call: Callable[..., object], **fields: object) -> str:
    try:
        call(**fields)
    except ClientError as error:
        return str(error.response["Error"]["Code"])
    return ""


@pytest.mark.slow
def test_each_service_refuses_in_its_own_words(server: S3Server) -> None:
    s3 = client(server, "s3")
    assert {
        "read": code(s3.get_object, Bucket="lake", Key="raw/a"),
        "missing": code(s3.get_object, Bucket="lake", Key="raw/z"),
        "list": code(s3.list_objects_v2, Bucket="lake", Prefix="raw/"),
        "list all": code(s3.list_objects_v2, Bucket="lake"),
        "read another": code(s3.get_object, Bucket="lake", Key="secret/a"),
        "head another": code(s3.head_object, Bucket="lake", Key="secret/a"),
        "write": code(s3.put_object, Bucket="lake", Key="raw/a", Body=b"x" * 100_000),
        "copy": code(s3.copy_object, Bucket="lake", Key="raw/a", CopySource="lake/raw/b"),
        "dynamodb": code(client(server, "dynamodb").get_item, TableName="birds", Key={"id": {"S": "a"}}),
        "sqs": code(client(server, "sqs").send_message, QueueUrl=URL, MessageBody="a"),
        "sns": code(client(server, "sns").publish, TopicArn=TOPIC, Message="a"),
        "ssm": code(client(server, "ssm").get_parameter, Name="a"),
        "secretsmanager": code(client(server, "secretsmanager").get_secret_value, SecretId="a"),
        "cloudwatch": code(
            client(server, "cloudwatch").put_metric_data, Namespace="a", MetricData=[{"MetricName": "a", "Value": 1}]
        ),
        "sts": code(client(server, "sts").get_caller_identity),
    } == {
        "read": "",
        "missing": "NoSuchKey",
        "list": "",
        "list all": "AccessDenied",
        "read another": "AccessDenied",
        "head another": "403",
        "write": "AccessDenied",
        "copy": "AccessDenied",
        "dynamodb": "AccessDeniedException",
        "sqs": "AccessDenied",
        "sns": "AuthorizationError",
        "ssm": "AccessDeniedException",
        "secretsmanager": "AccessDeniedException",
        "cloudwatch": "AccessDeniedException",
        "sts": "",
    }
    assert Missing("reads", Need("s3:GetObject", "arn:aws:s3:::lake/secret/a")) in server.missing_permissions()


@pytest.mark.slow
@pytest.mark.parametrize("chunked", [True, False])
def test_the_body_of_a_refused_request_is_not_taken_for_the_next_request(server: S3Server, chunked: bool) -> None:
    keys = server.variables("reads")
    credential = "AWS4-HMAC-SHA256 Credential=reads/20261128/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"
    headers = {"Authorization": credential, "X-Amz-Security-Token": keys["AWS_SESSION_TOKEN"]}
    body = b"GET /lake/secret/a HTTP/1.1\r\n\r\n" * 1000
    with closing(HTTPConnection(urlsplit(server.endpoint).netloc)) as connection:
        for _ in range(2):
            sent: Any = iter([body] * 3) if chunked else body
            connection.request("PUT", "/lake/secret/b", sent, headers, encode_chunked=chunked)
            refused = connection.getresponse()
            assert (refused.status, b"AccessDenied" in refused.read()) == (403, True)
            connection.request("GET", "/lake/raw/a", headers=headers)
            answer = connection.getresponse()
            assert (answer.status, answer.read()) == (200, b"honk")


@pytest.mark.slow
def test_the_message_is_that_of_iam(server: S3Server) -> None:
    with pytest.raises(ClientError) as error:
        client(server, "dynamodb").get_item(TableName="birds", Key={"id": {"S": "a"}})
    assert error.value.response["Error"]["Message"] == (
        "User: arn:aws:sts::123456789012:assumed-role/ReadsLakeRole/reads is not authorized to perform: "
        f"dynamodb:GetItem on resource: {TABLE} because no identity-based policy allows the dynamodb:GetItem action"
    )


@pytest.mark.slow
def test_of_many_objects_those_are_deleted_that_may_be(server: S3Server) -> None:
    listed = {"Objects": [{"Key": "raw/b"}, {"Key": "raw/c"}]}
    answer = client(server, "s3").delete_objects(Bucket="lake", Delete=listed)
    assert [each["Key"] for each in answer["Deleted"]] == ["raw/b"]
    assert [(each["Key"], each["Code"]) for each in answer["Errors"]] == [("raw/c", "AccessDenied")]
    left = client(server, "s3", "owner").list_objects_v2(Bucket="lake", Prefix="raw/")["Contents"]
    assert [each["Key"] for each in left] == ["raw/a", "raw/c"]


@pytest.mark.slow
def test_keys_that_are_no_functions_may_do_everything(server: S3Server) -> None:
    assert code(client(server, "s3", "owner").get_object, Bucket="lake", Key="secret/a") == ""


# --- a flow ---

FLOW = """
import boto3

from lokki import Allow, Read, Write, flow, main, step

SETUP = ["s3:CreateBucket", "dynamodb:CreateTable", "dynamodb:PutItem", "secretsmanager:CreateSecret"]


@step(permissions=[Allow(SETUP, "*"), Write("s3://lake/")])
def set_up() -> str:
    keys = {"KeySchema": [{"AttributeName": "id", "KeyType": "HASH"}]}
    types = {"AttributeDefinitions": [{"AttributeName": "id", "AttributeType": "S"}]}
    boto3.client("dynamodb").create_table(TableName="birds", BillingMode="PAY_PER_REQUEST", **keys, **types)
    boto3.client("dynamodb").put_item(TableName="birds", Item={"id": {"S": "goose"}})
    boto3.client("secretsmanager").create_secret(Name="prod/token", SecretString="honk")
    boto3.client("s3").create_bucket(Bucket="lake")
    boto3.client("s3").put_object(Bucket="lake", Key="raw/birds.txt", Body=b"goose")
    return "raw/"


@step(PERMISSIONS)
def look_up(prefix: str) -> str:
    s3 = boto3.client("s3")
    [listed] = s3.list_objects_v2(Bucket="lake", Prefix=prefix)["Contents"]
    bird = s3.get_object(Bucket="lake", Key=listed["Key"])["Body"].read().decode()
    item = boto3.client("dynamodb").get_item(TableName="birds", Key={"id": {"S": bird}})["Item"]
    token = boto3.client("secretsmanager").get_secret_value(SecretId="prod/token")["SecretString"]
    return item["id"]["S"] + " " + token


@flow
def birds():
    return set_up().next(look_up)


if __name__ == "__main__":
    main(birds)
"""


def emulate(folder: Path, permissions: str, *options: str) -> Ran:
    (folder / "flow.py").write_text(FLOW.replace("PERMISSIONS", permissions))
    own = {"PATH": os.environ["PATH"], "UV": os.environ.get("UV", "uv"), "XDG_CACHE_HOME": CACHE, "HOME": str(folder)}
    program = [sys.executable, "flow.py", "emulate", *options]
    done = subprocess.run(program, cwd=folder, env=own, capture_output=True, text=True, check=False)
    return Ran(done.returncode, done.stdout, done.stderr)


def test_a_flow_that_was_not_built_lacks_no_permission(tmp_path: Path) -> None:
    (tmp_path / "lokki.yml").write_text("include: [birds.csv]\n")
    failed = emulate(tmp_path, "memory=256", "--suggest-permissions")
    [line] = failed.err.splitlines()
    assert (failed.code, failed.out) == (1, "")
    assert line.startswith("error: include: 'birds.csv' matches no file in ")


@pytest.mark.slow
def test_a_flow_is_denied_before_and_allowed_after_the_lines_that_are_suggested(tmp_path: Path) -> None:
    denied = emulate(tmp_path, "memory=256")
    assert denied.code == 1
    assert denied.err.splitlines()[-3:-1] == [
        "look_up() lacks permissions that it needs on AWS; add to @step(permissions=[…]):",
        '    Read("s3://lake/raw/"),',
    ]
    tried = emulate(tmp_path, "memory=256", "--suggest-permissions")
    assert (tried.code, tried.out) == (0, "goose honk\n"), tried.err
    lines = tried.err[tried.err.index("look_up(): ") :].splitlines()
    place = "${AWS::Region}:${AWS::AccountId}"
    assert lines == [
        "look_up(): permissions=[",
        '    Read("s3://lake/raw/"),',
        f'    Allow("dynamodb:GetItem", "arn:aws:dynamodb:{place}:table/birds"),',
        f'    Allow("secretsmanager:GetSecretValue", "arn:aws:secretsmanager:{place}:secret:prod/token-??????"),',
        "]",
    ]
    after = emulate(tmp_path, "\n".join(lines).partition(": ")[2])
    assert (after.code, after.out) == (0, "goose honk\n"), after.err
