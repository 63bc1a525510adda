"""A state machine run by the emulator's interpreter with lokki's own handlers, here, on objects in memory."""

from __future__ import annotations

import json
import threading
from collections.abc import Buffer, Iterable, Iterator
from dataclasses import dataclass, field

import msgspec

from lokki.base.values import Json, Ref, Stored, ref_from_reply
from lokki.builder.compiled import Compiled, compile_flow
from lokki.builder.cost_limits import cost_limits
from lokki.builder.lambda_pkg import describe_calls
from lokki.builder.state_machine import state_machine_of
from lokki.config import LokkiConfig
from lokki.emulator.states.definition import read_definition
from lokki.emulator.states.execution import Execution
from lokki.emulator.states.outcome import Identity, Outcome
from lokki.emulator.states.services import Caller, ExecutionSettings, FunctionReply, RealClock, Services
from lokki.engine.invocation import StepFailedError
from lokki.errors import StoreError
from lokki.graph import FlowGraph
from lokki.runtime.batches import run_batch
from lokki.runtime.event import Batch, HandledCall, parse_calls, parse_event
from lokki.runtime.log import Log
from lokki.runtime.work import Settings, Work
from lokki.store.base import load
from support.definitions import definition_values, filled

BUCKET = "bucket"


@dataclass
class Objects:
    """A bucket in memory, as a store; ``requests`` counts what the functions ask for."""

    contents: dict[str, bytes] = field(default_factory=dict)
    requests: int = 0

    def url(self, key: str) -> str:
        return f"s3://{BUCKET}/{key}"

    def write(self, key: str, chunks: Iterable[Buffer]) -> Stored:
        self.requests += 1
        self.contents[key] = b"".join(bytes(chunk) for chunk in chunks)
        return Stored(self.url(key))

    def read(self, place: Stored) -> bytes:
        self.requests += 1
        content = self.contents.get(place.result_url.removeprefix(self.url("")))
        if content is None:
            raise StoreError(f"{place.result_url} is not there") from FileNotFoundError(place.result_url)
        offset, length = place.range or (0, len(content))
        return content[offset : offset + length]

    def read_many(self, places: Iterable[Stored]) -> Iterator[bytes]:
        return map(self.read, places)


@dataclass(frozen=True)
class Bucket:
    """The same bucket, as Step Functions reads and writes it."""

    objects: Objects

    def read(self, bucket: str, key: str) -> bytes:
        return self.objects.contents[key]

    def write(self, bucket: str, key: str, content: bytes) -> None:
        self.objects.contents[key] = content


class _Context:
    def get_remaining_time_in_millis(self) -> int:
        return 900_000


@dataclass
class Handlers:
    """The functions of a flow, by the names of their steps."""

    compiled: Compiled
    objects: Objects
    inline_limit: int
    invocations: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    calls: dict[str, dict[str, HandledCall]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        calls = describe_calls(self.compiled.plan, cost_limits(self.compiled))
        described = msgspec.json.decode(msgspec.json.encode(calls))
        self.calls = {name: parse_calls(name, calls) for name, calls in described.items()}

    def invoke(self, function: str, payload: bytes, timeout: float, caller: Caller) -> FunctionReply:
        with self.lock:
            self.invocations += 1
            try:
                return FunctionReply(msgspec.json.encode(self._reply(function, json.loads(payload))))
            except StepFailedError as error:
                return _failed(type(error.__cause__ or error).__name__, str(error.failure.message))
            except Exception as error:
                return _failed(type(error).__name__, str(error))

    def _reply(self, step: str, event: Json) -> dict[str, Json]:
        request = parse_event(event, self.calls[step])
        settings = Settings(self.compiled.plan.flow, self.inline_limit, self.objects, Log({}, "CRITICAL"))
        handled = self.calls[step][request.call.id]
        plan = self.compiled.plan
        work = Work(plan.steps[step], request, handled, plan.params, settings, _Context(), settings.log)
        return run_batch(work, request.input) if isinstance(request.input, Batch) else work.reply()


def _failed(error: str, message: str) -> FunctionReply:
    cause = {"errorType": error, "errorMessage": message, "stackTrace": []}
    return FunctionReply(json.dumps(cause).encode(), failed=True)


@dataclass
class Emulated:
    """A run: how it ended, the bucket, and how often functions were invoked."""

    outcome: Outcome
    objects: Objects
    invocations: int

    def result(self) -> object:
        output = self.outcome.output
        assert isinstance(output, dict)
        ref: Ref = ref_from_reply(output)
        return load(self.objects, ref)


def emulate_here(
    graph: FlowGraph, params: dict[str, Json] | None = None, *, inline_limit: int = 4096, workers: int = 1
) -> Emulated:
    """Run a flow's state machine. Its functions run one at a time."""
    compiled = compile_flow(graph, LokkiConfig())
    definition = filled(state_machine_of(compiled), definition_values(compiled, BUCKET))
    machine = read_definition(definition, compiled.plan.flow)
    objects = Objects()
    handlers = Handlers(compiled, objects, inline_limit)
    stop = threading.Event()
    settings = ExecutionSettings(workers=workers)
    services = Services(handlers, Bucket(objects), RealClock(stop, 0.0), settings=settings, stop=stop)
    outcome = Execution(services, machine.states, Identity(compiled.plan.flow, "run-1"), params or {}).run()
    return Emulated(outcome, objects, handlers.invocations)
