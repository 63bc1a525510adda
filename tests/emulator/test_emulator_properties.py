"""For random flows, a direct call, a local run and an emulated run give equal results.

The fast lane calls the handlers in this process, through the state machine that is built, with S3 on loopback.
"""

import datetime
import os
import tempfile
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import cast

import msgspec
import pytest
import steps
import strategies
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import Chain, comparable
from support.definitions import filled_definition

from lokki import StepNode, flow, step
from lokki.base.values import ref_from_json
from lokki.builder.lambda_pkg import describe_calls
from lokki.config import LokkiConfig
from lokki.decorators import Flow
from lokki.emulator.s3.client import S3Server
from lokki.emulator.states.definition import check_expressions, read_definition
from lokki.emulator.states.execution import Execution
from lokki.emulator.states.expressions import Expressions
from lokki.emulator.states.outcome import Identity
from lokki.emulator.states.services import Caller, ExecutionSettings, FunctionReply, RealClock, Services
from lokki.errors import RunError
from lokki.graph import FlowGraph
from lokki.plan import bind_parameters, lower
from lokki.runner import LocalRunner
from lokki.runtime.handler import Handler, make_handler
from lokki.store.base import load
from lokki.store.s3 import S3Store

BUCKET = "emulated-artifacts"
_numbers = count()


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with S3Server(BUCKET) as server:
        yield server


@dataclass(frozen=True)
class Context:
    def get_remaining_time_in_millis(self) -> int:
        return 60_000


@dataclass(frozen=True)
class HandlersHere:
    """Functions whose handlers are called in this process; errors are told as awslambdaric tells them."""

    handlers: dict[str, Handler]

    def invoke(self, function: str, payload: bytes, timeout: float, caller: Caller) -> FunctionReply:
        try:
            return FunctionReply(msgspec.json.encode(self.handlers[function](msgspec.json.decode(payload), Context())))
        except Exception as error:
            described = {"errorType": type(error).__name__, "errorMessage": str(error)}
            return FunctionReply(msgspec.json.encode(described), failed=True)


def emulate(graph: FlowGraph, params: dict[str, object], s3: S3Server, config: LokkiConfig, workers: int = 1) -> object:
    """Run a flow through its state machine and its handlers."""
    plan = lower(graph)
    environ = {
        **s3.variables("function"),
        "LOKKI_ARTIFACT_BUCKET": BUCKET,
        "LOKKI_FLOW_NAME": plan.flow,
        "LOKKI_LOG_LEVEL": "CRITICAL",
        "LOKKI_INLINE_LIMIT": str(config.inline_limit),
    }
    calls = describe_calls(plan)
    handlers = {
        each.name: make_handler(each, flow=cast("Flow[...]", graph.origin), calls=calls[each.name], environ=environ)
        for each in graph.steps
    }
    definition = filled_definition(graph, config, BUCKET)
    check_expressions(definition, Expressions())
    machine = read_definition(definition, plan.flow)
    stop = threading.Event()
    chosen = ExecutionSettings(workers=workers, file_bytes=2000)
    services = Services(HandlersHere(handlers), s3, RealClock(stop, 0.0), settings=chosen, stop=stop)
    bound = bind_parameters(plan.params, params)
    given = {name: bound[name] for name in params}
    outcome = Execution(services, machine.states, Identity(plan.flow, f"run-{next(_numbers)}"), given).run()
    if outcome.status != "SUCCEEDED":
        raise RunError(f"{outcome.error}: {outcome.cause}")
    store = S3Store(BUCKET, f"lokki/{plan.flow}/", environ=s3.variables("caller"))
    return load(store, ref_from_json(outcome.output))


def run(graph: FlowGraph, params: dict[str, object], config: LokkiConfig) -> object:
    with tempfile.TemporaryDirectory() as folder:
        runner = LocalRunner(root=Path(folder), executor="inline", inline_limit=config.inline_limit)
        return runner.run(graph, params)


def draw(chain: Chain, batches: tuple[int | None, ...]) -> FlowGraph:
    """Draw a chain's flow as `strategies.draw` does, with a batch for each block."""

    @flow
    def random_chain(label: str, since: datetime.date = datetime.date(2026, 1, 1)):
        def bound(name: str) -> StepNode[..., object]:
            return steps.tag(label=label, since=since) if name == "tag" else getattr(steps, name)

        head = steps.values(chain.kind, chain.count)
        for number, segment in enumerate(strategies.segments(chain)):
            if isinstance(segment, str):
                head = head.next(bound(segment))
                continue
            if number or not strategies.is_mapped_at_once(chain):
                head = head.next(steps.split)
            first, *others = segment.inner
            tolerate = 1.0 if segment.tolerant else None
            block = head.map(bound(first), tolerate=tolerate, batch=batches[number % len(batches)])
            for name in others:
                block = block.next(bound(name))
            head = block.agg(bound(segment.closing))
        return head

    return random_chain()


CONFIGS = st.sampled_from([LokkiConfig(), LokkiConfig(inline_limit=0), LokkiConfig(inline_limit=200_000)])
BATCHES = st.lists(st.none() | st.integers(1, 5), min_size=1, max_size=4).map(tuple)
LABELS = st.text(max_size=8).filter(lambda text: text.isprintable())


@dataclass(frozen=True)
class Case:
    """A random flow, the batches of its blocks, its parameters and its settings."""

    chain: Chain
    batches: tuple[int | None, ...]
    label: str
    since: datetime.date
    config: LokkiConfig


CASES = st.builds(Case, strategies.CHAINS, BATCHES, LABELS, st.dates(), CONFIGS)


def check(case: Case, s3: S3Server) -> None:
    steps.TRIP.clear()
    chain, label, since, config = case.chain, case.label, case.since, case.config
    graph = draw(chain, case.batches)
    params: dict[str, object] = {"label": label, "since": since}
    expected = comparable(strategies.call(chain, label, since))
    assert comparable(run(graph, params, config)) == expected
    assert comparable(emulate(graph, params, s3, config)) == expected


PROPERTY = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])


@given(CASES)
@settings(PROPERTY, max_examples=25)
def test_random_flows_give_the_same_called_run_and_emulated(s3: S3Server, case: Case) -> None:
    check(case, s3)


@pytest.mark.slow
@given(CASES)
@settings(PROPERTY, max_examples=1000)
def test_1000_random_flows_give_the_same_called_run_and_emulated(s3: S3Server, case: Case) -> None:
    check(case, s3)


# --- sizes around what a state may hold ---


@step
def sized(size: int) -> str:
    return "ä" * (size // 2 - 1)


@step
def several(size: int) -> list[str]:
    return ["ä" * (size // 2 - 1)] * 3


@step
def measure(text: str) -> list[object]:
    return [len(text), text[:1]]


@step
def both(texts: list[object]) -> list[object]:
    return [len("".join(map(str, texts))), len(texts)]


@flow
def one_large(size: int):
    return sized(size).next(measure)


@flow
def many_large(size: int):
    return several(size).map(steps.same).next(steps.same).agg(both)


@flow
def batched_large(size: int):
    return several(size).map(steps.same, batch=3).next(steps.same).agg(both)


KIB = 1024


@pytest.mark.parametrize("inline_limit", [4096, 262_144])
@pytest.mark.parametrize("size", [4094, 4096, 4098, 60 * KIB, 199_000, 255 * KIB, 256 * KIB, 257 * KIB])
@pytest.mark.parametrize("made", [one_large, many_large, batched_large], ids=lambda made: made.name)
def test_values_of_any_size_arrive_whatever_travels_inline(
    s3: S3Server, made: Flow[...], size: int, inline_limit: int
) -> None:
    config = LokkiConfig(inline_limit=inline_limit)
    graph = made()
    assert emulate(graph, {"size": size}, s3, config) == run(graph, {"size": size}, config)


def test_many_small_results_of_one_batch_arrive(s3: S3Server) -> None:
    @flow
    def crowd():
        return thousand().map(padded, batch=1000).next(padded).agg(joined)

    graph = crowd()
    assert emulate(graph, {}, s3, LokkiConfig()) == run(graph, {}, LokkiConfig()) == 8000 * 1000


@step
def thousand() -> list[str]:
    return [f"{number:>4}" * 100 for number in range(1000)]


@step
def padded(text: str) -> str:
    return (text * 8)[:8000]


@step
def joined(texts: list[str]) -> int:
    return sum(map(len, texts))


# --- options ---


OPTIONS = st.fixed_dictionaries(
    {
        "tolerate": st.sampled_from([0, 1, 3, 0.1, 0.35, 0.5, 1.0]),
        "batch": st.none() | st.integers(1, 4),
        "concurrency": st.none() | st.integers(1, 3),
    }
)


@given(st.integers(0, 9), OPTIONS)
@settings(PROPERTY, max_examples=25)
def test_tolerated_failures_are_tolerated_alike(s3: S3Server, items: int, options: dict[str, float | None]) -> None:
    @flow
    def tolerant():
        return steps.numbers(items).map(steps.fragile, **options).next(steps.wrap).agg(steps.collect)  # type: ignore[arg-type]

    graph = tolerant()
    config = LokkiConfig()

    def outcome(how: Iterable[object]) -> object:
        try:
            return next(iter(how))
        except RunError:
            return "failed"

    emulated = outcome(emulate(graph, {}, s3, config) for _ in range(1))
    assert emulated == outcome(run(graph, {}, config) for _ in range(1))


def test_children_of_one_map_may_run_on_several_threads(s3: S3Server) -> None:
    graph = steps.doubled()
    assert emulate(graph, {"count": 200}, s3, LokkiConfig(), workers=4) == sum(range(200)) * 2


def test_the_process_has_what_it_had(s3: S3Server) -> None:
    before = dict(os.environ)
    emulate(steps.doubled(), {}, s3, replace(LokkiConfig(), inline_limit=0))
    assert dict(os.environ) == before
