"""Finding a flow in a user's file or module."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lokki.errors import FlowError
from lokki.loading import is_importing, load_flow

BIRDS = """
from lokki import flow, main, step

@step
def get_birds() -> list[str]:
    return ["goose"]

@flow
def birds_flow():
    return get_birds()
"""
DUCKS = BIRDS.replace("birds_flow", "ducks_flow")


@pytest.fixture(autouse=True)
def _imports_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    modules, path = set(sys.modules), list(sys.path)
    monkeypatch.chdir(tmp_path)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def written(name: str, text: str) -> str:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(text)
    return name


def problem(target: str) -> str:
    with pytest.raises(FlowError) as caught:
        load_flow(target)
    return str(caught.value)


def test_the_only_flow_of_a_file_is_found() -> None:
    assert load_flow(written("geese.py", BIRDS)).name == "birds-flow"


def test_a_flow_is_found_by_its_name_among_several() -> None:
    written("geese.py", BIRDS + DUCKS)
    assert load_flow("geese.py:ducks_flow").name == "ducks-flow"


def test_a_flow_with_two_names_is_one_flow() -> None:
    assert load_flow(written("geese.py", BIRDS + "other = birds_flow\n")).name == "birds-flow"


def test_a_flow_that_the_file_imports_does_not_compete_with_its_own() -> None:
    written("ducks.py", DUCKS)
    assert load_flow(written("geese.py", f"from ducks import ducks_flow\n{BIRDS}")).name == "birds-flow"


def test_a_flow_that_the_file_only_imports_is_found() -> None:
    written("ducks.py", DUCKS)
    assert load_flow(written("geese.py", "from ducks import ducks_flow\n")).name == "ducks-flow"


def test_a_file_in_another_folder_finds_the_modules_beside_it() -> None:
    written("farm/names.py", "NAME = 'goose'\n")
    written("farm/geese.py", f"from names import NAME\n{BIRDS}")
    assert load_flow("farm/geese.py").__module__ == "geese"


def test_a_file_in_a_package_has_its_dotted_name_and_relative_imports() -> None:
    for folder in ("farm", "farm/barn"):
        written(f"{folder}/__init__.py", "")
    written("farm/names.py", "NAME = 'goose'\n")
    written("farm/barn/geese.py", f"from ..names import NAME\n{BIRDS}")
    assert load_flow("farm/barn/geese.py").__module__ == "farm.barn.geese"


def test_a_module_is_found_by_its_dotted_name() -> None:
    written("farm/__init__.py", "")
    written("farm/geese.py", BIRDS)
    assert load_flow("farm.geese:birds_flow").__module__ == "farm.geese"


def test_a_file_with_a_hyphen_in_its_name_is_imported() -> None:
    assert load_flow(written("my-geese.py", BIRDS)).name == "birds-flow"


def test_a_file_knows_that_it_is_only_imported() -> None:
    written("geese.py", f"from lokki.loading import is_importing\nSEEN = is_importing()\n{BIRDS}")
    load_flow("geese.py")
    assert (sys.modules["geese"].SEEN, is_importing()) == (True, False)


def test_a_main_without_its_guard_does_not_run_the_flow_when_it_is_imported() -> None:
    assert load_flow(written("geese.py", f"{BIRDS}\nmain(birds_flow)\n")).name == "birds-flow"


@pytest.mark.parametrize(
    ("target", "text"),
    [
        ("nothing.py", "there is no file nothing.py."),
        ("nothing", "there is no file and no module 'nothing'."),
        ("no.such.module:flow", "there is no file and no module 'no.such.module'."),
        ("..", ".. is a folder: name a file in it."),
        ("", ". is a folder: name a file in it."),
        ("a b", "there is no file and no module 'a b'."),
        ("geese.py:bird_flow", "geese.py has no flow 'bird_flow'; did you mean 'birds_flow'?"),
        ("geese.py:xyz", "geese.py has no flow 'xyz'; it has: birds_flow, ducks_flow."),
        (
            "geese.py",
            "geese.py has several flows, birds_flow, ducks_flow: say which, as in geese.py:birds_flow.",
        ),
        ("empty.py", "empty.py has no flow: put @flow above the function that chains the steps."),
        ("empty.py:f", "empty.py has no flow 'f'; it has: none."),
        ("two.dots.py", "two.dots.py cannot be imported: name it like a module, with one dot, before 'py'."),
        ("json.py", "json.py hides the module 'json' of Python: rename the file."),
        ("sys.py", "sys.py hides the module 'sys' of Python: rename the file."),
    ],
)
def test_what_cannot_be_loaded_is_said(target: str, text: str) -> None:
    written("geese.py", BIRDS + DUCKS)
    for name in ("two.dots.py", "json.py", "sys.py", "lokki.py"):
        written(name, BIRDS)
    written("empty.py", "birds_flow = 3\n")
    assert problem(target) == text


def test_a_module_that_the_users_own_code_lacks_is_the_users_error() -> None:
    written("geese.py", f"import no_such_module\n{BIRDS}")
    for target in ("geese.py", "geese"):
        with pytest.raises(ModuleNotFoundError, match="no_such_module"):
            load_flow(target)
