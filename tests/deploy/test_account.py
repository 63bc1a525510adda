"""What accounts ask for, deployed to the account on loopback: a network, a key, JSON logs, reserved concurrency."""

from __future__ import annotations

from pathlib import Path

import pytest
from aws.loopback_aws import LoopbackAws
from support.deployed_project import new_project

KEY = "arn:aws:kms:us-east-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"

FLOW = """
import logging

from lokki import flow, main, step

@step
def birds() -> list[str]:
    return ["goose", "duck"]

@step(reserved_concurrency=2)
def flap(bird: str) -> str:
    print("printed", bird)
    logging.getLogger("flow").warning("%s flaps", bird)
    return f"flappy {bird}"

@step
def join(birds: list[str]) -> str:
    return ", ".join(birds)

@flow
def NAME():
    return birds().map(flap).agg(join)

if __name__ == "__main__":
    main(NAME)
"""


@pytest.mark.slow
def test_a_flow_is_deployed_as_the_account_asks_for_and_its_logs_are_read(
    account: LoopbackAws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = new_project(tmp_path, account, FLOW)
    ec2 = account.client("ec2")
    network = ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=network, CidrBlock="10.9.1.0/24")["Subnet"]["SubnetId"]
    group = ec2.create_security_group(GroupName=project.stack, Description="steps", VpcId=network)["GroupId"]
    project.settings(
        kms_key=KEY,
        encrypt=["environment", "logs"],
        log_format="json",
        lambda_defaults={"vpc": {"subnets": [subnet], "security_groups": [group]}},
    )
    first = project.here(monkeypatch, "deploy", "--yes")
    assert first.code == 0, first.err
    assert f"  warning: {network} has no endpoint for S3: without a NAT gateway every step times out" in first.err
    function = account.client("lambda").get_function(FunctionName=f"{project.stack}-flap")
    assert function["Configuration"]["VpcConfig"]["SubnetIds"] == [subnet]
    assert function["Concurrency"] == {"ReservedConcurrentExecutions": 2}
    groups = account.client("logs").describe_log_groups(logGroupNamePrefix=f"/aws/lambda/{project.stack}-join")
    assert [group["kmsKeyId"] for group in groups["logGroups"]] == [KEY]

    assert project.execute() == "flappy goose, flappy duck"
    logs = project.here(monkeypatch, "logs", "--step", "flap", "--item", "1")
    assert logs.code == 0, logs.err
    printed, logged = (line.partition(" | ")[2] for line in logs.out.splitlines())
    assert printed == "printed duck"
    assert (logged[:10], logged[-11:]) == ("[WARNING]\t", "\tduck flaps")

    service = "com.amazonaws.us-east-1.s3"
    ec2.create_vpc_endpoint(VpcId=network, ServiceName=service, VpcEndpointType="Gateway")
    project.edit("reserved_concurrency=2", "reserved_concurrency=3")
    second = project.here(monkeypatch, "deploy", "--yes")
    assert second.code == 0, second.err
    assert "endpoint" not in second.err
    function = account.client("lambda").get_function(FunctionName=f"{project.stack}-flap")
    assert function["Concurrency"] == {"ReservedConcurrentExecutions": 3}
    gone = project.here(monkeypatch, "destroy", "--yes")
    assert gone.code == 0, gone.err
    assert project.left() == []
