"""Whole runs of graphs: their state machines invoke real handlers, and the result is what the plan means."""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Iterable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from aws.moto_server import Aws
from each_flows import lists
from support.graph_plans import GRAPHS, compiled, random_plan
from support.interpreter import interpret
from support.lambda_function import FLOW, Cloud, Context
from support.state_walker import Walker, WalkError

from lokki import Flow, each, flow, step
from lokki.base.values import Json, ref_from_json
from lokki.builder.lambda_pkg import describe_calls
from lokki.builder.names import function_placeholder
from lokki.builder.placeholders import FLOW_PLACEHOLDER
from lokki.builder.state_machine import state_machine_of
from lokki.chain import AnyStep
from lokki.errors import StoreError
from lokki.plan import Plan, lower
from lokki.plans.operations import Call
from lokki.runtime.handler import make_handler
from lokki.store.base import load
from lokki.store.s3 import S3Store

NOTHING = object()


@flow
def graph(p="x", q=1):
    return step(lambda: None)()


def with_steps(plan: Plan) -> Plan:
    """Return a plan whose steps return what they got, and then change what they got."""
    return replace(plan, steps={one.step: computing(one) for one in plan.calls})


def computing(one: Call) -> AnyStep:
    def work(value: object = NOTHING, **others: object) -> object:
        members = [one.id, *([] if value is NOTHING else [value]), *sorted(others.items())]
        text = repr(members)
        text = text if len(text) < 300 else f"{text[:40]}…{zlib.crc32(text.encode())}"
        number = zlib.crc32(text.encode())
        for got in (value, *others.values()):
            if isinstance(got, list):
                got.append("changed")
        if one.cases:
            case = one.cases[number % len(one.cases)]
            return "another" if case is None else case
        if one.fans_out:
            return [large_or_small([text, item], item) for item in range(3 if number % 7 else 0)]
        return large_or_small([text], number)

    work.__name__ = work.__qualname__ = one.step
    return step(work)


def large_or_small(value: list[object], number: int) -> object:
    """Return a value that is in the state, or one that no JSON holds."""
    return [*value, b"bytes"] if number % 3 == 0 else value


@dataclass
class Objects(MutableMapping[str, Json]):
    """The objects of a bucket as the state machine reads and writes them."""

    cloud: Cloud

    def __getitem__(self, key: str) -> Json:
        content: Json = json.loads(self.cloud.aws.s3.get_object(Bucket=self.cloud.bucket, Key=key)["Body"].read())
        return content

    def __setitem__(self, key: str, results: Json) -> None:
        self._put(f"{key}-0", results)
        files = {"SUCCEEDED": [{"Key": f"{key}-0", "Size": 1}], "FAILED": [], "PENDING": []}
        self._put(key, {"ResultFiles": files})

    def _put(self, key: str, content: Any) -> None:
        self.cloud.aws.s3.put_object(Bucket=self.cloud.bucket, Key=key, Body=json.dumps(content).encode())

    def __delitem__(self, key: str) -> None:
        raise AssertionError

    def __iter__(self) -> Iterator[str]:
        raise AssertionError

    def __len__(self) -> int:
        raise AssertionError


@dataclass
class DeployedRun:
    """A run of a plan on its own state machine and handlers."""

    cloud: Cloud
    plan: Plan
    inline_limit: int = 4096
    dying: int | None = None
    """The index of the item that the smaller functions run out of memory on."""
    flow: Flow[...] = graph
    params: dict[str, Json] = field(default_factory=lambda: {"q": 5})

    def __post_init__(self) -> None:
        variables = {"LOKKI_ARTIFACT_BUCKET": self.cloud.bucket, "LOKKI_FLOW_NAME": FLOW}
        self.environ = {**self.cloud.aws.environ, **variables, "LOKKI_INLINE_LIMIT": str(self.inline_limit)}
        self.handlers = {
            name: make_handler(self.plan.steps[name], flow=self.flow, calls=calls, environ=self.environ)
            for name, calls in json.loads(json.dumps(describe_calls(self.plan))).items()
        }
        self.events: list[dict[str, Any]] = []

    def invoke(self, name: str, event: dict[str, Any]) -> Json:
        one = next(each for each in self.plan.calls if each.id == event["call"])
        self.events.append(event)
        entries = event.get("items") or [event["item"]] if "item" in event or "items" in event else []
        first = event.get("first", 0)
        entries = entries[first : first + event.get("size", len(entries))]
        if any(entry.get("index") == self.dying for entry in entries) and not self.functions[name].larger:
            raise WalkError("Runtime.OutOfMemory")
        reply = self.handlers[one.step](json.loads(json.dumps(event)), Context())
        return json.loads(json.dumps(reply))

    def result(self) -> object:
        whole = compiled(self.plan, larger=self.dying is not None)
        self.functions = {f"${{{function_placeholder(each.name)}}}": each for each in whole.functions}
        text = json.dumps(state_machine_of(whole)).replace(f"${{{FLOW_PLACEHOLDER}}}", FLOW)
        output: Any = Walker(self.invoke, Objects(self.cloud), params=self.params).run(json.loads(text))
        if not self.plan.returns_tuple:
            return self.value(output)
        return tuple(map(self.value, output["results"]))

    def value(self, reply: dict[str, Json]) -> object:
        store = S3Store(self.cloud.bucket, f"lokki/{FLOW}/", environ=self.environ)
        fields = ("result", "result_url", "crc32", "range")
        return load(store, ref_from_json({name: reply[name] for name in fields if name in reply}))


@pytest.fixture
def cloud(aws: Aws) -> Cloud:
    return Cloud(aws, aws.new_bucket())


@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_gives_what_its_plan_means(name: str, cloud: Cloud) -> None:
    plan = with_steps(GRAPHS[name])
    assert DeployedRun(cloud, plan).result() == interpret(plan, {"q": 5})


@pytest.mark.parametrize("name", ["switch-in-map", "switch-in-batches"])
def test_items_keep_what_they_carry_where_a_function_runs_out_of_memory(name: str, cloud: Cloud) -> None:
    plan = with_steps(GRAPHS[name])
    run = DeployedRun(cloud, plan, dying=1)
    assert run.result() == interpret(plan, {"q": 5})
    parts = [event for event in run.events if "size" in event]
    assert any("values" in entry for event in parts for entry in event["items"])


@pytest.mark.parametrize("seed", range(3))
def test_a_random_graph_gives_what_its_plan_means(seed: int, cloud: Cloud) -> None:
    plan = with_steps(random_plan(random.Random(seed)))
    assert DeployedRun(cloud, plan).result() == interpret(plan, {"q": 5})


@pytest.mark.parametrize("value", [0, 3])
def test_lists_of_the_flow_and_of_switches_are_mapped_over(value: int, cloud: Cloud) -> None:
    plan = lower(lists())
    run = DeployedRun(cloud, plan, flow=lists, params={"value": value})
    assert run.result() == interpret(plan, {"value": value})
    assert {event["call"] for event in run.events} > {"days", "aged_birds", "kind_items", "summed_numbers", "items"}


@flow
def lazily(count: int = 5):
    block = each([0, 1, 2, 3, 4]).map(text_of)
    return block.agg(lengths), block.agg(longest(least=block.agg(list_of_all).next(count_all).result))


@step
def text_of(number: int) -> str:
    return "x" * number


@step
def lengths(texts: Iterator[str]) -> list[int]:
    return [len(next(texts)), *map(len, texts), *map(len, texts)]


@step
def list_of_all(texts: list[str]) -> list[str]:
    return texts


@step
def count_all(texts: list[str]) -> int:
    return len(texts)


@step
def longest(texts: Sequence[str], least: int) -> list[object]:
    return [max(*map(len, texts), least), texts[-1], texts[1:2][0], len(texts)]


@pytest.mark.parametrize("inline_limit", [0, 4096])
def test_results_that_are_taken_one_by_one_are_loaded_when_they_are_used(inline_limit: int, cloud: Cloud) -> None:
    run = DeployedRun(cloud, lower(lazily()), inline_limit, flow=lazily, params={})
    assert run.result() == ([0, 1, 2, 3, 4], [5, "xxxx", "x", 5])


def test_a_result_that_is_gone_when_a_step_uses_it_is_no_failure_of_the_step(cloud: Cloud) -> None:
    @step
    def careless(texts: Iterable[str]) -> int:
        for entry in cloud.aws.s3.list_objects_v2(Bucket=cloud.bucket)["Contents"]:
            if "/text_of/" in entry["Key"]:
                cloud.aws.s3.delete_object(Bucket=cloud.bucket, Key=entry["Key"])
        try:
            return len(list(texts))
        except Exception:
            return -1

    @flow
    def losing():
        return each([1, 2]).map(text_of).agg(careless)

    run = DeployedRun(cloud, lower(losing()), 0, flow=losing, params={})
    with pytest.raises(StoreError, match=r"/text_of/0-1/output\.pkl\.gz cannot be read"):
        run.result()


@pytest.mark.slow
@pytest.mark.parametrize("inline_limit", [0, 100, 4096])
def test_many_random_graphs_give_what_their_plans_mean(inline_limit: int, cloud: Cloud) -> None:
    for seed in range(100, 108):
        plan = with_steps(random_plan(random.Random(seed)))
        assert DeployedRun(cloud, plan, inline_limit).result() == interpret(plan, {"q": 5}), seed
