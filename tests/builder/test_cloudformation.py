"""The template of a flow: its resources and roles, and that a stack of them holds exactly what it says."""

from __future__ import annotations

import datetime
import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from io import BytesIO
from itertools import count
from pathlib import Path

import boto3
import pytest
import yaml
from aws.loopback_aws import LoopbackAws
from aws.moto_server import Aws
from build_flows import BUILDS, Build, double, fetch, single_flow, tidy
from hypothesis import given
from hypothesis import strategies as st

from lokki import StepNode, flow, step
from lokki.base.values import Json
from lokki.builder.cloudformation import build_template
from lokki.builder.merging import read_user_template
from lokki.builder.package_types import ImageCode, ZipCode
from lokki.builder.settings import check_settings
from lokki.builder.state_machine import dump_state_machine
from lokki.builder.template_text import dump_template
from lokki.config import LambdaDefaultsConfig, LokkiConfig, RolesConfig
from lokki.errors import ConfigError, FlowError

type Template = dict[str, Json]

TESTS = Path(__file__).parents[1]


def resource(template: Template, name: str) -> Template:
    return template["Resources"][name]["Properties"]


def of_type(template: Template, kind: str) -> dict[str, Template]:
    return {name: each["Properties"] for name, each in template["Resources"].items() if each["Type"] == kind}


def template_of(chain: StepNode[..., object], config: LokkiConfig | None = None, **options: object) -> Template:
    @flow(**options)
    def some_flow():
        return chain

    drawn = some_flow()
    return build_template(drawn, config or LokkiConfig(), {each.name: ZipCode(each.name) for each in drawn.steps})


# --- functions ---


def test_a_function_has_the_options_of_its_step_and_the_settings() -> None:
    template = BUILDS["batches"].template()
    assert resource(template, "PredictFunction") == {
        "FunctionName": {"Fn::Sub": "${FlowName}-predict"},
        "Description": {"Fn::Sub": "The step predict of ${FlowName}"},
        "PackageType": "Zip",
        "Code": {"S3Bucket": {"Ref": "S3Bucket"}, "S3Key": "lokki/batches-flow/code/predict-8e1c0a54f7d2.zip"},
        "Runtime": "python3.13",
        "Handler": "handler.lambda_handler",
        "Architectures": ["x86_64"],
        "MemorySize": 1024,
        "Timeout": 30,
        "Role": {"Fn::GetAtt": ["LambdaExecutionRole", "Arn"]},
        "Environment": {
            "Variables": {
                "LOKKI_ARTIFACT_BUCKET": {"Ref": "S3Bucket"},
                "LOKKI_FLOW_NAME": {"Ref": "FlowName"},
                "LOKKI_LOG_LEVEL": "INFO",
                "MODEL": "large",
            }
        },
        "LoggingConfig": {"LogGroup": {"Ref": "PredictLogGroup"}},
        "TracingConfig": {"Mode": "Active"},
        "Tags": [{"Key": "lokki:flow", "Value": {"Ref": "FlowName"}}],
    }


def test_an_image_has_its_command_where_lambda_looks_for_it() -> None:
    """The peer wrote Cmd, and LogStream, into the function's properties, which CloudFormation refuses."""
    function = resource(BUILDS["images"].template(), "JoinFunction")
    assert function["PackageType"] == "Image"
    assert function["ImageConfig"] == {"Command": ["handler.lambda_handler"]}
    assert function["Code"] == {"ImageUri": {"Fn::Sub": "${ECRRepoPrefix}/batches-flow/join:8e1c0a54f7d2"}}
    assert not {"Runtime", "Handler", "Cmd", "LogStream"} & function.keys()
    assert function["Architectures"] == ["arm64"]


def test_an_image_without_a_tag_of_its_own_has_that_of_a_parameter() -> None:
    drawn = single_flow()
    config = LokkiConfig(lambda_defaults=LambdaDefaultsConfig(image_tag="v7"))
    template = build_template(drawn, config, {"fetch": ImageCode("single-flow/fetch", "")})
    assert resource(template, "FetchFunction")["Code"] == {
        "ImageUri": {"Fn::Sub": "${ECRRepoPrefix}/single-flow/fetch:${ImageTag}"}
    }
    assert template["Parameters"]["ImageTag"]["Default"] == "v7"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("linear", {"FlowName", "S3Bucket"}),
        ("birds", {"FlowName", "S3Bucket", "MapConcurrency"}),
        ("images", {"FlowName", "S3Bucket", "ECRRepoPrefix", "MapConcurrency"}),
        ("image-and-zip", {"FlowName", "S3Bucket", "ECRRepoPrefix"}),
    ],
)
def test_a_template_has_the_parameters_that_apply(name: str, expected: set[str]) -> None:
    assert set(BUILDS[name].template()["Parameters"]) == expected


def test_a_setting_that_is_missing_must_be_given_when_the_stack_is_made() -> None:
    parameters = BUILDS["image-and-zip"].template()["Parameters"]
    assert "Default" not in parameters["S3Bucket"]
    assert parameters["S3Bucket"]["MinLength"] == 1
    assert parameters["ECRRepoPrefix"]["Default"] == "123456789012.dkr.ecr.eu-north-1.amazonaws.com/acme"


def variables(config: LokkiConfig, **env: str) -> Mapping[str, Json]:
    @step(env=env)
    def work() -> int:
        return 1

    return resource(template_of(work(), config), "WorkFunction")["Environment"]["Variables"]


def test_the_step_overrules_the_settings_and_nobody_overrules_where_the_run_is() -> None:
    config = LokkiConfig(lambda_env={"MODEL": "small", "LOKKI_LOG_LEVEL": "DEBUG", "ZONE": "eu"}, inline_limit=10)
    assert variables(config, MODEL="large", A1="a") == {
        "A1": "a",
        "LOKKI_ARTIFACT_BUCKET": {"Ref": "S3Bucket"},
        "LOKKI_FLOW_NAME": {"Ref": "FlowName"},
        "LOKKI_INLINE_LIMIT": "10",
        "LOKKI_LOG_LEVEL": "DEBUG",
        "MODEL": "large",
        "ZONE": "eu",
    }


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("AWS_REGION", "'AWS_REGION' is set by AWS Lambda or lokki itself. Use another name."),
        ("LOKKI_FLOW_NAME", "'LOKKI_FLOW_NAME' is set by AWS Lambda or lokki itself. Use another name."),
        ("X", "'X' cannot name a variable: AWS takes two or more ASCII letters, digits and '_', a letter first."),
        ("_X", "'_X' cannot name a variable: AWS takes two or more ASCII letters, digits and '_', a letter first."),
    ],
)
def test_a_variable_that_lambda_does_not_take_is_refused(name: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        variables(LokkiConfig(lambda_env={name: "x"}))
    assert str(caught.value) == f"lambda_env: {problem}"


def test_variables_that_are_too_large_together_are_refused() -> None:
    assert variables(LokkiConfig(), TEXT="x" * 4073)
    with pytest.raises(ConfigError, match=r"lambda_env and env of work\(\) have 4097 bytes together"):
        variables(LokkiConfig(), TEXT="x" * 4074)


# --- the whole ---

UNKNOWN_TO_MOTO = ("account", "notifications", "starts")
"""moto makes neither connections nor rules with policies for their queue; the account on loopback does."""

UNTAGGED = {
    "AWS::Events::Connection",
    "AWS::Lambda::Version",
    "AWS::SQS::QueuePolicy",
    "AWS::Scheduler::Schedule",  # groups of schedules have tags
    "AWS::StepFunctions::StateMachineAlias",
    "AWS::StepFunctions::StateMachineVersion",
}


def test_a_stack_has_three_resources_per_step_and_those_of_the_flow() -> None:
    resources = BUILDS["parameters-and-schedule"].template()["Resources"]
    kinds = {re.sub("Version[0-9a-f]{8}$", "Version<hash>", name): each["Type"] for name, each in resources.items()}
    assert kinds == {
        "ReadDaysLogGroup": "AWS::Logs::LogGroup",
        "ReadDaysFunction": "AWS::Lambda::Function",
        "ReadDaysVersion<hash>": "AWS::Lambda::Version",
        "CountBirdsLogGroup": "AWS::Logs::LogGroup",
        "CountBirdsFunction": "AWS::Lambda::Function",
        "CountBirdsVersion<hash>": "AWS::Lambda::Version",
        "ReportLogGroup": "AWS::Logs::LogGroup",
        "ReportFunction": "AWS::Lambda::Function",
        "ReportVersion<hash>": "AWS::Lambda::Version",
        "LambdaExecutionRole": "AWS::IAM::Role",
        "StepFunctionsExecutionRole": "AWS::IAM::Role",
        "ScheduleRole": "AWS::IAM::Role",
        "StateMachineLogs": "AWS::Logs::LogGroup",
        "StateMachine": "AWS::StepFunctions::StateMachine",
        "StateMachineVersion": "AWS::StepFunctions::StateMachineVersion",
        "Live": "AWS::StepFunctions::StateMachineAlias",
        "Schedule": "AWS::Scheduler::Schedule",
    }


@pytest.mark.parametrize("name", BUILDS)
def test_every_text_with_a_placeholder_is_substituted(name: str) -> None:
    """The peer wrote a literal ${FlowName} into tags."""

    def literals(value: Json, under: str) -> list[str]:
        if isinstance(value, dict):
            return [text for key, member in value.items() for text in literals(member, key)]
        if isinstance(value, list):
            return [text for member in value for text in literals(member, under)]
        return [value] if isinstance(value, str) and under not in ("Fn::Sub", "DefinitionString") else []

    assert not [text for text in literals(BUILDS[name].template(), "") if "${" in text]


@pytest.mark.parametrize("name", BUILDS)
def test_the_state_machine_has_a_value_for_each_of_its_places_and_no_other(name: str) -> None:
    machine = resource(BUILDS[name].template(), "StateMachine")
    assert machine["DefinitionString"] == dump_state_machine(BUILDS[name].state_machine()).decode()
    assert set(re.findall(r"\$\{(\w+)\}", machine["DefinitionString"])) | {"ArtifactBucket", "FlowName"} == set(
        machine["DefinitionSubstitutions"]
    )


@pytest.mark.parametrize("name", BUILDS)
def test_everything_that_can_have_tags_has_them(name: str) -> None:
    config = BUILDS[name].config
    expected = [{"Key": key, "Value": value} for key, value in sorted(config.tags.items())]
    expected.append({"Key": "lokki:flow", "Value": {"Ref": "FlowName"}})
    template = BUILDS[name].template()
    for resource_name in template["Resources"].keys() - read_user_template(BUILDS[name].merged).resources.keys():
        each = template["Resources"][resource_name]
        if each["Type"] not in UNTAGGED:
            assert each["Properties"]["Tags"] == expected


def test_tracing_can_be_turned_off_and_needs_no_permission_then() -> None:
    template = BUILDS["parameters-and-schedule"].template()
    assert resource(template, "StateMachine")["TracingConfiguration"] == {"Enabled": False}
    assert all("TracingConfig" not in each for each in of_type(template, "AWS::Lambda::Function").values())
    assert "xray" not in json.dumps(template)


def test_a_schedule_runs_the_flow_with_the_defaults_of_its_parameters() -> None:
    assert resource(BUILDS["parameters-and-schedule"].template(), "Schedule") == {
        "Name": {"Ref": "FlowName"},
        "Description": {"Fn::Sub": "Runs ${FlowName}"},
        "ScheduleExpression": "cron(30 6 ? * MON-FRI *)",
        "ScheduleExpressionTimezone": "Europe/Helsinki",
        "FlexibleTimeWindow": {"Mode": "OFF"},
        "Target": {
            "Arn": {"Ref": "Live"},
            "RoleArn": {"Fn::GetAtt": ["ScheduleRole", "Arn"]},
            "Input": '{"since": "2026-01-01", "days": 7, "bird": "goose", "limit": 100}',
        },
    }


def test_a_schedule_without_a_time_zone_is_in_utc() -> None:
    schedule = resource(template_of(fetch(), schedule="rate(1 day)"), "Schedule")
    assert schedule["ScheduleExpressionTimezone"] == "UTC"
    assert schedule["Target"]["Input"] == "{}"


def test_a_schedule_begins_and_ends_at_times_in_its_zone() -> None:
    template = BUILDS["account"].template()
    schedule = resource(template, "Schedule")
    assert schedule["StartDate"] == {
        "Fn::If": ["ScheduleStartsLater", {"Ref": "ScheduleStart"}, {"Ref": "AWS::NoValue"}]
    }
    assert template["Parameters"]["ScheduleStart"]["Default"] == "2099-01-01T10:00:00Z"
    assert schedule["EndDate"] == "2099-06-30T21:00:00Z"
    assert "Conditions" not in BUILDS["parameters-and-schedule"].template()


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"schedule_end": datetime.date(2030, 1, 1)}, "are of a schedule: give schedule= too"),
        ({"schedule": "rate(1 day)", "schedule_start": "2030-01-01"}, "give a date or a datetime, not '2030-01-01'"),
        (
            {
                "schedule": "rate(1 day)",
                "schedule_start": datetime.datetime(2030, 1, 1, 0, 30),
                "schedule_end": datetime.datetime(2029, 12, 31, 23, tzinfo=datetime.UTC),
            },
            "the schedule ends before it starts",
        ),
        (
            {"schedule": "rate(1 day)", "timezone": "Mars", "schedule_end": datetime.date(2030, 1, 1)},
            "no such time zone",
        ),
    ],
)
def test_a_period_that_no_schedule_has_is_refused(options: dict[str, object], problem: str) -> None:
    with pytest.raises(FlowError, match=problem):
        flow(**options)


def test_a_flow_that_makes_more_resources_than_a_stack_holds_is_refused() -> None:
    def chain(length: int) -> StepNode[..., object]:
        made = fetch()
        for number in range(length - 1):
            made = made.next(replace(tidy, name=f"step_{number}"))
        return made

    assert len(template_of(chain(162))["Resources"]) == 500
    with pytest.raises(FlowError, match=r"163 steps, which make 503 resources; a stack holds 500\. Split"):
        template_of(chain(163))


def version_ids(chain: StepNode[..., object], config: LokkiConfig | None = None) -> set[str]:
    return set(of_type(template_of(chain, config), "AWS::Lambda::Version"))


def test_whatever_changes_a_function_makes_a_version_of_it_and_leaves_the_last_one() -> None:
    before = template_of(fetch())
    [(name, version)] = of_type(before, "AWS::Lambda::Version").items()
    assert version == {"FunctionName": {"Ref": "FetchFunction"}}
    kept = {"DeletionPolicy": "RetainExceptOnCreate", "UpdateReplacePolicy": "Retain"}
    for each in (name, "StateMachineVersion"):
        assert kept.items() <= before["Resources"][each].items()
    changed = [
        version_ids(replace(fetch, options=replace(fetch.options, memory=1024))()),
        version_ids(replace(fetch, options=replace(fetch.options, timeout=7))()),
        version_ids(replace(fetch, options=replace(fetch.options, env={"A1": "b"}))()),
        version_ids(fetch(), LokkiConfig(artifact_bucket="other")),
        version_ids(fetch(), LokkiConfig(tracing=False)),
    ]
    assert len({name, *(each for ids in changed for each in ids)}) == 1 + len(changed)
    assert version_ids(fetch(), LokkiConfig(tags={"team": "birds"})) == {name}


def test_an_image_by_another_tag_is_another_version() -> None:
    def ids(tag: str) -> set[str]:
        config = LokkiConfig(ecr_repo_prefix="r/a", lambda_defaults=LambdaDefaultsConfig(image_tag=tag))
        return set(
            of_type(build_template(single_flow(), config, {"fetch": ImageCode("fetch", "")}), "AWS::Lambda::Version")
        )

    assert len(ids("v1") | ids("v2")) == 2


def test_runs_use_versions_of_functions_and_start_through_the_alias() -> None:
    template = BUILDS["birds"].template()
    versions = {each["FunctionName"]["Ref"]: name for name, each in of_type(template, "AWS::Lambda::Version").items()}
    filled = resource(template, "StateMachine")["DefinitionSubstitutions"]
    assert {name: value for name, value in filled.items() if name.endswith("FunctionArn")} == {
        f"{function}Arn": {"Ref": version} for function, version in versions.items()
    }
    assert resource(template, "Live") == {
        "Name": "live",
        "RoutingConfiguration": [{"StateMachineVersionArn": {"Ref": "StateMachineVersion"}, "Weight": 100}],
    }


# --- roles ---


def statements(template: Template, role: str) -> dict[str, Template]:
    policies = resource(template, role)["Policies"]
    return {each["Sid"]: each for policy in policies for each in policy["PolicyDocument"]["Statement"]}


def test_functions_may_use_the_objects_of_the_flow_and_write_their_logs() -> None:
    found = statements(BUILDS["birds"].template(), "LambdaExecutionRole")
    assert {sid: (each["Action"], each["Resource"], each.get("Condition")) for sid, each in found.items()} == {
        "WriteLogs": (
            ["logs:CreateLogStream", "logs:PutLogEvents"],
            [{"Fn::GetAtt": [f"{name}LogGroup", "Arn"]} for name in ("GetBirds", "FlapBird", "JoinBirds")],
            None,
        ),
        "UseArtifacts": (
            ["s3:AbortMultipartUpload", "s3:GetObject", "s3:PutObject"],
            {"Fn::Sub": "arn:${AWS::Partition}:s3:::${S3Bucket}/lokki/${FlowName}/*"},
            None,
        ),
        "TellMissingArtifacts": (
            ["s3:ListBucket"],
            {"Fn::Sub": "arn:${AWS::Partition}:s3:::${S3Bucket}"},
            {"StringLike": {"s3:prefix": {"Fn::Sub": "lokki/${FlowName}/*"}}},
        ),
        "Trace": (["xray:PutTraceSegments", "xray:PutTelemetryRecords"], "*", None),
    }


def test_a_state_machine_without_maps_may_only_invoke_its_functions_and_log() -> None:
    found = statements(BUILDS["linear"].template(), "StepFunctionsExecutionRole")
    assert set(found) == {"InvokeSteps", "DeliverLogs", "Trace"}
    assert found["InvokeSteps"]["Resource"] == [
        {"Fn::Sub": f"${{{name}Function.Arn}}:*"} for name in ("Fetch", "Tidy", "AddUp")
    ]


def test_a_state_machine_with_maps_may_run_items_of_its_own_and_read_and_write_their_files() -> None:
    found = statements(BUILDS["birds"].template(), "StepFunctionsExecutionRole")
    here = "arn:${AWS::Partition}:states:${AWS::Region}:${AWS::AccountId}"
    objects = "arn:${AWS::Partition}:s3:::${S3Bucket}/lokki/${FlowName}"
    maps = ("StartItems", "FollowItems", "ReadItems", "WriteResults")
    assert {sid: (found[sid]["Action"], found[sid]["Resource"]) for sid in maps} == {
        "StartItems": (["states:StartExecution"], {"Fn::Sub": f"{here}:stateMachine:${{FlowName}}"}),
        "FollowItems": (
            ["states:DescribeExecution", "states:StopExecution", "states:RedriveExecution"],
            [{"Fn::Sub": f"{here}:execution:${{FlowName}}:*"}, {"Fn::Sub": f"{here}:execution:${{FlowName}}/*"}],
        ),
        "ReadItems": (["s3:GetObject"], {"Fn::Sub": f"{objects}/*/map_manifest.json"}),
        "WriteResults": (
            ["s3:AbortMultipartUpload", "s3:GetObject", "s3:ListMultipartUploadParts", "s3:PutObject"],
            {"Fn::Sub": f"{objects}/*/map_results/*"},
        ),
    }


@pytest.mark.parametrize("name", BUILDS)
def test_only_what_has_no_resources_is_allowed_on_all(name: str) -> None:
    template = BUILDS[name].template()
    for role in of_type(template, "AWS::IAM::Role"):
        for sid, statement in statements(template, role).items():
            assert (statement["Resource"] == "*") == (sid in ("DeliverLogs", "ManageInterfaces", "NotByCode", "Trace"))
            assert all("*" not in action for action in statement["Action"])


def test_each_role_is_for_one_service_and_this_account() -> None:
    template = BUILDS["parameters-and-schedule"].template()
    trust = {
        name: each["AssumeRolePolicyDocument"]["Statement"][0]
        for name, each in of_type(template, "AWS::IAM::Role").items()
    }
    assert {name: each["Principal"]["Service"] for name, each in trust.items()} == {
        "LambdaExecutionRole": "lambda.amazonaws.com",
        "StepFunctionsExecutionRole": "states.amazonaws.com",
        "ScheduleRole": "scheduler.amazonaws.com",
    }
    sources = {
        name: each["Condition"]["ArnLike"]["aws:SourceArn"] for name, each in trust.items() if "Condition" in each
    }
    assert sources == {
        "StepFunctionsExecutionRole": {
            "Fn::Sub": "arn:${AWS::Partition}:states:${AWS::Region}:${AWS::AccountId}:stateMachine:*"
        },
        "ScheduleRole": {
            "Fn::Sub": "arn:${AWS::Partition}:scheduler:${AWS::Region}:${AWS::AccountId}:schedule-group/default"
        },
    }


def test_given_roles_are_used_and_none_are_made() -> None:
    template = BUILDS["roles"].template()
    roles = BUILDS["roles"].config.roles
    assert not of_type(template, "AWS::IAM::Role")
    assert resource(template, "StateMachine")["RoleArn"] == roles.pipeline
    assert resource(template, "Schedule")["Target"]["RoleArn"] == roles.pipeline
    assert {each["Role"] for each in of_type(template, "AWS::Lambda::Function").values()} == {roles.lambda_}


def test_one_given_role_leaves_the_other_to_the_stack() -> None:
    given = LokkiConfig(roles=RolesConfig(lambda_="arn:aws:iam::123456789012:role/worker"))
    build = replace(BUILDS["roles"], config=given)
    assert set(of_type(build.template(), "AWS::IAM::Role")) == {"StepFunctionsExecutionRole", "ScheduleRole"}


# --- text ---


@pytest.mark.parametrize("name", BUILDS)
def test_a_template_reads_back_as_it_was_written(name: str) -> None:
    template = BUILDS[name].template()
    text = dump_template(template).decode()
    assert yaml.safe_load(text) == template
    assert "&id" not in text
    # The first holds the plan; the second is in a definition, so it is in a block, which is not folded.
    lines = [line for line in text.splitlines() if '"Comment":' not in line and '": "{% (' not in line]
    assert max(map(len, lines)) < 240  # an expression is one line: YAML would fold its spaces


def test_texts_that_another_reader_of_yaml_would_take_for_something_else_are_quoted() -> None:
    texts = [
        "1e3",
        "0x1F",
        "012",
        "1_000",
        "2026-11-23",
        "yes",
        "null",
        "",
        "~",
        "<<",
        "=",
        "12:30",
        ".5",
        "true",
        "@a",
    ]
    lines = dump_template({"Texts": texts}).decode().splitlines()[1:]
    assert lines == [f"- '{text}'" for text in texts]


TEXTS = st.one_of(
    st.text(st.characters(min_codepoint=32, max_codepoint=126)),
    st.text(st.sampled_from(" \n\t\r:-#'\"{%|>~aA0.é…\x85\u2028𐀀")),
    st.text(st.sampled_from("a b"), min_size=90, max_size=150),
)
VALUES: st.SearchStrategy[Json] = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=4)),
)


@given(st.dictionaries(TEXTS, VALUES, min_size=1))
def test_whatever_is_in_a_template_reads_back_as_it_was_written(template: Template) -> None:
    assert yaml.safe_load(dump_template(template)) == template


def test_templates_are_the_same_bytes_whatever_the_hash_seed() -> None:
    """The peer wrote sets in the order of their hashes."""
    program = (
        "from build_flows import BUILDS\n"
        "from lokki.builder.template_text import dump_template\n"
        "import hashlib, sys\n"
        "names = ('batches', 'parameters-and-schedule', 'images', 'roles')\n"
        "print(hashlib.sha256(b''.join(dump_template(BUILDS[name].template()) for name in names)).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": f"{TESTS}{os.pathsep}{TESTS.parent}"},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("0", "1", "2")
    }
    assert len(digests) == 1


# --- on CloudFormation: moto's, as a second opinion, and that on loopback, which does all types ---

_stacks = count(1)

NOT_IN_MOTO = {
    "AWS::Scheduler::Schedule",
    "AWS::StepFunctions::StateMachineAlias",
    "AWS::StepFunctions::StateMachineVersion",
}
"""Types that moto skips, whatever they say. It also keeps no architecture, tracing or logging of functions, no tracing
or logging of state machines, and it does not fill DefinitionSubstitutions."""


def clients(aws: Aws, *names: str) -> list[object]:
    session = boto3.Session(aws_access_key_id="test", aws_secret_access_key="test", region_name="us-east-1")
    return [session.client(name, endpoint_url=aws.endpoint) for name in names]


def zipped_handler() -> bytes:
    content = BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("handler.py", "lambda_handler = print\n")
    return content.getvalue()


def make_given_roles(aws: Aws, config: LokkiConfig) -> None:
    (iam,) = clients(aws, "iam")
    known = {role["Arn"] for role in iam.list_roles(MaxItems=1000)["Roles"]}
    for arn in {config.roles.pipeline, config.roles.lambda_} - {""} - known:
        iam.create_role(RoleName=arn.rpartition("/")[2], AssumeRolePolicyDocument='{"Version": "2012-10-17"}')


def create_stack(aws: Aws, build: Build) -> tuple[str, str]:
    """Create the stack of a build under a flow name of its own; return that name and the bucket."""
    (cloudformation,) = clients(aws, "cloudformation")
    name, bucket = f"stack{next(_stacks)}", aws.new_bucket()
    for code in build.packages.values():
        if isinstance(code, ZipCode):
            aws.s3.put_object(Bucket=bucket, Key=code.key, Body=zipped_handler())
    make_given_roles(aws, build.config)
    template = build.template()
    template["Resources"] = {
        name: each for name, each in template["Resources"].items() if each["Type"] not in NOT_IN_MOTO
    }
    del template["Outputs"]["LiveArn"]
    cloudformation.create_stack(
        StackName=name,
        TemplateBody=dump_template(template).decode(),
        Parameters=[
            {"ParameterKey": "FlowName", "ParameterValue": name},
            {"ParameterKey": "S3Bucket", "ParameterValue": bucket},
        ],
        Capabilities=["CAPABILITY_IAM"],
    )
    assert cloudformation.describe_stacks(StackName=name)["Stacks"][0]["StackStatus"] == "CREATE_COMPLETE"
    return name, bucket


@pytest.mark.parametrize("name", [name for name in BUILDS if name not in UNKNOWN_TO_MOTO])
def test_the_resources_that_exist_are_those_of_the_template(name: str, aws: Aws) -> None:
    build = BUILDS[name]
    template = build.template()
    stack, bucket = create_stack(aws, build)
    functions, logs, iam, machines = clients(aws, "lambda", "logs", "iam", "stepfunctions")

    def named(value: Json) -> str:
        text = value["Fn::Sub"] if "Fn::Sub" in value else f"${{{value['Ref']}}}"
        return text.replace("${FlowName}", stack)

    made = [
        each
        for each in functions.list_functions(MaxItems=1000)["Functions"]
        if each["FunctionName"].startswith(f"{stack}-")
    ]
    expected = of_type(template, "AWS::Lambda::Function")
    assert {each["FunctionName"]: (each["MemorySize"], each["Timeout"]) for each in made} == {
        named(each["FunctionName"]): (each["MemorySize"], each["Timeout"]) for each in expected.values()
    }
    for each in made:
        variables = each["Environment"]["Variables"]
        assert (variables["LOKKI_FLOW_NAME"], variables["LOKKI_ARTIFACT_BUCKET"]) == (stack, bucket)

    groups = [
        (group["logGroupName"], group["retentionInDays"])
        for prefix in (f"/aws/lambda/{stack}-", f"/aws/vendedlogs/states/{stack}")
        for group in logs.describe_log_groups(logGroupNamePrefix=prefix)["logGroups"]
    ]
    assert sorted(groups) == sorted(
        (named(each["LogGroupName"]), each["RetentionInDays"])
        for each in of_type(template, "AWS::Logs::LogGroup").values()
    )

    roles = [role for role in iam.list_roles(MaxItems=1000)["Roles"] if role["RoleName"].startswith(f"{stack}-")]
    assert sorted(role["RoleName"].split("-")[1] for role in roles) == sorted(of_type(template, "AWS::IAM::Role"))
    for role in roles:
        policy = iam.get_role_policy(RoleName=role["RoleName"], PolicyName="run")["PolicyDocument"]
        assert "Fn::" not in json.dumps(policy)

    found = [each for each in machines.list_state_machines()["stateMachines"] if each["name"] == stack]
    assert [each["type"] for each in found] == ["STANDARD"]
    kinds = {each["Type"] for each in template["Resources"].values()}
    shown = {
        "AWS::IAM::Role",
        "AWS::Lambda::Function",
        "AWS::Lambda::Version",
        "AWS::Logs::LogGroup",
        "AWS::StepFunctions::StateMachine",
    }
    assert kinds - shown <= NOT_IN_MOTO


@pytest.mark.parametrize("name", BUILDS)
def test_a_whole_stack_has_versions_an_alias_and_its_schedule_and_goes_again(name: str, account: LoopbackAws) -> None:
    build = BUILDS[name]
    cloudformation, s3, iam, functions, states, scheduler = (
        account.client(each) for each in ("cloudformation", "s3", "iam", "lambda", "stepfunctions", "scheduler")
    )
    stack, bucket = f"whole-{name}", account.new_bucket()
    for code in build.packages.values():
        if isinstance(code, ZipCode):
            s3.put_object(Bucket=bucket, Key=code.key, Body=zipped_handler())
    known = {role["Arn"] for role in iam.list_roles(MaxItems=1000)["Roles"]}
    for arn in {build.config.roles.pipeline, build.config.roles.lambda_} - {""} - known:
        iam.create_role(RoleName=arn.rpartition("/")[2], AssumeRolePolicyDocument='{"Version": "2012-10-17"}')
    s3.put_object(Bucket=bucket, Key="template.yaml", Body=dump_template(build.template()))
    given = {"FlowName": stack[:40], "S3Bucket": bucket}
    cloudformation.create_stack(
        StackName=stack,
        TemplateURL=f"https://{bucket}.s3.us-east-1.amazonaws.com/template.yaml",
        Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in given.items()],
        Capabilities=["CAPABILITY_IAM"],
    )
    account.wait()
    [found] = cloudformation.describe_stacks(StackName=stack)["Stacks"]
    assert found["StackStatus"] == "CREATE_COMPLETE", cloudformation.describe_stack_events(StackName=stack)
    outputs = {each["OutputKey"]: each["OutputValue"] for each in found["Outputs"]}
    live = states.describe_state_machine_alias(stateMachineAliasArn=outputs["LiveArn"])
    [route] = live["routingConfiguration"]
    assert route == {"stateMachineVersionArn": f"{outputs['StateMachineArn']}:1", "weight": 100}
    machine = states.describe_state_machine(stateMachineArn=route["stateMachineVersionArn"])
    assert "${" not in machine["definition"]
    invoked = set(re.findall(r"arn:aws:lambda:[^\"]+", machine["definition"]))
    published = {
        version["FunctionArn"]
        for function in of_type(build.template(), "AWS::Lambda::Function").values()
        for version in functions.list_versions_by_function(
            FunctionName=function["FunctionName"]["Fn::Sub"].replace("${FlowName}", given["FlowName"])
        )["Versions"]
        if version["Version"] != "$LATEST"
    }
    assert invoked == published
    schedules = [
        each["Target"]["Arn"] for each in scheduler.list_schedules()["Schedules"] if each["Name"] == stack[:40]
    ]
    has_schedule = bool(of_type(build.template(), "AWS::Scheduler::Schedule"))
    assert schedules == ([outputs["LiveArn"]] if has_schedule else [])
    cloudformation.delete_stack(StackName=stack)
    account.wait()
    assert not [each for each in functions.list_functions()["Functions"] if each["FunctionName"].startswith(stack[:40])]
    assert outputs["StateMachineArn"] not in str(states.list_state_machines())


def test_a_stack_of_images_takes_them_from_the_given_registry(aws: Aws) -> None:
    stack, _ = create_stack(aws, BUILDS["images"])
    (functions,) = clients(aws, "lambda")
    code = functions.get_function(FunctionName=f"{stack}-join")["Code"]
    assert code["ImageUri"] == "123456789012.dkr.ecr.eu-north-1.amazonaws.com/acme/batches-flow/join:8e1c0a54f7d2"


def test_the_outputs_say_where_the_state_machine_its_logs_and_the_artifacts_are(aws: Aws) -> None:
    stack, bucket = create_stack(aws, BUILDS["birds"])
    (cloudformation,) = clients(aws, "cloudformation")
    outputs = cloudformation.describe_stacks(StackName=stack)["Stacks"][0]["Outputs"]
    assert {each["OutputKey"]: each["OutputValue"] for each in outputs} == {
        "StateMachineArn": f"arn:aws:states:us-east-1:123456789012:stateMachine:{stack}",
        "StateMachineLogGroup": f"/aws/vendedlogs/states/{stack}",
        "Artifacts": f"s3://{bucket}/lokki/{stack}/",
    }


# --- what accounts ask for ---

LAYER = "arn:aws:lambda:eu-north-1:123456789012:layer:geometry"


def test_functions_and_log_groups_have_what_the_account_asks_for() -> None:
    build = BUILDS["account"]
    template = build.template()
    key = build.config.kms_key
    function = resource(template, "MeasureBirdFunction")
    assert {name: function.get(name) for name in ("Layers", "VpcConfig", "KmsKeyArn", "LoggingConfig")} == {
        "Layers": [*build.config.lambda_defaults.layers, f"{LAYER}:7"],
        "VpcConfig": {"SubnetIds": ["subnet-0a1b2c3d", "subnet-4e5f6a7b"], "SecurityGroupIds": ["sg-0a1b2c3d"]},
        "KmsKeyArn": key,
        "LoggingConfig": {
            "LogGroup": {"Ref": "MeasureBirdLogGroup"},
            "LogFormat": "JSON",
            "ApplicationLogLevel": "WARN",
        },
    }
    assert (function["EphemeralStorage"], function["ReservedConcurrentExecutions"]) == ({"Size": 2048}, 5)
    assert "ReservedConcurrentExecutions" not in resource(template, "FetchFunction")
    assert {group["KmsKeyId"] for group in of_type(template, "AWS::Logs::LogGroup").values()} == {key}


def test_what_is_of_all_versions_of_a_function_makes_no_new_version() -> None:
    """Lambda publishes none then, and CloudFormation fails with a version that it knows."""

    def versions(**options: object) -> set[str]:
        return {*of_type(template_of(step(**options)(tidy)([1])), "AWS::Lambda::Version")}

    assert versions(reserved_concurrency=5) == versions(reserved_concurrency=6) == versions(memory=512)
    assert versions(layers=[f"{LAYER}:1"]) != versions(layers=[f"{LAYER}:2"])


@pytest.mark.parametrize(("concurrency", "most"), [(None, 5), (3, 3), (8, 5)])
def test_a_map_runs_no_more_of_a_step_than_is_reserved_for_it(concurrency: int | None, most: int) -> None:
    measured = step(reserved_concurrency=5)(double)
    made = template_of(fetch().map(measured, concurrency=concurrency).agg(tidy))
    machine = json.loads(resource(made, "StateMachine")["DefinitionString"])
    assert [state["MaxConcurrency"] for state in machine["States"].values() if state["Type"] == "Map"] == [most]
    assert "MapConcurrency" not in made["Parameters"]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"layers": ["geometry:7"]}, "give the ARN of a layer with its version"),
        ({"layers": [LAYER]}, "give the ARN of a layer with its version"),
        ({"layers": f"{LAYER}:7"}, "give a list of ARNs"),
        ({"reserved_concurrency": 0}, "give a whole number of at least 1"),
        ({"reserved_concurrency": True}, "give a whole number of at least 1"),
    ],
)
def test_options_of_a_step_that_no_account_takes_are_refused(options: dict[str, object], problem: str) -> None:
    with pytest.raises(FlowError, match=problem):
        step(**options)(tidy)


def test_more_layers_than_a_function_has_and_layers_of_an_image_are_refused() -> None:
    six = step(layers=[f"{LAYER}:{number}" for number in range(6)])(tidy)
    with pytest.raises(FlowError, match=r"tidy\(\) has 6 layers with those of lambda_defaults; Lambda takes 5"):
        template_of(six([1]))
    drawn = flow(lambda_flow)()
    with pytest.raises(FlowError, match=r"with_layer\(\) has layers, which are for zip packages"):
        build_template(drawn, LokkiConfig(), {"with_layer": ImageCode("f/with_layer", "")})


@step(layers=[f"{LAYER}:1"])
def with_layer() -> int:
    return 1


def lambda_flow():
    return with_layer()


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (
            {"lambda_defaults": {"layers": ["geometry"]}},
            "lambda_defaults.layers: 'geometry' is not valid: give the ARN",
        ),
        ({"lambda_defaults": {"vpc": {"subnets": ["subnet-1"]}}}, "vpc.security_groups: is empty"),
        ({"lambda_defaults": {"vpc": {"security_groups": ["sg-1"]}}}, "vpc.subnets: is empty"),
        (
            {"lambda_defaults": {"vpc": {"subnets": ["10.0.0.0/24"], "security_groups": ["web"]}}},
            "vpc.security_groups: 'web' is not valid: the id of a security group is sg-",
        ),
        ({"encrypt": ["logs"]}, "encrypt: logs with which key? Set kms_key"),
        (
            {"package_type": "image", "ecr_repo_prefix": "r", "lambda_defaults": {"layers": [f"{LAYER}:1"]}},
            "layers is for zip packages",
        ),
    ],
)
def test_settings_that_no_account_takes_are_refused(settings: dict[str, object], problem: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(problem)):
        check_settings(LokkiConfig.from_dict({"artifact_bucket": "acme-artifacts", **settings}))
