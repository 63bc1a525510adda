"""One moto server per test process: S3 on 127.0.0.1. Its state is shared, so each test uses a bucket of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING

import boto3
import pytest
from moto.server import ThreadedMotoServer

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

_buckets = count(1)


@dataclass(frozen=True, slots=True)
class Aws:
    """An AWS on loopback; `s3` speaks to it past the code under test."""

    endpoint: str
    s3: S3Client

    @property
    def environ(self) -> dict[str, str]:
        """What a process needs in its environment to use it."""
        return {
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.endpoint,
        }

    def new_bucket(self) -> str:
        """Make a bucket and return its name."""
        name = f"bucket-{next(_buckets)}"
        self.s3.create_bucket(Bucket=name)
        return name


@pytest.fixture(scope="session")
def aws() -> Iterator[Aws]:
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    session = boto3.Session(aws_access_key_id="test", aws_secret_access_key="test", region_name="us-east-1")
    yield Aws(endpoint, session.client("s3", endpoint_url=endpoint))
    server.stop()
