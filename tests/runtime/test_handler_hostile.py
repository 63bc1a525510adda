"""Whatever comes to a function from outside: a clear error, nothing run that is not the flow's, nothing told."""

import datetime
import io
import json
import os
import pickle
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any

import pytest
from aws.moto_server import Aws
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.lambda_function import FLOW, RUN, Cloud, Context, event

from lokki import flow, step
from lokki.errors import LokkiError
from lokki.runtime.handler import Handler
from lokki.store import codec

SECRET = "hunter2"
IN_MAP: dict[str, Any] = {
    "hands_on": {"x": "x", "step": ""}, "only": [["limit", 1]], "keeps_cases": ["limit"], "result": "x",
}  # fmt: skip
relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@step
def hand_on(value: object = None) -> object:
    return value


@step
def join(value: object = None, other: object = None) -> object:
    return [value, other]


@step
def take(values: list[object]) -> int:
    return len(values)


@step
def first(limit: int = 3, since: datetime.date = datetime.date(2026, 1, 1)) -> int:
    return limit


@flow
def hostile_flow(limit: int = 3, since: datetime.date = datetime.date(2026, 1, 1)):
    return first(limit, since)


@pytest.fixture(scope="module")
def cloud(aws: Aws) -> Cloud:
    return Cloud(aws, aws.new_bucket())


@pytest.fixture(scope="module")
def handlers(cloud: Cloud) -> list[Handler]:
    arguments: Any = [{"parameter": "limit", "keyword": None, "value": {"$param": "limit"}}]
    value: Any = [{"parameter": "other", "keyword": "other", "value": [{"$output": "limit"}]}]
    return [
        cloud.function(hand_on),
        cloud.function(hand_on, {"reads": "item", "tolerate": 3}),
        cloud.function(take, {"reads": "results", "tolerate": 0.5}),
        cloud.function(first, {"reads": None, "first": True, "arguments": arguments}, hostile_flow),
        cloud.function(hand_on, {"reads": "output", "fans_out": True}),
        cloud.function(join, {"reads": "output", "arguments": value, "cases": ["good", 1, None], "binds": True}),
        cloud.function(join, {"reads": {"value": "x"}, "arguments": value, **IN_MAP}),
        cloud.function(hand_on, {"reads": "item", "hands_on": {"rows.map.item": "rows.map.item"}}),
    ]


def outcome(handler: Handler, given_event: object) -> str:
    """Invoke a handler; return what it logged. Anything but a reply that JSON can hold, or a LokkiError, fails."""
    log = io.StringIO()
    with redirect_stdout(log), redirect_stderr(log), suppress(LokkiError):
        json.dumps(handler(given_event, Context()), allow_nan=False).encode()
    return log.getvalue()


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=20)
    | st.sampled_from([SECRET, RUN, "\ud800", 10**400, "s3://other/lokki/x", 2**53, -1])
)
FIELDS = [
    "run_id", "call", "params", "input", "item", "items", "index", "result", "result_url", "range", "failed", "attempt",
    "entries_url", "results_manifest_key", "step", "error", "message", "limit", "since", "$param",
    "values", "cases", "bind", "x", "rows.map.item", "case", "map_manifest_key",
]  # fmt: skip
jsons = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=5), inner, max_size=5)
    ),
    max_leaves=12,
)


@st.composite
def events(draw: st.DrawFn) -> object:
    """Draw events that are almost right, and some that are not at all."""
    if draw(st.integers(0, 9)) == 0:
        return draw(jsons)
    urls = st.builds(
        "{}://{}/{}".format,
        st.sampled_from(["s3", "http", "file", "local"]),
        st.sampled_from(["bucket", "", "other"]) | st.text(max_size=5),
        st.sampled_from([f"lokki/{FLOW}/{RUN}/x", "../x", "lokki/other/x"]) | st.text(max_size=9),
    )
    references = st.fixed_dictionaries({}, optional={"result": jsons, "result_url": urls | jsons, "range": jsons})
    failures = st.fixed_dictionaries({"step": scalars, "error": scalars, "message": scalars})
    fields = {"item": jsons, "result": jsons, "result_url": urls, "failed": failures | jsons, "entries_url": urls}
    named = st.fixed_dictionaries({}, optional=dict.fromkeys(("x", "limit", "rows.map.item"), references)) | jsons
    chosen = st.fixed_dictionaries({}, optional={"limit": st.integers(0, 2)}) | jsons
    carried = {"values": named, "cases": chosen}
    entries = st.fixed_dictionaries({}, optional={"index": st.integers(0, 9) | jsons, **fields, **carried})
    results = st.fixed_dictionaries(
        {"results_manifest_key": urls | st.text(max_size=9), "items": st.integers() | jsons}
    )
    # The run's id is no value of the flow: it names the execution, and is in each line.
    fixed: dict[str, Any] = {"run_id": st.just(RUN) | jsons.filter(lambda value: value != SECRET)}
    optional: dict[str, Any] = {
        "call": st.sampled_from(["hand_on", "take", "first", "join"]) | jsons,
        "params": st.fixed_dictionaries({}, optional={"limit": jsons, "since": jsons, "x": jsons}) | jsons,
        "attempt": st.integers() | jsons,
        "values": named,
        "bind": jsons,
    }
    source = draw(st.sampled_from(["input", "item", "items", "none"]))
    if source != "none":
        kinds: dict[str, Any] = {
            "input": references | results | jsons,
            "item": entries,
            "items": st.lists(entries, max_size=4),
        }
        fixed[source] = kinds[source]
    return draw(st.fixed_dictionaries(fixed, optional=optional))


@settings(relaxed, max_examples=200)
@given(given_event=events())
def test_any_event_is_answered_or_refused_and_no_value_is_logged(handlers: list[Handler], given_event: object) -> None:
    for handler in handlers:
        log = outcome(handler, given_event)
        assert SECRET not in log
        assert all(json.loads(line) for line in log.splitlines())


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def places(url: str) -> list[dict[str, object]]:
    """Every way to hand a function a URL."""
    entry = {"index": 0, "result_url": url}
    return [
        event(hand_on, input={"result_url": url}),
        event(hand_on, input={"result_url": url, "range": [0, 10]}),
        event(hand_on, item=entry),
        event(hand_on, items=[entry]),
        event(hand_on, items=[{"entries_url": url}]),
    ]


def test_nothing_outside_of_the_flows_prefix_is_unpickled(cloud: Cloud, tmp_path: Path) -> None:
    bomb = codec.dumps(Bomb(tmp_path / "exploded"))
    other = cloud.aws.new_bucket()
    handler = cloud.function(hand_on)
    keys = ["lokki/other-flow/run-1/x", f"lokki/{FLOW}-2/run-1/x", "x", f"x/lokki/{FLOW}/run-1/x"]
    urls = [f"s3://{cloud.bucket}/{key}" for key in keys]
    for key in keys:
        cloud.aws.s3.put_object(Bucket=cloud.bucket, Key=key, Body=bomb)
    cloud.aws.s3.put_object(Bucket=other, Key=f"lokki/{FLOW}/run-1/x", Body=bomb)
    urls += [
        f"s3://{other}/lokki/{FLOW}/run-1/x",
        f"s3://{cloud.bucket}/lokki/{FLOW}/../other-flow/run-1/x",
        f"s3://{cloud.bucket}/lokki/{FLOW}/%2e%2e/other-flow/run-1/x",
        f"S3://{cloud.bucket}/lokki/other-flow/run-1/x",
        f"{cloud.aws.endpoint}/{cloud.bucket}/x",
        f"file://{tmp_path}/x",
        f"{tmp_path}/x",
        "",
    ]
    (tmp_path / "x").write_bytes(bomb)
    refused = 0
    for url in urls:
        for given_event in places(url):
            with pytest.raises(LokkiError):
                handler(given_event, Context())
            refused += 1
    assert (refused, (tmp_path / "exploded").exists()) == (len(urls) * 5, False)


def test_results_that_lead_out_of_the_flow_are_not_unpickled(cloud: Cloud, tmp_path: Path) -> None:
    bomb = codec.dumps(Bomb(tmp_path / "exploded"))
    cloud.aws.s3.put_object(Bucket=cloud.bucket, Key="lokki/other-flow/run-1/x", Body=bomb)
    url = f"s3://{cloud.bucket}/lokki/other-flow/run-1/x"
    handler = cloud.function(take, {"reads": "results", "tolerate": 1.0})
    for entry in ({"index": 0, "result_url": url}, {"entries_url": url}):
        key = cloud.put_results("hostile", [entry])
        with pytest.raises(LokkiError, match="is not in this store"):
            handler(event(take, input={"results_manifest_key": key, "items": 1}), Context())
    for key in ("lokki/other-flow/run-1/x", "../x", "x"):
        with pytest.raises(LokkiError):
            handler(event(take, input={"results_manifest_key": key, "items": 1}), Context())
    assert not (tmp_path / "exploded").exists()


def test_the_bomb_would_explode(cloud: Cloud, tmp_path: Path) -> None:
    url = cloud.put("bomb/output.pkl.gz", codec.dumps(Bomb(tmp_path / "exploded")))
    cloud.function(hand_on)(event(hand_on, input={"result_url": url}), Context())
    assert (tmp_path / "exploded").exists()  # a flow trusts what it wrote itself


def test_a_pickle_that_is_no_gzip_is_not_unpickled(cloud: Cloud, tmp_path: Path) -> None:
    url = cloud.put("bare/output.pkl.gz", pickle.dumps(Bomb(tmp_path / "exploded")))
    for given_event in places(url):
        with pytest.raises(LokkiError):
            cloud.function(hand_on)(given_event, Context())
    assert not (tmp_path / "exploded").exists()


GOOD = codec.dumps({"bird": SECRET, "numbers": list(range(50))})


@settings(relaxed, max_examples=60)
@given(data=st.data())
def test_a_damaged_object_is_refused_or_read_right(cloud: Cloud, handlers: list[Handler], data: st.DataObject) -> None:
    content = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)))] + data.draw(st.binary(max_size=8))
    url = cloud.put("damaged/output.pkl.gz", bytes(content))
    for given_event in places(url):
        assert SECRET not in outcome(handlers[0], given_event)


@settings(relaxed, max_examples=60)
@given(files=st.lists(st.lists(jsons, max_size=3) | jsons, max_size=3), items=st.integers(0, 3))
def test_any_result_files_are_read_or_refused(
    cloud: Cloud, handlers: list[Handler], files: list[object], items: int
) -> None:
    key = cloud.put_results("any", *files)
    assert SECRET not in outcome(handlers[2], event(take, input={"results_manifest_key": key, "items": items}))


@settings(relaxed, max_examples=40)
@given(content=st.binary(max_size=30) | jsons.map(lambda value: json.dumps(value).encode()))
def test_any_manifest_is_read_or_refused(cloud: Cloud, handlers: list[Handler], content: bytes) -> None:
    url = cloud.put("any/manifest.json", content)
    key = url.removeprefix(f"s3://{cloud.bucket}/")
    assert SECRET not in outcome(handlers[2], event(take, input={"results_manifest_key": key, "items": 1}))
    assert SECRET not in outcome(handlers[1], event(hand_on, items=[{"entries_url": url}]))


def test_a_value_that_is_nested_deep_is_answered_or_refused(handlers: list[Handler]) -> None:
    deep: object = SECRET
    for _ in range(900):
        deep = [deep]
    for fields in ({"input": {"result": deep}}, {"item": {"index": 0, "item": deep}}, {"params": {"limit": deep}}):
        for handler in handlers:
            assert SECRET not in outcome(handler, {"run_id": RUN, **fields})
