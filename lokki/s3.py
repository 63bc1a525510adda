"""Python values in S3 by URL, in the form in which lokki keeps results."""

from __future__ import annotations

from lokki.base.values import Stored
from lokki.store import codec
from lokki.store.s3 import S3Store, parse_url


def write(bucket: str, key: str, obj: object) -> str:
    """Write a value as one object and return its URL.

    The URL is ``s3://<bucket>/<key>``.

    Raises ResultError if the value does not pickle, StoreError if S3 does not take it.
    """
    return S3Store(bucket).write(key, codec.encode(obj)).result_url


def read(url: str) -> object:
    """Return the value that `write` or a step wrote to a URL.

    The URL is ``s3://<bucket>/<key>``.

    Reading unpickles, and that runs code which the object names: read only what you or your flows wrote.

    Raises StoreError if the URL is none, the object cannot be read, or it is not what lokki wrote.
    """
    bucket, _ = _parse_url(url)
    return codec.loads(S3Store(bucket).read(Stored(url)), url=url)


def _parse_url(url: str) -> tuple[str, str]:
    return parse_url(url)
