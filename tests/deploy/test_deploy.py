"""Deploying, changing, rolling back and removing a flow by the commands, on an AWS that is on loopback.

The server creates the stacks, keeps code and versions, and runs what was deployed.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
import yaml
from aws.loopback_aws import LoopbackAws
from build_flows import golden_flows
from support.deployed_project import BIRDS, HONK, Project, new_project, told
from support.golden import compare
from support.image_program import program
from support.lowering import callers_of_lower


@pytest.fixture
def birds(account: LoopbackAws, tmp_path: Path) -> Project:
    return new_project(tmp_path, account, BIRDS)


@pytest.fixture(scope="module")
def honk(account: LoopbackAws, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A flow of one step, which is deployed by the tests that need it deployed."""
    return new_project(tmp_path_factory.mktemp("honk"), account, HONK)


def take_package_away(honk: Project) -> None:
    """Delete the package that was built last, before CloudFormation reads it."""
    [package] = json.loads((honk.folder / "lokki-build/build.json").read_text())["packages"].values()
    s3 = honk.account.client("s3")
    honk.account.before("ExecuteChangeSet", lambda: s3.delete_object(Bucket=honk.bucket, Key=package["key"]))


@pytest.mark.slow
def test_the_life_of_a_deployed_flow(birds: Project) -> None:
    first = birds.run("deploy", "--yes")
    assert first.code == 0, first.err
    assert first.out == f"{birds.machine}\n"
    assert told(first)[:11] == [
        f"{birds.stack} → stack {birds.stack} in us-east-1, account 123456789012",
        f"  upload 3 packages (N MiB) to {birds.bucket}",
        "  get_birds                  created",
        "  flap_bird                  created",
        "  join_birds                 created",
        "  role of the steps          created",
        "  role of the state machine  created",
        "  logs of the state machine  created",
        "  state machine              created",
        "  runs that go on keep their code; new ones use this",
        "uploaded 3 packages",
    ]
    assert "  FlapBirdFunction: created" in told(first)
    assert told(first)[-1] == f"{birds.stack} is deployed; run it with: python flow.py invoke"
    assert birds.execute() == "flappy goose, flappy duck"

    again = birds.run("deploy")  # nobody is asked where nothing changes
    assert (again.code, told(again)[1:-1]) == (0, ["  no changes"])

    before = birds.code()
    birds.edit("flappy", "happy")
    changed = birds.run("deploy", "--confirm")
    assert changed.code == 0, changed.err
    assert told(changed)[1:5] == [
        f"  upload 1 package (N MiB) to {birds.bucket}",
        "  flap_bird      code",
        "  state machine  uses the new code",
        "  runs that go on keep their code; new ones use this",
    ]
    assert [step for step, code in birds.code().items() if before[step] != code] == ["flap_bird"]
    assert birds.execute() == "happy goose, happy duck"
    assert birds.execute("1") == "flappy goose, flappy duck"  # what was started before keeps its code

    back = birds.run("rollback", "--yes")
    assert told(back) == [
        f"new runs of {birds.stack} would use version 1 (TIME) in the place of version 2 (TIME)",
        f"new runs of {birds.stack} use version 1 (TIME); the next deploy undoes this",
    ]
    assert birds.execute() == "flappy goose, flappy duck"
    refused = [birds.run("rollback", *options, "--yes") for options in ((), ("--to", "7"), ("--to", "1"))]
    known = "There are: version 2 (TIME), version 1 (TIME)."
    assert [(each.code, told(each)) for each in refused] == [
        (1, [f"error: new runs use version 1 (TIME), and there is no earlier version. {known}"]),
        (1, [f"error: new runs use version 1 (TIME), and there is no version 7. {known}"]),
        (1, [f"error: new runs use version 1 (TIME) already. {known}"]),
    ]
    forward = birds.run("deploy", "--yes")
    assert told(forward)[1:2] == ["  new runs use version 2 again, which a rollback left"]
    assert birds.execute() == "happy goose, happy duck"

    declined = birds.run("destroy", answer="n\n")
    assert declined.code == 1
    gone = birds.run("destroy", "--yes")
    assert gone.code == 0, gone.err
    machines = "1 StateMachine, 1 StateMachineVersion, 1 StateMachineAlias"
    assert told(gone)[:4] == [
        "this goes from us-east-1, for good:",
        f"  the stack {birds.stack} in us-east-1: 4 LogGroup, 2 Role, 3 Function, 3 Version, {machines}",
        f"  s3://{birds.bucket}/lokki-packages/{birds.stack}/: N objects (N MiB) of code",
        f"  s3://{birds.bucket}/lokki/{birds.stack}/: N objects (N MiB), the results of all runs",
    ]
    assert told(gone)[-1] == f"{birds.stack} is gone"
    assert birds.left() == []
    never = birds.run("destroy", "--yes")
    assert (never.code, never.err) == (
        1,
        f"error: {birds.stack} is not deployed: there is no stack {birds.stack} in us-east-1. Nothing was removed.\n",
    )


@pytest.mark.slow
def test_what_is_deployed_or_emulated_is_lowered_once(birds: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    for command, *options in (["deploy", "--yes"], ["emulate", "--quiet"]):
        with callers_of_lower() as callers:
            ran = birds.here(monkeypatch, command, *options)
        assert (ran.code, callers) == (0, ["compile_flow"]), ran.err


def test_without_a_yes_nothing_changes(honk: Project) -> None:
    dry = honk.run("deploy", "--dry-run")
    assert (dry.code, told(dry)[-1]) == (0, "dry run: nothing was changed")
    declined = honk.run("deploy", answer="n\n")
    assert (declined.code, declined.out) == (1, "")
    assert told(declined)[-1].endswith("nothing was changed")
    unasked = honk.run("deploy")
    assert (unasked.code, told(unasked)[-1]) == (
        1,
        "error: nothing was changed: there is no terminal to ask on. Give --yes to agree beforehand.",
    )
    assert honk.left() == []


@pytest.mark.slow
def test_an_agreed_deployment_with_a_failing_update_and_data_that_is_kept(honk: Project) -> None:
    agreed = honk.run("deploy", answer="y\n")
    assert agreed.code == 0, agreed.err
    assert honk.execute() == "honk honk "

    honk.edit('"honk "', '"HONK "')
    honk.run("build")
    take_package_away(honk)
    failed = honk.run("deploy", "--yes")
    assert failed.code == 1
    assert told(failed)[-1] == (
        f"error: the stack {honk.stack} could not be updated: HonkFunction (AWS::Lambda::Function): Resource handler "
        'returned message: "Error occurred while GetObject. S3 Error Code: NoSuchKey. S3 Error Message: The specified '
        'key does not exist.". All is as it was before. A package is not in the '
        "bucket (any more): deploy again."
    )
    assert honk.execute() == "honk honk "
    mended = honk.run("deploy", "--yes")
    assert mended.code == 0, mended.err
    assert honk.execute() == "HONK HONK "

    kept = honk.run("destroy", "--keep-data", "--yes")
    assert told(kept)[-1] == f"{honk.stack} is gone"  # small results leave nothing in the bucket
    honk.edit('"HONK "', '"honk "')


def test_a_failed_creation_leaves_nothing(honk: Project) -> None:
    honk.run("build")
    take_package_away(honk)
    failed = honk.run("deploy", "--yes")
    assert failed.code == 1
    assert "could not be created: HonkFunction (AWS::Lambda::Function)" in failed.err
    assert "Nothing of it is left." in failed.err
    assert honk.left() == []


def broken_stack(project: Project) -> None:
    """Make the stack by hand, of a package that is not there: it stays as ROLLBACK_COMPLETE."""
    project.run("build")
    template = (project.folder / "lokki-build/template.yaml").read_text()
    project.account.client("cloudformation").create_stack(
        StackName=project.stack, TemplateBody=template, Capabilities=["CAPABILITY_IAM"]
    )
    project.account.wait()


@pytest.mark.slow
def test_what_stands_in_the_way_is_one_line_each(
    honk: Project, update_golden: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []

    def note(case: str, *arguments: str, **env: str | None) -> None:
        ran = honk.here(monkeypatch, *(arguments or ("deploy", "--yes")), **env)
        assert ran.code == 1, ran.err
        line = told(ran)[-1].replace(honk.stack, "honk").replace(honk.bucket, "my-bucket")
        lines.append(f"{case}:\n  {line}\n")

    refuse = honk.account.refuse
    user = "User: arn:aws:iam::123456789012:user/anna is not authorized to perform"
    note("no credentials", AWS_ACCESS_KEY_ID=None, AWS_SECRET_ACCESS_KEY=None)
    note("no region", AWS_REGION=None, AWS_DEFAULT_REGION=None)
    note("a profile that is not there", AWS_PROFILE="work")
    refuse("GetCallerIdentity", "ExpiredToken", "The security token included in the request is expired", status=403)
    note("an expired token")
    refuse("GetCallerIdentity", "InvalidClientTokenId", "The security token included in the request is invalid.")
    note("keys that AWS does not know")
    refuse(
        "CreateChangeSet", "AccessDenied", f"{user}: cloudformation:CreateChangeSet on resource: arn:aws:x", status=403
    )
    note("a missing permission")
    note("nobody answers", AWS_ENDPOINT_URL="http://127.0.0.1:9")
    honk.settings(artifact_bucket="no-such-bucket-anywhere")
    note("a bucket that is not there")
    honk.settings(artifact_bucket=honk.account.new_bucket("eu-west-1"))
    note("a bucket in another region")
    lines[-1] = re.sub(r"loopback-\d+", "my-bucket", lines[-1])
    honk.settings()
    refuse("HeadBucket", "403", "Forbidden", status=403)
    note("a bucket of somebody else")
    note("a stack's name that AWS would not take", "deploy", "--yes", "--stack-name", "my_stack")
    honk.settings(ecr_repo_prefix="ghcr.io/my-team")
    note("a registry that is not in ECR")
    honk.settings(ecr_repo_prefix="123456789012.dkr.ecr.us-east-1.amazonaws.com/my-team")
    note("nothing that builds images", PATH=str(Path(re.__file__).parent))
    honk.settings()
    note("a flow that is not deployed", "rollback", "--yes")
    broken_stack(honk)
    note("a stack whose creation failed")
    assert honk.run("destroy", "--yes").code == 0
    honk.account.client("cloudformation").create_stack(
        StackName=honk.stack,
        TemplateBody=yaml.safe_dump(
            {
                "Resources": {
                    "L": {"Type": "AWS::Logs::LogGroup", "Properties": {"LogGroupName": "l", "RetentionInDays": 1}}
                }
            }
        ),
    )
    honk.account.wait()
    note("a stack of something else")
    honk.account.client("cloudformation").delete_stack(StackName=honk.stack)
    honk.account.wait()
    compare("deploy-errors.txt", "".join(lines), update_golden)


@pytest.mark.slow
def test_throttled_calls_are_made_again_and_large_templates_go_through_the_bucket(honk: Project) -> None:
    for action in ("CreateChangeSet", "DescribeStacks", "ExecuteChangeSet"):
        honk.account.refuse(action, "Throttling", "Rate exceeded", times=2)
    honk.settings(tags={f"tag-{number}": "x" * 200 for number in range(45)})
    ran = honk.run("deploy", "--yes")
    assert ran.code == 0, ran.err
    assert len((honk.folder / "lokki-build/template.yaml").read_bytes()) > 51_200
    honk.settings()
    destroyed = honk.run("destroy", "--yes")
    assert destroyed.code == 0, destroyed.err
    assert honk.left() == []


def test_images_are_built_pushed_and_deployed_and_their_repositories_go_too(honk: Project, tmp_path: Path) -> None:
    docker = program(tmp_path / "bin", "docker")
    path = f"{docker.folder}{os.pathsep}{os.environ['PATH']}"
    prefix = "123456789012.dkr.ecr.us-east-1.amazonaws.com/my-team"
    honk.settings(ecr_repo_prefix=prefix)
    name = f"my-team/{honk.stack}/honk"
    ran = honk.run("deploy", "--yes", "--image-tag", "v1", PATH=path)
    assert ran.code == 0, ran.err
    assert told(ran)[1] == f"  build and push 1 image to {prefix.partition('/')[0]}"
    assert f"made the repository {name}" in told(ran)
    assert f"pushed {name}:v1" in told(ran)
    login, build, first, second = docker.calls()
    assert (login[:2], build[:2], first[0], second) == (
        ["login", "--username"], ["build", "--platform"], "push", ["push", f"{prefix}/{honk.stack}/honk:v1"],
    )  # fmt: skip
    function = honk.account.client("lambda").get_function(FunctionName=f"{honk.stack}-honk")
    assert function["Code"]["ImageUri"] == f"{prefix}/{honk.stack}/honk:v1"
    gone = honk.run("destroy", "--yes")
    assert gone.code == 0, gone.err
    assert f"  repositories with all their images: {name}" in told(gone)
    assert name not in str(honk.account.client("ecr").describe_repositories())
    assert honk.left() == []
    honk.settings()


GRAPHS = {"results_flow": (), "each_flow": ("--days", "2026-01-05", "--days", "2026-01-09")}


@pytest.mark.slow
@pytest.mark.parametrize("name", GRAPHS)
def test_a_golden_graph_is_created_and_gives_deployed_what_it_gives_here(
    name: str, account: LoopbackAws, tmp_path: Path
) -> None:
    project = Project(tmp_path, account, name, account.new_bucket())
    project.settings()
    (tmp_path / "flow.py").write_text(f"{golden_flows()}\n\nfrom lokki import main\n\nmain({name})\n")
    deployed = project.run("deploy", "--yes")
    assert deployed.code == 0, deployed.err
    here = project.run("run", *GRAPHS[name])
    there = project.run("invoke", *GRAPHS[name])
    assert (there.code, there.out) == (0, here.out), there.err
    assert here.out
    gone = project.run("destroy", "--yes")
    assert (gone.code, project.left()) == (0, []), gone.err
