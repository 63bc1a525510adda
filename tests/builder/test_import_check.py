"""lokki.builder.packages.imports and import_check: what modules import, and whether packages have it."""

import ast
from collections.abc import Mapping
from pathlib import Path

import pytest

import lokki
from lokki.builder.package_types import BuildError
from lokki.builder.packages.import_check import (
    LATE_IN_LOKKI,
    ON_LAMBDA_MODULES,
    PackageContents,
    check_packages,
    standard_library,
)
from lokki.builder.packages.imports import always_imported, read_imports


def found(source: str, path: str = "team/flow.py") -> list[str]:
    return [f"{one.line} {'/'.join(one.names)} {one.when}" for one in read_imports(ast.parse(source), path)]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import a.b, c", ["1 a.b always", "1 c always"]),
        ("from a import b, c\nfrom d import *", ["1 a/a.b always", "1 a/a.c always", "2 d always"]),
        ("from . import b", ["1 team/team.b always"]),
        ("from .c import b", ["1 team.c/team.c.b always"]),
        ("from ..c import b", ["1 c/c.b always"]),
        ("class A:\n    import b", ["2 b always"]),
        ("with warnings.catch_warnings():\n    import b", ["2 b always"]),
        ("try:\n    import b\nexcept ValueError:\n    import c", ["2 b always", "4 c guarded"]),
        ("try:\n    import b\nfinally:\n    import c", ["2 b always", "4 c always"]),
        ("def f():\n    import b", ["2 b called"]),
        ("async def f():\n    if x:\n        import b", ["3 b guarded"]),
        ("f = lambda: __import__('b')", ["1 b called"]),
        ("if TYPE_CHECKING:\n    import b\nelse:\n    import c", ["2 b guarded", "4 c guarded"]),
        ("try:\n    import b\nexcept ImportError:\n    import c", ["2 b guarded", "4 c guarded"]),
        ("try:\n    import b\nexcept (KeyError, ModuleNotFoundError):\n    pass", ["2 b guarded"]),
        ("try:\n    import b\nexcept:\n    pass\nelse:\n    import c", ["2 b guarded", "6 c guarded"]),
        ("with contextlib.suppress(ImportError):\n    import b", ["2 b guarded"]),
        ("for x in y:\n    import b", ["2 b guarded"]),
        ("importlib.import_module('a.b')", ["1 a.b always"]),
        ("import_module('.b', __package__)", ["1 team.b always"]),
        ("files('a.b')\nopen_text('not a module', 'x')", ["1 a.b guarded"]),
        ("import_module(name)\nimport_module('a b')", []),
    ],
)
def test_imports_are_read_with_their_lines_and_whether_they_are_always_executed(
    source: str, expected: list[str]
) -> None:
    assert found(source) == expected


def test_what_is_always_imported_is_followed_from_module_to_module() -> None:
    sources = {
        "flow": "import helpers\ndef f():\n    import late",
        "helpers": "from team import names",
        "team": "",
        "team.names": "try:\n    import guarded\nexcept ImportError:\n    pass",
        "late": "",
        "guarded": "",
    }
    modules = {name: read_imports(ast.parse(text), f"{name}.py") for name, text in sources.items()}
    assert always_imported(["flow"], modules) == {"flow", "helpers", "team", "team.names"}


PROVIDED = [
    "yaml/__init__.py", "google/cloud/storage/__init__.py", "google/cloud/storage/blob.py", "six.py", "one_file.py",
    "fast.cpython-313-aarch64-linux-gnu.so", "compiled/__init__.abi3.so", "lokki/__init__.py", "lokki/runner.py",
]  # fmt: skip


def check(source: str | Mapping[str, str], *more: str, exclude: tuple[str, ...] = (), provided: str = "") -> list[str]:
    """Check a flow's module, or several by path; return the notes, or the one error."""
    sources = {"flow.py": source} if isinstance(source, str) else source
    imports = {path: read_imports(ast.parse(text), path) for path, text in sources.items()}
    elsewhere = standard_library((3, 13)) | ON_LAMBDA_MODULES | {provided}
    targets = [PackageContents("load", frozenset({*PROVIDED, *sources}), elsewhere)]
    if more:
        targets.append(PackageContents("save", frozenset({*PROVIDED, *sources, *more}), elsewhere))
    try:
        return check_packages(imports, frozenset({"flow"}), targets, exclude)
    except BuildError as error:
        return [str(error)]


@pytest.mark.parametrize(
    "imported",
    [
        "import yaml, json, os.path, boto3, fast, one_file, email.mime.text",
        "from snapshot_restore_py import register_after_restore",
        "import google.cloud.storage.blob",
        "from google.cloud import storage",
        "from google.cloud.storage import Client",
        "import six.moves.urllib.parse",  # which six makes as it starts
        "import yaml.made_as_it_starts",
        "from yaml import safe_load",
        "from compiled import anything",
        "import lokki\nfrom lokki import flow, step\nfrom lokki.runner import LocalRunner",
        "from six import moves\nfrom one_file import *",
        "try:\n    import nowhere\nexcept ImportError:\n    pass",
        "if TYPE_CHECKING:\n    import nowhere",
        "if __name__ == '__main__':\n    import nowhere",
    ],
)
def test_what_a_package_has_is_no_finding(imported: str) -> None:
    assert check(imported) == []


@pytest.mark.parametrize(
    ("imported", "name"),
    [
        ("import nowhere", "nowhere"),
        ("from nowhere.deep import a", "nowhere"),
        ("import google.cloud.bigquery", "google.cloud.bigquery"),
        ("from google.cloud import bigquery", "google.cloud.bigquery"),
        ("import google.other.thing", "google.other"),
        ("import winreg", "winreg"),
        ("import annotationlib", "annotationlib"),
        ("class A:\n    x = 1\n    import nowhere", "nowhere"),
    ],
)
def test_what_no_package_has_stops_a_build_and_is_named_with_file_line_and_remedy(imported: str, name: str) -> None:
    [error] = check(f"\n{imported}")
    line = 2 + imported.count("\n")
    assert error.startswith(
        f"flow.py:{line} imports {name}, which nothing that load() requires provides, so its function could not start. "
        f"Add to the project's pyproject.toml, or to a requirements.txt beside the flow: {name.partition('.')[0]}."
    )


def test_a_submodule_that_is_a_file_here_and_in_no_package_is_missing() -> None:
    [error] = check("import yaml.loader")
    assert error.startswith("flow.py:1 imports yaml.loader, which nothing that load() requires provides")
    assert "beside the flow: PyYAML." in error


def test_what_lokki_does_not_have_on_lambda_is_named() -> None:
    on_lambda = {name for name, module in lokki._LATE.items() if module.startswith(("lokki.base.", "lokki.graph"))}
    assert set(LATE_IN_LOKKI) == set(lokki._LATE) - on_lambda
    assert check("from lokki import FlowGraph, S3Object") == []
    for imported, name in (("from lokki import local", "lokki.local"), ("import lokki.cli.main", "lokki.cli")):
        [error] = check(imported)
        assert error.startswith(f"flow.py:1 imports {name}, which nothing that load() requires provides")
        assert error.endswith("It is not on Lambda: import it in the function that uses it, outside of steps.")


def test_an_excluded_module_that_is_always_imported_is_refused() -> None:
    [error] = check("import plots", exclude=("plots.py",))
    assert error.startswith("flow.py:1 imports plots, which nothing that load() requires provides")
    remedy = "It is excluded in lokki.yml: take it out of exclude, or import plots in the function that uses it."
    assert error.endswith(remedy)
    assert check("def f():\n    import team.plots", exclude=("team",)) == [
        "flow.py:2 imports team, which no package has: that fails if it comes to it"
    ]


def test_a_module_from_outside_of_the_project_is_named_with_its_file() -> None:
    [error] = check(f"import {Path(__file__).stem}")
    assert error.endswith(
        f"It is {__file__}, outside of the project: move it into the project, or install it as a package."
    )


def test_a_setting_overrules_what_lambda_has_from_elsewhere() -> None:
    [error] = check("import layered.part")
    assert error.endswith("If Lambda has it all the same, from a layer, say so in lokki.yml: provided: [layered].")
    assert check("import layered.part", provided="layered") == []


def test_imports_of_functions_are_notes_unless_a_package_has_them() -> None:
    flow = "import helpers\ndef f():\n    import nowhere\n    import late"
    modules = {"flow.py": flow, "helpers.py": "", "late.py": "import never_here", "plugins/a.py": "import neither"}
    notes = [
        "flow.py:3 imports nowhere, which no package has: that fails if it comes to it",
        "late.py:1 imports never_here, which no package has: that fails if it comes to it",
        "plugins/a.py:1 imports neither, which no package has: that fails if it comes to it",
    ]
    assert check(modules) == notes
    assert check(modules, "nowhere.py", "neither/__init__.py") == notes[1:2]


def test_all_that_is_missing_is_said_at_once() -> None:
    [error] = check({"flow.py": "import helpers, nowhere", "helpers.py": "import neither"})
    assert error.startswith("flow.py:1 imports nowhere, helpers.py:1 imports neither, which nothing that load()")
