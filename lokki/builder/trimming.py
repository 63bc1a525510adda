"""Leaving out of a step's package the code of the flow's other steps, so that it changes only when the step's own does.

A package has the flow's module and all that it imports, and most flows keep all their steps in one file. With it as it
is, changing one step would deploy all of them.
"""

from __future__ import annotations

import ast
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from lokki.builder.lambda_pkg import Importable

_OWN = "lokki/"
"""lokki's own files, which know no steps."""

STUB = 'raise RuntimeError("the code of this step is in the package of its own function")'


@dataclass(frozen=True, slots=True)
class _Body:
    """Where the body of a function is: its lines, counted from 0 and without the last, and how far it is indented."""

    start: int
    end: int
    indent: str


@dataclass(frozen=True, slots=True)
class _Module:
    """A file, read once: its lines, the bodies of its functions by name, the names that it uses outside of flows."""

    lines: tuple[str, ...]
    bodies: Mapping[str, _Body]
    mentioned: frozenset[str]


def without_other_steps(files: Mapping[str, bytes], steps: Mapping[str, Importable]) -> dict[str, dict[str, bytes]]:
    """Return for each step a project's files by path, without the bodies of other steps, each line in its place.

    What a step has around its body stays: its name, its parameters, its decorators. A body stays too where anything
    but a flow mentions the step, since that may call it; where two steps share a function; and in a file that is no
    UTF-8 or ends lines as old Macs did. Line numbers in tracebacks are those of the user's file.
    """
    modules = {
        path: _read(source) for path, source in files.items() if path.endswith(".py") and not path.startswith(_OWN)
    }
    mentioned = frozenset[str]().union(*(module.mentioned for module in modules.values()))
    unmentioned = [step for step in steps.values() if step.name not in mentioned]
    return {
        name: {**files, **_trimmed(modules, [step for step in unmentioned if step.name != own.name])}
        for name, own in steps.items()
    }


def _trimmed(modules: Mapping[str, _Module], steps: Iterable[Importable]) -> dict[str, bytes]:
    """Return the files that have bodies of these steps, without them."""
    left_out: dict[str, list[_Body]] = {}
    for step in steps:
        base = step.module.replace(".", "/")
        for path in (f"{base}.py", f"{base}/__init__.py"):
            if path in modules and step.name in modules[path].bodies:
                left_out.setdefault(path, []).append(modules[path].bodies[step.name])
    return {path: _without(modules[path].lines, bodies) for path, bodies in left_out.items()}


def _without(lines: Iterable[str], bodies: Iterable[_Body]) -> bytes:
    kept = list(lines)
    for body in bodies:
        kept[body.start : body.end] = [body.indent + STUB, *[""] * (body.end - body.start - 1)]
    return "\n".join(kept).encode()


def _read(source: bytes) -> _Module:
    with warnings.catch_warnings(action="ignore"):  # Python told them when it imported the file
        tree = ast.parse(source)
    try:
        lines = source.decode("utf-8").split("\n")
    except UnicodeDecodeError:
        lines = []
    if not lines or any("\r" in line.removesuffix("\r") for line in lines):  # where Python counts other lines
        return _Module((), {}, _mentions(tree))
    return _Module(tuple(lines), dict(_bodies(tree, lines)), _mentions(tree))


def _mentions(tree: ast.Module) -> frozenset[str]:
    """Return the names that a module uses anywhere but in its flows, which only draw with them."""
    found: set[str] = set()
    waiting: list[ast.AST] = [tree]
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
    return frozenset(found)


def _is_flow(function: ast.FunctionDef) -> bool:
    called = (each.func if isinstance(each, ast.Call) else each for each in function.decorator_list)
    return any(last_name(each) == "flow" for each in called)


def last_name(expression: ast.expr) -> str:
    """Return the last name of ``a`` or ``a.b.c``, "" of anything else."""
    if isinstance(expression, ast.Attribute):
        return expression.attr
    return expression.id if isinstance(expression, ast.Name) else ""


def _bodies(tree: ast.Module, lines: list[str]) -> Iterator[tuple[str, _Body]]:
    """Yield the bodies of the functions at the top level that have lines of their own and a name of their own."""
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    counts = Counter(function.name for function in functions)
    for function in functions:
        first, last = function.body[0], function.body[-1]
        start, end = _first_line(first), last.end_lineno or first.lineno
        head = lines[start - 1].encode()[: first.col_offset].decode()
        rest = lines[end - 1].encode()[last.end_col_offset :].decode().strip()
        if counts[function.name] == 1 and not head.strip() and (not rest or rest.startswith("#")):
            yield function.name, _Body(start - 1, end, head)


def _first_line(first: ast.stmt) -> int:
    """Return where a body begins; of a decorated function or class, with its decorators."""
    decorators = (
        first.decorator_list if isinstance(first, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) else []
    )
    return min([first.lineno, *(each.lineno for each in decorators)])
