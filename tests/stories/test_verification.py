"""docs/verification.md says what is there: its tests and files exist, and its tables are those of the tests."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from pathlib import Path

import pytest
from test_permissions import EXPLAINED, ROLES, WITH_MAPS, WITHOUT_MAPS

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "verification.md").read_text()


def section(title: str) -> str:
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", TEXT, re.DOTALL | re.MULTILINE)
    assert found, title
    return found[1]


def missing(text: str) -> list[str]:
    """Return the tests and files in ticks that are not there."""
    named: list[tuple[str, str]] = re.findall(r"`((?:tests|benchmarks)/[\w./-]+?)(?:::(\w+))?`", text)
    return [f"{path}::{test}" for path, test in named if not exists(ROOT / path, test)]


def exists(path: Path, test: str) -> bool:
    if not test or not path.is_file():
        return not test and path.exists()
    return test in {each.name for each in ast.parse(path.read_text()).body if isinstance(each, ast.FunctionDef)}


def rows(text: str) -> list[list[str]]:
    """Return the cells of a table's rows, without its head."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def test_every_test_and_file_that_is_named_is_there() -> None:
    assert missing(TEXT) == []


@pytest.mark.parametrize("name", ["tests/nowhere.py", "tests/builder/test_golden.py::test_nothing"])
def test_a_test_or_file_that_is_not_there_would_be_found(name: str) -> None:
    assert missing(f"see `{name}`") == [name if "::" in name else f"{name}::"]


def test_each_of_the_thirteen_failures_has_a_test() -> None:
    found = rows(section("Known failures of the peer"))
    assert len(found) == 13
    assert [failure for failure, tests in found if "::test_" not in tests] == []


def test_every_claim_says_what_shows_it_and_what_is_left() -> None:
    for claim, shown, left in rows(section("Claims of build and emulate")):
        assert re.search(r"`(tests|benchmarks)/", shown), claim
        assert left, claim


def test_what_is_allowed_and_not_called_is_explained() -> None:
    unused: dict[tuple[str, str], set[str]] = {}
    for each in (*EXPLAINED, *WITH_MAPS, *WITHOUT_MAPS):
        unused.setdefault((each.role, each.sid), set()).update(each.actions.split())
    explained = {
        (role, sid): set(ticked([actions]))
        for role, sid, actions, reason in rows(section("Roles, against the calls of runs"))
        if reason
    }
    assert explained == unused
    assert {role for role, _ in explained} == set(ROLES)


def ticked(texts: Iterable[str]) -> list[str]:
    return [found for text in texts for found in re.findall(r"`([^`]+)`", text)]
