"""Reading the source of modules: what they are called, what they import, what of lokki they use.

Nothing here runs the code that it reads.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LokkiNames:
    """What a module imports of lokki at its top level.

    - ``members``: what of lokki each of its names is: ``{"a_step": "step"}``
    - ``modules``: its names for lokki itself
    """

    members: Mapping[str, str]
    modules: frozenset[str]


def parse(source: bytes) -> ast.Module | None:
    """Parse a module, or return None if it is not Python."""
    try:
        with warnings.catch_warnings(action="ignore"):  # Python has shown them when it imported the file
            return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # the last two for what is nested too deeply
        return None


def syntax_error(source: bytes) -> str:
    """Say where and why a source is not Python, or "" if it is.

    The text stands behind the name of the file.
    """
    try:
        with warnings.catch_warnings(action="ignore"):
            ast.parse(source)
    except SyntaxError as error:
        return f"{f':{error.lineno}' if error.lineno else ''} is not valid Python: {error.msg}"
    except (ValueError, RecursionError, MemoryError) as error:
        return f" is not valid Python: {error or 'it is nested too deeply'}"
    return ""


def module_name(path: str) -> str:
    """Return the name of the module at a path of a package.

    >>> module_name("team/steps.py"), module_name("team/__init__.py")
    ('team.steps', 'team')
    """
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def parent_package(path: str) -> list[str]:
    """Return the parts of the package where relative imports begin."""
    parts = module_name(path).split(".")
    return parts if path.rpartition("/")[2] == "__init__.py" else parts[:-1]


def imported_from(node: ast.ImportFrom, package: list[str]) -> str:
    """Return the full name of the module that names are imported from.

    It is "" for one above the top.
    """
    above = package[: len(package) - node.level + 1] if node.level else []
    return ".".join([*above, *([node.module] if node.module else [])])


def last_name(expression: ast.expr) -> str:
    """Return ``c`` of the expression ``a.b.c``, "" if it is no name."""
    if isinstance(expression, ast.Attribute):
        return expression.attr
    return expression.id if isinstance(expression, ast.Name) else ""


def texts_of(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """Yield the texts among nodes, outer ones first.

    Those that stand by themselves, such as docstrings, say nothing.
    """
    descriptions: set[ast.expr] = set()
    for node in nodes:
        match node:
            # Nodes come outer ones first, so a statement is here before the text that it consists of.
            case ast.Expr(value=value):
                descriptions.add(value)
            case ast.Constant(value=str(text)) if node not in descriptions:
                yield text


def lokki_names(tree: ast.Module) -> LokkiNames:
    """Return what a module imports of lokki and binds to nothing else.

    Only the module's top level counts.
    """
    members: dict[str, str] = {}
    modules: set[str] = set()
    bound: list[str] = []
    for node in _of_module_scope(tree.body):
        if isinstance(node, ast.ImportFrom) and node.module in ("lokki", "lokki.decorators") and not node.level:
            members |= {alias.asname or alias.name: alias.name for alias in node.names}
        elif isinstance(node, ast.Import) and any(alias.name == "lokki" for alias in node.names):
            modules |= {alias.asname or alias.name for alias in node.names if alias.name == "lokki"}
        else:
            bound += _bound_by(node)
    # A function may bind a name of the module's, too.
    bound += [name for node in ast.walk(tree) if isinstance(node, ast.Global) for name in node.names]
    own = {name: member for name, member in members.items() if name not in bound}
    return LokkiNames(own, frozenset(modules.difference(bound)))


def is_decorated_by(function: ast.FunctionDef, member: str, names: LokkiNames) -> bool:
    """Tell whether a function's only decorator is this one of lokki's."""
    # Written with options or without: @step, @step(retry=…).
    decorators = [node.func if isinstance(node, ast.Call) else node for node in function.decorator_list]
    return len(decorators) == 1 and is_of_lokki(decorators[0], member, names)


def is_of_lokki(expression: ast.expr, member: str, names: LokkiNames) -> bool:
    """Tell whether an expression is this member of lokki."""
    match expression:
        case ast.Name(id=name):
            return names.members.get(name) == member
        case ast.Attribute(value=ast.Name(id=module), attr=name):
            return module in names.modules and name == member
    return False


def _of_module_scope(body: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """Yield the nodes whose names belong to the module itself.

    They are all but those inside functions and classes.
    """
    waiting = list(body)
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            waiting += ast.iter_child_nodes(node)


def _bound_by(node: ast.AST) -> list[str]:
    """Return the names that a node binds."""
    match node:
        case ast.Name(id=name, ctx=ast.Store() | ast.Del()):
            return [name]
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return [name]
        case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
            return [alias.asname or alias.name.partition(".")[0] for alias in aliases]
        case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
            return [name]
    return []
