"""An AWS account on loopback, in which what lokki builds is deployed through boto3 and really runs.

moto keeps buckets, code, roles, logs, schedules and repositories. CloudFormation and Step Functions are done here since
moto's do not do what AWS documents; lokki's emulator runs executions and functions. Answers of what is done here are
checked against botocore's model of the API.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import boto3
import pytest
from botocore.config import Config
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

from lokki.store.s3 import S3Store
from lokki.values import Stored
from support.loopback_functions import LoopbackFunctions
from support.loopback_protocol import Answer, Api, ApiError, Call, error_answer, protocol_of, read_call
from support.loopback_resources import Resources
from support.loopback_stacks import Stacks
from support.loopback_states import States

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

_buckets = count(1)

USER = "user"
"""The access key of who uses lokki; what the account does itself has others, and is not among `calls`."""


@dataclass
class Refusal:
    """An error that the next so many calls of an action are answered with."""

    action: str
    error: ApiError
    times: int


class _Handler(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def log(self, type: str, message: str, *args: object) -> None:  # noqa: A002
        """Log nothing."""


class LoopbackAws:
    """A running account; a context manager that ends all of it. ``region``: us-east-1."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: list[tuple[str, str]] = []
        self._refusals: list[Refusal] = []
        self._before: list[tuple[str, Callable[[], object]]] = []
        self._problems: list[str] = []
        self._clients: dict[tuple[str, str], Any] = {}
        self._making = threading.Lock()
        self._moto = DomainDispatcherApplication(create_backend_app)

    def __enter__(self) -> Self:
        self._scratch = Path(tempfile.mkdtemp(prefix="lokki-loopback-"))
        self._server = make_server("127.0.0.1", 0, self._app, threaded=True, request_handler=_Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        self._functions = LoopbackFunctions(self._scratch, self._environ("function"), 4)
        self._states = States(self._functions, self)
        resources = Resources(self._internal, self._functions, self._states)
        self._stacks = Stacks(self._internal, resources)
        self._apis: dict[str, Api] = {api.service: api for api in (self._states.api, self._stacks.api)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stacks.wait()
        self._states.close()
        self._functions.close()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        shutil.rmtree(self._scratch, ignore_errors=True)
        assert not self._problems, "\n".join(self._problems)

    @property
    def environ(self) -> dict[str, str]:
        """What a process needs in its environment to use the account."""
        return self._environ(USER)

    def client(self, service: str, actor: str = USER) -> Any:
        """Return a client of boto3 for a service."""
        with self._making:
            known = self._clients.get((service, actor))
            if known is None:
                keys = {"aws_access_key_id": actor, "aws_secret_access_key": "loopback"}
                config = Config(retries={"total_max_attempts": 1})
                session = boto3.session.Session(**keys, region_name="us-east-1")
                known = session.client(service, endpoint_url=self.endpoint, config=config)
                self._clients[service, actor] = known
            return known

    def new_bucket(self, region: str = "us-east-1") -> str:
        """Make a bucket and return its name."""
        name = f"loopback-{next(_buckets)}"
        where = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
        self._internal("s3").create_bucket(Bucket=name, **where)
        return name

    def calls(self) -> list[tuple[str, str]]:
        """Return service and action of all calls of the user until now."""
        with self._lock:
            return list(self._calls)

    def refuse(self, action: str, code: str, message: str, *, status: int = 400, times: int = 1) -> None:
        """Answer the user's next calls of an action with an error of AWS's."""
        with self._lock:
            self._refusals.append(Refusal(action, ApiError(code, message, status), times))

    def before(self, action: str, do: Callable[[], object]) -> None:
        """Do something right before the user's next call of an action is answered."""
        with self._lock:
            self._before.append((action, do))

    def wait(self) -> None:
        """Wait until no stack changes, no execution runs and all logs are there."""
        self._stacks.wait()
        self._states.wait()

    # objects, as the state machines read and write them

    def read(self, bucket: str, key: str) -> bytes:
        """Return an object. Raises StoreError."""
        return bytes(self._store(bucket).read(Stored(f"s3://{bucket}/{key}")))

    def write(self, bucket: str, key: str, content: bytes) -> None:
        """Write an object. Raises StoreError."""
        self._store(bucket).write(key, [content])

    def _store(self, bucket: str) -> S3Store:
        return S3Store(bucket, "", environ=self._environ("states"))

    def _internal(self, service: str) -> Any:
        return self.client(service, "account")

    def _environ(self, actor: str) -> dict[str, str]:
        return {
            "AWS_ACCESS_KEY_ID": actor,
            "AWS_SECRET_ACCESS_KEY": "loopback",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.endpoint,
        }

    # answering

    def _app(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = BytesIO(body)
        call = read_call(environ, body)
        answer = self._own_answer(call, environ, body) if call is not None else None
        if answer is None:
            return self._moto(environ, start_response)
        headers = [*answer.headers.items(), ("Content-Length", str(len(answer.body)))]
        start_response(f"{answer.status} {'OK' if answer.status == 200 else 'Error'}", headers)
        return [answer.body if environ["REQUEST_METHOD"] != "HEAD" else b""]

    def _own_answer(self, call: Call, environ: WSGIEnvironment, body: bytes) -> Answer | None:
        """Answer a call that moto is not to answer."""
        if call.actor == USER:
            refused = self._noted(call)
            if refused is not None:
                return error_answer(protocol_of(call.service), refused)
        api = self._apis.get(call.service)
        if api is None:
            return None
        try:
            return api.answer(call.action, environ, body)
        except Exception:
            problem = traceback.format_exc()
            with self._lock:
                self._problems.append(problem)
            return error_answer(protocol_of(call.service), ApiError("InternalFailure", problem, 400))

    def _noted(self, call: Call) -> ApiError | None:
        with self._lock:
            self._calls.append((call.service, call.action))
            doing = [do for action, do in self._before if action == call.action]
            self._before = [each for each in self._before if each[0] != call.action]
            refusal = next((each for each in self._refusals if each.action == call.action and each.times), None)
            if refusal is not None:
                refusal.times -= 1
        for do in doing:
            do()
        return refusal.error if refusal is not None else None


@pytest.fixture(scope="session")
def account() -> Iterator[LoopbackAws]:
    with LoopbackAws() as running:
        yield running
