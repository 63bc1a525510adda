"""Invokes a handler once, or its rival: ``handler_work.py <work> <endpoint> <count>``. Prints seconds and a result."""

from __future__ import annotations

import contextlib
import io
import sys
import time
from collections.abc import Iterator
from typing import cast

BUCKET = "bucket"


class Context:
    def get_remaining_time_in_millis(self) -> int:
        return 900_000


def environ(endpoint: str) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "LOKKI_ARTIFACT_BUCKET": BUCKET,
        "LOKKI_FLOW_NAME": "scale-flow",
    }


def source(endpoint: str, count: int) -> tuple[float, object]:
    """Have a map's source emit so many small items."""
    from lokki import step
    from lokki.runtime.handler import make_handler

    @step
    def emit() -> Iterator[dict[str, int | str]]:
        for number in range(count):
            yield {"order": number, "country": "Finland"}

    handler = make_handler(emit, calls={"emit": {"reads": None, "fans_out": True}}, environ=environ(endpoint))
    began = time.perf_counter()
    reply = handler({"run_id": "run-1", "call": "emit", "params": {}}, Context())
    return time.perf_counter() - began, cast("dict[str, object]", reply)["items"]


def aggregate(endpoint: str, count: int) -> tuple[float, object]:
    """Have a step take the results of so many items."""
    from lokki import step
    from lokki.runtime.handler import make_handler

    @step
    def gather(results: list[object]) -> int:
        return len(results)

    handler = make_handler(gather, calls={"gather": {"reads": "results"}}, environ=environ(endpoint))
    given = {"results_manifest_key": "lokki/scale-flow/run-1/emit/map_results/1/manifest.json", "items": count}
    began = time.perf_counter()
    reply = handler({"run_id": "run-1", "call": "gather", "params": {}, "input": given}, Context())
    return time.perf_counter() - began, cast("dict[str, object]", reply)["result"]


def boto3_reads(endpoint: str, count: int) -> tuple[float, object]:
    """Read so many objects one after the other, without unpacking them."""
    import boto3

    client = boto3.client(
        "s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="y"
    )
    began = time.perf_counter()
    contents = [
        client.get_object(Bucket=BUCKET, Key=f"lokki/scale-flow/run-1/flap/{number}/output.pkl.gz")["Body"].read()
        for number in range(count)
    ]
    return time.perf_counter() - began, len(contents)


def main() -> None:
    name, endpoint, count = sys.argv[1:]
    with contextlib.redirect_stdout(io.StringIO()):
        seconds, result = {"source": source, "aggregate": aggregate, "boto3": boto3_reads}[name](endpoint, int(count))
    print(f"{seconds} {result}")


if __name__ == "__main__":
    main()
