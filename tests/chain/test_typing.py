"""mypy, pyright and lokki agree on chains: what they accept resolves, what they reject fails when it is resolved."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
import typing
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

from lokki import Flow, FlowError
from lokki.base import signatures
from lokki.plan import lower

ROOT = Path(__file__).parents[2]
FILES = ROOT / "tests" / "typing"
PAGES = [ROOT / "README.md", ROOT / "docs" / "testing.md"]


def load(name: str) -> ModuleType:
    sys.path.insert(0, str(FILES))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(FILES))


ACCEPTED, ANNOTATIONS, REJECTED = load("accepted"), load("annotations"), load("rejected")
KINDS: list[str] = ANNOTATIONS.KINDS


def flows(module: ModuleType) -> list[Flow[...]]:
    found = [value for value in vars(module).values() if isinstance(value, Flow)]
    return [flow for flow in found if flow.__module__ == module.__name__]


@dataclass(frozen=True)
class Found:
    """What mypy reports: codes per file and line."""

    codes: dict[str, list[tuple[int, str]]]
    output: str


def pairs() -> dict[int, tuple[str, str]]:
    """Number the lines of the file in which every kind is passed to every kind, from 1."""
    lines = 2 + len(KINDS)
    numbered = {}
    for source in KINDS:
        lines += 1
        for target in KINDS:
            lines += 1
            numbered[lines] = (target, source)
    return numbered


def pairs_source() -> str:
    names = [name for name in vars(ANNOTATIONS) if not name.startswith("_") and name not in ("KINDS", "annotations")]
    lines = ["# mypy: disable-error-code=type-arg, allow-any-generics", f"from annotations import {', '.join(names)}"]
    lines += [f"def takes_{number}(value: {kind}) -> None: ..." for number, kind in enumerate(KINDS)]
    for number, kind in enumerate(KINDS):
        lines.append(f"def gives_{number}(value: {kind}) -> None:")
        lines += [f"    takes_{other}(value)" for other in range(len(KINDS))]
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    folder = tmp_path_factory.mktemp("typing")
    (folder / "pairs.py").write_text(pairs_source())
    names = ("accepted.py", "rejected.py", "inferred.py", "annotations.py")
    files = [*(FILES / name for name in names), folder / "pairs.py"]
    run = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--strict", "--config-file="),
            # A cache of its own: mypy forgets one that was made with other options.
            *(f"--cache-dir={ROOT / '.mypy_cache' / 'typing'}", "--no-pretty", "--hide-error-context"),
            *map(str, files),
        ],
        env={**os.environ, "MYPYPATH": f"{ROOT}:{FILES}"},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    codes: dict[str, list[tuple[int, str]]] = {path.stem: [] for path in files}
    for line in run.stdout.splitlines():
        match = re.fullmatch(r"(.*/)?(\w+)\.py:(\d+): error: .*\[([a-z-]+)\]", line)
        if match:
            codes.setdefault(match[2], []).append((int(match[3]), match[4]))
    return Found(codes, run.stdout + run.stderr)


@dataclass(frozen=True)
class Pyright:
    """What pyright reports: the lines with errors of each file, by its name."""

    lines: dict[str, set[int]]
    output: str


@pytest.fixture(scope="module")
def pyright(tmp_path_factory: pytest.TempPathFactory) -> Pyright:
    folder = tmp_path_factory.mktemp("pyright")
    texts = {name: (FILES / name).read_text() for name in ("accepted.py", "rejected.py", "inferred.py")}
    for page in PAGES:
        named = re.findall(r'^```python title="(\S+)"\n(.*?)^```$', page.read_text(), re.MULTILINE | re.DOTALL)
        texts |= {f"{page.stem}/{name}": text for name, text in named}
    for name, text in texts.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    run = subprocess.run(
        [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    report = json.loads(run.stdout)
    assert report["summary"]["filesAnalyzed"] == len(texts), run.stdout
    lines: dict[str, set[int]] = {}
    for diagnostic in report["generalDiagnostics"]:
        lines.setdefault(Path(diagnostic["file"]).name, set()).add(diagnostic["range"]["start"]["line"] + 1)
    return Pyright(lines, run.stdout)


def marked() -> set[tuple[int, str]]:
    """Return what rejected.py says of its lines: their numbers and mypy's codes."""
    return {
        (number, code)
        for number, line in enumerate((FILES / "rejected.py").read_text().splitlines(), 1)
        for code in line.partition("# E: ")[2].split(", ")
        if code
    }


def test_mypy_accepts_every_accepted_flow_and_infers_its_types(found: Found) -> None:
    assert (found.codes["accepted"], found.codes["inferred"]) == ([], []), found.output


def test_pyright_accepts_the_flows_of_the_readme_too_and_rejects_what_mypy_does(pyright: Pyright) -> None:
    assert pyright.lines == {"rejected.py": {line for line, _ in marked()}}, pyright.output


def test_mypy_finds_nothing_but_what_is_marked(found: Found) -> None:
    assert set(found.codes["rejected"]) == marked(), found.output


def test_every_rejected_flow_is_marked_unless_only_a_run_can_tell() -> None:
    text = (FILES / "rejected.py").read_text()
    for part in text.split("@flow\n")[1:]:
        name = part.removeprefix("def ").partition("(")[0]
        assert ("# E: " in part) is not name.endswith("_at_run_time"), name


@pytest.mark.parametrize("flow", flows(ACCEPTED), ids=lambda flow: flow.__name__)
def test_an_accepted_flow_resolves(flow: Flow[...]) -> None:
    assert lower(flow()).flow == flow.name


@pytest.mark.parametrize("flow", flows(REJECTED), ids=lambda flow: flow.__name__)
def test_a_rejected_flow_fails_when_it_is_resolved(flow: Flow[...]) -> None:
    with pytest.raises((FlowError, TypeError)):
        flow()


def evaluated(kind: str) -> object:
    holder = type("Holder", (), {"__annotations__": {"kind": kind}})
    return typing.get_type_hints(holder, vars(ANNOTATIONS), include_extras=True)["kind"]


def test_whatever_mypy_lets_pass_from_one_annotation_to_another_is_accepted(found: Found) -> None:
    numbered = pairs()
    refused = {numbered[line] for line, code in found.codes["pairs"] if code == "arg-type"}
    kinds = {kind: evaluated(kind) for kind in KINDS}
    assert len(refused) > len(KINDS) ** 2 / 2, found.output[-2000:]
    too_strict = [
        f"{source} -> {target}"
        for target, source in numbered.values()
        if (target, source) not in refused and not signatures.accepts(kinds[target], kinds[source])
    ]
    assert too_strict == []


@pytest.mark.parametrize(
    ("target", "source"),
    [
        ("int", "str"),
        ("int", "float"),
        ("str", "int | str"),
        ("str", "Optional[str]"),
        ("Goose", "Bird"),
        ("list[int]", "list[str]"),
        ("Iterable[int]", "list[str]"),
        ("Iterable[int]", "str"),
        ("dict[str, int]", "dict[str, str]"),
        ("tuple[int, int]", "tuple[int, str]"),
        ("Literal['a']", "Literal['a', 'b']"),
        ("list[list[int]]", "list[list[str]]"),
        ("Json", "set[int]"),
        ("Json", "list[set[int]]"),
    ],
)
def test_what_can_never_fit_is_refused(target: str, source: str) -> None:
    assert not signatures.accepts(evaluated(target), evaluated(source))
