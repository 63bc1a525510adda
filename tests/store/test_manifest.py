"""The manifest of a fan-out: JSON that anybody can read, by lines, with items inline or in the pack."""

import json
import pickle
import zlib
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lokki.base.values import Inline, Stored
from lokki.errors import ResultError
from lokki.store.codec import loads
from lokki.store.manifest import ManifestWriter, check_items, entries, item_lines

URL = 's3://bucket/lokki/"birds"/one/get/items.pkl.gz'

items_lists = st.lists(
    st.none() | st.integers() | st.text() | st.binary(max_size=500) | st.lists(st.text()), max_size=50
)


@settings(deadline=None)
@given(items_lists, st.sampled_from([0, 30, 4096]))
def test_what_is_written_is_read_again(items: list[object], limit: int) -> None:
    writer = ManifestWriter(URL, limit)
    pack, manifest = b"", b""
    for members, lines in writer.parts(items):
        pack += b"".join(members)
        manifest += lines
    assert writer.count == len(items)
    assert writer.pack.size == len(pack)
    parsed = json.loads(manifest)
    assert [entry["index"] for entry in parsed] == list(range(len(items)))
    found = []
    for entry in entries(item_lines(manifest.splitlines(keepends=True))):
        match entry.ref:
            case Inline(value):
                found.append(value)
            case Stored(url, (offset, length)):
                assert url == URL
                found.append(loads(pack[offset : offset + length]))
    assert found == items
    assert [type(value) for value in found] == [type(value) for value in items]


def test_the_form_is_the_contract() -> None:
    [(members, lines)] = ManifestWriter("s3://b/k", 10).parts(["goose", b"duck"])
    assert lines == (
        b'[\n{"index":0,"item":"goose"},\n{"index":1,"result_url":"s3://b/k","range":[0,%d],"crc32":%d}\n]\n'
        % (len(members[0]), zlib.crc32(pickle.dumps(b"duck", 5)))
    )


def test_no_items_are_an_empty_array() -> None:
    [(members, lines)] = ManifestWriter(URL, 10).parts([])
    assert (members, json.loads(lines)) == ([], [])


def test_items_are_taken_as_they_are_written() -> None:
    taken = 0

    def stream() -> Iterator[bytes]:
        nonlocal taken
        for _ in range(100):
            taken += 1
            yield bytes([taken]) * 300_000 + str(taken).encode() * 50_000

    writer = ManifestWriter(URL, 4096)
    ahead = []
    for members, _ in writer.parts(stream()):
        ahead.append(sum(map(len, members)))
        assert len(members) <= 1024
    assert taken == 100
    assert max(ahead) < 2**21


def test_an_item_that_does_not_pickle_is_named_by_its_index() -> None:
    with pytest.raises(ResultError, match=r"^item 1: A result of type builtins.function does not pickle"):
        list(ManifestWriter(URL, 10).parts([1, lambda: None]))


@pytest.mark.parametrize("result", ["goose", b"goose", bytearray(b"x"), {"a": 1}, None, 7])
def test_what_cannot_be_mapped_over_is_refused(result: object) -> None:
    with pytest.raises(ResultError, match=rf"get_birds\(\) returned {type(result).__name__}, but .map\(\) runs over"):
        check_items("get_birds", result)


@pytest.mark.parametrize("result", [[], (1,), {2}, range(3), iter([1])])
def test_any_other_iterable_is_fine(result: object) -> None:
    assert check_items("get_birds", result) is result
