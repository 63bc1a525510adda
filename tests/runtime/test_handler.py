"""The Lambda handler, called as Lambda calls it, against S3 on loopback."""

import datetime
import json
import logging
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aws.moto_server import Aws
from support.lambda_function import FLOW, RUN, Cloud, Context, event, unpickled

from lokki import Retry, flow, step
from lokki.engine.causes import reported_failure
from lokki.errors import (
    BatchTimeoutError,
    ConfigError,
    EventError,
    FlowError,
    ParameterError,
    ResultError,
    StepTimeoutError,
    StoreError,
    TooManyFailuresError,
)
from lokki.runtime.handler import MOST_INLINE, error_name, make_handler, packaged_handler
from lokki.store import codec

KIB = 1024


@step
def get_birds(limit: int, since: datetime.date = datetime.date(2026, 1, 1)) -> list[str]:
    return [f"bird {number} since {since}" for number in range(limit)]


@step
def flap_bird(bird: object) -> object:
    return f"flappy {bird}"


@step
def hand_on(value: object) -> object:
    return value


@step
def join_birds(birds: list[object]) -> list[object]:
    return birds


@flow
def birds_flow(limit: int = 3, since: datetime.date = datetime.date(2026, 1, 1), note: str | None = None):
    return get_birds(limit, since=since).map(flap_bird).agg(join_birds)


SOURCE = {
    "reads": None,
    "first": True,
    "fans_out": True,
    "arguments": [
        {"parameter": "limit", "keyword": None, "value": {"$param": "limit"}},
        {"parameter": "since", "keyword": "since", "value": {"$param": "since"}},
    ],
}
OUTPUT, ITEM, RESULTS = {"reads": "output"}, {"reads": "item"}, {"reads": "results"}


@pytest.fixture
def cloud(aws: Aws) -> Cloud:
    return Cloud(aws, aws.new_bucket())


def raised(handler: Any, given: object, context: Context | None = None) -> tuple[str, str]:
    """Return the name and the message that Lambda reports an error under."""
    with pytest.raises(BaseException) as caught:  # noqa: PT011
        handler(given, context or Context())
    return type(caught.value).__name__, str(caught.value)


# --- no input: parameters


def test_the_first_call_completes_the_parameters_and_answers_with_all_of_them(cloud: Cloud) -> None:
    handler = cloud.function(get_birds, SOURCE, birds_flow)
    assert handler(event(get_birds, params={"limit": 1}), Context()) == {
        "map_manifest_key": f"lokki/{FLOW}/{RUN}/get_birds/map_manifest.json",
        "items": 1,
        "params": {"limit": 1, "since": "2026-01-01", "note": None},
    }
    assert json.loads(cloud.objects["get_birds/map_manifest.json"]) == [{"index": 0, "item": "bird 0 since 2026-01-01"}]


def test_all_that_is_wrong_with_the_parameters_is_named_at_once(cloud: Cloud) -> None:
    handler = cloud.function(get_birds, SOURCE, birds_flow)
    name, message = raised(handler, event(get_birds, params={"limit": "many", "since": "soon", "color": 1}))
    assert name == "ParameterError"
    assert [problem in message for problem in ("'color'", "'limit'", "'since'")] == [True] * 3
    assert cloud.objects == {}


def test_a_first_call_that_does_not_fan_out_answers_with_its_result_and_the_parameters(cloud: Cloud) -> None:
    described = {"reads": None, "first": True, "arguments": SOURCE["arguments"]}
    assert cloud.function(get_birds, described, birds_flow)(event(get_birds, params={"limit": 0}), Context()) == {
        "result": [],
        "params": {"limit": 0, "since": "2026-01-01", "note": None},
    }


def test_a_later_call_takes_the_parameters_that_it_is_sent(cloud: Cloud) -> None:
    @step
    def label(value: int, since: datetime.date, tags: dict[str, object]) -> str:
        return f"{value} {since!r} {tags}"

    described = {
        "reads": "output",
        "arguments": [
            {"parameter": "since", "keyword": None, "value": {"$param": "since"}},
            {"parameter": "tags", "keyword": "tags", "value": {"$$param": "literal", "deep": [{"$param": "note"}]}},
        ],
    }
    handler = cloud.function(label, described)
    given = event(label, params={"since": "2026-11-22", "note": "ä"}, input={"result": 7})
    assert handler(given, Context()) == {"result": "7 datetime.date(2026, 11, 22) {'$param': 'literal', 'deep': ['ä']}"}
    assert raised(handler, event(label, params={"note": "ä"}, input={"result": 7})) == (
        "EventError",
        "the event's params lack since, which label() takes.",
    )


# --- one input


def test_an_inline_value_and_a_stored_one_are_the_same_to_a_step(cloud: Cloud) -> None:
    handler = cloud.function(flap_bird, OUTPUT)
    member = codec.dumps("goose")
    whole, packed = cloud.put("a/output.pkl.gz", member), cloud.put("a/items.pkl.gz", b"before" + member + b"behind")
    for given in ({"result": "goose"}, {"result_url": whole}, {"result_url": packed, "range": [6, len(member)]}):
        assert handler(event(flap_bird, input=given), Context()) == {"result": "flappy goose"}


@pytest.mark.parametrize("value", [None, [], {}, "", 0, False, [None], {"a": None}, "ä☃𝄞"])
def test_any_json_comes_and_goes_inline(cloud: Cloud, value: object) -> None:
    assert cloud.function(hand_on, OUTPUT)(event(hand_on, input={"result": value}), Context()) == {"result": value}


def test_a_value_that_json_would_change_is_stored(cloud: Cloud) -> None:
    @step
    def pair() -> tuple[str, datetime.date]:
        return "goose", datetime.date(2026, 1, 1)

    reply = cloud.function(pair, {"reads": None})(event(pair), Context())
    assert reply == {"result_url": cloud.url("pair/output.pkl.gz")}
    assert {key: unpickled(content) for key, content in cloud.objects.items()} == {
        "pair/output.pkl.gz": ("goose", datetime.date(2026, 1, 1))
    }


@pytest.mark.parametrize(
    ("limit", "kib", "inline"),
    [
        ("", 3, True),
        ("", 4, False),
        ("0", 0, False),
        ("300000", 127, True),
        ("300000", 128, False),  # a state holds 256 KiB, and more than the value is in it
        ("300000", 255, False),
        ("300000", 256, False),
        ("300000", 257, False),
    ],
)
def test_a_value_travels_inline_up_to_the_limit(cloud: Cloud, limit: str, kib: int, inline: bool) -> None:
    value = "x" * (kib * KIB)
    url = cloud.put("before/output.pkl.gz", codec.dumps(value))
    handler = cloud.function(hand_on, OUTPUT, LOKKI_INLINE_LIMIT=limit)
    expected = {"result": value} if inline else {"result_url": cloud.url("hand_on/output.pkl.gz")}
    assert handler(event(hand_on, input={"result_url": url}), Context()) == expected
    assert inline or unpickled(cloud.objects["hand_on/output.pkl.gz"]) == value
    assert MOST_INLINE == 128 * KIB


def test_what_a_call_reads_must_be_what_the_event_has(cloud: Cloud) -> None:
    for call, fields, message in (
        (OUTPUT, {}, "the event has no input for hand_on(), which reads one input."),
        (
            OUTPUT,
            {"input": {"results_manifest_key": "k", "items": 1}},
            "has results of a map for hand_on(), which reads",
        ),
        (RESULTS, {"input": {"result": 1}}, "the event has one input for hand_on(), which reads results of a map."),
        (ITEM, {"input": {"result": 1}}, "the event has one input for hand_on(), which reads items."),
        ({"reads": None}, {"input": {"result": 1}}, "has one input for hand_on(), which reads no input."),
        (
            ITEM,
            {"item": {"index": 0, "item": 1}, "items": []},
            "the event has item and items, of which a call takes one",
        ),
    ):
        name, told = raised(cloud.function(hand_on, call), event(hand_on, **fields))
        assert (name, message in told) == ("EventError", True), told


def test_without_a_description_the_event_says_what_a_call_reads(cloud: Cloud) -> None:
    handler = cloud.function(hand_on)
    item = {"index": 4, "item": "goose"}
    assert handler({"run_id": RUN, "input": {"result": 1}}, Context()) == {"result": 1}
    assert handler({"run_id": RUN, "item": item}, Context()) == {"index": 4, "result": "goose"}
    assert handler({"run_id": RUN, "items": [item]}, Context()) == {"items": [{"index": 4, "result": "goose"}]}


def test_a_function_that_handles_several_calls_needs_to_be_told_which(cloud: Cloud) -> None:
    handler = make_handler(
        flap_bird,
        calls={"flap_bird": {"reads": "output"}, "flap_bird_2": {"reads": "item"}},
        environ={**cloud.aws.environ, "LOKKI_ARTIFACT_BUCKET": cloud.bucket, "LOKKI_FLOW_NAME": FLOW},
    )
    assert handler({"run_id": RUN, "call": "flap_bird_2", "item": {"index": 0, "item": "a"}}, Context()) == {
        "index": 0,
        "result": "flappy a",
    }
    assert raised(handler, {"run_id": RUN, "input": {"result": 1}}) == (
        "EventError",
        "the event's call is none of this function's: flap_bird, flap_bird_2.",
    )


# --- items of a map


def test_an_item_comes_from_the_manifest_or_from_the_step_before_it(cloud: Cloud) -> None:
    handler = cloud.function(flap_bird, OUTPUT)
    url = cloud.put("get_birds/2/output.pkl.gz", codec.dumps("duck"))
    assert [
        handler(event(flap_bird, item=item), Context())
        for item in ({"index": 0, "item": "goose"}, {"index": 1, "result": "gull"}, {"index": 2, "result_url": url})
    ] == [
        {"index": 0, "result": "flappy goose"},
        {"index": 1, "result": "flappy gull"},
        {"index": 2, "result": "flappy duck"},
    ]


def test_a_large_result_of_an_item_has_an_object_of_its_own(cloud: Cloud) -> None:
    handler = cloud.function(flap_bird, ITEM, LOKKI_INLINE_LIMIT="10")
    assert handler(event(flap_bird, item={"index": 12, "item": "goose"}), Context()) == {
        "index": 12,
        "result_url": cloud.url("flap_bird/12/output.pkl.gz"),
    }
    assert unpickled(cloud.objects["flap_bird/12/output.pkl.gz"]) == "flappy goose"


def test_ids_that_are_not_ascii_are_keys_all_the_same(cloud: Cloud) -> None:
    handler = make_handler(
        flap_bird,
        calls={"flöde_鳥": {"reads": "item"}},
        environ={
            **cloud.aws.environ,
            "LOKKI_ARTIFACT_BUCKET": cloud.bucket,
            "LOKKI_FLOW_NAME": FLOW,
            "LOKKI_INLINE_LIMIT": "0",
        },
    )
    reply = handler({"run_id": RUN, "call": "flöde_鳥", "params": {}, "item": {"index": 0, "item": "å"}}, Context())
    assert reply == {"index": 0, "result_url": cloud.url("flöde_鳥/0/output.pkl.gz")}
    assert cloud.function(hand_on)(event(hand_on, input={"result_url": reply["result_url"]}), Context()) == {
        "result": "flappy å"
    }


# --- the source of a map


def test_a_source_writes_one_pack_and_one_manifest(cloud: Cloud) -> None:
    @step
    def emit() -> Iterator[object]:
        yield "goose"
        yield ("a", "tuple")
        yield {"n": 1}
        yield datetime.date(2026, 1, 1)

    handler = cloud.function(emit, {"reads": None, "fans_out": True})
    expected = {"map_manifest_key": f"lokki/{FLOW}/{RUN}/emit/map_manifest.json", "items": 4}
    assert handler(event(emit), Context()) == expected
    objects = cloud.objects
    assert sorted(objects) == ["emit/items.pkl.gz", "emit/map_manifest.json"]
    first, second = codec.dumps(("a", "tuple")), codec.dumps(datetime.date(2026, 1, 1))
    assert objects["emit/items.pkl.gz"] == first + second
    url = cloud.url("emit/items.pkl.gz")
    assert json.loads(objects["emit/map_manifest.json"]) == [
        {"index": 0, "item": "goose"},
        {"index": 1, "result_url": url, "range": [0, len(first)], "crc32": codec.checksum([first])},
        {"index": 2, "item": {"n": 1}},
        {"index": 3, "result_url": url, "range": [len(first), len(second)], "crc32": codec.checksum([second])},
    ]
    assert handler(event(emit), Context()) == expected  # delivered twice: same reply, same bytes
    assert cloud.objects == objects


def test_a_source_without_items_writes_an_empty_list(cloud: Cloud) -> None:
    handler = cloud.function(hand_on, {"reads": "output", "fans_out": True})
    reply = handler(event(hand_on, input={"result": []}), Context())
    assert reply == {"map_manifest_key": f"lokki/{FLOW}/{RUN}/hand_on/map_manifest.json", "items": 0}
    assert {key: content.split() for key, content in cloud.objects.items()} == {
        "hand_on/items.pkl.gz": [],
        "hand_on/map_manifest.json": [b"[", b"]"],
    }


@pytest.mark.parametrize("value", ["text", {"a": 1}, 5, None])
def test_what_cannot_be_mapped_over_is_refused(cloud: Cloud, value: object) -> None:
    handler = cloud.function(hand_on, {"reads": "output", "fans_out": True})
    assert raised(handler, event(hand_on, input={"result": value}))[0] == "ResultError"
    assert cloud.objects == {}


@pytest.mark.parametrize("items", [3, 30_000])
def test_a_source_that_fails_in_the_middle_leaves_nothing(cloud: Cloud, items: int) -> None:
    @step(retry=Retry(on=(OSError,)))
    def emit() -> Iterator[bytes]:
        for number in range(items):
            yield number.to_bytes(512)
        raise ConnectionResetError("the bird feed closed")

    handler = cloud.function(emit, {"reads": None, "fans_out": True})
    assert raised(handler, event(emit)) == ("OSError", "ConnectionResetError: the bird feed closed")
    assert cloud.objects == {}
    assert cloud.aws.s3.list_multipart_uploads(Bucket=cloud.bucket).get("Uploads", []) == []


def test_an_item_that_does_not_pickle_is_named(cloud: Cloud) -> None:
    @step
    def emit() -> list[object]:
        return [1, 2, (number for number in range(3))]

    with pytest.raises(ResultError, match=r"^item 2: .*generator.* does not pickle"):
        cloud.function(emit, {"reads": None, "fans_out": True})(event(emit), Context())
    assert cloud.objects == {}


def test_a_bucket_that_is_gone_ends_an_endless_source(cloud: Cloud) -> None:
    made = []

    @step
    def emit() -> Iterator[str]:
        while True:
            made.append(1)
            yield "x" * 1000

    handler = cloud.function(emit, {"reads": None, "fans_out": True}, LOKKI_ARTIFACT_BUCKET="no-such-bucket")
    with pytest.raises(StoreError, match="the bucket does not exist"):
        handler(event(emit), Context())
    assert len(made) * 1000 < 100 * 2**20  # it did not run far ahead of the upload


@pytest.mark.parametrize("items", [10, 10_000])
def test_a_fan_out_of_small_items_costs_two_writes_and_its_items_none(cloud: Cloud, items: int) -> None:
    @step
    def emit() -> range:
        return range(items)

    with requests_of(cloud) as seen:
        cloud.function(emit, {"reads": None, "fans_out": True})(event(emit), Context())
    assert sorted(seen) == ["PUT emit/items.pkl.gz", "PUT emit/map_manifest.json"]
    entries = json.loads(cloud.objects["emit/map_manifest.json"])
    handler = cloud.function(flap_bird, ITEM)
    with requests_of(cloud) as seen:
        replies = handler(event(flap_bird, items=entries), Context())
        assert handler(event(flap_bird, item=entries[3]), Context()) == {"index": 3, "result": "flappy 3"}
    if items == 10:
        assert seen == []
        results = replies["items"]
    else:  # 10,000 in one batch are too many for a state
        assert seen == ["PUT flap_bird/0-9999/entries.json"]
        results = [{"index": index, "result": f"flappy {index}"} for index in range(items)]
    key = cloud.put_results("emit", results[: items // 2], results[items // 2 :])
    with requests_of(cloud) as seen:
        cloud.function(join_birds, RESULTS, LOKKI_INLINE_LIMIT="300000")(
            event(join_birds, input={"results_manifest_key": key, "items": items}), Context()
        )
    reads = [each for each in seen if each.startswith("GET")]
    folder = "emit/map_results/8e8a0b6e"
    assert reads[0] == f"GET {folder}/manifest.json"
    assert sorted(reads[1:]) == [f"GET {folder}/SUCCEEDED_0.json", f"GET {folder}/SUCCEEDED_1.json"]


class requests_of:  # noqa: N801
    """Collects the requests that the server answers about a run's objects."""

    def __init__(self, cloud: Cloud) -> None:
        self._prefix = f"/{cloud.bucket}/lokki/{FLOW}/{RUN}/"
        self._logger = logging.getLogger("werkzeug")
        self._handler = logging.Handler()
        self._handler.emit = self._take  # type: ignore[method-assign]
        self.seen: list[str] = []

    def _take(self, record: logging.LogRecord) -> None:
        words = record.getMessage().replace('"', "").split()
        at = next((n for n, word in enumerate(words) if word.startswith(self._prefix)), None)
        if at is not None:
            self.seen.append(f"{words[at - 1]} {words[at].removeprefix(self._prefix)}")

    def __enter__(self) -> list[str]:
        self._level = self._logger.level
        self._logger.setLevel(logging.INFO)
        self._logger.addHandler(self._handler)
        return self.seen

    def __exit__(self, *exception: object) -> None:
        self._logger.removeHandler(self._handler)
        self._logger.setLevel(self._level)


# --- batches


def batch(*values: object) -> list[object]:
    return [{"index": index, "item": value} for index, value in enumerate(values)]


def test_a_batch_answers_for_each_item_in_the_order_given(cloud: Cloud) -> None:
    handler = cloud.function(flap_bird, ITEM)
    items = [{"index": 7, "item": "a"}, {"index": 3, "result": "b"}]
    assert handler(event(flap_bird, items=items), Context()) == {
        "items": [{"index": 7, "result": "flappy a"}, {"index": 3, "result": "flappy b"}]
    }
    assert handler(event(flap_bird, items=items[:1]), Context()) == {"items": [{"index": 7, "result": "flappy a"}]}
    assert handler(event(flap_bird, items=[]), Context()) == {"items": []}
    assert cloud.objects == {}


def test_the_large_results_of_a_batch_are_one_object(cloud: Cloud) -> None:
    handler = cloud.function(hand_on, ITEM, LOKKI_INLINE_LIMIT="10")
    first, second = codec.dumps("a long result"), codec.dumps("another long result")
    url = cloud.url("hand_on/0-2/output.pkl.gz")
    reply = handler(event(hand_on, items=batch("a long result", "short", "another long result")), Context())
    assert reply == {
        "items": [
            {"index": 0, "result_url": url, "range": [0, len(first)], "crc32": codec.checksum([first])},
            {"index": 1, "result": "short"},
            {"index": 2, "result_url": url, "range": [len(first), len(second)], "crc32": codec.checksum([second])},
        ]
    }
    assert cloud.objects == {"hand_on/0-2/output.pkl.gz": first + second}
    assert handler(event(hand_on, items=batch("a long result", "short", "another long result")), Context()) == reply


def test_a_batch_that_goes_on_keeps_many_entries_in_the_store_and_writes_all_together(cloud: Cloud) -> None:
    handler = cloud.function(hand_on, ITEM)
    values = [f"{number:04000}" for number in range(10)]
    entries = [{"index": index, "result": value} for index, value in enumerate(values)]
    some = handler(event(hand_on, items=batch(*values), size=3), Context())
    assert some == {"items": entries[:3], "next": 3}
    more = handler(event(hand_on, items=batch(*values), size=4, first=3, done=some["items"]), Context())
    url = cloud.url("hand_on/0-6/entries.json")
    assert more == {"items": [{"entries_url": url}], "next": 7}
    assert json.loads(cloud.objects["hand_on/0-6/entries.json"]) == entries[:7]
    last = handler(event(hand_on, items=batch(*values), first=7, done=more["items"]), Context())
    assert last == {"items": entries}


def test_a_batch_that_is_too_large_for_a_state_goes_on_through_the_store(cloud: Cloud) -> None:
    handler = cloud.function(hand_on, ITEM)
    values = [f"{number:04000}" for number in range(100)]
    reply = handler(event(hand_on, items=batch(*values)), Context())
    url = cloud.url("hand_on/0-99/entries.json")
    assert reply == {"items": [{"entries_url": url}]}
    entries = [{"index": index, "result": value} for index, value in enumerate(values)]
    assert json.loads(cloud.objects["hand_on/0-99/entries.json"]) == entries
    # the next step of the items, and the step that gets all results, read it from there
    assert handler(event(hand_on, items=[{"entries_url": url}, *batch()]), Context()) == reply
    key = cloud.put_results("hand_on", [{"index": 100, "result": "last"}, {"entries_url": url}])
    joined = cloud.function(join_birds, RESULTS)(
        event(join_birds, input={"results_manifest_key": key, "items": 101}), Context()
    )
    assert joined == {"result_url": cloud.url("join_birds/output.pkl.gz")}
    assert unpickled(cloud.objects["join_birds/output.pkl.gz"]) == [*values, "last"]


def test_each_item_of_a_batch_has_the_tries_of_the_step(cloud: Cloud) -> None:
    tries: list[str] = []

    @step(retry=Retry(attempts=3, delay=0.01, on=(OSError,)))
    def flaky(bird: str) -> str:
        tries.append(bird)
        if tries.count(bird) < {"goose": 1, "duck": 3}[bird]:
            raise ConnectionResetError
        return bird

    assert cloud.function(flaky, ITEM)(event(flaky, items=batch("goose", "duck")), Context()) == {
        "items": [{"index": 0, "result": "goose"}, {"index": 1, "result": "duck"}]
    }
    assert tries == ["goose", "duck", "duck", "duck"]


def test_each_try_of_an_item_of_a_batch_gets_the_item_anew(cloud: Cloud) -> None:
    @step(retry=Retry(attempts=2, delay=0.01, on=(OSError,)))
    def take(names: list[str]) -> str:
        name = names.pop()
        tries.append(name)
        if len(tries) % 2:
            raise ConnectionResetError
        return name

    tries: list[str] = []
    stored = cloud.put("a/output.pkl.gz", codec.dumps(["crow", "duck"]))
    items = [{"index": 0, "item": ["crow", "goose"]}, {"index": 1, "result_url": stored}]
    assert cloud.function(take, ITEM)(event(take, items=items), Context()) == {
        "items": [{"index": 0, "result": "goose"}, {"index": 1, "result": "duck"}]
    }


@step(retry=Retry(attempts=2, delay=0, on=(LookupError,)))
def fragile(value: int) -> int:
    if value < 0:
        raise KeyError(f"no {value}")
    return value


def test_the_first_failure_fails_a_batch_that_tolerates_none(cloud: Cloud) -> None:
    seen = []

    @step
    def strict(value: int) -> int:
        seen.append(value)
        if value < 0:
            raise ValueError(f"negative: {value}")
        return value

    handler = cloud.function(strict, ITEM)
    assert raised(handler, event(strict, items=batch(1, -2, 3))) == ("ValueError", "item 1: negative: -2")
    assert seen == [1, -2]
    # What was done is there for a redrive.
    assert cloud.objects == {"strict/0-2/left.json": b'[{"index":0,"result":1}]'}
    raised(handler, event(strict, items=batch(1, -2, 3), redrives=1))
    assert seen == [1, -2, -2]
    assert raised(handler, event(strict, items=batch(-2))) == ("ValueError", "negative: -2")
    assert raised(cloud.function(fragile, ITEM), event(fragile, items=batch(-1))) == (
        "LookupError",
        "KeyError: 'no -1'",
    )


def test_a_tolerated_failure_is_handed_on_with_the_results(cloud: Cloud) -> None:
    handler = cloud.function(fragile, {"reads": "item", "tolerate": 0.5})
    where = f"{__file__}:{fragile.fn.__code__.co_firstlineno + 3}"
    failed = {"step": "fragile", "error": "KeyError", "message": "'no -1'", "where": where}
    reply = handler(event(fragile, items=batch(1, -1, 3)), Context())
    assert reply == {"items": [{"index": 0, "result": 1}, {"index": 1, "failed": failed}, {"index": 2, "result": 3}]}
    assert handler(event(fragile, items=reply["items"]), Context()) == reply
    # A child of one item fails with it.
    assert raised(handler, event(fragile, items=batch(-1))) == ("LookupError", "KeyError: 'no -1'")
    key = cloud.put_results("get", reply["items"])
    given = event(join_birds, input={"results_manifest_key": key, "items": 3})
    assert cloud.function(join_birds, {"reads": "results", "tolerate": 1})(given, Context()) == {"result": [1, 3]}
    with pytest.raises(TooManyFailuresError, match=r"^1 of 3 items of the map failed; tolerated: 0\.3\.$"):
        cloud.function(join_birds, {"reads": "results", "tolerate": 0.3})(given, Context())


def test_an_item_that_cannot_be_read_and_a_result_that_does_not_pickle_fail_as_items(cloud: Cloud) -> None:
    @step
    def odd(value: object) -> object:
        return (number for number in range(3)) if value == "generator" else value

    items = [
        {"index": 0, "item": "generator"},
        {"index": 1, "result_url": cloud.url("gone/output.pkl.gz")},
        {"index": 2, "item": "fine"},
    ]
    reply = cloud.function(odd, {"reads": "item", "tolerate": 2})(event(odd, items=items), Context())
    failures = [each.get("failed", {}).get("error") for each in reply["items"]]  # type: ignore[union-attr]
    assert failures == ["ResultError", "StoreError", None]
    assert raised(cloud.function(odd, ITEM), event(odd, items=items[:1]))[0] == "ResultError"
    assert raised(cloud.function(odd, ITEM), event(odd, items=items[1:2]))[0] == "StoreError"


def test_a_batch_hands_back_the_items_that_it_has_no_time_for(cloud: Cloud) -> None:
    seen = []

    @step
    def slow(value: int) -> int:
        seen.append(value)
        time.sleep(0.05)
        return value

    handler = cloud.function(slow, ITEM)
    # Each look costs a second, one before and one after each item: when five are done, 0.5 s are left.
    reply = handler(event(slow, items=batch(*range(9))), Context(11_500, cost=1000))
    assert seen == [0, 1, 2, 3, 4]
    assert reply == {"items": [{"index": index, "result": index} for index in range(5)], "next": 5}
    rest = handler(event(slow, items=batch(*range(9)), done=reply["items"], first=5), Context())
    assert rest == {"items": [{"index": index, "result": index} for index in range(9)]}
    assert seen == [*range(9)]
    assert cloud.objects == {}


def test_large_results_of_parts_of_a_batch_are_objects_that_no_other_try_of_it_writes(cloud: Cloud) -> None:
    handler = cloud.function(hand_on, ITEM, LOKKI_INLINE_LIMIT="10")
    values = [f"a long result {number}" for number in range(4)]
    some = handler(event(hand_on, items=batch(*values), size=2), Context())
    handler(event(hand_on, items=batch(*values), size=1), Context())  # a second delivery comes less far
    whole = handler(event(hand_on, items=batch(*values), first=2, done=some["items"]), Context())
    assert sorted(cloud.objects) == [f"hand_on/{part}/output.pkl.gz" for part in ("0-0", "0-1", "2-3")]
    key = cloud.put_results("hand_on", whole["items"])
    given = event(join_birds, input={"results_manifest_key": key, "items": 4})
    assert cloud.function(join_birds, RESULTS)(given, Context()) == {"result": values}


def test_an_item_that_the_time_of_a_batch_ends_in_is_run_again_from_the_beginning(cloud: Cloud) -> None:
    seen = []

    @step
    def wait(milliseconds: int) -> int:
        seen.append(milliseconds)
        time.sleep(milliseconds / 1000)
        return milliseconds

    handler = cloud.function(wait, {"reads": "item", "tolerate": 1})
    reply = handler(event(wait, items=batch(0, 5000, 10)), Context(1000))
    assert reply == {"items": [{"index": 0, "result": 0}], "next": 1}
    # Alone in the time of a function it is at fault itself, and the others are not.
    last = handler(event(wait, items=batch(0, 5000, 10), done=reply["items"], first=1), Context(1000))
    message, where = "took longer than its timeout of 1 seconds", f"{__file__}:{wait.fn.__code__.co_firstlineno}"
    failed = {"step": "wait", "error": "StepTimeoutError", "message": message, "where": where}
    assert last == {"items": [*reply["items"], {"index": 1, "failed": failed}], "next": 2}
    assert seen == [0, 5000, 5000]


def test_tries_of_an_item_are_counted_across_the_invocations_of_its_batch(cloud: Cloud) -> None:
    seen = []

    @step(retry=Retry(attempts=3, delay=0.3, backoff=1))
    def flaky(value: int) -> int:
        seen.append(value)
        if value:
            raise ValueError(value)
        return value

    handler = cloud.function(flaky, {"reads": "item", "tolerate": 1})
    # Each look costs 400 ms: the second try comes too late for this invocation.
    reply = handler(event(flaky, items=batch(0, 7)), Context(2400, cost=400))
    assert (seen, reply) == ([0, 7], {"items": [{"index": 0, "result": 0}], "next": 1, "tried": 1})
    last = handler(event(flaky, items=batch(0, 7), done=reply["items"], first=1, tried=1), Context())
    assert seen == [0, 7, 7, 7]
    assert last["items"][1]["failed"]["error"] == "ValueError"


@pytest.mark.parametrize(
    ("died", "cause", "words"),
    [
        ("Runtime.OutOfMemory", "Runtime exited with error: signal: killed", ""),
        ("Sandbox.Timedout", "Task timed out after 30.00 seconds", ""),
        (
            "Runtime.ExitError",
            "Runtime exited with error: exit status 3",
            "the worker process ended with Runtime.ExitError",
        ),
    ],
)
def test_an_item_that_its_function_died_of_fails_as_it_would_alone_and_the_others_go_on(
    cloud: Cloud, died: str, cause: str, words: str
) -> None:
    handler = cloud.function(hand_on, {"reads": "item", "tolerate": 1})
    given = event(hand_on, items=batch(0, 1, 2), first=1, done=batch(0), died=died)
    alone = reported_failure("hand_on", died, cause)
    # Only the cause of a death says which status or signal it was, and the state machine hands on the error.
    failed = {"step": "hand_on", "error": alone.error, "message": words or alone.message}
    assert handler(given, Context(30_000)) == {
        "items": [*batch(0), {"index": 1, "failed": failed}, {"index": 2, "result": 2}]
    }


def test_a_batch_does_not_wait_for_a_try_that_it_has_no_time_for(cloud: Cloud) -> None:
    @step(retry=Retry(attempts=2, delay=30))
    def flaky(value: int) -> int:
        raise ValueError

    began = time.monotonic()
    with pytest.raises(BatchTimeoutError, match=r"20\.0 s left, too little to wait 30 s for the next try"):
        cloud.function(flaky, ITEM)(event(flaky, items=batch(1)), Context(20_000))
    assert time.monotonic() - began < 10


def test_an_item_of_a_batch_has_the_timeout_of_the_step(cloud: Cloud) -> None:
    @step(timeout=0.05)
    def slow(value: float) -> float:
        time.sleep(value)
        return value

    reply = cloud.function(slow, {"reads": "item", "tolerate": 1})(event(slow, items=batch(0.5, 0.25)), Context())
    assert [each["failed"]["error"] for each in reply["items"]] == ["StepTimeoutError"] * 2  # type: ignore[index, call-overload]
    assert raised(cloud.function(slow, ITEM), event(slow, items=batch(0.5))) == (
        "StepTimeoutError",
        "took longer than its timeout of 0.05 seconds",
    )


# --- errors


def failing(error: BaseException, retry: Retry | None = None) -> Any:
    def fail() -> None:
        raise error

    return step(retry=retry)(fail)


@pytest.mark.parametrize(
    ("error", "retry", "expected"),
    [
        (ValueError("bad"), None, ("ValueError", "bad")),
        (ConnectionResetError("gone"), Retry(on=(ValueError, OSError)), ("OSError", "ConnectionResetError: gone")),
        (OSError("gone"), Retry(on=(OSError, ConnectionError)), ("OSError", "gone")),
        (KeyError("k"), Retry(), ("Exception", "KeyError: 'k'")),
        (KeyError("k"), Retry(on=(OSError,)), ("KeyError", "'k'")),
        (StoreError("mine"), Retry(), ("Exception", "StoreError: mine")),
        (SystemExit(3), Retry(), ("SystemExit", "3")),
        (SystemExit(), None, ("SystemExit", "")),
        (KeyError("\ud800"), None, ("KeyError", "'\\ud800'")),
        (ValueError("\ud800"), None, ("ValueError", "\\ud800")),
        (ValueError("x" * 9000), None, ("ValueError", "x" * 8000)),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_an_error_has_the_name_that_step_functions_retries(
    cloud: Cloud, error: BaseException, retry: Retry | None, expected: tuple[str, str]
) -> None:
    fail = failing(error, retry)
    assert raised(cloud.function(fail, {"reads": None}), event(fail)) == expected


def test_an_error_that_only_shares_a_name_with_a_retried_class_is_not_retried() -> None:
    foreign = type("ConnectionError", (Exception,), {"__module__": "requests", "__qualname__": "ConnectionError"})
    assert error_name(foreign(), Retry(on=(ConnectionError,))) == "requests.ConnectionError"
    assert error_name(ConnectionError(), Retry(on=(ConnectionError,))) == "ConnectionError"


def test_an_error_whose_text_cannot_be_shown_is_still_told(cloud: Cloud) -> None:
    class ShyError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    fail = failing(ShyError())
    assert raised(cloud.function(fail, {"reads": None}), event(fail)) == (
        "ShyError",
        "(its text cannot be shown: str() raised RuntimeError)",
    )


@pytest.mark.parametrize("fields", [{"item": {"index": 0, "item": 1}}, {"items": [{"index": 0, "item": 1}]}], ids=list)
def test_the_traceback_leads_to_the_users_line_and_the_cause_is_the_users_error(
    cloud: Cloud, fields: dict[str, object]
) -> None:
    inner = RuntimeError("why")

    @step(retry=Retry(attempts=1, on=(LookupError,)))
    def fail(value: int) -> None:
        raise KeyError("k") from inner  # the line

    with pytest.raises(Exception, match=r"^KeyError: 'k'$") as caught:
        cloud.function(fail, ITEM)(event(fail, **fields), Context())
    error = caught.value
    assert traceback.extract_tb(error.__traceback__)[-1].line == 'raise KeyError("k") from inner  # the line'
    assert (type(error.__cause__), error.__cause__ and error.__cause__.__cause__) == (KeyError, inner)


def test_errors_of_lokki_itself_keep_their_names_whatever_a_step_retries(cloud: Cloud) -> None:
    retrying = step(retry=Retry())(hand_on.fn)
    handler = cloud.function(retrying, OUTPUT)
    assert raised(handler, event(retrying, input={"result_url": cloud.url("gone/output.pkl.gz")}))[0] == "StoreError"
    assert raised(handler, event(retrying))[0] == "EventError"
    assert raised(cloud.function(retrying, SOURCE, birds_flow), event(retrying, params={"x": 1}))[0] == "ParameterError"

    @step(retry=Retry())
    def generate() -> Iterator[int]:
        yield 1

    assert raised(cloud.function(generate, {"reads": None}), event(generate))[0] == "ResultError"


def test_a_timeout_is_an_error_as_locally() -> None:
    assert error_name(StepTimeoutError(), Retry(on=(TimeoutError,))) == "TimeoutError"


# --- settings


@pytest.mark.parametrize("variable", ["LOKKI_ARTIFACT_BUCKET", "LOKKI_FLOW_NAME"])
def test_a_function_without_its_environment_says_so(cloud: Cloud, variable: str) -> None:
    with pytest.raises(ConfigError, match="LOKKI_ARTIFACT_BUCKET and LOKKI_FLOW_NAME must be set"):
        cloud.function(hand_on, OUTPUT, **{variable: ""})(event(hand_on), Context())


@pytest.mark.parametrize("text", ["many", "-1", "1.5", "²"])
def test_an_inline_limit_that_is_no_number_ends_the_start(cloud: Cloud, text: str) -> None:
    with pytest.raises(ConfigError, match=r"^LOKKI_INLINE_LIMIT="):
        cloud.function(hand_on, OUTPUT, LOKKI_INLINE_LIMIT=text)


@pytest.mark.parametrize(
    ("calls", "kind"),
    [
        ({}, EventError),
        ({"a": 1}, EventError),
        ({"a": {"reads": "everything"}}, EventError),
        ({"a": {"reads": ["item"]}}, EventError),
        ({"a": {"arguments": "x"}}, EventError),
        ({"a": {"arguments": [1]}}, EventError),
        ({"a": {"arguments": [{"parameter": 1, "value": 1}]}}, EventError),
        ({"a": {"arguments": [{"parameter": "x", "keyword": 1, "value": 1}]}}, EventError),
        ({"a": {"tolerate": "some"}}, EventError),
        ({"a": {"tolerate": -1}}, FlowError),
    ],
)
def test_a_handler_that_was_edited_by_hand_does_not_start(calls: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        make_handler(hand_on, calls=calls, environ={})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"flow": {"name": "f", "module": "os", "attribute": "sep"}, "step": 1, "calls": {}}',
        '{"flow": {"module": "os", "attribute": "sep"}, "step": {"module": "os", "attribute": "sep"}, "calls": [1]}',
    ],
)
def test_a_step_json_that_no_build_wrote_does_not_start(tmp_path: Path, text: str) -> None:
    (tmp_path / "step.json").write_text(text)
    with pytest.raises(ConfigError, match=r"step\.json cannot be read: .*\. Build the flow again\.$"):
        packaged_handler(str(tmp_path / "handler.py"))


def test_a_step_json_that_names_no_step_does_not_start(tmp_path: Path) -> None:
    place = {"name": "sep", "module": "os", "attribute": "sep"}
    (tmp_path / "step.json").write_text(json.dumps({"flow": place, "step": place, "calls": {}}))
    with pytest.raises(ConfigError, match=r"step\.json names what is no step or no flow\. Build the flow again\.$"):
        packaged_handler(str(tmp_path / "handler.py"))


def test_a_required_parameter_that_is_missing_is_named(cloud: Cloud) -> None:
    @flow
    def needy(limit: int):
        return get_birds(limit)

    with pytest.raises(ParameterError, match=r"^'limit' is required \(int\)\.$"):
        cloud.function(get_birds, SOURCE, needy)(event(get_birds), Context())


# --- logs


def lines(text: str) -> list[dict[str, object]]:
    """Read log lines, without the seconds, which differ."""
    read = [json.loads(line) for line in text.splitlines()]
    for line in read:
        assert line.pop("seconds", 0.0) >= 0.0
    return read


def test_the_log_has_a_line_for_each_start_end_retry_and_failure(
    cloud: Cloud, capsys: pytest.CaptureFixture[str]
) -> None:
    why = {"error": "KeyError", "where": f"{__file__}:{fragile.fn.__code__.co_firstlineno + 3}"}
    about = {"flow": FLOW, "step": "fragile", "run": RUN, "call": "fragile"}
    handler = cloud.function(fragile, {"reads": "item", "tolerate": 1})
    capsys.readouterr()
    size = len(json.dumps(handler(event(fragile, items=batch(1, -1)), Context()), separators=(",", ":")))
    assert lines(capsys.readouterr().out) == [
        {"level": "INFO", "event": "start", **about, "items": 2, "attempt": 1},
        {"level": "WARNING", "event": "retry", **about, "items": 2, "attempt": 1, "item": 1, "wait": 0.0, **why},
        {"level": "ERROR", "event": "item failure", **about, "items": 2, "attempt": 1, "item": 1, **why},
        {"level": "INFO", "event": "end", **about, "items": 2, "attempt": 1, "bytes": size},
    ]  # fmt: skip
    raised(handler, event(fragile, item={"index": 5, "item": -1}, attempt=2))
    assert lines(capsys.readouterr().out) == [
        {"level": "INFO", "event": "start", **about, "item": 5, "attempt": 3},
        {"level": "ERROR", "event": "failure", **about, "item": 5, "attempt": 3, **why},
    ]
    raised(handler, "nonsense")
    assert lines(capsys.readouterr().out) == [
        {"level": "ERROR", "event": "failure", "flow": FLOW, "step": "fragile", "error": "EventError"}
    ]


@pytest.mark.parametrize(
    ("level", "events"), [("error", ["failure"]), ("WARNING", ["failure"]), ("?", ["start", "failure"])]
)
def test_the_log_has_lines_of_its_level_and_above(
    cloud: Cloud, capsys: pytest.CaptureFixture[str], level: str, events: list[str]
) -> None:
    handler = cloud.function(fragile, ITEM, LOKKI_LOG_LEVEL=level)
    capsys.readouterr()
    raised(handler, event(fragile, item={"index": 0, "item": -1}))
    assert [line["event"] for line in lines(capsys.readouterr().out)] == events


SECRET = "hunter2"


def test_no_log_line_holds_a_value(cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    @step(retry=Retry(attempts=2, delay=0))
    def leak(value: object, password: str) -> object:
        raise RuntimeError(f"cannot log in as {value} with {password}")

    arguments: Any = [{"parameter": "password", "keyword": None, "value": {"$param": "password"}}]
    handler = cloud.function(leak, {"reads": "item", "tolerate": 9, "arguments": arguments})
    capsys.readouterr()
    secret = {"params": {"password": SECRET}}
    handler(event(leak, items=batch(SECRET, {SECRET: SECRET}), **secret), Context())
    raised(handler, event(leak, item={"index": 0, "item": SECRET}, **secret))
    raised(handler, event(leak, item={"index": 0, SECRET: SECRET}, **secret))
    raised(handler, {"run_id": SECRET + "!", **secret})
    raised(handler, {**event(leak), "call": SECRET})
    output = capsys.readouterr()
    assert len(output.out.splitlines()) == 11
    assert SECRET not in output.out + output.err


def test_no_message_of_an_event_error_holds_a_value(cloud: Cloud) -> None:
    handler = cloud.function(hand_on)
    for given in (
        SECRET,
        [SECRET],
        {SECRET: SECRET},
        {"run_id": [SECRET]},
        {"run_id": SECRET + "!"},
        event(hand_on, call=SECRET),
        event(hand_on, params=SECRET),
        event(hand_on, attempt=SECRET),
        event(hand_on, input={SECRET: SECRET}),
        event(hand_on, input=SECRET),
        event(hand_on, item={"index": 0, SECRET: SECRET}),
        event(hand_on, item={"index": 0, "item": SECRET, "result": SECRET}),
        event(hand_on, item={"index": SECRET, "item": SECRET}),
        event(hand_on, item={"index": 0, "failed": SECRET}),
        event(hand_on, item={"index": 0, "path": SECRET, "item": 1}),
        event(hand_on, item={"index": 0, "path": [0, SECRET], "item": 1}),
        event(hand_on, items=SECRET),
        event(hand_on, items=[SECRET]),
        event(hand_on, items=batch(SECRET), first=SECRET),
        event(hand_on, items=batch(SECRET), size=-1),
        event(hand_on, items=batch(SECRET), tried=0.5),
        event(hand_on, items=batch(SECRET), died=[SECRET]),
        event(hand_on, items=batch(SECRET), done=SECRET),
        event(hand_on, items=batch(SECRET), done=[SECRET]),
        event(hand_on, items=batch(SECRET, SECRET), first=1),
        event(hand_on, items=batch(SECRET, SECRET), first=1, done=batch(0), died=SECRET),
        event(hand_on, items=[{"entries_url": [SECRET]}]),
        event(hand_on, input={"results_manifest_key": SECRET}),
    ):
        name, message = raised(handler, given)
        assert (name, SECRET in message) == ("EventError", False), message


def test_standard_output_of_a_step_is_left_alone(cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    @step
    def talk() -> None:
        print("quack", file=sys.stderr)

    cloud.function(talk, {"reads": None})(event(talk), Context())
    assert capsys.readouterr().err.splitlines()[0] == "quack"
