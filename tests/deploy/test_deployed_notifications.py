"""Who hears when a run ends: flows that are deployed to the account on loopback, with webhooks and topics there."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import yaml
from aws.loopback_aws import LoopbackAws
from aws.loopback_events import alarm_rang, deliver, rules_for, run_ended
from moto.sns import sns_backends
from support.deployed_project import Project, new_project, told
from support.golden import GOLDEN, compare

from lokki.builder.settings import check_settings
from lokki.config import LokkiConfig
from lokki.emulator.states.services import ACCOUNT, REGION

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parents[2] / "docs" / "notifications.md"

FLOW = """
from lokki import flow, main, step


def check(wings: int) -> int:
    if wings < 2:
        raise ValueError(f'a bird with "{wings}" wing\\ncannot fly')
    return wings


@step
def flap(wings: int) -> int:
    return check(wings)


@flow(schedule="rate(1 hour)")
def NAME(wings: int = 2):
    return flap(wings)


if __name__ == "__main__":
    main(NAME)
"""


@dataclass
class Webhook:
    """A webhook on loopback: what it got, and the statuses that it answers with first."""

    url: str = ""
    got: list[tuple[str, dict[str, str], dict[str, object]]] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)


@pytest.fixture
def webhook(account: LoopbackAws) -> Iterator[Webhook]:
    made = Webhook()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            made.got.append((self.path, dict(self.headers), json.loads(body)))
            self.send_response(made.statuses.pop(0) if made.statuses else 200)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            """Log nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    account.integrations.webhooks["https://hooks.example.com"] = f"http://127.0.0.1:{server.server_port}"
    yield made
    server.shutdown()
    server.server_close()
    thread.join()
    del account.integrations.webhooks["https://hooks.example.com"]


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory, account: LoopbackAws) -> Project:
    project = new_project(tmp_path_factory.mktemp("notifications"), account, FLOW)
    topic = account.client("sns").create_topic(Name="pages")["TopicArn"]
    project.settings(
        notify={
            "failed": ["birds@example.com", topic, "https://hooks.example.com/T1?channel=birds"],
            "succeeded": ["https://hooks.example.com/T2"],
        }
    )
    ran = project.run("deploy", "--yes")
    assert ran.code == 0, ran.err
    return project


def ended(project: Project, run_id: str, wings: int) -> list[str]:
    """Run the flow, and deliver the event of its end; return what was started."""
    arn = f"{project.machine}:live"
    states = project.account.client("stepfunctions")
    started = states.start_execution(stateMachineArn=arn, name=run_id, input=json.dumps({"wings": wings}))
    project.account.wait()
    return deliver(project.account, run_ended(project.account, started["executionArn"]))


def queue(project: Project) -> str:
    resources = project.account.client("cloudformation").list_stack_resources(StackName=project.stack)
    [url] = [
        each["PhysicalResourceId"]
        for each in resources["StackResourceSummaries"]
        if each["ResourceType"] == "AWS::SQS::Queue"
    ]
    return str(url)


def test_a_failed_run_is_posted_to_a_webhook(deployed: Project, webhook: Webhook, update_golden: bool) -> None:
    assert len(ended(deployed, "monday", 1)) == 1
    [(path, headers, message)] = webhook.got
    assert path == "/T1?channel=birds"
    assert headers["Content-Type"] == "application/json"
    assert "Lokki-Flow" in headers
    shown = "\n".join(f"{name}: {value}" for name, value in message.items()).replace(deployed.stack, "birds")
    compare("notification-failed.txt", f"{shown}\n", update_golden)


def test_the_page_shows_the_message_and_what_it_says_of_settings() -> None:
    text = PAGE.read_text()
    [settings] = re.findall("```yaml\n(.*?)```", text, re.DOTALL)
    assert len(LokkiConfig.from_dict(yaml.safe_load(settings)).notify.failed) == 3
    shown, secret = re.findall("```text\n(.*?)```", text, re.DOTALL)
    golden = (GOLDEN / "notification-failed.txt").read_text()
    assert golden.partition("text: ")[2].startswith(shown)
    check_settings(LokkiConfig.from_dict({"artifact_bucket": "acme", **yaml.safe_load(secret)}))


def test_a_run_that_succeeded_or_was_stopped_is_told_to_who_wants_it(deployed: Project, webhook: Webhook) -> None:
    assert len(ended(deployed, "tuesday", 2)) == 1
    [(path, _, message)] = webhook.got
    assert (path, message["status"]) == ("/T2", "SUCCEEDED")
    assert str(message["text"]).startswith(
        f"{deployed.stack}: the run tuesday succeeded.\n\npython flow.py show tuesday\nhttps://us-east-1.console"
    )
    webhook.got.clear()
    event = run_ended(deployed.account, f"{deployed.machine.replace('stateMachine', 'execution')}:tuesday")
    detail = event["detail"]
    assert isinstance(detail, dict)
    detail |= {"status": "ABORTED", "error": None, "cause": 'stopped by "me" {'}
    deliver(deployed.account, event)
    [(path, _, message)] = webhook.got
    assert (path, message["status"]) == ("/T1?channel=birds", "ABORTED")
    assert 'was stopped.\n\nstopped by "me" {\n\npython flow.py show tuesday\npython flow.py redrive' in str(
        message["text"]
    )


def test_topics_get_subject_and_text(deployed: Project, webhook: Webhook) -> None:
    ended(deployed, "wednesday", 0)
    [(_, _, message)] = webhook.got
    topics = [*sns_backends[ACCOUNT][REGION].topics.values()]
    messages = {topic.name: [note[1:3] for note in topic.sent_notifications][-1:] for topic in topics}
    assert [name for name, notes in messages.items() if notes == [(message["text"], message["subject"])]] == [
        "pages",
        *(topic.name for topic in topics if topic.name.startswith(f"{deployed.stack}-FailedTopic")),
    ]


def test_an_event_of_another_flow_or_of_an_item_is_not_told(deployed: Project) -> None:
    event = run_ended(deployed.account, f"{deployed.machine.replace('stateMachine', 'execution')}:tuesday")
    detail = event["detail"]
    assert isinstance(detail, dict)
    for machine in (f"{deployed.machine}x", f"{deployed.machine}/birds-map", deployed.machine[:-1]):
        assert rules_for(deployed.account, event | {"detail": detail | {"stateMachineArn": machine}}) == []
    assert rules_for(deployed.account, event | {"detail": detail | {"status": "RUNNING"}}) == []


def test_a_webhook_that_fails_is_called_again(deployed: Project, webhook: Webhook) -> None:
    webhook.statuses[:] = [503]
    ended(deployed, "thursday", 1)
    assert [path for path, _, _ in webhook.got] == ["/T1?channel=birds"] * 2


def test_the_alarm_of_the_queue_is_told_like_a_failure(deployed: Project, webhook: Webhook) -> None:
    alarms = deployed.account.client("cloudwatch").describe_alarms()["MetricAlarms"]
    [alarm] = [each for each in alarms if each["AlarmName"].startswith(f"{deployed.stack}-")]
    assert alarm["Dimensions"] == [{"Name": "QueueName", "Value": queue(deployed).rpartition("/")[2]}]
    deliver(deployed.account, alarm_rang(alarm["AlarmArn"]))
    [(path, _, message)] = webhook.got
    assert (path, message["status"]) == ("/T1?channel=birds", "DROPPED")
    assert f"is in the queue {queue(deployed)}" in str(message["text"])


def test_a_schedule_keeps_what_it_could_not_start(deployed: Project) -> None:
    schedule = deployed.account.client("scheduler").get_schedule(Name=deployed.stack)
    assert schedule["Target"]["DeadLetterConfig"]["Arn"].endswith(queue(deployed).rpartition("/")[2])
    assert schedule["Target"]["RetryPolicy"] == {"MaximumEventAgeInSeconds": 86_400, "MaximumRetryAttempts": 185}


def test_a_changed_destination_is_shown_before_it_is_changed(deployed: Project) -> None:
    deployed.settings(notify={"failed": ["birds@example.com"], "succeeded": ["geese@example.com"]})
    lines = [re.split("  +", line.strip()) for line in told(deployed.run("deploy", "--dry-run"))]
    changes = {line[0]: line[1] for line in lines if len(line) == 2}
    assert changes == {
        "topic of successes": "created",
        "role of what tells of runs": "permissions -CallWebhooks, ~PublishMessages, -ReadConnection, -UseConnection",
        "state machine that tells of runs": "states ~TellFailed, ~TellSucceeded, definition substitutions",
        "connection for webhooks": "deleted",
    }


def test_destroy_removes_all_of_it(deployed: Project) -> None:
    account = deployed.account
    assert deployed.run("destroy", "--yes").code == 0
    left = [
        *(each["Name"] for each in account.client("events").list_rules()["Rules"]),
        *(each["Name"] for each in account.client("events").list_connections()["Connections"]),
        *account.client("sqs").list_queues().get("QueueUrls", []),
        *(each["AlarmName"] for each in account.client("cloudwatch").describe_alarms()["MetricAlarms"]),
        *(each["TopicArn"].rpartition(":")[2] for each in account.client("sns").list_topics()["Topics"]),
    ]
    assert [name for name in left if deployed.stack in name] == []
