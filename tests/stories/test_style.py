"""How the package reads, counted: its folders, its names and the first lines of its docstrings. The bounds are laws.

What is counted is proved on small sources below. CONTRIBUTING.md says why each bound is there.
"""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import median

import pytest

PACKAGE = Path(__file__).parents[2] / "lokki"

HOW_A_VALUE_CAME = {
    "about", "after", "again", "around", "asked", "before", "begun", "described", "doomed", "each", "ended", "found",
    "given", "kept", "known", "made", "read", "seen", "shown", "told", "wanted",
}  # fmt: skip
"""Names that say how a value came to be there and not what it is."""

type Sources = Mapping[str, ast.Module]


def sources_of(folder: Path) -> Sources:
    """Parse every module of a package, by its path below the folder."""
    return {
        path.relative_to(folder).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
        for path in sorted(folder.rglob("*.py"))
    }


def modules_at_the_top(sources: Sources) -> list[str]:
    return [path for path in sources if "/" not in path]


def names_that_stand_twice(sources: Sources) -> dict[str, list[str]]:
    """Return the public functions, classes and types of more than one module, each with its modules."""
    homes = defaultdict(list)
    for path, tree in sources.items():
        for name in dict.fromkeys(top_level_names(tree)):
            homes[name].append(path)
    return {name: paths for name, paths in homes.items() if len(paths) > 1}


def top_level_names(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        name = node.name.id if isinstance(node, ast.TypeAlias) else getattr(node, "name", "_")
        if isinstance(name, str) and not name.startswith("_"):
            yield name


def first_lines(sources: Sources) -> dict[str, str]:
    """Return the first line of the docstring of each function and class, by where it stands."""
    return {
        f"{path}:{node.lineno} {node.name}": text.splitlines()[0]
        for path, tree in sources.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and (text := ast.get_docstring(node))
    }


def bound_names(sources: Sources) -> Counter[str]:
    """Count the names of variables and parameters."""
    return Counter(
        node.id if isinstance(node, ast.Name) else node.arg
        for tree in sources.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.arg) or (isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store))
    )


def calls_of(sources: Sources, name: str) -> list[str]:
    return [
        f"{path}:{node.lineno}"
        for path, tree in sources.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and name in (getattr(node.func, "id", ""), getattr(node.func, "attr", ""))
    ]


def long_functions(sources: Sources, most: int) -> list[str]:
    """Find functions of more lines than that, without their docstrings."""
    return [
        f"{path}:{node.lineno} {node.name}"
        for path, tree in sources.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and length(node) > most
    ]


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    lines = (function.end_lineno or function.lineno) - function.lineno + 1
    text = function.body[0]
    if ast.get_docstring(function) is not None:
        lines -= (text.end_lineno or text.lineno) - text.lineno + 1
    return lines


def folders_without_introduction(sources: Sources, least: int) -> list[str]:
    """Find folders whose ``__init__`` says less about them than so many words."""
    return [
        path
        for path, tree in sources.items()
        if path.endswith("/__init__.py") and len((ast.get_docstring(tree) or "").split()) < least
    ]


@pytest.fixture(scope="module")
def package() -> Sources:
    return sources_of(PACKAGE)


def test_the_top_of_the_package_is_a_page(package: Sources) -> None:
    assert len(modules_at_the_top(package)) <= 12


def test_a_public_name_stands_for_one_thing(package: Sources) -> None:
    assert len(names_that_stand_twice(package)) <= 3, names_that_stand_twice(package)


def test_first_lines_are_one_short_clause(package: Sources) -> None:
    lines = first_lines(package)
    assert {place: line for place, line in lines.items() if len(line) > 72} == {}
    assert median(map(len, lines.values())) <= 64
    joined = [place for place, line in lines.items() if ";" in line or ":" in line]
    assert len(joined) / len(lines) <= 0.09, joined


def test_names_say_what_a_value_is(package: Sources) -> None:
    names = bound_names(package)
    fillers = {name: count for name, count in names.items() if name in HOW_A_VALUE_CAME}
    assert sum(fillers.values()) / names.total() < 0.01, fillers


def test_types_are_read_and_not_claimed(package: Sources) -> None:
    assert len(calls_of(package, "cast")) < 20, calls_of(package, "cast")


def test_no_function_is_longer_than_a_screen(package: Sources) -> None:
    assert long_functions(package, 50) == []


def test_each_folder_is_introduced(package: Sources) -> None:
    assert folders_without_introduction(package, 80) == []


GOOD = {
    "a.py": "class Call:\n    '''A call.'''\n\ntype Json = str\n",
    "b/c.py": "def _call(record):\n    return record\n",
}
BAD = {
    "a.py": "class Call:\n    '''A call: it has an id; and a name.'''\n",
    "b/__init__.py": "'''Short.'''\n",
    "b/c.py": "class Call: ...\ndef f(found):\n    each = cast(int, found)\n\n\n    return each\n",
}


@pytest.mark.parametrize(
    ("count", "good", "bad"),
    [
        (modules_at_the_top, ["a.py"], ["a.py"]),
        (names_that_stand_twice, {}, {"Call": ["a.py", "b/c.py"]}),
        (first_lines, {"a.py:1 Call": "A call."}, {"a.py:1 Call": "A call: it has an id; and a name."}),
        (bound_names, Counter(Json=1, record=1), Counter({"found": 1, "each": 1})),
        (lambda sources: calls_of(sources, "cast"), [], ["b/c.py:3"]),
        (lambda sources: long_functions(sources, 4), [], ["b/c.py:2 f"]),
        (lambda sources: folders_without_introduction(sources, 2), [], ["b/__init__.py"]),
    ],
)
def test_what_is_counted(count: Callable[[Sources], object], good: object, bad: object) -> None:
    def parsed(texts: Mapping[str, str]) -> Sources:
        return {path: ast.parse(text) for path, text in texts.items()}

    assert (count(parsed(GOOD)), count(parsed(BAD))) == (good, bad)
