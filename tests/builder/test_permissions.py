"""What a run calls on AWS, and what the roles in its template allow: compared both ways."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import boto3
import pytest
import yaml
from aws.policies import ACCOUNT, REGION, Call, Roles, S3Request, Use, allowing
from build_flows import BUILDS

from lokki.builder.builder import Builder
from lokki.config import LokkiConfig
from lokki.emulator.run import Emulation, EmulationOptions
from lokki.emulator.s3.client import STATES
from lokki.emulator.states.map_state import Map
from lokki.emulator.states.parallel import Parallel
from lokki.emulator.states.state import States
from lokki.emulator.states.task import Task
from lokki.errors import StoreError
from lokki.loading import load_flow

FUNCTIONS, MACHINE = ROLES = ("LambdaExecutionRole", "StepFunctionsExecutionRole")
BUCKET = "my-artifacts"

FLOWS = """
import os
import random
from collections.abc import Iterator

from lokki import each, flow, step


def noise(size: int) -> bytes:
    return random.Random(0).randbytes(size)


@step
def numbers(count: int, folder: str) -> Iterator[int]:
    yield from range(count)
    if not os.path.exists(folder + "/mended"):
        for _ in range(4):
            yield noise(6 * 2**20)
        raise ValueError("broken")


@step
def pad(number: int) -> str:
    return str(number) + 3900 * "x"


@step
def measure(texts: list[str]) -> list[int]:
    return [len(text) for text in texts][:3]


@step(timeout=600)
def pick(number: int, folder: str) -> bytes:
    if not os.path.exists(folder + "/picked"):
        raise ValueError("not yet")
    return noise(20_000)


@step
def total(parts: list[bytes], folder: str, others: tuple[int, ...] = ()) -> int:
    if not os.path.exists(folder + "/ready"):
        raise ValueError("not yet")
    return sum(map(len, parts)) + sum(others)


@flow
def survey(folder: str, count: int = 2600):
    return numbers(count, folder).map(pad, batch=50).agg(measure).map(pick(folder=folder)).agg(total(folder=folder))


@step
def collect() -> bytes:
    return noise(24 * 2**20)


@step
def look(found: bytes, folder: str) -> int:
    if not os.path.exists(folder + "/ready"):
        raise ValueError("not yet")
    return len(found)


@flow
def chain(folder: str):
    return collect().next(look(folder=folder))


@step
def is_long(sizes: list[int]) -> bool:
    return len(sizes) > 2


@step
def first(sizes: list[int]) -> list[bytes]:
    return [noise(size) for size in sizes]


@step
def spell(word: str, sizes: list[int]) -> bytes:
    return word.encode() + noise(sum(sizes))


@step
def length(part: bytes) -> int:
    return len(part)


@flow
def graph(folder: str, count: int = 2600, words: list[str] = ["goose", "duck"]):
    sizes = numbers(count, folder).map(pad, batch=50).agg(measure)
    chosen = sizes.switch(is_long, {True: first, False: first}).map(length).agg(measured)
    spelled = each(words).map(spell(sizes=sizes.result)).next(length).agg(measured)
    return sizes.map(pick(folder=folder)).agg(total(folder=folder, others=(chosen.result, spelled.result)))


@step
def measured(sizes: list[int]) -> int:
    return sum(sizes)
"""


@dataclass(frozen=True)
class Unused:
    """What a statement allows and no emulated run calls. docs/verification.md says why it is allowed."""

    role: str
    sid: str
    actions: str
    resource: str

    def uses(self, flow: str) -> set[Use]:
        resource = self.resource.replace("<flow>", flow)
        return {(self.sid, action, resource) for action in self.actions.split()}


CHILDREN = f"arn:aws:states:{REGION}:{ACCOUNT}:execution:<flow>"
TRACES = "xray:PutTelemetryRecords xray:PutTraceSegments"
EXPLAINED = (
    Unused(FUNCTIONS, "Trace", TRACES, "*"),
    Unused(MACHINE, "Trace", f"{TRACES} xray:GetSamplingRules xray:GetSamplingTargets", "*"),
    Unused(
        MACHINE,
        "DeliverLogs",
        "logs:CreateLogDelivery logs:DeleteLogDelivery logs:DescribeLogGroups logs:DescribeResourcePolicies "
        "logs:GetLogDelivery logs:ListLogDeliveries logs:PutResourcePolicy logs:UpdateLogDelivery",
        "*",
    ),
)
WITHOUT_MAPS = (Unused(FUNCTIONS, "UseArtifacts", "s3:AbortMultipartUpload", f"arn:aws:s3:::{BUCKET}/lokki/<flow>/*"),)
WITH_MAPS = (
    Unused(MACHINE, "FollowItems", "states:DescribeExecution states:StopExecution", f"{CHILDREN}/*"),
    Unused(
        MACHINE,
        "FollowItems",
        "states:DescribeExecution states:StopExecution states:RedriveExecution",
        f"{CHILDREN}:*",
    ),
    Unused(
        MACHINE,
        "WriteResults",
        "s3:AbortMultipartUpload s3:GetObject s3:ListMultipartUploadParts",
        f"arn:aws:s3:::{BUCKET}/lokki/<flow>/*/map_results/*",
    ),
)


@dataclass(frozen=True)
class Recorded:
    """A flow that was built and run with every failure that makes calls of its own, and the calls that it made."""

    flow: str
    roles: Roles
    calls: frozenset[Call]
    multipart: frozenset[str]
    """Roles that wrote objects in parts."""

    def of(self, role: str) -> list[Call]:
        return sorted((call for call in self.calls if call.role == role), key=str)


def build(folder: Path, name: str) -> Path:
    sys.modules.pop("permission_flows", None)
    graph = load_flow(f"{folder / 'permission_flows.py'}:{name}")()
    out = folder / "builds" / name
    Builder(lambda line: None).build(graph, LokkiConfig(artifact_bucket=BUCKET, build_dir=str(out)))
    return out


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("permissions")
    (folder / "permission_flows.py").write_text(FLOWS)
    return folder


def record(bundle: Path, run: Path, tries: list[tuple[str, str]], damage: str) -> Recorded:
    """Run a flow, and redrive it after each of the failures that are expected.

    ``tries``: the error that a try ends with, and the file whose making heals it; ``damage``: how the key of an object
    ends that somebody removes before the last redrive.
    """
    run.mkdir()
    with Emulation(bundle, run, lambda event: None, EmulationOptions(workers=2, shared=[run])) as emulation:
        execution = emulation.start("recorded", {"folder": str(run)})
        outcome = execution.run()
        for number, (error, heals) in enumerate(tries):
            assert outcome.error == error, outcome
            (run / heals).touch()
            if number == len(tries) - 1:
                remove(emulation, damage)
            outcome = execution.redrive()
        assert (outcome.status, outcome.error) == ("FAILED", StoreError.__name__), outcome
        requests = list(s3_requests(emulation))
        states = function_states(emulation.built.machine.states)
    roles = Roles(yaml.safe_load((bundle / "template.yaml").read_bytes()))
    roles_of = {each: MACHINE if each.actor == STATES else FUNCTIONS for each in requests}
    calls = [call for each, role in roles_of.items() for call in each.calls(role)]
    multipart = frozenset(role for each, role in roles_of.items() if "partNumber" in each.query)
    calls += machine_calls(run / "history.jsonl", states, roles)
    return Recorded(bundle.name, roles, frozenset(calls), multipart)


def client(emulation: Emulation) -> Any:
    names = {
        "id": "AWS_ACCESS_KEY_ID",
        "key": "AWS_SECRET_ACCESS_KEY",
        "token": "AWS_SESSION_TOKEN",
        "region": "AWS_REGION",
    }
    variables = {short: emulation.s3.variables("observer")[name] for short, name in names.items()}
    return boto3.client(
        "s3",
        endpoint_url=emulation.s3.endpoint,
        aws_access_key_id=variables["id"],
        aws_secret_access_key=variables["key"],
        aws_session_token=variables["token"],
        region_name=variables["region"],
    )


def keys(emulation: Emulation) -> set[str]:
    pages = client(emulation).get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
    return {each["Key"] for page in pages for each in page.get("Contents", [])}


def remove(emulation: Emulation, ending: str) -> None:
    [key] = [each for each in keys(emulation) if each.endswith(ending)]
    client(emulation).delete_object(Bucket=BUCKET, Key=key)


def s3_requests(emulation: Emulation) -> Iterator[S3Request]:
    """Yield what S3 was asked for by functions and state machine. Nobody but `remove` removes objects."""
    present = keys(emulation)
    for actor, method, path, query, _ in emulation.s3.log():
        _, bucket, *rest = path.split("/", 2)
        key = rest[0] if rest else ""
        if actor not in ("observer", "caller"):
            yield S3Request(actor, method, bucket, key, query, missing=key not in present)


def function_states(states: States) -> dict[str, str]:
    """Return the ARN of the function that each task invokes, by the task's name."""
    found: dict[str, str] = {}
    for state in states.by_name.values():
        if isinstance(state, Task):
            found[state.name] = str(state.function)
        elif isinstance(state, Map):
            found |= function_states(state.processor)
        elif isinstance(state, Parallel):
            for branch in state.branches:
                found |= function_states(branch)
    return found


def machine_calls(history: Path, states: dict[str, str], roles: Roles) -> Iterator[Call]:
    """Yield what the state machine called, as the executions' history tells, and what Lambda logged for functions."""
    machine = roles.arn("StateMachine")
    for line in history.read_text().splitlines():
        event = json.loads(line)
        child = "child" in event
        match event["type"]:
            case "TaskScheduled":
                function = states[event["state"]]
                yield Call(MACHINE, "lambda:InvokeFunction", function)
                stream = f"{roles.log_group(function)}:log-stream:2026/11/23/[$LATEST]0123"
                yield Call(FUNCTIONS, "logs:CreateLogStream", stream)
                yield Call(FUNCTIONS, "logs:PutLogEvents", stream)
            case "ExecutionStarted" if child:
                yield Call(MACHINE, "states:StartExecution", machine)
            case "ExecutionRedriven" if child:
                yield Call(MACHINE, "states:RedriveExecution", event["execution"])


@pytest.fixture(scope="module")
def survey(folder: Path) -> Recorded:
    tries = [
        ("ValueError", "mended"),
        ("States.ExceedToleratedFailureThreshold", "picked"),
        ("ValueError", "ready"),
    ]
    return record(build(folder, "survey"), folder / "survey", tries, "/pick/1/output.pkl.gz")


@pytest.fixture(scope="module")
def chain(folder: Path) -> Recorded:
    return record(build(folder, "chain"), folder / "chain", [("ValueError", "ready")], "/collect/output.pkl.gz")


@pytest.fixture(scope="module")
def graph(folder: Path) -> Recorded:
    tries = [
        ("ValueError", "mended"),
        ("States.ExceedToleratedFailureThreshold", "picked"),
        ("ValueError", "ready"),
    ]
    return record(build(folder, "graph"), folder / "graph", tries, "/pick/1/output.pkl.gz")


@pytest.fixture(params=["survey", "chain", pytest.param("graph", marks=pytest.mark.slow)])
def recorded(request: pytest.FixtureRequest) -> Recorded:
    return cast("Recorded", request.getfixturevalue(request.param))


# --- both ways ---


def test_every_call_of_a_run_is_allowed(recorded: Recorded) -> None:
    denied = [
        call for role in ROLES for call in recorded.of(role) if not allowing(recorded.roles.statements(role), call)
    ]
    assert denied == []


@pytest.mark.parametrize("role", ROLES)
def test_all_that_is_allowed_is_called_or_explained(recorded: Recorded, role: str) -> None:
    statements = recorded.roles.statements(role)
    allowed = set[Use]().union(*(statement.all_uses for statement in statements))
    used = set[Use]().union(*(allowing(statements, call) for call in recorded.of(role)))
    explained = EXPLAINED + (WITHOUT_MAPS if recorded.flow == "chain" else WITH_MAPS)
    assert allowed - used == set[Use]().union(*(each.uses(recorded.flow) for each in explained if each.role == role))


def test_the_runs_made_every_kind_of_call(survey: Recorded, chain: Recorded) -> None:
    assert {(call.role, call.action) for call in survey.calls} == {
        (FUNCTIONS, "logs:CreateLogStream"),
        (FUNCTIONS, "logs:PutLogEvents"),
        (FUNCTIONS, "s3:AbortMultipartUpload"),
        (FUNCTIONS, "s3:GetObject"),
        (FUNCTIONS, "s3:ListBucket"),
        (FUNCTIONS, "s3:PutObject"),
        (MACHINE, "lambda:InvokeFunction"),
        (MACHINE, "s3:GetObject"),
        (MACHINE, "s3:PutObject"),
        (MACHINE, "states:RedriveExecution"),
        (MACHINE, "states:StartExecution"),
    }
    assert {call.action for call in chain.of(FUNCTIONS) if call.action.startswith("s3")} == {
        "s3:GetObject", "s3:ListBucket", "s3:PutObject",
    }  # fmt: skip
    assert {call.action for call in chain.of(MACHINE)} == {"lambda:InvokeFunction"}
    assert MACHINE in survey.multipart
    assert chain.multipart == {FUNCTIONS}


@pytest.mark.parametrize("role", ROLES)
def test_without_any_statement_that_is_used_a_call_would_be_denied(recorded: Recorded, role: str) -> None:
    statements = recorded.roles.statements(role)
    for left_out in statements:
        rest = [each for each in statements if each is not left_out]
        used = any(list(left_out.uses(call)) for call in recorded.of(role))
        assert used == any(not allowing(rest, call) for call in recorded.of(role)), left_out.sid


# --- neighbours ---


def neighbours(call: Call, flow: str) -> Iterator[Call]:
    """Yield the same call on what belongs to others: another flow, bucket, account or region, or on everything."""
    for own, other in (
        (f"/{flow}", f"/{flow}s"),
        (f":{flow}", f":{flow}s"),
        (f":{flow}", ":other"),
        (BUCKET, f"{BUCKET}-2"),
        (ACCOUNT, "999999999999"),
        (REGION, "eu-north-1"),
    ):
        context = tuple((key, value.replace(own, other)) for key, value in call.context)
        changed = replace(call, resource=call.resource.replace(own, other), context=context)
        if changed != call:
            yield changed
    if call.context:
        yield replace(call, context=())
        yield replace(call, context=(("s3:prefix", ""),))
        yield replace(call, context=(("s3:prefix", "lokki/"),))
    if call.action == "lambda:InvokeFunction":
        yield replace(call, resource=call.resource.replace(":1", "-2:1"))
        yield replace(call, resource=call.resource.removesuffix(":1"))


@pytest.mark.parametrize("role", ROLES)
def test_the_same_calls_on_what_belongs_to_others_are_denied(recorded: Recorded, role: str) -> None:
    statements = recorded.roles.statements(role)
    tried = [each for call in recorded.of(role) for each in neighbours(call, recorded.flow)]
    assert len(tried) > 2 * len(recorded.of(role))
    assert [each for each in tried if allowing(statements, each)] == []


OWN = f"arn:aws:s3:::{BUCKET}/lokki/survey"
PACKAGES = f"arn:aws:s3:::{BUCKET}/lokki-packages/survey"


@pytest.mark.parametrize(
    ("role", "action", "resource"),
    [
        (FUNCTIONS, "s3:DeleteObject", f"{OWN}/recorded/pick/0/output.pkl.gz"),
        (FUNCTIONS, "s3:PutObjectAcl", f"{OWN}/recorded/pick/0/output.pkl.gz"),
        (FUNCTIONS, "lambda:InvokeFunction", f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:survey-pick"),
        (FUNCTIONS, "states:StartExecution", f"arn:aws:states:{REGION}:{ACCOUNT}:stateMachine:survey"),
        (FUNCTIONS, "logs:PutLogEvents", f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:/aws/states/survey:log-stream:1"),
        (MACHINE, "s3:GetObject", f"{OWN}/recorded/pick/0/output.pkl.gz"),
        (MACHINE, "s3:GetObject", f"{PACKAGES}/pick-0123.zip"),
        (FUNCTIONS, "s3:GetObject", f"{PACKAGES}/pick-0123.zip"),
        (FUNCTIONS, "s3:PutObject", f"{PACKAGES}/pick-0123.zip"),
        (MACHINE, "s3:PutObject", f"{OWN}/recorded/numbers/map_manifest.json"),
        (MACHINE, "s3:DeleteObject", f"{OWN}/recorded/numbers/map_results/1/manifest.json"),
        (MACHINE, "s3:ListBucket", f"arn:aws:s3:::{BUCKET}"),
        (MACHINE, "lambda:UpdateFunctionCode", f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:survey-pick"),
        (MACHINE, "states:DeleteStateMachine", f"arn:aws:states:{REGION}:{ACCOUNT}:stateMachine:survey"),
    ],
)
def test_what_no_run_does_is_denied(survey: Recorded, role: str, action: str, resource: str) -> None:
    assert not allowing(survey.roles.statements(role), Call(role, action, resource, (("s3:prefix", "lokki/survey/"),)))


def test_a_flow_without_maps_has_no_permissions_for_them(chain: Recorded, survey: Recorded) -> None:
    assert [each.sid for each in chain.roles.statements(MACHINE)] == ["InvokeSteps", "DeliverLogs", "Trace"]
    assert [each.sid for each in survey.roles.statements(MACHINE)] == [
        "InvokeSteps", "DeliverLogs", "Trace", "StartItems", "FollowItems", "ReadItems", "WriteResults",
    ]  # fmt: skip


def test_a_stack_has_no_other_roles(recorded: Recorded) -> None:
    assert recorded.roles.names == set(ROLES)


def test_a_schedule_may_start_runs_of_its_flow_and_nothing_else() -> None:
    roles = Roles(BUILDS["parameters-and-schedule"].template())
    [statement] = roles.statements("ScheduleRole")
    machine = f"arn:aws:states:{REGION}:{ACCOUNT}:stateMachine:bird_reports"
    assert statement.all_uses == {("StartRuns", "states:StartExecution", machine)}
