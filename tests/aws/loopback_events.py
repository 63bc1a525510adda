"""EventBridge on loopback: events as AWS's services send them, and their delivery to what the rules of a stack start.

Rules and targets are moto's, which keeps them and evaluates little of them; `aws.event_patterns` evaluates patterns.
"""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any

from aws.event_patterns import matches_pattern
from lokki.base.values import Json
from lokki.emulator.states.services import ACCOUNT, REGION

if TYPE_CHECKING:
    from aws.loopback_aws import LoopbackAws

type Event = dict[str, Json]


def event_of(source: str, kind: str, resources: list[Json], detail: Json) -> Event:
    """Return an event as EventBridge has it.

    https://docs.aws.amazon.com/eventbridge/latest/ref/overiew-event-structure.html
    """
    return {
        "version": "0",
        "id": str(uuid.uuid4()),
        "detail-type": kind,
        "source": source,
        "account": ACCOUNT,
        "time": "2026-11-28T06:30:00Z",
        "region": REGION,
        "resources": resources,
        "detail": detail,
    }


def run_ended(account: LoopbackAws, execution: str) -> Event:
    """Return the event of an execution that ended.

    https://docs.aws.amazon.com/step-functions/latest/dg/eventbridge-integration.html
    """
    known = account.client("stepfunctions").describe_execution(executionArn=execution)

    def milliseconds(name: str) -> int | None:
        return int(known[name].timestamp() * 1000) if name in known else None

    detail: Json = {
        "executionArn": execution,
        "stateMachineArn": known["stateMachineArn"],
        "name": known["name"],
        "status": known["status"],
        "startDate": milliseconds("startDate"),
        "stopDate": milliseconds("stopDate"),
        "input": known.get("input"),
        "output": known.get("output"),
        "inputDetails": {"included": True},
        "outputDetails": {"included": True} if "output" in known else None,
        "error": known.get("error"),
        "cause": known.get("cause"),
        "redriveCount": 0,
        "redriveStatus": "NOT_REDRIVABLE" if known["status"] == "SUCCEEDED" else "REDRIVABLE",
        "stateMachineVersionArn": known.get("stateMachineVersionArn"),
        "stateMachineAliasArn": known.get("stateMachineAliasArn"),
    }
    return event_of("aws.states", "Step Functions Execution Status Change", [execution], detail)


def object_created(account: LoopbackAws, bucket: str, key: str, sequencer: str = "617f08299329d189") -> Event:
    """Return the event of an object that S3 has.

    https://docs.aws.amazon.com/AmazonS3/latest/userguide/ev-events.html
    """
    known = account.client("s3").head_object(Bucket=bucket, Key=key)
    entry: dict[str, Json] = {
        "key": key,
        "size": known["ContentLength"],
        "etag": known["ETag"].strip('"'),
        "sequencer": sequencer,
    }
    if "VersionId" in known:
        entry["version-id"] = known["VersionId"]
    detail: Json = {
        "version": "0",
        "bucket": {"name": bucket},
        "object": entry,
        "request-id": "N4N7GDK58NMKJ12R",
        "requester": ACCOUNT,
        "source-ip-address": "127.0.0.1",
        "reason": "PutObject",
    }
    return event_of("aws.s3", "Object Created", [f"arn:aws:s3:::{bucket}"], detail)


def alarm_rang(alarm: str) -> Event:
    """Return the event of an alarm that came into the state ALARM.

    https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/cloudwatch-and-eventbridge.html
    """
    name = alarm.rpartition(":")[2]
    detail: Json = {
        "alarmName": name,
        "state": {"value": "ALARM", "reason": "Threshold Crossed", "timestamp": "2026-11-28T06:30:00.000+0000"},
        "previousState": {"value": "OK", "timestamp": "2026-11-28T06:00:00.000+0000"},
    }
    return event_of("aws.cloudwatch", "CloudWatch Alarm State Change", [alarm], detail)


def deliver(account: LoopbackAws, event: Event) -> list[str]:
    """Give an event to all rules of the account; return the executions that they started, when these have ended."""
    started: list[str] = []
    for rule, target in rules_for(account, event):
        assert not {"Input", "InputPath", "InputTransformer"} & target.keys(), f"{rule} changes its events"
        assert ":stateMachine:" in target["Arn"], f"{rule} has another target than a state machine"
        # As on AWS, the name is none that a rule could choose.
        given = {"name": f"{event['id']}_{uuid.uuid4()}"[:80], "input": json.dumps(event)}
        answer = account.client("stepfunctions").start_execution(stateMachineArn=target["Arn"], **given)
        started.append(answer["executionArn"])
    account.wait()
    return started


def rules_for(account: LoopbackAws, event: Event) -> list[tuple[str, dict[str, Any]]]:
    """Return the rules that an event matches, each with its target."""
    events = account.client("events")
    rules = [rule for page in events.get_paginator("list_rules").paginate() for rule in page["Rules"]]
    return [
        (rule["Name"], target)
        for rule in rules
        if "EventPattern" in rule and matches_pattern(json.loads(rule["EventPattern"]), event)
        for target in events.list_targets_by_rule(Rule=rule["Name"])["Targets"]
    ]
