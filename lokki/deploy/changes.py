"""What a deployment changes, in words: what CloudFormation would do, and in which settings two templates differ."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, cast

from lokki.base.values import Json

type Mapped = Mapping[str, Json]
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

    before: Mapped
    after: Mapped
    parameters_before: Mapping[str, str]
    parameters_after: Mapping[str, str]


def in_words(changes: Iterable[ResourceChange], templates: Templates) -> list[str]:
    """Return a line for each part of the flow that changes.

    Steps come in their order, then what they share.

    Of a change in place it says which settings change, from what to what; values of variables are not shown.
    """
    found = {change.resource: change for change in changes if change.type not in _IMPLIED}
    order = [*_resources(templates.after), *_resources(templates.before)]
    lines = [
        f"{part}: {_one(found[name], templates)}"
        for name, part in sorted(_parts(found, templates).items(), key=lambda each: order.index(each[0]))
    ]
    width = max((line.index(":") for line in lines), default=0)
    described = [f"{line.partition(':')[0]:<{width}}  {line.partition(': ')[2]}" for line in lines]
    return [*described, *_parameters(templates)]


def _parts(found: Mapping[str, ResourceChange], templates: Templates) -> dict[str, str]:
    """Return what each changed resource is called for people.

    A log group that comes or goes with its function is left out.
    """
    known = {**_resources(templates.before), **_resources(templates.after)}
    parts: dict[str, str] = {}
    for name, change in found.items():
        function = f"{name.removesuffix('LogGroup')}Function"
        with_function = name.endswith("LogGroup") and function in found
        if name not in known or (with_function and found[function].action == change.action != "changed"):
            continue
        parts[name] = _part(name, change.type, known)
    return parts


def _part(name: str, kind: str, known: Mapping[str, Mapped]) -> str:
    match kind:
        case "AWS::Lambda::Function":
            return _step(known[name])
        case "AWS::Logs::LogGroup" if name != "StateMachineLogs":
            function = known.get(f"{name.removesuffix('LogGroup')}Function")
            return f"logs of {_step(function)}" if function is not None else f"logs {name}"
        case _:
            names = {
                "LambdaExecutionRole": "role of the steps",
                "StepFunctionsExecutionRole": "role of the state machine",
                "ScheduleRole": "role of the schedule",
                "StateMachine": "state machine",
                "StateMachineLogs": "logs of the state machine",
                "Schedule": "schedule",
            }
            role = re.sub(r"Policy\d+$", "", name)
            return names.get(name) or (f"more of the {names[role]}" if role in names else name)


def _step(function: Mapped) -> str:
    described = _properties(function).get("Description")
    text = described.get("Fn::Sub") if isinstance(described, dict) else described
    found = _STEP.fullmatch(str(text))
    return f"{found[1]}{found[2] or ''}" if found else str(text)


def _one(change: ResourceChange, templates: Templates) -> str:
    if change.action in ("created", "deleted"):
        return change.action
    before = _properties(_resources(templates.before).get(change.resource, {}))
    after = _properties(_resources(templates.after).get(change.resource, {}))
    words = [*_differences(before, after)]
    told = {name for name in {*before, *after} if before.get(name) != after.get(name)}
    words += sorted(f"{_lower(name)}" for name in change.properties if name not in told)
    if change.type == "AWS::StepFunctions::StateMachine" and "DefinitionSubstitutions" in {*told, *change.properties}:
        words = [word for word in words if word != "definition substitutions"]
        words = words or [_substituted(told, templates)]
    how = "replaced: " if change.action == "replaced" else ""
    return how + (", ".join(words) or "through what it refers to")


def _substituted(told: set[str], templates: Templates) -> str:
    """Say what changed the placeholders of the definition.

    That is the code that it uses, or only the account's parameter.
    """
    name = "MapConcurrency"
    by_parameter = templates.parameters_before.get(name) != templates.parameters_after.get(name)
    only = by_parameter and "DefinitionSubstitutions" not in told
    return "how many items of a map run at once" if only else "uses the new code"


def _differences(before: Mapped, after: Mapped) -> Iterator[str]:
    for name in sorted({*before, *after}):
        old, new = before.get(name), after.get(name)
        if old != new:
            say = _SAID.get(name)
            yield _by_default(name, old, new) if say is None else say(old, new)


def _by_default(name: str, old: Json, new: Json) -> str:
    if all(isinstance(each, str | int | float | bool) for each in (old, new)):
        return f"{_lower(name)} {_from_to(old, new)}"
    return _lower(name)


def _variables(old: Json, new: Json) -> str:
    def variables(value: Json) -> Mapped:
        return cast("Mapped", value.get("Variables", {})) if isinstance(value, dict) else {}

    return f"variables {_keys(variables(old), variables(new))}"


def _keys(old: Mapped, new: Mapped) -> str:
    """Name what was added (+), removed (-) and changed (~)."""
    signs = {name: "+" if name not in old else "-" if name not in new else "~" for name in (*old, *new)}
    return ", ".join(f"{sign}{name}" for name, sign in sorted(signs.items()) if old.get(name) != new.get(name))


def _tags(old: Json, new: Json) -> str:
    def tags(value: Json) -> Mapped:
        pairs = cast("list[dict[str, Json]]", value) if isinstance(value, list) else []
        return {str(pair["Key"]): pair["Value"] for pair in pairs}

    return f"tags {_keys(tags(old), tags(new))}"


def _policies(old: Json, new: Json) -> str:
    def statements(value: Json) -> Mapped:
        policies = cast("list[dict[str, dict[str, list[dict[str, Json]]]]]", value) if isinstance(value, list) else []
        return {str(each["Sid"]): each for policy in policies for each in policy["PolicyDocument"]["Statement"]}

    return f"permissions {_keys(statements(old), statements(new))}"


def _definition(old: Json, new: Json) -> str:
    return f"states {_keys(_states(old), _states(new))}" if _states(old) != _states(new) else "definition"


def _states(text: Json) -> Mapped:
    """Return all states of a definition by name.

    A map comes without its inner states, which stand beside it.
    """
    try:
        definition = json.loads(text) if isinstance(text, str) else {}
    except ValueError:
        return {}
    found: dict[str, Json] = {}
    waiting = [definition]
    while waiting:
        for name, state in waiting.pop().get("States", {}).items():
            inner = state.pop("ItemProcessor", None)
            found[name] = state if inner is None else {**state, "ProcessorConfig": inner.get("ProcessorConfig")}
            waiting += [inner] if inner is not None else []
    return found


def _from_to(old: Json, new: Json) -> str:
    return f"{_short(old)} → {_short(new)}"


def _short(value: Json) -> str:
    text = str(value)
    return text if len(text) <= _SHORT else f"{text[: _SHORT - 1]}…"


def _target(old: Json, new: Json) -> str:
    def given(value: Json) -> str:
        return str(value.get("Input", "")) if isinstance(value, dict) else ""

    return f"parameters {_from_to(given(old), given(new))}" if given(old) != given(new) else "target"


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
    before, after = templates.parameters_before, templates.parameters_after
    for name in sorted(before.keys() & after.keys()):
        if before[name] != after[name]:
            yield f"parameter {name} {_from_to(before[name], after[name])}"


def _resources(template: Mapped) -> dict[str, Mapped]:
    return cast("dict[str, Mapped]", template.get("Resources", {}))


def _properties(resource: Mapped) -> Mapped:
    return cast("Mapped", resource.get("Properties", {}))


def _lower(name: str) -> str:
    """Write a property's name as words.

    >>> _lower("LoggingConfig")
    'logging config'
    """
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()
