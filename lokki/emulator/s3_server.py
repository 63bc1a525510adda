"""A process with moto's S3 on loopback: one bucket, a log of requests, and faults where they are asked for.

Run as a module with the bucket's name, a JSON object of faults and two folders: at its end it writes all objects to the
first, and removes the second. It prints its port and ends with its standard input.
``GET /lokki-emulator/requests`` returns the log.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from moto.s3.models import s3_backends
from werkzeug.serving import WSGIRequestHandler, make_server

from lokki.emulator.faults import S3Faults, chance
from lokki.errors import StoreError
from lokki.store.keys import check_key

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

LOG_PATH = "/lokki-emulator/requests"
_CREDENTIAL = re.compile(r"Credential=([^/,]+)/")
_ACCOUNT = "123456789012"
_NO_FILE = (FileExistsError, NotADirectoryError, IsADirectoryError)
"""What a user's key leads to that is the folder of another one, or the other way round."""

_SLOW_DOWN = b"""<?xml version="1.0" encoding="UTF-8"?>
<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"""


class Counted:
    """The application, with the requests noted that pass through it."""

    def __init__(self, app: WSGIApplication, faults: S3Faults) -> None:
        self._app = app
        self._faults = faults
        self._lock = threading.Lock()
        self._requests: list[tuple[str, str, str, str, int]] = []
        self._seen: Counter[tuple[str, str, str]] = Counter()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request."""
        method, path, query = environ["REQUEST_METHOD"], environ.get("PATH_INFO", ""), environ.get("QUERY_STRING", "")
        if path == LOG_PATH:
            start_response("200 OK", [("Content-Type", "application/json")])
            with self._lock:
                return [json.dumps(self._requests).encode()]
        found = _CREDENTIAL.search(environ.get("HTTP_AUTHORIZATION", ""))
        actor = found[1] if found else ""
        with self._lock:
            times = self._seen[method, path, query]
            self._seen[method, path, query] += 1
        refused = chance(self._faults.seed, "refused", method, path, times) < self._faults.refused and times % 3 < 2
        with self._lock:
            self._requests.append((actor, method, path, query, 503 if refused else 200))
        if chance(self._faults.seed, "late", method, path, times) < self._faults.late:
            time.sleep(self._faults.late_seconds)
        if refused:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start_response("503 Slow Down", [("Content-Type", "application/xml"), ("Retry-After", "0")])
            return [_SLOW_DOWN]
        return self._app(environ, start_response)


class _Handler(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"  # connections that are kept: a new one for each request costs 4 ms
    disable_nagle_algorithm = True
    wbufsize = -1

    def log(self, type: str, message: str, *args: object) -> None:  # noqa: A002
        """Log nothing."""


def serve(bucket: str, faults: Mapping[str, object], announce: Callable[[int], None]) -> None:
    """Serve until standard input ends."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    s3_backends[_ACCOUNT]["aws"].create_bucket(bucket, "us-east-1")
    app = Counted(DomainDispatcherApplication(create_backend_app), S3Faults(**faults))  # type: ignore[arg-type]
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=_Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    announce(server.server_port)
    sys.stdin.buffer.read()


def keep(bucket: str, folder: Path) -> None:
    """Write all objects below a folder, each to the file that its key names. Raises OSError.

    They are not forced to disk, which takes five times as long: 13 s instead of 2.6 s for 10,000 objects.
    """
    made: set[Path] = set()
    for key, found in s3_backends[_ACCOUNT]["aws"].buckets[bucket].keys.items():
        path = folder / key
        with suppress(StoreError, *_NO_FILE):
            check_key(key)
            if path.parent not in made:
                path.parent.mkdir(parents=True, exist_ok=True)
                made.add(path.parent)
            path.write_bytes(found.value)


def _announce(port: int) -> None:
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()


def main() -> None:
    """Run the server as a program."""
    bucket, faults, kept, scratch = sys.argv[1:]
    serve(bucket, json.loads(faults), _announce)
    failed = ""
    if kept:
        try:
            keep(bucket, Path(kept))
        except OSError as error:
            failed = str(error)
    if scratch:
        # When the emulator was killed, its workers end now too, and may write until they have.
        for _ in range(20):
            shutil.rmtree(scratch, ignore_errors=True)
            if not os.path.exists(scratch):  # noqa: PTH110
                break
            time.sleep(0.1)
    with suppress(BrokenPipeError):  # when the emulator was killed
        sys.stdout.write(failed)
        sys.stdout.flush()
    os._exit(1 if failed else 0)  # requests that hang must not keep it


if __name__ == "__main__":
    main()
