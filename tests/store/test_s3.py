"""Values in S3 by URL."""

import gzip
import pickle
from collections.abc import Iterator

import pytest
from aws.moto_server import Aws

from lokki import s3
from lokki.errors import ResultError, StoreError


@pytest.fixture
def bucket(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name, value in aws.environ.items():
        monkeypatch.setenv(name, value)
    return aws.new_bucket()


def test_what_is_written_is_read_by_its_url(bucket: str, aws: Aws) -> None:
    url = s3.write(bucket, "data/birds (1).pkl.gz", {"goose": (1, 2)})
    assert url == f"s3://{bucket}/data/birds (1).pkl.gz"
    assert s3.read(url) == {"goose": (1, 2)}
    content = aws.s3.get_object(Bucket=bucket, Key="data/birds (1).pkl.gz")["Body"].read()
    assert pickle.loads(gzip.decompress(content)) == {"goose": (1, 2)}


def test_what_others_wrote_with_gzip_and_pickle_is_read(bucket: str, aws: Aws) -> None:
    aws.s3.put_object(Bucket=bucket, Key="x", Body=gzip.compress(pickle.dumps(["goose"])))
    assert s3.read(f"s3://{bucket}/x") == ["goose"]


def test_errors_name_the_url_and_what_to_do(bucket: str) -> None:
    with pytest.raises(StoreError) as caught:
        s3.read(f"s3://{bucket}/missing")
    assert str(caught.value) == (
        f"s3://{bucket}/missing cannot be read: there is no such object. Run the step that writes it again."
    )
    with pytest.raises(StoreError) as caught:
        s3.write("no-such-bucket", "x", 1)
    assert str(caught.value) == (
        "s3://no-such-bucket/x cannot be written: the bucket does not exist. "
        "Create it, or set LOKKI_ARTIFACT_BUCKET to the right one."
    )
    with pytest.raises(ResultError):
        s3.write(bucket, "x", lambda: 1)


def test_a_url_is_a_bucket_and_a_key() -> None:
    assert s3._parse_url("s3://bucket/key") == ("bucket", "key")
    assert s3._parse_url("s3://my.bucket-1/a/b c#d?e.pkl.gz") == ("my.bucket-1", "a/b c#d?e.pkl.gz")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "s3",
        "s3://",
        "s3://bucket",
        "s3://bucket/",
        "s3:///key",
        "s3://b/key",
        "s3://Bucket/key",
        "s3://user@bucket/key",
        "s3://bucket:80/key",
        "s3://bucket//key",
        "s3://bucket/../key",
        "s3:/bucket/key",
        "S3://bucket/key",
        "https://bucket/key",
        "local:///key",
        " s3://bucket/key",
    ],
)
def test_anything_else_is_a_store_error(url: str) -> None:
    with pytest.raises(StoreError):
        s3._parse_url(url)
    with pytest.raises(StoreError):
        s3.read(url)
