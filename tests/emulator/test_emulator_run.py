"""What was built, run from start to end: real packages in real processes, S3 on loopback; compared with local runs."""

import datetime
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.command import Place
from support.emulated_project import Project, make_project

from lokki import local
from lokki.builder.builder import Builder
from lokki.config import LokkiConfig
from lokki.emulator.run import Emulation, EmulationOptions
from lokki.emulator.session import Session
from lokki.engine.events import (
    Event,
    ItemFailed,
    ItemsFinished,
    MapFinished,
    MapStarted,
    RunFailed,
    RunFinished,
    RunStarted,
    StepFailed,
    StepFinished,
    StepOutput,
    StepRetried,
    StepStarted,
)
from lokki.errors import EmulatorError, ParameterError, RunError, RunFolderError
from lokki.loading import load_flow
from lokki.observing.report import RunReport, fold
from lokki.results.flow_results import Items
from lokki.runner import LocalRunner

ROOT = Path(__file__).parents[2]
_numbers = count()
LONG = pytest.mark.slow  # a build and processes of its own


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return make_project(tmp_path_factory.mktemp("project"))


def emulate(project: Project, name: str, root: Path, events: list[Event] | None = None, **params: object) -> object:
    emit = (lambda event: None) if events is None else events.append
    return project.session(name, root, emit).run(project.flow(name), params)


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("doubled", {}),
        pytest.param("doubled", {"count": 0}, marks=LONG),
        pytest.param("batched", {"count": 1201}, marks=LONG),
        pytest.param("stored", {"count": 7}, marks=LONG),
        ("twice", {}),
        pytest.param("tolerant", {}, marks=LONG),
        ("tolerant_batches", {}),
        ("woertlich", {}),
        pytest.param("woertlich", {"wort": "ente 😀", "seit": datetime.date(2027, 2, 3)}, marks=LONG),
    ],
)
def test_a_flow_gives_what_it_gives_locally(
    project: Project, tmp_path: Path, name: str, params: dict[str, object]
) -> None:
    local = LocalRunner(root=tmp_path / "local").run(project.flow(name), params)
    assert emulate(project, name, tmp_path / "emulated", **params) == local


def test_the_events_are_those_of_a_run(project: Project, tmp_path: Path) -> None:
    events: list[Event] = []
    emulate(project, "doubled", tmp_path, events, count=3)
    assert [type(event) for event in events] == [
        RunStarted, StepStarted, StepFinished, MapStarted, ItemsFinished, ItemsFinished, ItemsFinished, MapFinished,
        StepStarted, StepFinished, RunFinished,
    ]  # fmt: skip
    report = RunReport()
    for event in events:
        report = fold(report, event)
    assert report.status == "finished"
    assert [(op.id, op.steps, op.status, op.items, op.finished) for op in report.ops.values()] == [
        ("numbers", ("numbers",), "finished", 3, 0),
        ("numbers.map", ("double",), "finished", 3, 3),
        ("total", ("total",), "finished", None, 0),
    ]


def test_what_a_step_prints_is_told_with_its_step(project: Project, tmp_path: Path) -> None:
    events: list[Event] = []
    emulate(project, "woertlich", tmp_path, events)
    assert [event for event in events if isinstance(event, StepOutput)] == [
        StepOutput("größe", (), "stdout", "größe of [0, 1]")
    ]


def test_steps_reach_the_s3_of_the_emulation_with_boto3(project: Project, tmp_path: Path) -> None:
    assert emulate(project, "with_boto3", tmp_path) == ["birds/goose.txt", "honk"]


def test_retries_match_the_classes_that_the_error_is_an_instance_of(project: Project, tmp_path: Path) -> None:
    (tmp_path / "tries").mkdir()
    events: list[Event] = []
    assert emulate(project, "retried", tmp_path, events, folder=str(tmp_path / "tries"), count=2) == [0, 1]
    retried = [event for event in events if isinstance(event, StepRetried)]
    assert sorted((event.item, event.attempt, event.failure.error) for event in retried) == [
        ((index,), attempt, "Flaky") for index in range(2) for attempt in (1, 2)
    ]


def test_a_flow_that_fails_says_which_item_and_where(project: Project, tmp_path: Path) -> None:
    events: list[Event] = []
    with pytest.raises(
        RunError, match=r"failed in the map over numbers\(\) \(tolerated: none\);.* odd_only\(\) raised"
    ):
        emulate(project, "strict", tmp_path, events)
    [failed] = [event for event in events if isinstance(event, ItemFailed)][:1]
    assert (failed.id, failed.failure.step, failed.failure.error) == ("numbers", "odd_only", "ValueError")
    assert failed.failure.message == f"{failed.item[0]} is even"
    assert failed.failure.where.split("/")[-1].startswith("emulated_flows.py:")
    assert 'raise ValueError(f"{number} is even")' in failed.failure.traceback
    assert isinstance(events[-1], RunFailed)


def test_a_step_that_fails_is_a_failed_step(project: Project, tmp_path: Path) -> None:
    events: list[Event] = []
    with pytest.raises(RunError, match="LookupError: no goose"):
        emulate(project, "refused", tmp_path, events)
    assert [type(event) for event in events] == [RunStarted, StepStarted, StepFailed, RunFailed]


def test_parameters_that_do_not_fit_are_refused_before_anything_starts(project: Project, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="'count' is"):
        emulate(project, "doubled", tmp_path, count="many")
    assert not (tmp_path / "runs").exists()


def test_the_history_and_the_functions_logs_are_kept(project: Project, tmp_path: Path) -> None:
    emit = [].append
    project.session("doubled", tmp_path, emit).run(project.flow("doubled"), {"count": 2}, run_id="kept")
    folder = tmp_path / "runs" / "kept"
    history = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    main = [line["type"] for line in history if "child" not in line]
    assert main == [
        "ExecutionStarted", "TaskStateEntered", "TaskScheduled", "TaskSucceeded", "TaskStateExited",
        "MapStateEntered", "MapRunStarted", "MapRunSucceeded", "MapStateExited",
        "TaskStateEntered", "TaskScheduled", "TaskSucceeded", "TaskStateExited", "ExecutionSucceeded",
    ]  # fmt: skip
    assert sum(line["type"] == "ExecutionSucceeded" for line in history) == 3
    assert '"event":"end"' in (folder / "functions.log").read_text()
    record = json.loads((folder / "run.json").read_text())
    assert (record["flow"], record["status"], record["params"]) == ("doubled (emulated)", "finished", {"count": 2})
    with pytest.raises(RunFolderError, match="there is a run 'kept' already"):
        project.session("doubled", tmp_path, emit).run(project.flow("doubled"), {}, run_id="kept")


# --- requests to S3 ---


def count_requests(project: Project, name: str, count: int, tmp_path: Path) -> Counter[tuple[str, str]]:
    """Run a flow and count its requests to S3 by who made them and their method."""
    with Emulation(project.build(name), tmp_path, lambda event: None, EmulationOptions(workers=2)) as emulation:
        outcome = emulation.start("counted", {"count": count}).run()
        assert emulation.result(outcome) == sum(range(count)) * 2
        return Counter(
            (each.actor.rpartition("-")[2], each.method) for each in emulation.s3.requests() if each.actor != "caller"
        )


# The source: its pack and its manifest. The state machine: reads that, writes result files and a manifest of them.
# The items: nothing. The aggregating step: reads that manifest and the result files.
REQUESTS = {("numbers", "PUT"): 2, ("states", "GET"): 1, ("states", "PUT"): 2, ("total", "GET"): 2}


@pytest.mark.parametrize(("name", "count"), [("doubled", 10), ("batched", 10), ("batched", 10_000)])
def test_small_items_cost_no_requests_to_s3(project: Project, tmp_path: Path, name: str, count: int) -> None:
    assert count_requests(project, name, count, tmp_path) == REQUESTS


@pytest.mark.slow
def test_ten_thousand_items_without_batches_cost_no_requests_to_s3(project: Project, tmp_path: Path) -> None:
    assert count_requests(project, "doubled", 10_000, tmp_path) == REQUESTS


# --- redrive and chaos ---


def test_a_failed_execution_succeeds_when_it_is_redriven(project: Project, tmp_path: Path) -> None:
    folder = tmp_path / "tries"
    events: list[Event] = []
    options = EmulationOptions(workers=1, shared=[tmp_path])
    with Emulation(project.build("retried"), tmp_path, events.append, options) as emulation:
        execution = emulation.start("redriven", {"folder": str(folder)})
        assert execution.run().error == "States.ExceedToleratedFailureThreshold"
        folder.mkdir()
        for number in range(3):
            (folder / str(number)).write_text("xx")
        outcome = execution.redrive()
        assert emulation.result(outcome) == [0, 1, 2]
        assert sum(each.method == "PUT" and "items.pkl.gz" in each.key for each in emulation.s3.requests()) == 1


@LONG
def test_a_failed_run_goes_on_in_another_process(project: Project, tmp_path: Path) -> None:
    tries = tmp_path / "tries"
    told: list[Event] = []
    session = project.session("retried", tmp_path, told.append)
    graph = project.flow("retried")
    with pytest.raises(RunFolderError, match="no emulated run of retried"):
        session.resume(graph)
    with pytest.raises(RunError):
        session.run(graph, {"folder": str(tries), "count": 3}, "first")
    tries.mkdir()
    for number in range(3):
        (tries / str(number)).write_text("xx")
    told.clear()
    assert session.resume(graph) == [0, 1, 2]
    assert [type(event) for event in told][:2] == [RunStarted, MapStarted], "the source is not run again"
    with pytest.raises(RunFolderError, match="is one of retried"):
        session.resume(graph, "first")


@LONG
def test_a_failed_run_can_be_resumed_although_its_permissions_were_not_worked_out(
    project: Project, tmp_path: Path
) -> None:
    def suggest(lines_by_step: Mapping[str, Sequence[str]]) -> None:
        raise BlockingIOError("nobody hears")

    session = project.session("retried", tmp_path, lambda event: None)
    graph, tries = project.flow("retried"), tmp_path / "tries"
    with pytest.raises(BlockingIOError, match="nobody hears"):
        replace(session, suggest=suggest).run(graph, {"folder": str(tries), "count": 3})
    tries.mkdir()
    for number in range(3):
        (tries / str(number)).write_text("xx")
    assert session.resume(graph) == [0, 1, 2]


def chaos_run(project: Project, name: str, seed: str, folder: Path, params: dict[str, object]) -> object:
    """Run a flow with faults, and redrive it until it succeeds; nothing may be lost, doubled or out of order."""
    folder.mkdir()
    options = EmulationOptions(workers=2, chaos=seed)
    with Emulation(project.build(name), folder, lambda event: None, options) as emulation:
        execution = emulation.start(f"chaos-{seed}", params)  # type: ignore[arg-type]
        outcome = execution.run()
        redrives = 0
        while outcome.status != "SUCCEEDED":
            assert outcome.error in {
                "Runtime.ExitError", "States.ExceedToleratedFailureThreshold", "StoreError", "TooManyFailuresError",
            }, outcome  # fmt: skip
            redrives += 1
            assert redrives < 30, outcome
            outcome = execution.redrive()
        return emulation.result(outcome)


EXPECTED = {
    "doubled": ({"count": 12}, sum(range(12)) * 2),
    "stored": ({"count": 6}, [20_000_000 + n for n in range(6)]),
    "twice": ({}, [n * 16 for n in range(5)]),
    "batched": ({"count": 1100}, sum(range(1100)) * 2),
}


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=LONG) for seed in (1, 2))])
def test_faults_end_in_the_right_result_or_in_a_failure_that_a_redrive_heals(
    project: Project, tmp_path: Path, seed: int
) -> None:
    name = list(EXPECTED)[seed % len(EXPECTED)]
    params, expected = EXPECTED[name]
    assert chaos_run(project, name, str(seed), tmp_path / "run", params) == expected  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5, 205))
def test_200_seeds_of_faults_lose_double_and_disorder_nothing(project: Project, tmp_path: Path, seed: int) -> None:
    name = list(EXPECTED)[seed % len(EXPECTED)]
    params, expected = EXPECTED[name]
    assert chaos_run(project, name, str(seed), tmp_path / "run", params) == expected  # type: ignore[arg-type]


# --- the command, and the end ---


def command(project: Project, folder: Path, *arguments: str) -> subprocess.Popen[str]:
    program = (
        "import sys; from emulated_flows import *; from lokki.cli.commands.emulate import emulate_command; "
        "name = sys.argv.pop(1); "
        "sys.exit(emulate_command(globals()[name](), 'flow').main(sys.argv[1:], 'flow', standalone_mode=False))"
    )
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{project.folder}:{ROOT}", "TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_command_prints_nothing_but_the_result_on_stdout(project: Project, tmp_path: Path) -> None:
    with command(project, tmp_path, "doubled", "--count", "4") as running:
        out, told = running.communicate(timeout=120)
    assert (running.returncode, out) == (0, "12\n")
    lines = [re.sub(r" in .*|run \S+", "", line) for line in told.splitlines() if not line.startswith("  ")]
    assert lines == [
        "doubled: 3 zip packages for x86_64, requirements from nothing beyond lokki",
        "5 new",
        "doubled:  started",
        "numbers: 4 items",
        "double: 4 items",
        "total: done",
        "doubled: finished",
    ]


def test_the_command_says_why_a_run_failed(project: Project, tmp_path: Path) -> None:
    with command(project, tmp_path, "strict", "--quiet") as running:
        out, told = running.communicate(timeout=120)
    assert (running.returncode, out) == (1, "")
    first, *_, error, last, go_on = told.splitlines()
    assert re.fullmatch(r"fix it and resume with: flow emulate --resume \S+", go_on)
    assert first == "Traceback (most recent call last):"
    assert re.fullmatch(r"ValueError: \d is even", error)
    failed = r"(item \d|\d of 5 items) failed in the map over numbers\(\) \(tolerated: none\);( first item \d:)?"
    assert re.fullmatch(rf"error: {failed} odd_only\(\) raised {error} at .*emulated_flows.py:\d+", last)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_when_the_command_is_stopped(project: Project, tmp_path: Path, number: int) -> None:
    with command(project, tmp_path, "hanging") as running:
        end = time.monotonic() + 20
        log = Path()
        while "slow" not in (log.read_text() if log.is_file() else ""):
            assert time.monotonic() < end
            time.sleep(0.05)
            log = next(iter(tmp_path.glob(".lokki/runs/*/functions.log")), Path())
        assert processes_below(tmp_path)
        running.send_signal(number)
        running.communicate(timeout=20)
    assert running.returncode == (-9 if number == signal.SIGKILL else 130)
    end = time.monotonic() + 10
    while processes_below(tmp_path) or list(tmp_path.glob("lokki-emulator-*")):
        assert time.monotonic() < end, (processes_below(tmp_path), list(tmp_path.glob("lokki-emulator-*")))
        time.sleep(0.05)
    run = local("hanging", tmp_path / ".lokki").latest()
    assert run.status == ("killed" if number == signal.SIGKILL else "interrupted")
    assert list(cast("Items", run.step("numbers"))) == [0, 1, 2], "what was in S3 is kept"


def processes_below(folder: Path) -> list[str]:
    """Return the command lines of processes whose scratch or code is in a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if f"{folder}/lokki-emulator-" in line:
            found.append(line)
    return found


def test_nothing_is_left_after_an_emulation(project: Project, tmp_path: Path) -> None:
    with command(project, tmp_path, "doubled") as running:
        running.communicate(timeout=120)
    assert running.returncode == 0
    assert {path.name for path in tmp_path.iterdir()} == {".lokki"}
    assert processes_below(tmp_path) == []


# --- what cannot be emulated ---


def broken(project: Project, folder: Path, name: str, edit: tuple[str, str]) -> Path:
    """Copy a build and replace some text in one of its files."""
    source = project.build("doubled")
    copy = folder / "copy"
    copy.mkdir()
    for each in source.iterdir():
        (copy / each.name).symlink_to(each)
    (copy / name).unlink()
    text = (source / name).read_text()
    assert edit[0] in text
    (copy / name).write_text(text.replace(*edit))
    return copy


@pytest.mark.parametrize(
    ("name", "edit", "message"),
    [
        ("statemachine.json", ('"Label": "numbers"', '"Label": "other"'), "hold different definitions. Build again."),
        ("template.yaml", ("MemorySize: 512", "MemorySize: 512\n      FutureSetting: a"), "does not know Future"),
        ("template.yaml", ("MemorySize: 512", "MemorySize: much"), "Expected `int`, got `str` - at `$.MemorySize`."),
        ("template.yaml", ("- x86_64", "- riscv"), "is for Linux on riscv, and this is linux on"),
        ("template.yaml", ("Runtime: python3.13", "Runtime: python3.9"), "is for python3.9, and this is python3.13."),
        ("template.yaml", ("Fn::Sub: '${FlowName}-", "Fn::Upper: '${FlowName}-"), "does not know Fn::Upper."),
        ("build.json", ('"zip": "lambdas/double.zip"', '"zip": "lambdas/lost.zip"'), "has no package with the key"),
    ],
)  # fmt: skip
def test_what_cannot_be_emulated_is_refused(
    project: Project, tmp_path: Path, name: str, edit: tuple[str, str], message: str
) -> None:
    bundle = broken(project, tmp_path, name, edit)
    with pytest.raises(EmulatorError) as caught, Emulation(bundle, tmp_path, lambda event: None):
        pass
    assert message in str(caught.value)


# --- random flows in real packages ---

INNER = st.lists(st.sampled_from(["double", "plus(amount=3)", "odd_only"]), min_size=1, max_size=3)
BLOCK = st.tuples(INNER, st.none() | st.integers(1, 4), st.none() | st.integers(1, 3))


def source(blocks: list[tuple[list[str], int | None, int | None]], items: int) -> str:
    """Write a flow of these map blocks, with the steps of the project."""
    chain = f"numbers(count={items})"
    for inner, batch, concurrency in blocks:
        first, *others = inner
        chain += f".map({first}, batch={batch}, concurrency={concurrency}, tolerate=1.0)"
        chain += "".join(f".next({each})" for each in others) + ".agg(same)"
    return f"from emulated_flows import *\n\n\n@flow\ndef random_flow():\n    return {chain}\n"


@pytest.mark.slow
@given(st.lists(BLOCK, min_size=1, max_size=2), st.integers(0, 6))
@settings(deadline=None, max_examples=20, suppress_health_check=list(HealthCheck))
def test_random_flows_give_the_same_in_real_packages(
    project: Project, blocks: list[tuple[list[str], int | None, int | None]], items: int
) -> None:
    name = f"random_{next(_numbers)}"
    (project.folder / f"{name}.py").write_text(source(blocks, items))
    graph = load_flow(f"{project.folder / f'{name}.py'}:random_flow")()
    with tempfile.TemporaryDirectory() as folder:
        config = LokkiConfig(artifact_bucket="my-artifacts", build_dir=f"{folder}/build")
        Builder(write=lambda line: None).build(graph, config)
        session = Session(Path(folder) / "build", lambda event: None, EmulationOptions(workers=2), Path(folder) / "e")
        local = LocalRunner(root=Path(folder) / "l").run(graph, {})
        assert session.run(graph, {}) == local


# --- images ---

LARGE = """
from pathlib import Path
from lokki import flow, main, step

@step
def size() -> int:
    return Path(__file__).with_name("model.bin").stat().st_size

@flow
def large():
    return size()

if __name__ == "__main__":
    main(large)
"""


@pytest.mark.slow
def test_what_is_packaged_as_an_image_may_be_larger_than_a_zip(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.write("flow.py", LARGE)
    with (tmp_path / "model.bin").open("wb") as file:
        file.truncate(270 * 2**20)
    settings = "artifact_bucket: my-bucket\ninclude: [model.bin]\n"
    place.write("lokki.yml", settings)
    refused = place.run("flow.py", "emulate", "--quiet")
    assert (refused.code, "Lambda takes 250 MiB" in refused.err) == (1, True)
    place.write("lokki.yml", f"{settings}ecr_repo_prefix: 123456789012.dkr.ecr.eu-north-1.amazonaws.com/team\n")
    assert place.run("flow.py", "emulate", "--quiet").out == f"{270 * 2**20}\n"


@LONG
def test_an_image_is_emulated_from_what_is_in_it(project: Project, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    config = LokkiConfig(
        artifact_bucket="my-artifacts",
        ecr_repo_prefix="123456789012.dkr.ecr.eu-north-1.amazonaws.com/team",
        build_dir=str(folder),
    )
    Builder(write=lambda line: None).build(project.flow("doubled"), config)
    with pytest.raises(EmulatorError, match="is an image, which the emulator cannot build"):
        Session(folder, lambda event: None, EmulationOptions(), tmp_path).run(project.flow("doubled"), {})
    unpacked = {step: tmp_path / step for step in ("numbers", "double", "total")}
    for name, root in unpacked.items():
        with zipfile.ZipFile(project.build("doubled") / "lambdas" / f"{name}.zip") as file:
            file.extractall(root)
    options = EmulationOptions(workers=2, images=unpacked)
    assert Session(folder, lambda event: None, options, tmp_path).run(project.flow("doubled"), {}) == 90
