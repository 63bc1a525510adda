"""Lambda's Runtime API on loopback, for one function: as little of it as shows that a package runs there.

https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

BARE = """
import sys
task, runtime = sys.argv[1:3]
sys.path[:] = [task, *sys.path, runtime]
sys.argv = ["awslambdaric", "handler.lambda_handler"]
import runpy
runpy.run_module("awslambdaric", run_name="__main__", alter_sys=True)
"""
"""Run by a Python without site-packages: all that the function can import is its package, and Lambda's runtime."""


@dataclass
class _Server(ThreadingHTTPServer):
    events: queue.Queue[object] = field(default_factory=queue.Queue)
    replies: queue.Queue[tuple[str, object]] = field(default_factory=queue.Queue)
    daemon_threads = True

    def __post_init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def do_GET(self) -> None:
        event = json.dumps(self.server.events.get()).encode()
        self.send_response(200)
        self.send_header("Lambda-Runtime-Aws-Request-Id", "11111111-2222-3333-4444-555555555555")
        self.send_header("Lambda-Runtime-Deadline-Ms", "4102444800000")
        self.send_header("Lambda-Runtime-Invoked-Function-Arn", "arn:aws:lambda:us-east-1:123456789012:function:f")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(event)))
        self.end_headers()
        self.wfile.write(event)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.replies.put((self.path.rpartition("/")[2], json.loads(body)))
        self.send_response(202)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""


@dataclass(frozen=True)
class Function:
    """A function that has been started."""

    server: _Server
    process: subprocess.Popen[bytes]
    log: Path

    def invoke(self, event: object) -> object:
        """Return what the function answers; an AssertionError has what it said instead."""
        self.server.events.put(event)
        for _ in range(600):
            try:
                kind, reply = self.server.replies.get(timeout=0.1)
            except queue.Empty:
                assert self.process.poll() is None, self.log.read_text()
                continue
            assert kind == "response", (kind, reply, self.log.read_text())
            return reply
        raise AssertionError(f"no answer in 60 s: {self.log.read_text()}")


@contextmanager
def started(
    command: Callable[[dict[str, str]], Sequence[str]], environ: Mapping[str, str], folder: Path
) -> Iterator[Function]:
    """Start a program that asks for events, and end it; ``folder``: for its log.

    ``command`` gets the variable that says where to ask, which is in the program's environment, too.
    """
    server = _Server()
    api = {"AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{server.server_port}"}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    log = folder / "function.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command(api),
            env={**environ, **api},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield Function(server, process, log)
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # its session: what a container runs, too
        process.wait()
        server.shutdown()
        server.server_close()
