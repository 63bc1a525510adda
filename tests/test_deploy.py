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
            env={**kept, "HOME": str(self.folder), **self.account.environ, **env},
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
    project.settings(lambda_defaults={"memory": 1024})
    project.settings()
    ran = project.run("deploy", "--yes")
    assert ran.code == 0, ran.err
    changed = [line for line in told(ran) if line.startswith("  ") and "created" not in line]
    assert "  upload 3 packages" in "\n".join(told(ran))  # the module of all steps is the flow's file
    assert {step for step, code in functions(project).items() if before[step] != code} <= set(before)
    assert changed
    assert project.execute() == "happy goose, happy duck"
