"""What functions tell a collector of their invocations, and that this costs no run anything."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from aws.moto_server import Aws
from support.collector import Collector, collecting
from support.lambda_function import RUN, Cloud, Context, event

from lokki import step
from lokki.engine.otlp import span_id, trace_id

ITEM = {"reads": "item"}


@step
def flap(bird: str) -> str:
    if bird == "seagull":
        raise ValueError("no seagulls")
    return f"flappy {bird}"


@pytest.fixture
def cloud(aws: Aws) -> Cloud:
    return Cloud(aws, aws.new_bucket())


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as started:
        yield started


def items(*birds: str) -> list[dict[str, object]]:
    return [{"index": index, "item": bird} for index, bird in enumerate(birds)]


def test_an_invocation_hangs_below_its_call_and_items_that_failed_below_it(cloud: Cloud, collector: Collector) -> None:
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint, "AWS_LAMBDA_FUNCTION_NAME": "birds-flap"}
    handler = cloud.function(flap, {**ITEM, "tolerate": 1}, **environ)
    handler(event(flap, items=items("goose", "seagull", "duck")), Context())
    handler(event(flap, items=items("goose", "duck"), attempt=1), Context())
    first, failed, second = collector.spans
    assert {span.trace for span in collector.spans} == {trace_id(RUN)}
    assert (first.parent, first.name, first.kind, second.parent) == (span_id(RUN, "flap"), "flap", 2, first.parent)
    assert (failed.parent, failed.name, failed.error) == (first.id, "flap[1]", "ValueError: no seagulls")
    assert [(span.attributes["faas.coldstart"], span.attributes["lokki.attempt"]) for span in (first, second)] == [
        (True, 1),
        (False, 2),
    ]
    assert first.attributes["code.function.name"] == f"{__name__}.flap"
    assert first.resource["faas.name"] == "birds-flap"


def test_an_item_alone_is_told_only_when_it_fails(cloud: Cloud, collector: Collector) -> None:
    handler = cloud.function(flap, ITEM, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=f"{collector.endpoint}/own")
    handler(event(flap, item=items("goose")[0]), Context())
    handler(event(flap, items=items("goose")), Context())
    assert collector.spans == []
    with pytest.raises(Exception, match="no seagulls"):
        handler(event(flap, item=items("seagull")[0]), Context())
    [span] = collector.spans
    [(name, fields)] = span.events
    assert (span.attributes["lokki.item"], span.error, name) == ("0", "ValueError: no seagulls", "exception")
    assert 'raise ValueError("no seagulls")' in fields["exception.stacktrace"]
    assert collector.requests[0][0] == "/own"


def test_a_collector_that_is_away_is_one_line_in_the_log(cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    handler = cloud.function(flap, {**ITEM, "tolerate": 1}, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9")
    reply = handler(event(flap, items=items("goose", "duck")), Context())
    assert [entry["result"] for entry in reply["items"]] == ["flappy goose", "flappy duck"]  # type: ignore[index, union-attr, call-overload]
    handler(event(flap, items=items("goose", "duck")), Context())  # for a minute nothing is tried again
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    [warning] = [line for line in lines if line["level"] == "WARNING"]
    assert (warning["event"], "127.0.0.1:9/v1/traces cannot be reached" in warning["problem"]) == ("trace", True)
