"""A map in the default shape by the emulator's own states: python default_shape_run.py ITEMS SECONDS FUNCTIONS.

The state machine is the one that `lokki build` writes. Every state of every child execution is interpreted, one child
after another; the function of an item takes no real time but moves a clock. When the children would have ended, with so
many functions at one time, is found from how long each took.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from heapq import heapreplace
from pathlib import Path

import msgspec

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
from support.definitions import definition_values, filled
from support.emulation import FakeClock, MemoryObjects

from lokki import flow, step
from lokki.base.quotas import FUNCTION_SECONDS, STANDARD_STARTS
from lokki.builder.compiled import compile_flow
from lokki.builder.state_machine import state_machine_of
from lokki.config import LokkiConfig
from lokki.emulator.states.definition import read_definition
from lokki.emulator.states.execution import Execution
from lokki.emulator.states.history import HistoryEvent
from lokki.emulator.states.outcome import Identity
from lokki.emulator.states.services import Caller, ExecutionSettings, FunctionReply, Services
from lokki.estimate import prices


@step
def numbers() -> list[int]:
    return []


@step
def work(number: int) -> int:
    return number


@step
def count(results: list[int]) -> int:
    return len(results)


@flow
def default_shape():  # type: ignore[no-untyped-def]
    return numbers().map(work).agg(count)


class Event(msgspec.Struct):
    """What the function of an item is asked to do, of docs/contract.md."""

    items: list[dict[str, int]]
    done: list[object] = []
    first: int = 0
    size: int = 0


@dataclass
class Functions:
    """The functions, whose items take so many seconds each; they hand back what they have no time for."""

    items: int
    seconds: float
    clock: FakeClock
    billed: list[float] = field(default_factory=list)

    def invoke(self, function: str, payload: bytes, timeout: float, caller: Caller) -> FunctionReply:
        return FunctionReply(msgspec.json.encode(self.answer(function, payload)))

    def answer(self, function: str, payload: bytes) -> object:
        if function == "numbers":
            return {"map_manifest_key": "manifest", "items": self.items, "params": {}}
        return {"result": self.items} if function == "count" else self.work(msgspec.json.decode(payload, type=Event))

    def work(self, batch: Event) -> object:
        last = batch.first + batch.size if batch.size else len(batch.items)
        end = min(last, batch.first + int(FUNCTION_SECONDS * 0.9 / self.seconds))
        seconds = (end - batch.first) * self.seconds
        self.clock.seconds += seconds
        self.billed.append(seconds)
        done = [{"index": entry["index"], "result": 0} for entry in batch.items[batch.first : end]]
        reply: dict[str, object] = {"items": [*batch.done, *done]}
        return reply if end == last else {**reply, "next": end}


@dataclass
class Counts:
    """What the emulator tells of a run: states entered, and how long each child took."""

    clock: FakeClock
    transitions: int = 0
    durations: list[float] = field(default_factory=list)
    began: float = 0.0

    def take(self, event: HistoryEvent) -> None:
        self.transitions += event.type.endswith("StateEntered")
        if event.child is None:
            return
        if event.type == "ExecutionStarted":
            self.began = self.clock.seconds
        elif event.type == "ExecutionSucceeded":
            self.durations.append(self.clock.seconds - self.began)


def finish(durations: list[float], functions: int) -> float:
    """Return when the last child ends, where so many run at one time and as many start in a second as AWS starts."""
    free = [0.0] * min(functions, len(durations))
    for number, seconds in enumerate(durations):
        heapreplace(free, max(free[0], number / STANDARD_STARTS) + seconds)
    return max(free)


def main() -> None:
    items, seconds, at_once = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
    compiled = compile_flow(default_shape(), LokkiConfig())
    clock = FakeClock()
    functions, counts = Functions(items, seconds, clock), Counts(clock)
    manifest = msgspec.json.encode([{"index": index, "item": index} for index in range(items)])
    objects = MemoryObjects({("bucket", "manifest"): manifest})
    definition = filled(state_machine_of(compiled), definition_values(compiled, "bucket", at_once))
    services = Services(functions, objects, clock, counts.take, ExecutionSettings(workers=1))
    read = read_definition(definition, "default-shape")
    outcome = Execution(services, read.states, Identity("default-shape", "run-1"), {}).run()
    assert (outcome.status, outcome.output) == ("SUCCEEDED", {"result": items}), outcome
    memory = compiled.memory(work) / 1024
    lambda_price = prices.LAMBDA_DURATION[compiled.config.architecture]
    children = len(counts.durations)
    dollars = (
        lambda_price.of(sum(functions.billed) * memory)
        + prices.LAMBDA_REQUESTS.of(len(functions.billed) + 2)
        + prices.TRANSITIONS.of(counts.transitions + children)
        + prices.S3_PUTS.of(len(objects.content))
    )
    result = {
        "children": children,
        "transitions": counts.transitions + children,
        "invocations": len(functions.billed) + 2,
        "billed": sum(functions.billed),
        "dollars": dollars,
        "work_dollars": lambda_price.of(items * seconds * memory),
        "finish": finish(counts.durations, at_once),
        "ideal": items * seconds / at_once,
    }
    print(msgspec.json.encode(result).decode())


if __name__ == "__main__":
    main()
