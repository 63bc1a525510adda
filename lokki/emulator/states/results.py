"""The results of a map run as ResultWriter writes them, in pure functions.

There are result files for each status, and a manifest that lists them.

https://docs.aws.amazon.com/step-functions/latest/dg/input-output-resultwriter.html
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import msgspec

from lokki.base.values import Json

type Transformation = Literal["NONE", "COMPACT", "FLATTEN"]
type OutputType = Literal["JSON", "JSONL"]
type Kind = Literal["SUCCEEDED", "FAILED", "PENDING"]

KINDS: tuple[Kind, ...] = ("FAILED", "PENDING", "SUCCEEDED")

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Result:
    """How a child execution ended.

    * ``status``: SUCCEEDED, FAILED, TIMED_OUT, PENDING …
    * ``record``: AWS's description of the execution.
    * ``output``: its output, where it has one.
    """

    status: str
    record: dict[str, Json]
    output: Json = None

    @property
    def kind(self) -> Kind:
        """Which files it goes into.

        Failed, timed-out and aborted executions share theirs.
        """
        match self.status:
            case "SUCCEEDED" | "PENDING":
                return self.status
            case _:
                return "FAILED"


def transformed(results: Iterable[Result], transformation: Transformation) -> Iterator[Json]:
    """Yield what is written for each result.

    It is the record, the output, or the members of an output that is an array. For an execution that did not
    succeed it is always the record.
    """
    for result in results:
        if transformation == "NONE" or result.kind != "SUCCEEDED":
            yield result.record
        elif transformation == "FLATTEN" and isinstance(result.output, list):
            yield from result.output
        else:
            yield result.output


def files(values: Iterable[Json], output_type: OutputType, limit: int) -> Iterator[bytes]:
    """Yield the contents of result files, each within a limit of bytes."""
    start, between, end = (b"[", b",", b"]") if output_type == "JSON" else (b"", b"\n", b"\n")
    parts: list[bytes] = []
    size = 0
    for value in values:
        text = _encode(value)
        if parts and size + len(text) + 2 > limit:  # 2 for the brackets; a single result may be larger than a file
            yield start + between.join(parts) + end
            parts, size = [], 0
        parts.append(text)
        size += len(text) + 1
    if parts:
        yield start + between.join(parts) + end


def manifest(bucket: str, map_run: str, listed: dict[Kind, list[tuple[str, int]]]) -> bytes:
    """Return the content of manifest.json.

    ``listed``: key and size of each result file, by kind.
    """
    result_files = {kind: [{"Key": key, "Size": size} for key, size in listed.get(kind, [])] for kind in KINDS}
    return _encode({"DestinationBucket": bucket, "MapRunArn": map_run, "ResultFiles": result_files})
