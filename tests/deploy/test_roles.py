"""Roles at any number of steps, with a key and a boundary of the user's, and in other partitions than aws."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from aws.loopback_aws import LoopbackAws
from aws.policies import ACCOUNT, REGION, Call, Roles, allowing
from build_flows import BUILDS, fetch, tidy
from hypothesis import given
from hypothesis import strategies as st
from support.deployed_project import new_project

from lokki import flow
from lokki.base.values import Json
from lokki.builder.cloudformation import build_template
from lokki.builder.package_types import ZipCode
from lokki.builder.settings import check_settings
from lokki.config import LokkiConfig
from lokki.errors import ConfigError

FUNCTIONS, MACHINE = ROLES = ("LambdaExecutionRole", "StepFunctionsExecutionRole")
KEY = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/1234abcd-12ab-34cd-56ef-1234567890ab"
BOUNDARY = f"arn:aws:iam::{ACCOUNT}:policy/developers"


def names(count: int, length: int) -> list[str]:
    return [f"step_{number:03}".ljust(length, "x") for number in range(count)]


def template(steps: list[str], config: LokkiConfig | None = None) -> dict[str, Json]:
    @flow
    def warehouse():
        chain = fetch()
        for name in steps:
            chain = chain.next(tidy.__replace__(name=name))
        return chain

    drawn = warehouse()
    settings = config or LokkiConfig(artifact_bucket="my-artifacts")
    return build_template(drawn, settings, {each.name: ZipCode(each.name) for each in drawn.steps})


@pytest.mark.parametrize("count", [1, 60, 76, 90, 150])
def test_the_policies_of_roles_fit_iam_at_any_number_of_steps(count: int) -> None:
    roles = Roles(template(names(count, 60)))
    for role in ROLES:
        inline, *managed = roles.documents(role)
        assert roles.size(inline) <= 10_240
        assert [size for size in map(roles.size, managed) if size > 6_144] == []
        assert len(managed) <= 10


@given(count=st.integers(1, 159), length=st.integers(8, 60))
def test_however_policies_are_divided_each_step_is_allowed_once_and_nothing_else(count: int, length: int) -> None:
    steps = names(count, length)
    made = template(steps)
    roles = Roles(made)
    allowed = [use for each in roles.statements(MACHINE) for use in each.all_uses if use[1] == "lambda:InvokeFunction"]
    functions = [name for name in made["Resources"] if name.endswith("Function")]  # type: ignore[union-attr, attr-defined]
    assert sorted(use[2] for use in allowed) == sorted(f"{roles.arn(name)}:*" for name in functions)
    groups = [name for name in made["Resources"] if name.endswith("LogGroup")]  # type: ignore[union-attr, attr-defined]
    logged = [use for each in roles.statements(FUNCTIONS) for use in each.all_uses if use[1] == "logs:PutLogEvents"]
    assert sorted(use[2] for use in logged) == sorted(map(roles.arn, groups))


def test_a_few_steps_need_no_managed_policies() -> None:
    kinds = {each["Type"] for build in BUILDS.values() for each in build.template()["Resources"].values()}
    assert "AWS::IAM::ManagedPolicy" not in kinds


@pytest.mark.slow
def test_a_hundred_and_fifty_steps_of_sixty_characters_are_deployed_and_removed(
    account: LoopbackAws, tmp_path: Path
) -> None:
    steps = names(150, 60)
    code = ["from lokki import flow, main, step"]
    code += [f"@step\ndef {name}(x: int = 0) -> int:\n    return x + 1" for name in steps]
    calls = "".join(f".next({name})" for name in steps[1:])
    code.append(f"@flow\ndef NAME():\n    return {steps[0]}(){calls}")
    code.append('if __name__ == "__main__":\n    main(NAME)\n')
    project = new_project(tmp_path, account, "\n\n".join(code))
    checked = project.run("build", "--check")
    assert checked.code == 0, checked.err
    deployed = project.run("deploy", "--yes")
    assert deployed.code == 0, deployed.err
    assert project.execute() == "150"
    gone = project.run("destroy", "--yes")
    assert gone.code == 0, gone.err
    assert project.left() == []


# --- a key of the user's ---


def key_call(role: str, service: str = f"s3.{REGION}.amazonaws.com", key: str = KEY) -> Call:
    return Call(role, "kms:GenerateDataKey", key, (("kms:ViaService", service),))


def test_roles_may_use_the_key_of_the_bucket_through_s3_and_for_nothing_else() -> None:
    build = BUILDS["birds"]
    roles = Roles(build_template(build.graph, LokkiConfig(artifact_bucket="b", kms_key=KEY), build.packages))
    for role in ROLES:
        statements = roles.statements(role)
        assert allowing(statements, key_call(role))
        assert allowing(statements, key_call(role, f"s3.{REGION}.amazonaws.com.cn"))
        assert not allowing(statements, key_call(role, f"secretsmanager.{REGION}.amazonaws.com"))
        assert not allowing(statements, key_call(role, "s3.eu-north-1.amazonaws.com"))
        assert not allowing(statements, key_call(role, key=f"{KEY}0"))
        assert not allowing(statements, Call(role, "kms:Decrypt", KEY))


def test_a_state_machine_without_maps_touches_no_objects_and_no_key() -> None:
    roles = Roles(template([], LokkiConfig(artifact_bucket="b", kms_key=KEY)))
    assert not allowing(roles.statements(MACHINE), key_call(MACHINE))
    assert allowing(roles.statements(FUNCTIONS), key_call(FUNCTIONS))


def test_without_a_key_roles_have_no_permissions_for_keys() -> None:
    assert "kms:" not in json.dumps(BUILDS["birds"].template())


def test_every_role_has_the_boundary() -> None:
    build = BUILDS["parameters-and-schedule"]
    config = LokkiConfig(artifact_bucket="b", permissions_boundary=BOUNDARY)
    made = build_template(build.graph, config, build.packages)
    boundaries = [
        each["Properties"].get("PermissionsBoundary")
        for each in made["Resources"].values()  # type: ignore[union-attr]
        if each["Type"] == "AWS::IAM::Role"  # type: ignore[index, call-overload]
    ]
    assert boundaries == [BOUNDARY] * 3


@pytest.mark.parametrize(
    "settings",
    [
        {"kms_key": "alias/artifacts"},
        {"kms_key": f"arn:aws:kms:{REGION}:{ACCOUNT}:alias/artifacts"},
        {"kms_key": "1234abcd-12ab-34cd-56ef-1234567890ab"},
        {"permissions_boundary": "developers"},
        {"permissions_boundary": f"arn:aws:iam::{ACCOUNT}:role/developers"},
    ],
)
def test_what_is_no_arn_of_a_key_or_a_policy_is_refused_before_anything_is_built(settings: dict[str, str]) -> None:
    [(name, text)] = settings.items()
    with pytest.raises(ConfigError, match=rf"^{name}: '{re.escape(text)}' is not valid: the ARN of a "):
        check_settings(LokkiConfig(artifact_bucket="my-artifacts", **settings))


def test_keys_and_boundaries_of_any_partition_are_taken() -> None:
    for partition in ("aws", "aws-cn", "aws-us-gov"):
        key, boundary = (text.replace(":aws:", f":{partition}:") for text in (KEY, BOUNDARY))
        check_settings(LokkiConfig(artifact_bucket="my-artifacts", kms_key=key, permissions_boundary=boundary))


# --- other partitions ---


@pytest.mark.parametrize("name", BUILDS)
def test_no_arn_names_the_partition_of_the_commercial_regions(name: str) -> None:
    build = BUILDS[name]
    own = {*vars_of(build.config)}
    texts = [text for text in re.findall(r"arn:[^\s\"']*", json.dumps(build.template())) if text not in own]
    assert [text for text in texts if not text.startswith("arn:${AWS::Partition}:")] == []
    assert "arn:" not in json.dumps(build.state_machine())


def vars_of(config: LokkiConfig) -> set[str]:
    return {config.roles.pipeline, config.roles.lambda_}
