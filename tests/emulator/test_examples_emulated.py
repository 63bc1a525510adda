"""The examples, run as AWS would run what is built of them: zip packages by the command, images in containers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from build_flows import BUILDS
from support.base_image import Buildah, buildah_with_base
from support.examples import (
    BIRDS,
    BODY_MASS,
    EXAMPLES,
    ISLANDS,
    LOADED,
    PRIMES_TO_A_MILLION,
    SPECIES,
    SWEEP,
    VARIANTS,
    run_example,
)
from support.runtime_api import Function, started

from lokki.base.values import Json
from lokki.builder.builder import Builder
from lokki.config import LokkiConfig
from lokki.emulator.run import Emulation
from lokki.emulator.run_files import HISTORY
from lokki.emulator.s3.client import S3Server
from lokki.emulator.states.execution import Execution
from lokki.emulator.states.history import HistoryEvent
from lokki.emulator.states.outcome import Identity
from lokki.emulator.states.services import Caller, ExecutionSettings, FunctionReply, RealClock, Services
from lokki.emulator.template import Built, read_bundle

GUARDED = 'if __name__ == "__main__":\n    main(birds_flow)\n'
LONG = pytest.mark.slow  # pandas is installed, packed and unpacked for each of six steps


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("birds_flow_example.py", (), BIRDS),
        ("primes_flow_example.py", ("--limit", "1000000", "--size", "99730"), PRIMES_TO_A_MILLION),
        pytest.param("penguins/penguins_flow.py", (), BODY_MASS, marks=LONG),
        pytest.param("penguins/classify_flow.py", (), SPECIES, marks=LONG),
        pytest.param("penguins/variants_flow.py", (), VARIANTS, marks=LONG),
        pytest.param("penguins/load_flow.py", (), LOADED, marks=LONG),
        pytest.param("penguins/islands_flow.py", (), ISLANDS, marks=LONG),
        pytest.param("sweep/sweep_flow.py", (), SWEEP, marks=LONG),
    ],
)
def test_an_example_prints_what_it_prints_when_it_runs_locally(
    name: str, options: tuple[str, ...], expected: str, tmp_path: Path
) -> None:
    local = run_example(name, *options, folder=tmp_path)
    command = [sys.executable, str(EXAMPLES / name), "emulate", *options]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == local == expected


def test_a_file_that_calls_main_wherever_it_is_imported_runs_as_one_that_asks_first(tmp_path: Path) -> None:
    text = (EXAMPLES / "birds_flow_example.py").read_text()
    assert text.count(GUARDED) == 1
    (tmp_path / "unguarded_flow.py").write_text(text.replace(GUARDED, "main(birds_flow)\n"))
    (tmp_path / "lokki.yml").write_text("artifact_bucket: my-bucket\n")
    command = [sys.executable, "unguarded_flow.py", "emulate"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stdout) == (0, BIRDS), done.stderr


# --- birds as images ---


@dataclass
class Containers:
    """Lambda functions that run in containers: one for each function, by its ARN."""

    functions: Mapping[str, Function]

    def invoke(self, function: str, payload: bytes, timeout: float, caller: Caller) -> FunctionReply:
        return FunctionReply(json.dumps(self.functions[function].invoke(json.loads(payload))).encode())


@pytest.fixture(scope="module")
def buildah(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Buildah]:
    with buildah_with_base(tmp_path_factory.mktemp("images")) as buildah:
        yield buildah


def build(folder: Path, config: LokkiConfig) -> Path:
    Builder(lambda line: None, cache=folder / "cache").build(BUILDS["birds"].graph, config)
    return Path(config.build_dir)


def start_containers(
    buildah: Buildah, bundle: Path, built: Built, s3: S3Server, folder: Path, ended: ExitStack
) -> Containers:
    """Build each step's image and start a container of it, with the environment that the template gives it."""
    functions: dict[str, Function] = {}
    for spec in built.functions:
        step = spec.name.removeprefix(f"{built.name}-")
        image = step.replace("_", "-")
        buildah.build(bundle / "lambdas" / step, image)
        assert buildah.start_command(image)[-1] == spec.handler
        environ = {**spec.environment, **s3.variables(spec.name)}
        (folder / step).mkdir()

        def command(api: dict[str, str], image: str = image, environ: dict[str, str] = environ) -> list[str]:
            return buildah.running(image, {**environ, **api})

        functions[spec.arn] = ended.enter_context(started(command, os.environ, folder / step))
    return Containers(functions)


def replies(history: list[dict[str, Json]]) -> list[tuple[Json, str]]:
    """Return what each task got from its function, by state, in an order that does not depend on who was first."""
    found = [(each["state"], json.dumps(each["output"])) for each in history if each["type"] == "TaskSucceeded"]
    return sorted(found, key=str)


@pytest.mark.slow
def test_birds_give_the_same_as_images_and_as_zips(buildah: Buildah, tmp_path: Path) -> None:
    zips = build(tmp_path, LokkiConfig(artifact_bucket="my-artifacts", build_dir=str(tmp_path / "zips")))
    (tmp_path / "run").mkdir()
    with Emulation(zips, tmp_path / "run", lambda event: None) as emulation:
        expected = emulation.start("run-1", {}).run()
    lines = (tmp_path / "run" / HISTORY).read_text().splitlines()

    prefix = "registry/acme"
    config = LokkiConfig(artifact_bucket="my-artifacts", ecr_repo_prefix=prefix, build_dir=str(tmp_path / "images"))
    bundle = build(tmp_path, config)
    assert list(bundle.rglob("*.zip")) == []
    task_roots = dict.fromkeys(("get_birds", "flap_bird", "join_birds"), Path("/var/task"))
    built = read_bundle(bundle, tmp_path, task_roots)
    told: list[HistoryEvent] = []
    with ExitStack() as ended:
        s3 = ended.enter_context(S3Server(built.bucket))
        functions = start_containers(buildah, bundle, built, s3, tmp_path, ended)
        services = Services(functions, s3, RealClock(threading.Event()), told.append, ExecutionSettings(workers=1))
        outcome = Execution(services, built.machine.states, Identity(built.name, "run-1"), {}).run()

    assert (outcome.status, outcome.output) == ("SUCCEEDED", {"result": "flappy goose, flappy duck, flappy seagul"})
    assert outcome == expected
    history = [{"type": each.type, "state": each.state, **each.details} for each in told]
    assert replies(history) == replies([json.loads(line) for line in lines])
    assert len(replies(history)) == 5
