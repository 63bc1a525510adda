"""Deploying, changing, rolling back and removing a flow by the commands, on an AWS that is on loopback.

The server creates the stacks, keeps code and versions, and runs what was deployed.
"""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.command import Ran, command
from support.loopback_aws import LoopbackAws

CACHE = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
"""What was installed for other tests' packages need not be installed again."""

FLOW = """
from lokki import flow, main, step

@step
def get_birds() -> list[str]:
    return ["goose", "duck"]

@step
def flap_bird(bird: str) -> str:
    return f"flappy {bird}"

@step
def join_birds(birds: list[str]) -> str:
    return ", ".join(birds)

@flow
def NAME():
    return get_birds().map(flap_bird).agg(join_birds)

if __name__ == "__main__":
    main(NAME)
"""


@dataclass(frozen=True)
class Project:
    """A flow in a folder, with an account to deploy it to. ``bucket``: one of its own."""

    folder: Path
    account: LoopbackAws
    name: str
    bucket: str

    @property
    def stack(self) -> str:
        return self.name.replace("_", "-")

    @property
    def file(self) -> Path:
        return self.folder / "flow.py"

    def edit(self, old: str, new: str) -> None:
        text = self.file.read_text()
        assert old in text
        self.file.write_text(text.replace(old, new))

    def settings(self, **settings: object) -> None:
        lines = [f"{name}: {json.dumps(value)}" for name, value in {"artifact_bucket": self.bucket, **settings}.items()]
        (self.folder / "lokki.yml").write_text("\n".join(lines) + "\n")

    def run(self, *arguments: str, answer: str | None = None, **env: str) -> Ran:
        """Run a command of the flow; ``answer``: typed on a terminal."""
        given: dict[str, object] = {"stdin": subprocess.DEVNULL}
        ours = -1
        if answer is not None:
            ours, theirs = pty.openpty()
            os.write(ours, answer.encode())
            given = {"stdin": theirs}
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "LOKKI_"))}
        done = subprocess.run(
            command(("flow.py", *arguments)),
            cwd=self.folder,
            env={**kept, "HOME": str(self.folder), "XDG_CACHE_HOME": CACHE, **self.account.environ, **env},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            **given,  # type: ignore[call-overload]
        )
        if ours >= 0:
            os.close(ours)
        return Ran(done.returncode, done.stdout, done.stderr)

    def execute(self, target: str = "live") -> str:
        """Start what is deployed, wait for its end and return the last step's output."""
        states = self.account.client("stepfunctions")
        arn = f"arn:aws:states:us-east-1:123456789012:stateMachine:{self.stack}:{target}"
        started = states.start_execution(stateMachineArn=arn, input="{}")
        self.account.wait()
        found = states.describe_execution(executionArn=started["executionArn"])
        assert found["status"] == "SUCCEEDED", found
        return str(json.loads(found["output"])["result"])


_numbers = iter(range(1, 1000))


@pytest.fixture
def project(account: LoopbackAws, tmp_path: Path) -> Iterator[Project]:
    made = Project(tmp_path, account, f"birds_{next(_numbers)}", account.new_bucket())
    made.file.write_text(FLOW.replace("NAME", made.name))
    made.settings()
    yield made
    if (tmp_path / "lokki-build").exists():
        made.run("destroy", "--yes")


def told(ran: Ran) -> list[str]:
    """Return what a command said after the report of its build, with what differs from run to run left out."""
    text = re.sub(r"\d+(\.\d+)? [KM]iB", "N MiB", ran.err)
    lines = text.splitlines()
    first = next((number for number, line in enumerate(lines) if " → stack " in line), 0)
    return lines[first:]


def functions(project: Project) -> dict[str, str]:
    """Return the hash of the code of each function, by step."""
    found = project.account.client("lambda").list_functions(MaxItems=1000)["Functions"]
    prefix = f"{project.stack}-"
    return {
        each["FunctionName"].removeprefix(prefix): each["CodeSha256"]
        for each in found
        if each["FunctionName"].startswith(prefix)
    }


def test_a_first_deployment_is_shown_made_and_runs(project: Project) -> None:
    ran = project.run("deploy", "--yes")
    assert ran.code == 0, ran.err
    assert ran.out == f"arn:aws:states:us-east-1:123456789012:stateMachine:{project.stack}\n"
    lines = told(ran)
    assert lines[:11] == [
        f"{project.stack} → stack {project.stack} in us-east-1, account 123456789012",
        f"  upload 3 packages (N MiB) to {project.bucket}",
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
    assert "  FlapBirdFunction: created" in lines
    assert lines[-1] == f"{project.stack} is deployed; run it with: python flow.py invoke"
    assert project.execute() == "flappy goose, flappy duck"


def test_deploying_again_changes_nothing_and_is_a_success(project: Project) -> None:
    project.run("deploy", "--yes")
    ran = project.run("deploy")  # nobody is asked where nothing changes
    assert ran.code == 0, ran.err
    assert told(ran)[1:-1] == ["  no changes"]


def test_only_the_step_that_was_changed_is_deployed(project: Project) -> None:
    project.run("deploy", "--yes")
    before = functions(project)
    project.edit("flappy", "happy")
    ran = project.run("deploy", "--yes")
    assert ran.code == 0, ran.err
    assert told(ran)[1:5] == [
        f"  upload 1 package (N MiB) to {project.bucket}",
        "  flap_bird      code",
        "  state machine  uses the new code",
        "  runs that go on keep their code; new ones use this",
    ]
    assert [step for step, code in functions(project).items() if before[step] != code] == ["flap_bird"]
    assert project.execute() == "happy goose, happy duck"


def test_a_run_that_goes_on_keeps_its_code_and_a_rollback_brings_it_back_for_new_ones(project: Project) -> None:
    project.run("deploy", "--yes")
    project.edit("flappy", "happy")
    project.run("deploy", "--yes")
    assert project.execute("1") == "flappy goose, flappy duck"
    back = project.run("rollback", "--yes")
    assert back.code == 0, back.err
    date = r"\(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\)"
    assert re.fullmatch(
        rf"new runs of {project.stack} would use version 1 {date} in the place of version 2 {date}\n"
        rf"new runs of {project.stack} use version 1 {date}; the next deploy undoes this\n",
        back.err,
    )
    assert project.execute() == "flappy goose, flappy duck"
    again = project.run("deploy", "--yes")
    assert told(again)[1:2] == ["  new runs use version 2 again, which a rollback left"]
    assert project.execute() == "happy goose, happy duck"


def test_a_rollback_to_nowhere_is_refused(project: Project) -> None:
    project.run("deploy", "--yes")
    first, named, same = (project.run("rollback", *given, "--yes") for given in ((), ("--to", "7"), ("--to", "1")))
    assert {first.code, named.code, same.code} == {1}
    assert re.fullmatch(
        r"error: new runs use version 1 \(.*\), and there is no earlier version\. There are: version 1 \(.*\)\.\n",
        first.err,
    )
    assert "and there is no version 7." in named.err
    assert "already. There are" in same.err


def test_a_dry_run_and_a_no_change_nothing(project: Project) -> None:
    cloudformation = project.account.client("cloudformation")
    dry = project.run("deploy", "--dry-run")
    assert (dry.code, told(dry)[-1]) == (0, "dry run: nothing was changed")
    declined = project.run("deploy", answer="n\n")
    assert (declined.code, declined.out) == (1, "")
    assert told(declined)[-1].endswith("nothing was changed")
    unasked = project.run("deploy")
    assert unasked.code == 1
    assert (
        told(unasked)[-1]
        == "error: nothing was changed: there is no terminal to ask on. Give --yes to agree beforehand."
    )
    stacks = [each["StackName"] for each in cloudformation.describe_stacks()["Stacks"]]
    assert project.stack not in stacks
    assert "Contents" not in project.account.client("s3").list_objects_v2(Bucket=project.bucket)
    agreed = project.run("deploy", answer="y\n")
    assert agreed.code == 0, agreed.err


def test_destroy_shows_what_goes_and_leaves_nothing(project: Project) -> None:
    project.run("deploy", "--yes")
    project.execute()
    kept = project.run("destroy", answer="n\n")
    assert kept.code == 1
    ran = project.run("destroy", "--yes")
    assert ran.code == 0, ran.err
    machines = "1 StateMachine, 1 StateMachineVersion, 1 StateMachineAlias"
    lines = re.sub(r"\d+ objects? \(\d+(\.\d+)? [KM]?i?B\)", "N objects (N MiB)", ran.err).splitlines()
    assert lines[:4] == [
        "this goes from us-east-1, for good:",
        f"  the stack {project.stack} in us-east-1: 4 LogGroup, 2 Role, 3 Function, 3 Version, {machines}",
        f"  s3://{project.bucket}/lokki-packages/{project.stack}/: N objects (N MiB) of code",
        f"  s3://{project.bucket}/lokki/{project.stack}/: N objects (N MiB), the results of all runs",
    ]
    assert lines[-1] == f"{project.stack} is gone"
    assert left(project) == []
    gone = project.run("destroy", "--yes")
    assert gone.code == 1
    assert gone.err == (
        f"error: {project.stack} is not deployed: there is no stack {project.stack} in us-east-1. Nothing was removed.\n"
    )


def test_destroy_keeps_data_where_it_is_told_to(project: Project) -> None:
    project.run("deploy", "--yes")
    project.execute()
    ran = project.run("destroy", "--keep-data", "--yes")
    assert ran.err.splitlines()[-1] == f"{project.stack} is gone; what its runs wrote stays"
    found = project.account.client("s3").list_objects_v2(Bucket=project.bucket)["Contents"]
    assert {each["Key"].partition("/")[0] for each in found} == {"lokki"}


def left(project: Project) -> list[str]:
    """Return all that there is of a flow, in any service."""
    client, name = project.account.client, project.stack
    return [
        *functions(project),
        *(
            each["logGroupName"]
            for each in client("logs").describe_log_groups()["logGroups"]
            if name in each["logGroupName"]
        ),
        *(each["RoleName"] for each in client("iam").list_roles(MaxItems=1000)["Roles"] if name in each["RoleName"]),
        *(
            each["name"]
            for each in client("stepfunctions").list_state_machines()["stateMachines"]
            if each["name"] == name
        ),
        *(each["Key"] for each in client("s3").list_objects_v2(Bucket=project.bucket).get("Contents", [])),
        *(
            each["StackName"]
            for each in client("cloudformation").describe_stacks()["Stacks"]
            if each["StackName"] == name
        ),
    ]


# --- what stands in the way ---


def test_a_deployment_that_fails_is_undone_and_says_what_failed_first(project: Project) -> None:
    # Somebody takes a package away after it was uploaded: CloudFormation finds it missing.
    project.run("build")
    key = next(iter(json.loads((project.folder / "lokki-build/build.json").read_text())["packages"].values()))["key"]
    s3 = project.account.client("s3")
    project.account.before("ExecuteChangeSet", lambda: s3.delete_object(Bucket=project.bucket, Key=key))
    ran = project.run("deploy", "--yes")
    assert ran.code == 1
    assert told(ran)[-1].startswith("error: ")


@pytest.mark.parametrize(
    ("action", "code", "message", "line"),
    [
        ("GetCallerIdentity", "ExpiredToken", "The security token included in the request is expired", "expired"),
        (
            "CreateChangeSet",
            "AccessDenied",
            "User: arn:aws:iam::1:user/anna is not authorized to perform: x:Y",
            "denied",
        ),
    ],
)
def test_what_aws_refuses_is_one_line(project: Project, action: str, code: str, message: str, line: str) -> None:
    project.account.refuse(action, code, message)
    ran = project.run("deploy", "--yes")
    assert ran.code == 1


def test_throttled_calls_are_made_again(project: Project) -> None:
    project.account.refuse("CreateChangeSet", "Throttling", "Rate exceeded", times=2)
    ran = project.run("deploy", "--yes")
    assert ran.code == 0, ran.err
