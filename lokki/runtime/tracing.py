"""The spans of one invocation: itself, and of the items of a batch those that failed or were slow.

Loaded only where the function's environment names a collector. They hang below the span of their call, whose id follows
from the run's.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from lokki.base.failures import Failure
from lokki.base.item_path import ItemPath, format_item
from lokki.engine.invocation import StepFailedError
from lokki.engine.otlp import SERVER, SLOW, AttributeValue, Span, describe_function, export, span_id
from lokki.runtime.event import Batch, Entry
from lokki.runtime.work import Work

_MOST_FAILED, _MOST_SLOW = 20, 3
_MARGIN = 1.0
_VARIABLES = {
    "service.name": "LOKKI_FLOW_NAME",
    "faas.name": "AWS_LAMBDA_FUNCTION_NAME",
    "faas.version": "AWS_LAMBDA_FUNCTION_VERSION",
    "cloud.region": "AWS_REGION",
}


class InvocationTrace:
    """What is told of an invocation.

    https://opentelemetry.io/docs/specs/semconv/faas/faas-spans/
    """

    def __init__(self, environ: Mapping[str, str], work: Work, *, is_cold: bool) -> None:
        self._environ = environ
        self._work = work
        self._start = time.time_ns()
        self._failure: Failure | None = None
        self._items: list[tuple[float, Span]] = []
        request, payload = work.request, work.request.input
        entries = payload.entries if isinstance(payload, Batch) else (payload,)
        self._item = entries[0].item if len(entries) == 1 and isinstance(entries[0], Entry) else None
        invocation = str(getattr(work.context, "aws_request_id", ""))
        self._id = span_id(request.run_id, request.call.id, invocation, str(self._start))
        self._attributes: dict[str, AttributeValue] = {
            "faas.invocation_id": invocation,
            "faas.coldstart": is_cold,
            "code.function.name": describe_function(work.step.fn),
            "lokki.run": request.run_id,
            "lokki.call": request.call.id,
            "lokki.attempt": request.attempt,
        }
        if self._item is not None:
            self._attributes["lokki.item"] = format_item(self._item)

    def take_item(self, item: ItemPath, seconds: float, failure: Failure | None) -> None:
        """Take what became of an item of a batch."""
        if self._item is None and (failure is not None or seconds >= SLOW):
            end, name, request = time.time_ns(), format_item(item), self._work.request
            self._items.append(
                (
                    seconds,
                    Span(
                        span_id(request.run_id, request.call.id, name, self._id),
                        self._id,
                        f"{request.call.id}[{name}]",
                        end - int(seconds * 1e9),
                        end,
                        {"lokki.item": name},
                        failure,
                    ),
                )
            )

    def fail(self, error: Exception) -> None:
        """Take the error that the invocation ends with."""
        if isinstance(error, StepFailedError):
            self._failure = error.failure
        else:
            self._failure = Failure("", type(error).__name__, str(error))

    def send(self) -> str:
        """Send the spans, and return why that failed, or ""."""
        end, request = time.time_ns(), self._work.request
        if self._item is not None and self._failure is None and end - self._start < SLOW * 1e9:
            return ""
        failed = [span for _, span in self._items if span.failure is not None]
        slow = sorted((pair for pair in self._items if pair[1].failure is None), key=lambda pair: -pair[0])
        parent = span_id(request.run_id, request.call.id)
        own = Span(self._id, parent, request.call.step, self._start, end, self._attributes, self._failure, kind=SERVER)
        spans = [own, *failed[:_MOST_FAILED], *(span for _, span in slow[:_MOST_SLOW])]
        resource = {name: self._environ[variable] for name, variable in _VARIABLES.items() if variable in self._environ}
        seconds = max(self._work.seconds_left() - _MARGIN, 0.1)
        return export(request.run_id, spans, {**resource, "cloud.provider": "aws"}, self._environ, seconds)
