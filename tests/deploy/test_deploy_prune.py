"""Old versions that nothing needs go; a package with other content is uploaded again; a bucket is made by itself."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from aws.loopback_aws import LoopbackAws
from support.command import Ran
from support.deployed_project import HONK, Project, new_project

from lokki.deploy.own_bucket import bucket_name

OWN = bucket_name("123456789012", "us-east-1")


@pytest.fixture
def honk(account: LoopbackAws, tmp_path: Path) -> Iterator[Project]:
    made = new_project(tmp_path, account, HONK)
    yield made
    made.settings()
    if made.left():
        made.run("destroy", "--yes")


def told(ran: Ran) -> list[str]:
    return re.sub(r"[\d.]+ [KM]iB", "N MiB", ran.err).splitlines()


def run_it(honk: Project, times: object = 1) -> dict[str, str]:
    """Start what is deployed and wait for its end; an execution that cannot succeed fails."""
    states = honk.account.client("stepfunctions")
    started = states.start_execution(stateMachineArn=f"{honk.machine}:live", input=json.dumps({"times": times}))
    honk.account.wait()
    found = states.describe_execution(executionArn=started["executionArn"])
    return {"arn": started["executionArn"], "status": found["status"], "version": found["stateMachineVersionArn"]}


def versions(honk: Project) -> tuple[list[str], list[str]]:
    """Return the numbers of the versions that there are, of the state machine and of the function."""
    machine = honk.account.client("stepfunctions").list_state_machine_versions(stateMachineArn=honk.machine)
    function = honk.account.client("lambda").list_versions_by_function(FunctionName=f"{honk.stack}-honk")
    numbers = [each["stateMachineVersionArn"].rpartition(":")[2] for each in machine["stateMachineVersions"]]
    return sorted(numbers), sorted(each["Version"] for each in function["Versions"])


@pytest.mark.slow
def test_versions_that_nothing_needs_go_and_those_of_runs_that_can_be_redriven_stay(honk: Project) -> None:
    honk.edit("times: int) -> str:\n    ", "times: int) -> str:\n    assert times < 100, 'too loud'\n    ")
    for words in ("honk ", "honk! ", "HONK ", "HONK! "):
        honk.edit('"honk ', f'"{words}') if words == "honk " else honk.edit("return ", f"# {words}\n    return ")
        if words != "honk ":
            honk.edit(" * times", f" * times + {words!r}")
        assert honk.run("deploy", "--yes").code == 0
        if words == "honk! ":
            failed = run_it(honk, 1000)
            assert failed["status"] == "FAILED"
        else:
            assert run_it(honk)["status"] == "SUCCEEDED"
    assert versions(honk) == (["1", "2", "3", "4"], ["$LATEST", "1", "2", "3", "4"])
    dry = honk.run("prune", "--keep", "1", "--dry-run")
    what = ["  2 versions of the state machine, of 4", "  2 versions of functions (N MiB of code)"]
    assert (dry.code, told(dry)) == (0, ["this goes, for good:", *what, "dry run: nothing was deleted"])
    declined = honk.run("prune", "--keep", "1", answer="n\n")
    assert (declined.code, versions(honk)[0]) == (1, ["1", "2", "3", "4"])
    done = honk.run("prune", "--keep", "1", "--yes")
    assert (done.code, told(done)[3:]) == (
        0,
        ["deleted 2 versions of the state machine, of 4", "deleted 2 versions of functions (N MiB of code)"],
    )
    assert versions(honk) == (["2", "4"], ["$LATEST", "2", "4"])
    again = honk.run("prune", "--keep", "1", "--yes")
    assert (again.code, told(again)) == (0, [f"{honk.stack} has no version that is not needed"])
    assert run_it(honk)["status"] == "SUCCEEDED"
    redriven = honk.run("redrive", failed["arn"].rpartition(":")[2])
    assert (redriven.code, "too loud" in redriven.err) == (1, True)  # the code of then is still there
    assert honk.run("rollback", "--to", "2", "--yes").code == 0
    assert honk.run("destroy", "--yes").code == 0
    assert honk.left() == []


@pytest.mark.slow
def test_a_package_with_other_content_of_the_same_size_is_uploaded_again(honk: Project) -> None:
    assert honk.run("deploy", "--yes").code == 0
    s3 = honk.account.client("s3")
    [key] = [each["Key"] for each in s3.list_objects_v2(Bucket=honk.bucket)["Contents"] if each["Key"].endswith(".zip")]
    whole = s3.get_object(Bucket=honk.bucket, Key=key)["Body"].read()
    s3.put_object(Bucket=honk.bucket, Key=key, Body=whole[:-1] + bytes([whole[-1] ^ 1]))
    mended = honk.run("deploy", "--yes")
    assert (mended.code, "uploaded 1 package" in mended.err) == (0, True)
    assert s3.get_object(Bucket=honk.bucket, Key=key)["Body"].read() == whole
    assert "uploaded" not in honk.run("deploy", "--yes").err


@pytest.mark.slow
def test_a_flow_without_settings_is_deployed_to_the_bucket_that_bootstrap_made(honk: Project) -> None:
    (honk.folder / "lokki.yml").unlink()
    missing = honk.run("deploy", "--yes")
    assert (missing.code, missing.err) == (
        1,
        (
            "error: there is no bucket for the flow's code and results: make one with: lokki bootstrap "
            "--region us-east-1, or name one in lokki.yml: artifact_bucket: my-bucket\n"
        ),
    )
    declined = honk.python("lokki", "bootstrap")
    assert (declined.code, declined.err.splitlines()[0]) == (
        1,
        f"account 123456789012, us-east-1: the bucket {OWN} is made",
    )
    s3 = honk.account.client("s3")
    try:
        made = honk.python("lokki", "bootstrap", "--yes")
        assert (made.code, made.out) == (0, f"{OWN}\n")
        assert made.err.splitlines()[1:] == [
            f"made the bucket {OWN}",
            "set up: no public access, TLS only, unfinished uploads removed after 7 days",
        ]
        again = honk.python("lokki", "bootstrap")
        assert (again.code, "made the bucket" in again.err) == (0, False)
        assert all(s3.get_public_access_block(Bucket=OWN)["PublicAccessBlockConfiguration"].values())
        [statement] = json.loads(s3.get_bucket_policy(Bucket=OWN)["Policy"])["Statement"]
        assert (statement["Effect"], statement["Condition"]) == ("Deny", {"Bool": {"aws:SecureTransport": "false"}})
        [rule] = s3.get_bucket_lifecycle_configuration(Bucket=OWN)["Rules"]
        assert rule["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 7}
        s3.delete_bucket_policy(
            Bucket=OWN
        )  # loopback has no TLS, and moto takes the policy's word without its condition
        assert honk.run("deploy", "--yes").code == 0
        (honk.folder / "lokki.yml").write_text("retention: 30\n")
        place = f"s3://{OWN}/lokki/{honk.stack}/"
        asked = honk.run("deploy")
        assert (asked.code, f"  objects below {place} are deleted 30 days after" in asked.err) == (1, True)
        assert len(s3.get_bucket_lifecycle_configuration(Bucket=OWN)["Rules"]) == 1
        assert honk.run("deploy", "--yes").code == 0
        assert honk.python("lokki", "bootstrap").code == 0
        s3.delete_bucket_policy(Bucket=OWN)  # which bootstrap made anew
        uploads, results = s3.get_bucket_lifecycle_configuration(Bucket=OWN)["Rules"]
        assert uploads == rule
        assert (results["Filter"], results["Expiration"]) == ({"Prefix": f"lokki/{honk.stack}/"}, {"Days": 30})
        assert "no changes" in honk.run("deploy", "--yes").err
        assert run_it(honk)["status"] == "SUCCEEDED"
        invoked = honk.run("invoke", "--times", "2")
        assert (invoked.code, invoked.out) == (0, "honk honk \n")
        assert honk.run("destroy", "--yes").code == 0
        assert s3.get_bucket_lifecycle_configuration(Bucket=OWN)["Rules"] == [rule]
        assert "Contents" not in s3.list_objects_v2(Bucket=OWN)
    finally:
        for each in s3.list_objects_v2(Bucket=OWN).get("Contents", []):
            s3.delete_object(Bucket=OWN, Key=each["Key"])
        s3.delete_bucket(Bucket=OWN)


def test_a_region_without_namespaces_of_accounts_gets_a_plain_name() -> None:
    assert bucket_name("123456789012", "me-central-1") == "lokki-123456789012-me-central-1"
    assert len(bucket_name("123456789012", "ap-southeast-1")) <= 63
