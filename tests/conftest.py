"""Fixtures and options that every test file can use."""

import os
import shutil
import signal
import tempfile

import pytest
from aws.loopback_aws import account
from aws.moto_server import aws
from hypothesis import HealthCheck, settings

__all__ = ["account", "aws"]

# How fast the machine is must fail no example: in a new clone hypothesis makes its tables of Unicode while it draws the
# first text. In CI the same examples are tried each time.
settings.register_profile(
    "lokki", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=bool(os.environ.get("CI"))
)
settings.load_profile("lokki")


BYTECODE = pytest.StashKey[str]()


def pytest_configure(config: pytest.Config) -> None:
    """Let the programs that tests start find modules compiled, in a folder of their own, whatever the machine says.

    Without that each of hundreds compiles lokki, and all that uv has installed, again. Signals that this process was
    started to ignore, by `nohup` or in the background of a shell, end them as anywhere else: tests send these.
    """
    for number, handler in ((signal.SIGHUP, signal.SIG_DFL), (signal.SIGINT, signal.default_int_handler)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)
    if "PYTEST_XDIST_WORKER" not in os.environ:  # workers have it from the process that starts them
        config.stash[BYTECODE] = os.environ["PYTHONPYCACHEPREFIX"] = tempfile.mkdtemp(prefix="lokki-bytecode-")
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the folder."""
    if BYTECODE in config.stash:
        shutil.rmtree(config.stash[BYTECODE], ignore_errors=True)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite the files in tests/golden")


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    """Whether golden files are to be rewritten instead of compared."""
    return bool(request.config.getoption("--update-golden"))
