"""lokki.builder.sources: which files a flow needs, and from where Lambda imports it and its steps."""

import ast
import json
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from lokki.builder.sources import lokki_files

FLOW = """
from lokki import flow, step
{imports}

@step
def first():
    return 1

@flow
def a_flow():
    return first()
"""

# Runs in a process of its own, as `python flow.py build` does: collects, and prints what was found or the error.
COLLECT = """
import json, sys
from pathlib import Path
from lokki.builder.sources import collect
from lokki.config import LokkiConfig
from lokki.errors import LokkiError

def report(graph):
    try:
        project = collect(graph, LokkiConfig.from_dict(json.loads(sys.argv[1])), frozenset({Path("build").resolve()}))
    except LokkiError as error:
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}))
        return
    print(json.dumps({
        "flow": f"{project.flow.module}:{project.flow.name}",
        "steps": {step: f"{found.module}:{found.name}" for step, found in project.steps.items()},
        "files": list(project.files),
        "foreign": project.foreign,
    }))
"""


@dataclass(frozen=True)
class Project:
    """A folder of a user, whose flows are collected in processes of their own."""

    folder: Path

    def write(self, files: Mapping[str, str]) -> "Project":
        for path, text in files.items():
            file = self.folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return self

    def collect(self, *program: str, config: Mapping[str, object] | None = None) -> dict[str, object]:
        """Run a script, or ``-m module``, that calls ``report``, which is not in the project."""
        helper = self.folder.parent / "helper"
        helper.mkdir(exist_ok=True)
        (helper / "collecting.py").write_text(COLLECT)
        done = subprocess.run(
            [sys.executable, *program, json.dumps(config or {})],
            cwd=self.folder,
            env={"PYTHONPATH": str(helper)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        result: dict[str, object] = json.loads(done.stdout)
        return result


RUN = "\nif __name__ == '__main__':\n    from collecting import report\n    report(a_flow())\n"


def flow(*imports: str) -> str:
    return FLOW.format(imports="\n".join(imports)) + RUN


@pytest.fixture
def project(tmp_path: Path) -> Project:
    folder = tmp_path / "project"
    folder.mkdir()
    return Project(folder)


def test_a_script_and_the_files_beside_it_that_it_imports(project: Project) -> None:
    project.write(
        {
            "my_flow.py": flow("import cleaning", "import json", "import yaml"),
            "cleaning.py": "from shared.names import NAME\nimport click",
            "shared/__init__.py": "",
            "shared/names.py": "from . import parts\nNAME = 1",
            "shared/parts.py": "",
            "shared/unused.py": "",
            "unused.py": "",
        }
    )
    assert project.collect("my_flow.py") == {
        "flow": "my_flow:a_flow",
        "steps": {"first": "my_flow:first"},
        "files": ["cleaning.py", "my_flow.py", "shared/__init__.py", "shared/names.py", "shared/parts.py"],
        "foreign": {"click": "cleaning.py", "yaml": "my_flow.py"},
    }


IMPORTS = [
    ("import a.b.c", {"a/__init__.py", "a/b/__init__.py", "a/b/c.py"}),
    ("from a.b import c", {"a/__init__.py", "a/b/__init__.py", "a/b/c.py"}),
    ("from a import b", {"a/__init__.py", "a/b/__init__.py"}),
    ("from a import x", {"a/__init__.py"}),
    ("from a import *", {"a/__init__.py"}),
    ("def f():\n    import space.deep.one", {"space/deep/one.py"}),
    ("try:\n    import space.two\nexcept ImportError:\n    pass", {"space/two.py"}),
    ("import importlib\nimportlib.import_module('a.b.c')", {"a/__init__.py", "a/b/__init__.py", "a/b/c.py"}),
    ("from a.b.up import c", {"a/__init__.py", "a/b/__init__.py", "a/b/up.py", "a/top.py", "a/b/c.py"}),
    ("import circle_one", {"circle_one.py", "circle_two.py"}),
]


@pytest.mark.parametrize(("line", "files"), IMPORTS, ids=[line.replace("\n", "; ") for line, _ in IMPORTS])
def test_each_kind_of_import_is_followed(project: Project, line: str, files: set[str]) -> None:
    project.write(
        {
            "my_flow.py": flow(line),
            "a/__init__.py": "x = 1",
            "a/top.py": "",
            "a/b/__init__.py": "",
            "a/b/c.py": "",
            "a/b/up.py": "from ..top import *\nfrom . import c",
            "a/b/never.py": "",
            "space/deep/one.py": "",
            "space/two.py": "",
            "circle_one.py": "import circle_two",
            "circle_two.py": "import circle_one",
        }
    )
    assert project.collect("my_flow.py")["files"] == sorted({"my_flow.py", *files})


def test_a_module_of_a_package_has_its_whole_name(project: Project) -> None:
    project.write(
        {
            "team/__init__.py": "",
            "team/flows/__init__.py": "from team import names",
            "team/flows/daily.py": flow("from ..steps import second"),
            "team/names.py": "",
            "team/steps.py": "second = 2",
        }
    )
    found = project.collect("-m", "team.flows.daily")
    assert found["flow"] == "team.flows.daily:a_flow"
    assert found["files"] == [
        "team/__init__.py", "team/flows/__init__.py", "team/flows/daily.py", "team/names.py", "team/steps.py",
    ]  # fmt: skip


def test_modules_of_other_entries_of_the_path_keep_the_names_by_which_they_are_imported(project: Project) -> None:
    project.write(
        {
            "pyproject.toml": "",
            "src/birds/__init__.py": "",
            "src/birds/names.py": "",
            "flows/my_flow.py": "import sys; sys.path.append('src')\n" + flow("from birds import names"),
        }
    )
    assert project.collect("flows/my_flow.py")["files"] == ["birds/__init__.py", "birds/names.py", "my_flow.py"]


def test_modules_outside_of_the_project_and_in_its_environments_are_not_its_files(project: Project) -> None:
    project.write({"my_flow.py": flow("import sys; sys.path += ['.venv/lib/site-packages', '..']", "import one, two")})
    project.write({".venv/lib/site-packages/one.py": "", "../two.py": ""})
    found = project.collect("my_flow.py")
    assert (found["files"], found["foreign"]) == (["my_flow.py"], {"one": "my_flow.py", "two": "my_flow.py"})


def test_what_is_installed_from_folders_of_this_machine_is_packaged_like_the_project(project: Project) -> None:
    """An index has neither, so nothing else could bring them to Lambda."""
    site = "venv/site-packages"
    linked = {"url": f"file://{project.folder.parent}/my%20library", "dir_info": {"editable": True}}
    copied = {"url": "file:///elsewhere/copied", "dir_info": {}}
    fetched = {"url": "https://somewhere/fetched.git", "vcs_info": {"vcs": "git", "commit_id": "a"}}
    project.write(
        {
            "my_flow.py": flow(
                f"import sys; sys.path += ['../{site}', '../my library/src']",
                "import linked.names, copied.names, copied_too, fetched",
            ),
            "../my library/src/linked/__init__.py": "",
            "../my library/src/linked/names.py": "",
            f"../{site}/copied/__init__.py": "",
            f"../{site}/copied/names.py": "import copied.deep",
            f"../{site}/copied/deep.py": "",
            f"../{site}/copied_too.py": "",
            f"../{site}/fetched.py": "",
            f"../{site}/linked-1.dist-info/direct_url.json": json.dumps(linked),
            f"../{site}/copied-1.dist-info/direct_url.json": json.dumps(copied),
            f"../{site}/copied-1.dist-info/RECORD": "copied/__init__.py,,\ncopied_too.py,,\nx.dist-info/RECORD,,\n",
            f"../{site}/fetched-1.dist-info/direct_url.json": json.dumps(fetched),
        }
    )
    found = project.collect("my_flow.py")
    assert found["files"] == [
        "copied/__init__.py", "copied/deep.py", "copied/names.py", "copied_too.py", "linked/__init__.py",
        "linked/names.py", "my_flow.py",
    ]  # fmt: skip
    assert found["foreign"] == {"fetched": "my_flow.py"}


def test_imports_that_may_fail_are_not_said_to_be_needed(project: Project) -> None:
    project.write(
        {"my_flow.py": flow("try:\n    import yaml\nexcept ImportError:\n    pass", "def f():\n    import rich")}
    )
    assert project.collect("my_flow.py")["foreign"] == {}


STEPS = """
from lokki import step

@step
def a():
    return 1

def make():
    @step
    def inner(x):
        return x
    return inner

inner = make()
"""

FLOW_OF_STEPS = """
from lokki import flow, step
from steps import a, inner
import library

mine = step(library.plain)

@flow
def a_flow():
    return a().next(inner).next(mine)

renamed = a_flow
"""


def test_steps_are_imported_from_where_they_are_defined_under_any_name(project: Project) -> None:
    project.write({"my_flow.py": FLOW_OF_STEPS + RUN, "steps.py": STEPS, "library.py": "def plain(x): return x"})
    found = project.collect("my_flow.py")
    assert (found["flow"], found["steps"]) == (
        "my_flow:a_flow",
        {"a": "steps:a", "inner": "steps:inner", "plain": "my_flow:mine"},
    )


def test_a_step_inside_a_function_is_refused(project: Project) -> None:
    text = (
        STEPS.replace("inner = make()", "")
        + "from lokki import flow\n@flow\ndef a_flow():\n    return a().next(make())"
    )
    project.write({"my_flow.py": text + RUN})
    assert project.collect("my_flow.py") == {
        "error": f"FlowError: {project.folder}/my_flow.py: the step inner() is not at the top level of a module, where "
        "Lambda could import it by name. Move it out of the function or class that it is in, and give it a name of its "
        "own."
    }


def test_a_flow_inside_a_function_is_refused(project: Project) -> None:
    text = (
        STEPS + "from lokki import flow\ndef make_flow():\n    @flow\n    def f():\n        return a()\n    return f\n"
    )
    project.write({"my_flow.py": text + RUN.replace("a_flow()", "make_flow()()")})
    assert "the flow f() is not at the top level of a module" in str(project.collect("my_flow.py")["error"])


@pytest.mark.parametrize("name", ["my-flow.py", "class.py", "1flow.py"])
def test_a_file_that_python_cannot_import_is_refused(project: Project, name: str) -> None:
    project.write({name: flow()})
    error = str(project.collect(name)["error"])
    assert re.fullmatch(r"FlowError: \S+ cannot be imported as '\S+'\. Rename it to letters, digits and '_'\.", error)


@pytest.mark.parametrize("name", ["handler.py", "requirements.txt", "requirements-2.txt"])
def test_a_file_of_a_name_that_lokki_needs_is_refused(project: Project, name: str) -> None:
    project.write({"my_flow.py": flow("import handler" if name == "handler.py" else ""), name: ""})
    config = {} if name == "handler.py" else {"include": ["*.txt"]}
    assert project.collect("my_flow.py", config=config)["error"] == (
        f"BuildError: {name} has a name that lokki needs in every package. Rename it or exclude it in lokki.yml."
    )


def test_a_module_that_cannot_be_read_is_refused(project: Project) -> None:
    project.write({"my_flow.py": flow("def f():\n    import broken"), "broken.py": "def"})
    error = str(project.collect("my_flow.py")["error"])
    assert error.startswith(f"BuildError: {project.folder}/broken.py cannot be read: ")


def test_a_module_compiled_for_this_machine_is_refused(project: Project) -> None:
    project.write({"my_flow.py": flow("def f():\n    import fast"), "fast.abi3.so": ""})
    assert project.collect("my_flow.py")["error"] == (
        f"BuildError: {project.folder}/fast.abi3.so is compiled for this machine. "
        "Build a wheel of it and require that instead."
    )


DATA = {
    "data/a.csv": "", "data/deep/b.csv": "", "data/c.txt": "", "notes.md": "", ".env": "", ".git/config": "",
    "data/.hidden": "", "tests/d.csv": "", "build/e.csv": "", "venv/pyvenv.cfg": "", "venv/f.csv": "",
    "__pycache__/g.csv": "", "data/secret/h.csv": "",
}  # fmt: skip

PATTERNS = [
    (["data/*.csv"], [], ["data/a.csv"]),
    (["data/**/*.csv"], [], ["data/a.csv", "data/deep/b.csv", "data/secret/h.csv"]),
    (["*.csv"], ["data/secret"], ["data/a.csv", "data/deep/b.csv"]),
    (["data"], ["*.csv"], ["data/c.txt"]),
    (["data/", "notes.md"], ["secret/"], ["data/a.csv", "data/c.txt", "data/deep/b.csv", "notes.md"]),
    (["**"], ["data", "my_flow.py"], ["notes.md"]),
]


@pytest.mark.parametrize(("include", "exclude", "files"), PATTERNS)
def test_patterns_choose_files_but_never_hidden_ones_caches_tests_and_environments(
    project: Project, include: list[str], exclude: list[str], files: list[str]
) -> None:
    project.write({"my_flow.py": flow(), **DATA})
    found = project.collect("my_flow.py", config={"include": include, "exclude": exclude})
    assert [path for path in found["files"] if path != "my_flow.py"] == files  # type: ignore[attr-defined]


def test_a_pattern_that_matches_nothing_is_a_mistake(project: Project) -> None:
    project.write({"my_flow.py": flow(), ".env": ""})
    error = str(project.collect("my_flow.py", config={"include": [".env", "my_flow.py"]})["error"])
    assert error == (
        f"ConfigError: include: '.env' matches no file in {project.folder} (hidden files, caches and tests are never "
        "taken). Correct the pattern: it starts at the folder of the flow's file, such as data/*.csv or **/*.sql."
    )


def test_an_excluded_module_is_left_out_although_it_is_imported(project: Project) -> None:
    project.write({"my_flow.py": flow("import plots"), "plots.py": "import other", "other.py": ""})
    assert project.collect("my_flow.py", config={"exclude": ["plots.py"]})["files"] == ["my_flow.py"]


def test_lokkis_own_modules_in_a_package_need_none_that_is_left_out() -> None:
    files = lokki_files()
    modules = {path.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for path in files}
    needed = {
        (path, name)
        for path, source in files.items()
        if path != "lokki/__init__.py"  # whose doors to other modules are for laptops
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom) and node.module
        for name in [node.module]
        if name.partition(".")[0] == "lokki"
    }
    assert {(path, name) for path, name in needed if name not in modules} == set()
    assert {"lokki", "lokki.runtime.handler", "lokki.runner", "lokki.s3"} <= modules
    assert not {"lokki.cli", "lokki.builder.builder", "lokki.operate", "lokki.estimate", "lokki.causes"} & modules
