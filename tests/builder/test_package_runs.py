"""Packages run as Lambda runs them: unpacked into a folder, under awslambdaric, with nothing else to import."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from aws.moto_server import Aws
from build_flows import BUILDS, EXAMPLES
from support.base_image import Buildah, buildah_with_base
from support.package_index import PASSWORD, USER, package_index
from support.runtime_api import BARE, Function, started
from support.wheels import make_sdist, make_wheel

from lokki.builder.builder import Builder
from lokki.builder.requirements.uv import Uv
from lokki.config import LokkiConfig

BIRDS = BUILDS["birds"].graph
GOOSE = {"run_id": "run-1", "call": "flap_bird", "params": {}, "item": {"index": 0, "item": "goose"}}
FLAPPY = {"index": 0, "result": "flappy goose"}


@dataclass(frozen=True)
class Built:
    """A built flow, and Lambda's runtime in a folder of its own."""

    out: Path
    runtime: Path

    def unpack(self, step: str, folder: Path) -> Path:
        with zipfile.ZipFile(self.out / "lambdas" / f"{step}.zip") as archive:
            archive.extractall(folder / "task")
        return folder / "task"

    def command(self, task: Path) -> list[str]:
        return [sys.executable, "-I", "-S", "-c", BARE, str(task), str(self.runtime)]


def variables(aws: Aws, flow: str = "birds-flow") -> dict[str, str]:
    return {"LOKKI_ARTIFACT_BUCKET": aws.new_bucket(), "LOKKI_FLOW_NAME": flow, **aws.environ}


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runtime")
    uv = Uv(os.environ)
    uv.run(
        ["pip", "install", "-q", "--python", sys.executable, "--target", str(folder), "awslambdaric"], folder, "runtime"
    )
    return folder


@pytest.fixture(scope="module")
def birds(tmp_path_factory: pytest.TempPathFactory, runtime: Path) -> Built:
    folder = tmp_path_factory.mktemp("birds")
    config = LokkiConfig(artifact_bucket="acme-artifacts", build_dir=str(folder / "out"))
    Builder(lambda line: None, cache=folder / "cache").build(BIRDS, config)
    return Built(folder / "out", runtime)


@pytest.fixture
def flap_bird(birds: Built, aws: Aws, tmp_path: Path) -> Iterator[Function]:
    with started(lambda _: birds.command(birds.unpack("flap_bird", tmp_path)), variables(aws), tmp_path) as function:
        yield function


def test_a_zip_unpacked_in_an_empty_folder_answers_an_invocation(flap_bird: Function) -> None:
    assert flap_bird.invoke(GOOSE) == FLAPPY
    assert flap_bird.invoke({**GOOSE, "item": {"index": 1, "item": "duck"}}) == {"index": 1, "result": "flappy duck"}


def test_the_zips_of_a_flow_hand_on_through_a_bucket(birds: Built, aws: Aws, tmp_path: Path) -> None:
    environ = variables(aws)
    (tmp_path / "first").mkdir()
    with started(lambda _: birds.command(birds.unpack("get_birds", tmp_path / "first")), environ, tmp_path) as function:
        reply = function.invoke({"run_id": "run-1", "call": "get_birds", "params": {}})
    key = "lokki/birds-flow/run-1/get_birds/map_manifest.json"
    assert reply == {"map_manifest_key": key, "items": 3, "params": {}}
    manifest = json.loads(aws.s3.get_object(Bucket=environ["LOKKI_ARTIFACT_BUCKET"], Key=key)["Body"].read())
    assert [entry["item"] for entry in manifest] == ["goose", "duck", "seagul"]


def test_a_package_needs_nothing_that_lambda_does_not_have(birds: Built, tmp_path: Path) -> None:
    task = birds.unpack("join_birds", tmp_path)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import handler\n"
        "files = [getattr(module, '__file__', None) or '' for module in sys.modules.values()]\n"
        "print([file for file in files if 'site-packages' in file])\n"
        "print([name for name in ('boto3', 'yaml', 'click', 'rich') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, str(task)], capture_output=True, text=True, check=False
    )
    assert done.stdout == "[]\n[]\n", done.stderr


def test_a_cold_start_compiles_nothing(birds: Built, tmp_path: Path) -> None:
    task = birds.unpack("flap_bird", tmp_path)
    code = "import sys; sys.path.insert(0, sys.argv[1]); import handler"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-v", "-c", code, str(task)], capture_output=True, text=True, check=True
    )
    lines = [line for line in done.stderr.splitlines() if str(task) in line]
    assert any("lokki/runtime" in line for line in lines)
    assert [line for line in lines if line.startswith("# wrote")] == []  # as Python does with what it had to compile


def test_a_package_without_the_flows_module_would_be_seen(birds: Built, aws: Aws, tmp_path: Path) -> None:
    task = birds.unpack("flap_bird", tmp_path)
    (task / "birds_flow_example.py").unlink()
    for compiled in task.glob("__pycache__/birds_flow_example*"):
        compiled.unlink()
    with (
        started(lambda _: birds.command(task), variables(aws), tmp_path) as function,
        pytest.raises(AssertionError, match=r"(?s)Runtime\.ImportModuleError.*birds_flow_example"),
    ):
        function.invoke(GOOSE)


@pytest.mark.parametrize(("architecture", "machine"), [("x86_64", 62), ("arm64", 183)])
def test_compiled_modules_are_for_the_architecture_that_is_set(
    architecture: str, machine: int, tmp_path: Path, birds: Built
) -> None:
    config = LokkiConfig(artifact_bucket="acme-artifacts", build_dir=str(tmp_path), architecture=architecture)
    Builder(lambda line: None, cache=birds.out.parent / "cache").build(BIRDS, config)
    with zipfile.ZipFile(tmp_path / "lambdas" / "flap_bird.zip") as archive:
        compiled = [archive.read(name) for name in archive.namelist() if name.endswith(".so")]
    assert len(compiled) >= 5
    assert {int.from_bytes(content[18:20], "little") for content in compiled} == {machine}  # e_machine of ELF
    assert f"- {architecture}\n" in (tmp_path / "template.yaml").read_text()


@pytest.mark.slow
def test_penguins_build_with_pandas_within_the_limit_and_run(runtime: Path, aws: Aws, tmp_path: Path) -> None:
    shutil.copytree(EXAMPLES / "penguins", tmp_path / "penguins")
    (tmp_path / "penguins" / "requirements.txt").write_text("pandas\npalmerpenguins\n")
    config = LokkiConfig(artifact_bucket="acme-artifacts", build_dir=str(tmp_path / "out"))
    code = (
        "import sys; from pathlib import Path; from lokki.builder.builder import Builder\n"
        "from lokki.config import LokkiConfig; from lokki.loading import load_flow\n"
        "config = LokkiConfig(artifact_bucket='acme-artifacts', build_dir=sys.argv[2])\n"
        "Builder(cache=Path(sys.argv[3])).build(load_flow(sys.argv[1])(), config)"
    )
    arguments = [str(tmp_path / "penguins" / "penguins_flow.py"), config.build_dir, str(tmp_path / "cache")]
    subprocess.run([sys.executable, "-c", code, *arguments], check=True)
    built = Built(tmp_path / "out", runtime)
    packages = json.loads((tmp_path / "out" / "build.json").read_bytes())["packages"]
    assert all(100_000_000 < package["unzipped"] < 262_144_000 for package in packages.values())
    task = built.unpack("read_penguins", tmp_path)
    event = {"run_id": "run-1", "call": "read_penguins", "params": {}}
    with started(lambda _: built.command(task), variables(aws, "penguins-flow"), tmp_path) as function:
        reply = function.invoke(event)
    assert isinstance(reply, dict)
    assert reply["params"] == {"measure": "body_mass_g", "z": 2.5}
    assert reply["result_url"].endswith("/lokki/penguins-flow/run-1/read_penguins/output.pkl.gz")


@pytest.fixture(scope="module")
def buildah(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Buildah]:
    with buildah_with_base(tmp_path_factory.mktemp("images")) as buildah:
        yield buildah


@pytest.mark.slow
def test_the_dockerfile_builds_and_its_image_answers_an_invocation(buildah: Buildah, aws: Aws, tmp_path: Path) -> None:
    config = LokkiConfig(
        artifact_bucket="acme-artifacts", ecr_repo_prefix="registry/acme", build_dir=str(tmp_path / "out")
    )
    Builder(lambda line: None, cache=tmp_path / "cache").build(BIRDS, config)
    buildah.build(tmp_path / "out" / "lambdas" / "flap_bird", "flap-bird")
    assert buildah.start_command("flap-bird") == ["/lambda-entrypoint.sh", "handler.lambda_handler"]
    environ = variables(aws)
    with started(lambda api: buildah.running("flap-bird", {**environ, **api}), os.environ, tmp_path) as function:
        assert function.invoke(GOOSE) == FLAPPY


HONKING = """
import lokki_test_honk, lokki_test_pure
from lokki import flow, main, step

@step
def honk(times: int) -> str:
    return " ".join([lokki_test_honk.sound, lokki_test_pure.sound] * times)

@flow
def honking(times: int = 2):
    return honk(times)

main(honking)
"""


@pytest.mark.slow
def test_an_image_has_packages_of_an_index_with_a_password_and_what_only_this_machine_can_build(
    buildah: Buildah, aws: Aws, tmp_path: Path
) -> None:
    make_wheel(tmp_path / "index", "lokki_test_honk", {"lokki_test_honk.py": "sound = 'honk'"})
    make_sdist(tmp_path / "index", "lokki_test_pure", "sound = 'quack'")
    for name, sound in (("honk", "honk"), ("pure", "quack")):  # as they are installed here
        (tmp_path / "site").mkdir(exist_ok=True)
        (tmp_path / "site" / f"lokki_test_{name}.py").write_text(f"sound = '{sound}'")
    project, out = tmp_path / "project", tmp_path / "project" / "lokki-build"
    project.mkdir()
    (project / "honking_flow.py").write_text(HONKING)
    (project / "lokki.yml").write_text("artifact_bucket: acme-artifacts\necr_repo_prefix: registry/acme\n")
    with package_index(tmp_path / "index") as index:
        lines = f"--extra-index-url {index.url_with_password}\nlokki-test-honk\nlokki-test-pure\n"
        (project / "requirements.txt").write_text(lines)
        environ = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
        command = [sys.executable, "honking_flow.py", "build"]
        done = subprocess.run(command, cwd=project, env=environ, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert not [file for file in out.rglob("*") if file.is_file() and PASSWORD.encode() in file.read_bytes()]
        asked = len(index.asked)
        (tmp_path / "netrc").write_text(f"machine 127.0.0.1 login {USER} password {PASSWORD}\n")
        secret = f"id=netrc,src={tmp_path / 'netrc'}"
        buildah.build(out / "lambdas" / "honk", "honking", "--secret", secret)
        assert index.asked[asked:] == ["/simple/lokki-test-honk/", "/files/lokki_test_honk-1.0-py3-none-any.whl"]
    environ = variables(aws, "honking")
    with started(lambda api: buildah.running("honking", {**environ, **api}), os.environ, tmp_path) as function:
        event = {"run_id": "run-1", "call": "honk", "params": {"times": 2}}
        assert function.invoke(event) == {"params": {"times": 2}, "result": "honk quack honk quack"}
