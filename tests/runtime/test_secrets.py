"""Secrets: read when a function starts, refreshed, and in no file, event, error or output."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import pytest
from aws.moto_server import Aws
from aws.policies import ACCOUNT, REGION, Call, Roles, allowing
from aws.role_keys import role_keys
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from support.command import Ran
from support.deployed_project import CACHE
from support.lambda_function import Context
from support.lambda_runtime import lambda_runtime

from lokki import FlowError, flow, step
from lokki.base.variables import SECRETS_VARIABLE
from lokki.builder.cloudformation import build_template
from lokki.builder.lambda_pkg import HANDLER_SOURCE
from lokki.builder.package_types import ZipCode
from lokki.config import LokkiConfig
from lokki.emulator.functions.process import FunctionSpec
from lokki.emulator.s3.client import S3Server
from lokki.emulator.secret_store import put_secrets
from lokki.errors import ConfigError
from lokki.runtime.aws_json import AwsServices, authorization
from lokki.runtime.handler import make_handler
from lokki.runtime.secret_values import SecretValues, fetch_secret
from lokki.store.container import RoleKeys

CANARY = "canary-5f3c-do-not-tell"
SOURCES = {"API_TOKEN": "prod/api-token", "DATABASE": "ssm:/prod/database"}


# --- in a function ---


def client(aws: Aws, service: str) -> Any:
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": REGION}
    return boto3.client(service, endpoint_url=aws.endpoint, **keys)  # type: ignore[call-overload]


@pytest.fixture
def stored(aws: Aws) -> Iterator[Aws]:
    client(aws, "secretsmanager").create_secret(Name="prod/api-token", SecretString="token 1")
    client(aws, "ssm").put_parameter(Name="/prod/database", Value="database 1", Type="SecureString")
    yield aws
    client(aws, "secretsmanager").delete_secret(SecretId="prod/api-token", ForceDeleteWithoutRecovery=True)
    client(aws, "ssm").delete_parameter(Name="/prod/database")


def test_values_of_both_services_are_read_into_the_environment_and_again_when_they_are_old(stored: Aws) -> None:
    environ = {**stored.environ, SECRETS_VARIABLE: json.dumps(SOURCES)}
    values = SecretValues(environ, seconds=0)
    assert values.refresh(force=True) == ""
    assert (environ["API_TOKEN"], environ["DATABASE"]) == ("token 1", "database 1")
    client(stored, "secretsmanager").put_secret_value(SecretId="prod/api-token", SecretString="token 2")
    assert values.refresh() == ""
    assert (environ["API_TOKEN"], environ["DATABASE"]) == ("token 2", "database 1")


def test_values_that_are_not_old_are_not_read_again_unless_that_is_forced(stored: Aws) -> None:
    environ = {**stored.environ, SECRETS_VARIABLE: json.dumps(SOURCES)}
    values = SecretValues(environ)
    values.refresh(force=True)
    client(stored, "ssm").put_parameter(Name="/prod/database", Value="database 2", Overwrite=True)
    assert (values.refresh(), environ["DATABASE"]) == ("", "database 1")
    assert (values.refresh(force=True), environ["DATABASE"]) == ("", "database 2")


def test_values_of_before_a_refresh_are_known_and_hidden_too(stored: Aws) -> None:
    environ = {**stored.environ, SECRETS_VARIABLE: json.dumps({"API_TOKEN": "prod/api-token"})}
    values = SecretValues(environ, seconds=0)
    values.refresh(force=True)
    imported = environ.pop("API_TOKEN")  # as a module may do while it is imported
    client(stored, "secretsmanager").put_secret_value(SecretId="prod/api-token", SecretString="token 2")
    values.refresh()
    assert sorted(values.known) == [imported, "token 2"] == ["token 1", "token 2"]


@dataclass(frozen=True)
class Known:
    known: tuple[str, ...] = (CANARY,)

    def refresh(self, *, force: bool = False) -> str:
        return ""


@step(secrets={"TOKEN": "prod/api-token"})
def leaking(lazy: bool) -> list[int]:
    if lazy:
        return leak()  # type: ignore[return-value]
    raise ValueError(f"no answer to {CANARY}")


def leak() -> Iterator[int]:
    yield 1
    raise ValueError(f"no answer to {CANARY}")


@pytest.mark.parametrize("lazy", [True, False])
def test_a_function_shows_no_secret_in_the_failure_of_a_step_or_of_its_generator(aws: Aws, lazy: bool) -> None:
    bucket = aws.new_bucket()
    environ = {**aws.environ, "LOKKI_ARTIFACT_BUCKET": bucket, "LOKKI_FLOW_NAME": "f"}
    argument = {"parameter": "lazy", "keyword": "lazy", "value": lazy}
    calls: Any = {"leaking": {"reads": None, "fans_out": True, "arguments": [argument]}}
    handler = make_handler(leaking, calls=calls, environ=environ, secrets=Known())
    with pytest.raises(Exception, match=r"no answer to \*\*\*") as error:
        handler({"run_id": "run-1", "call": "leaking", "params": {}}, Context())
    assert (type(error.value).__name__, CANARY in str(error.value)) == ("ValueError", False)


@pytest.mark.slow
def test_when_a_refresh_fails_the_step_goes_on_with_what_it_has(stored: Aws) -> None:
    environ = {**stored.environ, SECRETS_VARIABLE: json.dumps({"API_TOKEN": "prod/api-token"})}
    values = SecretValues(environ, seconds=0)
    values.refresh(force=True)
    environ["AWS_ENDPOINT_URL"] = "http://127.0.0.1:1"
    assert values.refresh().startswith("the secret prod/api-token of API_TOKEN cannot be read: ConnectionRefusedError")
    assert environ["API_TOKEN"] == "token 1"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("prod/other", "the secret prod/other of API_TOKEN cannot be read: ResourceNotFoundException: "),
        ("ssm:/prod/other", "the secret ssm:/prod/other of API_TOKEN cannot be read: ParameterNotFound"),
    ],
)
def test_a_secret_that_is_not_there_is_an_error_that_names_it(aws: Aws, source: str, message: str) -> None:
    environ = {**aws.environ, SECRETS_VARIABLE: json.dumps({"API_TOKEN": source})}
    with pytest.raises(ConfigError) as error:
        SecretValues(environ).refresh(force=True)
    assert str(error.value).startswith(message)


def test_secrets_come_over_plain_http_from_this_machine_only() -> None:
    environ = {SECRETS_VARIABLE: '{"A1": "a"}', "AWS_ENDPOINT_URL_SECRETS_MANAGER": "http://example.com"}
    with pytest.raises(ConfigError, match=r"http://example\.com cannot be used"):
        SecretValues(environ).refresh(force=True)


def test_requests_are_signed_as_botocore_signs_them() -> None:
    date = "20261128T040000Z"
    content = b'{"SecretId":"prod/api-token"}'
    headers = {
        "content-type": "application/x-amz-json-1.1",
        "host": "secretsmanager.eu-north-1.amazonaws.com",
        "x-amz-date": date,
        "x-amz-target": "secretsmanager.GetSecretValue",
        "x-amz-security-token": "session",
    }
    request = AWSRequest("POST", f"https://{headers['host']}/", dict(headers), content)
    request.context["timestamp"] = date
    signer = SigV4Auth(Credentials("AKID", "secret", "session"), "secretsmanager", "eu-north-1")
    signature = signer.signature(signer.string_to_sign(request, signer.canonical_request(request)), request)
    signed = authorization(headers, content, RoleKeys("AKID", "secret", "session"), "eu-north-1/secretsmanager")
    assert signed.rpartition("Signature=")[2] == signature
    assert "SignedHeaders=content-type;host;x-amz-date;x-amz-security-token;x-amz-target," in signed


SNAPPED = """
import os

from lokki import flow, step

AT_IMPORT = os.environ["API_TOKEN"]


@step(secrets={"API_TOKEN": "prod/api-token"})
def ask():
    return [AT_IMPORT, os.environ["API_TOKEN"]]


@flow
def asking():
    return ask()
"""


def test_after_a_restore_from_a_snapshot_values_are_read_again(stored: Aws, tmp_path: Path) -> None:
    place = {"module": "asking", "name": ""}
    packaged = {"flow": {**place, "attribute": "asking"}, "step": {**place, "attribute": "ask"}, "calls": {"ask": {}}}
    (tmp_path / "step.json").write_text(json.dumps(packaged))
    (tmp_path / "asking.py").write_text(SNAPPED)
    (tmp_path / "handler.py").write_text(HANDLER_SOURCE)

    def rotate() -> None:
        client(stored, "secretsmanager").put_secret_value(SecretId="prod/api-token", SecretString="token 2")

    with role_keys() as keys:
        around = {
            **keys.environ,
            "AWS_ENDPOINT_URL": stored.endpoint,
            "AWS_LAMBDA_INITIALIZATION_TYPE": "snap-start",
            "LOKKI_ARTIFACT_BUCKET": stored.new_bucket(),
            "LOKKI_FLOW_NAME": "asking",
            SECRETS_VARIABLE: json.dumps({"API_TOKEN": "prod/api-token"}),
        }
        with lambda_runtime(tmp_path, "handler.lambda_handler", around, rotate) as running:
            answer = running.invoke({"run_id": "r", "call": "ask", "params": {}})
    log = (tmp_path / "log").read_text()
    assert (answer.kind, answer.content) == ("response", {"result": ["token 1", "token 2"]}), (answer, log)
    assert "token " not in log


# --- requests ---


@dataclass
class CountingService:
    """Secrets Manager and SSM on loopback, which have each secret that they are asked for; counts what comes in."""

    endpoint: str
    connections: int = 0
    fetched: list[str] = field(default_factory=list)
    hangs_up: bool = False
    """Whether the connection is closed after each answer, unsaid."""

    @property
    def environ(self) -> dict[str, str]:
        keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": REGION}
        return {"AWS_ENDPOINT_URL": self.endpoint, **keys}

    def handler(service) -> type[BaseHTTPRequestHandler]:  # noqa: N805 - the handler has a self of its own
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                service.connections += 1

            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                name = asked.get("SecretId") or asked["Name"]
                service.fetched.append(name)
                value = f"value of {name}"
                answer = json.dumps({"SecretString": value, "Parameter": {"Value": value}}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)
                self.close_connection = service.hangs_up

            def log_message(self, *parts: object) -> None:
                pass

        return Handler


@pytest.fixture
def service() -> Iterator[CountingService]:
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        service = CountingService(f"http://127.0.0.1:{server.server_port}")
        server.RequestHandlerClass = service.handler()
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield service
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("hangs_up", [False, True])
def test_a_function_reads_its_secrets_over_one_connection_if_that_is_kept(
    service: CountingService, hangs_up: bool
) -> None:
    service.hangs_up = hangs_up
    sources = {"A": "prod/a", "B": "ssm:/prod/b", "C": "prod/c"}
    environ = {**service.environ, SECRETS_VARIABLE: json.dumps(sources)}
    values = SecretValues(environ, seconds=0)
    for _ in range(2):
        assert values.refresh() == ""
    assert [environ[name] for name in "ABC"] == ["value of prod/a", "value of /prod/b", "value of prod/c"]
    assert service.fetched == ["prod/a", "/prod/b", "prod/c"] * 2
    assert service.connections == (6 if hangs_up else 2)  # one for each time, as a frozen function may outlive it


@pytest.mark.slow
def test_of_an_emulation_each_secret_is_fetched_once_however_many_functions_have_it(
    service: CountingService, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in {**service.environ, "AWS_EC2_METADATA_DISABLED": "true"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LOCAL", "mine")
    functions = [
        FunctionSpec(name, tmp_path, "handler.f", 3, 128, {SECRETS_VARIABLE: json.dumps(sources)})
        for name, sources in {
            "one": {"TOKEN": "prod/a", "OTHER": "ssm:/prod/b"},
            "two": {"TOKEN": "prod/a", "LOCAL": "prod/local"},
            "three": {"TOKEN": "prod/c", "OTHER": "ssm:/prod/b"},
        }.items()
    ]
    with S3Server("artifacts") as server:
        put_secrets([*functions, replace(functions[0], name="none", environment={})], server)
        with AwsServices(server.variables("caller")) as emulated:
            stored = [fetch_secret(name, emulated) for name in ("prod/a", "ssm:/prod/b", "prod/local", "prod/c")]
    assert stored == ["value of prod/a", "value of /prod/b", "mine", "value of prod/c"]
    assert service.fetched == ["prod/a", "/prod/b", "prod/c"]
    assert service.connections == 2  # one of a client of each service


# --- in a template ---


@step(secrets=SOURCES | {"OTHER": f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:other-AbCdEf"})
def load() -> int:
    return 1


@flow
def lake():
    return load()


def test_a_template_has_the_names_and_a_role_for_exactly_these_secrets() -> None:
    template = build_template(
        lake(), LokkiConfig(artifact_bucket="b", lambda_env={"DATABASE": "x"}), {"load": ZipCode("k")}
    )
    variables = template["Resources"]["LoadFunction"]["Properties"]["Environment"]["Variables"]  # type: ignore[index, call-overload]
    assert json.loads(variables.pop(SECRETS_VARIABLE)) == load.options.secrets
    assert set(variables) == {"LOKKI_ARTIFACT_BUCKET", "LOKKI_FLOW_NAME", "LOKKI_LOG_LEVEL"}
    statements = Roles(template).statements("LoadFunctionRole")
    names = (
        "prod/api-token-AbCdEf",
        "prod/api-token-2-AbCdEf",
        "prod/api-tokens-AbCdE",
        "other-AbCdEf",
        "other-AbCdEg",
    )
    arns = {name: f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:{name}" for name in names}
    parameters = {
        name: f"arn:aws:ssm:{REGION}:{ACCOUNT}:parameter/{name}" for name in ("prod/database", "prod/database2")
    }
    calls = {
        **{name: Call("r", "secretsmanager:GetSecretValue", arn) for name, arn in arns.items()},
        **{name: Call("r", "ssm:GetParameter", arn) for name, arn in parameters.items()},
        "put": Call("r", "secretsmanager:PutSecretValue", arns["other-AbCdEf"]),
    }
    assert {name for name, call in calls.items() if allowing(statements, call)} == {
        "prod/api-token-AbCdEf", "other-AbCdEf", "prod/database",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("secrets", "message"),
    [
        ({"A": "x"}, "@step(secrets=…): 'A' cannot name a variable"),
        ({"AWS_REGION": "x"}, "@step(secrets=…): 'AWS_REGION' is set by AWS Lambda"),
        ({"TOKEN": "hunter 2!"}, "@step(secrets=…): TOKEN: give the name or the ARN of a secret in Secrets Manager"),
        ({"TOKEN": "ssm:"}, "@step(secrets=…): TOKEN: give the name"),
        ({"TOKEN": "arn:aws:s3:::lake"}, "@step(secrets=…): TOKEN: give the name"),
        ({"LEVEL": "x"}, "@step(env=…, secrets=…): both set LEVEL. Keep one."),
        (["TOKEN"], "@step(secrets=…): give a dict of variables and where their values are"),
    ],
)
def test_what_is_no_secret_is_refused_and_not_shown(secrets: Any, message: str) -> None:
    with pytest.raises(FlowError) as error:
        step(secrets=secrets, env={"LEVEL": "1"})
    assert str(error.value).startswith(message)
    assert "hunter" not in str(error.value)


# --- nowhere else ---

FLOW = """
import os

from lokki import flow, main, step

AT_IMPORT = os.environ.get("API_TOKEN", "")


@step(secrets={"API_TOKEN": "prod/api-token", "DATABASE": "ssm:/prod/database"})
def load(fail: bool) -> list[int]:
    assert "LOKKI_SECRETS" not in os.environ or AT_IMPORT
    if fail:
        token = os.environ["API_TOKEN"]
        raise ValueError(f"no answer to {token}")
    return [len(os.environ["API_TOKEN"]), len(os.environ["DATABASE"])]


@step(secrets={"DATABASE": "ssm:/prod/database"})
def count(number: int) -> int:
    return number + len(os.environ["DATABASE"])


@step
def total(numbers: list[int]) -> int:
    return sum(numbers)


@flow
def birds(fail: bool = False):
    return load(fail).map(count).agg(total)


if __name__ == "__main__":
    main(birds)
"""


USUAL = {"PATH": os.environ["PATH"], "UV": os.environ.get("UV", "uv"), "XDG_CACHE_HOME": CACHE}


def command(folder: Path, *arguments: str, **environ: str) -> Ran:
    own = {**USUAL, "HOME": str(folder), "AWS_EC2_METADATA_DISABLED": "true", **environ}
    program = [sys.executable, "flow.py", *arguments]
    done = subprocess.run(program, cwd=folder, env=own, capture_output=True, text=True, check=False)
    return Ran(done.returncode, done.stdout, done.stderr)


def places_of(text: str, folder: Path, ran: Ran) -> list[str]:
    files = [str(path) for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]
    return files + [name for name, output in (("stdout", ran.out), ("stderr", ran.err)) if text in output]


@pytest.mark.parametrize(
    "arguments",
    [
        ("run",),
        pytest.param(("run", "--executor", "processes"), marks=pytest.mark.slow),
        pytest.param(("emulate",), marks=pytest.mark.slow),
    ],
    ids=" ".join,
)
def test_a_value_is_in_no_file_and_no_output_of_a_run(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    (tmp_path / "flow.py").write_text(FLOW)
    variables = {"API_TOKEN": CANARY, "DATABASE": CANARY}
    ran = command(tmp_path, *arguments, **variables)
    assert (ran.code, ran.out) == (0, f"{4 * len(CANARY)}\n"), ran.err
    failed = command(tmp_path, *arguments, "--fail", **variables)
    assert failed.code == 1
    assert "ValueError: no answer to ***" in failed.err
    assert places_of(CANARY, tmp_path, ran) == places_of(CANARY, tmp_path, failed) == []


TAKING = """
import os

from lokki import flow, main, step

TAKEN = os.environ.pop("API_TOKEN", "")


@step
def numbers() -> list[int]:
    return [1, 2]


@step(secrets={"API_TOKEN": "prod/api-token"})
def ask(number: int) -> int:
    global TAKEN
    TAKEN = TAKEN or os.environ.pop("API_TOKEN", "")
    raise ValueError(f"no answer to {TAKEN!r}")


@step
def total(numbers: list[int]) -> int:
    return sum(numbers)


@flow
def birds():
    return numbers().map(ask, tolerate=2).agg(total).next(ask)


if __name__ == "__main__":
    main(birds)
"""


@pytest.mark.parametrize("executor", ["threads", pytest.param("processes", marks=pytest.mark.slow)])
def test_a_value_that_code_took_out_of_the_environment_is_hidden(
    tmp_path: Path, service: CountingService, executor: str
) -> None:
    """Worker processes import the flow when the environment has the value, the run's own process before.

    To debug, botocore logs what it got.
    """
    (tmp_path / "flow.py").write_text(TAKING)
    ran = command(tmp_path, "run", "--executor", executor, "--log-level", "debug", **service.environ)
    assert ran.code == 1
    log = (tmp_path / ".lokki/runs").glob("*/events.jsonl")
    failures = [json.loads(line)["failure"] for line in next(log).read_text().splitlines() if '"failure"' in line]
    assert "no answer to '***'" in {failure["message"] for failure in failures}
    assert places_of("value of prod/api-token", tmp_path, ran) == []


def test_what_the_environment_does_not_have_is_fetched_with_the_users_keys(tmp_path: Path, stored: Aws) -> None:
    (tmp_path / "flow.py").write_text(FLOW)
    ran = command(tmp_path, "run", DATABASE="database of mine", **stored.environ)
    assert (ran.code, ran.out) == (0, f"{len('token 1') + 3 * len('database of mine')}\n"), ran.err
    assert places_of("token 1", tmp_path, ran) == []


def test_a_secret_that_cannot_be_had_ends_the_run_with_the_variable_to_set(tmp_path: Path) -> None:
    (tmp_path / "flow.py").write_text(FLOW)
    ran = command(tmp_path, "run", AWS_REGION=REGION)
    assert ran.code == 1
    assert ran.err.splitlines()[-1] == (
        "error: the secret prod/api-token cannot be fetched: Unable to locate credentials. Set API_TOKEN in the "
        "environment, or sign in to the account that has it."
    )


def test_the_page_on_secrets_is_true(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "secrets.md").read_text()
    code = page.partition("```python\n# alarm.py\n")[2].partition("```")[0]
    shown = page.partition("```console\n")[2].partition("```")[0].splitlines()
    (tmp_path / "flow.py").write_text(code)
    ran = command(tmp_path, "run", "--quiet", API_TOKEN="0123")
    assert shown == ["$ API_TOKEN=0123 python alarm.py run --quiet", ran.out.strip()], ran.err
