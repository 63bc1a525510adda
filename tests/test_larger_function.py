"""A call that runs out of memory runs again in a larger function: ``@step(memory_max=…)``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from build_flows import BUILDS, fetch
from support.deployed import Deployed, DyingFirst

from lokki import StepNode, flow, step
from lokki.builder.builder import Builder
from lokki.builder.cloudformation import build_template
from lokki.builder.package_types import ZipCode
from lokki.config import LambdaDefaultsConfig, LokkiConfig
from lokki.emulator.run import EmulationOptions
from lokki.emulator.s3 import S3Server
from lokki.emulator.session import Session
from lokki.errors import FlowError
from lokki.events import Event, ItemsFinished, StepFinished, StepRetried, StepStarted
from lokki.loading import load_flow
from lokki.operate.machine import read_machine
from lokki.results_emulated import KeptHistory


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with S3Server("acme-artifacts") as server:
        yield server


# --- what is built ---


def test_a_call_has_a_second_state_that_gets_what_the_first_got_and_goes_on_as_it_does() -> None:
    states = BUILDS["memory"].state_machine()["States"]
    first, larger = states["Unpack2"], states["Unpack2-XL"]
    assert first["Catch"] == [
        {
            "ErrorEquals": ["Runtime.OutOfMemory", "Runtime.ExitError", "Lambda.Unknown"],
            "Output": "{% $states.input %}",
            "Next": "Unpack2-XL",
        }
    ]
    differing = {name for name in {*first, *larger} if first.get(name) != larger.get(name)}
    assert differing == {"Arguments", "Retry", "Catch"}
    assert first["Arguments"]["FunctionName"] == "${UnpackFunctionArn}"
    assert larger["Arguments"] == first["Arguments"] | {"FunctionName": "${UnpackXlFunctionArn}"}


def test_the_first_function_is_not_tried_again_on_what_sends_the_call_to_the_larger_one() -> None:
    states = BUILDS["memory"].state_machine()["States"]["TidyMap"]["ItemProcessor"]["States"]
    deaths = {"Runtime.OutOfMemory", "Runtime.ExitError", "Lambda.Unknown"}
    assert deaths.isdisjoint(error for rule in states["Unpack"]["Retry"] for error in rule["ErrorEquals"])
    assert deaths <= {error for rule in states["Unpack-XL"]["Retry"] for error in rule["ErrorEquals"]}
    assert "Next" not in states["Unpack"]
    assert states["Unpack"]["End"]


def test_the_larger_function_has_the_same_code_log_and_settings_and_a_version_of_its_own() -> None:
    resources = BUILDS["memory"].template()["Resources"]
    first, larger = (resources[name]["Properties"] for name in ("UnpackFunction", "UnpackXlFunction"))
    assert {name for name in first if first[name] != larger[name]} == {"FunctionName", "Description", "MemorySize"}
    assert (first["MemorySize"], larger["MemorySize"]) == (256, 2048)
    assert larger["FunctionName"] == {"Fn::Sub": "${FlowName}-unpack_xl"}
    substitutions = resources["StateMachine"]["Properties"]["DefinitionSubstitutions"]
    version = substitutions["UnpackXlFunctionArn"]["Ref"]
    assert resources[version]["Properties"] == {"FunctionName": {"Ref": "UnpackXlFunction"}}


def template_of(*steps: StepNode[..., Any], config: LokkiConfig | None = None) -> dict[str, Any]:
    @flow
    def some_flow():
        chain = fetch()
        for each in steps:
            chain = chain.next(each)
        return chain

    drawn = some_flow()
    packages = {each.name: ZipCode(each.name) for each in drawn.steps}
    return build_template(drawn, config or LokkiConfig(artifact_bucket="b"), packages)


@step(memory_max=1024)
def sort(values: list[int]) -> list[int]:
    return sorted(values)


@step
def sort_xl(values: list[int]) -> list[int]:
    return sorted(values)


def test_a_step_may_have_the_name_that_the_larger_function_would_have() -> None:
    resources = template_of(sort, sort_xl)["Resources"]
    names = [each["Properties"]["FunctionName"] for each in resources.values() if each["Type"].endswith("::Function")]
    assert [each["Fn::Sub"] for each in names] == [
        "${FlowName}-fetch", "${FlowName}-sort", "${FlowName}-sort_xl_xl", "${FlowName}-sort_xl",
    ]  # fmt: skip


def test_a_larger_function_that_is_not_larger_by_the_settings_is_refused() -> None:
    config = LokkiConfig(artifact_bucket="b", lambda_defaults=LambdaDefaultsConfig(memory=2048))
    with pytest.raises(FlowError) as error:
        template_of(sort, config=config)
    assert str(error.value) == (
        "@step(memory_max=1024) of sort(): its function has 2048 MB by lambda_defaults.memory, and memory_max is for "
        "another try with more. Give more, or give @step(memory=…)."
    )


def test_the_time_of_a_second_try_counts_for_the_five_minutes_of_express() -> None:
    @step(timeout=60)
    def once(value: int) -> int:
        return value

    @step(timeout=60, memory_max=1024)
    def twice(value: int) -> int:
        return value

    def kind(inner: StepNode[..., Any]) -> str:
        @flow
        def some_flow():
            return fetch().map(inner).agg(sort)

        drawn = some_flow()
        packages = {each.name: ZipCode(each.name) for each in drawn.steps}
        text = build_template(drawn, LokkiConfig(artifact_bucket="b"), packages)["Resources"]["StateMachine"]  # type: ignore[index, call-overload]
        return "EXPRESS" if "EXPRESS" in str(text) else "STANDARD"

    assert (kind(once), kind(twice)) == ("EXPRESS", "STANDARD")


# --- what runs ---


@step
def count_up() -> list[int]:
    return [1, 2, 3]


@step(memory_max=1024)
def grow(value: int) -> int:
    return value * 10


@step(memory_max=1024)
def gather(values: list[int]) -> int:
    return sum(values)


@step
def name_it(value: int) -> str:
    return f"total {value}"


@flow
def growing():
    return count_up().map(grow).agg(gather).next(name_it)


@flow
def growing_in_batches():
    return count_up().map(grow, batch=2).agg(gather).next(name_it)


@pytest.fixture(params=["growing", "growing_in_batches"])
def deployed(request: pytest.FixtureRequest, s3: S3Server) -> Deployed:
    return Deployed({"growing": growing, "growing_in_batches": growing_in_batches}[request.param](), LokkiConfig(), s3)


def test_whatever_dies_of_memory_gives_its_result_from_the_larger_function(deployed: Deployed) -> None:
    deployed.functions = functions = DyingFirst(deployed.functions, {"grow", "gather"})
    outcome = deployed.run({}, f"dying-{deployed.graph.name}")
    assert (outcome.status, outcome.output) == ("SUCCEEDED", {"result": "total 60"})
    assert functions.asked.count("grow") == functions.asked.count("grow_xl") > 0


def test_whatever_dies_there_too_fails_as_before(deployed: Deployed) -> None:
    deployed.functions = DyingFirst(deployed.functions, {"gather", "gather_xl"})
    outcome = deployed.run({}, f"dead-{deployed.graph.name}")
    assert (outcome.status, outcome.error) == ("FAILED", "Runtime.OutOfMemory")


def test_a_deployed_run_tells_of_one_step_that_was_tried_twice(s3: S3Server) -> None:
    deployed = Deployed(growing(), LokkiConfig(), s3)
    machine = read_machine(deployed.machine)
    assert machine.calls["Gather-XL"] == machine.calls["Gather"] == "gather"
    assert machine.order == ("CountUp", "CountUpMap", "Gather", "NameIt")
    assert {each.inner for each in machine.maps.values()} == {("grow",)}


# --- really out of memory ---


FLOW = """
from lokki import flow, step


@step
def sizes() -> list[int]:
    return [1, 300, 2]


@step(memory=256, memory_max=1024)
def fill(size: int) -> int:
    return len(bytearray(size * 2**20)) // 2**20


@step(memory=256, memory_max=1024)
def fill_again(filled: list[int]) -> int:
    return len(bytearray(sum(filled) * 2**20)) // 2**20


@flow
def hungry():
    return sizes().map(fill).agg(fill_again)
"""


@pytest.mark.slow
def test_an_item_and_a_step_that_die_of_memory_run_again_in_a_larger_function(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hungry_flow.py").write_text(FLOW)
    graph = load_flow(f"{tmp_path / 'hungry_flow.py'}:hungry")()
    bundle = tmp_path / "build"
    Builder(lambda line: None).build(graph, LokkiConfig(artifact_bucket="my-artifacts", build_dir=str(bundle)))
    events: list[Event] = []
    session = Session(bundle, events.append, EmulationOptions(workers=2), tmp_path / ".lokki")
    assert session.run(graph, {}, "hungry-1") == 303
    retried = [
        (each.id, each.index, each.attempt, each.failure.error) for each in events if isinstance(each, StepRetried)
    ]
    assert sorted(retried, key=str) == [
        ("fill", 1, 1, "Runtime.OutOfMemory"),
        ("fill_again", None, 1, "Runtime.OutOfMemory"),
    ]
    assert [each.id for each in events if isinstance(each, StepStarted)] == ["sizes", "fill_again"]
    assert [each.id for each in events if isinstance(each, StepFinished)] == ["sizes", "fill_again"]
    assert sum(each.count for each in events if isinstance(each, ItemsFinished)) == 3
    kept = KeptHistory(tmp_path / ".lokki" / "runs" / "hungry-1")
    assert (kept.output("hungry-1", "FillAgain"), kept.output("hungry-1", "Fill")) == ({"result": 303}, None)
