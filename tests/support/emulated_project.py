"""A project with flows, written to a folder and built there, for tests that run real packages."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lokki.builder.builder import Builder
from lokki.config import LokkiConfig
from lokki.emulator.run import EmulationOptions
from lokki.emulator.session import Session
from lokki.engine.events import Event
from lokki.graph import FlowGraph
from lokki.loading import load_flow

FLOWS = """
import datetime
import os
import sys
import time

from lokki import Read, Retry, Write, flow, main, step


@step
def numbers(count: int = 10) -> list[int]:
    return list(range(count))


@step
def double(number: int) -> int:
    return number * 2


@step
def plus(number: int, amount: int) -> int:
    return number + amount


@step
def large(number: int) -> bytes:
    return bytes([number % 256]) * 20_000


@step
def total(results: list[int]) -> int:
    return sum(results)


@step
def sizes(results: list[bytes]) -> list[int]:
    return [len(result) * 1000 + result[0] for result in results]


@step
def collect(results: list[object]) -> list[object]:
    return results


@step
def same(results: list[int]) -> list[int]:
    return results


@step
def refuse(number: int = 0) -> int:
    raise LookupError("no goose")


@step
def odd_only(number: int) -> int:
    if number % 2 == 0:
        raise ValueError(f"{number} is even")
    return number


class Flaky(ConnectionError):
    pass


@step(retry=Retry(attempts=3, delay=0.01, on=(ConnectionError,)))
def late(number: int, folder: str) -> int:
    path = f"{folder}/{number}"
    with open(path, "a") as file:
        file.write("x")
    if os.path.getsize(path) < 3:
        raise Flaky(f"try {os.path.getsize(path)}")
    return number


@step
def größe(value: object, wort: str, seit: datetime.date) -> object:
    print(f"größe of {value}")
    return {"wort": wort, "seit": seit, "value": (value, None, "ä€😀")}


@step
def slow(number: int) -> int:
    time.sleep(30)
    return number


@step(permissions=[Write("s3://my-artifacts/birds/")])
def put(text: str) -> str:
    import boto3  # Lambda's Python has it

    s3, bucket = boto3.client("s3"), os.environ["LOKKI_ARTIFACT_BUCKET"]
    s3.put_object(Bucket=bucket, Key="birds/goose.txt", Body=text.encode())
    return text


@step(permissions=[Read("s3://my-artifacts/birds/")])
def get(text: str) -> list[str]:
    import boto3

    s3, bucket = boto3.client("s3"), os.environ["LOKKI_ARTIFACT_BUCKET"]
    keys = [each["Key"] for each in s3.list_objects_v2(Bucket=bucket, Prefix="birds/")["Contents"]]
    return [*keys, s3.get_object(Bucket=bucket, Key=keys[0])["Body"].read().decode()]


@flow
def with_boto3():
    return put(text="honk").next(get)


@flow
def doubled(count: int = 10):
    return numbers(count).map(double).agg(total)


@flow
def batched(count: int = 10):
    return numbers(count).map(double, batch=500).agg(total)


@flow
def stored(count: int = 10):
    return numbers(count).map(large).agg(sizes)


@flow
def twice(count: int = 5):
    once = numbers(count).map(double, concurrency=2).next(double).agg(same)
    return once.map(double, batch=2).next(double).agg(same)


@flow
def refused():
    return refuse()


@flow
def strict(count: int = 5):
    return numbers(count).map(odd_only).agg(collect)


@flow
def tolerant(count: int = 6):
    return numbers(count).map(odd_only, tolerate=0.5).agg(collect)


@flow
def tolerant_batches(count: int = 6):
    return numbers(count).map(odd_only, tolerate=0.5, batch=4).next(double).agg(collect)


@flow
def retried(folder: str, count: int = 3):
    return numbers(count).map(late(folder=folder)).agg(collect)


@flow
def wörtlich(wort: str = "größe", seit: datetime.date = datetime.date(2026, 1, 2)):
    return numbers(2).next(größe(wort=wort, seit=seit))


@flow
def hanging():
    return numbers(3).map(slow).agg(collect)
"""


@dataclass
class Project:
    """A built project; `build` builds a flow into a folder of its own, once."""

    folder: Path

    def flow(self, name: str) -> FlowGraph:
        sys.modules.pop("emulated_flows", None)
        return load_flow(f"{self.folder / 'emulated_flows.py'}:{name}")()

    def build(self, name: str) -> Path:
        folder = self.folder / "builds" / name
        if not folder.exists():
            config = LokkiConfig(artifact_bucket="my-artifacts", build_dir=str(folder))
            Builder(write=lambda line: None).build(self.flow(name), config)
        return folder

    def session(self, name: str, root: Path, emit: Callable[[Event], None]) -> Session:
        return Session(self.build(name), emit, EmulationOptions(workers=2, shared=[root]), root)


def make_project(folder: Path) -> Project:
    """Write the project."""
    (folder / "emulated_flows.py").write_text(FLOWS.replace("def wörtlich", "def woertlich"))
    return Project(folder)
