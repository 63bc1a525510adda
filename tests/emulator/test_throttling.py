"""Maps as they are built, in accounts that run few functions: throttling delays a run and never fails it."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from heapq import heappop, heappush
from pathlib import Path
from typing import Any

import pytest
from aws.loopback_aws import LoopbackAws
from support.definitions import definition_values, filled
from support.deployed_project import BIRDS, new_project, told
from support.emulation import FakeFunctions, FastClock, MemoryObjects

from lokki import FlowGraph, flow, step
from lokki.base.values import Json
from lokki.builder.compiled import compile_flow
from lokki.builder.retries import RetryRule, throttling_rule
from lokki.builder.state_machine import build_state_machine, state_machine_of
from lokki.config import LokkiConfig
from lokki.emulator.functions.throttling import ThrottledFunctions
from lokki.emulator.states.definition import read_definition
from lokki.emulator.states.execution import Execution
from lokki.emulator.states.history import HistoryEvent
from lokki.emulator.states.outcome import Identity, Outcome
from lokki.emulator.states.services import ExecutionSettings, Services

THROTTLED = "Lambda.TooManyRequestsException"


@step
def items() -> list[int]:
    return []


@step(timeout=20)
def work(value: int) -> int:
    return value


@step
def collect(values: list[int]) -> int:
    return len(values)


def mapped(**options: Any) -> FlowGraph:
    @flow
    def throttled():
        return items().map(work, **options).agg(collect)

    return throttled()


@dataclass
class Account:
    """An account that runs some functions at one time; each item takes five seconds, at twenty times the speed.

    No faster: what the threads of two hundred children compute counts as time of theirs, and EXPRESS has five minutes.
    """

    concurrency: int
    clock: FastClock = field(default_factory=lambda: FastClock(20.0))
    history: list[HistoryEvent] = field(default_factory=list)

    def answer(self, event: Json) -> Json:
        assert isinstance(event, dict)
        self.clock.wait(5.0)
        return {"index": event["item"]["index"], "result": 0}  # type: ignore[index, call-overload]

    def run(self, definition: Json, count: int) -> Outcome:
        manifest = [{"index": index, "item": index} for index in range(count)]
        objects = MemoryObjects({("b", "manifest"): str(manifest).replace("'", '"').encode()})
        source: Json = {"map_manifest_key": "manifest", "items": count, "params": {}}
        answers = {"items": lambda event: source, "work": self.answer, "collect": lambda event: {"result": count}}
        functions = ThrottledFunctions(FakeFunctions(answers), self.concurrency)
        services = Services(
            functions, objects, self.clock, self.history.append, ExecutionSettings(workers=count), stop=self.clock.stop
        )
        read = read_definition(definition, "throttled")
        return Execution(services, read.states, Identity("throttled", "run-1"), {}).run()

    @property
    def refused(self) -> int:
        return sum(event.type == "TaskFailed" and event.details["error"] == THROTTLED for event in self.history)


def definition(kind: str, at_once: int, **options: object) -> Json:
    compiled = compile_flow(mapped(**options), LokkiConfig(execution_type=kind))
    return filled(state_machine_of(compiled), definition_values(compiled, "b", at_once))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["EXPRESS", "STANDARD"])
def test_two_hundred_items_of_five_seconds_get_through_an_account_that_runs_ten_at_once(kind: str) -> None:
    account = Account(10)
    outcome = account.run(definition(kind, 10, batch=1), 200)
    assert (outcome.status, outcome.output) == ("SUCCEEDED", {"result": 200})
    assert account.refused < 20, "as many as the account runs were started, but for a moment between two"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["EXPRESS", "STANDARD"])
def test_they_get_through_too_where_all_of_them_start_at_once(kind: str) -> None:
    account = Account(10)
    outcome = account.run(definition(kind, 10, concurrency=1000, batch=1), 200)
    assert (outcome.status, outcome.output) == ("SUCCEEDED", {"result": 200})
    assert account.refused >= 190


@pytest.mark.parametrize("batch", [None, 5])
def test_children_wait_as_long_as_it_takes_where_no_setting_says_otherwise(batch: int | None) -> None:
    """Other runs may hold all functions of the account for longer than an EXPRESS child has."""
    text = str(build_state_machine(mapped(concurrency=10, batch=batch), LokkiConfig(map_concurrency=1000)))
    assert ("'ExecutionType': 'STANDARD'" in text, "EXPRESS" in text) == (True, False)


def waited(rule: RetryRule, items: int, seconds: float, functions: int, chance: random.Random) -> tuple[float, int]:
    """Simulate so many children that start at once: return when the last one ends, and how often one was refused."""
    moments: list[tuple[float, int, int]] = [(0.0, number, 0) for number in range(items)]
    running: list[float] = []
    end, refused = 0.0, 0
    while moments:
        now, child, tries = heappop(moments)
        while running and running[0] <= now:
            heappop(running)
        if len(running) < functions:
            end = now + seconds
            heappush(running, end)
            continue
        assert tries < rule.retries, "the retries ended before the account had a free function"
        refused += 1
        delay = min(rule.interval * rule.backoff ** min(tries, 60), rule.max_delay or 1e9)
        heappush(moments, (now + chance.uniform(0, delay), child, tries + 1))
    return end, refused


@pytest.mark.parametrize(
    ("items", "seconds", "functions"),
    [(10_000, 30, 1_000), (200, 5, 10), (1_000, 900, 10), pytest.param(5_000, 60, 10, marks=pytest.mark.slow)],
)
def test_the_retries_of_standard_children_outlast_the_work_of_all_others(
    items: int, seconds: float, functions: int
) -> None:
    end, refused = waited(throttling_rule(express=False), items, seconds, functions, random.Random(1))
    least = items / functions * seconds
    assert least <= end < least * 1.6 + 120
    # Each refusal is a transition, and three events of its execution's 25,000.
    assert refused / items < 25_000 / 3


def test_retries_fit_the_history_of_an_execution() -> None:
    assert throttling_rule(express=False).retries * 3 < 25_000 - 1_000


@pytest.mark.slow
def test_deploying_asks_the_account_and_fills_the_number_in(account: LoopbackAws, tmp_path: Path) -> None:
    birds = new_project(tmp_path, account, BIRDS)
    states, cloudformation = account.client("stepfunctions"), account.client("cloudformation")

    def concurrency() -> str:
        [stack] = cloudformation.describe_stacks(StackName=birds.stack)["Stacks"]
        return {each["ParameterKey"]: each["ParameterValue"] for each in stack["Parameters"]}["MapConcurrency"]  # type: ignore[no-any-return]

    account.functions_at_once = 120
    try:
        assert birds.run("deploy", "--yes").code == 0
        assert concurrency() == "120"
        definition = states.describe_state_machine(stateMachineArn=birds.machine)["definition"]
        assert '"MaxConcurrency": "{% 120 %}"' in definition
        assert birds.execute() == "flappy goose, flappy duck"
        account.functions_at_once = 500
        raised = birds.run("deploy", "--yes")
        assert told(raised)[1:3] == [
            "  state machine  how many items of a map run at once",
            "  parameter MapConcurrency 120 → 500",
        ]
        birds.settings(map_concurrency=30)
        assert birds.run("deploy", "--yes").code == 0
        assert concurrency() == "30"
        birds.settings()
        account.refuse("GetAccountSettings", "AccessDeniedException", "no", status=403, times=8)
        unasked = birds.run("deploy", "--dry-run")
        assert (
            "  maps run 10 items at once, as in a new account: this one could not be asked how many functions it runs "
            "(lambda:GetAccountSettings); set map_concurrency in lokki.yml"
        ) in told(unasked)
    finally:
        account.functions_at_once = 1_000
        birds.run("destroy", "--yes")
