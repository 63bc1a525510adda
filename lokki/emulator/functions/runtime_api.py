"""Lambda's Runtime API on loopback, for one process.

The process asks for an event, and posts the response or an error.

https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html
"""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Protocol

_PREFIX = "/2018-06-01/runtime/"
_LONGEST_LINE = 65_536
_MOST_FIELDS = 100


@dataclass(frozen=True, slots=True)
class InvocationEvent:
    """One event for a function.

    ``deadline``: milliseconds since 1970.
    """

    request: str
    payload: bytes
    deadline: int
    function: str


class Host(Protocol):
    """Who has the events for a process, and takes its answers."""

    def is_own(self, peer: tuple[str, int], here: tuple[str, int]) -> bool:
        """Tell whether a connection is the process's own."""

    def take(self) -> InvocationEvent | None:
        """Wait for an event.

        Returns None when there will be none.
        """

    def answer(self, request: str, payload: bytes, *, failed: bool) -> None:
        """Take the response to an event, or the function's error."""

    def init_failed(self, payload: bytes) -> None:
        """Take the error that the function's start ended with."""


class RuntimeApi(ThreadingHTTPServer):
    """The server of one process.

    Each has a port of its own, since errors of the start do not say whose they are.
    """

    daemon_threads = True
    disable_nagle_algorithm = True

    def __init__(self, host: Host) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.host = host

    @property
    def address(self) -> str:
        """Host and port, as AWS_LAMBDA_RUNTIME_API has them."""
        return f"127.0.0.1:{self.server_port}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore a process that went away in the middle of a request."""


class _Handler(BaseHTTPRequestHandler):
    server: RuntimeApi
    raw_requestline: bytes
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # one packet for each answer: 6 ms instead of 88 for each event

    def setup(self) -> None:
        """Take a connection, and look once at whose it is."""
        super().setup()
        self._own = self._host.is_own(self.client_address, self.connection.getsockname())

    def parse_request(self) -> bool:
        """Read a request's head, and refuse what is not the process's."""
        # Not by http.server, which reads heads as e-mails: that took a tenth of an emulation of short steps.
        words = self.raw_requestline.decode("latin-1").split()
        self.close_connection = True
        if len(words) != 3:
            return False
        self.command, self.path, self.request_version = words
        self._fields = self._read_fields()
        self.close_connection = self._fields.get("connection", "").lower() == "close"
        if not self._own:  # another user of this machine, or a page in a browser: an answer would be a result of a step
            self.close_connection = True
            self._answer(403)
        elif self._fields.get("expect", "").lower() == "100-continue":
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.wfile.flush()
        return self._own

    def _read_fields(self) -> dict[str, str]:
        """Read the fields of a request's head, by names in lower case."""
        fields: dict[str, str] = {}
        for _ in range(_MOST_FIELDS):
            line = self.rfile.readline(_LONGEST_LINE).decode("latin-1").rstrip("\r\n")
            if not line:
                break
            name, _, value = line.partition(":")
            fields[name.strip().lower()] = value.strip()
        return fields

    def do_GET(self) -> None:
        """Answer ``invocation/next``."""
        if self.path != f"{_PREFIX}invocation/next":
            self._answer(404)
            return
        event = self._host.take()
        if event is None:  # the process is being closed; it gets no answer, as on Lambda
            self.close_connection = True
            return
        headers = {
            "Lambda-Runtime-Aws-Request-Id": event.request,
            "Lambda-Runtime-Deadline-Ms": str(event.deadline),
            "Lambda-Runtime-Invoked-Function-Arn": event.function,
            "Content-Type": "application/json",
        }
        self._answer(200, headers, event.payload)

    def do_POST(self) -> None:
        """Answer what the process reports.

        That is ``init/error``, ``invocation/<id>/response`` and ``invocation/<id>/error``.
        """
        content = self._content()
        match self.path.removeprefix(_PREFIX).split("/"):
            case ["init", "error"]:
                self._host.init_failed(content)
            case ["invocation", request, "response"]:
                self._host.answer(request, content, failed=False)
            case ["invocation", request, "error"]:
                self._host.answer(request, content, failed=True)
            case _:
                self._answer(404)
                return
        self._answer(202)

    @property
    def _host(self) -> Host:
        return self.server.host

    def _content(self) -> bytes:
        if "chunked" not in self._fields.get("transfer-encoding", ""):
            return self.rfile.read(int(self._fields.get("content-length", 0)))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _answer(self, status: int, headers: dict[str, str] | None = None, content: bytes = b"") -> None:
        fields = {**(headers or {}), "Content-Length": str(len(content))}
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        self.wfile.write(f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n{head}\r\n".encode("latin-1") + content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Log nothing."""
