"""Batches: what a function has no time for is handed back, and of a batch that dies only the item at fault fails."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aws.deployed import Deployed, Handlers
from support.lambda_function import Context

from lokki import Retry, StepNode, flow, step
from lokki.base.values import Json
from lokki.builder.builder import Builder
from lokki.builder.compiled import compile_flow
from lokki.builder.states import machine_of
from lokki.config import LokkiConfig
from lokki.emulator.run import EmulationOptions
from lokki.emulator.s3.client import S3Server
from lokki.emulator.session import Session
from lokki.emulator.states.services import Caller, FunctionReply
from lokki.emulator.translation import EventTranslator
from lokki.engine.events import Event, ItemFailed, StepRetried
from lokki.estimate.cost import Workload, estimate
from lokki.graph import FlowGraph
from lokki.loading import load_flow
from lokki.plan import lower
from lokki.reports.samples import replay_of
from lokki.reports.timed import facts_of


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with S3Server("acme-artifacts") as server:
        yield server


@step
def count_to(items: int) -> list[int]:
    return list(range(items))


@step
def pad(value: int, width: int) -> str:
    return f"{value:0{width}}"


@step(retry=Retry(attempts=3))
def read(text: str) -> int:
    return int(text)


@step
def collect(values: list[int]) -> list[int]:
    return values


@flow
def padded(items: int, width: int = 1):
    return count_to(items).map(pad(width=width), batch=1000).next(read).agg(collect)


@flow
def tolerant(items: int, width: int = 1):
    return count_to(items).map(pad(width=width), batch=1000, tolerate=9).next(read).agg(collect)


@dataclass
class Functions:
    """Functions that die of items, each of its own, with an error; `ran` has the items that each invocation was for.

    A function has time for ``at_once`` items.
    """

    inner: Handlers
    deadly: dict[str, dict[int, str]]
    at_once: int = 0
    ran: dict[str, list[list[int]]] = field(default_factory=dict)

    def invoke(self, function: str, payload: bytes, timeout: float, caller: Caller) -> FunctionReply:
        event = json.loads(payload)
        if "items" in event:
            first = event.get("first", 0)
            items = range(first, min(first + event.get("size", 10_000), self.count))
            if event.get("died"):  # it is not run on that item
                items = items[1:]
            self.ran.setdefault(function, []).append([*items])
            if errors := [error for item, error in self.deadly.get(function, {}).items() if item in items]:
                report = {"errorType": errors[0], "errorMessage": "it died"}
                return FunctionReply(json.dumps(report).encode(), failed=True)
            if self.at_once:
                # Each look at the clock takes a second: one when it begins, and two for an item.
                context = Context(1000 * (2 * self.at_once + 2), 1000)
                reply = self.inner.handlers[function](event, context)
                return FunctionReply(json.dumps(reply).encode())
        return self.inner.invoke(function, payload, timeout, caller)

    count: int = 0


def deploy(
    drawn: FlowGraph, s3: S3Server, deadly: dict[str, dict[int, str]] | None = None, *, count: int, at_once: int = 0
) -> tuple[Deployed, Functions]:
    deployed = Deployed(drawn, LokkiConfig(), s3)
    assert isinstance(deployed.functions, Handlers)
    functions = Functions(deployed.functions, deadly or {}, at_once, count=count)
    deployed.functions = functions  # type: ignore[assignment]
    return deployed, functions


@pytest.mark.parametrize(("items", "width"), [(10, 1), (40, 4_000)])
def test_a_function_goes_on_where_its_last_invocation_ended(s3: S3Server, items: int, width: int) -> None:
    deployed, functions = deploy(padded(), s3, count=items, at_once=3)
    outcome = deployed.run({"items": items, "width": width}, f"handed-back-{items}")
    assert (outcome.status, outcome.cause, outcome.output) == ("SUCCEEDED", "", {"result": list(range(items))})
    firsts = [ran[0] for ran in functions.ran["pad"]]
    assert firsts == sorted(set(firsts))
    assert len(firsts) >= items / 4


@pytest.mark.parametrize("error", ["Runtime.ExitError", "Runtime.OutOfMemory", "Lambda.Unknown", "Sandbox.Timedout"])
def test_of_a_batch_that_dies_only_the_item_at_fault_fails(s3: S3Server, error: str) -> None:
    deployed, functions = deploy(tolerant(), s3, {"pad": {37: error}}, count=100)
    outcome = deployed.run({"items": 100}, f"died-{error}".replace(".", "-"))
    assert outcome.output == {"result": [*range(37), *range(38, 100)]}
    assert functions.ran["pad"].count([37]) == 1
    # No item runs more often than a batch can be halved, and once in the whole batch.
    runs = [sum(item in ran for ran in functions.ran["pad"]) for item in range(100)]
    assert max(runs) <= math.ceil(math.log2(100)) + 1
    assert sum(runs) <= 3 * 100


def test_each_of_several_items_at_fault_fails_alone(s3: S3Server) -> None:
    deadly = {3: "Runtime.ExitError", 4: "Runtime.ExitError", 19: "Sandbox.Timedout"}
    deployed, functions = deploy(tolerant(), s3, {"pad": deadly, "read": {7: "Runtime.OutOfMemory"}}, count=20)
    outcome = deployed.run({"items": 20}, "died-of-several")
    assert outcome.output == {"result": [item for item in range(20) if item not in (3, 4, 7, 19)]}
    # A death is a try of the step's.
    assert functions.ran["read"].count([7]) == 3


def test_a_death_is_a_try_of_the_item_at_fault_and_of_none_while_that_is_searched_for(s3: S3Server) -> None:
    deployed, _ = deploy(tolerant(), s3, {"pad": {5: "Runtime.ExitError"}}, count=8)
    deployed.run({"items": 8}, "died-and-told")
    events: list[Event] = []
    translate = EventTranslator(machine_of(lower(deployed.graph)), events.append)
    for entry in deployed.history:
        translate(entry)
    tries = [(event.id, event.item) for event in events if isinstance(event, StepRetried)]
    assert tries == [("pad", ()), ("pad", ()), ("pad", (5,))]
    facts = facts_of((float(number), event) for number, event in enumerate(events))
    calls = [call for group in facts.groups for call in group.examples if group.retried]
    commands = [(call.item, replay_of(call, lambda step, item: f"replay {item}")) for call in calls]
    assert commands == [((), ""), ((5,), "replay (5,)")]


def test_an_item_at_fault_fails_the_run_where_none_may_fail(s3: S3Server) -> None:
    deployed, functions = deploy(padded(), s3, {"pad": {5: "Runtime.OutOfMemory"}}, count=8)
    outcome = deployed.run({"items": 8}, "died-untolerated")
    assert outcome.error == "States.ExceedToleratedFailureThreshold"
    assert functions.ran["pad"][-1] == [5]


def test_deaths_and_hand_backs_of_one_batch_go_together(s3: S3Server) -> None:
    deployed, _ = deploy(tolerant(), s3, {"pad": {11: "Runtime.ExitError"}}, count=30, at_once=4)
    outcome = deployed.run({"items": 30, "width": 3000}, "died-and-handed-back")
    assert outcome.output == {"result": [*range(11), *range(12, 30)]}


def fails_once(seen: list[int], item: int) -> StepNode[..., int]:
    @step
    def once(value: int) -> int:
        seen.append(value)
        if value == item and seen.count(value) == 1:
            raise ValueError(value)
        return value

    return once


def test_a_redrive_goes_on_at_the_item_that_failed(s3: S3Server) -> None:
    seen: list[int] = []
    once = fails_once(seen, 6)

    @flow
    def redriven(items: int):
        return count_to(items).map(once, batch=5).agg(collect)

    deployed = Deployed(redriven(), LokkiConfig(), s3)
    execution = deployed.execution({"items": 10}, "redriven-batch")
    assert execution.run().status == "FAILED"
    assert seen == [0, 1, 2, 3, 4, 5, 6]
    outcome = execution.redrive()
    assert (outcome.status, outcome.output) == ("SUCCEEDED", {"result": list(range(10))})
    assert seen == [0, 1, 2, 3, 4, 5, 6, 6, 7, 8, 9]
    items: list[Json] = [event.details for event in deployed.history if event.type == "MapRunRedriven"]  # type: ignore[misc]
    assert len(items) == 1


# --- batches that size themselves ---


@step
def double(value: int) -> int:
    return value * 2


@step
def add_up(values: list[int]) -> int:
    return sum(values)


@flow
def doubled(items: int):
    return count_to(items).map(double, concurrency=10).agg(add_up)


@pytest.mark.parametrize(("items", "children"), [(0, 0), (10, 10), (100, 100), (1000, 100)])
def test_children_are_as_many_as_items_up_to_what_runs_at_once_and_few_beyond(
    s3: S3Server, items: int, children: int
) -> None:
    config = LokkiConfig()
    deployed = Deployed(doubled(), config, s3)
    assert deployed.run({"items": items}, f"sized-{items}").output == {"result": items * (items - 1)}
    assert deployed.children() == children
    compiled = compile_flow(doubled(), config)
    counted = estimate(compiled, Workload({"count_to": items}))
    assert (counted.children, counted.transitions) == (children, deployed.transitions())


CRASHING = """
import os

from lokki import flow, step


@step
def numbers() -> list[int]:
    return list(range(40))


@step
def crash(number: int) -> int:
    if number == 23:
        os._exit(1)
    return number


@step
def total(numbers: list[int]) -> int:
    return sum(numbers)


@flow
def crashing():
    return numbers().map(crash, batch=20, tolerate=1).agg(total)
"""


@pytest.mark.slow
def test_a_process_that_dies_of_an_item_costs_that_item_alone(tmp_path: Path) -> None:
    (tmp_path / "crashing_flow.py").write_text(CRASHING)
    graph = load_flow(f"{tmp_path / 'crashing_flow.py'}:crashing")()
    bundle = tmp_path / "build"
    Builder(lambda line: None).build(graph, LokkiConfig(artifact_bucket="my-artifacts", build_dir=str(bundle)))
    events: list[Event] = []
    session = Session(bundle, events.append, EmulationOptions(workers=2), tmp_path / ".lokki")
    assert session.run(graph, {}, "crashing-1") == sum(range(40)) - 23
    assert [(event.item, event.failure.error) for event in events if isinstance(event, ItemFailed)] == [
        ((23,), "WorkerError")
    ]
