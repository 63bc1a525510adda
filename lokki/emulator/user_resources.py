"""The resources of ``merge_template``, made in the emulated account by moto's CloudFormation.

What functions and roles have of them stands as a mark in what was read of the template, until it is known.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from lokki.base.values import Json
from lokki.emulator.account import EmulatedAccount
from lokki.emulator.functions.process import FunctionSpec
from lokki.emulator.iam.checking import Role
from lokki.errors import EmulatorError

_MARK = re.compile(r"\{\{lokki-resource:([A-Za-z0-9]+)\.?([A-Za-z0-9.]*)\}\}")
_STACK = "lokki-merged"
_SUBSTITUTED = re.compile(r"\$\{([^!}.]+)")


@dataclass(frozen=True, slots=True)
class UserResources:
    """The sections of the user's template, and all parameters."""

    sections: Mapping[str, Mapping[str, Json]]
    parameters: Mapping[str, Json]

    @property
    def ids(self) -> frozenset[str]:
        """The logical ids."""
        return frozenset(self.sections.get("Resources", {}))


def mark(name: str, attribute: str = "") -> str:
    """Return what stands for a resource, or an attribute of it.

    >>> mark("Table"), mark("Table", "Arn")
    ('{{lokki-resource:Table}}', '{{lokki-resource:Table.Arn}}')
    """
    return f"{{{{lokki-resource:{name}{'.' if attribute else ''}{attribute}}}}}"


def make_resources(
    functions: Iterable[FunctionSpec], user: UserResources, account: EmulatedAccount, environ: Mapping[str, str]
) -> tuple[FunctionSpec, ...]:
    """Make the resources, and return functions that have what they are called.

    A variable that ``environ`` has is taken from there. Raises EmulatorError for resources that moto cannot make.
    """
    functions = [replace(function, environment=_overridden(function.environment, environ)) for function in functions]
    marks = sorted({match.group() for function in functions for match in _marks_of(function)})
    values = _make(user, marks, account)
    return tuple(_filled_function(function, values) for function in functions)


def _overridden(variables: Mapping[str, str], environ: Mapping[str, str]) -> dict[str, str]:
    return {
        name: environ[name] if _MARK.fullmatch(value) and name in environ else value
        for name, value in variables.items()
    }


def _marks_of(function: FunctionSpec) -> Iterator[re.Match[str]]:
    texts = [*function.environment.values()]
    if function.role is not None:
        texts += [resource for statement in function.role.statements for resource in statement.resources]
    for text in texts:
        yield from _MARK.finditer(text)


def _filled_function(function: FunctionSpec, values: Mapping[str, str]) -> FunctionSpec:
    def fill(text: str) -> str:
        return _MARK.sub(lambda match: values[match.group()], text)

    role = function.role
    if role is not None:
        statements = (
            replace(statement, resources=tuple(map(fill, statement.resources))) for statement in role.statements
        )
        role = Role(role.name, tuple(statements))
    return replace(function, environment={key: fill(text) for key, text in function.environment.items()}, role=role)


def _make(user: UserResources, marks: Iterable[str], account: EmulatedAccount) -> dict[str, str]:
    """Make a stack and return what stands behind each mark."""
    outputs = {f"Mark{number}": text for number, text in enumerate(marks)}
    resources = _by_themselves(user)
    template: dict[str, Json] = {
        **{name: dict(section) for name, section in user.sections.items() if name != "Outputs"},
        "Parameters": dict(user.parameters),
        "Resources": resources,
        "Outputs": {name: {"Value": _reference(text)} for name, text in outputs.items() if _id(text) in resources},
    }
    present = account.make_stack(_STACK, template)
    values = {text: present[name] for name, text in outputs.items() if present.get(name)}
    for text in outputs.values():
        if text not in values:
            raise EmulatorError(
                f"the emulator cannot make {_id(text)} of merge_template, which steps name: moto does not know its "
                "type, or it needs what only AWS has. Set the variables of steps that name it."
            )
    return values


def _by_themselves(user: UserResources) -> dict[str, Json]:
    """Return the resources that need none of lokki's own."""
    resources = dict(user.sections.get("Resources", {}))
    outside = {*user.parameters, *user.sections.get("Conditions", {}), *user.sections.get("Mappings", {})}
    while True:
        available = {*resources, *outside}
        left = {
            name: resource
            for name, resource in resources.items()
            if all(other in available or other.startswith("AWS::") for other in _names_in(resource))
        }
        if len(left) == len(resources):
            return left
        resources = left


def _names_in(value: Json) -> Iterator[str]:
    """Yield the names that a resource refers to."""
    match value:
        case {"Ref": str(name), **rest} if not rest:
            yield name
        case {"Fn::GetAtt": [str(name), *_], **rest} if not rest:
            yield name
        case {"Fn::Sub": str(text), **rest} if not rest:
            yield from _SUBSTITUTED.findall(text)
        case {"Fn::Sub": [str(text), dict(own)], **rest} if not rest:
            yield from (name for name in _SUBSTITUTED.findall(text) if name not in own)
            yield from _names_in(own)
        case dict():
            for member in value.values():
                yield from _names_in(member)
        case list():
            for member in value:
                yield from _names_in(member)


def _id(text: str) -> str:
    match = _MARK.fullmatch(text)
    return match[1] if match else ""


def _reference(text: str) -> Json:
    match = _MARK.fullmatch(text)
    assert match is not None
    name, attribute = match.groups()
    return {"Fn::GetAtt": [name, attribute]} if attribute else {"Ref": name}
