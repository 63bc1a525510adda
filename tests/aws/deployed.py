"""Flows as if deployed, in this process: the state machine that is built, the real handlers, S3 on loopback."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import cast

import msgspec
from support.definitions import filled_definition
from support.emulation import FakeClock

from lokki.base.values import Json
from lokki.builder.lambda_pkg import describe_calls
from lokki.config import LokkiConfig
from lokki.decorators import Flow
from lokki.emulator.s3.client import S3Server
from lokki.emulator.states.definition import read_definition
from lokki.emulator.states.execution import Execution
from lokki.emulator.states.history import HistoryEvent
from lokki.emulator.states.outcome import Identity, Outcome
from lokki.emulator.states.services import Caller, ExecutionSettings, FunctionReply, Services
from lokki.errors import RunFolderError
from lokki.graph import FlowGraph
from lokki.plan import lower
from lokki.results.items import LogLine, RunInfo
from lokki.runtime.handler import Handler, make_handler

CONTEXT = SimpleNamespace(get_remaining_time_in_millis=lambda: 900_000)


@dataclass
class Handlers:
    """The functions of a flow: each invocation is a call of the handler that Lambda would run."""

    handlers: Mapping[str, Handler]
    invocations: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def invoke(self, function: str, payload: bytes, timeout: float, caller: Caller) -> FunctionReply:
        with self.lock:
            self.invocations[function] += 1
        try:
            return FunctionReply(msgspec.json.encode(self.handlers[function](msgspec.json.decode(payload), CONTEXT)))
        except Exception as error:
            described = {"errorType": type(error).__name__, "errorMessage": str(error), "stackTrace": ["  line\n"]}
            return FunctionReply(msgspec.json.encode(described), failed=True)


class DyingFirst:
    """Functions of which some die of memory; a step's larger one is named after it."""

    def __init__(self, inner: Handlers, dying: set[str]) -> None:
        self.inner, self.dying = inner, dying
        self.asked: list[str] = []

    def invoke(self, function: str, payload: bytes, timeout: float, caller: Caller) -> FunctionReply:
        self.asked.append(function)
        if function in self.dying:
            return FunctionReply(b'{"errorType": "Runtime.OutOfMemory", "errorMessage": "signal: killed"}', failed=True)
        return self.inner.invoke(function.removesuffix("_xl"), payload, timeout, caller)


@dataclass
class Deployed:
    """One flow with its runs; answers what Step Functions would be asked for results."""

    graph: FlowGraph
    config: LokkiConfig
    s3: S3Server
    infos: dict[str, RunInfo] = field(default_factory=dict)
    history: list[HistoryEvent] = field(default_factory=list)

    def __post_init__(self) -> None:
        environ = {
            **self.s3.variables("function"),
            "LOKKI_ARTIFACT_BUCKET": self.s3.bucket,
            "LOKKI_FLOW_NAME": self.graph.name,
            "LOKKI_INLINE_LIMIT": str(self.config.inline_limit),
            "LOKKI_LOG_LEVEL": "CRITICAL",
        }
        calls = describe_calls(lower(self.graph))
        origin = cast("Flow[...]", self.graph.origin)
        self.functions: Handlers | DyingFirst = Handlers(
            {
                step.name: make_handler(
                    step, flow=origin, calls=cast("Mapping[str, Json]", calls[step.name]), environ=environ
                )
                for step in self.graph.steps
            }
        )
        self.machine = filled_definition(self.graph, self.config, self.s3.bucket)

    def run(self, params: dict[str, Json], run_id: str = "run-1") -> Outcome:
        """Run the flow, one child execution at a time."""
        outcome = self.execution(params, run_id).run()
        started = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
        self.infos[run_id] = RunInfo(
            run_id, self.graph.name, outcome.status.lower(), started, 1.0, params, outcome.error and str(outcome.cause)
        )
        return outcome

    def execution(self, params: dict[str, Json], run_id: str) -> Execution:
        """Return a run of the flow that has not begun."""
        self.history.clear()
        read = read_definition(self.machine, self.graph.name)
        services = Services(self.functions, self.s3, FakeClock(), self.history.append, ExecutionSettings(workers=1))
        return Execution(services, read.states, Identity(self.graph.name, run_id, read.timeout), params)

    def transitions(self) -> int:
        """Return the state transitions that are paid for: states of STANDARD executions, and starts of children."""
        entered = [event for event in self.history if event.type.endswith("StateEntered")]
        children = {event.execution for event in self.history if event.child is not None}
        express = "EXPRESS" in json.dumps(self.machine)
        return len([event for event in entered if event.child is None or not express]) + len(children)

    def children(self) -> int:
        """Return how many child executions were started."""
        return len({event.execution for event in self.history if event.child is not None})

    def methods(self) -> Counter[str]:
        """Return how many requests S3 got until now, by method."""
        return Counter(request.method for request in self.s3.requests())

    # what Step Functions knows of runs

    def list(self) -> list[RunInfo]:
        return [*reversed(self.infos.values())]

    def describe(self, run_id: str) -> RunInfo:
        if run_id not in self.infos:
            raise RunFolderError(f"there is no run {run_id!r}.")
        return self.infos[run_id]

    def definition(self, run_id: str) -> Json:
        return self.machine

    def output(self, run_id: str, state: str) -> Json:
        for event in self.history:
            ends = event.type in ("TaskSucceeded", "MapStateExited")
            if ends and event.state == state and event.child is None:
                return event.details["output"]
        return None

    def logs(self, run_id: str) -> Iterator[LogLine]:
        yield from ()
