"""A flow in a folder that is deployed to the account on loopback by the commands, as a user types them."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from aws.loopback_aws import LoopbackAws

from lokki.cli.main import console
from support.command import Ran, command

CACHE = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
"""What was installed for other tests' packages need not be installed again."""

_numbers = count(1)

BIRDS = """
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

HONK = """
from lokki import flow, main, step

@step
def honk(times: int) -> str:
    return "honk " * times

@flow
def NAME(times: int = 2):
    return honk(times)

if __name__ == "__main__":
    main(NAME)
"""


@dataclass(frozen=True)
class Project:
    """A flow in a folder. ``name``: its own, of which there is no other in the account; ``bucket``: one of its own."""

    folder: Path
    account: LoopbackAws
    name: str
    bucket: str

    @property
    def stack(self) -> str:
        """The name of its stack, and of the flow."""
        return self.name.replace("_", "-")

    @property
    def machine(self) -> str:
        """The ARN of its state machine."""
        return f"arn:aws:states:us-east-1:123456789012:stateMachine:{self.stack}"

    def edit(self, old: str, new: str) -> None:
        """Change the flow's file."""
        file = self.folder / "flow.py"
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))

    def settings(self, **settings: object) -> None:
        """Write lokki.yml."""
        lines = [f"{name}: {json.dumps(value)}" for name, value in {"artifact_bucket": self.bucket, **settings}.items()]
        (self.folder / "lokki.yml").write_text("\n".join(lines) + "\n")

    def environment(self, **changes: str | None) -> dict[str, str]:
        """Return an environment in which nothing of this machine's user counts; None leaves a variable out."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "LOKKI_"))}
        home = {
            "HOME": str(self.folder),
            "XDG_CACHE_HOME": CACHE,
            "COLUMNS": "120",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        own = {"AWS_ACCESS_KEY_ID": self.stack}  # so that its calls can be told from others
        found: dict[str, str | None] = {**kept, **home, **self.account.environ, **own, **changes}
        return {name: value for name, value in found.items() if value is not None}

    def run(self, *arguments: str, answer: str | None = None, **env: str | None) -> Ran:
        """Run a command of the flow; ``answer``: typed on a terminal."""
        given: dict[str, Any] = {"stdin": subprocess.DEVNULL}
        ours = -1
        if answer is not None:
            ours, theirs = pty.openpty()
            os.write(ours, answer.encode())
            given = {"stdin": theirs}
        done = subprocess.run(
            command(("flow.py", *arguments)),
            cwd=self.folder,
            env=self.environment(**env),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            **given,
        )
        if ours >= 0:
            os.close(ours)
            os.close(theirs)
        return Ran(done.returncode, done.stdout, done.stderr)

    def here(self, monkeypatch: pytest.MonkeyPatch, *arguments: str, **env: str | None) -> Ran:
        """Run a command of the flow in this process, which is faster: ``lokki deploy flow.py``."""
        command_name, *options = arguments
        out, err = StringIO(), StringIO()
        sys.modules.pop("flow", None)  # it may have been edited
        with monkeypatch.context() as changed, redirect_stdout(out), redirect_stderr(err):
            environment = self.environment(**env)
            for name in os.environ.keys() - environment.keys():
                changed.delenv(name)
            for name, value in environment.items():
                changed.setenv(name, value)
            changed.chdir(self.folder)
            with pytest.raises(SystemExit) as ended:
                console([command_name, "flow.py", *options])
        return Ran(int(ended.value.code or 0), out.getvalue(), err.getvalue())

    def python(self, *arguments: str) -> Ran:
        """Run a program of the folder."""
        done = subprocess.run(
            command(arguments), cwd=self.folder, env=self.environment(), capture_output=True, text=True, check=False
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    def execute(self, target: str = "live") -> str:
        """Start what is deployed, wait for its end and return the last step's output."""
        states = self.account.client("stepfunctions")
        started = states.start_execution(stateMachineArn=f"{self.machine}:{target}", input="{}")
        self.account.wait()
        found = states.describe_execution(executionArn=started["executionArn"])
        assert found["status"] == "SUCCEEDED", found
        return str(json.loads(found["output"])["result"])

    def code(self) -> dict[str, str]:
        """Return the hash of the code of each function, by step."""
        found = self.account.client("lambda").list_functions(MaxItems=1000)["Functions"]
        prefix = f"{self.stack}-"
        return {
            each["FunctionName"].removeprefix(prefix): each["CodeSha256"]
            for each in found
            if each["FunctionName"].startswith(prefix)
        }

    def left(self) -> list[str]:
        """Return all that there is of the flow, in any service."""
        client, name = self.account.client, self.stack
        groups = client("logs").describe_log_groups()["logGroups"]
        roles = client("iam").list_roles(MaxItems=1000)["Roles"]
        machines = client("stepfunctions").list_state_machines()["stateMachines"]
        objects = client("s3").list_object_versions(Bucket=self.bucket)
        stacks = client("cloudformation").describe_stacks()["Stacks"]
        return [
            *self.code(),
            *(each["logGroupName"] for each in groups if name in each["logGroupName"]),
            *(each["RoleName"] for each in roles if name in each["RoleName"]),
            *(each["name"] for each in machines if each["name"] == name),
            *(each["Key"] for kind in ("Versions", "DeleteMarkers") for each in objects.get(kind, [])),
            *(each["StackName"] for each in stacks if each["StackName"] == name),
        ]


def new_project(folder: Path, account: LoopbackAws, text: str) -> Project:
    """Write a flow, in which NAME stands for its name, and its settings."""
    made = Project(folder, account, f"birds_{next(_numbers)}", account.new_bucket())
    (folder / "flow.py").write_text(text.replace("NAME", made.name))
    made.settings()
    return made


def told(ran: Ran) -> list[str]:
    """Return what a command said behind the report of its build, without what differs from run to run."""
    text = re.sub(r"\d+(\.\d+)? [KM]iB", "N MiB", ran.err)
    text = re.sub(r"\d+ objects? \(\d+(\.\d+)? B\)", "N objects (N MiB)", text)
    text = re.sub(r"\d+ objects? \(N MiB\)", "N objects (N MiB)", text)
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "TIME", text)
    lines = text.splitlines()
    first = next((number for number, line in enumerate(lines) if " → stack " in line), 0)
    return lines[first:]
