"""The handler of a call that reads several values of its run, or whose items carry some: called as Lambda calls it."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from aws.moto_server import Aws
from support.lambda_function import FLOW, RUN, Cloud, Context, event

from lokki import Retry, flow, step
from lokki.errors import EventError, NoCaseError, ResultError, StoreError, TooManyFailuresError
from lokki.store import codec

MODEL = {"parameter": "model", "keyword": "model", "value": {"$output": "train"}}


@step(retry=Retry(attempts=2, delay=0, on=(LookupError,)))
def score(value: object = None, model: list[int] | None = None) -> object:
    """Score, and change what it got; its first try for a 7 fails after that."""
    assert model is not None
    model.append(1)
    if value == 7 and len(TRIED) == 0:
        TRIED.append(value)
        raise LookupError("once")
    if value == "bad":
        raise ValueError("bad")
    return [value, len(model)]


TRIED: list[object] = []


@step
def grade(value: object) -> object:
    return value


@step
def rows(count: int = 2, lazy: bool = False) -> object:
    return iter(range(count)) if lazy else [(number,) for number in range(count)]


@flow
def graph(p: str = "x", q: int = 1):
    return grade(p)


@pytest.fixture
def cloud(aws: Aws) -> Cloud:
    TRIED.clear()
    return Cloud(aws, aws.new_bucket())


def stored(cloud: Cloud, key: str, value: object) -> dict[str, str]:
    return {"result_url": cloud.put(key, codec.dumps(value))}


def reads(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the keys of the objects that were read since, sorted."""
    lines = [record.getMessage() for record in caplog.records]
    return sorted(line.split(f"{RUN}/")[1].split(" ")[0] for line in lines if "GET /" in line and f"{RUN}/" in line)


def test_values_come_by_reference_and_each_is_fetched_once(cloud: Cloud, caplog: pytest.LogCaptureFixture) -> None:
    again = {"parameter": "value", "keyword": "other", "value": [{"$output": "train"}, {"$output": "load"}]}
    seen: list[object] = []

    @step
    def join(value: object, model: list[int], other: list[list[int]]) -> object:
        seen.append((value, list(model), [list(member) for member in other]))
        assert value is not other[1]
        return None

    handler = cloud.function(join, {"reads": "output", "arguments": [MODEL, again]})
    train, load = stored(cloud, "train/output.pkl.gz", [1, 2]), stored(cloud, "load/output.pkl.gz", [3])
    caplog.set_level(logging.INFO, "werkzeug")  # other servers in this process make it silent
    reply = handler(event(join, input=load, values={"train": train, "load": load}), Context())
    assert reply == {"result": None}
    assert seen == [([3], [1, 2], [[1, 2], [3]])]
    assert reads(caplog) == ["load/output.pkl.gz", "train/output.pkl.gz"]


@pytest.mark.parametrize("inline", [True, False])
def test_each_item_of_a_batch_and_each_try_has_values_of_its_own(
    cloud: Cloud, inline: bool, caplog: pytest.LogCaptureFixture
) -> None:
    handler = cloud.function(score, {"reads": "item", "arguments": [MODEL], "tolerate": 1})
    train: Any = {"result": [0]} if inline else stored(cloud, "train/output.pkl.gz", [0])
    items: list[object] = [{"index": number, "item": item} for number, item in enumerate([5, 7, "bad"])]
    items.append({"index": 3, "failed": {"step": "a", "error": "E", "message": ""}})
    where = f"{__file__}:{score.fn.__code__.co_firstlineno + 9}"
    caplog.set_level(logging.INFO, "werkzeug")  # other servers in this process make it silent
    assert handler(event(score, items=items, values={"train": train}), Context()) == {
        "items": [
            {"index": 0, "result": [5, 2]},
            {"index": 1, "result": [7, 2]},
            {"index": 2, "failed": {"step": "score", "error": "ValueError", "message": "bad", "where": where}},
            {"index": 3, "failed": {"step": "a", "error": "E", "message": ""}},
        ]
    }
    assert TRIED == [7]
    assert reads(caplog) == ([] if inline else ["train/output.pkl.gz"])


def test_results_of_a_map_are_a_value_too_with_what_its_own_map_tolerates(cloud: Cloud) -> None:
    key = cloud.put_results("rows", [{"index": 1, "result": [1]}, {"index": 0, "result": [0]}])
    value = {"parameter": "model", "keyword": "model", "value": {"$results": "rows.map"}}
    items = [{"index": 0, "item": "a"}, {"index": 1, "item": "b"}]
    results = {"results_manifest_key": key, "items": 3}
    tolerant = cloud.function(score, {"reads": "item", "arguments": [value], "tolerates": {"rows.map": 1}})
    assert tolerant(event(score, items=items, values={"rows.map": results}), Context()) == {
        "items": [{"index": 0, "result": ["a", 3]}, {"index": 1, "result": ["b", 3]}]
    }
    strict = cloud.function(score, {"reads": "item", "arguments": [value], "tolerate": 2})
    with pytest.raises(StoreError, match="lists results of 2 items of 3"):
        strict(event(score, items=items, values={"rows.map": results}), Context())
    with pytest.raises(TooManyFailuresError, match="2 of 4 items"):
        tolerant(event(score, item=items[0], values={"rows.map": {**results, "items": 4}}), Context())


def test_a_source_whose_value_is_read_too_keeps_both(cloud: Cloud) -> None:
    arguments = [
        {"parameter": name, "keyword": name, "value": {"$param": name}} for name in ("count", "lazy")
    ]  # fmt: skip
    handler = cloud.function(rows, {"reads": None, "arguments": arguments, "fans_out": True, "keeps_value": True})
    prefix = f"lokki/{FLOW}/{RUN}/rows"
    assert handler(event(rows, params={"count": 2, "lazy": False}), Context()) == {
        "map_manifest_key": f"{prefix}/map_manifest.json",
        "items": 2,
        "result_url": f"s3://{cloud.bucket}/{prefix}/output.pkl.gz",
    }
    assert sorted(cloud.objects) == ["rows/items.pkl.gz", "rows/map_manifest.json", "rows/output.pkl.gz"]
    with pytest.raises(ResultError, match="return a list"):
        handler(event(rows, params={"count": 2, "lazy": True}), Context())
    # Who reads the value gets the whole reply.
    reader = cloud.function(grade, {"reads": "output"})
    reply = {"map_manifest_key": f"{prefix}/map_manifest.json", "items": 2, "result": [1], "case": 0}
    assert reader(event(grade, input=reply), Context()) == {"result": [1]}


def test_the_call_of_a_switch_answers_with_the_case_or_fails_as_its_step(cloud: Cloud) -> None:
    handler = cloud.function(grade, {"reads": "output", "cases": ["good", 1, True]})
    cases = [handler(event(grade, input={"result": value}), Context())["case"] for value in ("good", 1, True)]
    assert cases == [0, 1, 2]
    with pytest.raises(Exception, match=r"grade\(\) returned 'ugly', for which its switch has no case") as raised:
        handler(event(grade, input={"result": "ugly"}), Context())
    assert type(raised.value).__name__ == NoCaseError.__name__
    default = cloud.function(grade, {"reads": "output", "cases": ["good", None]})
    assert default(event(grade, input={"result": "ugly"}), Context()) == {"result": "ugly", "case": 1}


def test_a_flow_that_begins_with_a_fork_checks_its_parameters_by_itself(cloud: Cloud) -> None:
    handler = cloud.function(grade, {"reads": None, "binds": True}, graph)
    assert handler(event(grade, bind=True, params={"q": 2}), Context()) == {"params": {"p": "x", "q": 2}}
    with pytest.raises(EventError, match=r"bind is for the flow's first call, which grade\(\) is not"):
        cloud.function(grade, {"reads": None}, graph)(event(grade, bind=True), Context())


# --- what items carry ---

CHOOSING = {
    "reads": "output",
    "cases": ["good", "bad"],
    "switch": "grade.switch",
    "hands_on": {"rows.map.item": "rows.map.item", "clean": "clean", "grade": ""},
    "keeps_cases": ["other.switch"],
}


def test_an_item_carries_what_later_steps_read_and_the_cases_that_it_chose(cloud: Cloud) -> None:
    item = {
        "index": 4,
        "result": "good",
        "values": {"rows.map.item": {"result": 1}, "clean": {"result": 2}, "old": {"result": 3}},
        "cases": {"other.switch": 1, "ended.switch": 0},
    }
    expected = {
        "index": 4,
        "result": "good",
        "values": {"rows.map.item": {"result": 1}, "clean": {"result": 2}, "grade": {"result": "good"}},
        "cases": {"other.switch": 1, "grade.switch": 0},
    }
    handler = cloud.function(grade, CHOOSING)
    assert handler(event(grade, item=item), Context()) == expected
    assert handler(event(grade, items=[item]), Context()) == {"items": [expected]}


def test_the_item_itself_is_the_value_of_the_first_call(cloud: Cloud) -> None:
    handler = cloud.function(grade, {"reads": "item", "hands_on": {"rows.map.item": "rows.map.item"}})
    reply = handler(event(grade, item={"index": 0, "item": 5}), Context())
    assert reply == {"index": 0, "result": 5, "values": {"rows.map.item": {"result": 5}}}


def test_a_case_runs_the_items_that_chose_it_and_passes_others_by_untouched(cloud: Cloud) -> None:
    described = {
        "reads": {"value": "clean"},
        "hands_on": {},
        "only": [["grade.switch", 1]],
        "result": "rows.map.item",
        "tolerate": 1,
    }
    handler = cloud.function(grade, described)
    values = {"clean": {"result": 2}, "rows.map.item": {"result": 1}}
    passing: list[object] = [
        {"index": 0, "result": "good", "values": values, "cases": {"grade.switch": 0}},
        {"index": 1, "result": "ended"},
        {"index": 2, "failed": {"step": "a", "error": "E", "message": "m"}},
    ]
    item = {"index": 3, "result": "bad", "values": values, "cases": {"grade.switch": 1}}
    reply = handler(event(grade, items=[*passing, item]), Context())
    assert reply == {"items": [*passing, {"index": 3, "result": 1}]}


def test_a_call_may_read_nothing_of_its_item(cloud: Cloud) -> None:
    handler = cloud.function(score, {"reads": None, "arguments": [MODEL], "hands_on": {"score": ""}})
    item = {"index": 0, "item": 5, "values": {"train": {"result": []}}}
    assert handler(event(score, item=item), Context()) == {
        "index": 0, "result": [None, 1], "values": {"score": {"result": [None, 1]}},
    }  # fmt: skip


def test_values_of_items_count_for_the_size_of_a_reply(cloud: Cloud) -> None:
    handler = cloud.function(grade, {"reads": "item", "hands_on": {"rows.map.item": "rows.map.item"}})
    items = [{"index": number, "item": f"{number}" * 1500} for number in range(10, 50)]
    reply: Any = handler(event(grade, items=items), Context())
    [place] = reply["items"]
    assert set(place) == {"entries_url"}
    entries = json.loads(cloud.objects["grade/10-49/entries.json"])
    assert [entry["values"]["rows.map.item"]["result"] for entry in entries] == [item["item"] for item in items]
    following = cloud.function(grade, {"reads": {"value": "rows.map.item"}, "hands_on": {}})
    spilled = following(event(grade, items=[place]), Context())
    assert spilled == {"items": [{"index": item["index"], "result": item["item"]} for item in items]}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"values": []}, "the event's values are a list, not an object"),
        ({"values": {}}, "the event's values lack train, which score() takes"),
        ({"values": {"train": {"result": 1}, "hunter2": {}}}, "the event's values have one that score() does not take"),
        ({"values": {"train": {"hunter2": 1}}}, "the event's value train is an object, not a reference to a value"),
        ({"values": {"train": {"results_manifest_key": 1}}}, "the event's value train has no results_manifest_key"),
        ({"bind": "hunter2"}, "the event's bind is a string, not true"),
    ],
)
def test_a_wrong_event_names_the_field_and_no_value(cloud: Cloud, fields: dict[str, object], message: str) -> None:
    handler = cloud.function(score, {"reads": "output", "arguments": [MODEL]})
    with pytest.raises(EventError) as raised:
        handler(event(score, **{"input": {"result": 1}, **fields}), Context())
    assert message in str(raised.value)
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"values": "hunter2"}, "the values of item 3 are a string, not an object"),
        ({"values": {"clean": "hunter2"}}, "a value of item 3 is a string, not a reference to a value"),
        ({"cases": ["hunter2"]}, "the cases of item 3 are a list, not an object"),
        ({"cases": {"a": "hunter2"}}, "a case of item 3 is a string, not the number of a case"),
        ({}, "item 3 has no value clean"),
    ],
)
def test_a_wrong_item_names_the_field_and_no_value(cloud: Cloud, fields: dict[str, object], message: str) -> None:
    handler = cloud.function(grade, {"reads": {"value": "clean"}, "hands_on": {}})
    with pytest.raises(EventError) as raised:
        handler(event(grade, items=[{"index": 3, "item": 1, **fields}]), Context())
    assert message in str(raised.value)
    with pytest.raises(EventError, match=r"the event has one input for grade\(\), which is run on items"):
        handler(event(grade, input={"result": 1}), Context())


def test_text_that_cannot_be_encoded_is_run_on_and_not_handed_on(cloud: Cloud) -> None:
    item = {"index": 0, "item": "\ud800"}
    reply = cloud.function(grade, {"reads": "item"})(event(grade, item=item), Context())
    assert set(reply) == {"index", "result_url"}
    carrying = cloud.function(grade, {"reads": "item", "hands_on": {"rows.map.item": "rows.map.item"}})
    for fields in ({"item": item}, {"items": [item]}):
        with pytest.raises(EventError, match="text that cannot be encoded"):
            carrying(event(grade, **fields), Context())
