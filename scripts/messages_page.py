"""The list of lokki's error messages, from what its code raises, by the families of docs/troubleshooting.md."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

FAMILIES: Mapping[str, Sequence[str]] = {
    "Drawing a flow": [
        "chain.py", "decorators.py", "graph.py", "plan.py", "plans/", "__init__.py", "base/checking.py",
        "base/naming.py", "base/options.py", "base/placeholders.py", "base/signatures.py", "base/variables.py",
    ],
    "Starts and permissions": ["base/access.py", "base/starts.py", "builder/starts.py", "builder/permissions.py"],
    "Parameters and values": ["base/convert.py", "base/values.py", "base/item_path.py", "cli/parameters.py"],
    "Settings": ["config.py", "builder/settings.py"],
    "Loading the flow's file": ["loading.py", "cli/hidden_modules.py", "cli/new_project/", "cli/commands/init.py"],
    "A run on this machine": ["runner.py", "local_run/", "engine/", "base/failures.py", "errors.py"],
    "Files of a run": ["store/", "s3.py", "plan_json.py"],
    "The command line": ["cli/", "ui/"],
    "Reading runs and results": ["results/", "reports/", "estimate/", "pictures/", "progress/"],
    "Building": ["builder/"],
    "Emulating": ["emulator/"],
    "In Lambda": ["runtime/"],
    "On AWS": ["deploy/", "operate/"],
}  # fmt: skip
"""The modules whose messages a section of the page on troubleshooting is about; the longest path that fits wins."""

INTRODUCTION = """# Every message

All that lokki's errors say, from its code; `…` stands for what differs: names, places, values. Each section leads to
what to do. An error of your own code is shown with its traceback, and is in no list.
"""


@dataclass(frozen=True, slots=True, order=True)
class Message:
    """A text that an error is raised with: ``module`` below lokki/, ``kind``: the name of the error's class."""

    text: str
    kind: str
    module: str


def messages_page(package: Path) -> str:
    """Return the page in Markdown."""
    parts = [INTRODUCTION]
    by_family: dict[str, dict[str, str]] = {family: {} for family in FAMILIES}
    for message in messages(package):
        by_family[family_of(message.module)].setdefault(message.text, message.kind)
    for family, texts in by_family.items():
        parts.append(f"## {family}\n\n[What to do](troubleshooting.md#{anchor(family)})\n")
        parts.append("\n".join(f"* `{text}`" for text in sorted(texts, key=str.casefold)) + "\n")
    return "\n".join(parts)


def anchor(heading: str) -> str:
    """Return the anchor of a heading, as Markdown makes it."""
    return "".join(letter for letter in heading.lower().replace(" ", "-") if letter.isalnum() or letter == "-")


def family_of(module: str) -> str:
    """Return the family of a module's messages.

    Raises LookupError for a module that is in none.
    """
    fitting = [(len(path), family) for family, paths in FAMILIES.items() for path in paths if module.startswith(path)]
    if not fitting:
        raise LookupError(f"messages of lokki/{module} belong to no family: add it to FAMILIES in {__file__}")
    return max(fitting)[1]


def messages(package: Path) -> list[Message]:
    """Return all texts that errors of lokki are made with, sorted."""
    trees = {path.relative_to(package).as_posix(): ast.parse(path.read_text()) for path in package.rglob("*.py")}
    kinds = error_classes(trees.values())
    found = {message for module, tree in trees.items() for message in _of_module(module, tree, kinds)}
    return sorted(found)


def error_classes(trees: Iterable[ast.Module]) -> set[str]:
    """Return the names of lokki's errors, and of click's that the command line raises."""
    bases: dict[str, set[str]] = {}
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                bases[node.name] = {base.id for base in node.bases if isinstance(base, ast.Name)}
    kinds = {"LokkiError", "UsageError", "BadParameter", "ConversionError", "StatesError"}
    while more := {name for name, of in bases.items() if of & kinds} - kinds:
        kinds |= more
    return kinds


def _of_module(module: str, tree: ast.Module, kinds: set[str]) -> Iterator[Message]:
    functions = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    for function in _outer_functions(tree):
        for node in ast.walk(function):
            if isinstance(node, ast.Call) and node.args and (kind := _name(node.func)) in kinds:
                # The name of Amazon's error stands first in some.
                texts = [text for argument in node.args[:2] for text in _texts(argument, function, functions, 3)]
                yield from (Message(_one_line(text), kind, module) for text in texts if _is_sentence(text))


def _outer_functions(node: ast.Module | ast.ClassDef) -> Iterator[ast.FunctionDef]:
    """Yield the functions and methods, without those that are made in others."""
    for inner in node.body:
        if isinstance(inner, ast.FunctionDef):
            yield inner
        elif isinstance(inner, ast.ClassDef):
            yield from _outer_functions(inner)


def _name(node: ast.expr | None) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("`", "'")


def _is_sentence(text: str) -> bool:
    return len(text.replace("…", "").split()) >= 3


def _texts(node: ast.expr, scope: ast.AST, functions: Mapping[str, ast.FunctionDef], depth: int) -> Iterator[str]:
    """Yield what an expression may be as a text, with … for what is not known.

    Names and calls are followed within the module, ``depth`` deep.
    """
    match node:
        case ast.Constant(value=str(text)):
            yield text
        case ast.JoinedStr(values=values):
            parts = [str(part.value) if isinstance(part, ast.Constant) else "…" for part in values]
            yield "".join(parts)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            for first in _texts(left, scope, functions, depth):
                for second in _texts(right, scope, functions, depth) or ["…"]:
                    yield f"{first}{second}"
        case ast.IfExp(body=body, orelse=orelse):
            yield from _texts(body, scope, functions, depth)
            yield from _texts(orelse, scope, functions, depth)
        case ast.Name(id=name) if depth:
            for value in _values(name, scope):
                yield from _texts(value, scope, functions, depth - 1)
        case ast.Call(func=ast.Attribute(attr="join"), args=[joined]):
            yield from _texts(joined, scope, functions, depth)
        case ast.List(elts=elements) | ast.Tuple(elts=elements):
            for element in elements:
                yield from _texts(element, scope, functions, depth)
        case ast.ListComp(elt=element) | ast.GeneratorExp(elt=element) | ast.Starred(value=element):
            yield from _texts(element, scope, functions, depth)
        case ast.Call(func=called) if depth and _name(called) in functions:
            function = functions[_name(called)]
            for returned in ast.walk(function):
                if isinstance(returned, ast.Return | ast.Yield | ast.YieldFrom) and returned.value is not None:
                    yield from _texts(returned.value, function, functions, depth - 1)


def _values(name: str, scope: ast.AST) -> Iterator[ast.expr]:
    """Yield what a name is bound to in a function, and what is appended to it."""
    for node in ast.walk(scope):
        match node:
            case ast.Assign(targets=targets, value=value) if any(_name(target) == name for target in targets):
                yield value
            case ast.AnnAssign(target=ast.Name(id=target), value=ast.expr() as value) if target == name:
                yield value
            case ast.Call(func=ast.Attribute(value=ast.Name(id=target), attr="append"), args=[value]) if target == name:
                yield value
