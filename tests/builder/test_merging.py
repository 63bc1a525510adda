"""The user's own template is read, checked, and merged into lokki's; steps get what its resources are called."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from build_flows import BUILDS, double, fetch, single_flow, tidy

from lokki import Allow, FlowError, Resource, RunError, StepNode, flow, step
from lokki.base.values import Json
from lokki.builder.cloudformation import build_template
from lokki.builder.merging import UserTemplate, read_user_template
from lokki.builder.package_types import ZipCode
from lokki.builder.settings import check_settings
from lokki.config import LokkiConfig, load_config
from lokki.deploy.pruning import step_function_ids
from lokki.emulator.template import Stack
from lokki.errors import ConfigError

TABLE = """
Resources:
  Table:
    Type: AWS::DynamoDB::Table
    Properties: {TableName: birds}
"""


def read(folder: Path, text: str) -> UserTemplate:
    path = folder / "infra.yaml"
    path.write_text(text)
    return read_user_template(str(path))


def test_each_section_of_the_users_template_stands_beside_lokkis() -> None:
    template = BUILDS["account"].template()
    assert template["Resources"]["Jobs"]["Properties"] == {
        "QueueName": {"Fn::Sub": "${FlowName}-jobs"},
        "MessageRetentionPeriod": 345_600,
    }
    assert template["Conditions"]["IsWatched"] == {"Fn::Not": [{"Fn::Equals": [{"Ref": "KeepDays"}, 0]}]}
    assert {"KeepDays", "FlowName"} <= template["Parameters"].keys()
    assert {"JobsUrl", "StateMachineArn"} <= template["Outputs"].keys()
    order = ["AWSTemplateFormatVersion", "Description", "Parameters", "Conditions", "Resources", "Outputs"]
    assert [*template] == order


def test_a_step_gets_what_a_resource_is_called_and_may_use_it() -> None:
    resources = BUILDS["account"].template()["Resources"]
    variables = resources["MeasureBirdFunction"]["Properties"]["Environment"]["Variables"]
    assert (variables["JOBS"], variables["BIRD"]) == ({"Ref": "Jobs"}, "goose")
    assert "LOKKI_RESOURCES" not in resources["FetchFunction"]["Properties"]["Environment"]["Variables"]
    statements = resources["MeasureBirdFunctionRole"]["Properties"]["Policies"][0]["PolicyDocument"]["Statement"]
    assert [entry["Resource"] for entry in statements if entry["Sid"] == "Allow1"] == [
        [{"Fn::GetAtt": ["Jobs", "Arn"]}]
    ]


def test_another_table_makes_another_version_of_the_functions_that_name_it(tmp_path: Path) -> None:
    """A version has the variables of when it was made, so that it would go on with a table that is gone."""

    def versions(text: str) -> set[str]:
        naming = step(env={"TABLE": Resource("Table")})(double)

        @flow
        def some_flow():
            return fetch().map(naming).agg(tidy)

        drawn = some_flow()
        packages = {one.name: ZipCode(one.name) for one in drawn.steps}
        resources = build_template(drawn, LokkiConfig(), packages, read(tmp_path, text))["Resources"]
        return {name for name, entry in resources.items() if entry["Type"] == "AWS::Lambda::Version"}

    before, after = versions(TABLE), versions(TABLE.replace("birds", "geese"))
    assert sorted(name[:13] for name in before ^ after) == ["DoubleVersion", "DoubleVersion"]
    assert versions(TABLE) == versions(TABLE + "  Other: {Type: AWS::SNS::Topic}\n")


def test_json_and_short_forms_and_dates_are_read_as_cloudformation_reads_them(tmp_path: Path) -> None:
    text = """
AWSTemplateFormatVersion: 2010-09-09
Resources:
  Role:
    Type: AWS::IAM::Role
    Properties:
      AssumeRolePolicyDocument: {Version: 2012-10-17, Statement: []}
      Tags: [{Key: of, Value: !GetAtt Other.Nested.Name}, {Key: if, Value: !If [Big, !Ref A, !Sub "${B}"]}]
"""
    properties = {
        "AssumeRolePolicyDocument": {"Version": "2012-10-17", "Statement": []},
        "Tags": [
            {"Key": "of", "Value": {"Fn::GetAtt": ["Other", "Nested.Name"]}},
            {"Key": "if", "Value": {"Fn::If": ["Big", {"Ref": "A"}, {"Fn::Sub": "${B}"}]}},
        ],
    }
    expected: dict[str, Json] = {"Role": {"Type": "AWS::IAM::Role", "Properties": properties}}
    assert read(tmp_path, text).resources == expected
    assert read(tmp_path, json.dumps({"Resources": expected})).resources == expected
    assert read_user_template("").resources == {}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "infra.yaml is no template of CloudFormation: it has no section Resources."),
        ("Resources: []", "infra.yaml is no template of CloudFormation"),
        ("Resources:\n  A: {Type: AWS::SNS::Topic\n", "infra.yaml:3: "),
        ("Resources:\n  A: {}", "infra.yaml: Resources.A has no Type."),
        ("Transform: X\nResources: {}", "infra.yaml: Transform cannot be merged; lokki merges Parameters, Mappings"),
        ("Resources:\n  A: {Type: T}\n  A: {Type: T}", "infra.yaml:3: A stands twice"),
        ("Parameters:\n  P: {Type: String}\nResources: {}", "infra.yaml:2: Parameters.P has no Default"),
        ("Outputs: 1\nResources: {}", "infra.yaml: Outputs must be a section of names"),
        ("Resources:\n  ? [A]\n  : {Type: T}", "infra.yaml:2: a name must be a text"),
        ("Parameters:\n  1: {Type: String}\nResources: {}", "infra.yaml:2: Parameters.1 has no Default"),
        ("Resources: {A: {Type: \x07}}", "infra.yaml is no YAML: unacceptable character #x0007"),
        ("Resources: {A: {Type: T, P: .nan}}", "infra.yaml has a value that JSON does not have: Out of range"),
        ("Resources: {A: {Type: T, P: !!binary aGk=}}", "infra.yaml has a value that JSON does not have: Object of"),
        ("Resources: &a {A: {Type: T, P: *a}}", "infra.yaml has a value that JSON does not have: Circular"),
        ('{"Resources": {"A": {"Type": "\\ud800"}}}', "infra.yaml has a value that JSON does not have: 'utf-8'"),
    ],
)
def test_what_cannot_be_merged_is_refused_with_its_place(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as error:
        read(tmp_path, text)
    assert str(error.value).removeprefix(f"{tmp_path}/").startswith(problem)


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"merge_template: .*/none\.yaml cannot be read: No such file or directory"):
        read_user_template(str(tmp_path / "none.yaml"))


def test_more_resources_of_both_than_a_stack_holds_are_refused(tmp_path: Path) -> None:
    user = read(tmp_path, json.dumps({"Resources": {f"T{number}": {"Type": "T"} for number in range(495)}}))
    with pytest.raises(FlowError, match=r"infra\.yaml has 495 resources and the flow 'single-flow' makes \d+; a stack"):
        build_template(single_flow(), LokkiConfig(), {"fetch": ZipCode("fetch")}, user)


def test_names_that_lokki_uses_are_refused_with_both_places(tmp_path: Path) -> None:
    text = "Parameters:\n  S3Bucket: {Type: String, Default: b}\nResources:\n  StateMachine: {Type: AWS::SNS::Topic}\n"
    drawn = single_flow()
    with pytest.raises(ConfigError) as error:
        build_template(drawn, LokkiConfig(), {"fetch": ZipCode("fetch")}, read(tmp_path, text))
    taken = "is a name that lokki uses too:"
    machine = "Resources.StateMachine (AWS::StepFunctions::StateMachine)"
    assert str(error.value).replace(f"{tmp_path}/", "").splitlines() == [
        f"infra.yaml:2: Parameters.S3Bucket {taken} Parameters.S3Bucket in template.yaml. Rename yours.",
        f"infra.yaml:4: Resources.StateMachine {taken} {machine} in template.yaml. Rename yours.",
    ]


@pytest.mark.parametrize(
    ("options", "text", "problem"),
    [
        (
            {"env": {"TABLE": Resource("Tabel")}},
            TABLE,
            r'env TABLE is Resource\("Tabel"\), and .* no such resource; it has',
        ),
        ({"env": {"TABLE": Resource("Table")}}, "", "there is no template with it: set merge_template in lokki.yml"),
        ({"permissions": [Allow("sqs:SendMessage", Resource("Queue.Arn"))]}, TABLE, "a permission is Resource"),
    ],
)
def test_a_resource_that_there_is_not_is_refused(
    tmp_path: Path, options: dict[str, object], text: str, problem: str
) -> None:
    naming = step(**options)(fetch)

    @flow
    def some_flow():
        return naming()

    user = read(tmp_path, text) if text else read_user_template("")
    with pytest.raises(FlowError, match=rf"fetch\(\): .*{problem}"):
        build_template(some_flow(), LokkiConfig(), {"fetch": ZipCode("fetch")}, user)


@pytest.mark.parametrize("name", ["", "my-table", "Table.", "Table Arn", None])
def test_what_names_no_resource_is_refused(name: str) -> None:
    with pytest.raises(FlowError, match=r"give the logical id of a resource, such as Resource\(\"Table\"\)"):
        Resource(name)


@pytest.mark.parametrize("env", [{"A": 1}, {"AWS_REGION": Resource("Table")}, {1: Resource("Table")}])
def test_variables_that_no_function_has_are_refused(env: dict[str, str]) -> None:
    with pytest.raises((FlowError, TypeError)):
        step(env=env)(tidy)


def test_on_this_machine_the_variable_says_which_resource_to_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @step(env={"TABLE": Resource("Table")})
    def table() -> str:
        return os.environ["TABLE"]

    @flow
    def some_flow():
        return table()

    here = some_flow.using(root=tmp_path, progress=False, executor="inline")
    monkeypatch.delenv("TABLE", raising=False)
    with pytest.raises(
        RunError, match=r'TABLE of table\(\) is Resource\("Table"\), which is a resource of the deployed'
    ):
        here.run()
    monkeypatch.setenv("TABLE", "birds-of-mine")
    assert here.run() == "birds-of-mine"


def test_a_function_of_the_users_own_is_neither_pruned_nor_emulated(tmp_path: Path) -> None:
    text = "Resources:\n  MyFunction: {Type: AWS::Lambda::Function, Properties: {Runtime: nodejs22.x}}\n"
    user = read(tmp_path, text)
    template = build_template(single_flow(), LokkiConfig(), {"fetch": ZipCode("fetch")}, user)
    assert step_function_ids(template) == {"FetchFunction"}
    functions = Stack(template, frozenset(user.resources)).of_type("AWS::Lambda::Function")
    assert [fields.text("Handler") for fields in functions] == ["handler.lambda_handler"]


def test_the_page_on_accounts_is_true(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs" / "account.md").read_text()
    [settings] = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    [infra] = re.findall(r"```text\n(Resources:.*?)```", page, re.DOTALL)
    code = "\n".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL))
    (tmp_path / "lokki.yml").write_text(f"{settings}artifact_bucket: acme\nmerge_template: infra.yaml\n")
    (tmp_path / "infra.yaml").write_text(infra)
    monkeypatch.chdir(tmp_path)
    config = load_config(tmp_path, {}, home=tmp_path / "home")
    check_settings(config)
    names: dict[str, StepNode[[str], str]] = {}
    exec(f"from lokki import Allow, Resource, step\n{code}", names)

    @flow
    def some_flow():
        return names["look_up"]("goose").next(names["measure"])

    drawn = some_flow()
    packages = {one.name: ZipCode(one.name) for one in drawn.steps}
    resources = build_template(drawn, config, packages, read_user_template(config.merge_template))["Resources"]
    function = resources["LookUpFunction"]["Properties"]
    assert function["Environment"]["Variables"]["TABLE"] == {"Ref": "Birds"}
    assert function["VpcConfig"]["SecurityGroupIds"] == ["sg-0a1b2c3d"]
    assert function["EphemeralStorage"] == {"Size": 2048}
    measured = resources["MeasureFunction"]["Properties"]
    assert (measured["ReservedConcurrentExecutions"], len(measured["Layers"])) == (5, 2)
