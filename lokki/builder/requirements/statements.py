"""What the statements of modules say of other packages.

The packages of a flow of many steps have nearly the same modules: they differ in whose body is left out. Reading each
of them as a whole would make a build take four times as long for twice as many steps, so a statement is read once.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Final

from lokki.builder.packages.code import texts_of

WORD: Final = re.compile(r"[A-Za-z_][\w.-]*\w|[A-Za-z_]")
"""A word of a text that may be the name of a module, a package or a program."""

_BY_NAME: Final = frozenset(
    {"import_module", "__import__", "run_module", "run_path", "resolve_name", "locate", "find_spec", "exec", "eval"}
)
"""What imports by a text, or runs one; a constant is read as any text, anything else may be any name."""


@dataclass(frozen=True, slots=True)
class Statement:
    """What a statement at the top level of a module says.

    All that is in it counts.

    - ``imports``: modules with the names that are imported from them
    - ``has_star``: whether it imports ``*``
    - ``aliases``: what names are imported as, each with how deep in the statement
    - ``words``: of the texts in it
    - ``computed``: lines where it runs or imports what it computes, or unpickles, and which of these
    - ``uses``: names such as ``pickle.load`` that are read or written, with the first line of each
    """

    imports: frozenset[tuple[str, tuple[str, ...]]]
    has_star: bool
    aliases: tuple[tuple[int, str, str], ...]
    words: frozenset[str]
    computed: tuple[tuple[int, str], ...]
    uses: Mapping[tuple[str, str], int]


@dataclass(frozen=True, slots=True)
class Statements:
    """Reads statements, and remembers those that it has read.

    They are told apart by identity.
    """

    records: dict[ast.stmt, Statement]

    def of(self, tree: ast.Module) -> list[Statement]:
        """Return what each statement of a module says."""
        return [self._read(statement) for statement in tree.body]

    def _read(self, statement: ast.stmt) -> Statement:
        if statement not in self.records:
            self.records[statement] = _read(statement)
        return self.records[statement]


def import_aliases(statements: Iterable[Statement]) -> dict[str, str]:
    """Return what names are imported as, wherever in a module.

    Of several imports as one name the innermost counts, of these the last.
    """
    # Sorting is stable, so of equal depth the last one wins.
    every = sorted((alias for statement in statements for alias in statement.aliases), key=itemgetter(0))
    return {name: whole for _, name, whole in every}


def _read(statement: ast.stmt) -> Statement:
    nodes = list(_with_depths(statement))
    imports = [(depth, node) for depth, node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]
    calls = [node for _, node in nodes if isinstance(node, ast.Call)]
    return Statement(
        frozenset(module for _, node in imports for module in _imported(node)),
        any(alias.name == "*" for _, node in imports for alias in node.names),
        tuple((depth, *alias) for depth, node in imports for alias in _aliases(node)),
        frozenset(word for text in texts_of(node for _, node in nodes) for word in WORD.findall(text)),
        tuple(place for call in calls for place in _computed(call)),
        _uses([node for _, node in nodes]),
    )


def _with_depths(statement: ast.stmt) -> Iterator[tuple[int, ast.AST]]:
    """Yield all nodes of a statement with their depths, outer ones first."""
    level: list[ast.AST] = [statement]
    depth = 0
    while level:
        yield from ((depth, node) for node in level)
        level = [child for node in level for child in ast.iter_child_nodes(node)]
        depth += 1


def _imported(node: ast.Import | ast.ImportFrom) -> Iterator[tuple[str, tuple[str, ...]]]:
    match node:
        case ast.Import(names=aliases):
            yield from ((alias.name, ()) for alias in aliases)
        case ast.ImportFrom(module=str(module), names=aliases, level=0):
            yield module, tuple(alias.name for alias in aliases if alias.name != "*")


def _aliases(node: ast.Import | ast.ImportFrom) -> Iterator[tuple[str, str]]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            top = alias.name.partition(".")[0]
            yield (alias.asname, alias.name) if alias.asname else (top, top)
    elif not node.level:
        yield from ((alias.asname or alias.name, f"{node.module}.{alias.name}") for alias in node.names)


def _computed(call: ast.Call) -> Iterator[tuple[int, str]]:
    """Yield the line of a call that imports or runs what it computes.

    Only a run tells what that is.
    """
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    is_builtin = name in ("exec", "eval")
    if name in _BY_NAME and not (is_builtin and isinstance(call.func, ast.Attribute)) and not _is_constant(call):
        yield call.lineno, "runs or imports what it computes"
    if any(keyword.arg == "allow_pickle" for keyword in call.keywords):
        yield call.lineno, "unpickles"


def _is_constant(call: ast.Call) -> bool:
    return bool(call.args) and isinstance(call.args[0], ast.Constant)


def _uses(nodes: Iterable[ast.AST]) -> dict[tuple[str, str], int]:
    """Return the names of nodes, with the first line of each.

    A name has two parts, before and from its first ``.``.
    """
    lines: dict[tuple[str, str], int] = {}
    for node in nodes:
        if isinstance(node, ast.Name | ast.Attribute) and (name := dotted_name(node)) is not None:
            lines[name] = min(node.lineno, lines.get(name, node.lineno))
    return lines


def dotted_name(expression: ast.expr) -> tuple[str, str] | None:
    """Return ``("a", ".b.c")`` of ``a.b.c``, None of what is no name.

    >>> dotted_name(ast.parse("a.b.c", mode="eval").body), dotted_name(ast.parse("a[0].b", mode="eval").body)
    (('a', '.b.c'), None)
    """
    rest = ""
    while isinstance(expression, ast.Attribute):
        rest = f".{expression.attr}{rest}"
        expression = expression.value
    return (expression.id, rest) if isinstance(expression, ast.Name) else None
