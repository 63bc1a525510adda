"""Fixtures and options that every test file can use."""

import os

import pytest
from hypothesis import HealthCheck, settings
from support.loopback_aws import account
from support.moto_server import aws

__all__ = ["account", "aws"]

# How fast the machine is must fail no example: in a new clone hypothesis makes its tables of Unicode while it draws the
# first text. In CI the same examples are tried each time.
settings.register_profile(
    "lokki", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=bool(os.environ.get("CI"))
)
settings.load_profile("lokki")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite the files in tests/golden")


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    """Whether golden files are to be rewritten instead of compared."""
    return bool(request.config.getoption("--update-golden"))
