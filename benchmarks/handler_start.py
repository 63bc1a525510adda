"""How long a cold start takes: the handler of a package, as it was built, beside a client of boto3."""

from __future__ import annotations

import os
import statistics
import subprocess
import tempfile
import zipfile
from pathlib import Path

from measuring import EXAMPLES, Row, Table, python

STARTS = 31
TARGET = 0.3

# A handler's module makes its store while it is imported. All but the package is Python's own library, as on Lambda.
HANDLER = """
import sys, time
sys.path = [sys.argv[1], *(place for place in sys.path if "site-packages" not in place)]
began = time.perf_counter()
import handler
print(time.perf_counter() - began)
"""
LIBRARIES = HANDLER.replace("import handler", "import isal.igzip_lib, isal.isal_zlib, msgspec, obstore.store")
BOTO3 = """
import time
began = time.perf_counter()
import boto3
boto3.client("s3", region_name="us-east-1")
print(time.perf_counter() - began)
"""
VARIABLES = {
    "LOKKI_ARTIFACT_BUCKET": "bucket",
    "LOKKI_FLOW_NAME": "birds-flow",
    "AWS_REGION": "us-east-1",
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
}


def measure() -> Table:
    """Build birds, and start what was built and boto3 in turn, each in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="lokki-bench-start-") as folder:
        package = str(_package(Path(folder)))
        programs = {
            "birds' handler and its store": python("-I", "-c", HANDLER, package),
            "its libraries": python("-I", "-c", LIBRARIES, package),
            "boto3 and its S3 client": python("-c", BOTO3),
        }
        times: dict[str, list[float]] = {name: [] for name in programs}
        for turn in range(STARTS + 1):
            for name, command in programs.items():
                environment = os.environ | VARIABLES
                run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
                if turn:  # the first one compiles boto3; the package has its bytecode
                    times[name].append(float(run.stdout))
    *_, boto3 = times.values()
    rows = []
    for name, seconds in times.items():
        ratio = statistics.median(own / other for own, other in zip(seconds, boto3, strict=True))
        is_ours = name.startswith("birds")
        rows.append(
            Row(
                name,
                f"{statistics.median(seconds) * 1000:.0f} ms (min {min(seconds) * 1000:.0f} ms)",
                f"{ratio:.2f}×",
                f"≤ {TARGET}×" if is_ours else "",
                ratio <= TARGET if is_ours else None,
            )
        )
    note = (
        "The zip of a step, unpacked. Inside of Python, after its own start. Medians of "
        f"{STARTS} turns, in each of which one starts after the other; of the ratios, too."
    )
    return Table("Cold start", note, tuple(rows))


def _package(folder: Path) -> Path:
    """Build birds and unpack the function of a step."""
    (folder / "lokki.yml").write_text("artifact_bucket: my-bucket\n")
    build = python(EXAMPLES / "birds_flow_example.py", "build")
    subprocess.run(build, cwd=folder, capture_output=True, check=True)
    with zipfile.ZipFile(folder / "lokki-build" / "lambdas" / "flap_bird.zip") as archive:
        archive.extractall(folder / "package")
    return folder / "package"
