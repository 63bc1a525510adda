"""A call that runs out of memory runs again in a larger function: ``@step(memory_max=…)``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aws.deployed import Deployed, DyingFirst, Handlers
from build_flows import BUILDS, fetch

from lokki import StepNode, flow, step
from lokki.builder.builder import Builder
from lokki.builder.cloudformation import build_template
from lokki.builder.compiled import compile_flow
from lokki.builder.package_types import ZipCode
from lokki.builder.states import machine_of
from lokki.builder.timing import fits_express
from lokki.config import LambdaDefaultsConfig, LokkiConfig
from lokki.emulator.run import EmulationOptions
from lokki.emulator.s3.client import S3Server
from lokki.emulator.session import Session
from lokki.emulator.states.outcome import Outcome
from lokki.emulator.states.services import Caller, FunctionReply
from lokki.engine.events import Event, ItemsFinished, StepFinished, StepRetried, StepStarted
from lokki.errors import FlowError
from lokki.graph import FlowGraph
from lokki.loading import load_flow
from lokki.local_run.checksums import Checksums
from lokki.plan_json import plan_from_definition
from lokki.results.emulated import KeptHistory


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

    def fits(inner: StepNode[..., Any]) -> bool:
        @flow
        def some_flow():
            return fetch().map(inner).agg(sort)

        compiled = compile_flow(some_flow(), LokkiConfig())
        return fits_express(compiled, compiled.maps[0])

    assert (fits(once), fits(twice)) == (True, False)


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
    asked = {name: functions.asked.count(name) for name in ("grow", "grow_xl", "gather", "gather_xl")}
    assert min(asked.values()) > 0
    if deployed.graph.name == "growing":  # a batch is searched by halves instead
        assert asked == {"grow": 3, "grow_xl": 3, "gather": 1, "gather_xl": 1}


def test_whatever_dies_there_too_fails_as_before(deployed: Deployed) -> None:
    deployed.functions = DyingFirst(deployed.functions, {"gather", "gather_xl"})
    outcome = deployed.run({}, f"dead-{deployed.graph.name}")
    assert (outcome.status, outcome.error) == ("FAILED", "Runtime.OutOfMemory")


# --- in a batch, only the item at fault ---


@step
def count_to(items: int) -> list[int]:
    return list(range(items))


@step(memory_max=1024)
def write_out(value: int, width: int) -> str:
    return f"{value:0{width}}"


@step(memory_max=1024)
def read_in(text: str) -> int:
    if int(text) == 2:
        raise ValueError(text)
    return int(text)


@step
def hand_on(values: list[Any]) -> list[int]:
    return [int(value) for value in values]


@flow
def counting(items: int, width: int):
    return count_to(items).map(write_out(width=width), batch=200).agg(hand_on)


@flow
def counting_in_two_steps(items: int, width: int):
    return count_to(items).map(write_out(width=width), batch=200, tolerate=1).next(read_in).agg(hand_on)


@dataclass
class DyingOf:
    """Functions that die of items, each its own; ``invocations`` have the function and the indexes of its items."""

    inner: Handlers | DyingFirst
    deadly: dict[str, set[int]]
    invocations: list[tuple[str, list[int]]] = field(default_factory=list)

    def invoke(self, function: str, payload: bytes, timeout: float, caller: Caller) -> FunctionReply:
        event = json.loads(payload)
        first, items = event.get("first", 0), [item["index"] for item in event.get("items", []) if "index" in item]
        items = items[first : first + event.get("size", len(items))]
        self.invocations.append((function, items))
        if self.deadly.get(function, set()) & set(items):
            return FunctionReply(b'{"errorType": "Runtime.OutOfMemory", "errorMessage": "signal: killed"}', failed=True)
        return self.inner.invoke(function.removesuffix("_xl"), payload, timeout, caller)

    def of(self, function: str) -> list[list[int]]:
        return [items for name, items in self.invocations if name == function]


def count(
    s3: S3Server, run_id: str, drawn: FlowGraph, deadly: dict[str, set[int]], **params: int
) -> tuple[Outcome, DyingOf]:
    deployed = Deployed(drawn, LokkiConfig(), s3)
    functions = DyingOf(deployed.functions, deadly)
    deployed.functions = functions  # type: ignore[assignment]
    return deployed.run({"items": 5, "width": 1, **params}, run_id), functions


@pytest.mark.parametrize(
    ("deadly", "first", "larger"),
    [
        ({3}, [[0, 1, 2, 3, 4], [0, 1, 2], [3], [4]], [[3]]),
        ({0}, [[0, 1, 2, 3, 4], [0, 1, 2], [0, 1], [0], [1, 2, 3, 4]], [[0]]),
        ({4}, [[0, 1, 2, 3, 4], [0, 1, 2], [3]], [[4]]),
        ({1, 3}, [[0, 1, 2, 3, 4], [0, 1, 2], [0, 1], [0], [2, 3, 4], [2, 3], [2], [4]], [[1], [3]]),
        (set(), [[0, 1, 2, 3, 4]], []),
    ],
)
def test_of_a_batch_only_the_item_at_fault_runs_in_the_larger_function(
    s3: S3Server, deadly: set[int], first: list[list[int]], larger: list[list[int]]
) -> None:
    outcome, functions = count(
        s3, f"batch-{sorted(deadly)}".translate(str.maketrans("[], ", "____")), counting(), {"write_out": deadly}
    )
    assert (outcome.status, outcome.output) == ("SUCCEEDED", {"result": [0, 1, 2, 3, 4]})
    assert (functions.of("write_out"), functions.of("write_out_xl")) == (first, larger)


def test_a_batch_of_one_goes_to_the_larger_function_at_once(s3: S3Server) -> None:
    outcome, functions = count(s3, "batch-of-one", counting(), {"write_out": {0}}, items=1)
    assert outcome.output == {"result": [0]}
    assert (functions.of("write_out"), functions.of("write_out_xl")) == ([[0]], [[0]])


def test_a_batch_of_which_much_dies_goes_to_the_larger_function_in_the_end(s3: S3Server) -> None:
    outcome, functions = count(s3, "batch-of-many", counting(), {"write_out": set(range(200))}, items=200)
    assert (outcome.status, outcome.output) == ("SUCCEEDED", {"result": list(range(200))})
    assert len(functions.of("write_out")) == 1 + 64
    assert sorted(index for items in functions.of("write_out_xl") for index in items) == list(range(200))


@pytest.mark.parametrize("deadly", [{77}, set(range(0, 150, 9))])
def test_the_results_of_a_searched_batch_are_not_too_much_for_a_state(s3: S3Server, deadly: set[int]) -> None:
    run_id = f"batch-of-{len(deadly)}"
    outcome, _ = count(s3, run_id, counting(), {"write_out": deadly}, items=150, width=2_000)
    assert (outcome.status, outcome.cause, outcome.output) == ("SUCCEEDED", "", {"result": list(range(150))})


def test_each_inner_step_is_searched_for_the_items_that_it_dies_of_and_failures_are_tolerated(s3: S3Server) -> None:
    deadly = {"write_out": {1}, "read_in": {3}}
    outcome, functions = count(s3, "batch-of-two-steps", counting_in_two_steps(), deadly)
    assert (outcome.status, outcome.output) == ("SUCCEEDED", {"result": [0, 1, 3, 4]})
    assert (functions.of("write_out_xl"), functions.of("read_in_xl")) == ([[1]], [[3]])


def test_a_batch_whose_item_dies_in_the_larger_function_too_fails(s3: S3Server) -> None:
    outcome, functions = count(s3, "batch-dead", counting(), {"write_out": {3}, "write_out_xl": {3}})
    assert (outcome.status, outcome.error) == ("FAILED", "States.ExceedToleratedFailureThreshold")
    assert functions.of("write_out_xl") == [[3]]


def test_an_error_of_an_item_in_the_search_fails_the_batch_as_any_error_does(s3: S3Server) -> None:
    @flow
    def strict(items: int, width: int):
        return count_to(items).map(write_out(width=width), batch=200).next(read_in).agg(hand_on)

    outcome, functions = count(s3, "batch-strict", strict(), {"read_in": {4}})
    assert (outcome.status, outcome.error) == ("FAILED", "States.ExceedToleratedFailureThreshold")
    assert functions.of("read_in") == [[0, 1, 2, 3, 4], [0, 1, 2]]


def test_a_deployed_run_tells_of_one_step_that_was_tried_twice(s3: S3Server) -> None:
    deployed = Deployed(growing(), LokkiConfig(), s3)
    machine = machine_of(plan_from_definition(deployed.machine))
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


KILLED = (
    "WorkerError: the worker process was killed by SIGKILL (out of memory: give the step a larger memory=, or "
    "memory_max= for another try)"
)


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
        (each.id, each.item, each.attempt, str(each.failure)) for each in events if isinstance(each, StepRetried)
    ]
    assert sorted(retried, key=str) == [
        ("fill", (1,), 1, f"fill() raised {KILLED} at {tmp_path}/hungry_flow.py:10"),
        ("fill_again", (), 1, f"fill_again() raised {KILLED} at {tmp_path}/hungry_flow.py:15"),
    ]
    assert [each.id for each in events if isinstance(each, StepStarted)] == ["sizes", "fill_again"]
    assert [each.id for each in events if isinstance(each, StepFinished)] == ["sizes", "fill_again"]
    assert sum(each.count for each in events if isinstance(each, ItemsFinished)) == 3
    folder = tmp_path / ".lokki" / "runs" / "hungry-1"
    kept = KeptHistory(folder, Checksums(folder))
    assert (kept.output("hungry-1", "FillAgain"), kept.output("hungry-1", "Fill")) == ({"result": 303}, None)


BATCH_FLOW = """
import os

from lokki import flow, step


@step
def sizes() -> list[int]:
    return [1, 2, 3, 300, 4]


@step(memory=256, memory_max=1024)
def fill(size: int) -> str:
    return f"{len(bytearray(size * 2**20)) // 2**20} in {os.environ['AWS_LAMBDA_FUNCTION_MEMORY_SIZE']}"


@step
def list_all(filled: list[str]) -> str:
    return ", ".join(filled)


@flow
def hungry_batch():
    return sizes().map(fill, batch=5).agg(list_all)
"""


@pytest.mark.slow
def test_of_a_batch_four_items_run_in_the_small_function_and_the_one_that_dies_of_memory_in_the_larger(
    tmp_path: Path,
) -> None:
    (tmp_path / "hungry_batch_flow.py").write_text(BATCH_FLOW)
    graph = load_flow(f"{tmp_path / 'hungry_batch_flow.py'}:hungry_batch")()
    bundle = tmp_path / "build"
    Builder(lambda line: None).build(graph, LokkiConfig(artifact_bucket="my-artifacts", build_dir=str(bundle)))
    events: list[Event] = []
    session = Session(bundle, events.append, EmulationOptions(workers=2), tmp_path / ".lokki")
    result = session.run(graph, {}, "hungry-batch-1")
    assert result == "1 in 256, 2 in 256, 3 in 256, 300 in 1024, 4 in 256"
    deaths = [str(each.failure) for each in events if isinstance(each, StepRetried)]
    assert (
        deaths == [f"fill() raised {KILLED} at {tmp_path}/hungry_batch_flow.py:12"] * 2
    )  # the whole batch, and the part of the item at fault
    assert sum(each.count for each in events if isinstance(each, ItemsFinished)) == 5
