"""Who is answered by what an emulation has listening on loopback: its own processes, and nobody else."""

import http.client
import json
import os
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from test_emulator_functions import HANDLER, functions, invoke

from lokki.base.values import Stored
from lokki.emulator.functions.connections import belongs_to
from lokki.emulator.s3.client import S3Server
from lokki.emulator.s3.server import InstalledServices
from lokki.emulator.scratch import Secret
from lokki.errors import EmulatorError, StoreError
from lokki.store.s3 import S3Store

BUCKET = "birds"
PLACE = {"Bucket": BUCKET, "Key": "lokki/goose"}


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with S3Server(BUCKET) as server:
        server.write(BUCKET, "lokki/goose", b"honk")
        yield server


def status(url: str, method: str = "GET", body: bytes | None = None, **headers: str) -> int:
    request = urllib.request.Request(url, body, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


@pytest.mark.parametrize(
    ("method", "path", "body", "headers"),
    [
        ("GET", "/birds/lokki/goose", None, {}),
        ("PUT", "/birds/lokki/goose", b"a pickle", {}),
        ("PUT", "/birds/lokki/goose", b"x" * 3_000_000, {}),
        ("PUT", "/birds/lokki/goose", b"a pickle", {"X-Amz-Security-Token": "emulated"}),
        ("PUT", "/birds/lokki/goose?X-Amz-Security-Token=emulated", b"a pickle", {}),
        ("DELETE", "/birds/lokki/goose", None, {}),
        ("OPTIONS", "/birds/lokki/goose", None, {"Origin": "http://page", "Access-Control-Request-Method": "PUT"}),
        ("GET", "/", None, {}),
        ("GET", "/lokki-emulator/requests", None, {}),
        ("GET", "/moto-api/data.json", None, {}),
        ("POST", "/moto-api/reset", b"", {}),
    ],
)
def test_who_has_not_the_runs_secret_is_refused(
    s3: S3Server, method: str, path: str, body: bytes | None, headers: dict[str, str]
) -> None:
    assert status(f"{s3.endpoint}{path}", method, body, **headers) == 403
    assert s3.read(BUCKET, "lokki/goose") == b"honk"


def test_keys_of_another_run_are_refused(s3: S3Server) -> None:
    others = {**s3.variables("function"), "AWS_SESSION_TOKEN": Secret.new().token}
    with pytest.raises(StoreError, match=r"(?i)denied|forbidden|403"):
        S3Store(BUCKET, "", environ=others).read(Stored(f"s3://{BUCKET}/lokki/goose"))


def test_motos_own_pages_answer_nobody(s3: S3Server) -> None:
    token = s3.variables("function")["AWS_SESSION_TOKEN"]
    assert status(f"{s3.endpoint}/moto-api/reset", "POST", b"", **{"X-Amz-Security-Token": token}) == 403
    assert s3.read(BUCKET, "lokki/goose") == b"honk"


def test_no_page_of_a_browser_may_read_an_answer(s3: S3Server) -> None:
    request = urllib.request.Request(signed_url(s3), headers={"Origin": "http://page"})
    with urllib.request.urlopen(request) as answer:
        assert answer.read() == b"honk"
        assert not [name for name in answer.headers if name.lower().startswith("access-control")]


def session(s3: S3Server) -> boto3.Session:
    known = s3.variables("function")
    return boto3.Session(
        known["AWS_ACCESS_KEY_ID"], known["AWS_SECRET_ACCESS_KEY"], known["AWS_SESSION_TOKEN"], known["AWS_REGION"]
    )


def signed_url(s3: S3Server) -> str:
    client = session(s3).client("s3", endpoint_url=s3.endpoint)
    return str(client.generate_presigned_url("get_object", PLACE))


def test_urls_that_a_step_signed_and_roles_that_it_assumed_work(s3: S3Server) -> None:
    with urllib.request.urlopen(signed_url(s3)) as answer:
        assert answer.read() == b"honk"
    role = "arn:aws:iam::123456789012:role/reader"
    sts = session(s3).client("sts", endpoint_url=s3.endpoint)
    keys = sts.assume_role(RoleArn=role, RoleSessionName="step")["Credentials"]
    assumed = boto3.Session(keys["AccessKeyId"], keys["SecretAccessKey"], keys["SessionToken"], "us-east-1")
    assert (
        assumed.client("s3", endpoint_url=s3.endpoint).get_object(Bucket=BUCKET, Key=PLACE["Key"])["Body"].read()
        == b"honk"
    )


def test_the_secret_is_on_no_command_line(s3: S3Server) -> None:
    token = s3.variables("function")["AWS_SESSION_TOKEN"]
    lines = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    assert not [line for line in lines if token.encode() in line]


def test_the_runtime_api_answers_its_functions_process_only(tmp_path: Path) -> None:
    with functions(tmp_path, one=HANDLER) as (running, _):
        seen = invoke(running, {"do": "environment"})
        assert isinstance(seen, dict)
        address = seen["variables"]["AWS_LAMBDA_RUNTIME_API"]  # type: ignore[index, call-overload]
        asked = f"http://{address}/2018-06-01/runtime/invocation"
        assert status(f"{asked}/next") == 403
        assert status(f"{asked}/0/response", "POST", b'"planted"') == 403
        program = f"import urllib.request as r; r.urlopen('{asked}/next')"
        told = invoke(running, {"do": "run", "python": ["-c", program]})
        assert str(told).endswith("HTTP Error 403: Forbidden"), "nor a program that the function starts"
        assert isinstance(invoke(running, {}), int)


def test_a_server_that_was_killed_is_told_from_an_error_of_s3() -> None:
    others = servers()

    def use() -> None:
        with S3Server(BUCKET) as server:
            with pytest.raises(StoreError):
                server.read(BUCKET, "nothing")
            [killed] = servers() - others
            os.kill(killed, signal.SIGKILL)
            server.write(BUCKET, "goose", b"honk")

    with pytest.raises(EmulatorError, match="the emulated S3 has ended with -9, so the run cannot go on"):
        use()


def servers() -> set[int]:
    """Return the processes of this one that serve S3."""
    children = {pid for task in Path("/proc/self/task").glob("*/children") for pid in task.read_text().split()}
    return {int(pid) for pid in children if b"lokki.emulator.s3.server" in Path(f"/proc/{pid}/cmdline").read_bytes()}


def test_the_other_end_of_a_connection_is_known_by_its_process(s3: S3Server) -> None:
    host, _, port = s3.endpoint.removeprefix("http://").partition(":")
    connection = http.client.HTTPConnection(host, int(port))
    connection.connect()
    assert connection.sock is not None
    ends = connection.sock.getsockname(), connection.sock.getpeername()
    with subprocess.Popen(["sleep", "60"]) as other:
        pid = int(Path("/proc/self").readlink().name)
        assert [belongs_to(each, *ends) for each in (pid, other.pid)] == [True, False]
        other.kill()
    connection.close()
    assert not belongs_to(pid, *ends)


def test_a_service_that_is_not_installed_says_what_is_missing() -> None:
    def tracing(environ: object, start_response: object) -> list[bytes]:
        raise ModuleNotFoundError("No module named 'aws_xray_sdk'", name="aws_xray_sdk")

    answered: list[str] = []
    [body] = InstalledServices(tracing)(
        {}, lambda status, headers, error=None: answered.append(status) or (lambda data: None)
    )
    assert answered == ["501 Not Implemented"]
    assert json.loads(body) == {
        "__type": "NotInstalled",
        "message": "The emulator needs aws_xray_sdk for this service: install moto[all] beside lokki[emulator].",
    }
