"""What code can reach a step's function: by its name, by a name that it computes, through the flow.

Python can find any function by a text, so a body may be left out of a package only where none of the ways below is
taken anywhere in it. In doubt the answer is that it can be reached.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from lokki.builder.packages.code import (
    LokkiNames,
    imported_from,
    is_decorated_by,
    is_of_lokki,
    last_name,
    lokki_names,
    module_name,
    parent_package,
)

_BUILTINS = frozenset({"globals", "locals", "vars", "dir", "eval", "exec", "__builtins__"})
_ATTRIBUTES = frozenset({"__dict__", "__globals__", "__loader__", "_getframe", "f_globals", "f_locals", "resolve_name"})
"""These and those give all names of a module, or what is at a name that was computed."""

_MODULES_ABOUT_CODE = frozenset({"builtins", "gc", "inspect", "pydoc", "runpy"})
"""Modules of Python whose business is to find other code."""

_BY_TEXT = frozenset({"getattr", "attrgetter", "methodcaller", "__getattribute__"})
"""What gives the attribute of a name, of a module as of anything else."""

_IMPORTS_BY_TEXT = frozenset({"import_module", "__import__"})

_TELLING = _BUILTINS | _ATTRIBUTES | _BY_TEXT | _IMPORTS_BY_TEXT | {"modules"}

_VERBS = frozenset({"map", "agg", "next", "switch", "after"})
"""The methods of chains, which draw with the steps that they are given."""

_PATH = re.compile(r"[\w.:/-]+")


@dataclass(frozen=True, slots=True)
class CodeOfModule:
    """A module, read once.

    - ``path``: in the package
    - ``names``: what of lokki it has
    - ``nodes``: those of the tree that run on Lambda
    """

    path: str
    tree: ast.Module
    names: LokkiNames
    nodes: tuple[ast.AST, ...]


def read_code(path: str, tree: ast.Module) -> CodeOfModule:
    """Read what `mentions` and `reason_to_keep` look at."""
    names = lokki_names(tree)
    return CodeOfModule(path, tree, names, tuple(_executed(tree, names)))


def mentions(code: CodeOfModule) -> frozenset[str]:
    """Return the names that a module uses for more than to draw flows.

    Parts of texts that may be names are among them.
    """
    mentioned: set[str] = set()
    for node in code.nodes:
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name):
                mentioned.add(name)
            case ast.Constant(value=str(text)) if _PATH.fullmatch(text) or "{" in text:
                mentioned.update(re.split(r"\W+", text))  # as for getattr, flow:read_csv, "{0.read_csv}".format(flow)
            case ast.Constant(value=bytes(content)):  # such as what pickle reads
                mentioned.update(re.split(r"\W+", content.decode("latin-1")))
            case ast.ImportFrom(names=aliases) | ast.Import(names=aliases):
                mentioned.update(alias.name for alias in aliases if alias.asname is not None)  # used by another name
    return frozenset(mentioned)


def reason_to_keep(modules: Iterable[CodeOfModule]) -> str:
    """Say where modules may reach any step, "" if none does."""
    ordered = sorted(modules, key=lambda code: code.path)
    modules_here = {module_name(code.path) for code in ordered}
    flows = frozenset(name for code in ordered for name in _flows(code.tree, code.names))
    # getattr() is everywhere, so by itself it is no reason; only with a module at hand is it one.
    weaker, objects = "", False
    for code in ordered:
        plain = {*_with_plain_names(code.nodes), *_arguments_of_main(code.tree, code.names)}
        for node in code.nodes:
            if way := _way_to_all(node, plain) or _way_by_flow(node, flows, plain):
                return f"{code.path}:{_line(node)} uses {way}"
            if not weaker and (way := _way_by_text(node, plain)):
                weaker = f"{code.path}:{_line(node)} uses {way}"
            objects = objects or any(name in modules_here for name in _imported_objects(node, code.path))
    # The attribute of a computed name is a step only where there is a module to ask for it.
    return weaker if objects else ""


def _with_plain_names(nodes: Iterable[ast.AST]) -> Iterator[int]:
    """Yield the ids of functions that are called with a name in plain text.

    They are those that import, or get an attribute.
    """
    for node in nodes:
        match node:
            case ast.Call(func=function, args=[ast.Constant(value=str()), *_]):
                if last_name(function) in _IMPORTS_BY_TEXT:
                    yield id(function)
            case ast.Call(func=ast.Name(id="getattr") as function, args=[_, ast.Constant(value=str(name)), *_]):
                if name not in _TELLING:
                    yield id(function)


def _way_to_all(node: ast.AST, plain: set[int]) -> str:
    """Return what a node uses that may reach any function anywhere.

    It is "" if there is nothing.
    """
    match node:
        case ast.Name(id=name, ctx=ast.Load()) if name in _BUILTINS:
            return f"{name}()"
        case ast.Attribute(attr=name) if name in _ATTRIBUTES:
            return name
        case ast.Attribute(value=ast.Name(id=module), attr="modules"):
            return f"{module}.modules"
        case ast.Name() | ast.Attribute() if last_name(node) in _IMPORTS_BY_TEXT and id(node) not in plain:
            return f"{last_name(node)}() with a name that is computed"
        case ast.Call(func=ast.Name(id="getattr"), args=[_, ast.Constant(value=str(name)), *_]) if name in _TELLING:
            return f"getattr() with {name!r}"
        case ast.Import(names=aliases) if module_about_code := _about_code(alias.name for alias in aliases):
            return module_about_code
        case ast.ImportFrom(module=str(module), level=0) if module_about_code := _about_code([module]):
            return module_about_code
        case ast.ImportFrom(module=module, names=aliases):
            ways = _ATTRIBUTES if module != "sys" else _ATTRIBUTES | {"modules"}
            renamed = {alias.name for alias in aliases if alias.asname is not None} & (_IMPORTS_BY_TEXT | _BY_TEXT)
            return min(({alias.name for alias in aliases} & ways) | renamed, default="")
    return ""


def _about_code(modules: Iterable[str]) -> str:
    """Return the first of these modules that is for finding code."""
    return next((name for name in modules if name.partition(".")[0] in _MODULES_ABOUT_CODE), "")


def _way_by_flow(node: ast.AST, flows: frozenset[str], plain: set[int]) -> str:
    """Return the flow that a node uses, "" if it uses none.

    A flow's graph has all its steps.
    """
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name) if name in flows and id(node) not in plain:
            return f"the flow {name}()"
        case ast.ImportFrom(names=aliases):
            renamed = [alias.name for alias in aliases if alias.name in flows and alias.asname is not None]
            return f"the flow {renamed[0]}()" if renamed else ""
    return ""


def _way_by_text(node: ast.AST, plain: set[int]) -> str:
    """Return what a node uses to get an attribute by a computed name.

    It is "" if there is nothing.
    """
    match node:
        case ast.Name() | ast.Attribute() if last_name(node) in _BY_TEXT and id(node) not in plain:
            return f"{last_name(node)}() with a name that is computed"
    return ""


def _imported_objects(node: ast.AST, path: str) -> Iterator[str]:
    """Yield the names of modules that a node imports as objects.

    Their attributes can then be asked for by any name.
    """
    match node:
        case ast.Import(names=aliases):
            for alias in aliases:
                yield from (alias.name, alias.name.partition(".")[0])
        case ast.ImportFrom(names=aliases):
            base = imported_from(node, parent_package(path))
            yield from (f"{base}.{alias.name}".lstrip(".") for alias in aliases)
        case ast.Call(func=function, args=[ast.Constant(value=str(name)), *_]):
            if last_name(function) in _IMPORTS_BY_TEXT:
                yield from (name, name.partition(".")[0], f"{'.'.join(parent_package(path))}{name}".lstrip("."))


def _executed(tree: ast.Module, names: LokkiNames) -> Iterator[ast.AST]:
    """Yield the nodes of a module that run on Lambda.

    What is for the command line does not, nor does what draws flows. A flow's body runs only where the flow is called,
    for which `reason_to_keep` looks; of it, what might keep a step for later is here.
    """
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if _is_for_command_line(node):
            waiting += node.orelse if isinstance(node, ast.If) else []
        elif isinstance(node, ast.FunctionDef) and is_decorated_by(node, "flow", names):
            waiting += [*node.decorator_list, node.args]
            yield from _kept_by_flow(node)
        else:
            yield node
            waiting += ast.iter_child_nodes(node)


def _is_for_command_line(node: ast.AST) -> bool:
    """Tell whether a node is ``if __name__ == "__main__":``.

    That is false on Lambda.
    """
    match node:
        case ast.If(
            test=ast.Compare(left=ast.Name("__name__"), ops=[ast.Eq()], comparators=[ast.Constant("__main__")])
        ):
            return True
    return False


def _kept_by_flow(flow: ast.FunctionDef) -> Iterator[ast.AST]:
    """Yield what a flow's body does with names other than to draw.

    It may put steps into a dict, say.
    """
    drawing: set[int] = set()
    waiting: list[ast.AST] = list(flow.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Lambda | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        waiting += ast.iter_child_nodes(node)
        if isinstance(node, ast.Call):
            drawing.update(map(id, _drawn(node)))
    for statement in flow.body:
        for node in ast.walk(statement):
            # By identity, since equal names at two places are two nodes.
            if isinstance(node, ast.Name | ast.Attribute) and id(node) not in drawing:
                yield node


def _drawn(call: ast.Call) -> Iterator[ast.expr]:
    """Yield what a call draws with.

    It is the step that is called, and what a verb of a chain is called with.
    """
    yield call.func
    if isinstance(call.func, ast.Attribute) and call.func.attr in _VERBS:
        arguments = [*call.args, *(keyword.value for keyword in call.keywords if keyword.arg == "default")]
        yield from arguments
        yield from (value for argument in arguments if isinstance(argument, ast.Dict) for value in argument.values)


def _flows(tree: ast.Module, names: LokkiNames) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and is_decorated_by(node, "flow", names):
            yield node.name


def _arguments_of_main(tree: ast.Module, names: LokkiNames) -> Iterator[int]:
    """Yield the ids of the arguments of lokki's ``main()``.

    It does nothing on Lambda.
    """
    for node in tree.body:
        match node:
            case ast.Expr(value=ast.Call(func=function, args=arguments)) if is_of_lokki(function, "main", names):
                yield from map(id, arguments)


def _line(node: ast.AST) -> int:
    return node.lineno if isinstance(node, ast.stmt | ast.expr) else 1
