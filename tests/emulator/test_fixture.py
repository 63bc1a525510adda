"""The fixture `lokki_emulated`: results, calls, objects, and time that is not waited."""

from __future__ import annotations

import importlib
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

from lokki import RunError
from lokki.emulator.account import EmulatedAccount
from lokki.emulator.testing import Emulated, EmulatedCall

FLOWS = """
from lokki import Retry, flow, step


@step
def numbers(count: int) -> list[int]:
    print("counting")
    return list(range(count))


@step
def large(number: int) -> bytes:
    return bytes(5000)


@step
def total(values: list[bytes]) -> int:
    return sum(map(len, values))


@step(retry=Retry(attempts=3, delay=30))
def refuse(number: int) -> int:
    raise ConnectionError("nobody there")


@flow
def large_flow(count: int = 2):
    return numbers(count).map(large).agg(total)


@flow
def refused_flow():
    return refuse(1)
"""


@pytest.fixture
def flows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return a module of flows in a project of their own."""
    (tmp_path / "fixture_flows.py").write_text(FLOWS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("fixture_flows", None)
    import fixture_flows

    return fixture_flows


@pytest.mark.slow
def test_a_flow_runs_as_on_aws_and_shows_its_calls_and_objects(lokki_emulated: Emulated, flows: ModuleType) -> None:
    run = lokki_emulated(flows.large_flow, count=2)
    assert run.result == 10_000
    assert sorted(run.calls, key=lambda call: (call.step, call.item)) == [
        EmulatedCall("large", (0,)), EmulatedCall("large", (1,)), EmulatedCall("numbers"), EmulatedCall("total"),
    ]  # fmt: skip
    assert run.output == ("counting",)
    assert (run.waits, run.failures) == ((), ())
    assert any(key.startswith(f"lokki/large-flow/{run.run_id}/large/") for key in run.objects)
    assert lokki_emulated.latest is run


@pytest.mark.slow
def test_waits_between_tries_are_counted_and_skipped(lokki_emulated: Emulated, flows: ModuleType) -> None:
    began = time.monotonic()
    with pytest.raises(RunError, match="nobody there"):
        lokki_emulated(flows.refused_flow)
    run = lokki_emulated.latest
    assert (run.waits, [call.step for call in run.calls], run.result) == ((30.0, 60.0), ["refuse"] * 3, None)
    assert time.monotonic() - began < 60
    [failure] = run.failures
    assert "nobody there" in failure


def test_before_a_run_there_is_no_latest(lokki_emulated: Emulated) -> None:
    with pytest.raises(RunError, match="no flow has run yet"):
        lokki_emulated.latest  # noqa: B018


# --- an account with something in it ---

TABLE_FLOW = """
import os

from lokki import Allow, Resource, flow, step

USE = ["dynamodb:GetItem", "dynamodb:PutItem"]


@step(env={"TABLE": Resource("Table")}, permissions=[Allow(USE, Resource("Table.Arn"))])
def look_up(bird: str) -> str:
    import boto3

    table = boto3.resource("dynamodb").Table(os.environ["TABLE"])
    name = table.get_item(Key={"id": bird})["Item"]["name"]
    table.put_item(Item={"id": "latest", "name": name})
    return name


@step(env={"TABLE": Resource("Table")})
def peek(name: str) -> str:
    import boto3

    boto3.resource("dynamodb").Table(os.environ["TABLE"]).get_item(Key={"id": "latest"})
    return name


@flow
def table_flow(bird: str = "goose"):
    return look_up(bird)


@flow
def peeking_flow():
    return look_up("goose").next(peek)
"""

INFRA = """
Resources:
  Table:
    Type: AWS::DynamoDB::Table
    Properties:
      BillingMode: PAY_PER_REQUEST
      AttributeDefinitions: [{AttributeName: id, AttributeType: S}]
      KeySchema: [{AttributeName: id, KeyType: HASH}]
  Failures:
    Type: AWS::CloudWatch::Alarm
    Properties:
      Dimensions: [{Name: StateMachineArn, Value: !Ref StateMachine}]
"""


@pytest.mark.slow
def test_steps_use_resources_of_the_users_template_that_a_test_fills(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lokki_emulated: Emulated
) -> None:
    (tmp_path / "table_flows.py").write_text(TABLE_FLOW)
    (tmp_path / "infra.yaml").write_text(INFRA)
    (tmp_path / "lokki.yml").write_text("merge_template: infra.yaml\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("TABLE", raising=False)
    sys.modules.pop("table_flows", None)
    flows = importlib.import_module("table_flows")
    left: list[str] = []

    @lokki_emulated.before_run
    def fill(account: EmulatedAccount) -> None:
        item = {"id": {"S": "goose"}, "name": {"S": "Greta"}}
        account.client("dynamodb").put_item(TableName=account.environ["TABLE"], Item=item)

    @lokki_emulated.after_run
    def look(account: EmulatedAccount) -> None:
        key = {"id": {"S": "latest"}}
        item = account.client("dynamodb").get_item(TableName=account.environ["TABLE"], Key=key)["Item"]
        left.append(item["name"]["S"])

    assert lokki_emulated(flows.table_flow).result == "Greta"
    assert left == ["Greta"]
    with pytest.raises(RunError, match="peek\\(\\) lacks permissions that it needs on AWS"):
        lokki_emulated(flows.peeking_flow)
    assert left == ["Greta", "Greta"]
