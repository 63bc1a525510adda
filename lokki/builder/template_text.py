"""How a template is written as YAML: for people to read, and as the same bytes wherever it is built."""

from __future__ import annotations

import re
from collections.abc import Mapping

import yaml
from yaml.representer import SafeRepresenter

from lokki.base.values import Json

_LINE = 120
_LONGEST_KEY = 100
"""Longer ones, which no template has, are written in another way than others."""


def dump_template(template: Mapping[str, Json], *, with_libyaml: bool = yaml.__with_libyaml__) -> bytes:
    """Write a template as YAML: equal bytes for equal values, however PyYAML is installed.

    ``with_libyaml``: whether PyYAML has its emitter in C. That takes a sixth of the time, and writes what the one in
    Python would write alike: templates of ASCII, without texts that end in empty lines.
    """
    value = dict(template)
    dumper = _FastDumper if with_libyaml and is_written_alike(value) else _Dumper
    text: str = yaml.dump(value, Dumper=dumper, sort_keys=False, allow_unicode=True, width=_LINE)
    return text.encode()


def is_written_alike(value: Json) -> bool:
    """Tell whether PyYAML's two emitters write a value as the same bytes; a property test compares them."""
    match value:
        case str():
            return value.isascii() and _is_printable(value) and value[-2:] not in ("\n", "\n\n")
        case dict():
            keys_are_plain = all(0 < len(key) <= _LONGEST_KEY and "\n" not in key for key in value)
            return keys_are_plain and all(map(is_written_alike, (*value, *value.values())))
        case list():
            return all(map(is_written_alike, value))
    return True


def _style(text: str) -> str | None:
    """Choose a block for several lines, and quotes for what a reader of YAML could take for something else."""
    if not _is_printable(text):
        return '"'
    return "|" if "\n" in text else None if re.match(r"[A-Za-z/]", text) else "'"


def _is_printable(text: str) -> bool:
    return text.replace("\n", "").isprintable()


class _Style(SafeRepresenter):
    def ignore_aliases(self, data: object) -> bool:
        """Write a value out wherever it stands."""
        return True

    def represent_data(self, data: object) -> yaml.Node:
        """Write texts in the style that fits them."""
        if not isinstance(data, str):
            return super().represent_data(data)
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=_style(data))


class _Dumper(_Style, yaml.SafeDumper):
    pass


if yaml.__with_libyaml__:

    class _FastDumper(_Style, yaml.CSafeDumper):
        pass
