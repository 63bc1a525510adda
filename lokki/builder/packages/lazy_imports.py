"""What a module imports without an import statement: by names that it computes, lists, or reads from texts.

Plugins, registries and lazy packages find modules so. Which of them a run imports, no reading can tell, so where code
may import any module of a package, the package is packed whole.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from lokki.builder.packages.code import imported_from, last_name, parent_package, texts_of

_BY_NAME: Final = frozenset({"import_module", "__import__", "resolve_name", "run_module", "locate"})
"""Functions of importlib, pkgutil, runpy and pydoc that take the name of a module."""

_BY_FILE: Final = frozenset({"spec_from_file_location", "run_path", "SourceFileLoader"})
"""Functions of importlib and runpy that take the file of a module."""

_BY_PACKAGE: Final = frozenset({"iter_modules", "walk_packages"})
"""Functions of pkgutil that come to all modules of a package."""

_LAZY_LOADER: Final = frozenset({"attach", "attach_stub"})
"""Functions by which a package imports its modules when they are asked for."""

_OF_ITSELF: Final = frozenset({"__name__", "__package__", "__path__", "__file__", "__spec__"})

_LISTS_MODULES: Final = re.compile(r"[*\w/\[\]!]*\*\.py|\.py")
"""Texts by which files of modules are listed: `folder.glob("*.py")`, `name.endswith(".py")`."""

_DOTTED: Final = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+|[A-Za-z_]\w*(?=:[A-Za-z_])")
"""Names of modules in a text: those with a dot, and what is before the colon of ``steps:clean``."""

_PLAIN: Final = re.compile(r"\.{0,2}/?([A-Za-z_]\w*(?:[./][A-Za-z_]\w*)*)[./]?")
"""A text that is nothing but the name of a module, or the path of a folder."""


@dataclass(frozen=True, slots=True)
class LazyImports:
    """What a module may import beyond its import statements.

    - ``names``: what may be names of modules
    - ``packages``: names of packages of which it may import any module
    - ``starred``: packages from which it imports ``*``: also modules that their ``__all__`` names
    - ``has_plugins``: whether it asks for entry points
    """

    names: frozenset[str]
    packages: frozenset[str]
    starred: frozenset[str]
    has_plugins: bool


def lazy_imports(tree: ast.Module, path: str) -> LazyImports:
    """Return what the module at a path of a package may import lazily.

    Names may be of modules of others, or of nothing.
    """
    package = parent_package(path)
    nodes = list(ast.walk(tree))
    calls = [node for node in nodes if isinstance(node, ast.Call)]
    texts = list(texts_of(nodes))
    renamed = {name: original for node in nodes for name, original in _renamed(node)}
    packages: set[str] = set()
    # One that is called later, such as `map(import_module, names)`, may import anything.
    is_unknown = any(map(_LISTS_MODULES.fullmatch, texts)) or any(_handed_on(nodes, calls))
    for call in calls:
        below = _packages_of(call, renamed.get(last_name(call.func), last_name(call.func)), package)
        is_unknown = is_unknown or below is None
        packages.update(below or ())
    if is_unknown:
        packages.update(_candidates(nodes, texts, package))
    return LazyImports(
        frozenset([*names_in(texts), *filter(None, map(_named_by, calls))]),
        frozenset(packages),
        frozenset(base for node in nodes for base in _starred(node, package)),
        any(last_name(call.func) in ("entry_points", "iter_entry_points") for call in calls),
    )


def names_in(texts: Iterable[str]) -> Iterator[str]:
    """Yield what may be the names of modules, or of what is in them, in texts."""
    for text in texts:
        yield from _DOTTED.findall(text)


def public_names(tree: ast.Module) -> Iterator[str]:
    """Yield the names in the ``__all__`` of a module, as far as it is plain."""
    for node in tree.body:
        match node:
            case ast.Assign(targets=[ast.Name("__all__")], value=ast.List(elts=names) | ast.Tuple(elts=names)):
                yield from (name.value for name in names if isinstance(name, ast.Constant) if type(name.value) is str)


def _named_by(call: ast.Call) -> str:
    match call:
        case ast.Call(args=[ast.Constant(value=str(text)), *_]) if last_name(call.func) in _BY_NAME:
            return text.partition(":")[0]
    return ""


def _renamed(node: ast.AST) -> Iterator[tuple[str, str]]:
    """Yield names that an import gives, each with the original."""
    if isinstance(node, ast.ImportFrom):
        yield from ((alias.asname, alias.name) for alias in node.names if alias.asname)


def _handed_on(nodes: Iterable[ast.AST], calls: Iterable[ast.Call]) -> Iterator[bool]:
    """Yield True for each use as a value of what imports by name."""
    called = {id(call.func) for call in calls}
    for node in nodes:
        if isinstance(node, ast.Name | ast.Attribute) and last_name(node) in _BY_NAME and id(node) not in called:
            yield True


def _packages_of(call: ast.Call, name: str, package: list[str]) -> list[str] | None:
    """Return the packages of which a call of a function may import any module.

    It is None where nothing tells which these are.
    """
    itself = [".".join(package)] if _is_about_itself(call, package) else None
    match call.args:
        case [ast.Constant() | ast.Name("__name__"), *_] | [] if name in _BY_NAME:
            return []
        case [computed, *_] if name in _BY_NAME:
            below = _computed_below(computed)
            return [below] if below.strip(".") else [".".join(package)] if below else itself
    if name in _LAZY_LOADER:
        return itself or []
    return itself if name in _BY_PACKAGE else None if name in _BY_FILE else []


def _computed_below(name: ast.expr) -> str:
    """Return the package of ``f"plugins.{name}"`` and ``"plugins." + name``.

    It is "." for a relative name, "" for anything else.
    """
    match name:
        case ast.JoinedStr(values=[ast.Constant(value=str(text)), *_]):
            start = text
        case ast.BinOp(left=ast.Constant(value=str(text)), op=ast.Add() | ast.Mod()):
            start = text.partition("%")[0]
        case ast.Call(func=ast.Attribute(value=ast.Constant(value=str(text)), attr="format")):
            start = text.partition("{")[0]
        case _:
            return ""
    if start.startswith("."):
        return "."
    package, dot, _ = start.partition(":") if ":" in start else start.rpartition(".")
    return package if dot and all(part.isidentifier() for part in package.split(".")) else ""


def _is_about_itself(call: ast.Call, package: list[str]) -> bool:
    names = (node.id for node in ast.walk(call) if isinstance(node, ast.Name))
    return bool(package) and not _OF_ITSELF.isdisjoint(names)


def _candidates(nodes: Iterable[ast.AST], texts: Iterable[str], package: list[str]) -> Iterator[str]:
    """Yield the packages that a module may mean.

    They are its own, those that it imports, and those that it names or computes.
    """
    yield from package[:1]
    for node in nodes:
        match node:
            case ast.Import(names=aliases):
                yield from (alias.name for alias in aliases)
            case ast.ImportFrom(names=aliases) if base := imported_from(node, package):
                yield base
                yield from (f"{base}.{alias.name}" for alias in aliases)
            case ast.JoinedStr() | ast.BinOp() | ast.Call() if below := _computed_below(node):
                yield below
    for text in texts:
        if match := _PLAIN.fullmatch(text.removesuffix(".py")):
            yield match[1].replace("/", ".")


def _starred(node: ast.AST, package: list[str]) -> Iterator[str]:
    match node:
        case ast.ImportFrom(names=[ast.alias(name="*")]):
            yield imported_from(node, package)
