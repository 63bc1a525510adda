"""What a module imports, read from its source: which module, at which line, and whether always."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from lokki.builder.packages.code import imported_from, last_name, parent_package

type When = Literal["always", "called", "guarded"]
"""Of an import: whenever its module is imported; when a function is called; where it may fail or be left out."""

_IMPORTING = frozenset({"import_module", "__import__"})
_READING = frozenset(
    {
        "files",
        "open_text",
        "open_binary",
        "read_text",
        "read_binary",
        "get_data",
        "resource_filename",
        "resource_string",
    }
)
"""Functions of importlib.resources, pkgutil and pkg_resources that take the name of a package."""

_FAILS = frozenset({"ImportError", "ModuleNotFoundError", "Exception", "BaseException"})


@dataclass(frozen=True, slots=True)
class ModuleImport:
    """An import of a module, by its full name.

    - ``member``: what is imported from it, a submodule or another name; or ""
    - ``when``: whether it is executed whenever the module is imported
    """

    module: str
    member: str
    line: int
    when: When

    @property
    def names(self) -> tuple[str, ...]:
        """The modules that may be imported.

        They are the one named, and its member if that is one.
        """
        return (self.module, f"{self.module}.{self.member}") if self.member else (self.module,)


def read_imports(tree: ast.Module, path: str) -> tuple[ModuleImport, ...]:
    """Return what a module imports, in the order of its lines."""
    package = parent_package(path)
    nodes = sorted(_scoped(tree), key=lambda entry: entry[0])
    return tuple(statement for line, when, node in nodes for statement in _read(node, package, line, when))


def always_imported(starts: Iterable[str], modules: Mapping[str, Iterable[ModuleImport]]) -> frozenset[str]:
    """Return the modules that are imported whenever these are.

    ``modules``: the imports of each, by name.
    """
    always: set[str] = set()
    waiting = list(starts)
    while waiting:
        name = waiting.pop()
        if name in always:
            continue
        always.add(name)
        # Importing a module imports the packages above it first.
        waiting += [name.rpartition(".")[0]] if "." in name else []
        waiting += [
            imported
            for statement in modules.get(name, ())
            if statement.when == "always"
            for imported in statement.names
        ]
    return frozenset(always & modules.keys())


def _scoped(tree: ast.Module) -> Iterator[tuple[int, When, ast.Import | ast.ImportFrom | ast.Call]]:
    """Yield each import with its line and when it is executed."""
    waiting: list[tuple[ast.AST, When]] = [(tree, "always")]
    while waiting:
        node, when = waiting.pop()
        if isinstance(node, ast.Import | ast.ImportFrom | ast.Call):
            yield node.lineno, when, node
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
                inner: When = "called" if when == "always" else when
                waiting += [(child, inner) for child in ast.iter_child_nodes(node)]
            # Such as under ``if TYPE_CHECKING:`` or ``if sys.platform == "win32":``: only a run would tell.
            case ast.If() | ast.For() | ast.While() | ast.Match() | ast.ExceptHandler() | ast.IfExp():
                waiting += [(child, "guarded") for child in ast.iter_child_nodes(node)]
            case ast.Try() | ast.TryStar():
                tried: When = "guarded" if _catches_missing(node) else when
                waiting += [(child, tried) for child in [*node.body, *node.handlers, *node.orelse]]
                waiting += [(child, when) for child in node.finalbody]
            case ast.With() if any(_suppresses(item.context_expr) for item in node.items):
                waiting += [(child, "guarded") for child in ast.iter_child_nodes(node)]
            case _:
                waiting += [(child, when) for child in ast.iter_child_nodes(node)]


def _catches_missing(node: ast.Try | ast.TryStar) -> bool:
    """Tell whether a ``try`` goes on where a module is missing."""
    for handler in node.handlers:
        kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
        if any(kind is None or last_name(kind) in _FAILS for kind in kinds):
            return True
    return False


def _suppresses(expression: ast.expr) -> bool:
    return isinstance(expression, ast.Call) and last_name(expression.func) == "suppress"


def _read(
    node: ast.Import | ast.ImportFrom | ast.Call, package: list[str], line: int, when: When
) -> Iterator[ModuleImport]:
    """Yield what an import, as statement or as call, names."""
    match node:
        case ast.Import(names=aliases):
            yield from (ModuleImport(alias.name, "", line, when) for alias in aliases)
        case ast.ImportFrom(names=aliases):
            base = imported_from(node, package)
            members = ["" if alias.name == "*" else alias.name for alias in aliases]
            yield from (ModuleImport(base, member, line, when) for member in members if base)
        case ast.Call(func=function, args=[ast.Constant(value=str(name)), *_]):
            whole = _whole_name(name, package)
            if whole and last_name(function) in _IMPORTING:
                yield ModuleImport(whole, "", line, when)
            elif whole and last_name(function) in _READING:
                yield ModuleImport(whole, "", line, "guarded")  # of a text that may be something else


def _whole_name(name: str, package: list[str]) -> str:
    """Return the full name of a module, "" of what is none.

    Leading dots of a relative name are resolved.
    """
    level = len(name) - len(name.lstrip("."))
    above = package[: len(package) - level + 1] if level else []
    whole = ".".join([*above, *filter(None, [name.lstrip(".")])])
    return whole if whole and all(part.isidentifier() for part in whole.split(".")) else ""
