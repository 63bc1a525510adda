"""Results of a map block, read back from the files that Step Functions writes."""

import json
import random
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lokki.errors import StoreError, TooManyFailuresError
from lokki.runtime.event import ResultsKey
from lokki.runtime.results import find_results, load_results
from lokki.store import codec
from lokki.store.codec import Pack
from lokki.store.local import LocalStore

FOLDER = "run-1/get_birds/map_results/8e8a0b6e"
MANIFEST = f"{FOLDER}/manifest.json"
FAILED = {"step": "flap_bird", "error": "ValueError", "message": "no"}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> LocalStore:
    return LocalStore(tmp_path_factory.mktemp("store"))


def write_files(store: LocalStore, *files: bytes) -> None:
    """Write result files and their manifest as Step Functions does."""
    listed = []
    for number, content in enumerate(files):
        key = f"{FOLDER}/SUCCEEDED_{number}.json"
        store.write(key, [content])
        listed.append({"Key": key, "Size": len(content)})
    manifest = {
        "DestinationBucket": "bucket",
        "MapRunArn": "arn:aws:states:us-east-1:123456789012:mapRun:birds/getBirds:8e8a0b6e",
        "ResultFiles": {"FAILED": [{"Key": "k", "Size": 1}], "PENDING": [], "SUCCEEDED": listed},
    }
    store.write(MANIFEST, [json.dumps(manifest).encode()])


def loaded(store: LocalStore, items: int, *files: object, tolerate: float | None = None) -> list[object]:
    write_files(store, *(json.dumps(content).encode() for content in files))
    return load_results(store, ResultsKey(MANIFEST, items), tolerate)


def inline(*indexes: int) -> list[dict[str, object]]:
    return [{"index": index, "result": index * 10} for index in indexes]


def test_results_of_many_files_come_in_the_order_of_the_items(store: LocalStore) -> None:
    assert loaded(store, 5, inline(4, 1), inline(), inline(0), inline(3, 2)) == [0, 10, 20, 30, 40]


def test_a_map_over_nothing_has_no_results(store: LocalStore) -> None:
    assert loaded(store, 0) == []
    assert loaded(store, 0, []) == []
    assert loaded(store, 0, tolerate=0.5) == []


VALUES = st.none() | st.integers(-9, 9) | st.text(max_size=3) | st.lists(st.integers(0, 9), max_size=2)


@settings(deadline=None, max_examples=60)
@given(
    values=st.lists(VALUES, max_size=30),
    files=st.integers(1, 5),
    choices=st.randoms(use_true_random=False),
)
def test_values_are_the_same_wherever_and_in_whatever_order_they_were_written(
    store: LocalStore, values: list[object], files: int, choices: random.Random
) -> None:
    packed: list[bytes] = []
    pack = Pack()
    entries: list[dict[str, object]] = []
    for index, value in enumerate(values):
        match choices.randrange(3):
            case 0:
                entries.append({"index": index, "result": value})
            case 1:
                place = store.write(f"run-1/flap_bird/{index}/output.pkl.gz", [codec.dumps(value)])
                entries.append({"index": index, "result_url": place.result_url})
            case _:
                member, found = pack.add(value)
                packed.append(member)
                url = store.url("run-1/flap_bird/0-9/output.pkl.gz")
                entries.append({"index": index, "result_url": url, "range": list(found)})
    store.write("run-1/flap_bird/0-9/output.pkl.gz", packed)
    choices.shuffle(entries)
    if entries and choices.random() < 0.5:
        taken = [entries.pop() for _ in range(choices.randint(1, len(entries)))]
        place = store.write("run-1/flap_bird/0-9/entries.json", [json.dumps(taken).encode()])
        entries.append({"entries_url": place.result_url})
    assert loaded(store, len(values), *(entries[number::files] for number in range(files))) == values
    lazy = find_results(store, ResultsKey(MANIFEST, len(values)), None)
    assert (list(lazy), len(lazy), list(lazy[1:])) == (values, len(values), values[1:])
    place = choices.randrange(len(values) or 1)
    assert [lazy[place]] == [values[place]] if values else list(lazy) == []


def test_another_whole_value_in_the_place_of_a_result_is_an_error(store: LocalStore) -> None:
    """A second delivery of a batch may have written another pack in which a value of the same length is there."""
    mine, other = codec.dumps((1, 2)), codec.dumps((1, 3))
    url = store.write("run-1/flap_bird/0-9/output.pkl.gz", [mine]).result_url
    entry = {"index": 0, "result_url": url, "range": [0, len(mine)], "crc32": codec.checksum([mine])}
    assert loaded(store, 1, [entry]) == [(1, 2)]
    assert len(mine) == len(other)
    store.write("run-1/flap_bird/0-9/output.pkl.gz", [other])
    with pytest.raises(StoreError, match=r"output\.pkl\.gz \(bytes 0 to \d+\) holds another value than it should"):
        loaded(store, 1, [entry])


@pytest.mark.parametrize(
    ("items", "entries"),
    [
        (2, inline(0, 1, 2)),
        (2, [*inline(0, 1), {"index": -1, "result": 0}]),
        (2, inline(0, 1, 1)),
        (2, [*inline(0, 1), {"index": 1, "failed": FAILED}]),
        (3, [*inline(0), {"index": 1, "failed": FAILED}, {"index": 1, "failed": FAILED}]),
        (10**18, inline(0, 0)),
    ],
)
def test_an_item_that_was_not_given_or_has_two_results_is_an_error(
    store: LocalStore, items: int, entries: object
) -> None:
    for tolerate in (None, 1.0):
        with pytest.raises(StoreError, match="an item that this map did not have, or of one item twice"):
            loaded(store, items, entries, tolerate=tolerate)


def test_an_item_without_a_result_is_not_lost_silently(store: LocalStore) -> None:
    with pytest.raises(StoreError, match=r"lists results of 2 items of 3\. Run the map again\.$"):
        loaded(store, 3, inline(0, 2))
    with pytest.raises(StoreError, match=r"lists results of 1 items of 1000000000000000\."):
        loaded(store, 10**15, inline(0))


def test_items_that_failed_are_left_out_where_so_many_are_tolerated(store: LocalStore) -> None:
    failed = [{"index": 1, "failed": FAILED}]
    assert loaded(store, 4, inline(3, 0), failed, tolerate=2) == [0, 30]  # one in its batch, one with its execution
    assert loaded(store, 4, inline(3, 0), failed, tolerate=0.5) == [0, 30]
    with pytest.raises(TooManyFailuresError, match=r"^2 of 4 items of the map failed; tolerated: 1\.$"):
        loaded(store, 4, inline(3, 0), failed, tolerate=1)
    with pytest.raises(TooManyFailuresError, match=r"^1 of 2 items of the map failed; tolerated: none\.$"):
        loaded(store, 2, inline(0), failed)


@pytest.mark.parametrize(
    "entry",
    [
        {"index": 0},
        {},
        {"index": 0, "result": 1, "result_url": "local:///a"},
        {"index": 0, "result": 1, "failed": FAILED},
        {"index": 0, "result": 1, "range": [0, 1]},
        {"index": 0, "failed": {"step": "a"}},
        {"index": 0, "failed": {**FAILED, "more": 1}},
        {"index": 0, "result": 1, "crc32": 1},
        {"index": 0, "result_url": 1},
        {"index": 0, "result_url": "local:///a", "range": [0]},
        {"index": 0.5, "result": 1},
        {"index": "0", "result": 1},
        {"index": 0, "item": 1},
        {"entries_url": "local:///a", "result": 1},
        {"ExecutionArn": "arn:aws:states:…", "Output": "{}", "Status": "SUCCEEDED"},
        [{"index": 0, "result": 1}],
        7,
    ],
)
def test_an_entry_of_another_shape_is_an_error(store: LocalStore, entry: object) -> None:
    with pytest.raises(StoreError, match=r"^local:///run-1/get_birds/map_results/8e8a0b6e/SUCCEEDED_0\.json "):
        loaded(store, 1, [entry])


def test_entries_do_not_lead_from_object_to_object(store: LocalStore) -> None:
    url = store.write("run-1/flap_bird/0-9/entries.json", [b'[{"entries_url": "local:///run-1/x"}]']).result_url
    with pytest.raises(StoreError, match="an item that this map did not have"):
        loaded(store, 1, [{"entries_url": url}])


@pytest.mark.parametrize(
    "content",
    [b'{"index": 0, "result": 1}\n{"index": 1, "result": 2}\n', b'{"index": 0, "result": 1}\n', b'{"a": 1}\n'],
)
def test_results_in_json_lines_are_refused_by_name(store: LocalStore, content: bytes) -> None:
    write_files(store, content)
    with pytest.raises(StoreError, match=r"results are JSON Lines\. lokki's state machines have OutputType JSON"):
        load_results(store, ResultsKey(MANIFEST, 2), None)


@pytest.mark.parametrize(
    "content",
    [b"", b"[", b"[1", b"null", b'"text"', b"\xff\xfe", b'["\xff"]', b"[" * 100_000, b'[{"index":0,"result":NaN}]'],
    ids=lambda content: repr(content[:8]),
)
def test_files_that_are_no_json_are_errors(store: LocalStore, content: bytes) -> None:
    write_files(store, content)
    with pytest.raises(StoreError, match="is not what Step Functions writes for a map of lokki"):
        load_results(store, ResultsKey(MANIFEST, 1), None)
    store.write(MANIFEST, [content])
    with pytest.raises(StoreError, match="is not what Step Functions writes for a map of lokki"):
        load_results(store, ResultsKey(MANIFEST, 1), None)


def test_a_deep_result_is_read_or_refused(store: LocalStore) -> None:
    write_files(store, b'[{"index":0,"result":' + b"[" * 100_000 + b"]" * 100_000 + b"}]")
    with pytest.raises(StoreError, match="is not what Step Functions writes"):
        load_results(store, ResultsKey(MANIFEST, 1), None)


@pytest.mark.parametrize(
    "manifest",
    [
        {},
        {"ResultFiles": []},
        {"ResultFiles": {}},
        {"ResultFiles": {"SUCCEEDED": [{}]}},
        {"ResultFiles": {"SUCCEEDED": "k"}},
    ],
)
def test_a_manifest_of_another_shape_is_an_error(store: LocalStore, manifest: object) -> None:
    store.write(MANIFEST, [json.dumps(manifest).encode()])
    with pytest.raises(StoreError, match="is not what Step Functions writes for a map of lokki"):
        load_results(store, ResultsKey(MANIFEST, 1), None)


@pytest.mark.parametrize("key", ["/etc/passwd", "../../secret", "", "a//b", "\ud800"])
def test_result_files_outside_of_the_store_are_not_read(store: LocalStore, key: str) -> None:
    manifest = {"ResultFiles": {"SUCCEEDED": [{"Key": key, "Size": 1}]}}
    store.write(MANIFEST, [json.dumps(manifest).encode()])
    with pytest.raises(StoreError):
        load_results(store, ResultsKey(MANIFEST, 1), None)


class CountingStore(LocalStore):
    """Says how many places it was asked for at once."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.asked: list[list[str]] = []

    def read_many(self, places: Iterable[object]) -> Iterable[object]:  # type: ignore[override]
        listed = list(places)
        self.asked.append([str(place) for place in listed])
        return super().read_many(listed)  # type: ignore[arg-type]


def test_all_stored_results_are_asked_for_together_in_the_order_of_the_items(tmp_path: Path) -> None:
    store = CountingStore(tmp_path)
    url = store.write("run-1/x", [codec.dumps("goose")]).result_url
    size = len(codec.dumps("goose"))
    stored = [{"index": index, "result_url": url, "range": [0, size]} for index in range(4)]
    assert loaded(store, 4, stored[2:], stored[:2]) == ["goose"] * 4
    assert [len(places) for places in store.asked] == [1, 2, 0, 4]  # manifest, files, entries elsewhere, results
