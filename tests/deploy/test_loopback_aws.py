"""The AWS account on loopback that other tests deploy to: what it does must be what AWS documents."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from aws.loopback_aws import LoopbackAws
from aws.loopback_history import Histories, Record, branches_of
from botocore.exceptions import ClientError
from support.emulated_project import FLOWS, Project, make_project
from support.emulation import START, machine, make_world, task

from lokki.builder.builder import Builder
from lokki.config import LokkiConfig
from lokki.graph import FlowGraph
from lokki.loading import load_flow

type Parts = dict[str, Any]

ROLE = {
    "Type": "AWS::IAM::Role",
    "Properties": {
        "AssumeRolePolicyDocument": {
            "Version": "2012-10-17",
            "Statement": [{"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "*"}],
        }
    },
}

STATES = """{"QueryLanguage": "JSONata", "StartAt": "Work", "States": {"Work": {"Type": "Task",
 "Resource": "arn:aws:states:::lambda:invoke", "End": true, "Output": "{% $states.result %}",
 "Arguments": {"FunctionName": "${Work}", "Payload": "{% $states.input %}"}}}}"""

VERSIONED = """
Resources:
  Role: {Type: AWS::IAM::Role, Properties: {AssumeRolePolicyDocument: {Version: "2012-10-17", Statement: []}}}
  Log: {Type: AWS::Logs::LogGroup, Properties: {LogGroupName: !Sub "/own/${AWS::StackName}", RetentionInDays: 7}}
  Work:
    Type: AWS::Lambda::Function
    Properties:
      FunctionName: !Sub "${AWS::StackName}-work"
      Role: !GetAtt Role.Arn
      Runtime: python3.13
      Handler: index.handler
      MemorySize: 256
      Timeout: 2
      LoggingConfig: {LogGroup: !Ref Log}
      Environment: {Variables: {ANSWER: one}}
      Code:
        ZipFile: |
          import os, time
          def handler(event, context):
              print("asked")
              time.sleep(event.get("seconds", 0))
              return [os.environ["ANSWER"], context.function_version, context.invoked_function_arn]
  WorkVersion1:
    Type: AWS::Lambda::Version
    DeletionPolicy: Retain
    UpdateReplacePolicy: Retain
    Properties: {FunctionName: !Ref Work}
  StateMachine:
    Type: AWS::StepFunctions::StateMachine
    Properties:
      StateMachineName: !Ref AWS::StackName
      RoleArn: !GetAtt Role.Arn
      DefinitionString: '@STATES'
      DefinitionSubstitutions: {Work: !Ref WorkVersion1}
  Published:
    Type: AWS::StepFunctions::StateMachineVersion
    DeletionPolicy: Retain
    UpdateReplacePolicy: Retain
    Properties:
      StateMachineArn: !Ref StateMachine
      StateMachineRevisionId: !GetAtt StateMachine.StateMachineRevisionId
  Live:
    Type: AWS::StepFunctions::StateMachineAlias
    Properties:
      Name: live
      DeploymentPreference: {Type: ALL_AT_ONCE, StateMachineVersionArn: !Ref Published}
  Nightly:
    Type: AWS::Scheduler::Schedule
    Properties:
      Name: !Ref AWS::StackName
      ScheduleExpression: rate(1 day)
      FlexibleTimeWindow: {Mode: "OFF"}
      Target: {Arn: !Ref Live, RoleArn: !GetAtt Role.Arn, Input: "{}"}
Outputs:
  Live: {Value: !Ref Live}
""".replace("@STATES", STATES.replace("\n", ""))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return make_project(tmp_path_factory.mktemp("project"))


class Deployer:
    """Deploys by change sets, as lokki is to do it."""

    def __init__(self, account: LoopbackAws) -> None:
        self.account = account
        self.bucket = account.new_bucket()
        self.cloudformation: Any = account.client("cloudformation")
        self.states: Any = account.client("stepfunctions")
        self.s3: Any = account.client("s3")

    def build(self, graph: FlowGraph, folder: Path) -> str:
        """Build a flow and upload its packages; return the template."""
        config = LokkiConfig(artifact_bucket=self.bucket, build_dir=str(folder))
        Builder(write=lambda line: None).build(graph, config)
        for package in json.loads((folder / "build.json").read_bytes())["packages"].values():
            self.s3.upload_file(str(folder / package["zip"]), self.bucket, package["key"])
        return (folder / "template.yaml").read_text(encoding="utf-8")

    def change_set(self, name: str, template: str | Parts, *, create: bool) -> Parts:
        text = template if isinstance(template, str) else yaml.safe_dump(template, sort_keys=False)
        made = self.cloudformation.create_change_set(
            StackName=name,
            ChangeSetName="change",
            ChangeSetType="CREATE" if create else "UPDATE",
            TemplateBody=text,
            Capabilities=["CAPABILITY_IAM"],
        )
        found: Parts = self.cloudformation.describe_change_set(ChangeSetName=made["Id"])
        return found

    def deploy(self, name: str, template: str | Parts, *, create: bool = True) -> Parts:
        """Deploy; return the stack."""
        made = self.change_set(name, template, create=create)
        assert made["Status"] == "CREATE_COMPLETE", made
        self.cloudformation.execute_change_set(ChangeSetName=made["ChangeSetId"])
        self.account.wait()
        self.cloudformation.delete_change_set(ChangeSetName=made["ChangeSetId"])
        return self.stack(name)

    def stack(self, name: str) -> Parts:
        [found] = self.cloudformation.describe_stacks(StackName=name)["Stacks"]
        return dict(found)

    def delete(self, name: str) -> None:
        self.cloudformation.delete_stack(StackName=name)
        self.account.wait()

    def told(self, name: str) -> list[tuple[str, str]]:
        events = self.cloudformation.describe_stack_events(StackName=name)["StackEvents"]
        return [(each["LogicalResourceId"], each["ResourceStatus"]) for each in reversed(events)]

    def start(self, arn: str, name: str, given: Parts) -> str:
        found = self.states.start_execution(stateMachineArn=arn, name=name, input=json.dumps(given))
        return str(found["executionArn"])

    def kinds(self, execution: str) -> list[str]:
        pages = self.states.get_paginator("get_execution_history").paginate(executionArn=execution)
        return [event["type"] for page in pages for event in page["events"]]


@pytest.fixture(scope="module")
def deployer(account: LoopbackAws) -> Deployer:
    return Deployer(account)


@pytest.fixture(scope="module")
def strict(deployer: Deployer, project: Project, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A deployed flow whose items fail if they are even; its state machine's ARN."""
    template = deployer.build(project.flow("strict"), tmp_path_factory.mktemp("strict") / "build")
    outputs = deployer.deploy("strict-stack", template)["Outputs"]
    return str(next(each["OutputValue"] for each in outputs if each["OutputKey"] == "StateMachineArn"))


@contextmanager
def refused(code: str) -> Iterator[pytest.ExceptionInfo[ClientError]]:
    with pytest.raises(ClientError) as caught:
        yield caught
    assert caught.value.response["Error"]["Code"] == code


def until(condition: Callable[[], object]) -> None:
    ends = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.02)


def function(name: str, code: Parts, **properties: Any) -> Parts:
    return {
        "Type": "AWS::Lambda::Function",
        "Properties": {
            "FunctionName": name,
            "Role": {"Fn::GetAtt": ["Role", "Arn"]},
            "Runtime": "python3.13",
            "Handler": "index.handler",
            "Code": code,
            **properties,
        },
    }


def resources(**given: Parts) -> Parts:
    return {"Resources": {"Role": ROLE, **given}}


INLINE = {"ZipFile": "def handler(event, context):\n    return event\n"}


def test_what_lokki_builds_deploys_and_runs(
    deployer: Deployer, project: Project, tmp_path: Path, account: LoopbackAws
) -> None:
    template = deployer.build(project.flow("doubled"), tmp_path / "build")
    stack = deployer.deploy("doubled-stack", template)
    assert stack["StackStatus"] == "CREATE_COMPLETE"
    outputs = {each["OutputKey"]: each["OutputValue"] for each in stack["Outputs"]}
    execution = deployer.start(outputs["StateMachineArn"], "run-1", {"count": 3})
    account.wait()
    found = deployer.states.describe_execution(executionArn=execution)
    assert (found["status"], json.loads(found["output"])) == ("SUCCEEDED", {"result": 6})
    assert deployer.kinds(execution) == [
        "ExecutionStarted",
        *("TaskStateEntered", "TaskScheduled", "TaskStarted", "TaskSucceeded", "TaskStateExited"),
        *("MapStateEntered", "MapStateStarted", "MapRunStarted", "MapRunSucceeded", "MapStateSucceeded"),
        "MapStateExited",
        *("TaskStateEntered", "TaskScheduled", "TaskStarted", "TaskSucceeded", "TaskStateExited"),
        "ExecutionSucceeded",
    ]
    deployer.delete("doubled-stack")
    with refused("ValidationError"):
        deployer.stack("doubled-stack")
    clients: Any = account.client
    assert "doubled" not in str(clients("lambda").list_functions()["Functions"])
    assert "doubled" not in str(clients("iam").list_roles()["Roles"])
    assert "doubled" not in str(clients("logs").describe_log_groups()["logGroups"])
    assert "doubled" not in str(deployer.states.list_state_machines()["stateMachines"])
    with refused("ExecutionDoesNotExist"):
        deployer.states.describe_execution(executionArn=execution)


def test_a_map_run_and_its_children_are_told(deployer: Deployer, strict: str, account: LoopbackAws) -> None:
    execution = deployer.start(strict, "mapped", {"count": 4})
    account.wait()
    assert deployer.states.describe_execution(executionArn=execution)["error"] == (
        "States.ExceedToleratedFailureThreshold"
    )
    [listed] = deployer.states.list_map_runs(executionArn=execution)["mapRuns"]
    map_run = deployer.states.describe_map_run(mapRunArn=listed["mapRunArn"])
    assert (map_run["status"], map_run["executionArn"]) == ("FAILED", execution)
    assert (map_run["itemCounts"]["total"], map_run["executionCounts"]["total"]) == (4, 4)
    assert map_run["itemCounts"]["failed"] >= 1
    children = deployer.states.list_executions(mapRunArn=listed["mapRunArn"], statusFilter="FAILED")["executions"]
    assert len(children) == map_run["itemCounts"]["failed"]
    child = deployer.states.describe_execution(executionArn=children[0]["executionArn"])
    assert (child["error"], child["mapRunArn"], child["redriveStatus"]) == (
        "ValueError",
        listed["mapRunArn"],
        "REDRIVABLE_BY_MAP_RUN",
    )
    assert deployer.kinds(child["executionArn"])[-2:] == ["TaskFailed", "ExecutionFailed"]


def test_history_is_paged_and_told_backwards_and_without_data(
    deployer: Deployer, strict: str, account: LoopbackAws
) -> None:
    execution = deployer.start(strict, "paged", {"count": 1})
    account.wait()
    first = deployer.states.get_execution_history(executionArn=execution, maxResults=3)
    second = deployer.states.get_execution_history(executionArn=execution, maxResults=3, nextToken=first["nextToken"])
    assert [event["id"] for event in first["events"] + second["events"]] == [1, 2, 3, 4, 5, 6]
    last = deployer.states.get_execution_history(executionArn=execution, reverseOrder=True, includeExecutionData=False)
    assert last["events"][0]["type"] == "ExecutionFailed"
    assert "input" not in last["events"][-1]["executionStartedEventDetails"]
    assert "input" in first["events"][0]["executionStartedEventDetails"]


def test_each_event_of_a_branch_follows_on_the_one_before_it_in_the_branch() -> None:
    """As in https://docs.aws.amazon.com/step-functions/latest/apireference/API_HistoryEvent.html, previousEventId."""
    began, inner_ended = threading.Event(), threading.Event()

    def slow(event: object) -> None:
        began.set()
        assert inner_ended.wait(60)

    def quick(event: object) -> None:
        assert began.wait(60)

    def last(event: object) -> None:
        inner_ended.set()

    def fork(*branches: Parts, **fields: str) -> Parts:
        states = [{"StartAt": next(iter(branch)), "States": branch} for branch in branches]
        return {"Type": "Parallel", "Branches": states, **(fields or {"End": True})}

    inner = fork({"C": task("quick")}, {"D": task("quick")}, Next="E")
    both = fork({"A": task("slow", Next="A2"), "A2": task("quick")}, {"Inner": inner, "E": task("last")}, Next="Last")
    definition: Any = machine({"Both": both, "Last": task("quick")})
    world = make_world({"slow": slow, "quick": quick, "last": last})
    world.start(definition).run()
    record = Record("arn", "run", "machine", "{}", START, branches=branches_of(definition["States"]))
    histories = Histories(record)
    for event in world.history:
        histories.follow(event)
    ids = {(each["type"], name_of(each)): each["id"] for each in record.events if name_of(each)}
    before = {(each["type"], name_of(each)): each["previousEventId"] for each in record.events}
    entries = {name: before["TaskStateEntered", name] for name in ("A", "A2", "C", "D", "E", "Last")}
    starts = [each["id"] for each in record.events if each["type"] == "ParallelStateStarted"]
    ends = [each for each in record.events if each["type"] == "ParallelStateSucceeded"]
    assert entries == {
        "A": starts[0],
        "A2": ids["TaskStateExited", "A"],
        "C": starts[1],
        "D": starts[1],
        "E": ids["ParallelStateExited", "Inner"],
        "Last": ids["ParallelStateExited", "Both"],
    }
    assert before["ParallelStateEntered", "Inner"] == starts[0]
    assert [each["previousEventId"] for each in ends] == [
        max(ids["TaskStateExited", name] for name in names) for names in ("CD", ("A2", "E"))
    ]


def name_of(event: Parts) -> str:
    details = event.get("stateEnteredEventDetails") or event.get("stateExitedEventDetails") or {}
    return str(details.get("name", ""))


def test_what_functions_write_is_in_their_log_groups(deployer: Deployer, strict: str, account: LoopbackAws) -> None:
    deployer.start(strict, "logged", {"count": 1})
    account.wait()
    logs: Any = account.client("logs")
    found = logs.filter_log_events(logGroupName="/aws/lambda/strict-numbers")["events"]
    lines = [each["message"] for each in found if "logged" in each["message"]]
    assert [json.loads(line)["event"] for line in lines] == ["start", "end"]
    kinds = [each["message"].split(" ")[0] for each in found if each["logStreamName"] == found[0]["logStreamName"]]
    assert (kinds[0], kinds[-2:]) == ("START", ["END", "REPORT"])
    assert [each["timestamp"] for each in found] == sorted(each["timestamp"] for each in found)


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("", ["a", "b", "c"]),
        ('{ $.run = "r1" }', ["a"]),
        ('{ ($.run = "r*") && ($.n >= 2) }', ["b"]),
        ('{ $.run != "r1" || $.error.kind = "Late" }', ["a", "b"]),
        ("{ $.error NOT EXISTS }", ["b"]),
        ('"no json"', ["c"]),
        ("?plain ?r2 -json", ["b"]),
    ],
)
def test_log_events_are_filtered(account: LoopbackAws, pattern: str, found: list[str]) -> None:
    logs: Any = account.client("logs")
    name = f"/filtered/{abs(hash(pattern))}"
    logs.create_log_group(logGroupName=name)
    messages = {
        "a": '{"run": "r1", "n": 1, "error": {"kind": "Late"}}',
        "b": '{"run": "r2", "n": 2}',
        "c": "plain, no json",
    }
    for stream, message in messages.items():
        logs.create_log_stream(logGroupName=name, logStreamName=stream)
        event = {"timestamp": int(time.time() * 1000), "message": message}
        logs.put_log_events(logGroupName=name, logStreamName=stream, logEvents=[event])
    events = logs.filter_log_events(logGroupName=name, filterPattern=pattern)["events"]
    assert sorted(each["logStreamName"] for each in events) == found
    logs.delete_log_group(logGroupName=name)


def test_a_wrong_filter_pattern_is_refused(deployer: Deployer, strict: str, account: LoopbackAws) -> None:
    logs: Any = account.client("logs")
    for pattern in ("{ $.run = }", "{ run = 1 }", "{ $.run"):
        with refused("InvalidParameterException"):
            logs.filter_log_events(logGroupName="/aws/lambda/strict-numbers", filterPattern=pattern)


def test_a_run_keeps_its_code_when_it_is_redriven_and_a_new_one_has_the_mended(
    deployer: Deployer, project: Project, tmp_path: Path, account: LoopbackAws
) -> None:
    template = deployer.build(project.flow("strict"), tmp_path / "build").replace("Default: strict", "Default: mended")
    stack = deployer.deploy("mended", template)
    machine = stack["Outputs"][0]["OutputValue"]
    execution = deployer.start(machine, "run-1", {"count": 3})
    account.wait()
    [before] = deployer.states.list_map_runs(executionArn=execution)["mapRuns"]
    (tmp_path / "mended_flows.py").write_text(FLOWS.replace("number % 2 == 0", "False").replace("wörtlich", "plain"))
    mended = load_flow(f"{tmp_path / 'mended_flows.py'}:strict")()
    with_mend = deployer.build(mended, tmp_path / "mend").replace("Default: strict", "Default: mended")
    changes = deployer.change_set("mended", with_mend, create=False)["Changes"]
    assert {each["ResourceChange"]["Action"] for each in changes} == {"Add", "Modify", "Remove"}
    deployer.cloudformation.execute_change_set(StackName="mended", ChangeSetName="change")
    account.wait()
    deployer.states.redrive_execution(executionArn=execution)
    account.wait()
    found = deployer.states.describe_execution(executionArn=execution)
    assert (found["status"], found["redriveCount"]) == ("FAILED", 1)
    again = deployer.start(f"{machine}:live", "run-2", {"count": 3})
    account.wait()
    found = deployer.states.describe_execution(executionArn=again)
    assert (found["status"], json.loads(found["output"])) == ("SUCCEEDED", {"result": [0, 1, 2]})
    [after] = deployer.states.list_map_runs(executionArn=execution)["mapRuns"]
    assert after["mapRunArn"] == before["mapRunArn"]
    assert deployer.states.describe_map_run(mapRunArn=after["mapRunArn"])["redriveCount"] == 1
    assert {"ExecutionRedriven", "MapRunRedriven"} <= set(deployer.kinds(execution))
    with refused("ExecutionNotRedrivable"):
        deployer.states.redrive_execution(executionArn=again)
    deployer.delete("mended")


@pytest.fixture(scope="module")
def versioned(deployer: Deployer) -> str:
    """A stack with versions and an alias; the alias's ARN."""
    return str(deployer.deploy("versioned", VERSIONED)["Outputs"][0]["OutputValue"])


def test_starts_are_idempotent_while_they_run(deployer: Deployer, versioned: str, account: LoopbackAws) -> None:
    first = deployer.start(versioned, "slow", {"seconds": 0.5})
    assert deployer.start(versioned, "slow", {"seconds": 0.5}) == first
    with refused("ExecutionAlreadyExists"):
        deployer.start(versioned, "slow", {"seconds": 0.6})
    with refused("ExecutionNotRedrivable"):
        deployer.states.redrive_execution(executionArn=first)
    account.wait()
    with refused("ExecutionAlreadyExists"):
        deployer.start(versioned, "slow", {"seconds": 0.5})
    with refused("InvalidName"):
        deployer.start(versioned, "a b", {})
    with refused("InvalidExecutionInput"):
        deployer.states.start_execution(stateMachineArn=versioned, input="{")
    with refused("StateMachineDoesNotExist"):
        deployer.start(versioned.replace("live", "dead"), "x", {})
    with refused("ExecutionDoesNotExist"):
        deployer.states.describe_execution(executionArn=f"{first}-not")


def test_an_execution_is_stopped_and_redriven(deployer: Deployer, versioned: str, account: LoopbackAws) -> None:
    execution = deployer.start(versioned, "stopped", {"seconds": 1})
    until(lambda: "TaskStarted" in deployer.kinds(execution))
    deployer.states.stop_execution(executionArn=execution, error="Enough", cause="It is late.")
    found = deployer.states.describe_execution(executionArn=execution)
    assert (found["status"], found["error"], found["redriveStatus"]) == ("ABORTED", "Enough", "REDRIVABLE")
    account.wait()
    assert deployer.kinds(execution)[-1] == "ExecutionAborted"
    deployer.states.redrive_execution(executionArn=execution)
    account.wait()
    assert deployer.states.describe_execution(executionArn=execution)["status"] == "SUCCEEDED"


def test_a_running_map_is_stopped_and_redriven_without_losing_items(
    deployer: Deployer, strict: str, account: LoopbackAws, project: Project, tmp_path: Path
) -> None:
    template = deployer.build(project.flow("batched"), tmp_path / "build")
    template = template.replace("Default: batched", "Default: stopped")
    machine = deployer.deploy("stopped", template)["Outputs"][0]["OutputValue"]
    execution = deployer.start(machine, "run-1", {"count": 3000})
    until(lambda: "MapRunStarted" in deployer.kinds(execution))
    deployer.states.stop_execution(executionArn=execution)
    account.wait()
    assert deployer.kinds(execution)[-2:] == ["MapRunAborted", "ExecutionAborted"]
    deployer.states.redrive_execution(executionArn=execution)
    account.wait()
    found = deployer.states.describe_execution(executionArn=execution)
    assert json.loads(found["output"]) == {"result": 3000 * 2999}
    deployer.delete("stopped")


def test_versions_stay_what_they_were(deployer: Deployer, versioned: str, account: LoopbackAws) -> None:
    machine, _, _ = versioned.rpartition(":")
    function_arn = "arn:aws:lambda:us-east-1:123456789012:function:versioned-work"

    def answer(arn: str, name: str) -> list[str]:
        execution = deployer.start(arn, name, {})
        account.wait()
        output = json.loads(deployer.states.describe_execution(executionArn=execution)["output"])
        assert output["ExecutedVersion"] == output["Payload"][1]
        return list(output["Payload"])

    assert answer(versioned, "first") == ["one", "1", f"{function_arn}:1"]
    changed = VERSIONED.replace("ANSWER: one", "ANSWER: two").replace("WorkVersion1", "WorkVersion2")
    changes = {
        each["ResourceChange"]["LogicalResourceId"]: each["ResourceChange"]
        for each in deployer.change_set("versioned", changed, create=False)["Changes"]
    }
    summary = {name: (each["Action"], each.get("Replacement")) for name, each in changes.items()}
    assert summary == {
        "WorkVersion2": ("Add", None),
        "Work": ("Modify", "False"),
        "StateMachine": ("Modify", "False"),
        "Published": ("Modify", "Conditional"),
        "Live": ("Modify", "False"),
        "WorkVersion1": ("Remove", None),
    }
    [detail] = changes["Work"]["Details"]
    assert detail["Target"] == {"Attribute": "Properties", "Name": "Environment", "RequiresRecreation": "Never"}
    [detail] = changes["Published"]["Details"]
    assert (detail["Evaluation"], detail["ChangeSource"], detail["CausingEntity"]) == (
        "Dynamic",
        "ResourceAttribute",
        "StateMachine.StateMachineRevisionId",
    )
    assert changes["WorkVersion1"]["PolicyAction"] == "Retain"
    deployer.cloudformation.execute_change_set(StackName="versioned", ChangeSetName="change")
    account.wait()
    assert deployer.stack("versioned")["StackStatus"] == "UPDATE_COMPLETE"
    assert answer(versioned, "second") == ["two", "2", f"{function_arn}:2"]
    assert answer(f"{machine}:1", "third") == ["one", "1", f"{function_arn}:1"]
    listed = deployer.states.list_state_machine_versions(stateMachineArn=machine)["stateMachineVersions"]
    assert [each["stateMachineVersionArn"] for each in listed] == [f"{machine}:2", f"{machine}:1"]
    by_version = deployer.states.list_executions(stateMachineArn=f"{machine}:1")["executions"]
    assert "third" in [each["name"] for each in by_version]
    assert "second" not in [each["name"] for each in by_version]
    alias = deployer.states.describe_state_machine_alias(stateMachineAliasArn=versioned)
    assert alias["routingConfiguration"] == [{"stateMachineVersionArn": f"{machine}:2", "weight": 100}]
    with refused("ConflictException"):
        deployer.states.delete_state_machine_version(stateMachineVersionArn=f"{machine}:2")
    deployer.states.update_state_machine_alias(
        stateMachineAliasArn=versioned, routingConfiguration=[{"stateMachineVersionArn": f"{machine}:1", "weight": 100}]
    )
    assert answer(versioned, "back")[0] == "one"
    started = deployer.states.describe_execution(executionArn=f"{machine.replace('stateMachine', 'execution')}:back")
    assert (started["stateMachineVersionArn"], started["stateMachineAliasArn"]) == (f"{machine}:1", versioned)
    definition = deployer.states.describe_state_machine_for_execution(executionArn=started["executionArn"])
    assert f"{function_arn}:1" in definition["definition"]
    logs: Any = account.client("logs")
    events = logs.filter_log_events(logGroupName="/own/versioned")["events"]
    assert any(each["message"].endswith(" Version: 2\n") for each in events)
    deployer.delete("versioned")
    lambdas: Any = account.client("lambda")
    with refused("ResourceNotFoundException"):
        lambdas.get_function(FunctionName="versioned-work", Qualifier="1")
    scheduler: Any = account.client("scheduler")
    assert scheduler.list_schedules()["Schedules"] == []


def test_version_numbers_are_never_given_again(deployer: Deployer, account: LoopbackAws) -> None:
    def template(memory: int, *numbers: int) -> Parts:
        versions = {
            f"Version{number}": {"Type": "AWS::Lambda::Version", "Properties": {"FunctionName": {"Ref": "Work"}}}
            for number in numbers
        }
        return resources(Work=function("numbered", INLINE, MemorySize=memory), **versions)

    deployer.deploy("numbered", template(128, 1))
    deployer.deploy("numbered", template(256, 2), create=False)
    deployer.deploy("numbered", template(512, 3), create=False)
    lambdas: Any = account.client("lambda")
    versions = lambdas.list_versions_by_function(FunctionName="numbered")["Versions"]
    assert [(each["Version"], each["MemorySize"]) for each in versions] == [("$LATEST", 512), ("3", 512)]
    failed = deployer.deploy("numbered", template(512, 3, 4), create=False)
    assert failed["StackStatus"] == "UPDATE_ROLLBACK_COMPLETE"
    events = deployer.cloudformation.describe_stack_events(StackName="numbered")["StackEvents"]
    [reason] = [each["ResourceStatusReason"] for each in events if each["ResourceStatus"] == "CREATE_FAILED"]
    assert "A version for this Lambda function exists ( 3 )" in reason
    deployer.delete("numbered")


def test_a_stack_that_fails_is_rolled_back(deployer: Deployer, account: LoopbackAws) -> None:
    missing = {"S3Bucket": deployer.bucket, "S3Key": "nothing.zip"}
    stack = deployer.deploy("failing", resources(Work=function("failing", missing)))
    assert stack["StackStatus"] == "ROLLBACK_COMPLETE"
    assert deployer.told("failing") == [
        ("failing", "REVIEW_IN_PROGRESS"),
        ("failing", "CREATE_IN_PROGRESS"),
        *[("Role", "CREATE_IN_PROGRESS")] * 2,
        ("Role", "CREATE_COMPLETE"),
        ("Work", "CREATE_IN_PROGRESS"),
        ("Work", "CREATE_FAILED"),
        ("failing", "ROLLBACK_IN_PROGRESS"),
        ("Role", "DELETE_IN_PROGRESS"),
        ("Role", "DELETE_COMPLETE"),
        ("failing", "ROLLBACK_COMPLETE"),
    ]
    events = deployer.cloudformation.describe_stack_events(StackName="failing")["StackEvents"]
    [reason] = [each["ResourceStatusReason"] for each in events if each["ResourceStatus"] == "CREATE_FAILED"]
    assert "S3 Error Code: NoSuchKey. S3 Error Message: The specified key does not exist." in reason
    with refused("ValidationError"):
        deployer.change_set("failing", resources(), create=False)
    deployer.delete("failing")


def test_an_update_that_fails_leaves_what_was(deployer: Deployer, account: LoopbackAws) -> None:
    deployer.deploy("updated", resources(Work=function("updated", INLINE, MemorySize=128)))
    missing = {"S3Bucket": "no-such-bucket", "S3Key": "x.zip"}
    broken = resources(Work=function("updated", INLINE, MemorySize=512), Other=function("updated-2", missing))
    assert deployer.deploy("updated", broken, create=False)["StackStatus"] == "UPDATE_ROLLBACK_COMPLETE"
    lambdas: Any = account.client("lambda")
    assert lambdas.get_function_configuration(FunctionName="updated")["MemorySize"] == 128
    kept = deployer.cloudformation.list_stack_resources(StackName="updated")["StackResourceSummaries"]
    assert {each["LogicalResourceId"] for each in kept} == {"Role", "Work"}
    changed = resources(Work=function("updated", INLINE, MemorySize=512, Environment={"Variables": {"A": "b"}}))
    assert deployer.deploy("updated", changed, create=False)["StackStatus"] == "UPDATE_COMPLETE"
    found = lambdas.get_function_configuration(FunctionName="updated")
    assert (found["MemorySize"], found["Environment"]) == (512, {"Variables": {"A": "b"}})
    same = deployer.change_set("updated", changed, create=False)
    assert (same["Status"], same["ExecutionStatus"]) == ("FAILED", "UNAVAILABLE")
    assert "didn't contain changes" in same["StatusReason"]
    with refused("InvalidChangeSetStatus"):
        deployer.cloudformation.execute_change_set(StackName="updated", ChangeSetName="change")
    deployer.delete("updated")


@pytest.mark.parametrize(
    ("template", "code"),
    [
        ({"Resources": {"X": {"Type": "AWS::S3::Bukket"}}}, "ValidationError"),
        ({"Resources": {}}, "ValidationError"),
        ({"Resources": {"Role": {**ROLE, "Metadata": {"Fn::Sub": "x"}, "Oops": 1}}}, "ValidationError"),
        (resources(Work=function("x", INLINE, Description={"Ref": "Nothing"})), "ValidationError"),
        ({"Parameters": {"P": {"Type": "String"}}, **resources()}, "ValidationError"),
        ("a: [", "ValidationError"),
    ],
)
def test_a_wrong_template_is_refused(deployer: Deployer, template: Parts, code: str) -> None:
    with refused(code):
        deployer.change_set("wrong", template, create=True)
    assert "wrong" not in [each["StackName"] for each in deployer.cloudformation.describe_stacks()["Stacks"]]


def test_roles_need_a_capability(deployer: Deployer) -> None:
    with refused("InsufficientCapabilitiesException"):
        deployer.cloudformation.create_stack(StackName="roles", TemplateBody=json.dumps(resources()))


def test_any_call_can_be_refused(account: LoopbackAws, deployer: Deployer) -> None:
    s3: Any = account.client("s3")
    lambdas: Any = account.client("lambda")
    calls: list[tuple[str, Callable[[], object]]] = [
        ("ListStateMachines", deployer.states.list_state_machines),
        ("DescribeStacks", deployer.cloudformation.describe_stacks),
        ("PutObject", lambda: s3.put_object(Bucket=deployer.bucket, Key="a/b c", Body=b"x")),
        ("ListObjectsV2", lambda: s3.list_objects_v2(Bucket=deployer.bucket)),
        ("ListFunctions", lambdas.list_functions),
    ]
    for action, call in calls:
        account.refuse(action, "AccessDenied", "You may not <do> this.", status=403, times=2)
        for _ in range(2):
            with refused("AccessDenied") as caught:
                call()
            assert caught.value.response["Error"]["Message"] == "You may not <do> this."
        call()
    assert account.calls()[-15:] == [
        (service, action)
        for service, (action, _) in zip(("stepfunctions", "cloudformation", "s3", "s3", "lambda"), calls, strict=True)
        for _ in range(3)
    ]


def test_a_refused_call_of_a_stack_fails_its_resource(account: LoopbackAws, deployer: Deployer) -> None:
    account.refuse("CreateFunction", "AccessDeniedException", "not allowed to lambda:CreateFunction", status=403)
    stack = deployer.deploy("denied", resources(Work=function("denied", INLINE)))
    assert stack["StackStatus"] == "ROLLBACK_COMPLETE"
    deployer.delete("denied")


def test_nothing_is_left_after_an_account() -> None:
    before, processes = set(threading.enumerate()), function_processes()
    with LoopbackAws() as made:
        deployer = Deployer(made)
        arn = deployer.deploy("left", VERSIONED)["Outputs"][0]["OutputValue"]
        execution = deployer.start(arn, "run", {"seconds": 1})
        until(lambda: "TaskStarted" in deployer.kinds(execution))
        deployer.cloudformation.delete_stack(StackName="left")
    assert set(threading.enumerate()) <= before
    assert function_processes() <= processes
    host, _, port = made.endpoint.removeprefix("http://").partition(":")
    with pytest.raises(OSError, match="refused"):
        socket.create_connection((host, int(port)), 1)


def function_processes() -> set[str]:
    """Return the children of this process that run functions."""
    found = set()
    for children in Path("/proc/self/task").glob("*/children"):
        for pid in children.read_text().split():
            command = Path(f"/proc/{pid}/cmdline")
            if command.exists() and b"lokki-aws-" in command.read_bytes():
                found.add(pid)
    return found
