"""A process with moto's S3 on loopback, with one bucket, a log of requests, and faults on demand.

Run as a module. The first line of its standard input is a JSON object of ServerOptions; it prints its port and ends
with its standard input. A further line has other roles, and is answered with the port. ``GET
/lokki-emulator/requests`` returns the log. Nobody is answered who does not have the run's secret, and moto's own pages,
which reset it and show what it holds, answer nobody.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from moto.s3.models import s3_backends
from moto.secretsmanager.models import secretsmanager_backends
from moto.sts.models import sts_backends
from werkzeug.serving import WSGIRequestHandler, make_server

from lokki.emulator.chance import chance
from lokki.emulator.iam.checking import Authorized, Present, Roles
from lokki.emulator.s3.access import LOG_PATH, MISSING_PATH, TOKEN_HEADER, ServerOptions, equal, sent_token
from lokki.emulator.s3.faults import S3Faults
from lokki.errors import StoreError
from lokki.store.keys import check_key

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

_MOTO_PAGES = "/moto-api"
_CREDENTIAL = re.compile(r"Credential=([^/,]+)/")
_ACCOUNT = "123456789012"
_NO_FILE = (FileExistsError, NotADirectoryError, IsADirectoryError)
"""What a user's key leads to that is the folder of another one, or the other way round."""

_SLOW_DOWN = b"""<?xml version="1.0" encoding="UTF-8"?>
<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"""

_DENIED = b"""<?xml version="1.0" encoding="UTF-8"?>
<Error><Code>AccessDenied</Code><Message>This S3 answers its own run only.</Message></Error>"""


class InstalledServices:
    """The application, which says what a service lacks.

    moto imports a service when it is first asked for it. The extra ``emulator`` does not bring all that moto's own
    extra ``server`` does: docs/dependencies.md.
    """

    def __init__(self, app: WSGIApplication) -> None:
        self._app = app

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request, or say what is missing."""
        try:
            return self._app(environ, start_response)
        except ModuleNotFoundError as error:
            message = f"The emulator needs {error.name} for this service: install moto[all] beside lokki[emulator]."
            # boto3 repeats no call that is answered so.
            start_response("501 Not Implemented", [("Content-Type", "application/json")])
            return [msgspec.json.encode({"__type": "NotInstalled", "message": message})]


class Guarded:
    """The application, for those only who have the run's secret.

    Keys that they got with it from STS count, too.
    """

    def __init__(self, app: WSGIApplication, token: str) -> None:
        self._app = app
        self._token = token

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request, or refuse to."""
        path = str(environ.get("PATH_INFO", ""))
        if path.startswith(_MOTO_PAGES) or not self._is_known(environ):
            start_response("403 Forbidden", [("Content-Type", "application/xml"), ("Connection", "close")])
            return [_DENIED]
        return self._app(environ, _without_cors(start_response))

    def _is_known(self, environ: WSGIEnvironment) -> bool:
        header = environ.get(f"HTTP_{TOKEN_HEADER.upper().replace('-', '_')}")
        sent = sent_token(header, environ.get("QUERY_STRING", ""))
        return equal(sent, self._token) or any(equal(sent, token) for token in _assumed())


def _assumed() -> list[str]:
    """Return the session tokens that steps got by assuming roles.

    moto's STS gives them to everybody who may ask, and only those with the secret may.
    """
    backends = sts_backends[_ACCOUNT].values()
    return [str(role.session_token) for backend in backends for role in backend.assumed_roles]


def _without_cors(start_response: StartResponse) -> StartResponse:
    """Leave out the headers that let other sites' pages read answers."""

    def start(status: str, headers: list[tuple[str, str]], *rest: object) -> Callable[[bytes], object]:
        own = [(name, value) for name, value in headers if not name.lower().startswith("access-control-")]
        return start_response(status, own, *rest)  # type: ignore[arg-type]

    return start


class Counted:
    """The application, with a log of requests, and with faults."""

    def __init__(self, app: Authorized, faults: S3Faults) -> None:
        self._app = app
        self._faults = faults
        self._lock = threading.Lock()
        self._requests: list[tuple[str, str, str, str, int]] = []
        self._times: Counter[tuple[str, str, str]] = Counter()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request."""
        method, path, query = environ["REQUEST_METHOD"], environ.get("PATH_INFO", ""), environ.get("QUERY_STRING", "")
        if path == LOG_PATH:
            start_response("200 OK", [("Content-Type", "application/json")])
            with self._lock:
                return [json.dumps(self._requests).encode()]
        if path == MISSING_PATH:
            start_response("200 OK", [("Content-Type", "application/json")])
            return [msgspec.json.encode(self._app.missing)]
        match = _CREDENTIAL.search(environ.get("HTTP_AUTHORIZATION", ""))
        actor = match[1] if match else ""
        with self._lock:
            # Which time this request comes decides, not when: a seed gives the same faults on a slow machine.
            times = self._times[method, path, query]
            self._times[method, path, query] += 1
        refused = chance(self._faults.seed, "refused", method, path, times) < self._faults.refused and times % 3 < 2
        with self._lock:
            self._requests.append((actor, method, path, query, 503 if refused else 200))
        if chance(self._faults.seed, "late", method, path, times) < self._faults.late:
            time.sleep(self._faults.late_seconds)
        if refused:
            # Its body is read first: some clients take an answer that comes before they have sent it for a failure.
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start_response("503 Slow Down", [("Content-Type", "application/xml"), ("Retry-After", "0")])
            return [_SLOW_DOWN]
        return self._app(environ, start_response)


def _has_object(bucket: str, key: str) -> bool:
    content = s3_backends[_ACCOUNT]["aws"].buckets.get(bucket)
    return content is not None and key in content.keys


def _secret_arn(name: str) -> str:
    secrets = (backend.secrets.get(name) for backend in secretsmanager_backends[_ACCOUNT].values())
    return next((str(secret.arn) for secret in secrets if secret is not None), "")


class _Handler(WSGIRequestHandler):
    # For bodies in chunks. werkzeug ends each connection after its answer, and reads what is left of the request: its
    # body is not taken for another one.
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def log(self, type: str, message: str, *args: object) -> None:  # noqa: A002
        """Log nothing."""


def serve(options: ServerOptions, announce: Callable[[int], None]) -> None:
    """Serve until standard input ends."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    s3_backends[_ACCOUNT]["aws"].create_bucket(options.bucket, "us-east-1")
    moto: WSGIApplication = InstalledServices(DomainDispatcherApplication(create_backend_app))
    authorized = Authorized(moto, options.roles, Present(_has_object, _secret_arn))
    app = Guarded(Counted(authorized, options.faults), options.token)
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=_Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    announce(server.server_port)
    # Each line has other roles, for resources that got their names only here; then it ends with its standard input.
    for line in sys.stdin.buffer:
        authorized.roles = msgspec.json.decode(line, type=Roles)
        announce(server.server_port)


def keep(bucket: str, folder: Path) -> None:
    """Write all objects below a folder, by key.

    Raises OSError. They are not forced to disk, which takes five times as long: 13 s instead of 2.6 s for 10,000
    objects.
    """
    folders: set[Path] = set()
    for key, content in s3_backends[_ACCOUNT]["aws"].buckets[bucket].keys.items():
        path = folder / key
        with suppress(StoreError, *_NO_FILE):  # S3 takes keys that are no paths, such as ones with ".."
            check_key(key)
            if path.parent not in folders:
                path.parent.mkdir(parents=True, exist_ok=True)
                folders.add(path.parent)
            path.write_bytes(content.value)


def _announce(port: int) -> None:
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()


def run_server() -> None:
    """Run the server as a program."""
    os.umask(0o077)  # what it keeps may be secret
    options = msgspec.json.decode(sys.stdin.buffer.readline(), type=ServerOptions)
    serve(options, _announce)
    problem = ""
    if options.objects:
        try:
            keep(options.bucket, Path(options.objects))
        except OSError as error:
            problem = str(error)
    with suppress(BrokenPipeError):  # when the emulator was killed
        sys.stdout.write(problem)
        sys.stdout.flush()
    os._exit(1 if problem else 0)  # requests that hang must not keep it


if __name__ == "__main__":
    run_server()
