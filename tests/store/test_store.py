"""One suite for both stores, S3 by a moto server on loopback, and what is special about each."""

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Protocol, cast

import numpy as np
import pytest
from aws.moto_server import Aws
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lokki.base.values import Inline, Stored
from lokki.errors import ConfigError, ResultError, StoreError
from lokki.store import codec
from lokki.store.base import Store, load, load_many, save
from lokki.store.keys import Keys
from lokki.store.local import LocalStore, write_pieces
from lokki.store.profile import with_profile
from lokki.store.s3 import S3Store

type Floats = np.ndarray[tuple[int], np.dtype[np.float64]]

KEYS = Keys("lokki/birds/run-1")
KEY = KEYS.output("get_birds")


class Raw(Protocol):
    """A store's content, past the code under test."""

    def get(self, key: str) -> bytes: ...
    def put(self, key: str, content: bytes) -> None: ...
    def names(self) -> list[str]: ...


@dataclass(frozen=True)
class Files:
    root: Path

    def get(self, key: str) -> bytes:
        return (self.root / key).read_bytes()

    def put(self, key: str, content: bytes) -> None:
        (self.root / key).parent.mkdir(parents=True, exist_ok=True)
        (self.root / key).write_bytes(content)

    def names(self) -> list[str]:
        return sorted(str(path.relative_to(self.root)) for path in self.root.rglob("*") if path.is_file())


@dataclass(frozen=True)
class Objects:
    aws: Aws
    bucket: str

    def get(self, key: str) -> bytes:
        content: bytes = self.aws.s3.get_object(Bucket=self.bucket, Key=key)["Body"].read()
        return content

    def put(self, key: str, content: bytes) -> None:
        self.aws.s3.put_object(Bucket=self.bucket, Key=key, Body=content)

    def names(self) -> list[str]:
        """Return the keys of objects and of uploads that are not finished."""
        objects = self.aws.s3.list_objects_v2(Bucket=self.bucket).get("Contents", [])
        uploads = self.aws.s3.list_multipart_uploads(Bucket=self.bucket).get("Uploads", [])
        return sorted(each["Key"] for each in [*objects, *uploads])


@pytest.fixture(params=["local", "s3"])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Store, Raw]:
    if request.param == "local":
        return LocalStore(tmp_path), Files(tmp_path)
    aws: Aws = request.getfixturevalue("aws")
    bucket = aws.new_bucket()
    return S3Store(bucket, "lokki/birds", environ=aws.environ), Objects(aws, bucket)


@pytest.fixture
def store(pair: tuple[Store, Raw]) -> Store:
    return pair[0]


@pytest.fixture
def raw(pair: tuple[Store, Raw]) -> Raw:
    return pair[1]


class Creates:
    """Unpickling this makes a file: proof that something was unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


def test_the_keys_of_a_run() -> None:
    assert (KEYS.output("a"), KEYS.items("a"), KEYS.map_manifest("a"), KEYS.map_results("a")) == (
        "lokki/birds/run-1/a/output.pkl.gz",
        "lokki/birds/run-1/a/items.pkl.gz",
        "lokki/birds/run-1/a/map_manifest.json",
        "lokki/birds/run-1/a/map_results/",
    )


def test_what_is_written_in_chunks_is_read_whole_and_by_ranges(store: Store, raw: Raw) -> None:
    place = store.write(KEY, iter([b"flappy", memoryview(b" "), bytearray(b"goose")]))
    assert place == Stored(store.url(KEY))
    assert raw.get(KEY) == b"flappy goose"
    assert raw.names() == [KEY]
    assert bytes(store.read(place)) == b"flappy goose"
    url = place.result_url
    assert bytes(store.read(Stored(url, (7, 5)))) == b"goose"
    assert bytes(store.read(Stored(url, (0, 12)))) == b"flappy goose"
    assert bytes(store.read(Stored(url, (3, 0)))) == b""


def test_an_object_may_be_empty_and_is_replaced_by_the_next(store: Store) -> None:
    place = store.write(KEY, [])
    assert bytes(store.read(place)) == b""
    assert store.write(KEY, [b"goose"]) == place
    assert bytes(store.read(place)) == b"goose"


def test_a_large_object_travels_in_parts(store: Store, raw: Raw) -> None:
    chunks = [os.urandom(5_000_000) for _ in range(9)]
    content = b"".join(chunks)
    place = store.write(KEY, iter(chunks))
    assert bytes(store.read(place)) == content
    assert bytes(store.read(Stored(place.result_url, (1_000_000, 40_000_000)))) == content[1_000_000:41_000_000]
    assert raw.names() == [KEY]
    assert bytes(store.read(store.write(KEY, [content]))) == content


@given(pieces=st.lists(st.binary(max_size=50), min_size=1, max_size=8), data=st.data())
@settings(
    max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None
)
def test_many_places_are_read_in_order(store: Store, pieces: list[bytes], data: st.DataObject) -> None:
    place = store.write(KEY, pieces)
    other = store.write(KEYS.output("other"), [b"another"])
    whole = b"".join(pieces)
    spans = st.integers(0, len(whole)).flatmap(
        lambda start: st.tuples(st.just(start), st.integers(0, len(whole) - start))
    )
    places = data.draw(st.lists(st.just(place) | st.just(other) | spans.map(lambda s: Stored(place.result_url, s))))
    expected = [
        b"another" if each == other else whole if each.range is None else whole[each.range[0] : sum(each.range)]
        for each in places
    ]
    assert [bytes(content) for content in store.read_many(iter(places))] == expected


def test_ranges_far_apart_and_in_any_order_are_read(store: Store) -> None:
    content = os.urandom(12_000_000)
    url = store.write(KEY, [content]).result_url
    spans = [(0, 10), (10, 5), (20, 5), (9_000_000, 2_000_000), (11_000_000, 1_000_000), (5, 10), (0, 9_500_000)]
    contents = store.read_many(Stored(url, span) for span in spans)
    assert [bytes(each) for each in contents] == [content[start : start + size] for start, size in spans]


def test_reading_many_may_end_early(store: Store) -> None:
    place = store.write(KEY, [b"goose"])
    contents = store.read_many(place for _ in range(1000))
    assert bytes(next(contents)) == b"goose"
    contents.close()  # type: ignore[attr-defined]
    assert list(store.read_many([])) == []


def test_an_error_while_chunks_are_made_leaves_nothing_and_is_handed_on(store: Store, raw: Raw) -> None:
    def chunks(size: int) -> Iterator[bytes]:
        yield bytes(size)
        yield bytes(size)
        raise FileNotFoundError(errno.ENOENT, "birds.csv is not there")

    for size in (10, 10_000_000):
        with pytest.raises(FileNotFoundError, match=r"birds\.csv is not there"):
            store.write(KEY, chunks(size))
        assert raw.names() == []


def test_an_interrupted_write_leaves_the_older_object(store: Store, raw: Raw) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"duck"
        raise KeyboardInterrupt

    store.write(KEY, [b"goose"])
    with pytest.raises(KeyboardInterrupt):
        store.write(KEY, chunks())
    assert (raw.names(), raw.get(KEY)) == ([KEY], b"goose")


BAD_KEYS = [
    "",
    "/lokki/birds/x",
    "lokki/birds/../evil/x",
    "lokki/birds/./x",
    "lokki/birds//x",
    "lokki/birds/x/",
    "lokki/birds/..",
    "lokki/birds/a\nb",
    "lokki/birds/a\0b",
    "lokki/birds/\ud800",
    "lokki/birds/" + "x" * 1013,
]


@pytest.mark.parametrize("key", BAD_KEYS, ids=lambda key: ascii(key)[:30])
def test_a_key_that_does_not_name_one_object_is_refused(store: Store, raw: Raw, key: str) -> None:
    base = store.url("lokki/birds/x").removesuffix("lokki/birds/x")
    for refused in (
        lambda: store.url(key),
        lambda: store.write(key, [b"goose"]),
        lambda: store.read(Stored(base + key)),
        lambda: list(store.read_many([Stored(base + key)])),
    ):
        with pytest.raises(StoreError):
            refused()
    assert raw.names() == []


def test_keys_with_unusual_characters_name_the_same_object_everywhere(store: Store, raw: Raw) -> None:
    keys = ["a b", "ü", "50%41", "a#b?c=d&e", "a+b", "~x", "{x}", "a:b", "…", ".hidden", "..."]
    for key in keys:
        store.write(f"lokki/birds/{key}", [key.encode()])
    contents = store.read_many(Stored(store.url(f"lokki/birds/{key}")) for key in keys)
    assert [bytes(content).decode() for content in contents] == keys
    if isinstance(raw, Files):
        assert raw.names() == sorted(f"lokki/birds/{key}" for key in keys)


def test_a_missing_object_is_a_store_error_that_names_the_url(store: Store) -> None:
    url = store.url(KEY)
    for places in ([Stored(url)], [Stored(url, (0, 5))]):
        with pytest.raises(StoreError) as caught:
            list(store.read_many(places))
        assert str(caught.value).startswith(f"{url} ")
        assert str(caught.value).endswith("Run the step that writes it again.")


@pytest.mark.parametrize(
    "span", [(0, 6), (5, 1), (6, 1), (100, 5), (2**61, 2**61), (-1, 2), (0, -1), (2**70, 1)], ids=str
)
def test_a_range_that_the_object_does_not_have_is_a_store_error(store: Store, span: tuple[int, int]) -> None:
    place = Stored(store.write(KEY, [b"goose"]).result_url, span)
    for read in (lambda: store.read(place), lambda: list(store.read_many([place]))):
        with pytest.raises(StoreError) as caught:
            read()
        assert str(caught.value).startswith(f"{place.result_url} (bytes {span[0]} to {sum(span)}) is truncated: ")


def test_a_shortened_object_fails_only_for_the_ranges_it_lost(store: Store) -> None:
    url = store.write(KEY, [b"goose duck"]).result_url
    contents = store.read_many([Stored(url, (0, 5)), Stored(store.write(KEYS.output("b"), [b"x"]).result_url)])
    assert [bytes(each) for each in contents] == [b"goose", b"x"]
    with pytest.raises(StoreError, match="is truncated: the object has 10 bytes"):
        list(store.read_many([Stored(url, (0, 5)), Stored(url, (5, 5)), Stored(url, (10, 5)), Stored(url, (15, 5))]))


FOREIGN = [
    "",
    "x",
    "file:///etc/passwd",
    "/etc/passwd",
    "https://bucket.s3.amazonaws.com/lokki/birds/x",
    "s3://another-bucket/lokki/birds/x",
    "s3:///lokki/birds/x",
    "local://lokki/birds/x",
    "local:////etc/passwd",
    "local:///../x",
]


@pytest.mark.parametrize("url", FOREIGN)
def test_a_foreign_url_is_refused(store: Store, url: str) -> None:
    for place in (Stored(url), Stored(url, (0, 1)), Stored(url, (0, 0))):
        with pytest.raises(StoreError):
            store.read(place)
        with pytest.raises(StoreError):
            load(store, place)


def test_a_value_is_inline_when_it_may_be_and_stored_when_not(store: Store, raw: Raw) -> None:
    assert save(store, KEY, ["goose"], 9) == Inline(["goose"])
    assert raw.names() == []
    ref = save(store, KEY, ["goose"], 8)
    assert ref == Stored(store.url(KEY))
    assert (load(store, Inline(["goose"])), load(store, ref)) == (["goose"], ["goose"])
    assert raw.get(KEY) == codec.dumps(["goose"])


def test_a_large_value_is_written_in_pieces_as_one_whole(store: Store, raw: Raw) -> None:
    array = np.random.default_rng(1).random(2**21)
    ref = save(store, KEY, array, 4096)
    assert raw.get(KEY) == codec.dumps(array)
    np.testing.assert_array_equal(cast("Floats", load(store, ref)), array)


def test_a_value_that_does_not_pickle_is_not_written(store: Store, raw: Raw) -> None:
    with pytest.raises(ResultError):
        save(store, KEY, threading.Lock(), 4096)
    assert raw.names() == []


def test_packed_inline_and_stored_values_load_in_order(store: Store) -> None:
    pack = codec.Pack()
    ranges = []

    def members() -> Iterator[bytes]:
        for n in range(300):
            member, span = pack.add((n, "goose" * n))
            ranges.append(span)
            yield member

    packed = store.write(KEYS.items("get_birds"), members())
    refs = [Stored(packed.result_url, span) for span in ranges]
    refs[10:10] = [Inline("here"), save(store, KEY, {1: 2}, 4096)]
    expected: list[object] = [(n, "goose" * n) for n in range(300)]
    expected[10:10] = ["here", {1: 2}]
    assert list(load_many(store, refs)) == expected


def test_nothing_is_unpickled_from_a_hostile_object(store: Store, raw: Raw, tmp_path: Path) -> None:
    sign = tmp_path.parent / f"{tmp_path.name}-unpickled"
    evil = codec.dumps(Creates(sign))
    url = store.url(KEY)
    for content in (evil[:-3], evil[:-8] + bytes(8), evil + b"more", b"", b"not gzip at all, but long enough"):
        raw.put(KEY, content)
        for ref in (Stored(url), Stored(url, (0, len(content))), Stored(url, (0, len(content) + 1))):
            with pytest.raises(StoreError) as caught:
                load(store, ref)
            assert str(caught.value).startswith(url)
            with pytest.raises(StoreError):
                list(load_many(store, [Inline(1), ref]))
    raw.put(KEY, evil)
    raw.put("lokki/birds-evil/x", evil)
    raw.put("lokki/x", evil)
    base = url.removesuffix(KEY)
    hostile = ["lokki/birds/../birds-evil/x", "lokki/birds//x"]
    if base.startswith("s3:"):
        hostile += ["lokki/birds-evil/x", "lokki/x", "lokki/birds", "lokki/birdsong/x", KEY.upper()]
    for key in hostile:
        with pytest.raises(StoreError):
            load(store, Stored(base + key))
    assert not sign.exists()
    load(store, Stored(url))
    assert sign.exists()


# The local store


def test_a_local_store_can_be_moved(tmp_path: Path) -> None:
    place = LocalStore(tmp_path / "a").write("run/x", [b"goose"])
    (tmp_path / "a").rename(tmp_path / "b")
    assert place == Stored("local:///run/x")
    assert LocalStore(tmp_path / "b").read(place) == b"goose"


def test_symbolic_links_out_of_a_local_store_are_refused(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    outside.mkdir()
    inside.mkdir()
    (outside / "x").write_bytes(b"secret")
    (inside / "folder").symlink_to(outside)
    (inside / "file").symlink_to(outside / "x")
    (inside / "new").symlink_to(outside / "new")
    store = LocalStore(inside)
    for key in ("folder/x", "file"):
        with pytest.raises(StoreError, match="leads out of"):
            store.read(Stored(f"local:///{key}"))
    for key in ("folder/y", "folder/deep/y", "file", "new"):
        with pytest.raises(StoreError, match="leads out of"):
            store.write(key, [b"goose"])
    assert [(path.name, path.read_bytes()) for path in outside.iterdir()] == [("x", b"secret")]


def test_a_local_store_says_why_the_system_refuses(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError) as caught:
        store.read(Stored("local:///folder"))
    assert str(caught.value) == f"local:///folder cannot be read under {tmp_path}: Is a directory."
    with pytest.raises(StoreError) as caught:
        store.write("file/x", [b"goose"])
    assert str(caught.value) == f"local:///file/x cannot be written under {tmp_path}: File exists."
    with pytest.raises(StoreError) as caught:
        store.write("folder", [b"goose"])
    assert str(caught.value) == f"local:///folder cannot be written under {tmp_path}: Is a directory."
    assert Files(tmp_path).names() == ["file"]


# S3


@dataclass
class FakeS3:
    """A server that answers each request with what it is told to, and counts them."""

    status: int = 200
    body: bytes = b""
    declared: int | None = None
    requests: list[str] = field(default_factory=list)

    @property
    def handler(self) -> type[BaseHTTPRequestHandler]:
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                fake.requests.append(f"{self.command} {self.path}")
                self.send_response(fake.status)
                self.send_header("Content-Length", str(len(fake.body) if fake.declared is None else fake.declared))
                self.send_header("Last-Modified", "Sun, 22 Nov 2026 12:00:00 GMT")
                self.send_header("ETag", '"x"')
                self.end_headers()
                self.wfile.write(fake.body)

            do_PUT = do_POST = do_DELETE = do_GET  # noqa: N815

            def log_message(self, *args: object) -> None:
                pass

        return Handler


def environ_of(port: int) -> dict[str, str]:
    return {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "eu-central-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
    }


@pytest.fixture
def fake() -> Iterator[tuple[FakeS3, S3Store]]:
    fake = FakeS3()
    server = ThreadingHTTPServer(("127.0.0.1", 0), fake.handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield fake, S3Store("bucket", "lokki/birds/", environ=environ_of(server.server_port))
    server.shutdown()
    thread.join()
    server.server_close()


def xml(code: str) -> bytes:
    return f"<Error><Code>{code}</Code><Message>m</Message></Error>".encode()


CHECK = "Check the credentials, and that their role may use this bucket and key."
ANSWERS = [
    (403, xml("AccessDenied"), f"access is denied (AccessDenied). {CHECK}"),
    (403, b"", f"access is denied (no reason given). {CHECK}"),
    (400, xml("ExpiredToken"), f"access is denied (ExpiredToken). {CHECK}"),
    (404, xml("NoSuchKey"), "there is no such object. Run the step that writes it again."),
    (404, xml("NoSuchBucket"), "the bucket does not exist. Create it, or set LOKKI_ARTIFACT_BUCKET to the right one."),
    (301, xml("PermanentRedirect"), "the bucket is in another region. Set AWS_REGION to its region."),
    (400, xml("AuthorizationHeaderMalformed"), "the bucket is in another region. Set AWS_REGION to its region."),
]


@pytest.mark.parametrize(("status", "body", "meaning"), ANSWERS)
def test_what_s3_answers_becomes_one_sentence_and_advice(
    fake: tuple[FakeS3, S3Store], status: int, body: bytes, meaning: str
) -> None:
    server, store = fake
    server.status, server.body = status, body
    url = store.url(KEY)
    with pytest.raises(StoreError) as caught:
        store.read(Stored(url))
    assert str(caught.value) == f"{url} cannot be read: {meaning}"
    with pytest.raises(StoreError) as caught:
        store.write(KEY, [b"goose"])
    assert str(caught.value) == f"{url} cannot be written: {meaning}"


def test_a_connection_that_breaks_off_is_a_store_error(fake: tuple[FakeS3, S3Store]) -> None:
    server, store = fake
    server.body, server.declared = b"goose", 100
    url = store.url(KEY)
    with pytest.raises(StoreError) as caught:
        load(store, Stored(url))
    assert str(caught.value).startswith(f"{url} cannot be read: ")


def test_no_request_is_made_for_a_url_that_is_not_the_stores_own(fake: tuple[FakeS3, S3Store]) -> None:
    server, store = fake
    for url in (
        *FOREIGN,
        "s3://bucket/lokki/birds",
        "s3://bucket/lokki/birds/",
        "s3://bucket/lokki/birds-evil/x",
        "s3://bucket/lokki/birds/../birds-evil/x",
        "s3://bucket/lokki/other/x",
        "s3://bucket/x",
        "s3://bucket@evil/lokki/birds/x",
        "S3://bucket/lokki/birds/x",
    ):
        with pytest.raises(StoreError):
            load(store, Stored(url))
        with pytest.raises(StoreError):
            list(load_many(store, [Stored(url, (0, 5))]))
    for key in ("lokki/birds-evil/x", "lokki/x", "x"):
        with pytest.raises(StoreError) as caught:
            store.write(key, [b"goose"])
        assert str(caught.value) == (
            f"s3://bucket/{key} is not in this store, which reads and writes only s3://bucket/lokki/birds/… "
            "Use the bucket and the flow that the run belongs to."
        )
    assert server.requests == []


def test_neighbouring_ranges_cost_one_request(fake: tuple[FakeS3, S3Store]) -> None:
    server, store = fake
    server.status, server.body = 206, b"goose" * 1000
    with pytest.raises(StoreError):  # this server does not send Content-Range
        list(store.read_many(Stored(store.url(KEY), (n * 5, 5)) for n in range(1000)))
    assert server.requests == [f"GET /bucket/{KEY}"]


def test_an_endpoint_that_does_not_answer_is_a_store_error_soon() -> None:
    store = S3Store("bucket", environ=environ_of(9))
    with pytest.raises(StoreError) as caught:
        store.read(Stored("s3://bucket/x"))
    text = str(caught.value)
    assert text.startswith("s3://bucket/x cannot be read: ")
    assert text.endswith("Check the network and AWS_ENDPOINT_URL, and try again.")
    assert "\n" not in text


@pytest.mark.parametrize("endpoint", ["http://example.com:9000", "ftp://127.0.0.1", "127.0.0.1:5000"])
def test_plain_http_is_for_this_machine_only(endpoint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        S3Store("bucket", environ={"AWS_ENDPOINT_URL": endpoint})
    assert str(caught.value) == (
        f"AWS_ENDPOINT_URL={endpoint} cannot be used: lokki speaks plain http to this machine only. Use https."
    )


def test_the_endpoint_for_s3_goes_before_the_one_for_all(fake: tuple[FakeS3, S3Store], aws: Aws) -> None:
    bucket = aws.new_bucket()
    environ = {**environ_of(9), "AWS_ENDPOINT_URL_S3": f"{aws.endpoint}/"}
    store = S3Store(bucket, environ=environ)
    assert bytes(store.read(store.write("x", [b"goose"]))) == b"goose"


def test_a_profile_fills_what_the_environment_leaves_open(tmp_path: Path) -> None:
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws/config").write_text(
        "[default]\nregion = eu-west-1\n[profile birds]\nregion=eu-north-1\noutput=json\n[profile sso]\nsso_session=x\n"
    )
    (tmp_path / ".aws/credentials").write_text(
        "[default]\naws_access_key_id = A\naws_secret_access_key = B%C\n"
        "[birds]\naws_access_key_id=D\naws_secret_access_key=E\naws_session_token=F\n"
    )
    home = {"HOME": str(tmp_path)}
    keys = {"AWS_ACCESS_KEY_ID": "A", "AWS_SECRET_ACCESS_KEY": "B%C"}
    assert with_profile(home) == {**home, **keys, "AWS_REGION": "eu-west-1"}
    birds = {**home, "AWS_PROFILE": "birds"}
    assert with_profile(birds) == {
        **birds,
        "AWS_ACCESS_KEY_ID": "D",
        "AWS_SECRET_ACCESS_KEY": "E",
        "AWS_SESSION_TOKEN": "F",
        "AWS_REGION": "eu-north-1",
    }
    set_here = {**home, "AWS_ACCESS_KEY_ID": "G", "AWS_SECRET_ACCESS_KEY": "H"}
    assert with_profile(set_here) == {**set_here, "AWS_REGION": "eu-west-1"}
    in_ecs = {**home, "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/x", "AWS_DEFAULT_REGION": "eu-south-1"}
    assert with_profile(in_ecs) == in_ecs
    for silent in ({**home, "AWS_PROFILE": "sso"}, {**home, "AWS_PROFILE": "none"}, {"HOME": "/nowhere"}, {}):
        assert with_profile(silent) == silent


def test_a_profile_that_cannot_be_read_gives_nothing(tmp_path: Path) -> None:
    for content in (b"[default\n", b"\xff\xfe", b"region=x"):
        (tmp_path / "config").write_bytes(content)
        environ = {"AWS_CONFIG_FILE": str(tmp_path / "config"), "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path)}
        assert with_profile(environ) == environ


@pytest.mark.parametrize("sizes", [[], [0], [5], [0, 3, 0, 0, 7], [1] * 3000, [200_000, 0, 1, 100_000]], ids=len)
def test_pieces_are_all_written_also_where_the_system_takes_some_at_a_time(sizes: list[int]) -> None:
    pieces = [os.urandom(size) for size in sizes]
    reading, writing = os.pipe()
    received = bytearray()
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        reader = threading.Thread(target=lambda: received.extend(pipe.readall()))
        reader.start()
        try:
            write_pieces(writing, pieces)
        finally:
            os.close(writing)
            reader.join(30)
    assert received == b"".join(pieces)


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("lokki.store.base", {"obstore", "asyncio", "configparser", "boto3", "yaml", "click", "rich", "numpy"}),
        ("lokki.store.local", {"obstore", "asyncio", "configparser", "boto3", "yaml", "click", "rich", "numpy"}),
        ("lokki.store.s3", {"configparser", "boto3", "yaml", "click", "rich", "numpy", "fsspec"}),
    ],
)
def test_stores_start_light(module: str, heavy: set[str]) -> None:
    script = f"import sys, {module}; print(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"
