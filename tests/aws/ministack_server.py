"""MiniStack, an AWS on loopback that others wrote, in an environment and a process of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from lokki.builder.requirements.uv import Uv

PROGRAM = Path(__file__).with_name("ministack_program.py")
REQUIREMENTS = ("ministack==1.5.33", "boto3", "cryptography")
ACCOUNT = "123456789012"
_STARTS_WITHIN = 120.0


@contextmanager
def ministack(folder: Path) -> Iterator[dict[str, str]]:
    """Install and run MiniStack; yield what a program needs in its environment to use it."""
    python = installed(folder / "venv")
    port = free_port()
    with (folder / "ministack.log").open("wb") as log:
        process = subprocess.Popen(
            [python, PROGRAM],
            cwd=folder,
            env=environment(folder, python, port),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            wait_until_healthy(process, port, folder / "ministack.log")
            yield {
                "AWS_ACCESS_KEY_ID": ACCOUNT,
                "AWS_SECRET_ACCESS_KEY": "test",
                "AWS_REGION": "us-east-1",
                "AWS_DEFAULT_REGION": "us-east-1",
                "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            }
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def installed(venv: Path) -> Path:
    """Make an environment with MiniStack; return its Python."""
    uv = Uv(os.environ)
    uv.run(["venv", "--quiet", "--python", sys.executable, str(venv)], venv.parent, "Making an environment")
    python = venv / "bin/python"
    uv.run(["pip", "install", "--quiet", "--python", str(python), *REQUIREMENTS], venv.parent, "Installing MiniStack")
    return python


def environment(folder: Path, python: Path, port: int) -> Mapping[str, str]:
    """Return MiniStack's: on loopback alone, functions without Docker, files of its own below a folder."""
    temporary = folder / "tmp"
    temporary.mkdir()
    return {
        "BIND_HOST": "127.0.0.1",
        "GATEWAY_PORT": str(port),
        "LAMBDA_EXECUTOR": "local",
        "MINISTACK_ACCOUNT_ID": ACCOUNT,
        "MINISTACK_HOST": "127.0.0.1",
        "HOME": str(folder),
        "LANG": "C.UTF-8",
        "PATH": f"{python.parent}{os.pathsep}{os.defpath}",
        "TMPDIR": str(temporary),
    }


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def wait_until_healthy(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Wait until it answers. Raises AssertionError if it does not."""
    end = time.monotonic() + _STARTS_WITHIN
    while True:
        assert process.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < end, log.read_text()[-3000:]
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/_ministack/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
