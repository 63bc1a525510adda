"""What starts runs by events: rules for ``@flow(on=[…])``, and a state machine that starts each event's run once.

EventBridge delivers an event at least once, and a rule cannot name the execution that it starts, so a rule starts this
state machine, which starts the run by a name that is made of the event: a second run of that name is refused.
https://docs.aws.amazon.com/step-functions/latest/apireference/API_StartExecution.html
"""

from __future__ import annotations

from collections.abc import Sequence

from lokki.base.starts import After, BusEvent, EventParameter, S3Created, Start, feedback_problem, parameter_for
from lokki.base.values import Json
from lokki.builder.compiled import Compiled
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
    TemplatePart,
    attribute,
    event_machine_role,
    own_permissions,
    policy_statement,
    ref,
    sub,
)
from lokki.builder.settings import default_permissions
from lokki.builder.tasks import expression
from lokki.errors import FlowError

MACHINE = "Start"

_ALREADY = ["StepFunctions.ExecutionAlreadyExistsException", "Sfn.ExecutionAlreadyExistsException"]
"""What the start of a run is refused with whose name there is already, by Step Functions' own integration and by that
of AWS's SDK. https://docs.aws.amazon.com/step-functions/latest/dg/connect-stepfunctions.html"""


def start_parts(compiled: Compiled, role: str, parts: EventParts) -> EventParts:
    """Return what starts runs by events, nothing for a flow without ``on=``.

    ``role``: the one that the settings name, or "". Raises FlowError for a flow that could start itself for ever.
    """
    starts = compiled.plan.options.on
    if not starts:
        return EventParts(parts.settings)
    check_feedback(compiled)
    machine = EventMachine(MACHINE, "start", _definition(starts, event_parameters(compiled)), _values())
    resources: TemplatePart = {}
    if not role:
        statements = [
            # An alias is authorized by the ARN of its state machine.
            policy_statement("StartRuns", ["states:StartExecution"], ref("StateMachine")),
            policy_statement("KeepEvents", ["sqs:SendMessage"], attribute(QUEUE)),
        ]
        resources |= event_machine_role(f"{MACHINE}Role", "The starts of ${FlowName}", statements, parts.settings)
    tags, rule_role = parts.tags, parts.rule_role(role)
    resources[MACHINE] = machine_resource(machine, role or attribute(f"{MACHINE}Role"), tags)
    rules: TemplatePart = {
        f"On{number}": rule_resource("Starts runs of ${FlowName}", _pattern(start), machine, rule_role, tags)
        for number, start in enumerate(starts, 1)
    }
    return EventParts(parts.settings, resources, rules, (MACHINE,))


def event_parameters(compiled: Compiled) -> list[EventParameter]:
    """Return the flow's parameters, as far as events are concerned."""
    return [EventParameter(param.name, param.annotation, param.required) for param in compiled.plan.params]


def check_feedback(compiled: Compiled) -> None:
    """Raise FlowError for a flow that writes where it listens.

    Steps write below two prefixes of the flow's own bucket, and wherever their permissions allow it.
    """
    starts, config = compiled.plan.options.on, compiled.config
    everybody = default_permissions(config)
    permissions = [*everybody, *(entry for step in compiled.steps for entry in own_permissions(step))]
    problem = feedback_problem(starts, permissions)
    for start in starts:
        if (
            isinstance(start, S3Created)
            and config.artifact_bucket
            and start.url.split("/")[2] == config.artifact_bucket
        ):
            keys = start.keys.partition("*")[0]
            if any(keys.startswith(own) or own.startswith(keys) for own in ("lokki/", "lokki-packages/")):
                problem = (
                    f"it is started by {start.url}, which is where its steps write what they hand on: it would start "
                    "itself for ever. Listen to another prefix or bucket."
                )
    if problem:
        raise FlowError(f"the flow {compiled.plan.flow!r} would not end: {problem}")


def _pattern(start: Start) -> TemplatePart:
    """Return the pattern of the events of a start."""
    if not isinstance(start, After):
        return dict(start.pattern)
    arn = f"arn:${{AWS::Partition}}:states:${{AWS::Region}}:${{AWS::AccountId}}:stateMachine:{start.flow}"
    return {
        "source": ["aws.states"],
        "detail-type": ["Step Functions Execution Status Change"],
        "detail": {"stateMachineArn": [sub(arn)], "status": ["SUCCEEDED"]},
    }


def _values() -> TemplatePart:
    return {"Live": ref("Live"), QUEUE: ref(QUEUE)}


def _definition(starts: Sequence[Start], params: Sequence[EventParameter]) -> TemplatePart:
    """Return the state machine that starts runs."""
    arguments: TemplatePart = {
        "StateMachineArn": "${Live}",
        "Name": expression(one_line(_NAME)),
        "Input": expression(one_line(_input(starts, params))),
    }
    start = task("states:startExecution", arguments, "KeepEvent")
    repeated: Json = {"ErrorEquals": [*_ALREADY], "MaxAttempts": 0}
    known: Json = {"ErrorEquals": [*_ALREADY], "Next": "Started"}
    start["Retry"] = [repeated, *_listed(start["Retry"])]
    start["Catch"] = [known, *_listed(start["Catch"])]
    states: TemplatePart = {
        "StartRun": start | {"End": True},
        "KeepEvent": undelivered_task({"event": "$states.context.Execution.Input"}),
        "Started": {"Type": "Succeed"},
    }
    return {"QueryLanguage": "JSONata", "StartAt": "StartRun", "States": states}


def _listed(value: Json) -> list[Json]:
    return value if isinstance(value, list) else []


_NAME = """(
$event := $states.input;
$object := $event.detail.object;
$kind := $event.source & ' ' & $event.'detail-type';
$kind = 'aws.s3 Object Created'
    ? 's3-' & $substring($hash($join([$event.detail.bucket.name, $object.key, $object.'version-id', $object.sequencer,
        $object.etag], '\\n'), 'SHA-256'), 0, 32)
    : $kind = 'aws.states Step Functions Execution Status Change'
    ? 'after-' & $substring($hash($event.detail.executionArn, 'SHA-256'), 0, 32)
    : 'event-' & $event.id
)"""
"""The name of the run that an event starts.

S3 may send two events for one write, which differ in their ids alone; a second write has another sequencer:
https://docs.aws.amazon.com/AmazonS3/latest/userguide/ev-events.html"""

_OBJECT = """{
'bucket': $event.detail.bucket.name,
'key': $event.detail.object.key,
'size': $exists($event.detail.object.size) ? $event.detail.object.size : 0,
'etag': $exists($event.detail.object.etag) ? $event.detail.object.etag : '',
'version': $exists($event.detail.object.'version-id') ? $event.detail.object.'version-id' : ''
}"""

_RUN = """{
'flow': $split($event.detail.stateMachineArn, ':')[-1],
'run_id': $event.detail.name
}"""


def _input(starts: Sequence[Start], params: Sequence[EventParameter]) -> str:
    """Return the expression of a run's parameters.

    It gives what `lokki.base.starts.values_of_event` gives.
    """
    forms: tuple[tuple[type[Start], str, str], ...] = (
        (S3Created, "aws.s3 Object Created", _OBJECT),
        (After, "aws.states Step Functions Execution Status Change", _RUN),
    )
    branches = []
    for kind, words, value in forms:
        start = next((start for start in starts if isinstance(start, kind)), None)
        if start is not None:
            branches.append(f"$kind = '{words}' ? {{'{parameter_for(start, params)}': {value}}} : ")
    has_details = any(isinstance(start, BusEvent) for start in starts)
    rest = "{'event': $event.detail}" if has_details else "$error('this event does not start the flow')"
    named = "$kind := $event.source & ' ' & $event.'detail-type';"
    return f"($event := $states.input; {named} {''.join(branches)}{rest})"
