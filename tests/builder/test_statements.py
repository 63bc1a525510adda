"""What statements say of other packages, and that each is read once, however many packages have it."""

import ast

import pytest

from lokki.builder.lambda_pkg import Importable
from lokki.builder.packages.trimming import trim
from lokki.builder.requirements.statements import Statement, Statements, import_aliases


def read(source: str) -> list[Statement]:
    return Statements({}).of(ast.parse(source))


def test_statements_of_many_packages_are_read_once_each() -> None:
    names = [f"step_{number}" for number in range(40)]
    code = ["from lokki import step", *(f"@step\ndef {name}(x):\n    return x + 1\n" for name in names)]
    packages = trim({"flow.py": "\n".join(code).encode()}, {name: Importable("flow", name) for name in names}).trees
    statements = Statements({})
    for name in names:
        assert len(statements.of(packages[name]["flow.py"])) == 1 + len(names)
    assert len(statements.records) == 1 + 2 * len(names)  # each step with its body, and without


@pytest.mark.parametrize(
    ("source", "aliases"),
    [
        ("import a.b, c as d", {"a": "a", "d": "c"}),
        ("from a import b, c as d", {"b": "a.b", "d": "a.c"}),
        ("from . import b", {}),
        ("import a as x\nimport b as x", {"x": "b"}),
        ("def f():\n    import a as x\nimport b as x", {"x": "a"}),
        ("def f():\n    if 1:\n        import a as x\ndef g():\n    import b as x", {"x": "a"}),
    ],
)
def test_names_stand_for_what_they_are_imported_as_the_innermost_import_first(
    source: str, aliases: dict[str, str]
) -> None:
    assert import_aliases(read(source)) == aliases


def test_all_that_a_statement_says_is_read_at_once() -> None:
    (function,) = read(
        'def f(name):\n    """Words of docstrings."""\n    from a.b import c, d as e\n    from x import *\n'
        "    eval(name)\n    e.load('some words')\n    e.load(allow_pickle=True)"
    )
    assert function == Statement(
        imports=frozenset({("a.b", ("c", "d")), ("x", ())}),
        has_star=True,
        aliases=((1, "c", "a.b.c"), (1, "e", "a.b.d"), (1, "*", "x.*")),
        words=frozenset({"some", "words"}),
        computed=((5, "runs or imports what it computes"), (7, "unpickles")),
        uses={("e", ""): 6, ("e", ".load"): 6, ("eval", ""): 5, ("name", ""): 5},
    )
