"""The queue that keeps what AWS could not deliver for a flow, and the small state machines that are told of events.

Rules of EventBridge have no say in the names of executions, write no texts safely, and reach topics only by policies of
the topics. A state machine of type EXPRESS does all that, for the price of a request to Lambda, and emits no events
itself: https://docs.aws.amazon.com/step-functions/latest/dg/eventbridge-integration.html
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from lokki.base.values import Json
from lokki.builder.permissions import RoleSettings, TemplatePart, attribute, ref, rule_role, sub

QUEUE = "DeadLetters"
"""The logical id of the queue."""

_RULE_ROLE = "RuleRole"

_KEPT_SECONDS = 14 * 24 * 3600
"""As long as a queue can keep a message.
https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SetQueueAttributes.html"""

_INTEGRATIONS = {
    "http:invoke": "CallWebhook",
    "sns:publish": "PublishMessage",
    "sqs:sendMessage": "SendMessage",
    "states:startExecution": "StartExecution",
}
"""Placeholders of the ARNs of service integrations, whose partition is known only when they are deployed.
https://docs.aws.amazon.com/step-functions/latest/dg/integrate-optimized.html"""

_TASK_SECONDS = 20
_TRIES = 5
"""Six tries of 20 s and the waits between them, 62 s, fit the five minutes of an EXPRESS execution."""


@dataclass(frozen=True, slots=True)
class EventMachine:
    """A state machine that a rule starts with each event.

    - ``id``: its logical id; the name of its role ends in ``Role``
    - ``suffix``: what its name has behind the flow's; the names of flows have no dot
    - ``values``: what fills the placeholders of its definition
    """

    id: str
    suffix: str
    definition: Mapping[str, Json]
    values: Mapping[str, Json]

    @property
    def arn(self) -> TemplatePart:
        """The ARN of the state machine, for its own role."""
        return sub(f"arn:${{AWS::Partition}}:states:${{AWS::Region}}:${{AWS::AccountId}}:stateMachine:{self.name}")

    @property
    def name(self) -> str:
        """The name of the state machine, with a placeholder."""
        return f"${{FlowName}}.{self.suffix}"


@dataclass(frozen=True, slots=True)
class EventParts:
    """Parts of a template that have to do with events.

    - ``resources``, ``rules``: by logical id
    - ``machines``: the logical ids of those that the rules start
    """

    settings: RoleSettings
    resources: TemplatePart = field(default_factory=dict)
    rules: TemplatePart = field(default_factory=dict)
    machines: tuple[str, ...] = ()

    @property
    def tags(self) -> list[Json]:
        """The tags of all that can have some."""
        return list(self.settings.tags)

    def rule_role(self, role: str) -> Json:
        """Return the role of rules, which the settings may name."""
        return role or attribute(_RULE_ROLE)

    def with_queue(self, role: str) -> TemplatePart:
        """Return all resources, with the queue and the role of the rules."""
        if not self.rules:
            return {}
        resources = dict(self.resources)
        if not role:
            resources |= rule_role(_RULE_ROLE, self.machines, self.settings)
        return resources | self.rules | _queue(self.rules, self.tags)


def joined_parts(first: EventParts, second: EventParts) -> EventParts:
    """Return two parts as one."""
    return EventParts(
        first.settings,
        first.resources | second.resources,
        first.rules | second.rules,
        (*first.machines, *second.machines),
    )


def one_line(text: str) -> str:
    """Return an expression on one line, as validators want it."""
    return " ".join(line.strip() for line in text.splitlines())


def machine_resource(machine: EventMachine, role: Json, tags: list[Json]) -> TemplatePart:
    """Return the state machine.

    https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-resource-stepfunctions-statemachine.html
    """
    definition = json.dumps(machine.definition, indent=2, ensure_ascii=False) + "\n"
    resources: TemplatePart = {
        placeholder: sub(f"arn:${{AWS::Partition}}:states:::{resource}")
        for resource, placeholder in _INTEGRATIONS.items()
        if f"${{{placeholder}}}" in definition
    }
    properties: TemplatePart = {
        "StateMachineName": sub(machine.name),
        "StateMachineType": "EXPRESS",
        "RoleArn": role,
        "DefinitionString": definition,
        "DefinitionSubstitutions": {**machine.values, **resources},
        "Tags": tags,
    }
    return {"Type": "AWS::StepFunctions::StateMachine", "Properties": properties}


def rule_resource(
    description: str, pattern: Mapping[str, Json], machine: EventMachine, role: Json, tags: list[Json]
) -> TemplatePart:
    """Return a rule that starts a state machine with each event of a pattern.

    An event that cannot be delivered for a day is kept in the queue:
    https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-rule-dlq.html
    """
    target: TemplatePart = {
        "Id": machine.id,
        "Arn": ref(machine.id),
        "RoleArn": role,
        "DeadLetterConfig": {"Arn": attribute(QUEUE)},
        "RetryPolicy": {"MaximumEventAgeInSeconds": 86_400, "MaximumRetryAttempts": 185},
    }
    properties: TemplatePart = {
        "Description": sub(description),
        "EventPattern": dict(pattern),
        "Targets": [target],
        "Tags": tags,
    }
    return {"Type": "AWS::Events::Rule", "Properties": properties}


def _queue(rules: Iterable[str], tags: list[Json]) -> TemplatePart:
    """Return the queue and its policy, for rules by their logical ids.

    https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-rule-dlq.html#eb-dlq-perms
    """
    queue: TemplatePart = {"MessageRetentionPeriod": _KEPT_SECONDS, "SqsManagedSseEnabled": True, "Tags": tags}
    statement: TemplatePart = {
        "Sid": "KeepEvents",
        "Effect": "Allow",
        "Principal": {"Service": "events.amazonaws.com"},
        "Action": "sqs:SendMessage",
        "Resource": attribute(QUEUE),
        "Condition": {"ArnEquals": {"aws:SourceArn": [attribute(rule) for rule in rules]}},
    }
    policy: TemplatePart = {
        "Queues": [ref(QUEUE)],
        "PolicyDocument": {"Version": "2012-10-17", "Statement": [statement]},
    }
    return {
        QUEUE: {
            "Type": "AWS::SQS::Queue",
            "DeletionPolicy": "Delete",
            "UpdateReplacePolicy": "Delete",
            "Properties": queue,
        },
        f"{QUEUE}Policy": {"Type": "AWS::SQS::QueuePolicy", "Properties": policy},
    }


def task(resource: str, arguments: Mapping[str, Json], undelivered: str) -> TemplatePart:
    """Return a Task that calls a service, and is tried again for a minute.

    ``undelivered``: the state that is next when it failed for good.
    """
    return {
        "Type": "Task",
        "Resource": f"${{{_INTEGRATIONS[resource]}}}",
        "Arguments": dict(arguments),
        "TimeoutSeconds": _TASK_SECONDS,
        "Retry": [
            {"ErrorEquals": ["States.ALL"], "IntervalSeconds": 2, "MaxAttempts": _TRIES, "BackoffRate": 2},
        ],
        "Catch": [{"ErrorEquals": ["States.ALL"], "Next": undelivered}],
    }


def undelivered_task(body: Mapping[str, str]) -> TemplatePart:
    """Return the Task that puts into the queue what another could not deliver.

    ``body``: expressions by the names that the message has for them. Its input is the other's error.
    """
    members = [f"'{name}': {value}" for name, value in {**body, "problem": "$states.input"}.items()]
    arguments: TemplatePart = {
        "QueueUrl": f"${{{QUEUE}}}",
        "MessageBody": f"{{% $string({{{', '.join(members)}}}) %}}",
    }
    state = task("sqs:sendMessage", arguments, "")
    return {name: value for name, value in state.items() if name != "Catch"} | {"End": True}
