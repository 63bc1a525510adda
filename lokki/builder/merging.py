"""The user's own template beside the flow: read with where each name stands, checked, and merged into lokki's.

https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/template-anatomy.html
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import yaml

from lokki.base.access import Allow, Resource
from lokki.base.values import Json
from lokki.chain import AnyStep
from lokki.errors import ConfigError, FlowError

type Section = Mapping[str, Json]

MERGED_FILE: Final = "merged.json"
"""The sections of the user's template, in what is built, for the emulator."""

_MERGED = ("Parameters", "Mappings", "Conditions", "Resources", "Outputs")
_IGNORED = ("AWSTemplateFormatVersion", "Description", "Metadata")
_ORDER = ("AWSTemplateFormatVersion", "Description", *_MERGED)


@dataclass(frozen=True, slots=True)
class UserTemplate:
    """A template of the user's.

    - ``path``: of its file, as the settings name it
    - ``sections``: those that are merged, by name
    - ``lines``: where each name of each section stands
    """

    path: str = ""
    sections: Mapping[str, Section] = field(default_factory=dict)
    lines: Mapping[tuple[str, str], int] = field(default_factory=dict)

    @property
    def resources(self) -> Section:
        """The resources, by logical id."""
        return self.sections.get("Resources", {})

    def place(self, section: str, name: str) -> str:
        """Return where a name stands, for messages."""
        return f"{self.path}:{self.lines[section, name]}: {section}.{name}"


NO_TEMPLATE: Final = UserTemplate()


def read_user_template(path: str) -> UserTemplate:
    """Read the template that ``merge_template`` names.

    It is YAML, also with short forms such as ``!Ref``, or JSON. Raises ConfigError for a file that cannot be read, for
    what is no template, and for what cannot be merged.
    """
    if not path:
        return NO_TEMPLATE
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(f"merge_template: {path} cannot be read: {reason}.") from None
    root, content = _parse(path, text)
    if not isinstance(content, dict) or not isinstance(content.get("Resources"), dict):
        raise ConfigError(f"{path} is no template of CloudFormation: it has no section Resources.")
    template = UserTemplate(path, _sections(path, content), _lines(root))
    _check_parameters(template)
    return template


def _parse(path: str, text: str) -> tuple[yaml.Node | None, object]:
    """Return the nodes of a YAML document, and what they say.

    Raises ConfigError for what is no YAML, and for values that JSON does not have.
    """
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        content: object = None if root is None else loader.construct_document(root)
        json.dumps(content, allow_nan=False, ensure_ascii=False).encode()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{path}:{mark.line + 1}" if mark else path
        raise ConfigError(f"{place}: {error.problem or 'no valid YAML'}.") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{path} is no YAML: {str(error).splitlines()[0]}.") from None
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{path} has a value that JSON does not have: {error}. Write it as a text.") from None
    return root, content


def merged_template(own: Mapping[str, Json], user: UserTemplate) -> dict[str, Json]:
    """Return lokki's template with what the user's has beside it.

    Raises ConfigError, with both places, for names that both have.
    """
    merged = dict(own)
    problems = []
    for section, entries in user.sections.items():
        existing = own.get(section)
        members = existing if isinstance(existing, dict) else {}
        problems += [
            f"{user.place(section, name)} is a name that lokki uses too: {_described(section, name, members)} in "
            "template.yaml. Rename yours."
            for name in entries
            if name in members
        ]
        merged[section] = {**members, **entries}
    if problems:
        raise ConfigError("\n".join(problems))
    return {name: merged[name] for name in _ORDER if name in merged}


def check_references(steps: Iterable[AnyStep], user: UserTemplate) -> None:
    """Raise FlowError for a step that names a resource which there is not."""
    for step in steps:
        for where, resource in _references(step):
            if resource.id in user.resources:
                continue
            if not user.path:
                raise FlowError(
                    f"{step.name}(): {where} is {resource!r}, and there is no template with it: set merge_template in "
                    "lokki.yml."
                )
            raise FlowError(
                f"{step.name}(): {where} is {resource!r}, and {user.path} has no such resource; it has "
                f"{', '.join(user.resources) or 'none'}."
            )


def digest_of_resources(step: AnyStep, user: UserTemplate) -> str:
    """Return a hash of the resources that a step names, "" without any.

    A version of a function has the variables of the moment when it was made. A resource that is replaced has another
    name, and so the function needs another version.
    """
    ids = sorted({resource.id for resource in step.options.resources.values()})
    text = json.dumps([user.resources.get(name) for name in ids], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16] if ids else ""


def _references(step: AnyStep) -> Iterator[tuple[str, Resource]]:
    for variable, resource in step.options.resources.items():
        yield f"env {variable}", resource
    for permission in step.options.permissions:
        if isinstance(permission, Allow):
            yield from (("a permission", entry) for entry in permission.resources if isinstance(entry, Resource))


def _described(section: str, name: str, members: Mapping[str, Json]) -> str:
    entry = members[name]
    kind = f" ({entry['Type']})" if section == "Resources" and isinstance(entry, dict) else ""
    return f"{section}.{name}{kind}"


def _sections(path: str, content: Mapping[str, Json]) -> dict[str, Section]:
    sections: dict[str, Section] = {}
    for section, entries in content.items():
        if section in _IGNORED:
            continue
        if section not in _MERGED:
            raise ConfigError(f"{path}: {section} cannot be merged; lokki merges {', '.join(_MERGED)}.")
        if not isinstance(entries, dict):
            raise ConfigError(f"{path}: {section} must be a section of names.")
        sections[section] = entries
    for name, resource in sections["Resources"].items():
        if not isinstance(resource, dict) or not isinstance(resource.get("Type"), str):
            raise ConfigError(f"{path}: Resources.{name} has no Type.")
    return sections


def _check_parameters(template: UserTemplate) -> None:
    for name, parameter in template.sections.get("Parameters", {}).items():
        if not isinstance(parameter, dict) or "Default" not in parameter:
            raise ConfigError(
                f"{template.place('Parameters', name)} has no Default, and nobody is asked for its value. Give it one."
            )


def _lines(root: yaml.Node | None) -> dict[tuple[str, str], int]:
    """Return the lines of the names in all sections, from 1."""
    lines: dict[tuple[str, str], int] = {}
    if isinstance(root, yaml.MappingNode):
        for section, entries in root.value:
            if isinstance(entries, yaml.MappingNode):
                lines |= {(section.value, name.value): name.start_mark.line + 1 for name, _ in entries.value}
    return lines


class _Loader(yaml.SafeLoader):
    """Reads YAML as CloudFormation does.

    Dates and all names are texts, and ``!Ref`` is a function.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[object, object]:
        """Refuse names that are no texts, and those that stand twice.

        YAML would drop the first of two.
        """
        names: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a name must be a text", key.start_mark)
            if key.value in names:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value} stands twice", key.start_mark)
            names.add(key.value)
            if not key.tag.startswith("!") and key.tag != "tag:yaml.org,2002:merge":
                key.tag = "tag:yaml.org,2002:str"  # an account's number in a mapping is one, too
        return super().construct_mapping(node, deep=deep)


def _function(loader: _Loader, suffix: str, node: yaml.Node) -> Json:
    """Return what a short form stands for.

    https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/intrinsic-function-reference.html
    """
    value: Json = None
    match node:
        case yaml.ScalarNode():
            value = loader.construct_scalar(node)
        case yaml.SequenceNode():
            value = loader.construct_sequence(node, deep=True)
        case yaml.MappingNode():
            value = {str(key): member for key, member in loader.construct_pairs(node, deep=True)}
    if suffix == "GetAtt" and isinstance(value, str):
        name, _, attribute = value.partition(".")
        value = [name, attribute]
    return {suffix if suffix in ("Ref", "Condition") else f"Fn::{suffix}": value}


def _as_text(loader: _Loader, node: yaml.ScalarNode) -> Json:
    return str(loader.construct_scalar(node))


_Loader.add_multi_constructor("!", _function)
_Loader.add_constructor("tag:yaml.org,2002:timestamp", _as_text)
