"""The handler under AWS's own runtime client: what Lambda sees of replies, errors and ends of the process."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from aws.moto_server import Aws
from support.lambda_function import FLOW, RUN
from support.lambda_runtime import Answer, Runtime, lambda_runtime

FLOW_MODULE = """
import os
from lokki import Retry, flow, step

class ShyError(Exception):
    def __str__(self):
        raise RuntimeError("no text")

@step(retry=Retry(on=(OSError,)))
def act(what):
    match what:
        case "raise": raise ConnectionResetError("the bird feed closed")
        case "exit": raise SystemExit(3)
        case "die": os._exit(7)
        case "shy": raise ShyError
        case "surrogate": raise ValueError("\\ud800")
        case "secret": raise ValueError("hidden")
    return what

@flow
def birds_flow(what: str = "x"):
    return act(what)
"""
HANDLER = """
from birds import act, birds_flow

from lokki.runtime.handler import make_handler

lambda_handler = make_handler(
    act,
    flow=birds_flow,
    calls={"act": {"reads": "output", "arguments": [], "fans_out": False, "first": False, "tolerate": None}},
)
"""


@pytest.fixture
def runtime(aws: Aws, tmp_path: Path) -> Iterator[Runtime]:
    (tmp_path / "birds.py").write_text(FLOW_MODULE)
    (tmp_path / "handler.py").write_text(HANDLER)
    environ = {**aws.environ, "LOKKI_ARTIFACT_BUCKET": aws.new_bucket(), "LOKKI_FLOW_NAME": FLOW}
    with lambda_runtime(tmp_path, "handler.lambda_handler", environ) as running:
        yield running


def act(what: object) -> dict[str, object]:
    return {"run_id": RUN, "call": "act", "params": {}, "input": {"result": what}}


def error(answer: Answer) -> tuple[object, object]:
    assert answer.kind == "error"
    assert isinstance(answer.content, dict)
    return answer.content["errorType"], answer.content["errorMessage"]


def test_replies_are_the_json_that_the_handler_returned(runtime: Runtime) -> None:
    for value in ("ä☃𝄞", None, [1, 0.5, {"a": []}], "x" * 1000):
        assert runtime.invoke(act(value)) == Answer("response", {"result": value})


def test_errors_have_the_names_that_step_functions_retries(runtime: Runtime) -> None:
    answer = runtime.invoke(act("raise"))
    assert error(answer) == ("OSError", "ConnectionResetError: the bird feed closed")
    assert isinstance(answer.content, dict)
    assert answer.content["stackTrace"][-1] == (
        f'  File "{Path(runtime.folder, "birds.py")}", line 12, in act\n'
        '    case "raise": raise ConnectionResetError("the bird feed closed")\n'
    )
    assert error(runtime.invoke("nonsense"))[0] == "EventError"
    assert error(runtime.invoke({"run_id": RUN, "call": "act", "params": {}}))[0] == "EventError"


def test_errors_that_the_runtime_client_would_die_of_are_told(runtime: Runtime) -> None:
    assert error(runtime.invoke(act("shy"))) == ("ShyError", "(its text cannot be shown: str() raised RuntimeError)")
    assert error(runtime.invoke(act("surrogate"))) == ("ValueError", "\\ud800")


def test_a_step_that_calls_sys_exit_fails_as_locally_and_keeps_its_process(runtime: Runtime) -> None:
    assert error(runtime.invoke(act("exit"))) == ("SystemExit", "3")
    assert runtime.invoke(act("still there")) == Answer("response", {"result": "still there"})


def test_a_process_that_ends_is_no_answer_at_all(runtime: Runtime) -> None:
    assert runtime.invoke(act("die")) == Answer("exit", 7)  # Lambda: Runtime.ExitError


def test_lokkis_lines_in_the_log_are_json_without_values(runtime: Runtime) -> None:
    runtime.invoke(act("birdsong"))
    runtime.invoke(act("secret"))
    log = Path(runtime.folder, "log").read_text()
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    assert [(line["event"], line.get("error")) for line in lines] == [
        ("start", None),
        ("end", None),
        ("start", None),
        ("failure", "ValueError"),
    ]
    assert "birdsong" not in log
    assert "[ERROR] ValueError: hidden" in log  # the client's own line; the message is the step's


STARTING_A_PROGRAM = """
import os, shutil, subprocess
from lokki import step
from lokki.runtime.handler import make_handler

@step
def run() -> str:
    return subprocess.run(["lokki-test-tool"], capture_output=True, text=True, check=True).stdout

handler = make_handler(run, calls={"run": {"first": True}})
print(run.fn(), os.environ["PATH"].count("bin"), end="")
"""


STARTING_PYTHON = """
import os, subprocess, sys
from lokki import step
from lokki.runtime.handler import make_handler

@step
def run() -> str:
    commands = [["lokki-test-tool"], [sys.executable, "-m", "honk"]]
    return "".join(subprocess.run(command, cwd="/", capture_output=True, text=True).stdout for command in commands)

handler = make_handler(run, calls={"run": {"first": True}})
print(run.fn(), end="")
"""


def test_programs_in_python_import_what_the_package_has_in_any_directory(tmp_path: Path) -> None:
    (tmp_path / "honk.py").write_text("print('honk')")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "lokki-test-tool").write_text(f"#!{sys.executable}\nimport honk")
    (tmp_path / "bin" / "lokki-test-tool").chmod(0o755)
    environ = {**os.environ, "LAMBDA_TASK_ROOT": str(tmp_path)}
    command = [sys.executable, "-c", STARTING_PYTHON]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert done.stdout == "honk\nhonk\n", done.stderr


@pytest.mark.parametrize("again", [False, True])
def test_steps_find_the_programs_of_packages_behind_all_others(tmp_path: Path, again: bool) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "lokki-test-tool").write_text("#!/bin/sh\necho honk")
    (tmp_path / "bin" / "lokki-test-tool").chmod(0o755)
    path = f"/usr/bin:{tmp_path}/bin" if again else "/usr/bin"
    environ = {**os.environ, "LAMBDA_TASK_ROOT": str(tmp_path), "PATH": path}
    command = [sys.executable, "-c", STARTING_A_PROGRAM]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert done.stdout == "honk\n 2", done.stderr
