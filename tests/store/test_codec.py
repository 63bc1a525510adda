"""The codec: what goes in comes out, anybody can read it, and damage is a StoreError, never a wrong value."""

import gzip
import io
import pickle
import random
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lokki.errors import ResultError, StoreError
from lokki.store.arrays import SHARED_BYTES
from lokki.store.codec import Pack, dumps, encode, loads, pickle_pieces

URL = "s3://bucket/lokki/birds/run/get_birds/output.pkl.gz"

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(max_size=2000)
    | st.dates()
    | st.binary(min_size=1, max_size=4).map(lambda block: block * 70_000),
    lambda children: (
        st.lists(children) | st.tuples(children, children) | st.dictionaries(st.text() | st.integers(), children)
    ),
    max_leaves=10,
)

INCOMPRESSIBLE = random.Random(1).randbytes(300_000)
SAMPLES: dict[str, object] = {
    "tiny": 1,
    "text": "flappy goose " * 500,
    "rows": [{"id": n, "name": f"bird {n}", "mass": n / 7} for n in range(2000)],
    "noise": INCOMPRESSIBLE,
    "mixed": [INCOMPRESSIBLE, "goose" * 1000, bytearray(INCOMPRESSIBLE[:100_000])],
    "empty": b"",
}


def error_of(data: bytes, **options: int) -> str:
    with pytest.raises(StoreError) as caught:
        loads(data, url=URL, **options)
    return str(caught.value)


class Creates:
    """Unpickling this makes a file: proof that something was unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return open, (str(self.path), "w")


@given(values)
def test_what_goes_in_comes_out_also_through_plain_gzip_and_pickle(value: object) -> None:
    data = dumps(value)
    assert type(data) is bytes
    assert loads(data) == value
    with gzip.open(io.BytesIO(data)) as file:
        assert pickle.load(file) == value


@given(values)
@settings(max_examples=30)
def test_equal_bytes_each_time_and_one_member_without_time_or_name(value: object) -> None:
    data = dumps(value)
    assert dumps(value) == data
    assert data[:10] == b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
    unpacker = zlib.decompressobj(31)
    unpacker.decompress(data)
    assert (unpacker.eof, unpacker.unused_data) == (True, b"")


@pytest.mark.parametrize("name", SAMPLES)
def test_gzip_written_by_others_is_read_too(name: str) -> None:
    value = SAMPLES[name]
    assert loads(gzip.compress(pickle.dumps(value))) == value
    buffer = io.BytesIO()
    with gzip.GzipFile("named.pkl", "wb", fileobj=buffer, mtime=12345) as file:
        pickle.dump(value, file, protocol=2)
    assert loads(memoryview(buffer.getvalue())) == value


def test_arrays_and_frames_come_back_writable_and_equal() -> None:
    numbers = np.random.default_rng(1).random((500, 300))
    frame = pd.DataFrame({"a": numbers[0], "b": ["goose", "duck", None] * 100, "when": [date(2026, 1, 2)] * 300})
    for array in (numbers, numbers.T, numbers[::2, ::3], numbers > 0.5, np.zeros((1000, 1000))):
        back = loads(dumps(array))
        assert isinstance(back, np.ndarray)
        np.testing.assert_array_equal(back, array)
        assert back.flags.writeable
    back = loads(dumps(frame))
    assert isinstance(back, pd.DataFrame)
    pd.testing.assert_frame_equal(back, frame)


def test_shared_and_cyclic_parts_stay_so() -> None:
    part: list[object] = [INCOMPRESSIBLE]
    part.append(part)
    first, second = loads(dumps([part, part]))
    assert first is second
    assert first[1] is first


@pytest.mark.parametrize("length", [100_000, 1_000_000, 5_000_000])
def test_noise_is_stored_with_five_bytes_for_each_64_kib(length: int) -> None:
    noise = random.Random(2).randbytes(length)
    size = len(pickle.dumps(noise, 5))
    blocks = -(-length // 65535) + 2  # the pickle's opcodes around the bytes are blocks of their own
    assert len(dumps(noise)) == 10 + size + 5 * (blocks + 1) + 8


@pytest.mark.parametrize("length", [100, 8150, 8192, 100_000])
def test_a_pack_says_which_members_pieces_may_be_the_values_own_memory(length: int) -> None:
    """Whoever writes them later writes what the value became meanwhile."""
    array = np.random.default_rng(1).random(length)
    expected = dumps(array)
    pieces, (_, size) = Pack().add_pieces(pickle_pieces(array))
    array[:] = 0.0
    assert (b"".join(pieces) == expected) is (size < SHARED_BYTES)


def test_the_pieces_of_a_large_array_are_its_own_memory() -> None:
    array = np.random.default_rng(1).random(2**18)
    joined = dumps(array)
    pieces = encode(array)
    assert b"".join(pieces) == joined
    copied = sum(memoryview(piece).nbytes for piece in pieces if not np.shares_memory(np.asarray(piece), array))
    assert copied < 1000


@pytest.mark.parametrize("count", [500, 2000, 40_000, 200_000])
def test_what_shrinks_is_deflated(count: int) -> None:
    value = [{"id": n, "name": f"bird {n}"} for n in range(count)]
    assert len(dumps(value)) < len(pickle.dumps(value, 5)) / 3


@pytest.mark.parametrize("name", SAMPLES)
def test_any_truncation_is_a_store_error(name: str) -> None:
    data = dumps(SAMPLES[name])
    for length in {0, 1, 9, 10, 11, 17, 18, len(data) // 2, *range(len(data) - 15, len(data))}:
        assert error_of(data[:length]).startswith(f"{URL} is damaged or no gzip: it ")


@given(st.sampled_from(sorted(SAMPLES)), st.data())
def test_no_flipped_bit_gives_a_wrong_value_or_another_error(name: str, data: st.DataObject) -> None:
    """A few bits of a gzip file mean nothing (its time, its padding): flipped, they leave the value as it was."""
    value = SAMPLES[name]
    damaged = bytearray(dumps(value))
    damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        back = loads(damaged, url=URL)
    except StoreError as error:
        back = str(error)
    assert back == value or str(back).startswith(f"{URL} is damaged or no gzip: ")


@pytest.mark.parametrize("name", SAMPLES)
def test_every_flipped_bit_of_data_and_checksums_is_a_store_error(name: str) -> None:
    data = dumps(SAMPLES[name])
    places = [*range(15, min(len(data) - 13, 300)), *range(len(data) - 8, len(data))]
    for place in places:
        damaged = bytearray(data)
        damaged[place] ^= 0x55
        assert error_of(damaged).startswith(f"{URL} is damaged or no gzip: ")


@given(st.binary(max_size=200))
def test_noise_is_never_read(data: bytes) -> None:
    assert error_of(data).startswith(f"{URL} is damaged or no gzip: ")


@given(st.binary(max_size=60))
def test_a_whole_member_around_what_is_no_pickle_is_a_store_error(content: bytes) -> None:
    with pytest.raises(StoreError):
        loads(gzip.compress(b"\x00" + content), url=URL)


def test_the_message_names_the_place_and_what_to_do() -> None:
    data = dumps("goose")
    assert error_of(data[:-1]) == (
        f"{URL} is damaged or no gzip: it ends too early. Delete it and run the step that wrote it again."
    )
    with pytest.raises(StoreError, match=r"^The data is damaged or no gzip: it has 0 bytes"):
        loads(b"")


@pytest.mark.parametrize("tail", [b"\0", b"x", dumps(1), b"\0" * 1000], ids=len)
@pytest.mark.parametrize("name", SAMPLES)
def test_anything_behind_the_member_is_a_store_error(name: str, tail: bytes) -> None:
    assert error_of(dumps(SAMPLES[name]) + tail) == (
        f"{URL} is damaged or no gzip: there is more behind the end of the gzip data. "
        "Delete it and run the step that wrote it again."
    )


@pytest.mark.parametrize("value", ["x" * 10_000, INCOMPRESSIBLE], ids=["deflated", "stored"])
def test_the_limit_counts_bytes_of_the_pickle(value: object) -> None:
    data = dumps(value)
    size = len(gzip.decompress(data))
    assert loads(data, limit=size) == value
    assert error_of(data, limit=size - 1) == (
        f"{URL} unpacks to more than {size - 1} bytes, the limit here. "
        "If lokki wrote it, split the step's result into smaller ones; if not, do not read it."
    )


BOMB = """
import gzip, resource, sys, zlib
from lokki.store.codec import loads
from lokki.errors import StoreError
packer = zlib.compressobj(1, 8, 31)
bomb = b"".join([packer.compress(bytes(2**20)) for _ in range(256)]) + packer.flush()
if sys.argv[1] == "lying":
    bomb = bomb[:-4] + bytes(4)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    loads(bomb, limit=16 * 2**20)
except StoreError as error:
    print(error)
unit = 1 if sys.platform == "darwin" else 1024
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit < 40 * 2**20)
"""


@pytest.mark.parametrize("size", ["honest", "lying"])
def test_a_gzip_bomb_stops_at_the_limit_and_does_not_fill_the_memory(size: str) -> None:
    done = subprocess.run([sys.executable, "-c", BOMB, size], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == (
        "The data unpacks to more than 16777216 bytes, the limit here. "
        "If lokki wrote it, split the step's result into smaller ones; if not, do not read it.\nTrue\n"
    )


@pytest.mark.parametrize("size", [0, 300_000], ids=["small", "large"])
def test_nothing_is_unpickled_from_a_damaged_member(tmp_path: Path, size: int) -> None:
    sign = tmp_path / "unpickled"
    data = dumps([Creates(sign), random.Random(3).randbytes(size)])
    for damaged in (data[:-1], data[:-8] + bytes(8), data + b"x", data[:-4] + bytes(4)):
        error_of(damaged)
    error_of(data, limit=10)
    assert not sign.exists()
    loads(data)[0].close()
    assert sign.exists()


def test_code_that_is_missing_when_reading_is_a_store_error() -> None:
    gone = b"\x80\x05\x8c\x07nowhere\x8c\x04Bird\x93."
    assert error_of(gzip.compress(gone)) == (
        f"{URL} holds an object of code that is missing here: No module named 'nowhere'. "
        "Install what the step that wrote it has installed, or run that step again with today's code."
    )
    renamed = b"\x80\x05\x8c\x04json\x8c\x04Bird\x93."
    assert "code that is missing here: " in error_of(gzip.compress(renamed))


def deep() -> list[object]:
    value: list[object] = []
    for _ in range(200_000):
        value = [value]
    return value


class Refuses:
    def __reduce__(self) -> str:
        raise ValueError("not me")


def local() -> object:
    class Inner:
        pass

    return Inner()


@pytest.mark.parametrize(
    ("value", "kind", "reason"),
    [
        (lambda: 1, "builtins.function", "<lambda>"),
        ((n for n in ()), "builtins.generator", "cannot pickle 'generator' object"),
        (threading.Lock(), "_thread.lock", "cannot pickle '_thread.lock' object"),
        ({"deep": [threading.Lock()]}, "builtins.dict", "cannot pickle '_thread.lock' object"),
        (deep(), "builtins.list", "recursion"),
        (Refuses(), "test_codec.Refuses", "not me"),
        (local(), "test_codec.local.<locals>.Inner", "Inner"),
    ],
    ids=["lambda", "generator", "lock", "inside", "deep", "refuses", "local"],
)
def test_a_result_that_does_not_pickle_is_a_result_error_with_the_reason(value: object, kind: str, reason: str) -> None:
    with pytest.raises(ResultError) as caught:
        dumps(value)
    text = str(caught.value)
    assert text.startswith(f"A result of type {kind} does not pickle: ")
    assert reason in text
    assert text.endswith(". Return plain data, or objects of classes defined at the top level of a module.")
    assert caught.value.__cause__ is not None


@given(st.lists(values, max_size=8), st.integers(0, 1000))
@settings(max_examples=50)
def test_each_member_of_a_pack_reads_by_its_range(items: list[object], start: int) -> None:
    pack = Pack(start)
    content = bytearray(start)
    ranges = []
    for item in items:
        member, place = pack.add(item)
        content += member
        ranges.append(place)
    assert pack.size == len(content)
    assert [loads(content[offset : offset + length]) for offset, length in ranges] == items


def test_a_pack_samples_few_values_after_many_that_do_not_shrink_until_one_does() -> None:
    random_bytes = random.Random(3).randbytes
    values = [random_bytes(40_000) for _ in range(20)] + ["goose, duck " * 4000] * 20 + [random_bytes(40_000)]
    pack, again = Pack(), Pack()
    members = [pack.add(value)[0] for value in values]
    assert members == [again.add(value)[0] for value in values]
    assert [loads(member) for member in members] == values
    shrunk = [index for index, member in enumerate(members) if len(member) < 10_000]
    assert shrunk == list(range(32, 40))
    assert members[32:] == [dumps(value) for value in values[32:]]


def test_a_pack_goes_on_after_an_item_that_does_not_pickle() -> None:
    pack = Pack()
    first, _ = pack.add("goose")
    with pytest.raises(ResultError):
        pack.add(threading.Lock())
    _, (offset, _) = pack.add("duck")
    assert offset == len(first)


def test_large_arrays_are_not_copied_more_than_once_each_way() -> None:
    script = """
import resource, sys
import numpy as np
from lokki.store.codec import dumps, loads
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
numbers = np.random.default_rng(1).random(25_000_000)
dumps(np.ones(3)); before = peak()
data = dumps(numbers); written = peak()
back = loads(data); read = peak()
assert (back == numbers).all()
print((written - before) / numbers.nbytes < 1.3, (read - written) / numbers.nbytes < 1.3)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "True True\n"


def test_the_codec_starts_light() -> None:
    heavy = "{'numpy', 'yaml', 'click', 'boto3', 'obstore'}"
    script = f"import sys, lokki.store.codec; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"
