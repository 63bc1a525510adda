"""What stands between a flow and its deployment is said before anything is deployed."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from aws.loopback_aws import LoopbackAws
from support.deploy_role import policy
from support.deployed_project import BIRDS, Project, new_project

from lokki.deploy.doctor import NEEDED, Deployer

KEY = "arn:aws:kms:us-east-1:123456789012:key/0b1c2d3e-aaaa-bbbb-cccc-1234567890ab"
WHO = "arn:aws:sts::123456789012:user/moto"


@pytest.fixture
def birds(account: LoopbackAws, tmp_path: Path) -> Iterator[Project]:
    yield new_project(tmp_path, account, BIRDS)
    account.denied.clear()
    account.functions_at_once, account.code_size = 1_000, 0


def encrypt(birds: Project, key: str) -> None:
    rule = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": key}}
    s3 = birds.account.client("s3")
    s3.put_bucket_encryption(Bucket=birds.bucket, ServerSideEncryptionConfiguration={"Rules": [rule]})


def test_an_account_that_is_ready_has_a_line_for_each_check(birds: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = birds.here(monkeypatch, "doctor")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.splitlines() == [
        f"ok      credentials: {WHO}, account 123456789012",
        "ok      region: us-east-1",
        f"ok      bucket {birds.bucket}: in us-east-1",
        f"ok      owner of {birds.bucket}: this account",
        f"ok      encryption of {birds.bucket}: by S3's own keys",
        (
            f"warning lifecycle of {birds.bucket}: parts of unfinished uploads stay and cost: add a rule with "
            "AbortIncompleteMultipartUpload"
        ),
        "ok      functions at one time: 1,000",
        "ok      code of all functions: 0 B of 75.0 GiB",
        "ok      state machine: Step Functions takes it",
        "ok      permissions for stack",
        "ok      permissions for functions",
        "ok      permissions for state machine",
        "ok      permissions for logs",
        "ok      permissions for bucket",
        "ok      permissions for objects",
        "ok      permissions for roles",
    ]


def test_what_is_not_right_is_said_with_a_remedy(birds: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    birds.account.functions_at_once, birds.account.code_size = 10, 70 * 2**30
    birds.account.denied |= {"iam:PassRole", "states:StartExecution"}
    encrypt(birds, "alias/my-key")
    ran = birds.here(monkeypatch, "doctor")
    assert ran.code == 1
    lines = ran.out.splitlines()
    assert [line for line in lines if not line.startswith("ok")] == [
        (
            f"failed  encryption of {birds.bucket}: by alias/my-key: name the key in lokki.yml by its ARN: "
            "kms_key: arn:aws:kms:<region>:<account>:key/<id>"
        ),
        (
            f"warning lifecycle of {birds.bucket}: parts of unfinished uploads stay and cost: add a rule with "
            "AbortIncompleteMultipartUpload"
        ),
        (
            "warning functions at one time: 10: maps are slow with so few: ask for more in Service Quotas, Lambda, "
            "Concurrent executions"
        ),
        "warning code of all functions: 70.0 GiB of 75.0 GiB: delete old versions with prune",
        (
            "failed  permissions for state machine: ask for states:StartExecution (docs/examples/deploy-role.json has "
            "all that is needed)"
        ),
        ("failed  permissions for roles: ask for iam:PassRole (docs/examples/deploy-role.json has all that is needed)"),
    ]


def test_what_the_account_does_not_let_one_look_at_is_a_warning(
    birds: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    for action in ("SimulatePrincipalPolicy", "GetAccountSettings", "GetBucketEncryption"):
        birds.account.refuse(action, "AccessDenied", f"User: me is not authorized to perform: x:{action}", status=403)
    birds.account.refuse("ValidateStateMachineDefinition", "AccessDeniedException", "no")
    ran = birds.here(monkeypatch, "doctor")
    assert ran.code == 0
    warnings = [line.partition(": ")[0] for line in ran.out.splitlines() if line.startswith("warning")]
    assert warnings == [
        "warning encryption",
        f"warning lifecycle of {birds.bucket}",
        "warning quotas",
        "warning state machine",
        "warning permissions",
    ]


def test_a_bucket_that_is_not_there_fails_and_the_rest_is_checked(
    birds: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    birds.settings(artifact_bucket="nowhere-at-all")
    ran = birds.here(monkeypatch, "doctor")
    assert ran.code == 1
    assert "failed  bucket nowhere-at-all: there is no bucket nowhere-at-all. Make it (aws s3 mb" in ran.out
    assert "ok      state machine: Step Functions takes it" in ran.out
    (birds.folder / "lokki.yml").unlink()
    unset = birds.here(monkeypatch, "doctor")
    assert "failed  bucket: lokki.yml names none, and lokki-123456789012-us-east-1-an is not there: make" in unset.out


def test_a_state_machine_that_cannot_be_built_fails(birds: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    birds.settings(execution_type="EXPRESS", lambda_defaults={"timeout": 1800})
    ran = birds.here(monkeypatch, "doctor")
    assert ran.code == 1
    assert any(line.startswith("failed  state machine: ") for line in ran.out.splitlines())


def test_without_credentials_the_first_line_says_so(birds: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = birds.here(monkeypatch, "doctor", AWS_ACCESS_KEY_ID=None, AWS_SECRET_ACCESS_KEY=None)
    assert (ran.code, len(ran.out.splitlines())) == (1, 1)
    assert ran.out.startswith("failed  credentials: there are no AWS credentials: ")


def test_the_key_of_the_bucket_is_found_when_a_flow_is_deployed(
    birds: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    encrypt(birds, KEY)
    ran = birds.here(monkeypatch, "deploy", "--dry-run")
    assert ran.code == 0, ran.err
    assert f"the bucket {birds.bucket} encrypts by {KEY}, which the roles may use" in ran.err.splitlines()
    assert KEY in (birds.folder / "lokki-build" / "template.yaml").read_text()


def test_an_assumed_role_has_its_policies_under_the_roles_own_arn() -> None:
    session = Deployer("123456789012", "arn:aws-cn:sts::123456789012:assumed-role/deployer/me@here")
    assert session.policy_source == "arn:aws-cn:iam::123456789012:role/deployer"
    user = "arn:aws:iam::123456789012:user/me"
    assert Deployer("123456789012", user).policy_source == user


def test_the_policy_in_the_docs_allows_all_that_is_asked_for() -> None:
    allowed = {action for each in json.loads(policy())["Statement"] for action in each["Action"]}
    assert {action for actions in NEEDED.values() for action in actions} <= allowed
