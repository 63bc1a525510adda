"""An AWS account on loopback in which what lokki builds is really deployed and really runs.

Functions, roles, log groups, schedules and S3 are moto's; CloudFormation and Step Functions are done here.
"""

from __future__ import annotations

import io
import logging
import shutil
import socket
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Self

import boto3
import pytest
from botocore.config import Config
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from moto.s3.models import s3_backends
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from aws.loopback_event_resources import Alarm, Connection, Queue, QueuePolicy, Rule, Topic
from aws.loopback_functions import LoopbackFunctions
from aws.loopback_integrations import Integrations
from aws.loopback_logs import filter_log_events
from aws.loopback_protocol import Answer, Api, ApiError, Call, Fields, error_answer, protocol_of, read_call
from aws.loopback_resources import Clients, Function, FunctionVersion, LogGroup, ManagedPolicy, Resource, Role
from aws.loopback_runs import Runs
from aws.loopback_stacks import CloudFormation
from aws.loopback_state_resources import Schedule, StateMachine, StateMachineAlias, StateMachineVersion
from aws.loopback_states import StepFunctions
from lokki.emulator.states.services import ACCOUNT, REGION

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

CALLER = "test"
"""The access key of whoever uses the account from outside."""

_INSIDE = "cloudformation"
"""The access key with which stacks make their resources."""

_OWN = (_INSIDE, "function", "states")
"""The access keys of the account's own parts."""

_SHARED = ("iam", "lambda", "logs")
"""Services of which moto does what is not done here."""

_REASONS = {200: "OK", 400: "Bad Request", 403: "Forbidden", 404: "Not Found", 503: "Service Unavailable"}
_buckets = count(1)


@dataclass
class _Refusal:
    action: str
    error: ApiError
    times: int


class LoopbackAws:
    """The account; a context manager. After its end no process, thread or folder of it is left.

    ``workers``: child executions of a map, and function processes, at one time; ``shared``: folders that functions see,
    for steps that tests tell by a file what to do.
    """

    def __init__(self, workers: int = 4, shared: Sequence[Path] = ()) -> None:
        self.functions_at_once = 1_000
        self.code_size = 0
        self.denied: set[str] = set()
        self._workers = workers
        self._shared = shared
        self._lock = threading.Lock()
        self._calls: list[Call] = []
        self._refusals: list[_Refusal] = []
        self._before: dict[str, Callable[[], object]] = {}
        self._problems: list[str] = []
        self._clients: dict[tuple[str, str], Any] = {}
        self._ended = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as ended:
            scratch = Path(tempfile.mkdtemp(prefix="lokki-aws-"))
            ended.callback(shutil.rmtree, scratch, ignore_errors=True)
            logging.getLogger("werkzeug").setLevel(logging.ERROR)
            self._moto: WSGIApplication = DomainDispatcherApplication(create_backend_app)
            server = make_server("127.0.0.1", 0, self._answer, threaded=True, request_handler=_Handler)
            self.endpoint = f"http://127.0.0.1:{server.server_port}"
            serving = threading.Thread(target=server.serve_forever, args=(0.05,), name="loopback-aws")
            serving.start()
            ended.callback(_Handler.end_all, server)
            ended.callback(serving.join)
            ended.callback(server.server_close)
            ended.callback(server.shutdown)
            ended.callback(self._close_clients)
            self._functions = LoopbackFunctions(scratch, self._variables("function"), self._workers * 2, self._shared)
            ended.callback(self._functions.close)
            self.integrations = Integrations(lambda service: self._client(service, "states"))
            self._runs = Runs(self._functions, lambda: self._variables("states"), self._workers, self.integrations)
            ended.callback(self._runs.close)
            self._states = StepFunctions(self._runs)
            inside: Callable[[str], Any] = lambda service: self._client(service, _INSIDE)  # noqa: E731
            self._stacks = CloudFormation(inside, _resource_types(inside, self._functions))
            ended.callback(self._stacks.wait)
            self._apis = {
                "stepfunctions": Api("stepfunctions", self._states.operations),
                "cloudformation": Api("cloudformation", self._stacks.operations),
                "lambda": Api("lambda", {"GetAccountSettings": self._account_settings}),
                "iam": Api("iam", {"SimulatePrincipalPolicy": self._simulate}),
                "logs": Api("logs", {"FilterLogEvents": filter_log_events}),
            }
            self._ended = ended.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.close()
        if error is None:
            self.check()

    @property
    def environ(self) -> dict[str, str]:
        """What a process needs in its environment to use the account."""
        return self._variables(CALLER)

    def client(self, service: str) -> Any:
        """Return boto3's client of a service, the same each time."""
        return self._client(service, CALLER)

    def new_bucket(self, region: str = REGION) -> str:
        """Make a bucket and return its name."""
        name = f"loopback-{next(_buckets)}"
        where = {} if region == REGION else {"CreateBucketConfiguration": {"LocationConstraint": region}}
        self._client("s3", _INSIDE).create_bucket(Bucket=name, **where)
        return name

    def calls(self, actor: str = CALLER) -> list[tuple[str, str]]:
        """Return (service, action) of all requests so far that came from outside, with this access key."""
        with self._lock:
            return [(call.service, call.action) for call in self._calls if call.actor == actor]

    def refuse(self, action: str, code: str, message: str, *, status: int = 400, times: int = 1) -> None:
        """Answer the next ``times`` calls of an action with an error; stacks and functions are refused too."""
        with self._lock:
            self._refusals.append(_Refusal(action, ApiError(code, message, status), times))

    def before(self, action: str, do: Callable[[], object]) -> None:
        """Do something right before the next call of an action from outside is answered."""
        with self._lock:
            self._before[action] = do

    def _account_settings(self, request: Fields) -> Fields:
        limit = self.functions_at_once
        return {
            "AccountLimit": {
                "ConcurrentExecutions": limit,
                "UnreservedConcurrentExecutions": limit,
                "TotalCodeSize": 80_530_636_800,
            },
            "AccountUsage": {"TotalCodeSize": self.code_size, "FunctionCount": 1},
        }

    def _simulate(self, request: Fields) -> Fields:
        """Tell what whoever deploys may do: all but ``denied``."""
        results = [
            {
                "EvalActionName": action,
                "EvalResourceName": request["ResourceArns"][0],
                "EvalDecision": "implicitDeny" if action in self.denied else "allowed",
            }
            for action in request["ActionNames"]
        ]
        return {"EvaluationResults": results, "IsTruncated": False}

    def wait(self) -> None:
        """Wait until no execution runs and no stack changes. Raises AssertionError for an error of this account."""
        self._stacks.wait()
        self._runs.wait()
        self.check()

    def check(self) -> None:
        """Raise AssertionError if this account itself failed, which is no error of AWS's."""
        with self._lock:
            problems, self._problems = self._problems, []
        assert not problems, "\n".join(problems)

    def _variables(self, actor: str) -> dict[str, str]:
        return {
            "AWS_ACCESS_KEY_ID": actor,
            "AWS_SECRET_ACCESS_KEY": "loopback",
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ENDPOINT_URL": self.endpoint,
        }

    def _client(self, service: str, actor: str) -> Any:
        with self._lock:
            if (service, actor) not in self._clients:
                session = boto3.Session(aws_access_key_id=actor, aws_secret_access_key="loopback", region_name=REGION)
                # As it is deployed: no retries that hide a refusal.
                config = Config(retries={"max_attempts": 0}, max_pool_connections=20)
                make: Callable[..., Any] = session.client  # typed for services that are written out
                self._clients[service, actor] = make(service, endpoint_url=self.endpoint, config=config)
            return self._clients[service, actor]

    def _close_clients(self) -> None:
        for client in self._clients.values():
            client.close()

    def _answer(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request: as it is told to, here, or by moto."""
        aws_chunked = "HTTP_TRANSFER_ENCODING" in environ
        body = environ["wsgi.input"].read() if aws_chunked else _body(environ)
        environ["wsgi.input"] = io.BytesIO(body)
        if aws_chunked:
            environ["CONTENT_LENGTH"] = str(len(body))
        call = read_call(environ, body)
        if call is None:
            return self._moto(environ, start_response)
        with self._lock:
            self._calls.append(call)
            refused = next((each for each in self._refusals if each.action == call.action), None)
            if refused is not None:
                refused.times -= 1
                if refused.times <= 0:
                    self._refusals.remove(refused)
            doing = self._before.pop(call.action, None) if call.actor not in _OWN else None
        if doing is not None:
            doing()
        if refused is not None:
            return _send(error_answer(protocol_of(call.service), refused.error), start_response)
        if call.service == "logs":
            self._functions.logs.settle()
        if call.action == "GetBucketNotificationConfiguration":
            return _send(_notifications(environ), start_response)
        api = self._apis.get(call.service)
        if api is None or (call.service in _SHARED and call.action not in api.operations):
            return self._moto(environ, start_response)
        try:
            answer = api.answer(call.action, environ, body)
        except Exception as error:
            with self._lock:
                self._problems.append("".join(traceback.format_exception(error)))
            answer = error_answer(protocol_of(call.service), ApiError("InternalFailure", repr(error), 500))
        return _send(answer, start_response)


class _Handler(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    connections: ClassVar[set[_Handler]] = set()

    def setup(self) -> None:
        """Begin with a connection."""
        super().setup()
        self.thread = threading.current_thread()
        self.connections.add(self)

    def make_environ(self) -> WSGIEnvironment:
        """Go on with a request. What boto3 waits for before it sends a body is in the buffer now."""
        self.wfile.flush()
        return super().make_environ()

    def finish(self) -> None:
        """End with a connection."""
        self.connections.discard(self)
        with suppress(OSError):
            super().finish()

    @classmethod
    def end_all(cls, server: BaseWSGIServer) -> None:
        """End the connections of a server that clients keep."""
        for each in [each for each in cls.connections if each.server is server]:
            with suppress(OSError):
                each.connection.shutdown(socket.SHUT_RDWR)
            each.thread.join(5)

    def log(self, type: str, message: str, *args: object) -> None:  # noqa: A002
        """Log nothing."""


def _resource_types(clients: Clients, functions: LoopbackFunctions) -> dict[str, Resource]:
    """Return all types that stacks may have."""
    return {
        "AWS::CloudWatch::Alarm": Alarm(clients),
        "AWS::Events::Connection": Connection(clients),
        "AWS::Events::Rule": Rule(clients),
        "AWS::IAM::ManagedPolicy": ManagedPolicy(clients),
        "AWS::IAM::Role": Role(clients),
        "AWS::Lambda::Function": Function(clients, functions),
        "AWS::Lambda::Version": FunctionVersion(clients, functions),
        "AWS::Logs::LogGroup": LogGroup(clients),
        "AWS::SNS::Topic": Topic(clients),
        "AWS::SQS::Queue": Queue(clients),
        "AWS::SQS::QueuePolicy": QueuePolicy(clients),
        "AWS::Scheduler::Schedule": Schedule(clients),
        "AWS::StepFunctions::StateMachine": StateMachine(clients),
        "AWS::StepFunctions::StateMachineAlias": StateMachineAlias(clients),
        "AWS::StepFunctions::StateMachineVersion": StateMachineVersion(clients),
    }


def _notifications(environ: WSGIEnvironment) -> Answer:
    """Tell whether a bucket sends its events to EventBridge, which moto knows and does not tell."""
    backend: Any = s3_backends[ACCOUNT]["aws"]
    bucket = backend.get_bucket(environ["PATH_INFO"].strip("/"))
    sends = bucket.notification_configuration is not None and bucket.notification_configuration.event_bridge is not None
    inner = "<EventBridgeConfiguration/>" if sends else ""
    text = f"<NotificationConfiguration>{inner}</NotificationConfiguration>"
    return Answer(200, text.encode(), {"Content-Type": "application/xml"})


def _body(environ: WSGIEnvironment) -> bytes:
    found: bytes = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    return found


def _send(answer: Answer, start_response: StartResponse) -> list[bytes]:
    reason = _REASONS.get(answer.status, "Error")
    headers = {**answer.headers, "Content-Length": str(len(answer.body))}
    start_response(f"{answer.status} {reason}", [(name, str(value)) for name, value in headers.items()])
    return [answer.body]


@pytest.fixture(scope="session")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackAws]:
    with LoopbackAws(shared=[tmp_path_factory.getbasetemp()]) as made:
        yield made
