"""What a deployment changes, in words: what CloudFormation would do, and in which settings two templates differ."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from lokki.base.values import Json

type JsonObject = Mapping[str, Json]
type Action = Literal["created", "changed", "replaced", "deleted"]

_IMPLIED = {
    "AWS::Lambda::Version",
    "AWS::StepFunctions::StateMachineVersion",
    "AWS::StepFunctions::StateMachineAlias",
}
"""What changes whenever a function or the state machine does; said in one line of its own."""

_STEP = re.compile(r"The step (\w+) of \$\{FlowName\}(, with more memory)?")
_SHORT = 60


@dataclass(frozen=True, slots=True)
class ResourceChange:
    """What CloudFormation would do with one resource.

    ``properties``: the names of those that it would change.
    """

    resource: str
    type: str
    action: Action
    properties: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Templates:
    """A stack's template and parameters as they are and as they would be.

    Both are empty for a new stack.
    """

    current: JsonObject
    proposed: JsonObject
    current_parameters: Mapping[str, str]
    proposed_parameters: Mapping[str, str]


def in_words(changes: Iterable[ResourceChange], templates: Templates) -> list[str]:
    """Return a line for each part of the flow that changes.

    Steps come in their order, then what they share.

    Of a change in place it says which settings change, from what to what; values of variables are not shown.
    """
    by_resource = {change.resource: change for change in changes if change.type not in _IMPLIED}
    order = [*template_resources(templates.proposed), *template_resources(templates.current)]
    lines = [
        f"{part}: {_one(by_resource[name], templates)}"
        for name, part in sorted(_parts(by_resource, templates).items(), key=lambda pair: order.index(pair[0]))
    ]
    width = max((line.index(":") for line in lines), default=0)
    aligned = [f"{line.partition(':')[0]:<{width}}  {line.partition(': ')[2]}" for line in lines]
    return [*aligned, *_parameters(templates)]


def _parts(by_resource: Mapping[str, ResourceChange], templates: Templates) -> dict[str, str]:
    """Return what each changed resource is called for people.

    A log group that comes or goes with its function is left out.
    """
    resources = {**template_resources(templates.current), **template_resources(templates.proposed)}
    parts: dict[str, str] = {}
    for name, change in by_resource.items():
        function = f"{name.removesuffix('LogGroup')}Function"
        with_function = name.endswith("LogGroup") and function in by_resource
        if name not in resources or (with_function and by_resource[function].action == change.action != "changed"):
            continue
        parts[name] = _part(name, change.type, resources)
    return parts


_NAMES = {
    "LambdaExecutionRole": "role of the steps",
    "StepFunctionsExecutionRole": "role of the state machine",
    "ScheduleRole": "role of the schedule",
    "StateMachine": "state machine",
    "StateMachineLogs": "logs of the state machine",
    "Schedule": "schedule",
    "Start": "state machine that starts runs",
    "StartRole": "role of what starts runs",
    "Notify": "state machine that tells of runs",
    "NotifyRole": "role of what tells of runs",
    "RunEnded": "rule for ends of runs",
    "Dropped": "alarm for what is dropped",
    "DroppedRule": "rule for the alarm",
    "RuleRole": "role of the rules",
    "DeadLetters": "queue of what is dropped",
    "DeadLettersPolicy": "policy of the queue",
    "FailedTopic": "topic of failures",
    "SucceededTopic": "topic of successes",
    "WebhookConnection": "connection for webhooks",
}
"""What resources are called for people, by logical id."""


def _part(name: str, kind: str, resources: Mapping[str, JsonObject]) -> str:
    match kind:
        case "AWS::Lambda::Function":
            return _step(resources[name])
        case "AWS::Logs::LogGroup" if name != "StateMachineLogs":
            function = resources.get(f"{name.removesuffix('LogGroup')}Function")
            return f"logs of {_step(function)}" if function is not None else f"logs {name}"
        case _:
            names = dict(_NAMES)
            if match := re.fullmatch(r"On(\d+)", name):
                return f"rule {match[1]} of what starts runs"
            role = re.sub(r"Policy\d+$", "", name)
            if role.endswith("FunctionRole") and (function := resources.get(role.removesuffix("Role"))) is not None:
                names[role] = f"role of {_step(function)}"
            return names.get(name) or (f"more of the {names[role]}" if role in names else name)


def _step(function: JsonObject) -> str:
    description = resource_properties(function).get("Description")
    text = description.get("Fn::Sub") if isinstance(description, dict) else description
    match = _STEP.fullmatch(str(text))
    return f"{match[1]}{match[2] or ''}" if match else str(text)


def _one(change: ResourceChange, templates: Templates) -> str:
    if change.action in ("created", "deleted"):
        return change.action
    old = resource_properties(template_resources(templates.current).get(change.resource, {}))
    new = resource_properties(template_resources(templates.proposed).get(change.resource, {}))
    words = [*_differences(old, new)]
    differing = {name for name in {*old, *new} if old.get(name) != new.get(name)}
    words += sorted(f"{_lower(name)}" for name in change.properties if name not in differing)
    if change.resource == "StateMachine" and "DefinitionSubstitutions" in {
        *differing,
        *change.properties,
    }:
        words = [word for word in words if word != "definition substitutions"]
        words = words or [_substituted(differing, templates)]
    how = "replaced: " if change.action == "replaced" else ""
    return how + (", ".join(words) or "through what it refers to")


def _substituted(differing: set[str], templates: Templates) -> str:
    """Say what changed the placeholders of the definition.

    That is the code that it uses, or only the account's parameter.
    """
    name = "MapConcurrency"
    by_parameter = templates.current_parameters.get(name) != templates.proposed_parameters.get(name)
    only = by_parameter and "DefinitionSubstitutions" not in differing
    return "how many items of a map run at once" if only else "uses the new code"


def _differences(current: JsonObject, proposed: JsonObject) -> Iterator[str]:
    for name in sorted({*current, *proposed}):
        old, new = current.get(name), proposed.get(name)
        if old != new:
            say = _SAID.get(name)
            yield _by_default(name, old, new) if say is None else say(old, new)


def _by_default(name: str, old: Json, new: Json) -> str:
    if all(isinstance(value, str | int | float | bool) for value in (old, new)):
        return f"{_lower(name)} {_from_to(old, new)}"
    return _lower(name)


def _variables(old: Json, new: Json) -> str:
    def variables(value: Json) -> JsonObject:
        return _object(_object(value).get("Variables"))

    return f"variables {_keys(variables(old), variables(new))}"


def _keys(old: JsonObject, new: JsonObject) -> str:
    """Name what was added (+), removed (-) and changed (~)."""
    signs = {name: "+" if name not in old else "-" if name not in new else "~" for name in (*old, *new)}
    return ", ".join(f"{sign}{name}" for name, sign in sorted(signs.items()) if old.get(name) != new.get(name))


def _tags(old: Json, new: Json) -> str:
    def tags(value: Json) -> JsonObject:
        return {str(pair["Key"]): pair["Value"] for pair in _objects(value)}

    return f"tags {_keys(tags(old), tags(new))}"


def _policies(old: Json, new: Json) -> str:
    def statements(value: Json) -> JsonObject:
        documents = [_object(policy["PolicyDocument"]) for policy in _objects(value)]
        return {
            str(statement["Sid"]): dict(statement)
            for document in documents
            for statement in _objects(document["Statement"])
        }

    return f"permissions {_keys(statements(old), statements(new))}"


def _definition(old: Json, new: Json) -> str:
    return f"states {_keys(_states(old), _states(new))}" if _states(old) != _states(new) else "definition"


def _states(text: Json) -> JsonObject:
    """Return all states of a definition by name.

    A map comes without its inner states, which stand beside it.
    """
    try:
        definition = json.loads(text) if isinstance(text, str) else {}
    except ValueError:
        return {}
    states: dict[str, Json] = {}
    waiting = [definition]
    while waiting:
        for name, state in waiting.pop().get("States", {}).items():
            inner = state.pop("ItemProcessor", None)
            states[name] = state if inner is None else {**state, "ProcessorConfig": inner.get("ProcessorConfig")}
            waiting += [inner] if inner is not None else []
    return states


def _from_to(old: Json, new: Json) -> str:
    return f"{_short(old)} → {_short(new)}"


def _short(value: Json) -> str:
    text = str(value)
    return text if len(text) <= _SHORT else f"{text[: _SHORT - 1]}…"


def _target(old: Json, new: Json) -> str:
    def input_of(value: Json) -> str:
        return str(value.get("Input", "")) if isinstance(value, dict) else ""

    return f"parameters {_from_to(input_of(old), input_of(new))}" if input_of(old) != input_of(new) else "target"


_SAID: Mapping[str, Callable[[Json, Json], str]] = {
    "Code": lambda old, new: "code",
    "DefinitionString": _definition,
    "DefinitionSubstitutions": lambda old, new: "definition substitutions",
    "Environment": _variables,
    "MemorySize": lambda old, new: f"memory {_from_to(old, new)} MB",
    "Policies": _policies,
    "RetentionInDays": lambda old, new: f"kept for {_from_to(old, new)} days",
    "Role": lambda old, new: "role",
    "ScheduleExpression": lambda old, new: _from_to(old, new),
    "ScheduleExpressionTimezone": lambda old, new: f"time zone {_from_to(old, new)}",
    "Tags": _tags,
    "Target": _target,
    "Timeout": lambda old, new: f"timeout {_from_to(old, new)} s",
    "TracingConfig": lambda old, new: "tracing",
    "TracingConfiguration": lambda old, new: "tracing",
}
"""How the change of a property is said, where it is not by its name and values."""


def _parameters(templates: Templates) -> Iterator[str]:
    current, proposed = templates.current_parameters, templates.proposed_parameters
    for name in sorted(current.keys() & proposed.keys()):
        if current[name] != proposed[name]:
            yield f"parameter {name} {_from_to(current[name], proposed[name])}"


def template_resources(template: JsonObject) -> dict[str, JsonObject]:
    """Return the resources of a template by their logical ids."""
    return {name: _object(resource) for name, resource in _object(template.get("Resources")).items()}


def resource_properties(resource: JsonObject) -> JsonObject:
    """Return the properties of a resource."""
    return _object(resource.get("Properties"))


def _object(value: Json) -> JsonObject:
    return value if isinstance(value, dict) else {}


def _objects(value: Json) -> list[JsonObject]:
    return [_object(member) for member in value] if isinstance(value, list) else []


def _lower(name: str) -> str:
    """Write a property's name as words.

    >>> _lower("LoggingConfig")
    'logging config'
    """
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()
