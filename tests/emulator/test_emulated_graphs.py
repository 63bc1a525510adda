"""The emulator's interpreter runs the state machines of graphs, on functions that keep the contract, in memory."""

from __future__ import annotations

import json
import random
import threading
import zlib
from dataclasses import dataclass
from typing import Any

import pytest
from support.definitions import definition_values, filled
from support.graph_plans import GRAPHS, Functions, compiled, random_plan, run_directly
from support.state_walker import WalkError

from lokki.base.values import Json
from lokki.builder.names import function_placeholder
from lokki.builder.state_machine import state_machine_of
from lokki.emulator.states.definition import check_expressions, read_definition
from lokki.emulator.states.execution import Execution
from lokki.emulator.states.expressions import Expressions
from lokki.emulator.states.outcome import Identity
from lokki.emulator.states.services import Caller, ExecutionSettings, FunctionReply, RealClock, Services
from lokki.plan import Plan
from lokki.plans.operations import Fork, operations_in


@dataclass(frozen=True)
class Lambdas:
    """Functions as Lambda has them: bytes in and out, under the names of steps; one event at a time."""

    functions: Functions
    lock: threading.Lock

    def invoke(self, function: str, payload: bytes, timeout: float, caller: Caller) -> FunctionReply:
        with self.lock:
            try:
                reply = self.functions(f"${{{function_placeholder(function)}}}", json.loads(payload))
            except WalkError as error:
                return FunctionReply(json.dumps({"errorType": error.error}).encode(), failed=True)
            return FunctionReply(json.dumps(reply).encode())


@dataclass(frozen=True)
class Bucket:
    """Objects as the functions have them; the manifest of a map's results stands for the results."""

    objects: dict[str, Json]

    def read(self, bucket: str, key: str) -> bytes:
        return json.dumps(self.objects[key]).encode()

    def write(self, bucket: str, key: str, content: bytes) -> None:
        written: Any = json.loads(content)
        if key.endswith("/manifest.json"):
            files: Any = [self.objects[each["Key"]] for each in written["ResultFiles"]["SUCCEEDED"]]
            written = [entry for file in files for entry in file]
        self.objects[key] = written


def emulate(plan: Plan, larger: bool = False, hides: bool = False, params: dict[str, Json] | None = None) -> None:
    """Run a plan's definition in the emulator and compare its result with that of the plan."""
    whole = compiled(plan, larger)
    objects: dict[str, Json] = {}
    functions = Functions(
        whole, objects, dies=lambda text: larger and zlib.crc32(f"{text}!".encode()) % 4 == 0, hides_entries=hides
    )
    definition = filled(state_machine_of(whole), definition_values(whole, "bucket"))
    check_expressions(definition, Expressions())
    machine = read_definition(definition, plan.flow)
    stop = threading.Event()
    services = Services(
        Lambdas(functions, threading.Lock()),
        Bucket(objects),
        RealClock(stop, 0.0),
        settings=ExecutionSettings(workers=1, file_bytes=2000),
        stop=stop,
    )
    given = params or {}
    outcome = Execution(services, machine.states, Identity(plan.flow, "run-1"), dict(given)).run()
    assert outcome.status == "SUCCEEDED", outcome
    output: Any = outcome.output
    results = [functions.load(ref) for ref in (output["results"] if plan.returns_tuple else [output])]
    expected, _ = run_directly(plan, {**functions.defaults, **given})
    assert ({"results": results} if plan.returns_tuple else results[0]) == expected


def has_forks(plan: Plan) -> bool:
    return any(isinstance(op, Fork) for op in operations_in(plan.ops))


SHAPES = [pytest.param(plan, id=name) for name, plan in GRAPHS.items()]


@pytest.mark.parametrize("plan", SHAPES)
def test_every_shape_is_emulated(plan: Plan) -> None:
    for value in "abc":
        emulate(plan, params={"p": value})
    emulate(plan, larger=True)


def random_plans(first: int, last: int, forks: bool) -> list[Plan]:
    plans = (random_plan(random.Random(seed)) for seed in range(first, last))
    return [plan for plan in plans if has_forks(plan) == forks]


@pytest.mark.parametrize("forks", [False, True])
def test_random_graphs_are_emulated(forks: bool) -> None:
    plans = random_plans(0, 12, forks)
    assert len(plans) > 2
    for number, plan in enumerate(plans):
        emulate(plan, larger=number % 3 == 1, hides=number % 3 == 2, params={"q": 5})


@pytest.mark.slow
@pytest.mark.parametrize("forks", [False, True])
def test_many_random_graphs_are_emulated(forks: bool) -> None:
    for number, plan in enumerate(random_plans(12, 60, forks)):
        emulate(plan, larger=number % 3 == 1, hides=number % 3 == 2, params={"q": 5})
