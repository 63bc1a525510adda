"""The examples in docstrings say what happens."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import lokki

MODULES = sorted({"lokki", *(module.name for module in pkgutil.walk_packages(lokki.__path__, "lokki."))})


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_the_module_are_true(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0


def test_examples_are_found_and_run() -> None:
    assert doctest.testmod(importlib.import_module("lokki.signatures")).attempted >= 4


def test_a_wrong_example_would_be_found() -> None:
    example = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "wrong", None, 0)
    result = doctest.DocTestRunner(verbose=False).run(example, out=lambda text: None)
    assert result == doctest.TestResults(failed=1, attempted=1)
