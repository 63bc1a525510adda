"""What a release is made of: one version, equal builds, workflows that trust little."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from itertools import chain
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = [
    *sorted((ROOT / ".github/workflows").glob("*.yml")),
    ROOT / "docs/examples/deploy.yml",
    ROOT / "lokki/cli/new_project/workflow.yml.txt",
]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ACTION = re.compile(r"uses: (?P<name>[\w./-]+)@(?P<hash>[0-9a-f]{40}) # (?P<version>v\d+\.\d+\.\d+)\b")
MAY_WRITE = {
    "docs/examples/deploy.yml deploy": {"id-token"},
    ".github/workflows/release.yml attest": {"id-token", "attestations"},
    ".github/workflows/release.yml publish": {"id-token"},
    ".github/workflows/release.yml page": {"contents"},
}
"""The jobs that may change something; all others may read the code and nothing else."""


def unpinned(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if "uses:" in line and not ACTION.search(line)]


def test_the_version_stands_in_one_place() -> None:
    version = PROJECT["version"]
    assert importlib.metadata.version("lokki") == version
    assert re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE).group(1) == version  # type: ignore[union-attr]
    assert [path for path in (ROOT / "lokki").rglob("*.py") if f'"{version}"' in path.read_text()] == []


def test_every_action_is_pinned_by_the_hash_of_one_version() -> None:
    pins: dict[str, set[tuple[str, str]]] = {}
    for path in WORKFLOWS:
        assert unpinned(path.read_text()) == [], path
        for action in ACTION.finditer(path.read_text()):
            pins.setdefault(action["name"], set()).add((action["hash"], action["version"]))
    assert {name for name, versions in pins.items() if len(versions) > 1} == set()
    assert {"actions/checkout", "pypa/gh-action-pypi-publish", "actions/attest-build-provenance"} <= set(pins)


@pytest.mark.parametrize("version", ["v4", "main", "3d3c42e5aac5ba805825da76410c181273ba90b1", f"{'0' * 39} # v1.0.0"])
def test_an_action_that_could_change_would_be_found(version: str) -> None:
    assert unpinned(f"  - uses: actions/checkout@{version}\n") == [f"- uses: actions/checkout@{version}"]


def test_jobs_may_do_only_what_they_need() -> None:
    writing = {}
    for path in WORKFLOWS:
        workflow = yaml.safe_load(path.read_text())
        assert set(workflow["permissions"]) <= {"contents"}, path
        assert "write" not in workflow["permissions"].values()
        for name, job in workflow["jobs"].items():
            permissions = job.get("permissions", workflow["permissions"])
            if scopes := {scope for scope, access in permissions.items() if access == "write"}:
                writing[f"{path.relative_to(ROOT).as_posix()} {name}"] = scopes
    assert writing == MAY_WRITE


def test_supported_pythons_and_systems_are_tested() -> None:
    matrix = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]["tests"]["strategy"]["matrix"]
    assert sorted(system.partition("-")[0] for system in matrix["system"]) == ["macos", "ubuntu"]
    named = [text.rpartition(" ")[2] for text in PROJECT["classifiers"] if "Python :: 3." in text]
    assert matrix["python"] == named == ["3.13", "3.14"]


def test_what_is_published_was_built_twice_and_attested_and_needs_no_password() -> None:
    text = (ROOT / ".github/workflows/release.yml").read_text()
    jobs = yaml.safe_load(text)["jobs"]
    assert {name: job.get("needs") for name, job in jobs.items()} == {
        "build": None, "attest": "build", "publish": "attest", "page": "publish",
    }  # fmt: skip
    assert 'scripts/build_release dist "$GITHUB_REF_NAME"' in [step.get("run") for step in jobs["build"]["steps"]]
    assert jobs["publish"]["environment"] == "release"
    assert "secrets." not in text
    assert "password" not in text.replace("without a password", "")


@pytest.mark.slow
def test_two_builds_are_equal_and_come_with_their_parts_and_sums(tmp_path: Path) -> None:
    subprocess.run([ROOT / "scripts/build_release", tmp_path], check=True, capture_output=True, text=True)
    version = PROJECT["version"]
    wheel, archive, parts = (
        tmp_path / f"lokki-{version}{end}" for end in ("-py3-none-any.whl", ".tar.gz", ".cdx.json")
    )
    sums = dict(reversed(line.split()) for line in (tmp_path / "SHA256SUMS").read_text().splitlines())
    assert sums == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (wheel, archive, parts)}
    names = zipfile.ZipFile(wheel).namelist()
    assert {"lokki/__init__.py", "lokki/py.typed", "lokki/cli/new_project/flow.py.txt", "lokki_pytest.py"} <= set(names)
    with tarfile.open(archive) as members:
        assert f"lokki-{version}/lokki/__init__.py" in members.getnames()
    listed = {component["name"] for component in json.loads(parts.read_text())["components"]}
    assert {"boto3", "msgspec", "obstore", "moto"} <= listed
    assert "pytest" not in listed


@pytest.mark.slow
def test_a_tag_of_another_version_builds_nothing(tmp_path: Path) -> None:
    command = [ROOT / "scripts/build_release", tmp_path / "dist", "v9.9.9"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (
        1, f"the tag is v9.9.9, and pyproject.toml says {PROJECT['version']}\n",
    )  # fmt: skip
    assert not (tmp_path / "dist").exists()


@pytest.mark.slow
def test_zizmor_finds_nothing_in_the_workflows(tmp_path: Path) -> None:
    copies = []
    for number, path in enumerate(WORKFLOWS):
        copies.append(tmp_path / f"{number}.yml")
        copies[-1].write_text(path.read_text())
    done = subprocess.run(["zizmor", "--offline", *copies], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


INFRASTRUCTURE = """
Resources:
  Table:
    Type: AWS::DynamoDB::Table
    DeletionPolicy: Delete
    UpdateReplacePolicy: Delete
    Properties:
      AttributeDefinitions: [{AttributeName: id, AttributeType: S}]
      KeySchema: [{AttributeName: id, KeyType: HASH}]
      BillingMode: PAY_PER_REQUEST
"""
TABLE_FLOW = """
import os

import boto3

from lokki import Allow, Resource, flow, main, step


@step(env={"TABLE": Resource("Table")}, permissions=[Allow("dynamodb:Scan", Resource("Table.Arn"))])
def count() -> int:
    return boto3.client("dynamodb").scan(TableName=os.environ["TABLE"])["Count"]


@flow
def table_flow():
    return count()


if __name__ == "__main__":
    main(table_flow)
"""


@pytest.mark.slow
def test_the_lower_bounds_of_the_dependencies_are_enough(tmp_path: Path) -> None:
    """With the oldest of each that `pyproject.toml` allows, a flow runs, is reported, built, checked and emulated."""
    uv = os.environ.get("UV") or shutil.which("uv")
    assert uv, "run the tests with uv"
    python, bounds = tmp_path / "venv/bin/python", tmp_path / "bounds.txt"
    bounds.write_text("\n".join([*PROJECT["dependencies"], *chain(*PROJECT["optional-dependencies"].values())]))
    (tmp_path / "lokki.yml").write_text("artifact_bucket: my-bucket\nmerge_template: infra.yaml\n")
    (tmp_path / "infra.yaml").write_text(INFRASTRUCTURE)
    (tmp_path / "table_flow.py").write_text(TABLE_FLOW)
    shutil.copy(ROOT / "examples/birds_flow_example.py", tmp_path / "birds_flow.py")
    installing = ["--no-config", "--resolution", "lowest-direct", "--only-binary", ":all:", "--python", python]
    environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"} | {"UV": uv}

    def run(*words: str | Path) -> str:
        done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run(uv, "build", "-q", "--wheel", "--out-dir", tmp_path / "dist", ROOT)
    run(uv, "venv", "-q", "--python", sys.executable, "venv")
    run(uv, "pip", "install", "-q", *installing, *(tmp_path / "dist").glob("*.whl"), "-r", bounds)
    assert "click==8.4.0\n" in run(uv, "pip", "freeze", "--python", python)
    birds = "flappy goose, flappy duck, flappy seagul\n"
    assert run(python, "birds_flow.py", "run", "--quiet", "--report", "run.html") == birds
    run(python, "birds_flow.py", "draw", "--output", "flow.svg")
    run(python, "birds_flow.py", "build", "--check")
    run(python, "-c", "import lokki.ui.server")
    assert run(python, "birds_flow.py", "emulate", "--quiet") == birds
    assert run(python, "table_flow.py", "emulate", "--quiet") == "0\n"
