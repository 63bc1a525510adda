"""A store in an S3 bucket, through obstore.

It starts ten times as fast as a boto3 client, and reads in parallel.
"""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Buffer, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from itertools import chain, islice
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import S3Store as Client

from lokki.base.values import Stored
from lokki.errors import ConfigError, StoreError
from lokki.store.base import LOOPBACK
from lokki.store.keys import check_key, check_range, truncation_error
from lokki.store.profile import ROLE_ENDPOINT, with_profile

if TYPE_CHECKING:  # obstore has its names for type checkers only
    from concurrent.futures import Future

    from obstore.store import ClientConfig, RetryConfig, S3Config, S3Credential, S3CredentialProvider

_PART = 8 * 2**20
"""Bytes to upload or download at a time; 10,000 parts, the most that S3 takes, make 80 GB."""
_CONCURRENT_PARTS = 4
_LARGE = 4 * _PART
"""Bytes from which an object is read in parts: one connection to S3 gives less than 100 MB/s."""

_GAP = 2**16
"""Unwanted bytes between two ranges that cost less to read than another request."""
_MOST = 2**62  # more bytes than any object has
_REQUESTS = 32
_FIRST_REQUESTS = 4
_AHEAD = 256 * 2**20
"""Bytes that `read_many` holds or has under way, so far as the sizes seen until then tell."""

_FAILURES = (BaseError, OSError, ValueError)
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_CODE = re.compile(r"<Code>(\w+)</Code>")
_DENIED = {"AccessDenied", "ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch"}
_NO_KEYS = re.compile(r"External AWS credential provider: (.*)")
# Where any of these is set, obstore finds keys on its own.
_OWN_KEYS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
)
_ELSEWHERE = {"AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}


class S3Store:
    """Objects of one bucket whose keys begin with a prefix.

    Such as ``lokki/birds-flow/``; all others are refused.

    The prefix ends at a ``/``, given or not; with "" the whole bucket is one store. From the environment come, as for
    the AWS SDKs, ``AWS_ENDPOINT_URL_S3`` or ``AWS_ENDPOINT_URL`` (plain http on this machine only), ``AWS_REGION`` or
    ``AWS_DEFAULT_REGION``, and keys; a profile in ``~/.aws`` and the role of a Lambda function, container or machine
    are used as well. Keys of a role are fetched again before they expire.

    Raises ConfigError if the endpoint cannot be used.
    """

    def __init__(self, bucket: str, prefix: str = "", *, environ: Mapping[str, str] = os.environ) -> None:
        self._bucket = bucket
        self._prefix = f"{prefix.strip('/')}/" if prefix else ""
        self._client = _client(bucket, environ)

    def url(self, key: str) -> str:
        """Return the URL of a key.

        It is ``s3://<bucket>/<key>``.
        """
        url = f"s3://{self._bucket}/{check_key(key)}"
        self._key(url)
        return url

    def write(self, key: str, chunks: Iterable[Buffer]) -> Stored:
        """Upload one object; an older one is replaced.

        A large one is uploaded in parallel parts.

        An error from the chunks is handed on as it is, and the parts that were uploaded are removed.
        """
        url = self.url(key)
        source = _Source(chunks)
        start: list[Buffer] = []
        size = 0
        content: Buffer | Iterator[Buffer]
        for chunk in source:
            start.append(chunk)
            size += memoryview(chunk).nbytes
            if size > _PART:
                content = chain(start, source)
                break
        else:
            content = start[0] if len(start) == 1 else b"".join(start)
        try:
            obstore.put(self._client, key, content, chunk_size=_PART, max_concurrency=_CONCURRENT_PARTS)
        except _FAILURES as error:
            if error is source.failure:
                raise
            raise _translated(error, Stored(url), "written") from error
        return Stored(url)

    def read(self, place: Stored) -> Buffer:
        """Return the bytes of an object, or of a range of it.

        Large ones are read in parallel parts.
        """
        [content] = self._answer(next(_requests([(self._key(place.result_url), place)])))
        return content

    def read_many(self, places: Iterable[Stored]) -> Iterator[Buffer]:
        """Yield the bytes of each place, in order.

        Up to 32 requests are ahead; neighbouring ranges are one request.
        """
        # Only here: a Lambda function that reads one value starts faster without threads, logging and queues.
        from concurrent.futures import ThreadPoolExecutor

        requests = _requests((self._key(place.result_url), place) for place in places)
        pending: deque[Future[list[Buffer]]] = deque()
        largest = 0
        pool = ThreadPoolExecutor(_REQUESTS, thread_name_prefix="lokki-read")
        try:
            while True:
                for request in islice(requests, _window(largest) - len(pending)):
                    pending.append(pool.submit(self._answer, request))
                if not pending:
                    return
                contents = pending.popleft().result()
                largest = max(largest, sum(memoryview(content).nbytes for content in contents))
                yield from contents
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _key(self, url: str) -> str:
        """Return the key of a URL in this store, or refuse the URL."""
        own = f"s3://{self._bucket}/{self._prefix}"
        if not url.startswith(own):
            raise StoreError(
                f"{url} is not in this store, which reads and writes only {own}… "
                "Use the bucket and the flow that the run belongs to."
            )
        return check_key(url.removeprefix(f"s3://{self._bucket}/"))

    def _answer(self, request: _Request) -> list[Buffer]:
        """Return the bytes of each place of one request."""
        first = request.places[0]
        try:
            if first.range is None:
                return [self._whole(request.key)]
            if request.end - request.start >= _LARGE:  # only ever one place
                check_range(first, obstore.head(self._client, request.key)["size"])
                return [self._parts(request.key, request.start, request.end)]
            if request.end == request.start:
                return [b""] * len(request.places)
            content = memoryview(obstore.get_range(self._client, request.key, start=request.start, end=request.end))
        except _FAILURES as error:
            raise _translated(error, first, "read") from error
        answers: list[Buffer] = []
        for place in request.places:
            offset, length = check_range(place, request.start + len(content))
            answers.append(content[offset - request.start : offset - request.start + length])
        return answers

    def _whole(self, key: str) -> Buffer:
        response = obstore.get(self._client, key)
        size = response.meta["size"]
        return response.bytes() if size < _LARGE else self._parts(key, 0, size)

    def _parts(self, key: str, start: int, end: int) -> bytes:
        starts = range(start, end, _PART)
        ends = [min(offset + _PART, end) for offset in starts]
        return b"".join(obstore.get_ranges(self._client, key, starts=starts, ends=ends, coalesce=0))


@dataclass(slots=True)
class _Request:
    """A read of one object, whole or a part of it.

    The part is from `start` to `end`, and holds the ranges of all its places.
    """

    key: str
    start: int
    end: int
    places: list[Stored]

    def takes(self, key: str, place: Stored) -> bool:
        """Tell whether a place is best read along with the last one.

        It begins where the last one ends, or soon after.
        """
        if place.range is None or self.places[-1].range is None or key != self.key:
            return False
        offset, length = place.range
        return self.end <= offset <= self.end + _GAP and offset + length - self.start <= _PART


class _Source:
    """The chunks of an upload.

    It remembers the error that they ended with, to tell it from the upload's own.
    """

    def __init__(self, chunks: Iterable[Buffer]) -> None:
        self._chunks = iter(chunks)
        self.failure: BaseException | None = None

    def __iter__(self) -> Iterator[Buffer]:
        return self

    def __next__(self) -> Buffer:
        try:
            return next(self._chunks)
        except StopIteration:
            raise
        except BaseException as error:
            self.failure = error
            raise


def parse_url(url: str) -> tuple[str, str]:
    """Return the bucket and the key of an S3 URL.

    The URL is ``s3://<bucket>/<key>``.

    Raises StoreError if it is anything else.
    """
    scheme, _, rest = url.partition("://")
    bucket, _, key = rest.partition("/")
    if scheme != "s3" or not _BUCKET.fullmatch(bucket):
        raise StoreError(f"{url!r} is no S3 URL. Use s3://<bucket>/<key>.")
    return bucket, check_key(key)


def _requests(places: Iterable[tuple[str, Stored]]) -> Iterator[_Request]:
    """Yield the requests that read all places, in order."""
    request: _Request | None = None
    for key, place in places:
        offset, length = place.range or (0, 0)
        if not (0 <= offset < _MOST and 0 <= length < _MOST):
            raise truncation_error(place, "no object has such a range")
        if request is not None and request.takes(key, place):
            request.end = offset + length
            request.places.append(place)
            continue
        if request is not None:
            yield request
        request = _Request(key, offset, offset + length, [place])
    if request is not None:
        yield request


def _window(largest: int) -> int:
    """Return how many requests may be in progress or unread.

    ``largest``: the largest answer so far, in bytes.
    """
    return max(1, min(_REQUESTS, _AHEAD // largest)) if largest else _FIRST_REQUESTS


def _client(bucket: str, environ: Mapping[str, str]) -> Client:
    environ = with_profile(environ)
    config: S3Config = {}
    options: ClientConfig = {"timeout": timedelta(minutes=5)}  # for up to 32 MiB, also on a slow line
    retries: RetryConfig = {}
    if region := environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION"):
        config["region"] = region
    if "AWS_ACCESS_KEY_ID" in environ and "AWS_SECRET_ACCESS_KEY" in environ:
        config["access_key_id"] = environ["AWS_ACCESS_KEY_ID"]
        config["secret_access_key"] = environ["AWS_SECRET_ACCESS_KEY"]
        if token := environ.get("AWS_SESSION_TOKEN"):
            config["session_token"] = token
    endpoint = environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL")
    if endpoint:
        from urllib.parse import urlsplit  # only here: on AWS no endpoint is set, and a start is billed

        address = urlsplit(endpoint)
        here = address.hostname in LOOPBACK
        if not (address.scheme == "https" or (address.scheme == "http" and here)):
            raise ConfigError(
                f"AWS_ENDPOINT_URL={endpoint} cannot be used: lokki speaks plain http to this machine only. Use https."
            )
        config["endpoint"] = endpoint.rstrip("/")
        options["allow_http"] = here
        if here:
            retries["max_retries"] = 2  # what does not answer on this machine at once is not running
    keys = _role_keys(environ)
    return Client(bucket, config=config, client_options=options, retry_config=retries, credential_provider=keys)


def _role_keys(environ: Mapping[str, str]) -> S3CredentialProvider | None:
    """Return what asks for a role's keys before they expire.

    Where Lambda names an endpoint for that; else None.
    """
    if not environ.get(ROLE_ENDPOINT) or any(environ.get(name) for name in _OWN_KEYS):
        return None
    # Only here: it needs http, and where there is an endpoint, a snapshot has that imported.
    from lokki.store.container import check_endpoint, fetch_role_keys

    def credential() -> S3Credential:
        keys = fetch_role_keys(environ)
        return {
            "access_key_id": keys.access_key_id,
            "secret_access_key": keys.secret_access_key,
            "token": keys.token,
            "expires_at": keys.expiration,
        }

    check_endpoint(environ)
    return credential


def _translated(error: BaseException, place: Stored, action: str) -> StoreError:
    """Return what a failure of obstore means to the user."""
    match = _CODE.search(str(error))
    code = match[1] if match else ""
    url = place.result_url
    if code == "InvalidRange":
        return truncation_error(place, "the object ends before it")
    if code == "NoSuchBucket":
        reason, advice = "the bucket does not exist", "Create it, or set LOKKI_ARTIFACT_BUCKET to the right one"
    elif isinstance(error, FileNotFoundError):
        reason, advice = "there is no such object", "Run the step that writes it again"
    elif no_keys := _NO_KEYS.search(str(error)):
        reason = f"the role's keys could not be fetched ({no_keys[1]})"
        advice = f"Check {ROLE_ENDPOINT}, and try again"
    elif isinstance(error, (PermissionDeniedError, UnauthenticatedError)) or code in _DENIED:
        reason = f"access is denied ({code or 'no reason given'})"
        advice = "Check the credentials, and that their role may use this bucket and key"
    elif "169.254.169.254" in str(error):
        reason = "no AWS credentials were found"
        advice = 'Set them, for instance with eval "$(aws configure export-credentials --format env)"'
    elif code in _ELSEWHERE or "incorrectly configured region" in str(error):
        reason, advice = "the bucket is in another region", "Set AWS_REGION to its region"
    else:
        reason, advice = str(error).partition("\n")[0], "Check the network and AWS_ENDPOINT_URL, and try again"
    return StoreError(f"{url} cannot be {action}: {reason}. {advice}.")
