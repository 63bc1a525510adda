"""A collector of OpenTelemetry on loopback, and the tree that its spans make."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Got:
    """A span, with its attributes as plain values and where it came from."""

    trace: str
    id: str
    parent: str
    name: str
    kind: int
    start: int
    end: int
    error: str
    attributes: dict[str, Any]
    events: list[tuple[str, dict[str, Any]]]
    resource: dict[str, Any]
    links: list[dict[str, str]]


@dataclass
class Collector:
    """What was received. ``status``: what is answered."""

    endpoint: str = ""
    spans: list[Got] = field(default_factory=list)
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    status: int = 200

    def take(self, path: str, headers: dict[str, str], body: bytes) -> None:
        self.requests.append((path, headers))
        for source in json.loads(body)["resourceSpans"]:
            resource = plain(source["resource"]["attributes"])
            for scope in source["scopeSpans"]:
                assert scope["scope"]["name"] == "lokki"
                self.spans += [got(span, resource) for span in scope["spans"]]

    def tree(self) -> list[str]:
        """Return the names of all spans, each set in below its parent. Fails where they are not one tree."""
        assert len({span.trace for span in self.spans}) == 1
        ids = [span.id for span in self.spans]
        assert len(set(ids)) == len(ids)
        [root] = [span for span in self.spans if not span.parent]
        assert {span.parent for span in self.spans} - {""} <= set(ids)
        assert all(span.start <= span.end for span in self.spans)
        return self._lines(root)

    def _lines(self, span: Got) -> list[str]:
        below = sorted(self._lines(one) for one in self.spans if one.parent == span.id)
        return [span.name, *(f"  {line}" for lines in below for line in lines)]

    def named(self, name: str) -> Got:
        """Return the only span of a name."""
        [span] = [span for span in self.spans if span.name == name]
        return span


def got(span: dict[str, Any], resource: dict[str, Any]) -> Got:
    assert (len(span["traceId"]), len(span["spanId"])) == (32, 16)
    return Got(
        span["traceId"],
        span["spanId"],
        span.get("parentSpanId", ""),
        span["name"],
        span["kind"],
        int(span["startTimeUnixNano"]),
        int(span["endTimeUnixNano"]),
        span["status"].get("message", "") if span["status"].get("code") == 2 else "",
        plain(span["attributes"]),
        [(event["name"], plain(event["attributes"])) for event in span["events"]],
        resource,
        span["links"],
    )


def plain(attributes: list[dict[str, Any]]) -> dict[str, Any]:
    """Read attributes; 64 bits are text in JSON."""
    found = {}
    for attribute in attributes:
        [(kind, value)] = attribute["value"].items()
        found[attribute["key"]] = int(value) if kind == "intValue" else value
    return found


@contextmanager
def collecting() -> Iterator[Collector]:
    """Run a collector."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            collector.take(self.path, dict(self.headers), body)
            self.send_response(collector.status)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    collector.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
