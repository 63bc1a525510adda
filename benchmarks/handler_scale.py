"""How far the Lambda handler scales: big maps, and many results."""

from __future__ import annotations

import json
import random
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path

from measuring import PROGRAMS, Program, Row, Sample, Table, python, run_once

from lokki.store import codec

DELAY = 0.01
"""Seconds in which the imitation of S3 answers; S3 itself takes longer.
https://docs.aws.amazon.com/AmazonS3/latest/userguide/optimizing-performance.html: 100 to 200 ms for small objects."""

BYTES = 100_000
RESULTS = "lokki/scale-flow/run-1/emit/map_results/1"
MILLION = 1_000_000


def measure() -> Table:
    """Measure what one invocation can do. Each measurement is a process of its own."""
    rows = []
    with imitation(lambda folder: None, 0) as endpoint:
        for count, target, runs in ((MILLION, 20.0, 3), (10 * MILLION, None, 1)):
            sample, seconds = fastest(runs, "source", endpoint, count)
            rows.append(row(f"source of a map emits {count:,} small items", sample, seconds, target, 512))
    with imitation(inline_results, 0) as endpoint:
        sample, seconds = fastest(3, "aggregate", endpoint, MILLION)
        rows.append(row(f"{MILLION:,} inline results are aggregated", sample, seconds, 20.0, 1000))
    for delay, target in ((DELAY, 5.0), (0.0, None)):
        rows += reads(delay, target)
    note = (
        "One invocation of the handler, without the start of its process; S3 is an imitation on loopback "
        "(`programs/s3_imitation.py`) that forgets what is written. Those of a million: the fastest of 3. Memory: peak "
        "resident memory of the process."
    )
    return Table("Scale of the Lambda handler", note, tuple(rows))


def reads(delay: float, target: float | None) -> list[Row]:
    """Compare reading 10,000 results in the handler, which unpacks them too, with boto3 reading one after the other."""
    count, sampled = 10_000, 500 if delay else 2_000
    with imitation(stored_results, delay) as endpoint:
        sample, seconds = invoke("aggregate", endpoint, count)
        _, one_by_one = invoke("boto3", endpoint, sampled)
    bare = one_by_one / sampled * count
    what = f"S3 answers after {delay * 1000:.0f} ms"
    return [
        Row(
            f"{count:,} results of 100 KB are read in parallel; {what}",
            f"{seconds:.1f} s, {sample.peak_mb:.0f} MB",
            f"{bare / seconds:.1f}× as fast",
            f"≥ {target:g}×" if target else "",
            bare / seconds >= target if target else None,
        ),
        Row(f"the same by boto3, one by one (from {sampled:,} reads); {what}", f"{bare:.1f} s"),
    ]


def row(what: str, sample: Sample, seconds: float, most_seconds: float | None, most_mb: float) -> Row:
    target = f"≤ {most_seconds:g} s, ≤ {most_mb:g} MB" if most_seconds else f"≤ {most_mb:g} MB"
    passed = sample.peak_mb <= most_mb and (most_seconds is None or seconds <= most_seconds)
    return Row(what, f"{seconds:.1f} s, {sample.peak_mb:.0f} MB", "", target, passed)


def fastest(runs: int, work: str, endpoint: str, count: int) -> tuple[Sample, float]:
    return min((invoke(work, endpoint, count) for _ in range(runs)), key=itemgetter(1))


def invoke(work: str, endpoint: str, count: int) -> tuple[Sample, float]:
    """Run one measurement; return its process's sample and the seconds that the work alone took."""
    sample = run_once(Program(work, python(PROGRAMS / "handler_work.py", work, endpoint, str(count)), f" {count}\n"))
    return sample, float(sample.output.split()[0])


@contextmanager
def imitation(fill: Callable[[Path], None], delay: float) -> Iterator[str]:
    """Run the imitation of S3 over a folder; give its endpoint."""
    with tempfile.TemporaryDirectory(prefix="lokki-bench-s3-") as folder:
        fill(Path(folder))
        command = python(PROGRAMS / "s3_imitation.py", folder, str(delay))
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            try:
                yield f"http://127.0.0.1:{server.stdout.readline().strip()}"
            finally:
                server.terminate()


def inline_results(folder: Path) -> None:
    write_results(folder, MILLION, 8, lambda index: {"result": {"order": index, "country": "Finland"}})


def stored_results(folder: Path) -> None:
    """Write 10,000 results that are in S3: all the same object, of bytes that do not shrink."""
    (folder / "output.pkl.gz").write_bytes(codec.dumps(random.Random(1).randbytes(BYTES)))
    url = "s3://bucket/lokki/scale-flow/run-1/flap"
    write_results(folder, 10_000, 4, lambda index: {"result_url": f"{url}/{index}/output.pkl.gz"})


def write_results(folder: Path, count: int, files: int, result: Callable[[int], dict[str, object]]) -> None:
    """Write result files, with the results in no order, and their manifest, as Step Functions would."""
    indexes = list(range(count))
    random.Random(1).shuffle(indexes)
    names = [f"SUCCEEDED_{number}.json" for number in range(files)]
    for number, name in enumerate(names):
        entries = [{"index": index, **result(index)} for index in indexes[number::files]]
        (folder / name).write_text(json.dumps(entries, separators=(",", ":")))
    listed = [{"Key": f"{RESULTS}/{name}", "Size": (folder / name).stat().st_size} for name in names]
    (folder / "manifest.json").write_text(
        json.dumps({"DestinationBucket": "bucket", "ResultFiles": {"FAILED": [], "PENDING": [], "SUCCEEDED": listed}})
    )
