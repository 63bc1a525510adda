"""What of the requirements each package has, and that it runs with it."""

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from build_flows import BUILDS

from lokki import StepNode, flow, step
from lokki.base.quotas import UNZIPPED_BYTES
from lokki.builder.lambda_pkg import Importable
from lokki.builder.requirements.distributions import Distribution, find_distributions, providers
from lokki.builder.requirements.needs import Installed, StepSources, step_needs
from lokki.plan import lower

# What packages lead to


def metadata(name: str, *lines: str) -> str:
    return "\n".join(["Metadata-Version: 2.1", f"Name: {name}", "Version: 1", *lines, ""])


def distributions(packages: Mapping[str, Mapping[str, str]]) -> dict[str, Distribution]:
    """Return the packages with these files; a line of ``requires`` is metadata."""
    files: dict[str, bytes] = {}
    for name, own in packages.items():
        info = f"{name.replace('-', '_')}-1.dist-info"
        about = {f"{info}/METADATA": metadata(name, *own.get("metadata", "").splitlines())}
        about |= {f"{info}/entry_points.txt": own["plugins"]} if "plugins" in own else {}
        modules = {path: text for path, text in own.items() if path not in ("metadata", "plugins")}
        record = "".join(f"{path},,\n" for path in (*modules, *about))
        files |= {path: text.encode() for path, text in {**modules, **about, f"{info}/RECORD": record}.items()}
    return find_distributions(files, {"python_version": "3.13", "sys_platform": "linux", "os_name": "posix"})


FRAMES = {
    "frames/__init__.py": "def read(path):\n    import arrows.csv\n",
    "frames/backends.py": "sheets = import_optional_dependency('sheets')\nplaces = {'s3': 'clouds.S3'}\n",
    "frames/tests/test_all.py": "import checks\n",
    "metadata": "Requires-Dist: numbers>=1\nRequires-Dist: winter; sys_platform == 'win32'\n"
    "Requires-Dist: checks; extra == 'test'\nRequires-Dist: charts; extra == 'plot'\n"
    "Provides-Extra: test\nProvides-Extra: plot",
}
OTHERS: dict[str, dict[str, str]] = {
    "arrows": {"arrows/csv.py": ""},
    "sheets": {"sheets.py": ""},
    "clouds": {"clouds/__init__.py": "groups = ['frames.engines']"},
    "engine-plugin": {"engine.py": "", "plugins": "[frames.engines]\nfast = engine\n"},
    "numbers": {"numbers_.so": ""},
    "winter": {"winter.py": ""},
    "checks": {"checks.py": ""},
    "charts": {"charts.py": ""},
    "frames-more": {"frames/more.py": ""},
    "unrelated": {"unrelated.py": "import frames"},
}


def test_a_package_leads_to_what_it_requires_imports_names_and_extends() -> None:
    found = distributions({"frames": FRAMES, **OTHERS})
    assert found["frames"].requires == ("numbers",)
    assert found["frames"].uses == ("arrows", "charts", "clouds", "frames-more", "numbers", "sheets")
    assert found["clouds"].uses == ("engine-plugin", "frames")
    assert found["unrelated"].uses == ("frames",)


def test_modules_are_provided_by_those_who_have_the_deepest_part_of_their_name() -> None:
    found = providers(
        distributions(
            {
                "cloud-storage": {
                    "cloud/storage/__init__.py": "",
                    "cloud/storage/_c.cpython-313-x86_64-linux-gnu.so": "",
                },
                "cloud-query": {"cloud/query/__init__.py": ""},
                "attrs": {"attr/__init__.py": "", "attrs/__init__.py": ""},
            }
        )
    )
    assert found.of("cloud.storage.blob") == {"cloud-storage"}
    assert found.of("cloud.storage._c") == {"cloud-storage"}
    assert found.of("cloud") == {"cloud-storage", "cloud-query"}
    assert (found.of("attr.validators"), found.of("cloud.missing"), found.of("missing")) == ({"attrs"}, set(), set())


# What the code of a step mentions

INSTALLED = Installed.of(
    distributions(
        {
            "big-model": {"model/__init__.py": "", "bin/model-tool": ""},
            "cloud-storage": {"cloud/storage/__init__.py": ""},
            "cloud-query": {"cloud/query/__init__.py": ""},
            "isal": {"isal/__init__.py": "import model", "metadata": "Requires-Dist: base"},
            "base": {"base.py": ""},
        }
    )
)
STORAGE, QUERY, MODEL = "cloud-storage", "cloud-query", "big-model"


PLAN = lower(BUILDS["birds"].graph)
FIRST, *_, LAST = dict.fromkeys(call.step for call in PLAN.calls)
FLOW = Importable("flow", "f")


def mentioned(files: Mapping[str, str], texts: tuple[str, ...] = ()) -> tuple[set[str], str]:
    """Return what the last step needs beyond what lokki does if its package has these files, and why not less."""
    contents = {path: text.encode() for path, text in files.items()}
    steps = {call.step: StepSources({}, FLOW) for call in PLAN.calls}
    needs = step_needs(
        PLAN, steps | {LAST: StepSources(contents, FLOW, texts)}, dict.fromkeys(steps, INSTALLED), ["isal"]
    )
    assert needs[FIRST].packages == {"isal", "base"}
    return set(needs[LAST].packages) - {"isal", "base"}, needs[LAST].reason


MENTIONS = [
    ("import model", {MODEL}),
    ("def f():\n    try:\n        import model.deep as m\n    except ImportError: m = None", {MODEL}),
    ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from model import M", {MODEL}),
    ("from cloud import storage", {STORAGE}),
    ("import cloud.query.rows", {QUERY}),
    ("import cloud", {STORAGE, QUERY}),
    ("from cloud import storage, missing", {STORAGE, QUERY}),
    ("import_module('model.deep')", {MODEL}),
    ("engine = 'sqlite+model://x'", {MODEL}),
    ("run(['model-tool', '--fast'])", {MODEL}),
    ("version('Big_Model')", {MODEL}),
    ("f'{x} model'", {MODEL}),
    ("'The model is not meant here.'\nx = 'models'", set()),
    ("# import model\nfrom .model import x\nmodel = 1", set()),
    ("import isal", {MODEL}),
]


@pytest.mark.parametrize(("source", "packages"), MENTIONS)
def test_a_step_needs_what_its_code_imports_or_names(source: str, packages: set[str]) -> None:
    assert mentioned({"flow.py": source}) == (packages, "")


def test_other_files_and_variables_are_read_for_names_too() -> None:
    assert mentioned({"settings/log.yml": "class: model.Formatter"}) == ({MODEL}, "")
    assert mentioned({"template.py": "{{ model }} is no Python"}) == ({MODEL}, "")
    others = {"rows.csv": "model", "lokki/x.py": "import model", "a-1.dist-info/METADATA": "model"}
    assert mentioned(others) == (set(), "")
    assert mentioned({}, ("DRIVER=model",)) == ({MODEL}, "")


HIDDEN = [
    ("import importlib\nimportlib.import_module(name)", "flow.py:2 runs or imports what it computes"),
    ("__import__(f'{x}.y')", "flow.py:1 runs or imports what it computes"),
    ("x = 1\nexec(code)", "flow.py:2 runs or imports what it computes"),
    ("import runpy as r\nr.run_module(name)", "flow.py:2 runs or imports what it computes"),
    ("import pickle as p\np.load(file)", "flow.py:2 unpickles"),
    ("from joblib import load as get\nget(path)", "flow.py:2 unpickles"),
    ("import lokki\nlokki.s3.read(url)", "flow.py:2 unpickles"),
    ("from lokki import s3\ns3.read(url)", "flow.py:2 unpickles"),
    ("import numpy\nnumpy.load(path, allow_pickle=True)", "flow.py:2 unpickles"),
    ("from importlib.metadata import entry_points\nentry_points(group='x')", "flow.py:2 looks for plugins"),
]


@pytest.mark.parametrize(("source", "reason"), HIDDEN)
def test_nothing_is_left_out_where_code_hides_what_it_imports(source: str, reason: str) -> None:
    assert mentioned({"flow.py": source}) == ({MODEL, STORAGE, QUERY}, reason)


def test_code_that_hides_nothing_is_not_suspected() -> None:
    source = "import pickle\npickle.dumps(1)\nframe.eval('a + b')\nexec('x = 1')"
    assert mentioned({"flow.py": source}) == (set(), "")


def test_code_that_is_nested_too_deeply_is_no_reason_to_fail() -> None:
    deep = {
        "deep.py": "(" * 10_000 + "model" + ")" * 10_000,
        "flow.py": SHARED + TRAIN.replace("RESULT", "1+" * 5000 + "1"),
    }
    assert mentioned(deep) == ({MODEL}, "")
    assert set(received("+".join(["'x'"] * 5000))) == {"start", "train", "half", "total"}


# Values that come to a step


@step
def start() -> list[float]:
    return [1.0]


@step
def train(values: list[float]) -> list[float]:
    return values


@step
def half(value: float) -> float:
    return value / 2


@step
def total(values: list[float]) -> float:
    return sum(values)


@flow
def training() -> StepNode[..., float]:
    return start().next(train).map(half).agg(total)


TRAINING = lower(training())
SHARED = "from lokki import step\n"
TRAIN = "@step\ndef train(values):\n    import model\n    return RESULT\n"
CODE = {
    "start": "@step\ndef start():\n    return [1.0]\n",
    "train": TRAIN,
    "half": "@step\ndef half(value):\n    return value / 2\n",
    "total": "@step\ndef total(values):\n    return sum(values)\n",
}


def received(result: str) -> dict[str, set[str]]:
    """Return what steps need of which only ``train`` imports anything, if it returns this."""
    sources = {
        name: StepSources({"flow.py": (SHARED + text.replace("RESULT", result)).encode()}, Importable("flow", name))
        for name, text in CODE.items()
    }
    needs = step_needs(TRAINING, sources, dict.fromkeys(sources, INSTALLED), [])
    assert all(each.received == {} or each.received == {"train": {MODEL}} for each in needs.values())
    return {name: set(each.packages) for name, each in needs.items()}


def test_steps_have_what_values_need_that_come_to_them() -> None:
    assert received("model.fit(values)") == {"start": set(), "train": {MODEL}, "half": {MODEL}, "total": {MODEL}}
    assert received("[float(model.x)]") == {"start": set(), "train": {MODEL}, "half": set(), "total": set()}


# Real packages

LEARNING = """
# /// script
# requires-python = ">=3.13"
# dependencies = ["scikit-learn"]
# ///
from lokki import flow, main, step

@step
def load(count: int = 20) -> list[float]:
    return [float(n) for n in range(count)]

@step
def train(values: list[float]) -> list[float]:
    from sklearn.linear_model import LinearRegression
    model = LinearRegression().fit([[v] for v in values], [2 * v for v in values])
    return [round(float(p), 6) for p in model.predict([[v] for v in values])]

@step
def half(value: float) -> float:
    return value / 2

@step
def total(values: list[float]) -> float:
    return round(sum(values), 6)

@flow
def learning(count: int = 20):
    return load(count).next(train).map(half).agg(total)

main(learning)
"""


def lokki_command(project: Path, *arguments: str) -> str:
    (project / "lokki.yml").write_text("artifact_bucket: acme-artifacts\n")
    environ = {**os.environ, "XDG_CACHE_HOME": str(project.parent / "cache")}
    command = [sys.executable, "flow.py", *arguments]
    done = subprocess.run(command, cwd=project, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def sizes(project: Path) -> dict[str, int]:
    return {path.stem: path.stat().st_size for path in (project / "lokki-build" / "lambdas").glob("*.zip")}


@pytest.mark.slow
def test_only_the_step_that_imports_scikit_learn_has_it(tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "flow.py").write_text(LEARNING)
    printed = lokki_command(project, "build")
    assert "not in load(), half(), total(), whose code imports nothing of it" in printed
    small = sizes(project)
    assert small.pop("train") > 50 * 2**20
    assert all(size < 10 * 2**20 for size in small.values()), small
    assert "nothing changed" in lokki_command(project, "build")
    assert lokki_command(project, "emulate").splitlines()[-1] == "190.0"
    plain, array = "[round(float(p), 6) for p in model.predict([[v] for v in values])]", "model.coef_ * values"
    (project / "flow.py").write_text(LEARNING.replace(plain, array))
    assert "in half(), total() only to read what train() may hand on" in lokki_command(project, "build")
    large = sizes(project)
    assert large["load"] < 10 * 2**20 < 50 * 2**20 < large["half"]
    assert lokki_command(project, "emulate").splitlines()[-1] == "190.0"


@pytest.mark.slow
def test_numpy_pandas_and_pyarrow_fit_into_a_zip(tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "requirements.txt").write_text("numpy\npandas\npyarrow\n")
    code = LEARNING.partition("# ///\nfrom")[2]
    code = code.replace("from sklearn.linear_model import LinearRegression", "import pandas")
    (project / "flow.py").write_text(f"from{code}")
    assert "not in load(), half(), total(), whose code imports nothing of it" in lokki_command(project, "build")
    packages = json.loads((project / "lokki-build" / "build.json").read_bytes())["packages"]
    assert 230_000_000 < packages["train"]["unzipped"] < UNZIPPED_BYTES
    with zipfile.ZipFile(project / "lokki-build" / "lambdas" / "train.zip") as archive:
        names = archive.namelist()
    assert "numpy/__init__.pyi" in names
    assert not [name for name in names if name.startswith("pandas/tests/") and name.endswith(".py")]
