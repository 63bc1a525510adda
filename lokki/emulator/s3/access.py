"""Who may speak to the emulation's S3: requests that carry the run's secret as their session token.

All AWS SDKs send a session token with what they sign, in a header, or in the query of a URL that was signed in advance
(https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html). Whoever else reaches the
port, another user of the machine or a page in a browser, could plant an object that the next step unpickles.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field
from urllib.parse import parse_qs

from lokki.emulator.iam.checking import Roles
from lokki.emulator.s3.faults import S3Faults

LOG_PATH = "/lokki-emulator/requests"
MISSING_PATH = "/lokki-emulator/missing-permissions"
TOKEN_HEADER = "X-Amz-Security-Token"


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """What the server's process gets at its start.

    * ``objects``: the folder that gets all objects at its end, or "".
    * ``roles``: of the functions.
    """

    bucket: str
    token: str
    faults: S3Faults = field(default_factory=S3Faults)
    objects: str = ""
    roles: Roles = field(default_factory=Roles)


def sent_token(header: str | None, query: str) -> str:
    """Return the session token of a request, "" where it has none.

    >>> sent_token(None, "X-Amz-Signature=0&X-Amz-Security-Token=abc")
    'abc'
    """
    if header:
        return header
    sent = {name.lower(): values[-1] for name, values in parse_qs(query).items()}
    return sent.get(TOKEN_HEADER.lower(), "")


def equal(sent: str, token: str) -> bool:
    """Compare tokens in constant time, so that none can be guessed."""
    return hmac.compare_digest(sent.encode(), token.encode())
