"""What is built to tell of runs that ended: the messages, who gets them, and what the roles allow for it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from aws.event_patterns import matches_pattern
from aws.loopback_integrations import with_integrations
from aws.policies import ACCOUNT, REGION, Call, Roles, Use, allowing
from build_flows import BUILDS, hourly_flow
from support.emulation import FakeFunctions, FunctionError, World, make_world

from lokki.base.values import Json
from lokki.builder.cloudformation import build_template
from lokki.builder.package_types import ZipCode
from lokki.builder.settings import check_settings
from lokki.config import LokkiConfig, NotifyConfig
from lokki.emulator.states.outcome import Outcome
from lokki.errors import ConfigError
from lokki.operate.machine import console_link

TEMPLATE = BUILDS["notifications"].template()
ROLES = Roles(TEMPLATE)
MACHINE = f"arn:aws:states:{REGION}:{ACCOUNT}:stateMachine:hourly-flow"
SNS, HTTP, SQS = (f"arn:aws:states:::{name}" for name in ("sns:publish", "http:invoke", "sqs:sendMessage"))
WEBHOOK = "https://hooks.example.com/services/T0/B0/x"

TRACE = [
    '  File "/var/task/lokki/runtime/handler.py", line 90, in run\n    return call()\n',
    '  File "/var/task/birds/flow.py", line 12, in flap\n    return check(wings)\n',
    '  File "/var/task/birds/wings.py", line 3, in check\n    raise ValueError("no")\n',
]


def definition(logical: str = "Notify") -> Json:
    """Return the definition of a state machine of the template, filled as CloudFormation does."""
    properties: Any = TEMPLATE["Resources"][logical]["Properties"]
    text = str(properties["DefinitionString"])
    for name, value in properties["DefinitionSubstitutions"].items():
        text = text.replace(f"${{{name}}}", ROLES.text(value))
    filled: Json = json.loads(text)
    return with_integrations(filled)


def event(status: str = "FAILED", error: Json = None, cause: Json = None) -> dict[str, Json]:
    execution = f"{MACHINE.replace('stateMachine', 'execution')}:monday"
    detail: Json = {
        "executionArn": execution,
        "stateMachineArn": MACHINE,
        "name": "monday",
        "status": status,
        "error": error,
        "cause": cause,
    }
    kind = "Step Functions Execution Status Change"
    return {"source": "aws.states", "detail-type": kind, "resources": [execution], "detail": detail}


def notified(given: Json, broken: str = "") -> tuple[World, Outcome]:
    """Let the state machine work on an event; one of the services fails if it is ``broken``."""
    world = make_world({SNS: lambda payload: "1", HTTP: lambda payload: {"StatusCode": 200}, SQS: lambda payload: "1"})
    if broken:

        def fail(payload: Json) -> Json:
            raise FunctionError("States.Http.StatusCode.500", "out of order")

        world.functions.answers[broken] = fail
    return world, world.start(definition(), given).run()


def messages(functions: FakeFunctions, service: str) -> list[dict[str, Any]]:
    return [payload for name, payload in functions.invocations if name == service and isinstance(payload, dict)]


def message(error: Json, cause: Json, status: str = "FAILED") -> dict[str, Any]:
    world, outcome = notified(event(status, error, cause))
    assert outcome.status == "SUCCEEDED", outcome
    [call] = messages(world.functions, HTTP)
    body: dict[str, Any] = call["RequestBody"]
    return body


def test_a_failure_names_the_step_and_the_line_of_the_user() -> None:
    body = message("ValueError", json.dumps({"errorMessage": 'no "wings"\n', "errorType": "V", "stackTrace": TRACE}))
    link = "https://us-east-1.console.aws.amazon.com/states/home?region=us-east-1#/v2/executions/details/"
    assert body == {
        "subject": "hourly-flow: the run monday failed",
        "text": "hourly-flow: the run monday failed.\n\n"
        'ValueError: no "wings"\n\n'
        "at birds/wings.py:3, in check()\n\n"
        "python build_flows.py show monday\n"
        "python build_flows.py redrive monday\n"
        "python build_flows.py replay monday --deployed --step flap\n"
        f"{link}arn:aws:states:us-east-1:123456789012:execution:hourly-flow:monday",
        "flow": "hourly-flow",
        "run": "monday",
        "status": "FAILED",
        "error": "ValueError",
        "where": "birds/wings.py:3",
        "step": "flap",
    }


@pytest.mark.parametrize(
    ("error", "cause", "said"),
    [
        (None, None, ""),
        ("States.Timeout", None, "\n\nStates.Timeout"),
        ("", "", ""),
        (None, "stopped by me", "\n\nstopped by me"),
        ("E", "{no JSON}", "\n\nE: {no JSON}"),
        ("E", '{"errorMessage": "cut', '\n\nE: {"errorMessage": "cut'),
        ("E", "[1, 2]", "\n\nE: [1, 2]"),
        ("E", "3", "\n\nE: 3"),
        ("E", '"text"', '\n\nE: "text"'),
        ("E", "null", "\n\nE: null"),
        ("E", '{"errorMessage": 5}', '\n\nE: {"errorMessage": 5}'),
        ("E", '{"errorMessage": "x", "stackTrace": null}', "\n\nE: x"),
        ("E", '{"errorMessage": "x", "stackTrace": []}', "\n\nE: x"),
        ("E", json.dumps({"errorMessage": "x", "stackTrace": TRACE[:1]}), "\n\nE: x"),
        ("E", json.dumps({"errorMessage": "x", "stackTrace": ["  /var/task/odd"]}), "\n\nE: x"),
        ("E", "x" * 5000, f"\n\nE: {'x' * 997}"),
        ("Ä'\"", "\\ ' \" {% $x %} <b>", "\n\nÄ'\": \\ ' \" {% $x %} <b>"),
    ],
)
def test_whatever_error_and_cause_are_there_is_a_message(error: Json, cause: Json, said: str) -> None:
    body = message(error, cause)
    assert body["text"].startswith(f"hourly-flow: the run monday failed.{said}\n\npython build_flows.py show monday\n")
    assert (body["where"], body["step"], "replay" in body["text"]) == ("", "", False)


@pytest.mark.parametrize(
    ("partition", "host"),
    [("aws", "aws.amazon.com"), ("aws-cn", "amazonaws.cn"), ("aws-us-gov", "amazonaws-us-gov.com")],
)
def test_the_link_is_for_the_console_of_the_partition(partition: str, host: str) -> None:
    given = event()
    assert isinstance(given["detail"], dict)
    arn = str(given["detail"]["executionArn"]).replace("arn:aws:", f"arn:{partition}:")
    world, _ = notified({**given, "detail": {**given["detail"], "executionArn": arn}})
    [call] = messages(world.functions, HTTP)
    assert call["RequestBody"]["text"].endswith(f"\n{console_link(arn)}")
    assert f"console.{host}/" in console_link(arn)


def test_one_frame_is_a_place_too() -> None:
    body = message("E", json.dumps({"errorMessage": "x", "stackTrace": TRACE[1:2]}))
    assert (body["where"], body["step"]) == ("birds/flow.py:12", "flap")


@pytest.mark.parametrize(
    ("status", "words"), [("TIMED_OUT", "took too long"), ("ABORTED", "was stopped"), ("FAILED", "failed")]
)
def test_who_wants_to_hear_of_failures_hears_of_each_of_them(status: str, words: str) -> None:
    world, _ = notified(event(status))
    assert [call["TopicArn"].rpartition(":")[2] for call in messages(world.functions, SNS)] == ["FailedTopic", "pages"]
    subjects = {call["Subject"] for call in messages(world.functions, SNS)}
    assert subjects == {f"hourly-flow: the run monday {words}"}
    assert [call["ApiEndpoint"] for call in messages(world.functions, HTTP)] == [WEBHOOK]


def test_who_wants_to_hear_of_successes_hears_of_them_alone() -> None:
    world, _ = notified(event("SUCCEEDED"))
    assert [call["TopicArn"].rpartition(":")[2] for call in messages(world.functions, SNS)] == ["news"]
    assert messages(world.functions, HTTP) == []


def test_a_message_that_cannot_be_delivered_is_kept_and_the_others_are_sent() -> None:
    world, outcome = notified(event(), broken=HTTP)
    assert outcome.status == "SUCCEEDED"
    assert len(messages(world.functions, HTTP)) == 6
    assert sum(world.clock.waits) == 62
    assert len(messages(world.functions, SNS)) == 2
    [kept] = messages(world.functions, SQS)
    body = json.loads(kept["MessageBody"])
    assert (body["to"], body["message"]["run"], body["problem"]["Error"]) == (
        "FailedWebhook1",
        "monday",
        "States.Http.StatusCode.500",
    )


# --- rules and roles ---


def pattern(logical: str) -> Json:
    return filled(TEMPLATE["Resources"][logical]["Properties"]["EventPattern"])


def filled(value: Json) -> Json:
    match value:
        case {"Ref": "StateMachine"}:
            return MACHINE
        case {"Fn::GetAtt": [str(name), "Arn"]}:
            return f"arn of {name}"
        case dict():
            return {name: filled(member) for name, member in value.items()}
        case list():
            return [filled(member) for member in value]
    return value


def test_the_rule_is_for_runs_of_this_flow_and_no_items() -> None:
    for status in ("FAILED", "TIMED_OUT", "ABORTED", "SUCCEEDED"):
        assert matches_pattern(pattern("RunEnded"), event(status))
    assert not matches_pattern(pattern("RunEnded"), event("RUNNING"))
    other = event()
    assert isinstance(other["detail"], dict)
    for machine in (f"{MACHINE}/map", f"{MACHINE}2"):
        assert not matches_pattern(
            pattern("RunEnded"), other | {"detail": other["detail"] | {"stateMachineArn": machine}}
        )


def calls() -> set[Call]:
    """Return what the state machine calls when webhooks are out of order."""
    found: set[Call] = set()
    own = f"{MACHINE}.notify"
    for status in ("FAILED", "SUCCEEDED"):
        world, _ = notified(event(status), broken=HTTP)
        found |= {Call("NotifyRole", "sns:Publish", each["TopicArn"]) for each in messages(world.functions, SNS)}
        found |= {Call("NotifyRole", "sqs:SendMessage", each["QueueUrl"]) for each in messages(world.functions, SQS)}
        for each in messages(world.functions, HTTP):
            context = (("states:HTTPMethod", each["Method"]), ("states:HTTPEndpoint", each["ApiEndpoint"]))
            connection = each["Authentication"]["ConnectionArn"]
            secret = ROLES.text({"Fn::GetAtt": ["WebhookConnection", "SecretArn"]})
            found |= {
                Call("NotifyRole", "states:InvokeHTTPEndpoint", own, context),
                Call("NotifyRole", "events:RetrieveConnectionCredentials", connection),
                Call("NotifyRole", "secretsmanager:DescribeSecret", secret),
                Call("NotifyRole", "secretsmanager:GetSecretValue", secret),
            }
    return found


def test_the_role_allows_what_is_called_and_nothing_else() -> None:
    statements = ROLES.statements("NotifyRole")
    used: set[Use] = set()
    for call in calls():
        assert allowing(statements, call), call
        used |= allowing(statements, call)
    assert used == {use for statement in statements for use in statement.all_uses}


def test_the_role_is_for_these_destinations_alone() -> None:
    statements = ROLES.statements("NotifyRole")
    for call in calls():
        assert not allowing(statements, Call(call.role, call.action, f"{call.resource}x", call.context))
    own = f"{MACHINE}.notify"
    for method, endpoint in (("GET", WEBHOOK), ("POST", f"{WEBHOOK}/other"), ("POST", "https://example.com/")):
        context = (("states:HTTPMethod", method), ("states:HTTPEndpoint", endpoint))
        assert not allowing(statements, Call("NotifyRole", "states:InvokeHTTPEndpoint", own, context))


def test_rules_may_start_the_state_machine_and_use_the_queue() -> None:
    properties: Any = TEMPLATE["Resources"]["RuleRole"]["Properties"]
    [statement] = properties["Policies"][0]["PolicyDocument"]["Statement"]
    assert (statement["Action"], statement["Resource"]) == (["states:StartExecution"], [{"Ref": "Notify"}])
    rules = [name for name, each in TEMPLATE["Resources"].items() if each["Type"] == "AWS::Events::Rule"]
    assert rules == ["RunEnded", "DroppedRule"]
    policy: Any = TEMPLATE["Resources"]["DeadLettersPolicy"]["Properties"]["PolicyDocument"]["Statement"][0]
    assert policy["Condition"] == {"ArnEquals": {"aws:SourceArn": [{"Fn::GetAtt": [rule, "Arn"]} for rule in rules]}}


# --- settings ---


def template(notify: NotifyConfig, **settings: Any) -> Any:
    config = LokkiConfig(artifact_bucket="acme-artifacts", notify=notify, **settings)
    return build_template(hourly_flow(), config, dict.fromkeys(("fetch", "add_up"), ZipCode("code.zip")))


def test_without_destinations_nothing_is_built() -> None:
    assert template(NotifyConfig()) == template(NotifyConfig((), ()))
    assert not {"Notify", "DeadLetters", "RunEnded"} & template(NotifyConfig())["Resources"].keys()


def test_only_what_is_asked_for_is_built() -> None:
    made = template(NotifyConfig(succeeded=("birds@example.com", "birds@example.com")))["Resources"]
    assert made["RunEnded"]["Properties"]["EventPattern"]["detail"]["status"] == ["SUCCEEDED"]
    assert made["SucceededTopic"]["Properties"]["Subscription"] == [
        {"Protocol": "email", "Endpoint": "birds@example.com"}
    ]
    assert not {"Dropped", "WebhookConnection", "FailedTopic"} & made.keys()
    assert "DeadLetterConfig" not in made["Schedule"]["Properties"]["Target"]


@pytest.mark.parametrize(
    "destination",
    [
        "birds@example.com", "a.b+c@mail.example.co.uk", "arn:aws-cn:sns:cn-north-1:123456789012:pages",
        "https://hooks.example.com/x?y=1&z=%20", "{{resolve:secretsmanager:prod/hook:SecretString:url}}",
        "{{resolve:ssm:/prod/hook:1}}",
    ],
)  # fmt: skip
def test_addresses_topics_and_webhooks_are_taken(destination: str) -> None:
    check_settings(LokkiConfig(artifact_bucket="acme", notify=NotifyConfig(failed=(destination,))))
    assert "Notify" in template(NotifyConfig(failed=(destination,)))["Resources"]


@pytest.mark.parametrize(
    "destination",
    [
        "", "birds", "birds@", "@example.com", "birds@example", "birds @example.com", "http://hooks.example.com/",
        "https://", "https://hooks.example.com/ x", "https://x/${FlowName}", "arn:aws:sqs:eu-north-1:123456789012:q",
        "arn:aws:sns:eu-north-1:123456789012:pages.fifo", "{{resolve:iam:x}}", "birds@example.com\n",
    ],
)  # fmt: skip
def test_others_are_refused_with_the_setting(destination: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_settings(LokkiConfig(artifact_bucket="acme", notify=NotifyConfig(succeeded=(destination,))))
    assert str(caught.value) == (
        f"notify.succeeded: {destination!r} is not valid: give an e-mail address, the ARN of an SNS topic that is no "
        "FIFO topic, or the https:// URL of a webhook, which may be {{resolve:secretsmanager:<name>}}.\n"
        "Correct lokki.yml, or the variable that sets it."
    )
