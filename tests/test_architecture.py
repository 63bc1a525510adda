"""The layers of DESIGN 1 and the house rules, enforced from the source. Each rule is proved on a bad example."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatchcase
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

LAYERS = {
    # L0: values and pure functions
    "lokki.errors": 0,
    "lokki.base.failures": 0,
    "lokki.base.naming": 0,
    "lokki.base.quotas": 0,
    "lokki.base.values": 0,
    "lokki.base.options": 0,
    "lokki.base.signatures": 0,
    "lokki.base.convert": 0,
    "lokki.base.checking": 0,
    "lokki.chain": 0,
    "lokki.graph": 0,
    "lokki.store.keys": 0,
    "lokki.estimate.prices": 0,
    "lokki.results.html": 0,
    # L1: what is made of them
    "lokki.plan": 1,
    "lokki.decorators": 1,
    "lokki.config": 1,
    "lokki.engine.events": 1,
    "lokki.engine.causes": 1,
    "lokki.store.codec": 1,
    "lokki.store.manifest": 1,
    # L2: pure parts of the builder, the runner and the reports
    "lokki.engine.report": 2,
    "lokki.engine.invocation": 2,
    "lokki.engine.drawing": 2,
    "lokki.estimate.cost": 2,
    "lokki.estimate.limits": 2,
    "lokki.builder.package_types": 2,
    "lokki.builder.names": 2,
    "lokki.builder.environment": 2,
    "lokki.builder.permissions": 2,
    "lokki.builder.halving": 2,
    "lokki.builder.retries": 2,
    "lokki.builder.timing": 2,
    "lokki.builder.lambda_pkg": 2,
    "lokki.builder.packages.reaching": 2,
    "lokki.builder.packages.imports": 2,
    "lokki.builder.packages.sensitive": 2,
    "lokki.builder.packages.trimming": 2,
    "lokki.deploy.changes": 2,
    "lokki.builder.state_machine": 2,
    "lokki.builder.cloudformation": 2,
    "lokki.builder.template_text": 2,
    "lokki.builder.settings": 2,
    # L3: the edges
    "lokki.store.base": 3,
    "lokki.store.container": 3,
    "lokki.store.items": 3,
    "lokki.store.local": 3,
    "lokki.store.profile": 3,
    "lokki.store.s3": 3,
    "lokki.s3": 3,
    "lokki.runner": 3,
    "lokki.loading": 3,
    "lokki.local_run": 3,
    "lokki.local_run.*": 3,
    "lokki.runtime": 3,
    "lokki.runtime.*": 3,
    "lokki.estimate.measured": 3,
    "lokki.results.flow_results": 3,
    "lokki.results_*": 3,
    "lokki.results.replay": 3,
    "lokki.builder": 3,
    "lokki.builder.packages.archive": 3,
    "lokki.builder.packages.folder": 3,
    "lokki.builder.requirements.build_backend": 3,
    "lokki.builder.builder": 3,
    "lokki.builder.requirements.cache": 3,
    "lokki.builder.checks": 3,
    "lokki.builder.requirements.resolve": 3,
    "lokki.builder.requirements.distributions": 3,
    "lokki.builder.packages.import_check": 3,
    "lokki.builder.packages.included": 3,
    "lokki.builder.packages.mentioned": 3,
    "lokki.builder.requirements.origins": 3,
    "lokki.builder.requirements.own_metadata": 3,
    "lokki.builder.requirements.needs": 3,
    "lokki.builder.requirements.plain_results": 3,
    "lokki.builder.requirements.statements": 3,
    "lokki.builder.requirements.steps": 3,
    "lokki.builder.requirements.find": 3,
    "lokki.builder.requirements.requirements_file": 3,
    "lokki.builder.packages.sources": 3,
    "lokki.builder.packages.tree": 3,
    "lokki.builder.requirements.uv": 3,
    "lokki.builder.requirements.vendoring": 3,
    "lokki.builder.packages.walk": 3,
    "lokki.emulator": 3,
    "lokki.emulator.*": 3,
    "lokki.deploy": 3,
    "lokki.deploy.*": 3,
    "lokki.operate": 3,
    "lokki.operate.*": 3,
    # L4: what the user meets
    "lokki": 4,
    "lokki.__main__": 4,
    "lokki.cli.main": 4,
    "lokki.cli_*": 4,
    "lokki.progress.displays": 4,
    "lokki.progress.notebook": 4,
    "lokki.progress.run_log": 4,
    "lokki.progress.bars": 4,
    "lokki.progress.row": 4,
    "lokki.progress.launching": 4,
}
"""The layer of each module; the first entry that matches counts. A new module needs a line here."""

LAST_PURE_LAYER = 2

DOORS = {
    (
        "lokki.decorators",
        "lokki.progress.launching",
    ): "`Flow.run` stands on the flow, and loads what runs it when called"
}
"""Imports inside functions that may lead to a later layer, and why."""

IMPURE = {
    "asyncio", "fcntl", "fileinput", "glob", "http", "importlib.resources", "io", "logging", "mmap", "multiprocessing",
    "os", "pathlib.Path", "platform", "random", "secrets", "select", "shutil", "signal", "socket", "sqlite3", "ssl",
    "subprocess", "tempfile", "threading", "time", "urllib.request",
}  # fmt: skip
"""Modules, and names in modules, that reach a file, a clock, the environment, the network or chance."""

IMPURE_CALLS = {
    "open", "input", "print", "breakpoint", "datetime.now", "datetime.today", "datetime.utcnow", "date.today",
    "uuid.uuid1", "uuid.uuid4", "uuid1", "uuid4",
}  # fmt: skip

IMPURE_BY_DESIGN = {"lokki.config"}
"""``load_config`` reads its two files and the environment."""

ONLY_IN = {
    "boto3": ("lokki.deploy.*", "lokki.operate*"),
    "botocore": ("lokki.deploy.*", "lokki.operate*"),
    "click": ("lokki.cli.main*",),
    "rich": ("lokki.cli.main*", "lokki.progress.displays*"),
    "obstore": ("lokki.store.s3",),
    "moto": ("lokki.emulator", "lokki.emulator.*"),
    "awslambdaric": ("lokki.emulator", "lokki.emulator.*"),
}

BROAD = {
    ("lokki.engine.invocation", "run"): "a step may raise anything",
    ("lokki.local_run.libraries", "import_libraries"): "a library may raise anything while it is imported",
    ("lokki.local_run.worker_server", "work"): "the user's file may raise anything; nothing may go on in the server",
    ("lokki.store.codec", "_pickled"): "a value's own code for pickling may raise anything",
    ("lokki.store.codec", "loads"): "a value's own code for unpickling may raise anything",
    ("lokki.base.signatures", "hints"): "an annotation is an expression of the user's",
    ("lokki.cli.output", "shown"): "a result's own code may raise anything while it is shown",
    ("lokki.cli.output", "_content"): "a result's own code may raise anything while it is encoded",
    ("lokki.local_run.output", "emit"): "what is logged may raise anything while it becomes text",
    ("lokki.base.convert", "to_json"): "a class of the user's may raise anything while it is made",
    ("lokki.base.convert", "from_json"): "a class of the user's may raise anything while it is made",
    ("lokki.base.convert", "_equal"): "a value's own comparison may raise anything",
    ("lokki.base.convert", "_shown"): "a value's __repr__ may raise anything",
    ("lokki.results.items", "short"): "a value's __repr__ may raise anything",
    ("lokki.runtime.handler", "handle"): "a step may raise anything; it is raised again under the name that is retried",
    ("lokki.base.failures", "text_of"): "a user's __str__ may raise anything",
    ("lokki.base.failures", "failure_of"): "attributes of a user's exception may raise anything",
    ("lokki.local_run.own_thread", "run"): "handed to the thread that waits, which raises it",
    ("lokki.local_run.threads", "*"): "handed to the thread that waits, which raises it",
    ("lokki.engine.limits", "*"): "handed to the thread that waits, which raises it",
}
"""Functions that may catch everything, and why."""

TOO_HEAVY = {"boto3", "botocore", "yaml", "click", "rich", "numpy", "pandas", "obstore"}
"""What must not be loaded by what starts in Lambda."""


def sources(folder: Path) -> dict[str, str]:
    """Read every module below a package's folder, by its dotted name."""
    found = {}
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder.parent).with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__")] = path.read_text(encoding="utf-8")
    return found


def layer(module: str) -> int | None:
    return next((number for pattern, number in LAYERS.items() if fnmatchcase(module, pattern)), None)


def imports(source: str) -> Iterator[tuple[str, int]]:
    """Yield each name that a module imports, with its line: ``a.b`` for ``import a.b`` and for ``from a import b``."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            prefix = "." * node.level + (node.module or "")
            yield from ((f"{prefix}.{alias.name}", node.lineno) for alias in node.names)


def own_imports(module: str, modules: Mapping[str, str]) -> set[str]:
    """Return the modules of the package that a module imports; ``from lokki import codec`` is ``lokki.store.codec``."""
    found = set()
    for name, _ in imports(modules[module]):
        if name.split(".")[0] == "lokki":
            found.add(name if name in modules else name.rpartition(".")[0] or name)
    return {other for other in found if other != module and (module, other) not in DOORS}


def unlisted(modules: Mapping[str, str]) -> list[str]:
    return [f"{module} is in no layer" for module in modules if layer(module) is None]


def rightward_imports(modules: Mapping[str, str]) -> list[str]:
    return [
        f"{module} (L{layer(module)}) imports {other} (L{layer(other)})"
        for module in modules
        for other in sorted(own_imports(module, modules))
        if (layer(module) or 0) < (layer(other) or 0)
    ]


def cycles(modules: Mapping[str, str]) -> list[str]:
    try:
        TopologicalSorter({module: own_imports(module, modules) for module in modules}).prepare()
    except CycleError as error:
        return [" imports ".join(error.args[1])]
    return []


def relative_imports(modules: Mapping[str, str]) -> list[str]:
    return [
        f"{module}:{line}" for module, text in modules.items() for name, line in imports(text) if name.startswith(".")
    ]


def impurities(modules: Mapping[str, str]) -> list[str]:
    problems = []
    for module, text in modules.items():
        number = layer(module)
        if number is None or number > LAST_PURE_LAYER or module in IMPURE_BY_DESIGN:
            continue
        for name, line in imports(text):
            if any(name == impure or name.startswith(f"{impure}.") for impure in IMPURE):
                problems.append(f"{module}:{line} imports {name}")
        problems += [
            f"{module}:{node.lineno} calls {called(node)}()"
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.Call) and ".".join(called(node).split(".")[-2:]) in IMPURE_CALLS
        ]
    return problems


def misplaced_libraries(modules: Mapping[str, str]) -> list[str]:
    return [
        f"{module}:{line} imports {name}"
        for module, text in modules.items()
        for name, line in imports(text)
        if (places := ONLY_IN.get(name.split(".")[0])) and not any(fnmatchcase(module, place) for place in places)
    ]


def unexplained_late_imports(modules: Mapping[str, str]) -> list[str]:
    """Find imports inside functions without a comment on their line, or on the line before them and other imports."""
    problems = []
    for module, text in modules.items():
        lines = text.splitlines()
        for function in functions(ast.parse(text)):
            for node in ast.walk(function):
                if isinstance(node, ast.Import | ast.ImportFrom):
                    before = node.lineno - 2
                    while lines[before].strip().startswith(("import ", "from ")):
                        before -= 1
                    if "#" not in lines[node.lineno - 1] and not lines[before].strip().startswith("#"):
                        problems.append(f"{module}:{node.lineno}")
    return sorted(set(problems))


def broad_handlers(modules: Mapping[str, str]) -> list[str]:
    """Find handlers of every exception that do not raise it again, outside BROAD."""
    problems = []
    for module, text in modules.items():
        allowed = {name for place, name in BROAD if place == module}
        tree = ast.parse(text)
        excused = {
            node
            for function in functions(tree)
            if function.name in allowed or "*" in allowed
            for node in ast.walk(function)
        }
        problems += [
            f"{module}:{node.lineno}"
            for node in ast.walk(tree)
            if isinstance(node, ast.ExceptHandler) and is_broad(node) and node not in excused
        ]
    return problems


def is_broad(handler: ast.ExceptHandler) -> bool:
    last = handler.body[-1]
    if isinstance(last, ast.Raise) and last.exc is None:
        return False
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(kind is None or dotted(kind) in ("Exception", "BaseException") for kind in kinds)


def patches(modules: Mapping[str, str]) -> list[str]:
    """Find what replaces parts of the code under test."""
    problems = []
    for module, text in modules.items():
        problems += [f"{module}:{line} {name}" for name, line in imports(text) if "mock" in name.split(".")]
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call):
                name = called(node)
                if name.split(".")[0] in ("patch", "mocker") or name.endswith(
                    ("monkeypatch.setattr", "monkeypatch.setitem", "monkeypatch.delattr", "mock.patch", ".patch.object")
                ):
                    problems.append(f"{module}:{node.lineno} {name}")
    return problems


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def called(node: ast.Call) -> str:
    return dotted(node.func)


def dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}".lstrip(".")
    return ""


def loaded_by(statement: str) -> set[str]:
    """Return the libraries that a fresh Python has loaded after a statement."""
    code = f"import sys; {statement}; print(*sorted(name for name in sys.modules if '.' not in name))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(run.stdout.split())


RULES_OF_THE_PACKAGE = [
    unlisted,
    rightward_imports,
    cycles,
    relative_imports,
    impurities,
    misplaced_libraries,
    unexplained_late_imports,
    broad_handlers,
]

type Rule = Callable[[Mapping[str, str]], list[str]]


@pytest.mark.parametrize("rule", RULES_OF_THE_PACKAGE, ids=lambda rule: rule.__name__)
def test_the_package_keeps_the_rule(rule: Rule) -> None:
    assert rule(sources(ROOT / "lokki")) == []


def test_no_test_patches_what_it_tests() -> None:
    assert patches(sources(ROOT / "tests")) == []


@pytest.mark.parametrize(
    ("rule", "modules", "problems"),
    [
        (unlisted, {"lokki.novelty": ""}, ["lokki.novelty is in no layer"]),
        (
            rightward_imports,
            {"lokki.graph": "from lokki.plan import lower", "lokki.plan": ""},
            ["lokki.graph (L0) imports lokki.plan (L1)"],
        ),
        (
            rightward_imports,
            {"lokki.base.values": "from lokki import codec", "lokki.store.codec": ""},
            ["lokki.base.values (L0) imports lokki.store.codec (L1)"],
        ),
        (
            rightward_imports,
            {"lokki.engine.events": "def f():\n    import lokki.runner", "lokki.runner": ""},
            ["lokki.engine.events (L1) imports lokki.runner (L3)"],
        ),
        (
            cycles,
            {"lokki.chain": "import lokki.graph", "lokki.graph": "import lokki.chain"},
            ["lokki.chain imports lokki.graph imports lokki.chain"],
        ),
        (relative_imports, {"lokki.plan": "from .graph import FlowGraph"}, ["lokki.plan:1"]),
        (impurities, {"lokki.plan": "import os"}, ["lokki.plan:1 imports os"]),
        (impurities, {"lokki.plan": "from os import environ"}, ["lokki.plan:1 imports os.environ"]),
        (impurities, {"lokki.graph": "from pathlib import Path"}, ["lokki.graph:1 imports pathlib.Path"]),
        (impurities, {"lokki.graph": "from pathlib import PurePath"}, []),
        (impurities, {"lokki.engine.report": "text = open('x').read()"}, ["lokki.engine.report:1 calls open()"]),
        (
            impurities,
            {"lokki.engine.events": "import datetime\nnow = datetime.datetime.now()"},
            ["lokki.engine.events:2 calls datetime.datetime.now()"],
        ),
        (
            impurities,
            {"lokki.engine.events": "from datetime import datetime\nnow = datetime.now()"},
            ["lokki.engine.events:2 calls datetime.now()"],
        ),
        (impurities, {"lokki.store.codec": "import uuid\nname = uuid.uuid4()"}, ["lokki.store.codec:2 calls uuid.uuid4()"]),
        (impurities, {"lokki.config": "import os", "lokki.runner": "import time"}, []),
        (misplaced_libraries, {"lokki.runner": "import boto3"}, ["lokki.runner:1 imports boto3"]),
        (misplaced_libraries, {"lokki.cli.commands.run": "import click", "lokki.deploy.aws": "import boto3.session"}, []),
        (misplaced_libraries, {"lokki.engine.report": "import rich.table"}, ["lokki.engine.report:1 imports rich.table"]),
        (unexplained_late_imports, {"lokki.config": "def f():\n    import yaml"}, ["lokki.config:2"]),
        (unexplained_late_imports, {"lokki.config": "def f():\n    import yaml  # slow to start"}, []),
        (unexplained_late_imports, {"lokki.config": "def f():\n    # slow to start\n    import yaml"}, []),
        (broad_handlers, {"lokki.plan": "try:\n    f()\nexcept Exception:\n    pass"}, ["lokki.plan:3"]),
        (broad_handlers, {"lokki.plan": "try:\n    f()\nexcept:\n    pass"}, ["lokki.plan:3"]),
        (broad_handlers, {"lokki.plan": "try:\n    f()\nexcept (OSError, BaseException):\n    g()"}, ["lokki.plan:3"]),
        (broad_handlers, {"lokki.plan": "try:\n    f()\nexcept BaseException:\n    g()\n    raise"}, []),
        (broad_handlers, {"lokki.plan": "try:\n    f()\nexcept OSError:\n    pass"}, []),
        (
            broad_handlers,
            {"lokki.engine.invocation": "def other():\n    try:\n        f()\n    except Exception:\n        pass"},
            ["lokki.engine.invocation:4"],
        ),
        (patches, {"test_x": "from unittest import mock"}, ["test_x:1 unittest.mock"]),
        (patches, {"test_x": "import unittest.mock as m"}, ["test_x:1 unittest.mock"]),
        (patches, {"test_x": "def t(monkeypatch): monkeypatch.setattr(a, 'b', 1)"}, ["test_x:1 monkeypatch.setattr"]),
        (patches, {"test_x": "with patch('a.b'): pass"}, ["test_x:1 patch"]),
        (patches, {"test_x": "def test_a(monkeypatch): monkeypatch.setenv('A', 'b')"}, []),
    ],
)  # fmt: skip
def test_the_rule_finds_its_bad_example(rule: Rule, modules: dict[str, str], problems: list[str]) -> None:
    assert rule(modules) == problems


def test_every_reason_for_a_broad_handler_is_needed() -> None:
    modules = sources(ROOT / "lokki")
    for module, name in BROAD:
        trees = [tree for tree in functions(ast.parse(modules.get(module, ""))) if name in ("*", tree.name)]
        handlers = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler)]
        assert module not in modules or any(map(is_broad, handlers)), (
            f"{module}.{name} catches nothing broadly any more"
        )


def test_what_starts_in_lambda_starts_light() -> None:
    assert loaded_by("import lokki, lokki.store.codec, lokki.store.base") & TOO_HEAVY == set()


def test_a_heavy_library_would_be_seen() -> None:
    assert loaded_by("import yaml") & TOO_HEAVY == {"yaml"}
