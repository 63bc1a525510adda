"""Who hears when a run ends: a rule on the status of executions, and a state machine that writes and sends the message.

An event of a run has the error and the cause, in which the user's line is:
https://docs.aws.amazon.com/step-functions/latest/dg/eventbridge-integration.html. The message is written by JSONata and
not by an InputTransformer, which does not escape what it fills in, so that a quote in an error would lose the message:
https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-transform-target-input.html
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from lokki.base.values import Json
from lokki.builder.dead_letters import (
    QUEUE,
    EventMachine,
    EventParts,
    machine_resource,
    one_line,
    rule_resource,
    task,
    undelivered_task,
)
from lokki.builder.permissions import (
    RoleSettings,
    TemplatePart,
    attribute,
    event_machine_role,
    policy_statement,
    ref,
)
from lokki.builder.tasks import expression
from lokki.config import NotifyConfig

MACHINE = "Notify"
ALARM = "Dropped"
RUN_RULE = "RunEnded"
ALARM_RULE = "DroppedRule"
CONNECTION = "WebhookConnection"

_FAILURES = ("FAILED", "TIMED_OUT", "ABORTED")
_SUCCESS = "SUCCEEDED"

_SUBJECT_LENGTH = 100
"""Characters that a subject has at most: https://docs.aws.amazon.com/sns/latest/api/API_Publish.html"""

_ERROR_LENGTH = 1_000
"""Characters of an error that a message shows: chats cut long texts, and `show` has all of it."""


@dataclass(frozen=True, slots=True)
class Audience:
    """Who hears of some runs, each once.

    - ``name``: ``Failed`` or ``Succeeded``
    """

    name: str
    mails: tuple[str, ...]
    topics: tuple[str, ...]
    webhooks: tuple[str, ...]

    @property
    def topic(self) -> str:
        """The logical id of the topic of its e-mail addresses."""
        return f"{self.name}Topic"


@dataclass(frozen=True, slots=True)
class Sender:
    """What notifications need to know of a flow.

    - ``command``: how its command line is called
    - ``keeps_starts``: whether something starts runs of it, which may be dropped
    """

    command: str
    settings: RoleSettings
    role: str = ""
    keeps_starts: bool = False


def audiences(notify: NotifyConfig) -> list[Audience]:
    """Return who hears of failures and of successes, but for empty lists."""
    return [
        Audience(
            name,
            tuple(entry for entry in entries if "@" in entry and "://" not in entry and not entry.startswith("{{")),
            tuple(entry for entry in entries if entry.startswith("arn:")),
            tuple(entry for entry in entries if entry.startswith(("https://", "{{"))),
        )
        for name, listed in (("Failed", notify.failed), ("Succeeded", notify.succeeded))
        if (entries := tuple(dict.fromkeys(listed)))
    ]


def notification_parts(notify: NotifyConfig, sender: Sender) -> EventParts:
    """Return what tells of runs that ended, if anybody wants to hear."""
    heard = audiences(notify)
    if not heard:
        return EventParts(sender.settings)
    tags = EventParts(sender.settings).tags
    machine = EventMachine(MACHINE, "notify", _definition(heard, sender.command), _values(heard))
    role: Json = sender.role or attribute(f"{MACHINE}Role")
    start = EventParts(sender.settings).rule_role(sender.role)
    resources: TemplatePart = {}
    for audience in heard:
        if audience.mails:
            resources[audience.topic] = _topic(audience, tags)
    if any(audience.webhooks for audience in heard):
        resources[CONNECTION] = _connection()
    if not sender.role:
        statements = _statements(heard, machine)
        resources |= event_machine_role(f"{MACHINE}Role", "The messages of ${FlowName}", statements, sender.settings)
    resources[MACHINE] = machine_resource(machine, role, tags)
    rules: TemplatePart = {
        RUN_RULE: rule_resource("Tells how runs of ${FlowName} end", _run_pattern(heard), machine, start, tags)
    }
    if notify.failed and sender.keeps_starts:
        resources[ALARM] = _alarm(tags)
        rules[ALARM_RULE] = rule_resource(
            "Tells of starts of ${FlowName} that were dropped", _alarm_pattern(), machine, start, tags
        )
    return EventParts(sender.settings, resources, rules, (MACHINE,))


def _run_pattern(heard: Iterable[Audience]) -> TemplatePart:
    """Return the pattern of the events of runs that somebody hears of.

    Children of maps have a state machine of another ARN, which ends in the label of the map.
    """
    names = {audience.name for audience in heard}
    statuses: list[Json] = [*(_FAILURES if "Failed" in names else ()), *([_SUCCESS] if "Succeeded" in names else [])]
    return {
        "source": ["aws.states"],
        "detail-type": ["Step Functions Execution Status Change"],
        "detail": {"stateMachineArn": [ref("StateMachine")], "status": statuses},
    }


def _alarm_pattern() -> TemplatePart:
    """Return the pattern of the event of the alarm.

    CloudWatch sends it by itself:
    https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/cloudwatch-and-eventbridge.html
    """
    return {
        "source": ["aws.cloudwatch"],
        "detail-type": ["CloudWatch Alarm State Change"],
        "resources": [attribute(ALARM)],
        "detail": {"state": {"value": ["ALARM"]}},
    }


def _alarm(tags: list[Json]) -> TemplatePart:
    """Return the alarm that something was dropped.

    It watches the queue, since Scheduler counts what it drops for a group of schedules as a whole:
    https://docs.aws.amazon.com/scheduler/latest/UserGuide/monitoring-cloudwatch.html,
    https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-available-cloudwatch-metrics.html
    """
    properties: TemplatePart = {
        "AlarmDescription": "Something that starts runs was dropped; the queue has it.",
        "Namespace": "AWS/SQS",
        "MetricName": "ApproximateNumberOfMessagesVisible",
        "Dimensions": [{"Name": "QueueName", "Value": attribute(QUEUE, "QueueName")}],
        "Statistic": "Maximum",
        "Period": 300,
        "EvaluationPeriods": 1,
        "Threshold": 0,
        "ComparisonOperator": "GreaterThanThreshold",
        "TreatMissingData": "notBreaching",
        "Tags": tags,
    }
    return {"Type": "AWS::CloudWatch::Alarm", "Properties": properties}


def _topic(audience: Audience, tags: list[Json]) -> TemplatePart:
    """Return the topic of e-mail addresses.

    Each must confirm that it wants the messages. The key of SNS's own is for roles of the account, as the state machine
    has one: https://docs.aws.amazon.com/sns/latest/dg/sns-server-side-encryption.html
    """
    subscriptions: list[Json] = [{"Protocol": "email", "Endpoint": mail} for mail in audience.mails]
    properties: TemplatePart = {"KmsMasterKeyId": "alias/aws/sns", "Subscription": subscriptions, "Tags": tags}
    return {"Type": "AWS::SNS::Topic", "Properties": properties}


def _connection() -> TemplatePart:
    """Return the connection that a call of a webhook needs.

    The URL is all of its secret. There is none without authorization, so it adds a header that says who calls:
    https://docs.aws.amazon.com/eventbridge/latest/APIReference/API_CreateConnection.html
    """
    key: TemplatePart = {"ApiKeyName": "Lokki-Flow", "ApiKeyValue": ref("FlowName")}
    properties: TemplatePart = {"AuthorizationType": "API_KEY", "AuthParameters": {"ApiKeyAuthParameters": key}}
    return {"Type": "AWS::Events::Connection", "Properties": properties}


def _statements(heard: Sequence[Audience], machine: EventMachine) -> list[TemplatePart]:
    """Return what the state machine may do.

    https://docs.aws.amazon.com/step-functions/latest/dg/call-https-apis.html#connect-http-task-permissions
    """
    topics: list[Json] = [ref(audience.topic) for audience in heard if audience.mails]
    topics += dict.fromkeys(topic for audience in heard for topic in audience.topics)
    webhooks: list[Json] = [*dict.fromkeys(webhook for audience in heard for webhook in audience.webhooks)]
    statements = []
    if topics:
        statements.append(policy_statement("PublishMessages", ["sns:Publish"], topics))
    if webhooks:
        only: Json = {"StringEquals": {"states:HTTPMethod": "POST", "states:HTTPEndpoint": webhooks}}
        secret = ["secretsmanager:DescribeSecret", "secretsmanager:GetSecretValue"]
        statements += [
            policy_statement("CallWebhooks", ["states:InvokeHTTPEndpoint"], machine.arn, only),
            policy_statement("UseConnection", ["events:RetrieveConnectionCredentials"], attribute(CONNECTION)),
            policy_statement("ReadConnection", secret, attribute(CONNECTION, "SecretArn")),
        ]
    statements.append(policy_statement("KeepMessages", ["sqs:SendMessage"], attribute(QUEUE)))
    return statements


def _values(heard: Iterable[Audience]) -> TemplatePart:
    """Return what fills the placeholders of the definition."""
    values: TemplatePart = {"Region": ref("AWS::Region"), "FlowName": ref("FlowName"), QUEUE: ref(QUEUE)}
    for audience in heard:
        for name, destination in _destinations(audience):
            values[name] = destination
        if audience.webhooks:
            values[CONNECTION] = attribute(CONNECTION)
    return values


def _destinations(audience: Audience) -> Iterator[tuple[str, Json]]:
    """Yield the placeholder of each destination, and what fills it."""
    if audience.mails:
        yield audience.topic, ref(audience.topic)
    for number, topic in enumerate(audience.topics, 1):
        yield f"{audience.name}Topic{number}", topic
    for number, webhook in enumerate(audience.webhooks, 1):
        yield f"{audience.name}Webhook{number}", webhook


def _definition(heard: Sequence[Audience], command: str) -> TemplatePart:
    """Return the state machine that writes and sends the messages."""
    states: TemplatePart = {
        "What": {
            "Type": "Choice",
            "Choices": [{"Condition": "{% $states.input.source = 'aws.cloudwatch' %}", "Next": "DescribeDropped"}],
            "Default": "Report",
        },
        "DescribeDropped": {"Type": "Pass", "Assign": {"message": expression(one_line(_DROPPED))}, "Next": "Who"},
        "Report": _report(),
        "DescribeRun": {
            "Type": "Pass",
            "Assign": {"message": expression(one_line(_run_message(command)))},
            "Next": "Who",
        },
        "Who": {
            "Type": "Choice",
            "Choices": [
                {"Condition": f"{{% ($message.status = '{_SUCCESS}') = {word} %}}", "Next": f"Tell{audience.name}"}
                for audience in heard
                for word in ["true" if audience.name == "Succeeded" else "false"]
            ],
            "Default": "Nobody",
        },
    }
    for audience in heard:
        branches: list[Json] = [_branch(name) for name, _ in _destinations(audience)]
        states[f"Tell{audience.name}"] = {"Type": "Parallel", "Branches": branches, "End": True}
    states["Nobody"] = {"Type": "Succeed"}
    return {"QueryLanguage": "JSONata", "StartAt": "What", "States": states}


def _report() -> TemplatePart:
    """Return the state that reads a cause as JSON, where it is some.

    A Pass state catches no errors, so it is in a Parallel state. Whoever stops a run writes any text as the cause, and
    Step Functions cuts long ones.
    """
    read: TemplatePart = {"Type": "Pass", "Output": expression("$parse($states.input.detail.cause)"), "End": True}
    event: Json = expression("$states.context.Execution.Input")
    unreadable: TemplatePart = {
        "ErrorEquals": ["States.ALL"],
        "Assign": {"report": {}},
        "Output": event,
        "Next": "DescribeRun",
    }
    return {
        "Type": "Parallel",
        "Branches": [{"StartAt": "ReadReport", "States": {"ReadReport": read}}],
        "Assign": {"report": expression("$states.result[0]")},
        "Output": event,
        "Catch": [unreadable],
        "Next": "DescribeRun",
    }


def _branch(destination: str) -> TemplatePart:
    """Return the states that tell one destination, by its placeholder."""
    if "Webhook" in destination:
        connection: TemplatePart = {"ConnectionArn": f"${{{CONNECTION}}}"}
        arguments: TemplatePart = {
            "ApiEndpoint": f"${{{destination}}}",
            "Method": "POST",
            "Authentication": connection,
            "Headers": {"Content-Type": "application/json"},
            "RequestBody": expression("$message"),
        }
        resource = "http:invoke"
    else:
        arguments = {
            "TopicArn": f"${{{destination}}}",
            "Subject": expression(f"$substring($message.subject, 0, {_SUBJECT_LENGTH})"),
            "Message": expression("$message.text"),
        }
        resource = "sns:publish"
    lost = f"Keep{destination}"
    kept = undelivered_task({"to": f"'{destination}'", "message": "$message"})
    states: TemplatePart = {destination: task(resource, arguments, lost) | {"End": True}, lost: kept}
    return {"StartAt": destination, "States": states}


_DROPPED = """(
$subject := '${FlowName}: a start or a message was dropped';
{
'subject': $subject,
'text': $subject & '. What could not be delivered is in the queue ${DeadLetters}, for 14 days; the alarm '
    & $states.input.detail.alarmName & ' ends when the queue is empty.',
'flow': '${FlowName}',
'status': 'DROPPED'
})"""


def _run_message(command: str) -> str:
    """Return the expression of the message on a run.

    A function's cause is JSON with a message and a stack trace. The first frame in the user's files is that of the
    step, the last one is the line that raised.
    """
    commands = _commands(command)
    return f"""(
$detail := $states.input.detail;
$run := $detail.name;
$status := $detail.status;
$words := $lookup({_json_of(_WORDS)}, $status);
$cause := $type($detail.cause) = 'string' ? $detail.cause : '';
$error := $type($detail.error) = 'string' ? $detail.error : '';
$said := $type($report.errorMessage) = 'string' ? $report.errorMessage : $cause;
$frames := $report.stackTrace[$contains($, '/var/task/') and $not($contains($, '/var/task/lokki/'))];
$pattern := /\\/var\\/task\\/([^"]+)", line ([0-9]+), in ([^\\n]+)/;
$place := $exists($frames) ? $match($frames[-1], $pattern).groups : [];
$step := $exists($frames) ? $match($frames[0], $pattern).groups[2] : '';
$step := $exists($step) ? $step : '';
$where := $count($place) = 3 ? $place[0] & ':' & $place[1] : '';
$subject := '${{FlowName}}: the run ' & $run & ' ' & $words;
$why := $substring($join([$error, $said][$ != ''], ': '), 0, {_ERROR_LENGTH});
$reason := $exists($why) ? '\\n\\n' & $why : '';
$at := $where = '' ? '' : '\\nat ' & $where & ', in ' & $place[2] & '()';
$hosts := {{"aws-cn": "amazonaws.cn", "aws-us-gov": "amazonaws-us-gov.com"}};
$host := $lookup($hosts, $split($detail.executionArn, ':')[1]);
$console := 'https://${{Region}}.console.' & ($exists($host) ? $host : 'aws.amazon.com');
$link := $console & '/states/home?region=${{Region}}#/v2/executions/details/';
$commands := $status = '{_SUCCESS}' ? [{commands["show"]}]
    : $append([{commands["show"]}, {commands["redrive"]}], $step = '' ? [] : [{commands["replay"]}]);
{{
'subject': $subject,
'text': $subject & '.' & $reason & $at & '\\n\\n' & $join($commands, '\\n') & '\\n' & $link & $detail.executionArn,
'flow': '${{FlowName}}',
'run': $run,
'status': $status,
'error': $error,
'where': $where,
'step': $step
}})"""


_WORDS = {"FAILED": "failed", "TIMED_OUT": "took too long", "ABORTED": "was stopped", "SUCCEEDED": "succeeded"}


def _json_of(words: dict[str, str]) -> str:
    return json.dumps(words)


def _commands(command: str) -> dict[str, str]:
    """Return the expressions of commands by their names."""
    quoted = json.dumps(command, ensure_ascii=False)
    return {
        "show": f"{quoted} & ' show ' & $run",
        "redrive": f"{quoted} & ' redrive ' & $run",
        "replay": f"{quoted} & ' replay ' & $run & ' --deployed --step ' & $step",
    }
