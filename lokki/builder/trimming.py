"""Leaving out of a step's package the code of the flow's other steps, so that it changes only when the step's own does.

A package has the flow's module and all that it imports, and most flows keep all their steps in one file. With it as it
is, changing one step would deploy all of them.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping

from lokki.builder.lambda_pkg import Importable

_OWN = "lokki/"
"""lokki's own files, which know no steps."""

STUB = 'raise RuntimeError("the code of this step is in the package of its own function")'


def without_other_steps(files: Mapping[str, bytes], steps: Mapping[str, Importable]) -> dict[str, dict[str, bytes]]:
    """Return for each step a project's files by path, without the bodies of other steps, each line in its place.

    What a step has around its body stays: its name, its parameters, its decorators. A body stays too where anything
    but a flow mentions the step, since that may call it; where two steps share a function; and in a file that is no
    UTF-8. Line numbers in tracebacks are those of the user's file.
    """
    sources = {path: source for path, source in files.items() if path.endswith(".py") and not path.startswith(_OWN)}
    mentioned = set().union(*map(_mentions, sources.values()))
    unmentioned = {step for step in steps.values() if step.name not in mentioned}
    return {name: {**files, **_trimmed(sources, own, unmentioned)} for name, own in steps.items()}


def _trimmed(sources: Mapping[str, bytes], own: Importable, steps: Iterable[Importable]) -> dict[str, bytes]:
    trimmed = dict(sources)
    for step in sorted(steps, key=lambda each: (each.module, each.name)):
        base = step.module.replace(".", "/")
        for path in (f"{base}.py", f"{base}/__init__.py"):
            if path in trimmed and step.name != own.name:
                trimmed[path] = _without_body(trimmed[path], step.name)
    return trimmed


def _mentions(source: bytes) -> set[str]:
    """Return the names that a module uses anywhere but in its flows, which only draw with them."""
    found: set[str] = set()
    waiting: list[ast.AST] = [ast.parse(source)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier():
            found.add(node.value)  # as for getattr
        if isinstance(node, ast.FunctionDef) and _is_flow(node):
            waiting += [*node.decorator_list, node.args]
        elif isinstance(node, ast.ImportFrom | ast.Import):
            found.update(alias.name for alias in node.names if alias.asname is not None)  # used by another name
        else:
            waiting += ast.iter_child_nodes(node)
    return found


def _is_flow(function: ast.FunctionDef) -> bool:
    called = (each.func if isinstance(each, ast.Call) else each for each in function.decorator_list)
    return any(ast.unparse(each).rpartition(".")[2] == "flow" for each in called)


def _without_body(source: bytes, name: str) -> bytes:
    """Return a module's text with the body of a function at its top level left out; as it is if there are two."""
    try:
        lines = source.decode("utf-8").split("\n")
    except UnicodeDecodeError:
        return source
    found = [*_functions(ast.parse(source), name)]
    if len(found) != 1:
        return source
    first, last = found[0].body[0], found[0].body[-1]
    start, end = _first_line(first), last.end_lineno or first.lineno
    head = lines[start - 1].encode()[: first.col_offset].decode()
    rest = lines[end - 1].encode()[last.end_col_offset :].decode().strip()
    if head.strip() or (rest and not rest.startswith("#")):
        return source  # it shares a line with something else
    return "\n".join([*lines[: start - 1], head + STUB, *[""] * (end - start), *lines[end:]]).encode()


def _functions(tree: ast.Module, name: str) -> Iterator[ast.FunctionDef]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            yield node


def _first_line(first: ast.stmt) -> int:
    """Return where a body begins; of a decorated function or class, with its decorators."""
    decorators = (
        first.decorator_list if isinstance(first, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) else []
    )
    return min([first.lineno, *(each.lineno for each in decorators)])
