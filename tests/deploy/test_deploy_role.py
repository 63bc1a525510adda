"""docs/examples/deploy-role.json is current, and has what is needed."""

import json
from pathlib import Path

import yaml
from build_flows import BUILDS
from support.deploy_role import EVENT_TYPES, TYPES, for_resources, policy

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


def test_the_policy_in_the_docs_is_the_generated_one(update_golden: bool) -> None:
    path = EXAMPLES / "deploy-role.json"
    if update_golden:
        path.write_text(policy())
    assert path.read_text() == policy()
    assert len(policy()) < 6144 * 2  # IAM takes 6,144 characters, spaces not counted
    assert len(json.dumps(json.loads(policy()), separators=(",", ":"))) < 6144


def test_the_policy_is_for_all_that_templates_are_made_of() -> None:
    used = {each["Type"] for build in BUILDS.values() for each in build.template()["Resources"].values()}
    assert used | {"AWS::IAM::ManagedPolicy"} == {*TYPES, *EVENT_TYPES}
    assert {"lambda:PublishVersion", "iam:PassRole", "states:CreateStateMachineAlias"} <= set(for_resources())


def test_the_policy_is_for_old_versions_too() -> None:
    allowed = {action for each in json.loads(policy())["Statement"] for action in each["Action"]}
    assert {
        "cloudformation:ListStackResources",
        "lambda:DeleteFunction",
        "lambda:ListVersionsByFunction",
        "states:DeleteStateMachineVersion",
        "states:DescribeStateMachine",
        "states:DescribeStateMachineAlias",
        "states:ListExecutions",
        "states:ListStateMachineVersions",
    } <= allowed


def test_the_workflow_builds_emulates_and_deploys() -> None:
    workflow = yaml.safe_load((EXAMPLES / "deploy.yml").read_text())
    runs = {name: [step["run"] for step in job["steps"] if "run" in step] for name, job in workflow["jobs"].items()}
    assert runs == {
        "check": ["uv run birds_flow.py build --check", "uv run birds_flow.py emulate"],
        "deploy": ["uv run birds_flow.py deploy --yes --env prod"],
    }
    assert workflow["jobs"]["deploy"]["permissions"] == {"contents": "read", "id-token": "write"}
