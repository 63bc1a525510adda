"""The packages of all golden flows start where there is nothing but Python, as on Lambda."""

import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from build_flows import BUILDS, EXAMPLES, golden_flows

from lokki.builder.builder import Builder
from lokki.builder.requirements.resolve import PLATFORMS
from lokki.builder.requirements.uv import Uv
from lokki.graph import FlowGraph
from lokki.loading import load_flow

PLACES = {
    "birds": "birds_flow_example.py:birds_flow",
    "primes": "primes_flow_example.py:primes_flow",
    "penguins": "penguins/penguins_flow.py:penguins_flow",
}
IMPORTS = "import sys; sys.path.insert(0, sys.argv[1]); import handler; print(callable(handler.lambda_handler))"


def graph(name: str, folder: Path) -> FlowGraph:
    """Load a golden flow from a project of its own."""
    if name in PLACES:
        return load_flow(str(EXAMPLES / PLACES[name]))()
    (folder / "golden_flows.py").write_text(golden_flows())
    sys.modules.pop("golden_flows", None)
    return load_flow(f"{folder / 'golden_flows.py'}:{BUILDS[name].flow.__name__}")()


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.mark.slow
@pytest.mark.parametrize("name", BUILDS)
def test_each_package_of_a_golden_flow_is_imported_by_python_alone(name: str, tmp_path: Path, cache: Path) -> None:
    config = replace(
        BUILDS[name].config,
        artifact_bucket="acme-artifacts",
        package_type="zip",
        architecture="x86_64",
        merge_template=BUILDS[name].merged,
        build_dir=str(tmp_path / "out"),
    )
    bundle = Builder(lambda line: None, cache=cache).build(graph(name, tmp_path), config)
    printed = []
    for package in bundle.packages:
        task = tmp_path / "task" / package.step
        with zipfile.ZipFile(tmp_path / "out" / "lambdas" / f"{package.step}.zip") as archive:
            archive.extractall(task)
        command = [sys.executable, "-I", "-S", "-B", "-c", IMPORTS, str(task)]
        done = subprocess.run(command, env={}, cwd=tmp_path, capture_output=True, text=True, check=False)
        printed.append((package.step, done.stdout, done.stderr))
    assert printed == [(package.step, "True\n", "") for package in bundle.packages]


def extensions(site: Path) -> Iterator[str]:
    """Yield what follows the name of each compiled module: ``cpython-314-x86_64-linux-gnu.so``."""
    for path in site.rglob("*.so"):
        if not path.parent.name.endswith(".libs"):
            yield path.name.partition(".")[2]


@pytest.mark.slow
@pytest.mark.parametrize("platform", PLATFORMS.values())
@pytest.mark.parametrize("version", ["3.13", "3.14"])
def test_what_lokki_needs_and_the_examples_require_has_wheels_for_each_python(
    version: str, platform: str, tmp_path: Path
) -> None:
    uv, site = Uv(os.environ), tmp_path / "site"
    names = ["isal", "msgspec", "obstore", "pandas", "palmerpenguins"]
    options = ["--only-binary", ":all:", "--python-platform", platform, "--python-version", version]
    uv.run(["pip", "install", "-q", *options, "--target", str(site), *names], tmp_path, "wheels")
    machine = platform.partition("-")[0]
    tag = f"cpython-{version.replace('.', '')}-{machine}-linux-gnu.so"
    kinds = {kind for kind in extensions(site) if kind != "so"}
    assert kinds in ({tag}, {tag, "abi3.so"})
    assert (site / "pandas" / "__init__.py").is_file()
