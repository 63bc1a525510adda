"""lokki.builder.packages.sources: which files a flow needs, and from where Lambda imports it and its steps."""

import ast
import json
import re
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from lokki.builder.packages.import_check import LOADED_BEFORE
from lokki.builder.packages.sources import lokki_files

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
from lokki.builder.packages.sources import collect
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
        "notes": project.notes,
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
        "foreign": {"click": "cleaning.py:2", "yaml": "my_flow.py:5"},
        "notes": [],
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
    assert (found["files"], found["foreign"]) == (["my_flow.py"], {"one": "my_flow.py:4", "two": "my_flow.py:4"})


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
    assert found["foreign"] == {"fetched": "my_flow.py:4"}


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


@pytest.mark.parametrize("name", ["handler.py", "step.json", "requirements.txt", "requirements-2.txt"])
def test_a_file_of_a_name_that_lokki_needs_is_refused(project: Project, name: str) -> None:
    project.write({"my_flow.py": flow("import handler" if name == "handler.py" else ""), name: ""})
    config = {} if name == "handler.py" else {"include": [f"*{Path(name).suffix}"]}
    assert project.collect("my_flow.py", config=config)["error"] == (
        f"BuildError: {name} has a name that lokki needs in every package. Rename it or exclude it in lokki.yml."
    )


def test_a_module_that_cannot_be_read_is_refused(project: Project) -> None:
    project.write({"my_flow.py": flow("def f():\n    import broken"), "broken.py": "def"})
    error = str(project.collect("my_flow.py")["error"])
    assert error == (
        f"BuildError: {project.folder}/broken.py:1 is not valid Python: invalid syntax. Correct it, or exclude it in "
        "lokki.yml."
    )


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
    error = str(project.collect("my_flow.py", config={"include": ["*.env", "my_flow.py"]})["error"])
    assert error == (
        f"ConfigError: include: '*.env' matches no file in {project.folder} (hidden files, caches and tests only where "
        "it spells their path). Correct the pattern: it starts at the folder of the flow's file, such as data/*.csv or "
        "**/*.sql."
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
        if path not in ("lokki/__init__.py", "lokki/decorators.py")  # whose doors to other modules are for laptops
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom) and node.module
        for name in [node.module]
        if name.partition(".")[0] == "lokki"
    }
    assert {(path, name) for path, name in needed if name not in modules} == set()
    assert {"lokki", "lokki.runtime.handler", "lokki.store.s3", "lokki.s3"} <= modules
    assert {"lokki.engine.events", "lokki.store.local"}.isdisjoint(modules)
    folders = {name.split(".")[1] for name in modules if name.count(".") > 1}
    assert folders == {"base", "engine", "plans", "runtime", "store"}


# Beside modules


def included(project: Project, *patterns: str) -> tuple[list[str], list[str]]:
    """Return the files beyond the flow's that patterns come to, and the notes, or the one error."""
    found = project.collect("my_flow.py", config={"include": patterns})
    if "error" in found:
        return [], [str(found["error"]).partition(": ")[2]]
    files = [path for path in found["files"] if path != "my_flow.py"]  # type: ignore[attr-defined]
    return files, list(found["notes"])  # type: ignore[call-overload]


def test_included_modules_bring_what_they_import(project: Project) -> None:
    project.write(
        {
            "my_flow.py": flow(),
            "plugins/__init__.py": "import names",
            "plugins/upper.py": "from shared import mark\nfrom . import words",
            "plugins/words.py": "",
            "plugins/words.txt": "",
            "plugins/template.py": "def {{ name }}():",
            "shared.py": "",
            "names.py": "",
        }
    )
    assert included(project, "plugins/u*.py")[0] == [
        "names.py", "plugins/__init__.py", "plugins/upper.py", "plugins/words.py", "plugins/words.txt", "shared.py",
    ]  # fmt: skip
    assert "plugins/template.py" in included(project, "plugins/*.py")[0]


def test_data_of_imported_packages_is_packed_without_being_named(project: Project) -> None:
    project.write(
        {
            "my_flow.py": flow(
                "from importlib.resources import files", "import team.birds, plain.names", "files('texts')"
            ),
            "beside.csv": "",
            "team/__init__.py": "",
            "team/birds.py": "",
            "team/birds.json": "",
            "team/data/deep/names.csv": "",
            "team/data/.hidden": "",
            "team/tests/data.csv": "",
            "team/raw.csv": "",
            "team/other/__init__.py": "",
            "team/other/large.bin": "",
            "team/unused.py": "",
            "plain/names.py": "",
            "plain/names.txt": "",
            "texts/__init__.py": "",
            "texts/hello.txt": "",
            "unused/__init__.py": "",
            "unused/data.csv": "",
        }
    )
    found = project.collect("my_flow.py", config={"exclude": ["team/raw.csv"]})
    assert found["files"] == [
        "my_flow.py", "plain/names.py", "plain/names.txt", "team/__init__.py", "team/birds.json", "team/birds.py",
        "team/data/deep/names.csv", "texts/__init__.py", "texts/hello.txt",
    ]  # fmt: skip


@pytest.mark.parametrize("editable", [True, False])
def test_data_of_a_library_that_is_installed_from_a_folder_is_packed_and_can_be_named(
    project: Project, *, editable: bool
) -> None:
    site, place = "../venv/site-packages", "../libs/atlas/src" if editable else "../venv/site-packages"
    url = {"url": f"file://{project.folder.parent}/libs/atlas", "dir_info": {"editable": True} if editable else {}}
    project.write(
        {
            "my_flow.py": flow(f"import sys; sys.path += ['{site}', '{place}']", "import atlas"),
            f"{place}/atlas/__init__.py": "",
            f"{place}/atlas/countries.json": "[]",
            f"{place}/atlas/extra/__init__.py": "",
            f"{place}/atlas/extra/more.json": "[]",
            f"{place}/other/data.json": "[]",
            f"{site}/atlas-1.dist-info/direct_url.json": json.dumps(url),
            f"{site}/atlas-1.dist-info/RECORD": "atlas/__init__.py,,\natlas/extra/__init__.py,,\n",
        }
    )
    assert included(project)[0] == ["atlas/__init__.py", "atlas/countries.json"]
    assert "atlas/extra/more.json" in included(project, "atlas/extra/*.json")[0]
    assert "atlas/extra/more.json" in included(project, f"{place}/atlas/extra/*.json")[0]
    [error] = included(project, "../libs/elsewhere.json")[1]
    assert error.startswith("include: '../libs/elsewhere.json' leads out of the folders from which the flow imports (")
    if not editable:
        assert included(project, "other/*.json")[0] == []


def test_secrets_beside_modules_of_a_package_are_not_packed(project: Project) -> None:
    project.write({"my_flow.py": flow("import team"), "team/__init__.py": "", "team/prod.env": "", "team/a.txt": ""})
    files, notes = included(project)
    assert files == ["team/__init__.py", "team/a.txt"]
    assert notes == ["team/prod.env looks like a secret, so it is not packed; to pack it, name it in include"]
    assert "team/prod.env" in included(project, "team/prod.env")[0]


def test_files_that_code_names_and_no_package_has_are_notes(project: Project) -> None:
    project.write(
        {
            "my_flow.py": flow("import team.birds", "DATA = 'a.csv'"),
            "a.csv": "",
            "top/b.csv": "",
            "prod.env": "",
            "team/birds.py": "from pathlib import Path\nhere = Path(__file__).parent / 'data' / 'c.csv'\nx = 'c.csv'\n"
            "y = open('top/b.csv'), 'gone.csv', 'prod.env', Path(x) / x / 'z.csv', '*.csv', 'my_flow.py', 'a\\nb.csv'",
            "team/data/c.csv": "",
        }
    )
    assert project.collect("my_flow.py", config={"exclude": ["team/data"]})["notes"] == [
        "my_flow.py:4 names a.csv, which no package has; if the flow reads it, include a.csv",
        "team/birds.py:2 names data/c.csv, which no package has; if the flow reads it, include team/data/c.csv",
        "team/birds.py:4 names top/b.csv, which no package has; if the flow reads it, include top/b.csv",
    ]
    assert project.collect("my_flow.py", config={"include": ["a.csv", "top"]})["notes"] == []


# Imports by names that code computes


def collected(project: Project, files: Mapping[str, str], *lines: str, **config: object) -> list[str]:
    """Return the files beyond the flow's that a flow with some lines in a function comes to."""
    body = "\n    ".join(lines)
    project.write({"my_flow.py": flow("import importlib, pkgutil, runpy", f"def f(name):\n    {body}"), **files})
    found = project.collect("my_flow.py", config=config)
    assert found["notes"] == []
    return [path for path in found["files"] if path != "my_flow.py"]  # type: ignore[attr-defined]


BIRDS = {"birds/__init__.py": "", "birds/duck.py": "import pond", "birds/data/goose.txt": "", "pond.py": ""}
DEEP = {"birds/wild/__init__.py": "", "birds/wild/crane.py": "", "geese/grey.py": ""}
ALL_BIRDS = [
    "birds/__init__.py", "birds/data/goose.txt", "birds/duck.py", "birds/wild/__init__.py", "birds/wild/crane.py",
    "pond.py",
]  # fmt: skip


@pytest.mark.parametrize(
    "line",
    [
        "importlib.import_module(f'birds.{name}')",
        "importlib.import_module('birds.' + name)",
        "__import__('birds.%s' % name)",
        "pkgutil.resolve_name('birds.{}:honk'.format(name))",
        "runpy.run_module(f'birds.{name}')",
        "import birds; importlib.import_module(name)",
        "import birds; map(importlib.import_module, name)",
        "import birds; [one.name for one in pkgutil.walk_packages(birds.__path__, 'birds.')]",
        "from pathlib import Path; sorted((Path(__file__).parent / 'birds').glob('*.py'))",
        "from importlib.util import spec_from_file_location as load; spec_from_file_location(name, f'birds/{name}.py')",
        "table = {'duck': 'birds.wild'}; importlib.import_module(table[name]), 'birds'",
    ],
)
def test_a_package_is_whole_where_code_may_import_any_of_its_modules(project: Project, line: str) -> None:
    assert collected(project, {**BIRDS, **DEEP}, line) == ALL_BIRDS


@pytest.mark.parametrize(
    "text",
    [
        "import importlib\ndef __getattr__(name): return importlib.import_module(f'.{name}', __name__)",
        "from importlib import import_module as get\ndef load(name): return get('.' + NAMES[name], __package__)",
        "import pkgutil\nfor one in pkgutil.iter_modules(__path__): __import__(f'{__name__}.{one.name}')",
        "import os\nNAMES = [name[:-3] for name in os.listdir(os.path.dirname(__file__)) if name.endswith('.py')]",
        "import lazy_loader as lazy\n__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)",
    ],
)
def test_a_package_that_imports_its_own_modules_by_computed_names_is_whole(project: Project, text: str) -> None:
    assert collected(project, {**BIRDS, **DEEP, "birds/__init__.py": text}, "import birds") == ALL_BIRDS


def test_modules_that_texts_name_are_packed(project: Project) -> None:
    files = {
        **BIRDS,
        **DEEP,
        "handlers.py": "",
        "unused.py": "",
        "config/__init__.py": "",
        "config/loaded.toml": "runs = 'jobs.daily:run'",
        "jobs/daily.py": "",
        "jobs/weekly.py": "",
    }
    lines = (
        "config = {'class': 'birds.wild.crane.Loud', 'hook': 'handlers:run'}",
        "import config",
        "'unused', 'geese.csv'",
    )
    assert collected(project, files, *lines) == [
        "birds/__init__.py", "birds/data/goose.txt", "birds/wild/__init__.py", "birds/wild/crane.py",
        "config/__init__.py", "config/loaded.toml", "handlers.py", "jobs/daily.py",
    ]  # fmt: skip


def test_a_star_imports_the_modules_that_all_names(project: Project) -> None:
    files = {**BIRDS, **DEEP, "birds/__init__.py": "__all__ = ['duck']", "nest.py": "from birds import *"}
    assert "birds/duck.py" in collected(project, files, "import nest")
    assert "birds/duck.py" not in collected(project, files, "import birds")


def test_what_code_cannot_import_is_left_out_of_whole_packages(project: Project) -> None:
    files = {
        **BIRDS,
        "birds/tests/test_duck.py": "",
        "birds/template.py": "def {{ name }}():",
        "birds/old.py": "import gone",
    }
    line = "importlib.import_module(f'birds.{name}')"
    whole = ["birds/__init__.py", "birds/data/goose.txt", "birds/duck.py", "pond.py"]
    assert collected(project, files, line, exclude=["old.py"]) == whole


@pytest.mark.parametrize(
    "line",
    [
        "importlib.import_module('birds')",
        "import birds; importlib.import_module(f'geese.{name}')",
        "import birds; importlib.import_module(__name__)",
        "import birds; sorted(name.glob('*.csv')); name.attach('birds.duck'); importlib.util.find_spec(name)",
    ],
)
def test_a_package_is_not_whole_where_code_imports_by_other_names(project: Project, line: str) -> None:
    assert "birds/wild/crane.py" not in collected(project, {**BIRDS, **DEEP}, line)


def test_entry_points_of_the_project_are_packed_where_code_asks_for_some(project: Project, tmp_path: Path) -> None:
    site = "site-packages/birds-1.dist-info"
    url = {"url": f"file://{project.folder}", "dir_info": {"editable": True}}
    files = {
        f"{site}/direct_url.json": json.dumps(url),
        f"{site}/entry_points.txt": "[sounds]\nquack = birds.duck:quack\n",
    }
    line = "import sys; from importlib.metadata import entry_points; entry_points(group='sounds')"
    on_path = "import sys; sys.path.append('site-packages')"
    project.write({"my_flow.py": flow(on_path, f"def f():\n    {line}"), **BIRDS, **DEEP, **files})
    assert "birds/duck.py" in project.collect("my_flow.py")["files"]  # type: ignore[operator]
    project.write({"my_flow.py": flow(on_path)})
    assert project.collect("my_flow.py")["files"] == ["my_flow.py"]


# Names of Python's modules


def test_a_module_of_the_project_wins_over_pythons_of_the_same_name(project: Project) -> None:
    project.write(
        {
            "my_flow.py": flow("import profile, statistics, test.helpers, colorsys"),
            "profile.py": "import cmd",
            "statistics.py": "",
            "cmd.py": "",
            "test/__init__.py": "",
            "test/helpers.py": "",
        }
    )
    found = project.collect("my_flow.py")
    assert found["files"] == [
        "cmd.py",
        "my_flow.py",
        "profile.py",
        "statistics.py",
        "test/__init__.py",
        "test/helpers.py",
    ]
    assert found["foreign"] == {}


def test_a_name_that_lambda_loads_before_is_refused(project: Project) -> None:
    whole = (Path(sysconfig.get_path("stdlib")) / "numbers.py").read_text()  # which lokki needs, too
    project.write({"my_flow.py": flow("import numbers"), "numbers.py": whole})
    assert project.collect("my_flow.py")["error"] == (
        f"BuildError: {project.folder}/numbers.py has the name of a module of Python's, which Lambda loads before any "
        "code of the flow, so the flow would get Python's there. Rename it."
    )


def test_a_name_of_which_pythons_module_was_loaded_here_before_is_refused(project: Project) -> None:
    late = "import sys; sys.path.remove({0!r}); import statistics; sys.path.insert(0, {0!r})".format(
        str(project.folder)
    )
    project.write({"my_flow.py": late + flow("import statistics"), "statistics.py": ""})
    assert project.collect("my_flow.py")["error"] == (
        f"BuildError: {project.folder}/statistics.py has the name of a module of Python's, which was loaded here "
        "before it could be, so that it would be another one than on Lambda. Rename it."
    )


def test_what_lambdas_runtime_loads_is_known() -> None:
    """By what its runtime client loads here, as it does on Lambda before the code of a function."""
    code = "import awslambdaric.__main__, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()} & sys.stdlib_module_names
    public = {name for name in loaded - set(sys.builtin_module_names) if not name.startswith("_")}
    assert public - LOADED_BEFORE == set()


def test_a_chain_of_imports_of_any_length_is_followed(project: Project) -> None:
    chain = {f"m{number}.py": f"def f():\n    import m{number + 1}" for number in range(1500)}
    project.write({"my_flow.py": flow("import m0"), **chain})
    assert len(project.collect("my_flow.py")["files"]) == 1501  # type: ignore[arg-type]


def test_a_module_that_is_a_link_out_of_the_project_is_packed_and_said(project: Project) -> None:
    project.write({"my_flow.py": flow("import names"), "../shared/names.py": "x = 1"})
    (project.folder / "names.py").symlink_to("../shared/names.py")
    found = project.collect("my_flow.py")
    assert found["files"] == ["my_flow.py", "names.py"]
    shared = f"{project.folder.parent}/shared/names.py"
    assert found["notes"] == [f"names.py is a link out of the project, to {shared}; it is packed since it is imported"]
