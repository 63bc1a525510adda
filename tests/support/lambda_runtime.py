"""A Lambda function under AWS's own runtime client, awslambdaric, against a Runtime API on loopback.

https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Queue

_RESTORED = "/2018-06-01/runtime/restore/next"
_NEXT = "/2018-06-01/runtime/invocation/next"


@dataclass(frozen=True)
class Answer:
    """What a function posted: ``response``, ``error`` or ``init/error``; ``exit``: it ended instead."""

    kind: str
    content: object


@dataclass
class Runtime:
    """A running function."""

    folder: Path
    process: subprocess.Popen[str]
    events: Queue[bytes | None]
    answers: Queue[Answer]

    def invoke(self, event: object) -> Answer:
        """Send an event and wait for what comes of it."""
        self.events.put(json.dumps(event).encode())
        deadline = time.monotonic() + 30
        while self.answers.empty() and self.process.poll() is None:
            assert time.monotonic() < deadline, "the function does not answer"
            time.sleep(0.002)
        return Answer("exit", self.process.wait()) if self.answers.empty() else self.answers.get()


@contextmanager
def lambda_runtime(
    folder: Path, handler: str, environ: Mapping[str, str], restored: Callable[[], None] | None = None
) -> Iterator[Runtime]:
    """Run ``module.function`` of a folder in a clean environment; its log is in ``folder/log`` afterwards.

    ``restored``: called when the function is ready for a snapshot, as that of which it goes on.
    """
    answers: Queue[Answer] = Queue()
    events: Queue[bytes | None] = Queue()

    class Api(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        wbufsize = -1

        def do_GET(self) -> None:
            if self.path == _RESTORED and restored is not None:
                restored()
                self._answer(200, b"", {})
                return
            assert self.path == _NEXT
            event = events.get()
            if event is None:
                self.close_connection = True
                return
            self._answer(
                200,
                event,
                {
                    "Lambda-Runtime-Aws-Request-Id": "request-1",
                    "Lambda-Runtime-Deadline-Ms": str(int(time.time() * 1000) + 60_000),
                    "Lambda-Runtime-Invoked-Function-Arn": "arn:aws:lambda:us-east-1:123456789012:function:birds",
                    "Content-Type": "application/json",
                },
            )

        def do_POST(self) -> None:
            content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            answers.put(Answer(self.path.removeprefix("/2018-06-01/runtime/invocation/request-1/"), content))
            self._answer(202, b"{}", {})

        def _answer(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    variables = {
        "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{server.server_port}",
        "AWS_EXECUTION_ENV": "AWS_Lambda_python3.13",
        "AWS_LAMBDA_FUNCTION_NAME": "birds",
        "LAMBDA_TASK_ROOT": str(folder),
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(Path(__file__).parent.parent.parent),
        **environ,
    }
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "awslambdaric", handler],
            cwd=folder,
            env=variables,
            stdout=log,
            stderr=log,
            text=True,
        )
        try:
            yield Runtime(folder, process, events, answers)
        finally:
            process.kill()
            process.wait()
            events.put(None)
            server.shutdown()
            thread.join()
            server.server_close()
