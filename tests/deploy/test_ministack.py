"""A third opinion: flows deployed to MiniStack, which others wrote, by the commands that a user types.

Its CloudFormation, Lambda, Step Functions, S3, IAM and Logs are an account of AWS's behaviour that owes nothing to moto
or to the emulator. What it lacks is added by tests/aws/ministack_program.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import boto3
import pytest
from aws.ministack_server import ministack
from support.command import Ran, command
from support.definitions import definition_values, filled
from support.deployed_project import CACHE
from support.graph_plans import GRAPHS, compiled
from support.state_walker import Walker

from lokki.builder.state_machine import state_machine_of

pytestmark = pytest.mark.slow

BIRDS = """
from dataclasses import dataclass

from lokki import flow, main, step


@dataclass
class Bird:
    name: str
    loudness: int


@step
def get_birds(names: list[str]) -> list[str]:
    return names


@step
def flap_bird(bird: str) -> Bird:
    print(f"flapping {bird}")
    return Bird(f"flappy {bird}", len(bird))


@step
def join_birds(birds: list[Bird]) -> str:
    return ", ".join(f"{bird.name} {bird.loudness}" for bird in birds)


@flow
def birds(names: list[str] = ["goose", "duck", "seagull"]):
    return get_birds(names).map(flap_bird).agg(join_birds)


if __name__ == "__main__":
    main(birds)
"""

BATCHES = """
from lokki import flow, main, step


@step
def numbers(count: int) -> list[int]:
    return list(range(count))


@step
def double(number: int) -> int:
    if number == 3:
        raise ValueError("no three")
    return number * 2


@step
def large(number: int) -> bytes:
    return bytes([number]) * 20_000


@step
def total(results: list[bytes]) -> int:
    return sum(len(each) + each[0] for each in results)


@flow
def batches(count: int = 12):
    return numbers(count).map(double, batch=4, tolerate=0.25).next(large).agg(total)


if __name__ == "__main__":
    main(batches)
"""

LINE = """
from datetime import date, timedelta

from lokki import flow, main, step


@step
def start(day: date) -> dict[str, object]:
    return {"day": day, "text": "größe"}


@step
def later(found: dict[str, object], days: int) -> str:
    return f"{found['text']} {found['day'] + timedelta(days=days)}"


@flow
def line(day: date = date(2026, 11, 27), days: int = 3):
    return start(day).next(later(days=days))


if __name__ == "__main__":
    main(line)
"""


@dataclass(frozen=True)
class Deployment:
    """A flow in a folder, and the account that it is deployed to."""

    folder: Path
    environ: Mapping[str, str]

    def run(self, *arguments: str, code: int = 0) -> Ran:
        """Run a command of the flow."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "LOKKI_"))}
        own = {"HOME": str(self.folder), "XDG_CACHE_HOME": CACHE, "COLUMNS": "120", "AWS_EC2_METADATA_DISABLED": "true"}
        done = subprocess.run(
            command(("flow.py", *arguments)),
            cwd=self.folder,
            env={**kept, **own, **self.environ},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == code, done.stderr
        return Ran(done.returncode, done.stdout, done.stderr)

    def client(self, service: str) -> Any:
        keys = {"aws_access_key_id": self.environ["AWS_ACCESS_KEY_ID"], "aws_secret_access_key": "test"}
        make: Any = boto3.Session(region_name=self.environ["AWS_REGION"], **keys).client
        return make(service, endpoint_url=self.environ["AWS_ENDPOINT_URL"])

    def left(self, name: str) -> list[str]:
        """Return what there is of the flow in the account, but for what a deleted stack retains."""
        functions = self.client("lambda").list_functions()["Functions"]
        machines = self.client("stepfunctions").list_state_machines()["stateMachines"]
        roles = self.client("iam").list_roles()["Roles"]
        stacks = self.client("cloudformation").list_stacks()["StackSummaries"]
        living = {(name, each["StackStatus"]) for each in stacks} - {(name, "DELETE_COMPLETE")}
        return [
            *(each["FunctionName"] for each in functions if each["FunctionName"].startswith(f"{name}-")),
            *(each["name"] for each in machines if each["name"] == name),
            *(each["RoleName"] for each in roles if name in each["RoleName"]),
            *(each["StackName"] for each in stacks if (each["StackName"], each["StackStatus"]) in living),
        ]  # fmt: skip


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with ministack(tmp_path_factory.mktemp("ministack")) as environ:
        yield environ


@pytest.mark.parametrize(
    ("text", "name", "parameters", "result", "other"),
    [
        (BIRDS, "birds", [], "flappy goose 5, flappy duck 4, flappy seagull 7", ["--names", "owl"]),
        (BATCHES, "batches", [], str(20_000 * 11 + sum(range(12)) * 2 - 6), ["--count", "2"]),
        (LINE, "line", ["--days", "4"], "größe 2026-12-01", ["--days", "5"]),
    ],
    ids=["map", "batches", "line"],
)
def test_a_flow_is_deployed_run_shown_deployed_again_and_destroyed(
    account: dict[str, str], tmp_path: Path, text: str, name: str, parameters: list[str], result: str, other: list[str]
) -> None:
    (tmp_path / "flow.py").write_text(text)
    bucket = f"ministack-{name}"
    (tmp_path / "lokki.yml").write_text(json.dumps({"artifact_bucket": bucket}))
    flow = Deployment(tmp_path, account)
    flow.client("s3").create_bucket(Bucket=bucket)

    flow.run("deploy", "--yes")
    assert f"{name}" in flow.left(name)
    assert flow.run("invoke", "--run-id", "first", *parameters, "--quiet").out == f"{result}\n"
    shown = flow.run("show").out
    assert [line.split()[:2] for line in shown.splitlines()][1] == ["first", "succeeded"]
    assert "first" in flow.run("show", "first").out

    again = flow.run("deploy", "--yes")
    assert "nothing" in again.err.lower(), again.err
    assert flow.run("invoke", "--run-id", "second", *other, "--quiet").out != f"{result}\n"

    flow.run("destroy", "--yes")
    assert flow.left(name) == []


# --- choices and variables, by its interpreter ---

REPLIES = """
import json
import zlib


def lambda_handler(event, context=None):
    if event.get("bind"):
        return {"params": {"p": "x", "q": 1, **event["params"]}}
    text = json.dumps([event["call"], *(event.get(name) for name in ("input", "values", "params"))], sort_keys=True)
    reply = {"result": text, "case": zlib.crc32(text.encode()) % 2}
    return {**reply, "params": {"p": "x", "q": 1, **event["params"]}} if event["call"] == "load" else reply
"""
"""A function that tells what it got, and chooses by that."""


def finished(states: Any, execution: str) -> dict[str, Any]:
    """Wait for an execution."""
    while (described := states.describe_execution(executionArn=execution))["status"] == "RUNNING":
        time.sleep(0.1)
    return dict(described)


def test_choices_and_variables_do_there_what_they_do_in_the_small_interpreter(
    account: dict[str, str], tmp_path: Path
) -> None:
    """Its Parallel state knows no JSONata, and so neither Assign nor Output."""
    deployment = Deployment(tmp_path, account)
    functions, states = deployment.client("lambda"), deployment.client("stepfunctions")
    content = BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("replies.py", REPLIES)
    arn = functions.create_function(
        FunctionName="replies",
        Runtime="python3.13",
        Role="arn:aws:iam::123456789012:role/any",
        Handler="replies.lambda_handler",
        Code={"ZipFile": content.getvalue()},
    )["FunctionArn"]
    here: dict[str, Any] = {}
    exec(REPLIES, here)
    paths = set()
    for name in ("switch", "tuple"):
        whole = compiled(GRAPHS[name])
        texts = definition_values(whole, "bucket")
        values = {place: arn if place.endswith("FunctionArn") else text for place, text in texts.items()}
        definition = filled(state_machine_of(whole), values)
        machine = states.create_state_machine(
            name=name, definition=json.dumps(definition), roleArn="arn:aws:iam::123456789012:role/any"
        )["stateMachineArn"]
        for value in "uvwxyz":
            given = json.dumps({"p": value})
            execution = states.start_execution(stateMachineArn=machine, name=f"run-{value}", input=given)
            described = finished(states, execution["executionArn"])
            walker = Walker(lambda function, event: here["lambda_handler"](event), {}, f"run-{value}", {"p": value})
            expected = walker.run(cast("dict[str, Any]", definition))
            history = states.get_execution_history(executionArn=execution["executionArn"])["events"]
            assert described["status"] == "SUCCEEDED", history[-3:]
            assert json.loads(described["output"]) == expected
            paths.add(tuple(walker.visited))
    assert len(paths) == 3  # both cases of the switch, and the line
