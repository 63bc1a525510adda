"""The reference of lokki's public names, from signatures and docstrings, which griffe reads without importing them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import griffe

GROUPS = {
    "Drawing flows": ["lokki.step", "lokki.flow", "lokki.each", "lokki.main", "lokki.Retry"],
    "What they make": ["lokki.StepNode", "lokki.MapBlock", "lokki.Flow", "lokki.FlowGraph"],
    "What a step may touch": [
        "lokki.Read",
        "lokki.Write",
        "lokki.Allow",
        "lokki.Resource",
        "lokki.s3.read",
        "lokki.s3.write",
    ],
    "What starts a flow": ["lokki.S3Created", "lokki.S3Object", "lokki.Event", "lokki.After", "lokki.FinishedRun"],
    "Reading runs and results": [
        "lokki.local",
        "lokki.remote",
        "lokki.results.flow_results.FlowResults",
        "lokki.results.flow_results.Run",
        "lokki.results.items.Items",
        "lokki.results.items.LogLine",
    ],
    "In tests": [
        "lokki_pytest.lokki_emulated",
        "lokki.emulator.testing.Emulated",
        "lokki.emulator.testing.EmulatedRun",
    ],
    "Errors": ["lokki.LokkiError", "lokki.FlowError", "lokki.ParameterError", "lokki.RunError"],
}
"""Each public name once; those that users get but do not import stand by their module."""

INTRODUCTION = """# Python

What `import lokki` has, from its docstrings. [The shapes of flows](../flows.md) shows what is drawn with it, and
[the command line](commands.md) what a flow's file understands.
"""


def api_page(root: Path) -> str:
    """Return the page in Markdown."""
    modules = {name: griffe.load(name, search_paths=[root]) for name in ("lokki", "lokki_pytest")}
    parts = [INTRODUCTION]
    for title, paths in GROUPS.items():
        parts.append(f"## {title}\n")
        for path in paths:
            module, _, member = path.partition(".")
            parts.extend(_entry(_target(modules[module][member]), path))
    return "\n".join(parts)


def _target(item: griffe.Object | griffe.Alias) -> griffe.Object:
    return item.final_target if isinstance(item, griffe.Alias) else item


def _entry(item: griffe.Object, path: str) -> Iterator[str]:
    """Yield the lines of one name: how it is called, what its docstring says, and its members."""
    short = path.removeprefix("lokki.") if path.count(".") == 1 else path.rpartition(".")[2]
    yield f"### {short}\n"
    yield _code(_call(item, short)) if not item.is_attribute else f"`{path}`\n"
    yield _text(item)
    if not isinstance(item, griffe.Class):
        return
    for member in item.members.values():
        if not member.name.startswith("_") and not member.is_alias and _is_shown(_target(member)):
            name = f"{short}.{member.name}"
            yield f"#### {name}\n"
            yield _code(_call(_target(member), name))
            yield _text(_target(member))


def _is_shown(member: griffe.Object) -> bool:
    """Tell whether a member of a class has a docstring of its own; fields stand in the class's."""
    documented = member.docstring is not None and (member.is_function or "property" in member.labels)
    return documented and member.name not in {"as_step", "draw_body"}  # what graphs call, and users do not


def _call(item: griffe.Object, name: str) -> str:
    """Return how a function, class or property is written, one parameter a line where it would be long."""
    if isinstance(item, griffe.Class):
        constructor = item.members.get("__init__")
        fields = [parameter for parameter in item.parameters if parameter.name != "self"]
        if ("dataclass" not in item.labels and constructor is None) or name in _MADE_BY_LOKKI:
            return f"class {name}"
        return _wrap(f"class {name}", fields, None)
    if isinstance(item, griffe.Function):
        parameters = [parameter for parameter in item.parameters if parameter.name != "self"]
        return _wrap(name, parameters, item.returns)
    return f"{name}: {getattr(item, 'annotation', None)}"


_MADE_BY_LOKKI = {
    "StepNode",
    "MapBlock",
    "Flow",
    "FlowGraph",
    "FlowResults",
    "Run",
    "Items",
    "LogLine",
    "Emulated",
    "EmulatedRun",
}
"""Classes that users never call."""


def _wrap(name: str, parameters: list[griffe.Parameter], returns: object) -> str:
    words = list(_words(parameters))
    end = f" -> {returns}" if returns is not None else ""
    line = f"{name}({', '.join(words)}){end}"
    if len(line) <= 100:
        return line
    return "\n".join([f"{name}(", *(f"    {word}," for word in words), f"){end}"])


def _words(parameters: list[griffe.Parameter]) -> Iterator[str]:
    """Yield the parameters as they are written, with the marks between kinds."""
    kinds = [parameter.kind for parameter in parameters]
    keyword, positional = griffe.ParameterKind.keyword_only, griffe.ParameterKind.positional_only
    collected, named = griffe.ParameterKind.var_positional, griffe.ParameterKind.var_keyword
    for index, parameter in enumerate(parameters):
        if parameter.kind is keyword and not {keyword, collected} & set(kinds[:index]):
            yield "*"
        star = "*" if parameter.kind is collected else "**" if parameter.kind is named else ""
        annotation = f": {parameter.annotation}" if parameter.annotation is not None else ""
        default = f" = {parameter.default}" if parameter.default is not None and not star else ""
        yield f"{star}{parameter.name}{annotation}{default}"
        if parameter.kind is positional and positional not in kinds[index + 1 :]:
            yield "/"


def _code(text: str) -> str:
    return f"```python\n{text}\n```\n"


def _text(item: griffe.Object) -> str:
    """Return a docstring as Markdown: examples as code, roles of reStructuredText without their marks."""
    text = item.docstring.value if item.docstring else ""
    text = re.sub(r"``([^`\n]+)``", r"`\1`", text)
    lines: list[str] = []
    for line in text.splitlines():
        # A list needs an empty line before it in Markdown, and none in a docstring.
        if line.startswith("* ") and lines and lines[-1].strip() and not lines[-1].startswith(("* ", "  ")):
            lines.append("")
        lines.append(line)
    text = re.sub(
        r"(?m)(?:^>>> .*\n?(?:^(?!\s*$).*\n?)*)+",
        lambda match: f"```pycon\n{match[0].rstrip()}\n```\n",
        "\n".join(lines),
    )
    return f"{text.strip()}\n"
