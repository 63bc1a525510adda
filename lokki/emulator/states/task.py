"""Task: invokes a Lambda function, as the optimized integration does.

https://docs.aws.amazon.com/step-functions/latest/dg/state-task.html and
https://docs.aws.amazon.com/step-functions/latest/dg/connect-lambda.html
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from lokki.base.quotas import LONGEST_TIMEOUT
from lokki.base.values import Json
from lokki.emulator.states.failures import QUERY_FAILED, TIMEOUT, ExecutionTimeoutError, StatesError
from lokki.emulator.states.fields import Fields
from lokki.emulator.states.outcome import check_size, in_range
from lokki.emulator.states.rules import ErrorRules, read_rules
from lokki.emulator.states.services import Caller, FunctionReply, InvocationTimeoutError, ServiceError
from lokki.emulator.states.state import Frame, LevelReader, Visit
from lokki.emulator.states.transition import Transition, read_transition
from lokki.errors import EmulatorError

LAMBDA_INVOKE = "arn:aws:states:::lambda:invoke"


@dataclass(frozen=True, slots=True)
class Task:
    """A function to invoke, with templates of its payload and timeout.

    ``payload`` is None where the function gets an empty object.
    """

    name: str
    function: str
    payload: tuple[Json] | None
    timeout: Json
    rules: ErrorRules
    transition: Transition

    @classmethod
    def read(cls, name: str, fields: Fields, level: LevelReader) -> Task:
        """Read the state."""
        resource = fields.text("Resource")
        if resource != LAMBDA_INVOKE:
            raise EmulatorError(f"{fields.where}: Resource is {resource!r}; the emulator knows {LAMBDA_INVOKE} only.")
        arguments = fields.inside("Arguments")
        function = arguments.text("FunctionName")
        payload = arguments.optional("Payload")
        arguments.end()
        timeout = fields.number_template("TimeoutSeconds", LONGEST_TIMEOUT)
        return cls(name, function, payload, timeout, read_rules(fields), read_transition(fields))

    def transitions(self) -> Iterator[Transition]:
        """Yield its one way out."""
        yield self.transition

    def run(self, visit: Visit) -> tuple[Transition, Frame]:
        """Invoke the function.

        The result is Lambda's whole response.
        """
        function, payload, seconds = self._arguments(visit)
        # Before the event: a task whose arguments are too large is not scheduled.
        text = check_size(payload, f"The arguments of the state '{self.name}'")
        visit.record("TaskScheduled", resourceType="lambda", resource="invoke", function=function, parameters=payload)
        try:
            reply = self._invoke(visit, function, text, seconds)
            if reply.failed:
                raise function_error(reply.payload)
            response = _envelope(_decoded(reply.payload), reply.version, visit.execution.identity.name)
            check_size(response, f"The result of the state '{self.name}'")
        except StatesError as error:
            event = "TaskTimedOut" if error.error == TIMEOUT else "TaskFailed"
            visit.record(event, error=error.error, cause=error.cause)
            raise
        visit.record("TaskSucceeded", output=response["Payload"])
        return self.transition, visit.frame.with_result(response)

    def _arguments(self, visit: Visit) -> tuple[str, Json, float]:
        function = visit.fill(self.function, "Arguments.FunctionName")
        payload: Json = {}
        if self.payload is not None:
            payload = visit.fill(self.payload[0], "Arguments.Payload")
        seconds = visit.fill(self.timeout, "TimeoutSeconds")
        if not isinstance(function, str):
            raise StatesError(QUERY_FAILED, f"FunctionName of '{self.name}' is no string.")
        return function, payload, in_range(seconds, "TimeoutSeconds", self.name)

    def _invoke(self, visit: Visit, function: str, payload: bytes, seconds: float) -> FunctionReply:
        # The shorter of the two ends the wait; which one it was decides whether rules may catch it.
        left = visit.execution.left()
        try:
            return visit.services.functions.invoke(function, payload, min(seconds, left), self._caller(visit))
        except ServiceError as error:
            raise StatesError(error.error, error.cause) from None
        except InvocationTimeoutError:
            if left <= seconds:  # no rule may catch that the whole execution is out of time
                problem = f"The execution took longer than it may, in '{self.name}'."
                raise ExecutionTimeoutError(problem) from None
            raise StatesError(TIMEOUT, f"'{self.name}' took longer than {seconds:g} s.") from None

    def _caller(self, visit: Visit) -> Caller:
        identity = visit.execution.identity
        index, items = (None, 0) if identity.child is None else (identity.child.index, identity.child.items)
        return Caller(identity.arn, self.name, visit.attempt, index, items)


def _decoded(payload: bytes) -> Json:
    try:
        value: Json = msgspec.json.decode(payload)
    except msgspec.DecodeError:  # Step Functions hands on a payload that is no JSON as a string
        return payload.decode(errors="replace")
    return value


def _envelope(payload: Json, version: str, request: str) -> dict[str, Json]:
    """Wrap a payload in the response of an invocation."""
    headers: dict[str, Json] = {"Content-Type": "application/json", "X-Amz-Executed-Version": version}
    return {
        "ExecutedVersion": version,
        "Payload": payload,
        "SdkHttpMetadata": {"AllHttpHeaders": {}, "HttpHeaders": headers, "HttpStatusCode": 200},
        "SdkResponseMetadata": {"RequestId": request},
        "StatusCode": 200,
    }


def function_error(payload: bytes) -> StatesError:
    """Return the error that a function reported.

    Its name is the reported type, or Lambda.Unknown where there is none; its cause is the whole report.
    """
    report = _decoded(payload)
    name = report.get("errorType") if isinstance(report, dict) else None
    return StatesError(name if isinstance(name, str) and name else "Lambda.Unknown", payload.decode(errors="replace"))
