"""How a template is written as YAML: for people to read, and as the same bytes wherever it is built."""

from __future__ import annotations

import re
from collections.abc import Mapping

import yaml

from lokki.base.values import Json

_LINE = 120


def dump_template(template: Mapping[str, Json]) -> bytes:
    """Write a template as YAML.

    Equal values give equal bytes.
    """
    # PyYAML's emitter in C is faster, by 10 ms for five steps and 0.2 s for 150, but it writes some texts otherwise,
    # and is not installed everywhere: builds on two machines would differ.
    text: str = yaml.dump(dict(template), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=_LINE)
    return text.encode()


def _style(text: str) -> str | None:
    """Choose a block for several lines and quotes for what is ambiguous.

    Quotes are for what some reader of YAML could take for something else than text.
    """
    if not text.replace("\n", "").isprintable():
        return '"'
    return "|" if "\n" in text else None if re.match(r"[A-Za-z/]", text) else "'"


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: object) -> bool:
        """Write a value out wherever it stands."""
        return True

    def represent_data(self, data: object) -> yaml.Node:
        """Write texts in the style that fits them."""
        if not isinstance(data, str):
            return super().represent_data(data)
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=_style(data))
