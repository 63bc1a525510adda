"""Tasks: one try of invoking a Lambda function, as the optimized integration does.

https://docs.aws.amazon.com/step-functions/latest/dg/connect-lambda.html
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import msgspec

from lokki.base.values import Json
from lokki.emulator.states.definition import Task
from lokki.emulator.states.expressions import Scope
from lokki.emulator.states.failures import QUERY_FAILED, TIMEOUT, ExecutionTimeoutError, StatesError
from lokki.emulator.states.outcome import Identity, check_size, in_range
from lokki.emulator.states.services import Caller, FunctionReply, InvocationTimeoutError, ServiceError, Services


class RecordEvent(Protocol):
    """Tells of an event."""

    def __call__(self, kind: str, state: str, **details: Json) -> None:
        """RecordEvent."""


@dataclass(frozen=True, slots=True)
class TaskTry:
    """One try of a task. ``left``: seconds that its execution has left."""

    task: Task
    services: Services
    scope: Scope
    identity: Identity
    left: float
    tell: RecordEvent

    def invoke(self, attempt: int) -> dict[str, Json]:
        """Invoke the function; return the whole response. Raises StatesError."""
        task = self.task
        function, payload, seconds = self._arguments()
        text = check_size(payload, f"The arguments of the state '{task.name}'")
        scheduled: dict[str, Json] = {"resourceType": "lambda", "resource": "invoke", "function": function}
        self.tell("TaskScheduled", task.name, **scheduled, parameters=payload)
        try:
            reply = self._reply(function, text, seconds, self._caller(attempt))
            if reply.failed:
                raise function_error(reply.payload)
            result = _envelope(_decoded(reply.payload), reply.version, self.identity.name)
            check_size(result, f"The result of the state '{task.name}'")
        except StatesError as error:
            kind = "TaskTimedOut" if error.error == TIMEOUT else "TaskFailed"
            self.tell(kind, task.name, error=error.error, cause=error.cause)
            raise
        self.tell("TaskSucceeded", task.name, output=result["Payload"])
        return result

    def _arguments(self) -> tuple[str, Json, float]:
        task, fill = self.task, self.services.expressions.fill
        function = fill(task.function, self.scope, f"{task.name}.Arguments.FunctionName")
        payload: Json = {}
        if task.payload is not None:
            payload = fill(task.payload[0], self.scope, f"{task.name}.Arguments.Payload")
        seconds = fill(task.timeout, self.scope, f"{task.name}.TimeoutSeconds")
        if not isinstance(function, str):
            raise StatesError(QUERY_FAILED, f"FunctionName of '{task.name}' is no string.")
        return function, payload, in_range(seconds, "TimeoutSeconds", task.name)

    def _reply(self, function: str, text: bytes, seconds: float, caller: Caller) -> FunctionReply:
        try:
            return self.services.functions.invoke(function, text, min(seconds, self.left), caller)
        except ServiceError as error:
            raise StatesError(error.error, error.cause) from None
        except InvocationTimeoutError:
            if self.left <= seconds:
                problem = f"The execution took longer than it may, in '{self.task.name}'."
                raise ExecutionTimeoutError(problem) from None
            raise StatesError(TIMEOUT, f"'{self.task.name}' took longer than {seconds:g} s.") from None

    def _caller(self, attempt: int) -> Caller:
        child = self.identity.child
        index, items = (None, 0) if child is None else (child.index, child.items)
        return Caller(self.identity.arn, self.task.name, attempt, index, items)


def _decoded(payload: bytes) -> Json:
    try:
        value: Json = msgspec.json.decode(payload)
    except msgspec.DecodeError:
        return payload.decode(errors="replace")
    return value


def _envelope(payload: Json, version: str, request: str) -> dict[str, Json]:
    """Return the response of an invocation as the optimized integration hands it on."""
    headers: dict[str, Json] = {"Content-Type": "application/json", "X-Amz-Executed-Version": version}
    return {
        "ExecutedVersion": version,
        "Payload": payload,
        "SdkHttpMetadata": {"AllHttpHeaders": {}, "HttpHeaders": headers, "HttpStatusCode": 200},
        "SdkResponseMetadata": {"RequestId": request},
        "StatusCode": 200,
    }


def function_error(payload: bytes) -> StatesError:
    """Return the error that a function reported: its type is the name, all of it the cause; else Lambda.Unknown."""
    described = _decoded(payload)
    kind = described.get("errorType") if isinstance(described, dict) else None
    return StatesError(kind if isinstance(kind, str) and kind else "Lambda.Unknown", payload.decode(errors="replace"))
