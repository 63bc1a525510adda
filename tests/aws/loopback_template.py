"""Templates of CloudFormation: read, checked, with their references resolved, and in the order of their resources.

https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/template-guide.html
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import Any

import yaml

from aws.loopback_protocol import ApiError, Fields
from lokki.emulator.states.services import ACCOUNT, REGION

NO_VALUE = "AWS::NoValue"
_PLACEHOLDER = re.compile(r"\$\{([^!}][^}]*)\}")
_SECTIONS = {
    "AWSTemplateFormatVersion", "Description", "Metadata", "Parameters", "Rules", "Mappings", "Conditions", "Resources",
    "Outputs",
}  # fmt: skip
_RESOURCE_FIELDS = {"Type", "Properties", "DependsOn", "Condition", "DeletionPolicy", "UpdateReplacePolicy", "Metadata"}


class Unknown(str):
    """A value that is known only when the resource that it is of has been made."""


KNOWN_LATER = Unknown("{{changeSet:KNOWN_AFTER_APPLY}}")

type Lookup = Callable[[str, str], Any]
"""Returns a resource's attribute, or what Ref gives for "". """


@dataclass(frozen=True, slots=True)
class Template:
    """A template with values for its parameters."""

    text: str
    content: Fields
    parameters: Mapping[str, str]
    stack_id: str
    stack_name: str

    @property
    def resources(self) -> dict[str, Fields]:
        """The resources that are to be, by logical id, each after those that it needs."""
        described: dict[str, Fields] = self.content["Resources"]
        wanted = {name: each for name, each in described.items() if self._holds(each.get("Condition"))}
        graph = {name: sorted(self._needs(each) & set(wanted)) for name, each in wanted.items()}
        try:
            order = list(TopologicalSorter(graph).static_order())
        except CycleError as error:
            raise _invalid(f"Circular dependency between resources: [{', '.join(error.args[1])}]") from None
        return {name: wanted[name] for name in order}

    def properties(self, name: str, lookup: Lookup) -> Fields:
        """Return the properties of a resource, resolved."""
        found: Fields = self.resolve(self.resources[name].get("Properties", {}), lookup)
        return found

    def outputs(self, lookup: Lookup) -> list[Fields]:
        """Return the outputs, as DescribeStacks has them."""
        return [
            {"OutputKey": name, "OutputValue": str(self.resolve(each["Value"], lookup))}
            | ({"Description": each["Description"]} if "Description" in each else {})
            for name, each in self.content.get("Outputs", {}).items()
            if self._holds(each.get("Condition"))
        ]

    def resolve(self, value: Any, lookup: Lookup) -> Any:
        """Return a value with its intrinsic functions done. Raises ApiError for one that is not known here."""
        if isinstance(value, list):
            found = [self.resolve(each, lookup) for each in value]
            return [each for each in found if each is not None]
        if not isinstance(value, dict):
            return value
        if len(value) == 1:
            [(name, given)] = value.items()
            if name == "Ref" or name.startswith("Fn::"):
                return self._function(name, given, lookup)
        resolved = {name: self.resolve(each, lookup) for name, each in value.items()}
        return {name: each for name, each in resolved.items() if each is not None}

    def _function(self, name: str, given: Any, lookup: Lookup) -> Any:
        match name:
            case "Ref":
                return self._ref(given, lookup)
            case "Fn::GetAtt":
                logical, attribute = given if isinstance(given, list) else given.split(".", 1)
                return lookup(logical, attribute)
            case "Fn::Sub":
                return self._sub(given, lookup)
            case "Fn::Join":
                return _joined(given[0], self.resolve(given[1], lookup))
            case "Fn::If":
                return self.resolve(given[1] if self._holds(given[0]) else given[2], lookup)
            case "Fn::Select":
                return self.resolve(given[1], lookup)[int(given[0])]
        raise _invalid(f"the loopback AWS does not know {name}")

    def _ref(self, name: str, lookup: Lookup) -> Any:
        pseudo = {
            "AWS::AccountId": ACCOUNT,
            "AWS::Region": REGION,
            "AWS::Partition": "aws",
            "AWS::URLSuffix": "amazonaws.com",
            "AWS::StackId": self.stack_id,
            "AWS::StackName": self.stack_name,
            NO_VALUE: None,
        }
        if name in pseudo:
            return pseudo[name]
        return self.parameters[name] if name in self.parameters else lookup(name, "")

    def _sub(self, given: Any, lookup: Lookup) -> str:
        text, own = (given, {}) if isinstance(given, str) else (given[0], self.resolve(given[1], lookup))
        values: list[object] = []

        def value(name: str) -> str:
            logical, _, attribute = name.partition(".")
            found = own[name] if name in own else lookup(logical, attribute) if attribute else self._ref(name, lookup)
            values.append(found)
            return str(found)

        made = _PLACEHOLDER.sub(lambda found: value(found[1]), text).replace("${!", "${")
        return Unknown(made) if any(isinstance(each, Unknown) for each in values) else made

    def _holds(self, condition: Any) -> bool:
        if condition is None:
            return True
        if isinstance(condition, str):
            return self._holds(self.content["Conditions"][condition])
        [(name, given)] = condition.items()
        match name:
            case "Condition":
                return self._holds(given)
            case "Fn::Equals":
                first, second = self.resolve(given, _no_resource)
                return str(first) == str(second)
            case "Fn::Not":
                return not self._holds(given[0])
            case "Fn::And":
                return all(self._holds(each) for each in given)
            case "Fn::Or":
                return any(self._holds(each) for each in given)
        raise _invalid(f"the loopback AWS does not know the condition {name}")

    def _needs(self, resource: Fields) -> set[str]:
        depends = resource.get("DependsOn", [])
        return {*([depends] if isinstance(depends, str) else depends), *references(resource.get("Properties", {}))}

    def check(self, known_types: Mapping[str, object]) -> None:
        """Raise ApiError for what AWS, or this account, does not take."""
        if unknown := sorted(set(self.content) - _SECTIONS):
            raise _invalid(f"Invalid template property or properties [{', '.join(unknown)}]")
        described: dict[str, Fields] = self.content.get("Resources") or {}
        if not described:
            raise _invalid("At least one Resources member must be defined.")
        types = sorted({str(each.get("Type")) for each in described.values()} - set(known_types))
        if types:
            raise _invalid(f"Unrecognized resource types: [{', '.join(types)}]")
        for name, each in described.items():
            if unknown := sorted(set(each) - _RESOURCE_FIELDS):
                raise _invalid(f"Invalid template resource property '{unknown[0]}' of {name}")
        for section in ("Resources", "Outputs"):
            wanted = set(references(self.content.get(section, {})))
            wanted |= {name for each in described.values() for name in _listed(each.get("DependsOn"))}
            missing = sorted(
                each for each in wanted - set(described) - set(self.parameters) if not each.startswith("AWS::")
            )
            if missing:
                raise _invalid(
                    f"Unresolved resource dependencies [{', '.join(missing)}] in the {section} block of the template"
                )
        _ = self.resources


def read_template(text: str, given: list[Fields], previous: Template | None, stack_id: str, name: str) -> Template:
    """Read a template and give its parameters their values. Raises ApiError."""
    try:
        content = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise _invalid(f"YAML not well-formed. ({error})") from None
    if not isinstance(content, dict):
        raise _invalid("unsupported structure.")
    parameters = _parameters(content.get("Parameters", {}), given, previous)
    return Template(text, content, parameters, stack_id, name)


def references(value: Any) -> Iterator[str]:
    """Yield the names of resources, parameters and pseudo parameters that a value refers to."""
    if isinstance(value, list):
        for each in value:
            yield from references(each)
    elif isinstance(value, dict):
        for name, each in value.items():
            if name == "Ref" and isinstance(each, str):
                yield each
            elif name == "Fn::GetAtt":
                yield each[0] if isinstance(each, list) else each.split(".")[0]
            elif name == "Fn::Sub":
                text, own = (each, {}) if isinstance(each, str) else each
                yield from (key.partition(".")[0] for key in _PLACEHOLDER.findall(text) if key not in own)
                yield from references(own)
            else:
                yield from references(each)


def _parameters(described: Fields, given: list[Fields], previous: Template | None) -> dict[str, str]:
    values: dict[str, str] = {}
    for each in given:
        key = each["ParameterKey"]
        if key not in described:
            raise ApiError("ValidationError", f"Parameters: [{key}] do not exist in the template")
        if each.get("UsePreviousValue"):
            if previous is None or key not in previous.parameters:
                raise ApiError("ValidationError", f"Parameters: [{key}] have no previous value")
            values[key] = previous.parameters[key]
        else:
            values[key] = each["ParameterValue"]
    found = {name: values.get(name, each.get("Default")) for name, each in described.items()}
    missing = [name for name, value in found.items() if value is None]
    if missing:
        raise ApiError("ValidationError", f"Parameters: [{', '.join(missing)}] must have values")
    for name, value in found.items():
        _check_parameter(name, str(value), described[name])
    return {name: str(value) for name, value in found.items()}


def _check_parameter(name: str, value: str, described: Fields) -> None:
    problem = ""
    if "AllowedPattern" in described and not re.fullmatch(described["AllowedPattern"], value):
        problem = f"must match pattern {described['AllowedPattern']}"
    elif len(value) > int(described.get("MaxLength", len(value))):
        problem = f"must contain at most {described['MaxLength']} characters"
    elif len(value) < int(described.get("MinLength", 0)):
        problem = f"must contain at least {described['MinLength']} characters"
    elif "AllowedValues" in described and value not in [str(each) for each in described["AllowedValues"]]:
        problem = f"must be one of {described['AllowedValues']}"
    if problem:
        raise ApiError("ValidationError", f"Parameter '{name}' {problem}")


def _joined(separator: str, parts: list[object]) -> str:
    made = separator.join(map(str, parts))
    return Unknown(made) if any(isinstance(each, Unknown) for each in parts) else made


def _listed(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else value or []


def _no_resource(name: str, attribute: str) -> object:
    raise _invalid(f"conditions cannot refer to the resource {name}")


def _invalid(problem: str) -> ApiError:
    return ApiError("ValidationError", f"Template format error: {problem}")


class _Loader(yaml.SafeLoader):
    """Reads the short forms of intrinsic functions; dates stay text, as CloudFormation takes them."""


def _short_form(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> dict[str, Any]:
    if isinstance(node, yaml.ScalarNode):
        value: Any = loader.construct_scalar(node)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        assert isinstance(node, yaml.MappingNode)
        value = loader.construct_mapping(node, deep=True)
    if suffix == "GetAtt" and isinstance(value, str):
        value = value.split(".", 1)
    return {suffix if suffix in ("Ref", "Condition") else f"Fn::{suffix}": value}


def _as_text(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> str:
    return str(loader.construct_scalar(node))


_Loader.add_multi_constructor("!", _short_form)
_Loader.add_constructor("tag:yaml.org,2002:timestamp", _as_text)


def differs(old: Any, new: Any) -> bool:
    """Tell whether two resolved values differ; one that is known only later may."""
    return contains_unknown(new) or json.dumps(old, sort_keys=True) != json.dumps(new, sort_keys=True)


def contains_unknown(value: Any) -> bool:
    """Tell whether a part of a value is known only later."""
    if isinstance(value, dict):
        return any(contains_unknown(each) for each in value.values())
    if isinstance(value, list):
        return any(contains_unknown(each) for each in value)
    return isinstance(value, Unknown)
