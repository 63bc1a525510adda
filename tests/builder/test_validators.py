"""What independent checkers say of the golden files; each is shown broken input too, so that it is seen to refuse it.

cfn-lint (PyPI), checkov (PyPI, in an environment of its own), asl-validator and jsonata (npm).
"""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import cast

import pytest
import yaml
from build_flows import BUILDS
from jsonata_samples import expressions, samples
from support.definitions import definition_values, filled, filled_definition
from support.graph_plans import GRAPHS, compiled, random_plan

from lokki.base.values import Json
from lokki.builder.cloudformation import template_of
from lokki.builder.compiled import Compiled
from lokki.builder.package_types import ZipCode
from lokki.builder.state_machine import state_machine_of
from lokki.builder.template_text import dump_template
from lokki.config import LokkiConfig
from lokki.emulator.states.expressions import Expressions, Scope

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"
CFN_LINT = str(Path(sys.executable).with_name("cfn-lint"))
TEMPLATES = sorted(GOLDEN.glob("*/template.yaml"))
DEFINITIONS = sorted(GOLDEN.glob("*/statemachine.json"))

type Definition = dict[str, Json]


def run(*command: str, cwd: Path = ROOT) -> str:
    """Run a checker and return what it printed; its exit code says only that it found something."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    return done.stdout


# --- cfn-lint ---


def lint(*templates: Path) -> set[tuple[str, str]]:
    """Return the findings of cfn-lint of any level, for all regions, as pairs of folder and rule.

    I4010 is not asked for: it wants a block of metadata about each resource for language models to read.
    """
    options = ["--format", "json", "--regions", "ALL_REGIONS", "--include-checks", "I", "--include-experimental"]
    found = json.loads(run(CFN_LINT, *options, "-i", "I4010", "-t", *map(str, templates)))
    return {(Path(each["Filename"]).parent.name, each["Rule"]["Id"]) for each in found}


@pytest.mark.slow
def test_cfn_lint_finds_nothing_in_any_template() -> None:
    assert len(TEMPLATES) == len(BUILDS)
    # Some regions have no connections, which only webhooks need.
    assert lint(*TEMPLATES) == {("notifications", "E3006")}


def broken_templates() -> dict[str, dict[str, Json]]:
    """Return templates with one mistake each, by the rule that must find it."""

    def changed(change: Callable[[dict[str, Json]], object]) -> dict[str, Json]:
        template = BUILDS["birds"].template()
        change(template["Resources"])
        return template

    return {
        "E3002": changed(lambda made: made["GetBirdsFunction"]["Properties"].update(Cmd="handler.lambda_handler")),
        "E3003": changed(lambda made: made["StateMachine"]["Properties"].pop("RoleArn")),
        "E3034": changed(lambda made: made["FlapBirdFunction"]["Properties"].update(MemorySize=64)),
        "E1010": changed(lambda made: made.pop("StateMachineLogs")),
        "E3030": changed(lambda made: made["JoinBirdsLogGroup"]["Properties"].update(RetentionInDays=31)),
        "E3601": changed(lambda made: made["StateMachine"]["Properties"].update(DefinitionString='{"States": {}}')),
    }


@pytest.mark.slow
def test_cfn_lint_finds_mistakes(tmp_path: Path) -> None:
    """The first is the peer's: Cmd among a function's properties."""
    paths = []
    for rule, template in broken_templates().items():
        path = tmp_path / rule / "template.yaml"
        path.parent.mkdir()
        path.write_text(yaml.safe_dump(template))
        paths.append(path)
    assert {(rule, rule) for rule in broken_templates()} <= lint(*paths)


# --- asl-validator and jsonata, from npm ---


@pytest.fixture(scope="session")
def npm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("npm")
    (folder / "package.json").write_text('{"private": true, "type": "module"}')
    # Step Functions has JSONata 2.0.6.
    subprocess.run(
        ["npm", "install", "--no-audit", "--no-fund", "asl-validator@4.0.0", "jsonata@2.0.6"],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    return folder


def node(folder: Path, program: str, *values: object) -> Json:
    """Run a program on values that it reads as ``given``; return what it prints as JSON."""
    (folder / "given.json").write_text(json.dumps(values))
    prelude = "import fs from 'fs'; const given = JSON.parse(fs.readFileSync('given.json'));\n"
    (folder / "program.js").write_text(prelude + program)
    return json.loads(run("node", "program.js", cwd=folder))


def validate(folder: Path, *definitions: Definition) -> list[bool]:
    program = """
        import validate from 'asl-validator';
        console.log(JSON.stringify(given.map(each => validate(each, {checkArn: true}).isValid)));
    """
    found = node(folder, program, *definitions)
    assert isinstance(found, list)
    return [verdict is True for verdict in found]


@pytest.mark.slow
def test_asl_validator_accepts_every_definition(npm: Path) -> None:
    definitions = [filled_definition(build.graph, build.config, "my-artifacts") for build in BUILDS.values()]
    assert validate(npm, *definitions) == [True] * len(DEFINITIONS)


def event_machines() -> list[Definition]:
    """Return the definitions of the state machines that are told of events, as CloudFormation fills them in."""
    found = []
    for build in BUILDS.values():
        for logical, resource in build.template()["Resources"].items():
            if resource["Type"] == "AWS::StepFunctions::StateMachine" and logical != "StateMachine":
                text = str(resource["Properties"]["DefinitionString"])
                for name in resource["Properties"]["DefinitionSubstitutions"]:
                    text = text.replace(f"${{{name}}}", _EVENT_VALUES.get(name, "https://sqs.example.com/1/x"))
                found.append(json.loads(text))
    return found


_EVENT_VALUES = {
    "CallWebhook": "arn:aws:states:::http:invoke",
    "PublishMessage": "arn:aws:states:::sns:publish",
    "SendMessage": "arn:aws:states:::sqs:sendMessage",
    "StartExecution": "arn:aws:states:::states:startExecution",
}


@pytest.mark.slow
def test_asl_validator_accepts_what_is_told_of_events(npm: Path) -> None:
    definitions = event_machines()
    assert definitions
    assert validate(npm, *definitions) == [True] * len(definitions)


def graph_definition(compiled: Compiled) -> Definition:
    return cast("Definition", filled(state_machine_of(compiled), definition_values(compiled, "my-artifacts")))


@pytest.mark.slow
def test_asl_validator_accepts_the_definition_of_every_graph(npm: Path) -> None:
    drawn = (random_plan(random.Random(seed)) for seed in range(30))
    # The validator takes a state named States for a level.
    plans = [*GRAPHS.values(), *(plan for plan in drawn if not any(each.id == "states" for each in plan.calls))]
    assert len(plans) > 10
    definitions = [graph_definition(compiled(plan, larger)) for plan in plans for larger in (False, True)]
    assert validate(npm, *definitions) == [True] * len(definitions)


def broken_graphs() -> dict[str, Definition]:
    """Return definitions of graphs with one mistake each."""

    def changed(change: Callable[[dict[str, Definition]], object]) -> Definition:
        definition = graph_definition(compiled(GRAPHS["branches-in-a-case"]))
        change(definition["States"])
        return definition

    def branch(states: dict[str, Definition]) -> Definition:
        return states["FastFork"]["Branches"][0]["States"]["Fast"]

    return {
        "a branch that goes on outside of it": changed(lambda states: branch(states).update(Next="Both", End=False)),
        "a branch that has no end": changed(lambda states: branch(states).pop("End")),
        "a branch without a start": changed(lambda states: states["FastFork"]["Branches"][0].pop("StartAt")),
        "a fork without branches": changed(lambda states: states["FastFork"].pop("Branches")),
        "a choice that leads nowhere": changed(lambda states: states["GradeSwitch"]["Choices"][0].update(Next="No")),
        "a choice without conditions": changed(lambda states: states["GradeSwitch"].pop("Choices")),
    }


@pytest.mark.slow
def test_asl_validator_refuses_broken_graphs(npm: Path) -> None:
    broken = broken_graphs()
    verdicts = dict(zip(broken, validate(npm, *broken.values()), strict=True))
    assert verdicts == dict.fromkeys(broken, False)


@pytest.mark.slow
def test_cfn_lint_finds_nothing_in_the_template_of_any_graph(tmp_path: Path) -> None:
    paths = []
    for name, plan in GRAPHS.items():
        whole = compiled(plan, larger=True, config=LokkiConfig(artifact_bucket="acme-artifacts"))
        packages = {step.name: ZipCode(f"lokki/graph/code/{step.name}-8e1c0a54f7d2.zip") for step in whole.steps}
        paths.append(tmp_path / name / "template.yaml")
        paths[-1].parent.mkdir()
        paths[-1].write_bytes(dump_template(template_of(whole, packages)))
    assert lint(*paths) == set()


def broken_definitions() -> dict[str, Definition]:
    """Return definitions with one mistake each."""

    def changed(change: Callable[[dict[str, Definition]], object]) -> Definition:
        build = BUILDS["two-maps"]
        definition = cast("Definition", filled_definition(build.graph, build.config, "my-artifacts"))
        change(definition["States"])
        return definition

    return {
        "a next state that is not there": changed(lambda made: made["Fetch"].update(Next="Nowhere")),
        "a task without a resource": changed(lambda made: made["Spread"].pop("Resource")),
        "an item processor without a start": changed(lambda made: made["FetchMap"]["ItemProcessor"].pop("StartAt")),
        "a state that is neither last nor has a next": changed(lambda made: made["AddUp2"].pop("End")),
        "a state that nothing leads to": changed(lambda made: made["Fetch"].update(Next="AddUp")),
        "more tolerated than there is": changed(lambda made: made["FetchMap"].update(ToleratedFailurePercentage=101)),
        "a path of the other query language": changed(lambda made: made["AddUp"].update(ResultPath="$.result")),
        "an unknown type": changed(lambda made: made["AddUp"].update(Type="Call")),
    }


@pytest.mark.slow
def test_asl_validator_refuses_broken_definitions(npm: Path) -> None:
    broken = broken_definitions()
    verdicts = dict(zip(broken, validate(npm, *broken.values()), strict=True))
    assert verdicts == dict.fromkeys(broken, False)


@pytest.mark.slow
def test_every_expression_gives_what_is_expected_in_javascript(npm: Path) -> None:
    every = {text for build in BUILDS.values() for text in expressions(build.state_machine())}
    every |= {text for plan in GRAPHS.values() for text in expressions(state_machine_of(compiled(plan, larger=True)))}
    found = [sample for text in sorted(every) for sample in samples(text)]
    program = """
        import jsonata from 'jsonata';
        const values = [];
        for (const sample of given) {
            const value = await jsonata(sample.expression).evaluate(undefined, sample.bindings);
            values.push(value === undefined ? {nothing: true} : {value});
        }
        console.log(JSON.stringify(values));
    """
    values = node(npm, program, *(asdict(sample) for sample in found))
    assert values == [{"value": sample.expected} for sample in found]


def told(event: dict[str, Json], report: Json) -> list[tuple[str, dict[str, Json]]]:
    """Return the expressions of a message and of a start, with what they see of an event."""
    starts, notifies = (BUILDS[name].template()["Resources"] for name in ("starts", "notifications"))
    states = json.loads(notifies["Notify"]["Properties"]["DefinitionString"])["States"]
    arguments = json.loads(starts["Start"]["Properties"]["DefinitionString"])["States"]["StartRun"]["Arguments"]
    texts = [states["DescribeRun"]["Assign"]["message"], arguments["Name"], arguments["Input"]]
    bindings: dict[str, Json] = {"states": {"input": event}, "report": report}
    return [(text.removeprefix("{%").removesuffix("%}"), bindings) for text in texts]


def told_events() -> list[tuple[dict[str, Json], Json]]:
    """Return events, each with what is read of its cause."""
    frames: list[Json] = [
        '  File "/var/task/lokki/runtime/handler.py", line 9, in run\n',
        '  File "/var/task/flow.py", line 12, in flap\n    wings()\n',
        '  File "/var/task/birds/wings.py", line 3, in check\n    raise\n',
    ]
    runs = [
        ("FAILED", "ValueError", "{}", {"errorMessage": 'no "x"\n', "stackTrace": frames}),
        ("FAILED", "ValueError", "{}", {"errorMessage": "x", "stackTrace": frames[1:2]}),
        ("FAILED", "ValueError", "{}", {"errorMessage": "x", "stackTrace": frames[:1]}),
        ("FAILED", "ValueError", "text", {"errorMessage": "x", "stackTrace": []}),
        ("FAILED", "E", "x" * 2000, {}),
        ("TIMED_OUT", None, None, {}),
        ("ABORTED", "", "stopped", [1, 2]),
        ("SUCCEEDED", None, None, 3),
    ]
    machine = "arn:aws:states:eu-north-1:1:stateMachine:birds-flow"
    kind = "Step Functions Execution Status Change"
    found: list[tuple[dict[str, Json], Json]] = [
        (
            {
                "source": "aws.states",
                "detail-type": kind,
                "id": "1",
                "detail": {
                    "name": "monday", "status": status, "error": error, "cause": cause, "executionArn": f"{machine}:m",
                    "stateMachineArn": machine,
                },
            },
            report,
        )
        for status, error, cause, report in runs
    ]  # fmt: skip
    for entry in ({"key": "a"}, {"key": "ä'", "size": 5, "etag": "e", "version-id": "v", "sequencer": "1"}):
        detail: Json = {"bucket": {"name": "lake"}, "object": entry}
        found.append(({"source": "aws.s3", "detail-type": "Object Created", "id": "2", "detail": detail}, {}))
    details: list[Json] = [{}, {"a": [1, None, [2]], "b": {"c": ""}}]
    order: dict[str, Json] = {"source": "shop", "detail-type": "order", "id": "3"}
    found += [({**order, "detail": detail}, {}) for detail in details]
    return found


@pytest.mark.slow
def test_messages_and_starts_are_the_same_in_javascript(npm: Path) -> None:
    program = """
        import jsonata from 'jsonata';
        import {createHash} from 'crypto';
        const values = [];
        for (const [text, bindings] of given) {
            const expression = jsonata(text);
            const hash = (value, algorithm) => createHash('sha256').update(value).digest('hex');
            expression.registerFunction('hash', hash);
            values.push(await expression.evaluate(undefined, bindings));
        }
        console.log(JSON.stringify(values));
    """
    cases = [case for event, report in told_events() for case in told(event, report)]
    here = [
        Expressions().fill(f"{{%{text}%}}", Scope(dict(cast("dict[str, Json]", bindings["states"])), bindings))
        for text, bindings in cases
    ]
    assert node(npm, program, *cases) == here


# --- checkov ---


def explained() -> set[str]:
    """Return the checks that docs/verification.md has an explanation of."""
    text = (ROOT / "docs" / "verification.md").read_text()
    section = re.search(r"^## checkov\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    assert section
    return set(re.findall(r"^\| `(CKV2?_AWS_\d+)` \|", section[1], re.MULTILINE))


def checkov(folder: Path) -> set[str]:
    """Return the checks that fail, of all templates below a folder."""
    uv = os.environ.get("UV", "uv")
    options = [
        "--framework",
        "cloudformation",
        "--quiet",
        "--skip-download",
        "--output",
        "json",
        "--directory",
        str(folder),
    ]
    report = json.loads(run(uv, "tool", "run", "checkov@3.3.30", *options, cwd=folder))
    return {each["check_id"] for each in report["results"]["failed_checks"]}


@pytest.mark.slow
def test_checkov_finds_what_is_explained_and_nothing_else(tmp_path: Path) -> None:
    # Copies, since checkov takes a path of 40 letters, digits and slashes for a secret key.
    for path in TEMPLATES:
        (tmp_path / f"{path.parent.name}.yaml").write_bytes(path.read_bytes())
    assert checkov(tmp_path) == explained()


@pytest.mark.slow
def test_checkov_finds_a_role_that_may_do_anything(tmp_path: Path) -> None:
    template = BUILDS["birds"].template()
    policy = template["Resources"]["LambdaExecutionRole"]["Properties"]["Policies"][0]["PolicyDocument"]
    policy["Statement"] = [{"Effect": "Allow", "Action": "*", "Resource": "*"}]
    (tmp_path / "template.yaml").write_text(yaml.safe_dump(template))
    assert "CKV_AWS_107" in checkov(tmp_path) - explained()
