"""S3 for one emulation: a server on loopback in a process of its own, whose state nobody else shares."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from lokki.base.values import Stored
from lokki.emulator.iam.checking import Missing, Roles
from lokki.emulator.s3.access import LOG_PATH, MISSING_PATH, TOKEN_HEADER, ServerOptions
from lokki.emulator.s3.faults import S3Faults
from lokki.emulator.scratch import Secret
from lokki.emulator.states.services import REGION
from lokki.errors import EmulatorError, StoreError
from lokki.store.s3 import S3Store

STATES = "states"
"""The access key with which the state machine itself speaks to S3, so that its requests can be told from functions'."""


@dataclass(frozen=True, slots=True)
class LoggedRequest:
    """A request that S3 got.

    * ``actor``: the access key of who sent it.
    * ``key``: that of the object, without the bucket.
    """

    actor: str
    method: str
    key: str
    refused: bool


class S3Server:
    """A server with one bucket, which runs until the context ends.

    It answers only requests that carry the run's secret as their session token. It ends by itself too when this process
    does, however that happens. At its end it writes all objects to the folder ``objects``, by key.
    """

    def __init__(
        self,
        bucket: str,
        faults: S3Faults | None = None,
        objects: Path | None = None,
        secret: Secret | None = None,
        roles: Roles | None = None,
    ) -> None:
        self.bucket = bucket
        self._secret = secret or Secret.new()
        self._objects = objects
        self._faults = faults or S3Faults()
        self._roles = roles or Roles()
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0
        self._store: S3Store | None = None

    def __enter__(self) -> Self:
        objects = str(self._objects.absolute()) if self._objects is not None else ""
        # Its own group, so that Ctrl-C ends it after those who still use it.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "lokki.emulator.s3.server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            # The path by which this process finds lokki and moto; -P keeps the current folder from standing before it.
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(_is_for_libraries, sys.path))},
        )
        # Not by its command line, which everybody on this machine can read.
        options = ServerOptions(self.bucket, self._secret.token, self._faults, objects, self._roles)
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(options) + b"\n")
        self._process.stdin.flush()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        problem, _ = self._process.communicate()  # closes its standard input, at which it ends, and waits
        if self._process.returncode and error is None:
            reason = problem.decode(errors="replace").strip() or f"the server ended with {self._process.returncode}"
            raise EmulatorError(f"what was in S3 cannot be saved: {reason}.")

    @property
    def endpoint(self) -> str:
        """The server's URL, once it has started."""
        if not self._port:  # waited for only when it is needed: moto takes a second to start
            assert self._process is not None
            assert self._process.stdout is not None
            line = self._process.stdout.readline().strip()
            if not line.isdigit():
                if (code := self._process.wait()) < 0:
                    raise EmulatorError(f"the emulated S3 was ended by signal {-code} as it started. Start a new run.")
                raise EmulatorError("moto's server did not start: install lokki with its extra, lokki[emulator].")
            self._port = int(line)
        return f"http://127.0.0.1:{self._port}"

    def variables(self, actor: str) -> dict[str, str]:
        """Return the variables with which a program reaches this S3."""
        return {
            "AWS_ACCESS_KEY_ID": actor,
            "AWS_SECRET_ACCESS_KEY": "emulated",
            "AWS_SESSION_TOKEN": self._secret.token,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ENDPOINT_URL": self.endpoint,
        }

    def set_roles(self, roles: Roles) -> None:
        """Let other roles hold from now on.

        Raises EmulatorError if the server has ended.
        """
        _ = self.endpoint  # its first line is its port
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(msgspec.json.encode(roles) + b"\n")
            process.stdin.flush()
        except BrokenPipeError:
            raise EmulatorError("the emulated S3 has ended, so the run cannot go on. Start a new run.") from None
        process.stdout.readline()

    def read(self, bucket: str, key: str) -> bytes:
        """Return an object.

        Raises StoreError, and EmulatorError if the server has ended.
        """
        with self._alive():
            return bytes(self.store(bucket).read(Stored(f"s3://{bucket}/{key}")))

    def write(self, bucket: str, key: str, content: bytes) -> None:
        """Write an object.

        Raises StoreError, and EmulatorError if the server has ended.
        """
        with self._alive():
            self.store(bucket).write(key, [content])

    @contextmanager
    def _alive(self) -> Iterator[None]:
        """Tell the end of the server from an error that S3 answered."""
        try:
            yield
        except StoreError:
            if self._process is None or self._process.poll() is None:
                raise
            raise EmulatorError(
                f"the emulated S3 has ended with {self._process.returncode}, so the run cannot go on. Start a new run."
            ) from None

    def store(self, bucket: str) -> S3Store:
        """Return a store over a bucket, with the state machine's key."""
        if self._store is None or bucket != self.bucket:
            environ: Mapping[str, str] = self.variables(STATES)
            store = S3Store(bucket, "", environ=environ)
            if bucket != self.bucket:
                return store
            self._store = store
        return self._store

    def requests(self) -> list[LoggedRequest]:
        """Return all requests until now."""
        prefix = f"/{self.bucket}/"
        return [
            LoggedRequest(actor, method, path.removeprefix(prefix), status == 503)
            for actor, method, path, _, status in self.log()
        ]

    def missing_permissions(self) -> list[Missing]:
        """Return what functions asked for and their roles do not allow.

        Raises EmulatorError if the server has ended.
        """
        try:
            return msgspec.json.decode(self._get(MISSING_PATH), type=list[Missing])
        except OSError:
            raise EmulatorError("the emulated S3 has ended, so the run cannot go on. Start a new run.") from None

    def log(self) -> list[tuple[str, str, str, str, int]]:
        """Return all requests until now.

        They are access key, method, path, query and status of each.
        """
        return [tuple(fields) for fields in json.loads(self._get(LOG_PATH))]

    def _get(self, path: str) -> bytes:
        request = urllib.request.Request(f"{self.endpoint}{path}", headers={TOKEN_HEADER: self._secret.token})
        with urllib.request.urlopen(request) as answer:
            return bytes(answer.read())


def _is_for_libraries(entry: str) -> bool:
    """Tell whether the server may search a folder for modules.

    It may not where files hide modules of Python's. A ``queue.py`` beside a flow is for that alone. Libraries may
    have modules of such names, of later Pythons.
    """
    if "site-packages" in Path(entry).parts or not Path(entry or ".").is_dir():
        return True
    standard = Path(os.__file__).parent
    names = {file.stem for file in Path(entry or ".").iterdir() if file.suffix == ".py" or file.is_dir()}
    return Path(entry).is_relative_to(standard) or names.isdisjoint(sys.stdlib_module_names - {"test"})
