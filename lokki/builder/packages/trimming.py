"""Leaving the code of a flow's other steps out of a step's package.

A package has the flow's module and all that it imports, and most flows keep all their steps in one file. With it as it
is, changing one step would deploy all of them. So a package changes only when the step's own code does.

A body goes only where it is sure that nothing in the package can call it. ``docs/packaging.md`` lists what makes it
stay, and `reaching` looks for it.
"""

from __future__ import annotations

import ast
import copy
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from lokki.builder.lambda_pkg import Importable
from lokki.builder.packages.code import LokkiNames, is_decorated_by, parse
from lokki.builder.packages.reaching import CodeOfModule, mentions, read_code, reason_to_keep

_OWN = "lokki/"
"""lokki's own files, which know no steps."""

_LARGEST_DATA = 2**20
"""Configuration that names functions is smaller than this; larger files are not searched for names."""

STUB = 'raise RuntimeError("the code of this step is in the package of its own function")'


@dataclass(frozen=True, slots=True)
class Trimmed:
    """The files of each step's package.

    Packages share what is the same in them, to be read once.

    - ``files``: content by path, by step
    - ``trees``: the modules among them, parsed
    - ``reason``: why no package is trimmed, or ""
    """

    files: Mapping[str, Mapping[str, bytes]]
    trees: Mapping[str, Mapping[str, ast.Module]]
    reason: str = ""


@dataclass(frozen=True, slots=True)
class _Body:
    """Where the body of a step is.

    - ``start``, ``end``: its lines, counted from 0 and without the last
    - ``indent``: what it is indented by
    - ``mentioned``: the names in it that may call a step
    - ``function``, ``stub``: the step with it, and without
    """

    start: int
    end: int
    indent: str
    mentioned: frozenset[str]
    function: ast.FunctionDef
    stub: ast.FunctionDef


@dataclass(frozen=True, slots=True)
class _Module:
    """A file, read once.

    - ``bodies``: those of its steps, by name
    - ``mentioned``: the names outside of them that may call a step
    """

    tree: ast.Module
    lines: tuple[str, ...]
    bodies: Mapping[str, _Body]
    mentioned: frozenset[str]


def trim(
    files: Mapping[str, bytes], steps: Mapping[str, Importable], trees: Mapping[str, ast.Module] | None = None
) -> Trimmed:
    """Return each step's files, without the bodies of other steps.

    What a step has around its body stays: its name, its parameters, its decorator. Line numbers in tracebacks are those
    of the user's file. ``trees``: what is parsed of the files already.
    """
    trees_as_written = dict(_parsed(files, trees or {}))
    parsed = {path: read_code(path, tree) for path, tree in trees_as_written.items()}
    # Every package has these modules, so what may reach any step does so in all of them.
    reason = reason_to_keep(parsed.values())
    if reason:
        return Trimmed(dict.fromkeys(steps, files), dict.fromkeys(steps, trees_as_written), reason)
    modules = {path: _read(files[path], code) for path, code in parsed.items()}
    mentioned = frozenset[str]().union(*(module.mentioned for module in modules.values()))
    data = [content for path, content in files.items() if path not in parsed and not path.startswith(_OWN)]
    named = {step.name for step in steps.values() if step.name in mentioned or _is_in_data(step, data)}
    left_out = {
        name: _left_out(modules, _unreachable([*steps.values()], named | {own.name}, modules))
        for name, own in steps.items()
    }
    return Trimmed(
        {
            name: {**files, **{path: _without(modules[path], removed) for path, removed in bodies.items()}}
            for name, bodies in left_out.items()
        },
        {
            name: {
                **trees_as_written,
                **{path: _tree_without(modules[path], removed) for path, removed in bodies.items()},
            }
            for name, bodies in left_out.items()
        },
    )


def _unreachable(steps: Sequence[Importable], named: Iterable[str], modules: Mapping[str, _Module]) -> list[Importable]:
    """Return the steps that no code that may run names."""
    own = {(path, step.name) for step in steps for path in _paths(step)}
    mentioned: dict[str, frozenset[str]] = {}
    waiting = list(named)
    for path, module in modules.items():
        for name, body in module.bodies.items():
            if (path, name) in own:
                mentioned[name] = mentioned.get(name, frozenset()) | body.mentioned
            else:
                waiting += body.mentioned  # such as that of a step of another flow, which stays
    reachable: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name not in reachable:
            reachable.add(name)
            waiting += mentioned.get(name, ())
    return [step for step in steps if step.name not in reachable]


def _paths(step: Importable) -> tuple[str, str]:
    """Return where the module of a step may be."""
    base = step.module.replace(".", "/")
    return f"{base}.py", f"{base}/__init__.py"


def _parsed(files: Mapping[str, bytes], trees: Mapping[str, ast.Module]) -> Iterator[tuple[str, ast.Module]]:
    """Yield the tree of each module of the project.

    What is not Python cannot be imported either.
    """
    for path, source in files.items():
        if not path.endswith(".py") or path.startswith(_OWN):
            continue
        tree = trees.get(path) or parse(source)
        if tree is not None:
            yield path, tree


def _is_in_data(step: Importable, data: Sequence[bytes]) -> bool:
    """Tell whether a file names a step as frameworks do.

    Such as ``flow.read_csv`` or ``flow:read_csv`` in a ``config.yaml``.
    """
    name = re.compile(rb"\b" + re.escape(step.module.encode()) + rb"[.:]" + re.escape(step.name.encode()) + rb"\b")
    return any(len(content) <= _LARGEST_DATA and name.search(content) for content in data)


def _left_out(modules: Mapping[str, _Module], steps: Iterable[Importable]) -> dict[str, list[_Body]]:
    """Return the bodies of these steps, by the files that have them."""
    left_out: dict[str, list[_Body]] = {}
    for step in steps:
        for path in _paths(step):
            if path in modules and step.name in modules[path].bodies:
                left_out.setdefault(path, []).append(modules[path].bodies[step.name])
    return left_out


def _without(module: _Module, bodies: Iterable[_Body]) -> bytes:
    """Return a file with stubs in place of these bodies."""
    lines = list(module.lines)
    for body in bodies:
        # Empty lines in place of what goes, so that the line numbers below stay.
        lines[body.start : body.end] = [body.indent + STUB, *[""] * (body.end - body.start - 1)]
    return "\n".join(lines).encode()


def _tree_without(module: _Module, bodies: Iterable[_Body]) -> ast.Module:
    """Return what parsing a file without these bodies gives.

    It has the very nodes of what stays.
    """
    stubs: dict[ast.stmt, ast.stmt] = {body.function: body.stub for body in bodies}
    return ast.Module([stubs.get(statement, statement) for statement in module.tree.body], module.tree.type_ignores)


def _stub(function: ast.FunctionDef, start: int) -> ast.FunctionDef:
    """Return a step without its body, which begins after so many lines."""
    (raises,) = ast.parse(STUB).body
    stub = copy.copy(function)
    stub.body = [ast.increment_lineno(raises, start)]
    return stub


def _read(source: bytes, code: CodeOfModule) -> _Module:
    """Find the bodies of a module's steps, and what names them."""
    try:
        lines = source.decode("utf-8").split("\n")
    except UnicodeDecodeError:
        lines = []
    if not lines or any("\r" in line.removesuffix("\r") for line in lines):  # where Python counts other lines
        return _Module(code.tree, (), {}, mentions(code))
    places = list(_bodies(code.tree, lines, code.names))
    inside = {node: function for function, *_ in places for statement in function.body for node in ast.walk(statement)}
    nodes: dict[ast.FunctionDef | None, list[ast.AST]] = {}
    for node in code.nodes:
        nodes.setdefault(inside.get(node), []).append(node)

    def mentioned(function: ast.FunctionDef | None) -> frozenset[str]:
        return mentions(replace(code, nodes=tuple(nodes.get(function, ()))))

    bodies = {
        function.name: _Body(start, end, indent, mentioned(function), function, _stub(function, start))
        for function, start, end, indent in places
    }
    return _Module(code.tree, tuple(lines), bodies, mentioned(None))


def _bodies(tree: ast.Module, lines: list[str], names: LokkiNames) -> Iterator[tuple[ast.FunctionDef, int, int, str]]:
    """Yield the steps that have lines and a name of their own.

    Each comes with start, end and indent of its body. Only the module's top level counts.
    """
    counts = Counter(node.name for node in tree.body if isinstance(node, ast.FunctionDef))
    for function in tree.body:
        # Another decorator, such as one that registers functions, may have handed the step on.
        if not isinstance(function, ast.FunctionDef) or not is_decorated_by(function, "step", names):
            continue
        first, last = function.body[0], function.body[-1]
        start, end = _first_line(first), last.end_lineno or first.lineno
        # Columns of ast count bytes of UTF-8, not characters.
        head = lines[start - 1].encode()[: first.col_offset].decode()
        rest = lines[end - 1].encode()[last.end_col_offset :].decode().strip()
        if counts[function.name] == 1 and not head.strip() and (not rest or rest.startswith("#")):
            yield function, start - 1, end, head


def _first_line(first: ast.stmt) -> int:
    """Return the line where a body begins.

    If it begins with a decorated function or class, that is the line of the first decorator.
    """
    decorators = (
        first.decorator_list if isinstance(first, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) else []
    )
    return min([first.lineno, *(decorator.lineno for decorator in decorators)])
