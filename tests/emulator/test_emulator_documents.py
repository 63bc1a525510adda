"""AWS's own documented examples: what goes in, and what the page says comes out. The pages are named in the files."""

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.emulation import SlowError, World, distributed, failing, machine, make_world, task

from lokki.base.values import Json
from lokki.emulator.states.definition import read_definition
from lokki.emulator.states.execution import Execution
from lokki.emulator.states.outcome import Identity, Outcome

FOLDER = Path(__file__).parents[1] / "aws" / "documents"
EXAMPLES = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}
BUCKET = "amzn-s3-demo-destination-bucket"


def having(*names: str) -> list[str]:
    found = [name for name, example in EXAMPLES.items() if any(key in example for key in names)]
    assert found
    return found


def run(world: World, states: dict[str, Json], given: Json) -> Outcome:
    read = read_definition(machine(states), "orderProcessing")
    return Execution(world.services, read.states, Identity("orderProcessing", "run-1"), given).run()


def test_every_example_names_its_page_and_is_run() -> None:
    used = {*having("children", "sizes"), *having("outputs"), *having("errors", "seconds")}
    assert used == set(EXAMPLES)
    pages = {example["page"] for example in EXAMPLES.values()}
    assert all(page.startswith("https://docs.aws.amazon.com/step-functions/latest/dg/") for page in pages)
    assert len(pages) == 5


@pytest.mark.parametrize("name", having("children", "sizes"))
def test_children_get_the_inputs_that_the_page_shows(name: str) -> None:
    example = EXAMPLES[name]
    world = make_world({"work": lambda event: 1})
    if "object" in example:
        place = example["object"]
        world.objects.content[place["bucket"], place["key"]] = place["content"].encode()
    given = list(range(example["items"])) if "items" in example else example.get("input")
    assert run(world, {"Each": distributed({"Work": task()}, **example["map"])}, given).status == "SUCCEEDED"
    inputs: list[Any] = [event for _, event in world.functions.invocations]
    if "sizes" in example:
        assert [len(each["Items"]) for each in inputs] == example["sizes"]
    else:
        assert inputs == example["children"]


@pytest.mark.parametrize("name", having("outputs"))
def test_results_are_written_as_the_page_shows(name: str) -> None:
    example = EXAMPLES[name]
    outputs: list[Json] = example["outputs"]
    world = make_world({"work": lambda event: outputs[event]})  # type: ignore[index,call-overload]
    outcome = run(world, {"Each": distributed({"Work": task()}, **example["map"])}, list(range(len(outputs))))
    if "output" in example:
        assert masked(outcome.output) == example["output"]
    keys = {key.rpartition("/")[2]: key for _, key in world.objects.content}
    if "file" in example:
        assert sorted(keys) == ["SUCCEEDED_0.json", "manifest.json"]
        assert masked(world.objects.json(BUCKET, keys["SUCCEEDED_0.json"])) == example["file"]
    if "manifest" in example:
        assert masked(world.objects.json(BUCKET, keys["manifest.json"])) == example["manifest"]


@pytest.mark.parametrize("name", having("errors", "seconds"))
def test_errors_are_handled_as_the_page_says(name: str) -> None:
    example = EXAMPLES[name]

    def slow(event: Json) -> Json:
        raise SlowError(example["seconds"])

    world = make_world({"work": slow if "seconds" in example else failing(*example["errors"])})
    targets = {catcher["Next"] for catcher in example["state"].get("Catch", [])}
    fallbacks: dict[str, Json] = {target: {"Type": "Pass", "Output": target, "End": True} for target in targets}
    outcome = run(world, {"X": task(**example["state"]), **fallbacks}, None)
    assert world.clock.waits == example["waits"]
    if "fails" in example:
        assert outcome.error == example["fails"]
    else:
        assert outcome.output == example.get("goes_to", "done")


def masked(value: Json) -> Json:
    """Put words in the place of what is different in each run: names, dates, sizes and inputs."""
    identity = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
    text = msgspec.json.encode(value).decode()
    for pattern, word in (
        (rf"(mapRun:[^:]+:){identity}", r"\1<run>"),
        (rf"(csvProcessJobs/){identity}", r"\1<run>"),
        (identity, "<name>"),
        (r'("St(art|op)Date":)"[^"]+"', r'\1"<date>"'),
        (r'("Size":)\d+', r'\1"<size>"'),
        (r'("Input":)"[^"]*"', r'\1"<input>"'),
    ):
        text = re.sub(pattern, word, text)
    found: Json = json.loads(text)
    return found
