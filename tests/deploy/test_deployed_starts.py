"""The flows of docs/starts.md: started by files, by other runs and by events, here, emulated and deployed."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from aws.loopback_aws import LoopbackAws
from aws.loopback_events import Event, deliver, event_of, object_created, run_ended
from support.deployed_project import Project, new_project

pytestmark = pytest.mark.slow

PAGE = (Path(__file__).parents[2] / "docs" / "starts.md").read_text().partition("## Past days")[0]
[FLOWS] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
[EVENT] = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
[SHOWN] = re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, account: LoopbackAws) -> Project:
    """The page's file and event; its bucket is one of the account."""
    lake = account.new_bucket()
    project = new_project(tmp_path_factory.mktemp("starts"), account, FLOWS.replace("acme-lake", lake))
    (project.folder / "ingest.py").write_text(FLOWS)
    (project.folder / "event.json").write_text(EVENT)
    (project.folder / "lake.txt").write_text(lake)
    for name in ("ingest", "reports"):
        ran = project.run("deploy", name, "--yes")
        assert ran.code == 0, ran.err
    return project


def lake(project: Project) -> str:
    return (project.folder / "lake.txt").read_text()


def machine(name: str) -> str:
    return f"arn:aws:states:us-east-1:123456789012:stateMachine:{name}"


def runs(project: Project, name: str) -> list[tuple[str, str]]:
    """Return status and input of a flow's executions, the first one first."""
    states = project.account.client("stepfunctions")
    listed = states.list_executions(stateMachineArn=machine(name))["executions"]
    described = [states.describe_execution(executionArn=each["executionArn"]) for each in reversed(listed)]
    return [(each["status"], each["input"]) for each in described]


def result(project: Project, name: str) -> str:
    states = project.account.client("stepfunctions")
    [latest, *_] = states.list_executions(stateMachineArn=machine(name))["executions"]
    output = json.loads(states.describe_execution(executionArn=latest["executionArn"])["output"])
    return str(output["result"])


def test_the_commands_of_the_page_print_what_it_shows(page: Project) -> None:
    for command, shown in re.findall(r"\$ python (.*)\n([^$]*)", SHOWN):
        ran = page.python(*shlex.split(command))
        assert (ran.code, ran.out) == (0, shown), ran.err


def test_an_emulated_run_takes_the_event_too(page: Project) -> None:
    ran = page.python("ingest.py", "emulate", "ingest", "--event", "event.json", "--quiet")
    assert (ran.code, ran.out) == (0, "s3://acme-lake/raw/birds.csv has 5 bytes\n"), ran.err


def test_doctor_says_whether_the_bucket_sends_its_events(page: Project) -> None:
    account, bucket = page.account, lake(page)
    said = [line for line in page.run("doctor", "ingest").out.splitlines() if "events of" in line]
    [line] = said
    assert line.startswith(f"failed  events of {bucket}: are not sent to EventBridge, so nothing starts the flow: turn")
    account.client("s3").put_bucket_notification_configuration(
        Bucket=bucket, NotificationConfiguration={"EventBridgeConfiguration": {}}
    )
    said = [line for line in page.run("doctor", "ingest").out.splitlines() if "events of" in line]
    assert said == [f"ok      events of {bucket}: are sent to EventBridge"]
    # moto would deliver them, too.
    account.client("s3").put_bucket_notification_configuration(Bucket=bucket, NotificationConfiguration={})


def test_what_is_no_event_of_the_flow_is_wrong_usage(page: Project) -> None:
    (page.folder / "other.json").write_text('{"source": "shop", "detail-type": "order", "detail": {}}')
    for file, problem in (
        ("other.json", "other.json: this event does not start the flow, which is started by S3Created."),
        ("missing.json", "missing.json cannot be read as JSON"),
    ):
        ran = page.python("ingest.py", "run", "ingest", "--event", file)
        assert (ran.code, problem in ran.err) == (2, True), ran.err


def test_a_dropped_file_starts_one_run_however_often_it_is_told(page: Project) -> None:
    account, bucket = page.account, lake(page)
    account.client("s3").put_object(Bucket=bucket, Key="raw/geese.csv", Body=b"goose")
    account.client("s3").put_object(Bucket=bucket, Key="raw/geese.txt", Body=b"goose")
    event = object_created(account, bucket, "raw/geese.csv")
    assert len(deliver(account, event)) == 1
    assert result(page, "ingest") == f"s3://{bucket}/raw/geese.csv has 5 bytes"
    deliver(account, event)  # EventBridge, twice
    deliver(account, event | {"id": "0a1b"})  # S3, twice
    assert deliver(account, object_created(account, bucket, "raw/geese.txt")) == []
    assert len(runs(page, "ingest")) == 1
    deliver(account, object_created(account, bucket, "raw/geese.csv", sequencer="617f08299329d190"))  # put again
    assert [status for status, _ in runs(page, "ingest")] == ["SUCCEEDED"] * 2


def test_a_run_that_succeeds_starts_the_flow_after_it(page: Project) -> None:
    account = page.account
    states = account.client("stepfunctions")
    arn = states.start_execution(
        stateMachineArn=f"{machine('ingest')}:live", name="monday", input='{"upload": {"bucket": "b", "key": "k"}}'
    )["executionArn"]
    account.wait()
    event: Event = run_ended(account, arn)
    deliver(account, event)
    deliver(account, event)
    assert len(runs(page, "reports")) == 1
    assert result(page, "reports") == "after ingest monday"
    detail = event["detail"]
    assert isinstance(detail, dict)
    assert deliver(account, event | {"detail": detail | {"status": "FAILED"}}) == []


def test_an_event_that_does_not_fit_fails_its_run_and_says_so(page: Project) -> None:
    ran = page.run("deploy", "refunds", "--yes")
    assert ran.code == 0, ran.err
    for detail in ({"country": "fi", "order": "17"}, {"country": "se", "order": 17}, {"country": "no", "order": "18"}):
        deliver(page.account, event_of("shop", "cancelled", [], {**detail}))
    assert [status for status, _ in runs(page, "refunds")] == ["SUCCEEDED", "FAILED"]
