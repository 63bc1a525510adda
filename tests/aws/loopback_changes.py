"""What a change set would do to a stack: for each resource whether it is added, changed, replaced or removed, and why.

https://docs.aws.amazon.com/AWSCloudFormation/latest/APIReference/API_ResourceChange.html
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aws.loopback_protocol import Fields
from aws.loopback_resources import Made, Resource
from aws.loopback_template import KNOWN_LATER, Template, contains_unknown, differs, references


@dataclass
class Existing:
    """A resource of a stack: as it was made, with the properties that it has."""

    logical: str
    type: str
    made: Made
    properties: Fields
    deletion: str = "Delete"


@dataclass
class Plan:
    """What changes; the values of what is made later stand for themselves."""

    template: Template
    before: Template | None
    existing: Mapping[str, Existing]
    types: Mapping[str, Resource]
    actions: dict[str, str] = field(default_factory=dict)
    changes: list[Fields] = field(default_factory=list)

    def make(self) -> list[Fields]:
        """Return the changes, as DescribeChangeSet has them."""
        for name, described in self.template.resources.items():
            properties = self.template.properties(name, self._later)
            known = self.existing.get(name)
            if known is None or known.type != described["Type"]:
                self._add("Add", name, described["Type"])
            else:
                self._modify(known, properties, described.get("Properties", {}))
        for name in self.existing:
            if name not in self.template.resources:
                known = self.existing[name]
                retained = known.deletion.startswith("Retain")
                action = {"PolicyAction": "Retain" if retained else "Delete"}
                self._add("Remove", name, known.type, known, action)
        order = {"Add": 0, "Modify": 1, "Remove": 2}
        self.changes.sort(key=lambda change: order[change["ResourceChange"]["Action"]])
        return self.changes

    def _modify(self, known: Existing, properties: Fields, raw: Fields) -> None:
        kind = self.types[known.type]
        details, replaced, perhaps = [], False, False
        for name in sorted({*known.properties, *properties}):
            old, new = known.properties.get(name), properties.get(name)
            if not differs(old, new):
                continue
            recreated = name in kind.replaced_by
            dynamic = contains_unknown(new)
            replaced |= recreated and not dynamic
            perhaps |= recreated and dynamic
            needs = "Always" if recreated else "Never"
            target = {"Attribute": "Properties", "Name": name, "RequiresRecreation": needs}
            details += self._causes(raw.get(name), target, dynamic=dynamic)
        if not details:
            return
        self.actions[known.logical] = "Replace" if replaced or perhaps else "Modify"
        replacement = "True" if replaced else "Conditional" if perhaps else "False"
        attributes = {"Replacement": replacement, "Scope": ["Properties"], "Details": details}
        self._add("Modify", known.logical, known.type, known, attributes)

    def _causes(self, raw: Any, target: Fields, *, dynamic: bool) -> list[Fields]:
        evaluation = "Dynamic" if dynamic else "Static"
        found: list[Fields] = []
        for entity in sorted(set(references(raw))):
            if entity in self.actions:
                attribute = _attribute_of(raw, entity)
                source = "ResourceAttribute" if attribute else "ResourceReference"
                cause = f"{entity}.{attribute}" if attribute else entity
                found.append(
                    {"Target": target, "Evaluation": evaluation, "ChangeSource": source, "CausingEntity": cause}
                )
            elif entity in self.template.parameters and (
                self.before is None or self.before.parameters.get(entity) != self.template.parameters[entity]
            ):
                source = "ParameterReference"
                found.append(
                    {"Target": target, "Evaluation": "Static", "ChangeSource": source, "CausingEntity": entity}
                )
        if not found:
            found.append({"Target": target, "Evaluation": evaluation, "ChangeSource": "DirectModification"})
        return found

    def _later(self, name: str, attribute: str) -> Any:
        """Return what a reference gives now, or that it is known only later."""
        known = self.existing.get(name)
        action = self.actions.get(name)
        if known is None or action in ("Add", "Replace"):
            return KNOWN_LATER
        if action == "Modify" and attribute in self.types[known.type].volatile:
            return KNOWN_LATER
        return known.made.attributes[attribute] if attribute else known.made.physical

    def _add(
        self, action: str, name: str, kind: str, known: Existing | None = None, fields: Fields | None = None
    ) -> None:
        self.actions.setdefault(name, action)
        change: Fields = {"Action": action, "LogicalResourceId": name, "ResourceType": kind, "Scope": [], "Details": []}
        if known is not None:
            change["PhysicalResourceId"] = known.made.physical
        self.changes.append({"Type": "Resource", "ResourceChange": change | (fields or {})})


def _attribute_of(raw: Any, entity: str) -> str:
    """Return the attribute of a resource that a value asks for, if it does."""
    if isinstance(raw, list):
        return next((found for each in raw if (found := _attribute_of(each, entity))), "")
    if isinstance(raw, dict):
        given = raw.get("Fn::GetAtt")
        if given is not None:
            logical, attribute = given if isinstance(given, list) else given.split(".", 1)
            return str(attribute) if logical == entity else ""
        return next((found for each in raw.values() if (found := _attribute_of(each, entity))), "")
    return ""
