"""Spans of OpenTelemetry, and sending them to a collector as OTLP's JSON over HTTP.

The ids of a run's trace and of its spans follow from the run's id, so that whoever tells of a part of a run, here or in
a function, adds to one tree. Loaded only where the environment names a collector.
https://opentelemetry.io/docs/specs/otlp/#otlphttp
https://opentelemetry.io/docs/languages/sdk-configuration/otlp-exporter/
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from urllib.parse import unquote, urlsplit

import msgspec

from lokki.base.failures import Failure
from lokki.base.values import Json

SLOW = 1.0
"""Seconds from which on an item may have a span, so that a million of items do not make a million spans."""

INTERNAL, SERVER = 1, 2
_ERROR = 2
_REDIRECTED = 300
_LONGEST = 16_000
_PREFIX = "OTEL_EXPORTER_OTLP_"

type AttributeValue = str | int | float | bool
type Attributes = Mapping[str, AttributeValue]


class SpanEvent(msgspec.Struct, frozen=True):
    """Something that happened in a span, and when."""

    at: int
    name: str
    attributes: Attributes


class Span(msgspec.Struct, frozen=True):
    """A part of a run, from ``start`` to ``end`` in nanoseconds since 1970.

    * ``failure``: why it failed.
    * ``link``: a span of another trace, as ``traceparent`` has it.
    """

    id: str
    parent: str
    name: str
    start: int
    end: int
    attributes: Attributes = {}
    failure: Failure | None = None
    events: tuple[SpanEvent, ...] = ()
    kind: int = INTERNAL
    link: str = ""


def trace_id(run_id: str) -> str:
    """Return the id of the trace of a run."""
    return sha256(run_id.encode()).hexdigest()[:32]


def span_id(run_id: str, *names: str) -> str:
    """Return the id of the span of a part of a run; without names, of the run."""
    return sha256("\0".join((run_id, "span", *names)).encode()).hexdigest()[:16]


def exception_event(at: int, failure: Failure) -> SpanEvent:
    """Return the event of an error.

    https://opentelemetry.io/docs/specs/semconv/exceptions/exceptions-spans/
    """
    texts = {"type": failure.error, "message": failure.message, "stacktrace": failure.traceback}
    return SpanEvent(at, "exception", {f"exception.{name}": text for name, text in texts.items() if text})


def describe_function(function: Callable[..., object]) -> str:
    """Return the whole name of a function."""
    return f"{function.__module__}.{getattr(function, '__qualname__', '')}"


def export(run_id: str, spans: Iterable[Span], resource: Attributes, environ: Mapping[str, str], most: float) -> str:
    """Send spans of a run, and return why that failed, or "".

    ``resource``: what they come from; ``most``: how many seconds that may take at most.
    """
    endpoint = environ.get(f"{_PREFIX}TRACES_ENDPOINT") or f"{environ[f'{_PREFIX}ENDPOINT'].rstrip('/')}/v1/traces"
    if _setting(environ, "PROTOCOL") == "grpc":
        return f"{_PREFIX}PROTOCOL=grpc is not spoken here: name an endpoint for http/json, often port 4318"
    headers = {"Content-Type": "application/json", **_pairs(_setting(environ, "HEADERS"))}
    own = _pairs(environ.get("OTEL_RESOURCE_ATTRIBUTES", ""))
    if name := environ.get("OTEL_SERVICE_NAME"):
        own["service.name"] = name
    listed: list[Json] = [_span_json(trace_id(run_id), span) for span in spans]
    scope: Json = {"scope": {"name": "lokki"}, "spans": listed}
    source: Json = {"attributes": _attributes({**resource, **own})}
    body: Json = {"resourceSpans": [{"resource": source, "scopeSpans": [scope]}]}
    try:
        seconds = min(most, float(_setting(environ, "TIMEOUT") or 10_000) / 1000)
        status = _post(endpoint, headers, msgspec.json.encode(body), seconds)
    except (OSError, HTTPException, ValueError) as error:
        return f"{endpoint} cannot be reached: {error}"
    return "" if status < _REDIRECTED else f"{endpoint} answered {status}"


def _setting(environ: Mapping[str, str], name: str) -> str:
    return environ.get(f"{_PREFIX}TRACES_{name}") or environ.get(f"{_PREFIX}{name}", "")


def _pairs(text: str) -> dict[str, str]:
    """Read ``name=value,name=value``, whose values are encoded as in URLs."""
    pairs = (part.partition("=") for part in text.split(",") if "=" in part)
    return {name.strip(): unquote(value.strip()) for name, _, value in pairs}


def _post(endpoint: str, headers: Mapping[str, str], body: bytes, seconds: float) -> int:
    address = urlsplit(endpoint)
    kind = HTTPSConnection if address.scheme == "https" else HTTPConnection
    connection = kind(address.hostname or "", address.port, timeout=seconds)
    path = f"{address.path or '/'}?{address.query}" if address.query else address.path or "/"
    try:
        connection.request("POST", path, body, dict(headers))
        return connection.getresponse().status
    finally:
        connection.close()


def _span_json(trace: str, span: Span) -> Json:
    version, *link = span.link.split("-")
    failure = span.failure
    events = span.events if failure is None else (*span.events, exception_event(span.end, failure))
    return {
        "traceId": trace,
        "spanId": span.id,
        **({"parentSpanId": span.parent} if span.parent else {}),
        "name": span.name,
        "kind": span.kind,
        "startTimeUnixNano": str(span.start),
        "endTimeUnixNano": str(span.end),
        "attributes": _attributes(span.attributes),
        "events": [
            {"timeUnixNano": str(event.at), "name": event.name, "attributes": _attributes(event.attributes)}
            for event in events
        ],
        "links": [{"traceId": link[0], "spanId": link[1]}] if version and len(link) > 1 else [],
        "status": {} if failure is None else {"code": _ERROR, "message": _text(failure.summary)},
    }


def _attributes(attributes: Attributes) -> list[Json]:
    return [{"key": name, "value": _value(value)} for name, value in attributes.items()]


def _value(value: AttributeValue) -> Json:
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}  # as protobuf writes 64 bits in JSON
    if isinstance(value, float):
        return {"doubleValue": value}
    return {"stringValue": _text(value)}


def _text(text: str) -> str:
    return text[:_LONGEST].encode("utf-8", "backslashreplace").decode()
