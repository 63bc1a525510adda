"""Calls of AWS services that speak JSON, signed and sent by Python's own library.

boto3 would take longer to import than most steps to run. A function that needs no such call does not load this module.
https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from ssl import SSLError
from typing import Self
from urllib.parse import SplitResult, urlsplit

import msgspec

from lokki.base.values import Json, JsonField
from lokki.errors import ConfigError
from lokki.store.base import LOOPBACK
from lokki.store.container import RoleKeys, fetch_role_keys
from lokki.store.profile import ROLE_ENDPOINT

_SECONDS = 5.0
_PAUSES = (0.2, 1.0)  # seconds before another try
_PASSING = {"InternalServiceError", "InternalServerError", "RequestLimitExceeded", "ThrottlingException"}


class AwsCallError(Exception):
    """A service refused a call, or could not be reached.

    ``code``: the service's name of the error, or that of Python's.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}" if message else code)
        self.code = code


class AwsServices:
    """Services that are called over one connection for each address.

    Endpoint, region and keys come from the environment, as for the AWS SDKs.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._connections: dict[str, HTTPConnection] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        for connection in self._connections.values():
            connection.close()

    def call(self, service: str, target: str, body: JsonField, *, patient: bool = True) -> dict[str, Json]:
        """Call an operation, three times at most where another try may help.

        * ``service``: its name in endpoints and signatures, such as ``ssm``
        * ``target``: its name of the operation, such as ``AmazonSSM.GetParameter``
        * ``patient``: whether there are further tries at all

        Raises AwsCallError, and ConfigError for an endpoint that cannot be used.
        """
        content = msgspec.json.encode(body)
        for pause in (*_PAUSES, None) if patient else (None,):
            try:
                return self._answer(service, target, content)
            except AwsCallError as error:
                if pause is None or error.code not in _PASSING:
                    raise
            except (OSError, HTTPException) as error:
                if pause is None:
                    raise AwsCallError(type(error).__name__, str(error)) from None
            time.sleep(pause)
        raise AssertionError("the last try returns or raises")

    def _answer(self, service: str, target: str, content: bytes) -> dict[str, Json]:
        region = self._environ.get("AWS_REGION") or self._environ.get("AWS_DEFAULT_REGION") or ""
        address = _endpoint(service, region, self._environ)
        headers = {
            "content-type": "application/x-amz-json-1.1",
            "host": address.netloc,
            "x-amz-date": datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ"),
            "x-amz-target": target,
        }
        keys = _keys(self._environ)
        if keys.token:
            headers["x-amz-security-token"] = keys.token
        headers["authorization"] = authorization(headers, content, keys, f"{region}/{service}")
        return _decoded(*self._post(address, content, headers))

    def _post(self, address: SplitResult, content: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
        """Send a request, and return the status and the content of the response."""
        place = f"{address.scheme}://{address.netloc}"
        if (connection := self._connections.pop(place, None)) is not None:
            try:
                return self._exchange(place, connection, content, headers)
            except (ConnectionError, SSLError):
                pass  # it was closed after the request before
        kind = HTTPSConnection if address.scheme == "https" else HTTPConnection
        return self._exchange(place, kind(address.hostname or "", address.port, timeout=_SECONDS), content, headers)

    def _exchange(
        self, place: str, connection: HTTPConnection, content: bytes, headers: Mapping[str, str]
    ) -> tuple[int, bytes]:
        """Send a request over a connection, which is kept if that works."""
        try:
            connection.request("POST", "/", content, headers)
            response = connection.getresponse()
            text = response.read()
        except BaseException:
            connection.close()
            raise
        self._connections[place] = connection
        return response.status, text


def _decoded(status: int, text: bytes) -> dict[str, Json]:
    try:
        decoded: Json = msgspec.json.decode(text)
    except msgspec.MsgspecError:  # a proxy's page
        decoded = None
    answer = decoded if isinstance(decoded, dict) else {}
    if status != 200:
        code = str(answer.get("__type", "")).rpartition("#")[2]
        message = answer.get("message") or answer.get("Message") or ""
        raise AwsCallError(code or ("InternalServerError" if status >= 500 else f"HTTP {status}"), str(message))
    return answer


def authorization(headers: Mapping[str, str], content: bytes, keys: RoleKeys, scope: str) -> str:
    """Return the header that signs a POST of all these headers.

    ``scope``: region and service, with a ``/`` between them.
    """
    names = ";".join(sorted(headers))
    lines = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
    request = f"POST\n/\n\n{lines}\n{names}\n{hashlib.sha256(content).hexdigest()}"
    date = headers["x-amz-date"]
    credential = f"{date[:8]}/{scope}/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{date}\n{credential}\n{hashlib.sha256(request.encode()).hexdigest()}"
    key = f"AWS4{keys.secret_access_key}".encode()
    for part in credential.split("/"):
        key = _sign(key, part)
    signature = _sign(key, text).hex()
    return (
        f"AWS4-HMAC-SHA256 Credential={keys.access_key_id}/{credential}, SignedHeaders={names}, Signature={signature}"
    )


def _sign(key: bytes, text: str) -> bytes:
    return hmac.digest(key, text.encode(), "sha256")


def _keys(environ: Mapping[str, str]) -> RoleKeys:
    if environ.get("AWS_ACCESS_KEY_ID"):
        return RoleKeys(
            environ["AWS_ACCESS_KEY_ID"],
            environ.get("AWS_SECRET_ACCESS_KEY", ""),
            environ.get("AWS_SESSION_TOKEN"),
        )
    if environ.get(ROLE_ENDPOINT):  # a function with SnapStart
        try:
            return fetch_role_keys(environ)
        except msgspec.MsgspecError as error:
            raise AwsCallError("NoCredentials", f"the endpoint of the role's keys gives none: {error}") from None
    raise AwsCallError("NoCredentials", "the environment has no keys of AWS")


def _endpoint(service: str, region: str, environ: Mapping[str, str]) -> SplitResult:
    own = f"AWS_ENDPOINT_URL_{'SECRETS_MANAGER' if service == 'secretsmanager' else service.upper()}"
    suffix = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    url = environ.get(own) or environ.get("AWS_ENDPOINT_URL") or f"https://{service}.{region}.{suffix}"
    address = urlsplit(url)
    if address.scheme == "https" or (address.scheme == "http" and address.hostname in LOOPBACK):
        return address
    raise ConfigError(f"{url} cannot be used: secrets come over plain http from this machine only. Use https.")
