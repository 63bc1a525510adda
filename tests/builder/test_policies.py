"""The evaluator of policies that tests/builder/test_permissions.py uses, by itself and beside moto's."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import boto3
import pytest
from aws.policies import ACCOUNT, REGION, Call, Roles, Statement, allowing, matches
from botocore.exceptions import ClientError
from build_flows import BUILDS

from lokki.base.values import Json

FUNCTIONS, MACHINE = ROLES = ("LambdaExecutionRole", "StepFunctionsExecutionRole")


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        ("a/*", "a/b/c", True),
        ("a/*", "a/", True),
        ("a/*", "ab/c", False),
        ("a/*/m.json", "a/b/c/m.json", True),
        ("a/*/m.json", "a/m.json", False),
        ("a.c", "abc", False),
        ("a?c", "abc", True),
        ("a", "ab", False),
        ("s3:getobject", "s3:GetObject", False),
    ],
)
def test_patterns_match_as_in_iam(pattern: str, text: str, expected: bool) -> None:
    assert matches(pattern, text) == expected


def test_a_condition_on_a_key_that_a_call_does_not_have_denies_it() -> None:
    statement = Statement("List", ("S3:listbucket",), ("b",), (("s3:prefix", ("a/*",)),))
    assert list(statement.uses(Call("r", "s3:ListBucket", "b", (("s3:prefix", "a/b"),))))
    assert not list(statement.uses(Call("r", "s3:ListBucket", "b")))


def test_a_policy_with_anything_that_the_evaluator_does_not_know_is_refused() -> None:
    deny = {"Sid": "No", "Effect": "Deny", "Action": "s3:*", "Resource": "*"}
    policies: Json = [{"PolicyDocument": {"Statement": [cast("Json", deny)]}}]
    roles = Roles({"Resources": {"Role": {"Type": "AWS::IAM::Role", "Properties": {"Policies": policies}}}})
    with pytest.raises(AssertionError, match="Deny"):
        roles.statements("Role")


KEYS = (
    "lokki/birds-flow/run-1/get_birds/map_manifest.json",
    "lokki/birds-flow/run-1/get_birds/map_results/1/manifest.json",
    "lokki/birds-flow/run-1/flap_bird/0/output.pkl.gz",
    "lokki/birds-flows/run-1/flap_bird/0/output.pkl.gz",
    "lokki-packages/birds-flow/flap_bird-0123.zip",
)


@pytest.mark.slow
@pytest.mark.parametrize("role", ROLES)
def test_moto_which_enforces_policies_for_s3_allows_and_denies_the_same(role: str) -> None:
    """A second opinion on the evaluator, as far as moto has one: it knows no conditions, and other services' less."""
    bucket = "acme-artifacts"
    statements = Roles(BUILDS["birds"].template()).statements(role)
    with moto_process() as endpoint:
        s3 = assumed(endpoint, bucket, role, statements)
        s3_calls: dict[str, Callable[[str, str], object]] = {
            "s3:PutObject": lambda bucket, key: s3.put_object(Bucket=bucket, Key=key, Body=b"x"),
            "s3:GetObject": lambda bucket, key: s3.get_object(Bucket=bucket, Key=key),
            "s3:DeleteObject": lambda bucket, key: s3.delete_object(Bucket=bucket, Key=key),
        }
        places = [*((bucket, key) for key in KEYS), (f"{bucket}-2", KEYS[0])]
        tried = [(action, *place) for place in places for action in s3_calls]
        allowed = {each for each in tried if not denied(s3_calls[each[0]], *each[1:])}
    expected = {
        each for each in tried if allowing(statements, Call(role, each[0], f"arn:aws:s3:::{each[1]}/{each[2]}"))
    }
    assert allowed == expected
    assert len(allowed) == {FUNCTIONS: 6, MACHINE: 3}[role]


@contextmanager
def moto_process() -> Iterator[str]:
    """Run moto in a process of its own, since to check requests is a setting of the whole process."""
    program = (
        "from moto.server import ThreadedMotoServer; import sys; "
        "server = ThreadedMotoServer('127.0.0.1', port=0, verbose=False); server.start(); "
        "print(server.get_host_and_port()[1], flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        process.kill()


def assumed(endpoint: str, bucket: str, role: str, statements: list[Statement]) -> Any:
    """Return a client of S3 that has assumed a role with these statements; from then on moto checks every request."""
    place = {"endpoint_url": endpoint, "region_name": REGION}
    anybody = {"aws_access_key_id": "test", "aws_secret_access_key": "test", **place}
    for name in (bucket, f"{bucket}-2"):
        boto3.client("s3", **anybody).create_bucket(Bucket=name)
    rules = [{"Effect": "Allow", "Action": each.actions, "Resource": each.resources} for each in statements]
    iam = boto3.client("iam", **anybody)
    iam.create_role(RoleName=role, AssumeRolePolicyDocument="{}")
    document = json.dumps({"Version": "2012-10-17", "Statement": rules})
    iam.put_role_policy(RoleName=role, PolicyName="run", PolicyDocument=document)
    arn = f"arn:aws:iam::{ACCOUNT}:role/{role}"
    keys = boto3.client("sts", **anybody).assume_role(RoleArn=arn, RoleSessionName="run")["Credentials"]
    check = urllib.request.Request(f"{endpoint}/moto-api/reset-auth", b"0", {"Content-Type": "text/plain"})
    with urllib.request.urlopen(check):
        pass
    return boto3.client(
        "s3",
        aws_access_key_id=keys["AccessKeyId"],
        aws_secret_access_key=keys["SecretAccessKey"],
        aws_session_token=keys["SessionToken"],
        **place,
    )


def denied(call: Callable[[str, str], object], bucket: str, key: str) -> bool:
    try:
        call(bucket, key)
    except ClientError as error:
        return bool(error.response["Error"]["Code"] == "AccessDenied")
    return False
