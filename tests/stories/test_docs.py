"""The examples in docstrings and the files of docs/testing.md say what happens."""

from __future__ import annotations

import doctest
import importlib
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.pages import agrees, blocks, commands

import lokki

MODULES = sorted({"lokki", *(module.name for module in pkgutil.walk_packages(lokki.__path__, "lokki."))})


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_the_module_are_true(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0


def test_examples_are_found_and_run() -> None:
    assert doctest.testmod(importlib.import_module("lokki.base.signatures")).attempted >= 4


def test_a_wrong_example_would_be_found() -> None:
    example = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "wrong", None, 0)
    result = doctest.DocTestRunner(verbose=False).run(example, out=lambda text: None)
    assert result == doctest.TestResults(failed=1, attempted=1)


def test_the_tests_of_the_page_on_testing_pass(tmp_path: Path) -> None:
    page = blocks((Path(__file__).parents[2] / "docs" / "testing.md").read_text())
    for block in page:
        if block.name:
            (tmp_path / block.name).write_text(block.text)
    path = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "COLUMNS": "80"}
    [(command, shown)] = [pair for block in page if block.language == "console" for pair in commands(block.text)]
    run = subprocess.run(command, shell=True, cwd=tmp_path, env=os.environ | path, capture_output=True, text=True)
    assert agrees(shown, run.stdout), run.stdout + run.stderr
    assert run.returncode == 0
    assert "7 passed" in run.stdout
