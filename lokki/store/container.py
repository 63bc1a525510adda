"""The keys of a role from an endpoint that the environment names.

Lambda gives functions with SnapStart such an endpoint.

Such a function has no keys in its environment, since they would expire before the snapshot is restored:
https://docs.aws.amazon.com/lambda/latest/dg/snapstart-activate.html#snapstart-credentials
https://docs.aws.amazon.com/sdkref/latest/guide/feature-container-credentials.html
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from urllib.parse import SplitResult, urlsplit

import msgspec

from lokki.errors import ConfigError
from lokki.store.base import LOOPBACK
from lokki.store.profile import ROLE_ENDPOINT

_TOKEN = "AWS_CONTAINER_AUTHORIZATION_TOKEN"

# The page on the SDKs allows plain http to loopback and to the endpoints of ECS and EKS.
_PLAIN_HTTP = LOOPBACK | {"169.254.170.2", "169.254.170.23", "fd00:ec2::23"}
_SECONDS = 2.0
_PAUSES = (0.1, 0.5)  # seconds before another try
_PASSING = (OSError, HTTPException, msgspec.MsgspecError)


class RoleKeys(msgspec.Struct, frozen=True, rename="pascal"):
    """The keys of a role, as the endpoint writes them.

    ``expiration``: until when they are valid.
    """

    access_key_id: str
    secret_access_key: str
    token: str | None = None
    expiration: datetime | None = None


def check_endpoint(environ: Mapping[str, str]) -> None:
    """Refuse an endpoint whose keys others on the network could read.

    Raises ConfigError.
    """
    address = _address(environ)
    if address.scheme == "https" or (address.scheme == "http" and address.hostname in _PLAIN_HTTP):
        return
    raise ConfigError(
        f"{ROLE_ENDPOINT}={environ[ROLE_ENDPOINT]} cannot be used: keys over plain http come from this machine only."
    )


def fetch_role_keys(environ: Mapping[str, str]) -> RoleKeys:
    """Ask the endpoint for keys, three times at most.

    Raises OSError, HTTPException or MsgspecError of the last try.
    """
    for pause in _PAUSES:
        with suppress(*_PASSING):
            return _answer(environ)
        time.sleep(pause)
    return _answer(environ)


def _answer(environ: Mapping[str, str]) -> RoleKeys:
    address = _address(environ)
    kind = HTTPSConnection if address.scheme == "https" else HTTPConnection
    connection = kind(address.hostname or "", address.port, timeout=_SECONDS)
    headers = {"Accept": "application/json"}
    if token := environ.get(_TOKEN):
        headers["Authorization"] = token
    try:
        connection.request("GET", address._replace(scheme="", netloc="").geturl() or "/", headers=headers)
        response = connection.getresponse()
        content = response.read()
    finally:
        connection.close()
    if response.status != 200:
        raise OSError(f"{ROLE_ENDPOINT} answered with HTTP status {response.status}")
    return msgspec.json.decode(content, type=RoleKeys)


def _address(environ: Mapping[str, str]) -> SplitResult:
    return urlsplit(environ[ROLE_ENDPOINT])
