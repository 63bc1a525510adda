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

from lokki import Allow, FlowError, Read, flow, step
from lokki.base.access import Permission
from lokki.base.values import Json
from lokki.builder.cloudformation import build_template
from lokki.builder.package_types import ZipCode
from lokki.builder.settings import check_settings
from lokki.config import LambdaDefaultsConfig, LokkiConfig, PermissionsConfig, load_config
from lokki.emulator.iam.policies import Need, allowed
from lokki.emulator.template import Stack, read_role
from lokki.errors import ConfigError
from lokki.loading import load_flow

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


# --- roles of single steps ---

LOAD_LAKE, LOOK_UP = "LoadLakeFunctionRole", "LookUpFunctionRole"
STEPS = {LOAD_LAKE, LOOK_UP, FUNCTIONS}
LOGS = "WriteLogs"
TABLE = f"arn:aws:dynamodb:{REGION}:{ACCOUNT}:table/birds"


def test_a_step_with_its_own_permissions_has_its_own_role_and_the_others_share_one() -> None:
    made = BUILDS["permissions"].template()
    roles = Roles(made)
    assert roles.names == STEPS | {MACHINE}
    assert {
        name: each["Properties"]["Role"]  # type: ignore[index, call-overload]
        for name, each in made["Resources"].items()  # type: ignore[union-attr]
        if each["Type"] == "AWS::Lambda::Function"  # type: ignore[index, call-overload]
    } == {
        "LoadLakeFunction": {"Fn::GetAtt": [LOAD_LAKE, "Arn"]},
        "LookUpFunction": {"Fn::GetAtt": [LOOK_UP, "Arn"]},
        "AddUpFunction": {"Fn::GetAtt": [FUNCTIONS, "Arn"]},
    }


def s3(action: str, key: str, bucket: str = "acme-lake") -> Call:
    return Call("step", f"s3:{action}", f"arn:aws:s3:::{bucket}/{key}")


def listing(prefix: str | None, bucket: str = "acme-lake") -> Call:
    context = () if prefix is None else (("s3:prefix", prefix),)
    return Call("step", "s3:ListBucket", f"arn:aws:s3:::{bucket}", context)


@pytest.mark.parametrize(
    ("call", "who"),
    [
        (s3("GetObject", "raw/2026/a.csv"), {LOAD_LAKE}),
        (s3("GetObject", "names.csv"), {LOAD_LAKE}),
        (s3("GetObject", "names.csv.old"), set()),
        (s3("GetObject", "raws/a.csv"), set()),
        (s3("PutObject", "raw/2026/a.csv"), set()),
        (listing("raw/"), {LOAD_LAKE}),
        (listing("ra"), set()),
        (listing(None), set()),
        (listing(None, "acme-maps"), {LOAD_LAKE}),
        (listing(None, "acme-shared"), STEPS),
        (s3("PutObject", "clean/a.csv"), {LOOK_UP}),
        (s3("AbortMultipartUpload", "clean/a.csv"), {LOOK_UP}),
        (s3("GetObject", "clean/a.csv"), set()),
        (s3("DeleteObject", "clean/a.csv"), set()),
        (Call("step", "dynamodb:GetItem", TABLE), {LOOK_UP}),
        (Call("step", "dynamodb:GetItem", f"{TABLE}-2"), set()),
        (Call("step", "dynamodb:PutItem", TABLE), set()),
        (
            Call("step", "sns:Publish", f"arn:aws:sns:{REGION}:{ACCOUNT}:birds"),
            STEPS,
        ),
        (s3("GetObject", "lokki/permissions-flow/r/a", "acme-artifacts"), STEPS),
    ],
    ids=lambda value: f"{value.action} {value.resource}" if isinstance(value, Call) else "",
)
def test_each_role_allows_what_its_step_says_and_what_the_settings_say(call: Call, who: set[str]) -> None:
    roles = Roles(BUILDS["permissions"].template())
    assert {role for role in STEPS if allowing(roles.statements(role), call)} == who


def test_a_role_writes_to_the_logs_of_its_own_step_only() -> None:
    roles = Roles(BUILDS["permissions"].template())
    logged = {
        role: {
            use[2].rpartition("-")[2]
            for each in roles.statements(role)
            for use in each.all_uses
            if each.sid == "WriteLogs"
        }
        for role in STEPS
    }
    assert logged == {LOAD_LAKE: {"load_lake:*"}, LOOK_UP: {"look_up:*"}, FUNCTIONS: {"add_up:*"}}


def tables(count: int) -> tuple[Allow, ...]:
    return tuple(Allow(f"dynamodb:Get{number}", f"{TABLE}-{number}") for number in range(count))


def template_of_one(permissions: tuple[Permission, ...]) -> Roles:
    own = step(permissions=permissions)(fetch)

    @flow
    def warehouse():
        return own()

    drawn = warehouse()
    return Roles(build_template(drawn, LokkiConfig(artifact_bucket="my-artifacts"), {"fetch": ZipCode("fetch")}))


@pytest.mark.parametrize(
    "permissions", [tables(200), (Allow("dynamodb:GetItem", *(f"{TABLE}-{n}" for n in range(700))),)]
)
def test_many_permissions_are_divided_and_none_is_lost(permissions: tuple[Allow, ...]) -> None:
    roles = template_of_one(permissions)
    inline, *managed = roles.documents("FetchFunctionRole")
    assert roles.size(inline) <= 10_240
    assert [size for size in map(roles.size, managed) if size > 6_144] == []
    assert 0 < len(managed) <= 10
    uses = {use[1:] for each in roles.statements("FetchFunctionRole") for use in each.all_uses}
    assert uses >= {(action, arn) for each in permissions for action in each.actions for arn in each.resources}
    assert roles.names == {"FetchFunctionRole", MACHINE}


def test_the_emulator_reads_all_policies_of_a_role() -> None:
    permissions = tables(200)
    role = read_role(Stack(template_of_one(permissions).template), {"Fn::GetAtt": ["FetchFunctionRole", "Arn"]})
    assert role is not None
    needs = [Need(action, arn) for each in permissions for action in each.actions for arn in each.resources]
    assert [need for need in needs if not allowed(role.statements, need)] == []
    assert not allowed(role.statements, Need("dynamodb:Get0", f"{TABLE}-1"))


def test_more_permissions_than_a_role_takes_are_refused() -> None:
    with pytest.raises(FlowError, match=r"they need \d\d managed policies in one role, and IAM takes 10\. Put"):
        template_of_one((Allow("dynamodb:GetItem", *(f"{TABLE}-{number}" for number in range(1_500))),))


def test_many_prefixes_of_one_bucket_are_listed_by_statements_that_fit() -> None:
    reads = tuple(Read(f"s3://lake/{'x' * 60}/{number}/") for number in range(150))
    roles = template_of_one(reads)
    inline, *managed = roles.documents("FetchFunctionRole")
    assert (roles.size(inline) <= 10_240, max(map(roles.size, managed)) <= 6_144) == (True, True)
    listed = [
        prefix
        for document in (inline, *managed)
        for statement in document["Statement"]
        if statement["Sid"].startswith("ListObjects")
        for prefix in statement["Condition"]["StringLike"]["s3:prefix"]
    ]
    assert sorted(listed) == sorted(f"{'x' * 60}/{number}/*" for number in range(150))


def test_a_permission_that_no_policy_has_room_for_is_refused() -> None:
    actions = [f"service:{'Action' * 10}{number}" for number in range(150)]
    with pytest.raises(FlowError, match=r"one of them is longer than the 6,144 characters of a managed policy\. Put"):
        template_of_one((Allow(actions, TABLE),))


def test_permissions_of_the_settings_are_checked_before_anything_is_built() -> None:
    permissions = PermissionsConfig(read=("lake",), allow={"GetItem": (TABLE,), "sqs:*": ("birds",)})
    defaults = LambdaDefaultsConfig(permissions=permissions)
    with pytest.raises(ConfigError) as error:
        check_settings(LokkiConfig(artifact_bucket="my-artifacts", lambda_defaults=defaults))
    *problems, advice = str(error.value).splitlines()
    place = "lambda_defaults.permissions"
    assert [problem.partition(": give")[0] for problem in problems] == [
        f"{place}.read: 'lake' is not valid",
        f"{place}.allow: 'GetItem' is no action",
        f"{place}.allow: 'birds' is no ARN",
    ]
    assert advice == "Correct lokki.yml, or the variable that sets it."


def test_the_page_on_permissions_is_true(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "permissions.md").read_text()
    [code] = re.findall(r"```python\n# lake.py\n(.*?)```", page, re.DOTALL)
    [settings] = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    (tmp_path / "lake.py").write_text(code)
    (tmp_path / "lokki.yml").write_text(f"artifact_bucket: my-artifacts\n{settings}")
    drawn = load_flow(f"{tmp_path / 'lake.py'}:birds")()
    config = load_config(tmp_path, {}, home=tmp_path)
    check_settings(config)
    roles = Roles(build_template(drawn, config, {each.name: ZipCode(each.name) for each in drawn.steps}))
    for role, actions in {
        "LoadFunctionRole": {"s3:GetObject", "s3:ListBucket", "cloudwatch:PutMetricData"},
        "SaveFunctionRole": {
            "s3:GetObject", "s3:ListBucket", "s3:PutObject", "s3:AbortMultipartUpload", "dynamodb:GetItem",
            "cloudwatch:PutMetricData",
        },
        FUNCTIONS: {"s3:GetObject", "s3:ListBucket", "cloudwatch:PutMetricData"},
    }.items():  # fmt: skip
        own = {each for each in roles.statements(role) if each.sid.startswith(("Read", "List", "WriteO", "Allow"))}
        assert {action for each in own for action in each.actions} == actions


OWN_ROLE = """
from lokki import Read, flow, main, step


@step
def get_birds() -> list[str]:
    return ["goose"]


@step(PERMISSIONS)
def count(birds: list[str]) -> int:
    return len(birds)


@flow
def NAME():
    return get_birds().next(count)


if __name__ == "__main__":
    main(NAME)
"""


@pytest.mark.slow
def test_a_role_comes_and_goes_with_the_permissions_of_its_step(account: LoopbackAws, tmp_path: Path) -> None:
    project = new_project(tmp_path, account, OWN_ROLE.replace("PERMISSIONS", "memory=256"))
    path = project.folder / "flow.py"
    first = project.run("deploy", "--yes")
    assert first.code == 0, first.err
    own = path.read_text().replace("memory=256", 'memory=256, permissions=[Read("s3://lake/raw/")]')
    path.write_text(own)
    second = project.run("deploy", "--yes")
    assert second.code == 0, second.err
    assert "role of count created" in " ".join(second.err.split()), second.err
    assert project.execute() == "1"
    path.write_text(own.replace('permissions=[Read("s3://lake/raw/")]', ""))
    third = project.run("deploy", "--yes")
    assert third.code == 0, third.err
    assert "role of count deleted" in " ".join(third.err.split()), third.err
    assert project.execute() == "1"
    gone = project.run("destroy", "--yes")
    assert gone.code == 0, gone.err
    assert project.left() == []


def test_lambda_may_make_network_interfaces_and_the_code_of_steps_may_not() -> None:
    made = BUILDS["account"].template()
    for name in (FUNCTIONS, "MeasureBirdFunctionRole"):
        statements = {entry["Sid"]: entry for entry in Roles(made).documents(name)[0]["Statement"]}
        assert statements["ManageInterfaces"]["Effect"] == "Allow"
        assert statements["NotByCode"]["Effect"] == "Deny"
        assert statements["NotByCode"]["Action"] == statements["ManageInterfaces"]["Action"]
        role = read_role(Stack(made), {"Fn::GetAtt": [name, "Arn"]})
        assert role is not None
        assert not allowed(role.statements, Need("ec2:CreateNetworkInterface", "*"))
        assert allowed(role.statements, Need("xray:PutTraceSegments", "*"))


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
    own = {*vars_of(build.config), *(layer for entry in build.graph.steps for layer in entry.options.layers)}
    texts = [text for text in re.findall(r"arn:[^\s\"']*", json.dumps(build.template())) if text not in own]
    assert [text for text in texts if not text.startswith("arn:${AWS::Partition}:")] == []
    assert "arn:" not in json.dumps(build.state_machine())


def vars_of(config: LokkiConfig) -> set[str]:
    notified = (*config.notify.failed, *config.notify.succeeded)
    return {config.roles.pipeline, config.roles.lambda_, config.kms_key, *config.lambda_defaults.layers, *notified}
