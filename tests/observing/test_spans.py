"""One trace for each run, the same from every engine, received by a collector on loopback."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.collector import Collector, collecting

from lokki import Retry, flow, step
from lokki.engine.events import Event, ItemsFinished, MapFinished, MapStarted, RunFinished, RunStarted, StepOutput
from lokki.engine.otlp import span_id, trace_id
from lokki.errors import RunError
from lokki.observing.spans import SpanFold
from lokki.plan import lower
from lokki.runner import LocalRunner, Resume

TRIES: list[int] = []


@step
def numbers(count: int) -> list[int]:
    return list(range(count))


@step(retry=Retry(attempts=2, delay=0))
def shaky(number: int, fails: bool) -> int:
    TRIES.append(number)
    if fails or TRIES.count(number) < 2:
        raise ValueError(f"no {number}")
    return number


@step
def total(values: list[int]) -> int:
    return sum(values)


@flow
def traced(count: int = 2, fails: bool = False):
    return numbers(count).map(shaky(fails=fails)).agg(total)


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with collecting() as started:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", started.endpoint)
        TRIES.clear()
        yield started


def test_a_run_here_is_one_tree(tmp_path: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "api-key=a%20b, team=birds")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "honk")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test")
    monkeypatch.setenv("TRACEPARENT", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    LocalRunner(root=tmp_path).run(traced(), run_id="monday")
    assert collector.tree() == ["run traced", "  map numbers", "    shaky", "  numbers", "  total"]
    [(path, headers)] = collector.requests
    assert (path, headers["api-key"], headers["team"]) == ("/v1/traces", "a b", "birds")
    root, shaken = collector.named("run traced"), collector.named("shaky")
    assert (root.trace, root.id) == (trace_id("monday"), span_id("monday"))
    assert root.resource == {"service.name": "honk", "deployment.environment": "test"}
    assert root.links == [{"traceId": "0af7651916cd43dd8448eb211c80319c", "spanId": "b7ad6b7169203331"}]
    assert root.attributes == {"lokki.flow": "traced", "lokki.run": "monday", "lokki.engine": "local"}
    assert shaken.attributes == {"lokki.call": "shaky", "code.function.name": f"{__name__}.shaky"}
    retries = sorted((fields["lokki.item"], fields["exception.message"]) for _, fields in shaken.events)
    assert retries == [("0", "no 0"), ("1", "no 1")]
    assert collector.named("map numbers").attributes["lokki.items"] == 2


def test_what_failed_is_told_with_its_exception_and_the_rest_of_the_run_adds_to_the_trace(
    tmp_path: Path, collector: Collector
) -> None:
    runner = LocalRunner(root=tmp_path, executor="inline")
    with pytest.raises(RunError):
        runner.run(traced(), {"fails": True}, run_id="tuesday")
    item = collector.named("shaky[0]")
    assert (item.error, item.parent) == ("ValueError: no 0", collector.named("shaky").id)
    [(name, fields)] = item.events
    assert (name, fields["exception.type"], "in shaky" in fields["exception.stacktrace"]) == (
        "exception",
        "ValueError",
        True,
    )
    assert collector.named("run traced").error.startswith("RunError: item 0 failed in the map over numbers()")
    assert collector.tree() == ["run traced", "  map numbers", "    shaky", "      shaky[0]", "  numbers"]
    first = list(collector.spans)
    with pytest.raises(RunError):
        runner.run(traced(), run_id="tuesday", resume=Resume("tuesday"))
    rest = collector.spans[len(first) :]
    assert {span.trace for span in rest} == {trace_id("tuesday")}
    assert not {span.id for span in rest} & {span.id for span in first}
    assert collector.tree() == [
        *("run traced", "  map numbers", "    shaky", "      shaky[0]", "  numbers"),
        *("  run traced", "    map numbers", "      shaky", "        shaky[0]"),
    ]


@pytest.mark.parametrize(
    ("variables", "warning"),
    [
        ({"OTEL_SDK_DISABLED": "true"}, ""),
        ({"OTEL_TRACES_EXPORTER": "none"}, ""),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "OTEL_EXPORTER_OTLP_PROTOCOL=grpc is not spoken here"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:PORT/x"}, "cannot be reached"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "birds"}, "cannot be reached"),
        ({"OTEL_EXPORTER_OTLP_TIMEOUT": "soon"}, "could not convert"),
    ],
)
def test_a_trace_that_is_off_or_cannot_be_sent_fails_no_run(
    tmp_path: Path,
    collector: Collector,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    warning: str,
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name, value in variables.items():
        monkeypatch.setenv(name, value.replace("PORT", str(port)))
    events: list[Event] = []
    assert LocalRunner(root=tmp_path, listener=events.append).run(traced()) == 1
    warnings = [event.text for event in events if isinstance(event, StepOutput)]
    assert ([warning in text for text in warnings], collector.spans) == ([True] if warning else [], [])


def test_a_collector_that_refuses_is_one_warning(tmp_path: Path, collector: Collector) -> None:
    collector.status = 503
    events: list[Event] = []
    LocalRunner(root=tmp_path, listener=events.append).run(traced())
    warnings = [event.text for event in events if isinstance(event, StepOutput)]
    assert warnings == [f"warning: the run's trace was not sent: {collector.endpoint}/v1/traces answered 503"]


def test_a_million_items_have_spans_for_the_slowest_alone() -> None:
    fold = SpanFold(lower(traced()), "local")
    events: list[Any] = [RunStarted("traced", "r", {}), MapStarted("numbers", ("shaky",), 1_000_000)]
    events += [ItemsFinished("numbers", 1000, 1000.0, (at * 1000,), 1.0 + at / 1000) for at in range(1000)]
    for at, event in enumerate([*events, MapFinished("numbers", 1_000_000, 0, 1.0), RunFinished(1.0)]):
        fold.take((at + 10) * 10**9, event)
    slow = [span.name for span in fold.spans if "[" in span.name]
    assert slow == [f"shaky[{at * 1000}]" for at in range(999, 989, -1)]
