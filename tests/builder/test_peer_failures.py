"""Failures that the peer is known for, looked for in what is built and run; docs/verification.md lists all thirteen."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any, cast

import pytest
from build_flows import BUILDS
from support.definitions import filled_definition
from support.emulation import World, failing, make_world

from lokki import FlowGraph, Retry, flow, step
from lokki.base.values import Json
from lokki.builder.builder import Builder
from lokki.config import LokkiConfig
from lokki.emulator.states.definition import check_expressions, read_definition
from lokki.emulator.states.expressions import Expressions
from lokki.errors import EmulatorError

BUCKET = "my-artifacts"
RESULTS = "lokki/measured/run-1/numbers/map_results"

type Definition = dict[str, Any]


@step
def numbers() -> list[int]:
    return [5, 6, 7]


@step(retry=Retry(attempts=3, delay=0, on=(ConnectionError,)))
def fetch(number: int) -> int:
    return number


@step(retry=Retry(attempts=3, delay=0, on=(ConnectionError,)))
def total(results: list[int]) -> int:
    return sum(results)


@flow
def measured():
    return numbers().map(fetch, batch=1).agg(total)


def definition(graph: FlowGraph) -> Definition:
    """Return a flow's state machine as CloudFormation would fill it, with steps' names as functions."""
    return cast("Definition", filled_definition(graph, LokkiConfig(artifact_bucket=BUCKET), BUCKET))


def world(*failures: str) -> World:
    """Make the functions of the flow: what the contract says that they answer, and ``failures`` of the item 1's."""
    manifest: Json = [{"index": index, "item": number} for index, number in enumerate((5, 6, 7))]
    key = "lokki/measured/run-1/numbers/map_manifest.json"
    unlucky = failing(*failures)

    def fetched(event: Json) -> Json:
        assert isinstance(event, dict)
        item = event["item"]
        assert isinstance(item, dict)
        if item["index"] == 1:
            unlucky(event)
        return {"index": item["index"], "result": item["item"]}

    return make_world(
        {
            "numbers": lambda event: {"map_manifest_key": key, "items": 3, "params": {}},
            "fetch": fetched,
            "total": lambda event: {"result": event},
        },
        {(BUCKET, key): json.dumps(manifest).encode()},
    )


def invocations(made: World) -> list[tuple[str, Definition]]:
    return cast("list[tuple[str, Definition]]", made.functions.invocations)


@pytest.mark.parametrize(
    ("failures", "status", "tries"),
    [
        ((), "SUCCEEDED", 1),
        (("ConnectionError",), "SUCCEEDED", 2),
        (("ConnectionError",) * 2, "SUCCEEDED", 3),
        (("ConnectionError",) * 3, "FAILED", 3),
        (("ValueError",), "FAILED", 1),
    ],
)
def test_a_step_is_tried_as_often_as_its_retry_says(failures: tuple[str, ...], status: str, tries: int) -> None:
    """The peer tried once more or less, and never inside a map."""
    made = world(*failures)
    assert made.start(definition(measured())).run().status == status
    invoked = [event["item"]["index"] for name, event in invocations(made) if name == "fetch"]
    assert Counter(invoked)[1] == tries


def test_a_step_outside_of_a_map_is_tried_as_often_as_its_retry_says() -> None:
    made = world()
    made.functions.answers["total"] = failing(*["ConnectionError"] * 3)
    assert made.start(definition(measured())).run().error == "ConnectionError"
    assert Counter(name for name, _ in made.functions.invocations)["total"] == 3


def test_each_invocation_in_a_map_gets_its_own_item() -> None:
    """The peer handed on the whole input of the map."""
    made = world()
    made.start(definition(measured())).run()
    assert [event for name, event in invocations(made) if name == "fetch"] == [
        {"run_id": "run-1", "call": "fetch", "attempt": 0, "item": {"index": index, "item": number}}
        for index, number in enumerate((5, 6, 7))
    ]


def test_the_aggregating_step_gets_the_results() -> None:
    """The peer's never read them."""
    made = world()
    made.start(definition(measured())).run()
    name, event = invocations(made)[-1]
    assert name == "total"
    given = event["input"]
    manifest: Definition = made.objects.json(BUCKET, given["results_manifest_key"])  # type: ignore[assignment]
    files = manifest["ResultFiles"]["SUCCEEDED"]
    assert given["results_manifest_key"].startswith(f"{RESULTS}/")
    assert [made.objects.json(BUCKET, file["Key"]) for file in files] == [
        [{"index": index, "result": number} for index, number in enumerate((5, 6, 7))]
    ]


def test_a_result_writer_with_key_and_body_is_refused() -> None:
    machine = definition(measured())
    [block] = [state for state in machine["States"].values() if state["Type"] == "Map"]
    block["ResultWriter"]["Arguments"] = {"Bucket": BUCKET, "Key": "results.json", "Body": "{% $states.result %}"}
    with pytest.raises(EmulatorError, match=r"ResultWriter.*(Key|Body)"):
        read_definition(machine, "measured")


def test_every_expression_of_the_definition_is_one_that_step_functions_takes() -> None:
    check_expressions(definition(measured()), Expressions())


def test_the_folder_of_an_image_can_import_its_flow(tmp_path: Path) -> None:
    """The peer's image had the handler alone. Nothing but the folder and lokki's requirements is there to import."""
    config = LokkiConfig(artifact_bucket=BUCKET, ecr_repo_prefix="registry/acme", build_dir=str(tmp_path / "out"))
    Builder(lambda line: None, cache=tmp_path / "cache").build(BUILDS["birds"].graph, config)
    folder = tmp_path / "out" / "lambdas" / "flap_bird"
    assert "COPY . /build/code" in (folder / "Dockerfile").read_text().splitlines()
    packages = [path for path in sys.path if path.endswith("site-packages")]
    program = (
        "import sys; sys.path[:0] = [sys.argv[1]]; sys.path += sys.argv[2:]\n"
        "import birds_flow_example, handler, lokki\n"
        "print(birds_flow_example.__file__, lokki.__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program, str(folder), *packages],
        env={"LOKKI_ARTIFACT_BUCKET": BUCKET, "LOKKI_FLOW_NAME": "birds-flow", "AWS_REGION": "us-east-1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == f"{folder / 'birds_flow_example.py'} {folder / 'lokki/__init__.py'}\n", done.stderr
    (folder / "birds_flow_example.py").unlink()
    again = subprocess.run([*done.args], capture_output=True, text=True, check=False)
    assert "No module named 'birds_flow_example'" in again.stderr
