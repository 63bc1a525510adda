"""Doubles for the emulator's surroundings: functions in Python, objects in a dict, time that is skipped."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

import msgspec

from lokki.base.values import Json
from lokki.emulator.states.definition import read_definition
from lokki.emulator.states.execution import Execution
from lokki.emulator.states.history import HistoryEvent
from lokki.emulator.states.outcome import Identity
from lokki.emulator.states.services import (
    Caller,
    EmulationStoppedError,
    ExecutionSettings,
    FunctionReply,
    InvocationTimeoutError,
    ServiceError,
    Services,
)
from lokki.errors import StoreError

START = datetime(2026, 11, 23, 12, 0, 0, 5000, UTC)

type Answer = Callable[[Json], Json]


class FunctionError(Exception):
    """What a function ends with: the error's type as Lambda reports it."""

    def __init__(self, kind: str, message: str = "") -> None:
        super().__init__(message)
        self.payload = {"errorType": kind, "errorMessage": message}


class SlowError(Exception):
    """A function that would take so many seconds."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds


@dataclass
class FakeClock:
    """Time that passes by waiting, and by functions that say how long they take. Keeps the waits."""

    seconds: float = 0.0
    waits: list[float] = field(default_factory=list)

    def now(self) -> datetime:
        return START

    def elapsed(self) -> float:
        return self.seconds

    def wait(self, seconds: float) -> float:
        self.waits.append(seconds)
        self.seconds += seconds
        return seconds


@dataclass
class FastClock:
    """The machine's time, ``speed`` times as fast: many threads may wait at one time, each as long as it asks for."""

    speed: float
    stop: threading.Event = field(default_factory=threading.Event)

    def now(self) -> datetime:
        return datetime.now(UTC)

    def elapsed(self) -> float:
        return time.monotonic() * self.speed

    def wait(self, seconds: float) -> float:
        if self.stop.wait(seconds / self.speed):
            raise EmulationStoppedError
        return seconds


@dataclass
class FakeFunctions:
    """Functions by name. What they raise is told as Lambda would; keeps each invocation's function and payload."""

    answers: dict[str, Answer]
    clock: FakeClock = field(default_factory=FakeClock)
    invocations: list[tuple[str, Json]] = field(default_factory=list)
    callers: list[Caller] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def invoke(self, function: str, payload: bytes, timeout: float, caller: Caller) -> FunctionReply:
        event = msgspec.json.decode(payload)
        with self.lock:
            self.invocations.append((function, event))
            self.callers.append(caller)
        if function not in self.answers:
            raise ServiceError("Lambda.ResourceNotFoundException", f"Function not found: {function}")
        try:
            return FunctionReply(msgspec.json.encode(self.answers[function](event)))
        except FunctionError as error:
            return FunctionReply(msgspec.json.encode(error.payload), failed=True)
        except SlowError as slow:
            self.clock.seconds += min(slow.seconds, timeout)
            if slow.seconds > timeout:
                raise InvocationTimeoutError from None
            return FunctionReply(b"null")


@dataclass
class MemoryObjects:
    """Objects by bucket and key."""

    content: dict[tuple[str, str], bytes] = field(default_factory=dict)
    unwritable: bool = False

    def read(self, bucket: str, key: str) -> bytes:
        try:
            return self.content[bucket, key]
        except KeyError:
            raise StoreError(f"s3://{bucket}/{key} cannot be read: there is no such object.") from None

    def write(self, bucket: str, key: str, content: bytes) -> None:
        if self.unwritable:
            raise StoreError(f"s3://{bucket}/{key} cannot be written: access is denied.")
        self.content[bucket, key] = content

    def json(self, bucket: str, key: str) -> Json:
        value: Json = msgspec.json.decode(self.content[bucket, key])
        return value


@dataclass
class World:
    """All of them together, and the history."""

    functions: FakeFunctions
    objects: MemoryObjects
    clock: FakeClock
    services: Services
    history: list[HistoryEvent]

    def start(
        self, definition: Json, given: Json = None, *, name: str = "run-1", timeout: float | None = None
    ) -> Execution:
        machine = read_definition(definition, "birds-flow")
        limit = timeout if timeout is not None else machine.timeout
        return Execution(self.services, machine.states, Identity("birds-flow", name, limit), given)

    def told(self, *kinds: str) -> list[tuple[str, str]]:
        """Return type and state of the events of these types."""
        return [(event.type, event.state) for event in self.history if event.type in kinds]


def make_world(
    answers: dict[str, Answer] | None = None, objects: dict[tuple[str, str], bytes] | None = None, **settings: object
) -> World:
    """Make a world; one child execution at a time unless ``workers`` says otherwise."""
    clock = FakeClock()
    functions = FakeFunctions(answers or {}, clock)
    kept = MemoryObjects(dict(objects or {}))
    history: list[HistoryEvent] = []
    chosen = ExecutionSettings(**{"workers": 1, **settings})  # type: ignore[arg-type]
    return World(functions, kept, clock, Services(functions, kept, clock, history.append, chosen), history)


def machine(states: dict[str, Json], **fields: Json) -> dict[str, Json]:
    """Make a definition that starts at the first of the states."""
    return {"QueryLanguage": "JSONata", "StartAt": next(iter(states)), "States": states, **fields}


def task(function: str = "work", payload: Json = "{% $states.input %}", **fields: Json) -> dict[str, Json]:
    """Make a Task that hands on what its function answered, at the end unless told otherwise."""
    state: dict[str, Json] = {
        "Type": "Task",
        "Resource": "arn:aws:states:::lambda:invoke",
        "Arguments": {"FunctionName": function, "Payload": payload},
        "Output": "{% $states.result.Payload %}",
        **fields,
    }
    return state if "Next" in state else {**state, "End": True}


def distributed(inner: dict[str, Json], *, express: bool = False, **fields: Json) -> dict[str, Json]:
    """Make a distributed Map over these states, at the end unless told otherwise."""
    state: dict[str, Json] = {
        "Type": "Map",
        "ItemProcessor": {
            "ProcessorConfig": {"Mode": "DISTRIBUTED", "ExecutionType": "EXPRESS" if express else "STANDARD"},
            "StartAt": next(iter(inner)),
            "States": inner,
        },
        **fields,
    }
    return state if "Next" in state else {**state, "End": True}


def failing(*errors: str | None) -> Answer:
    """Make a function that fails with each of these errors in turn, and answers "done" for None and after the last."""
    left = list(errors)

    def answer(event: Json) -> Json:
        error = left.pop(0) if left else None
        if error is not None:
            raise FunctionError(error, "no luck")
        return "done"

    return answer
