"""The layers of DESIGN 1 and the house rules, enforced from the source. Each rule is proved on a bad example."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatchcase
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

LAYERS = {
    "lokki.errors": 0,
    "lokki.base*": 0,  # values, names and checks that know nothing of flows
    "lokki.chain": 1,
    "lokki.graph": 1,
    "lokki.plans*": 1,  # what the user drew, and its operations
    "lokki.plan": 2,
    "lokki.plan_json": 2,
    "lokki.decorators": 2,
    "lokki.config": 2,  # what is to be run
    "lokki.engine*": 3,  # what every engine shares
    "lokki.pictures*": 4,
    "lokki.observing*": 4,  # what is told of runs
    "lokki.store*": 4,
    "lokki.s3": 4,  # where results are kept
    "lokki.loading": 5,  # the user's file
    "lokki.runtime*": 5,  # in Lambda
    "lokki.local_run*": 6,
    "lokki.runner": 6,  # here
    "lokki.builder*": 6,  # for AWS
    "lokki.estimate.cost": 6,
    "lokki.estimate.prices": 6,  # what a run costs, which functions of a flow with max_cost= are told
    "lokki.emulator*": 7,
    "lokki.deploy*": 7,
    "lokki.results*": 8,
    "lokki.estimate*": 8,
    "lokki.operate*": 9,
    "lokki.reports*": 9,
    "lokki.progress*": 9,
    "lokki.ui*": 10,  # pages for a browser
    "lokki": 10,
    "lokki.__main__": 10,
    "lokki.cli*": 10,  # what the user meets
}
"""The layer of each folder, and of each module at the top; the first entry that matches counts."""

PURE = (
    "lokki.base*", "lokki.chain", "lokki.graph", "lokki.plan", "lokki.plans*",
    "lokki.plan_json", "lokki.decorators",
    "lokki.engine.causes", "lokki.engine.events", "lokki.engine.invocation",
    "lokki.observing.report",
    "lokki.store.keys", "lokki.store.codec", "lokki.store.manifest",
    "lokki.builder.cloudformation", "lokki.builder.environment", "lokki.builder.halving", "lokki.builder.lambda_pkg",
    "lokki.builder.names", "lokki.builder.package_types", "lokki.builder.permissions", "lokki.builder.retries",
    "lokki.builder.settings", "lokki.builder.state_machine", "lokki.builder.template_text", "lokki.builder.timing",
    "lokki.builder.packages.code", "lokki.builder.packages.imports",
    "lokki.builder.packages.lazy_imports", "lokki.builder.packages.reaching",
    "lokki.builder.packages.sensitive", "lokki.builder.packages.trimming",
    "lokki.pictures*", "lokki.deploy.changes", "lokki.estimate.cost", "lokki.estimate.limits", "lokki.estimate.prices",
    "lokki.estimate.spent",
    "lokki.results.html",
    "lokki.reports.comparing", "lokki.reports.facts", "lokki.reports.gathering", "lokki.reports.page",
    "lokki.ui.listing", "lokki.ui.pages",
)  # fmt: skip
"""What decides and describes, from values alone. `lokki.config` is not among them: it reads files."""

DOORS = {
    (
        "lokki.decorators",
        "lokki.progress.launching",
    ): "`Flow.run` stands on the flow, and loads what runs it when called",
    ("lokki.decorators", "lokki.pictures.svg"): "`Flow._repr_svg_` stands on the flow, and loads what draws it",
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

ONLY_IN = {
    "boto3": ("lokki.deploy.*", "lokki.operate*", "lokki.local_run.local_secrets", "lokki.emulator.account"),
    "botocore": ("lokki.deploy.*", "lokki.operate*", "lokki.local_run.local_secrets", "lokki.emulator.account"),
    "click": ("lokki.cli.*",),
    "rich": ("lokki.cli.*", "lokki.progress.*"),
    "obstore": ("lokki.store.s3",),
    "moto": ("lokki.emulator.*",),
    "awslambdaric": ("lokki.emulator.*",),
    "pandas": ("lokki.results.*",),
    "jinja2": ("lokki.reports.page", "lokki.ui.pages"),
    "starlette": ("lokki.ui.*",),
    "uvicorn": ("lokki.ui.*",),
}

CLOSED = {
    "lokki.emulator.states": {"lokki.errors", "lokki.base.values", "lokki.base.quotas"},
}
"""Folders that import nothing of lokki but themselves and these modules."""

BROAD = {
    ("lokki.engine.invocation", "run"): "a step may raise anything",
    ("lokki.local_run.libraries", "import_libraries"): "a library may raise anything while it is imported",
    ("lokki.local_run.worker_server", "work"): "the user's file may raise anything; nothing may go on in the server",
    ("lokki.store.codec", "pickle_pieces"): "a value's own code for pickling may raise anything",
    ("lokki.store.codec", "loads"): "a value's own code for unpickling may raise anything",
    ("lokki.base.signatures", "hints"): "an annotation is an expression of the user's",
    ("lokki.cli.output", "result_text"): "a result's own code may raise anything while it is shown",
    ("lokki.cli.output", "_content"): "a result's own code may raise anything while it is encoded",
    ("lokki.local_run.output", "emit"): "what is logged may raise anything while it becomes text",
    ("lokki.base.convert", "to_json"): "a class of the user's may raise anything while it is made",
    ("lokki.base.convert", "from_json"): "a class of the user's may raise anything while it is made",
    ("lokki.base.convert", "_equal"): "a value's own comparison may raise anything",
    ("lokki.base.convert", "_shown"): "a value's __repr__ may raise anything",
    ("lokki.cli.completion", "flow_words"): "the user's file may raise anything while a word is completed",
    ("lokki.results.items", "short"): "a value's __repr__ may raise anything",
    ("lokki.runtime.handler", "handle"): "a step may raise anything; it is raised again under the name that is retried",
    ("lokki.base.failures", "error_text"): "a user's __str__ may raise anything",
    ("lokki.base.failures", "failure_of"): "attributes of a user's exception may raise anything",
    ("lokki.local_run.own_thread", "run"): "handed to the thread that waits, which raises it",
    ("lokki.local_run.side_by_side", "run"): "handed to the thread that waits, which raises it",
    ("lokki.local_run.threads", "*"): "handed to the thread that waits, which raises it",
    ("lokki.engine.async_exceptions", "*"): "handed to the thread that waits, which raises it",
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


@cache
def parsed(text: str) -> ast.Module:
    """Parse a module once, for all rules."""
    return ast.parse(text)


def layer(module: str) -> int | None:
    return next((number for pattern, number in LAYERS.items() if fnmatchcase(module, pattern)), None)


def imports(source: str) -> Iterator[tuple[str, int]]:
    """Yield each name that a module imports, with its line: ``a.b`` for ``import a.b`` and for ``from a import b``."""
    for node in ast.walk(parsed(source)):
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


def imports_from_outside(modules: Mapping[str, str]) -> list[str]:
    """Find what closed folders import of lokki that they may not."""
    return [
        f"{module} imports {other}"
        for folder, allowed in CLOSED.items()
        for module in modules
        if module == folder or module.startswith(f"{folder}.")
        for other in sorted(own_imports(module, modules))
        if other not in allowed and not other.startswith(f"{folder}.")
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
        if not any(fnmatchcase(module, pattern) for pattern in PURE):
            continue
        for name, line in imports(text):
            if any(name == impure or name.startswith(f"{impure}.") for impure in IMPURE):
                problems.append(f"{module}:{line} imports {name}")
        problems += [
            f"{module}:{node.lineno} calls {called(node)}()"
            for node in ast.walk(parsed(text))
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
        for function in functions(parsed(text)):
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
        tree = parsed(text)
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
        for node in ast.walk(parsed(text)):
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
    imports_from_outside,
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
            ["lokki.graph (L1) imports lokki.plan (L2)"],
        ),
        (
            rightward_imports,
            {"lokki.base.values": "from lokki.store import codec", "lokki.store.codec": ""},
            ["lokki.base.values (L0) imports lokki.store.codec (L4)"],
        ),
        (
            rightward_imports,
            {"lokki.engine.events": "def f():\n    import lokki.runner", "lokki.runner": ""},
            ["lokki.engine.events (L3) imports lokki.runner (L6)"],
        ),
        (
            imports_from_outside,
            {"lokki.emulator.states.task": "from lokki.emulator.run import Emulation", "lokki.emulator.run": ""},
            ["lokki.emulator.states.task imports lokki.emulator.run"],
        ),
        (
            imports_from_outside,
            {"lokki.emulator.states.task": "from lokki.base import values", "lokki.base.values": ""},
            [],
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
        (impurities, {"lokki.observing.report": "text = open('x').read()"}, ["lokki.observing.report:1 calls open()"]),
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
        (
            impurities,
            {"lokki.store.codec": "import uuid\nname = uuid.uuid4()"},
            ["lokki.store.codec:2 calls uuid.uuid4()"],
        ),
        (impurities, {"lokki.config": "import os", "lokki.runner": "import time"}, []),
        (misplaced_libraries, {"lokki.runner": "import boto3"}, ["lokki.runner:1 imports boto3"]),
        (
            misplaced_libraries,
            {"lokki.cli.commands.run": "import click", "lokki.deploy.aws": "import boto3.session"},
            [],
        ),
        (
            misplaced_libraries,
            {"lokki.observing.report": "import rich.table"},
            ["lokki.observing.report:1 imports rich.table"],
        ),
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
