"""The endpoint from which a function with SnapStart gets its role's keys, on loopback, and an S3 that notes who asks.

https://docs.aws.amazon.com/sdkref/latest/guide/feature-container-credentials.html
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "token-of-the-function"
_PATH = "/2021-04-23/credentials"


@dataclass
class RoleKeys:
    """What the endpoint does: each answer has other keys, which are valid for ``valid``; ``failures``: first answers.

    ``seen``: ``keys`` for each request with the right token, the access key for each that S3 got.
    """

    address: str = ""
    valid: timedelta = timedelta(hours=1)
    failures: list[tuple[int, bytes]] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)

    @property
    def environ(self) -> dict[str, str]:
        """What Lambda has in the environment instead of keys."""
        return {
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{self.address}{_PATH}",
            "AWS_CONTAINER_AUTHORIZATION_TOKEN": TOKEN,
            "AWS_REGION": "us-east-1",
        }

    def answer(self, path: str, authorization: str) -> tuple[int, bytes]:
        """Return the status and the content for a request."""
        if path != _PATH:
            signed = re.search(r"Credential=(\w+)/", authorization)
            self.seen.append(signed[1] if signed else "nobody")
            return 200, b"a song"
        if authorization != TOKEN:
            return 403, b"{}"
        self.seen.append("keys")
        if self.failures:
            return self.failures.pop(0)
        keys = {
            "AccessKeyId": f"KEY{self.seen.count('keys')}",
            "SecretAccessKey": "secret",
            "Token": "session",
            "Expiration": (datetime.now(UTC) + self.valid).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        return 200, json.dumps(keys).encode()


@contextmanager
def role_keys() -> Iterator[RoleKeys]:
    """Serve keys, and what looks like S3, on loopback."""
    keys = RoleKeys()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            status, content = keys.answer(self.path, self.headers.get("Authorization", ""))
            self.send_response(status)
            headers = {"Content-Length": str(len(content)), "ETag": '"1"'}
            for name, value in {**headers, "Last-Modified": "Fri, 27 Nov 2026 12:00:00 GMT"}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    keys.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield keys
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
