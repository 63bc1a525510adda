"""Lambda functions without Lambda: handlers called directly, against a bucket of the moto server."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from aws.moto_server import Aws

from lokki.base.values import Json
from lokki.chain import AnyStep
from lokki.decorators import Flow
from lokki.runtime.handler import Handler, make_handler

FLOW = "birds-flow"
RUN = "run-1"


@dataclass
class Context:
    """Lambda's context object: time left, in milliseconds; each look costs some of it."""

    left: int = 900_000
    cost: int = 0

    def get_remaining_time_in_millis(self) -> int:
        self.left -= self.cost
        return self.left


@dataclass(frozen=True)
class Cloud:
    """A bucket, and the functions that use it."""

    aws: Aws
    bucket: str
    environ: dict[str, str] = field(default_factory=dict)

    def function(
        self, step: AnyStep, call: Mapping[str, Json] | None = None, flow: Flow[...] | None = None, **environ: str
    ) -> Handler:
        """Make the handler of a step for one call of it, described as in a generated ``handler.py``."""
        calls: Mapping[str, Json] | None = None if call is None else {step.name: dict(call)}
        variables = {"LOKKI_ARTIFACT_BUCKET": self.bucket, "LOKKI_FLOW_NAME": FLOW}
        return make_handler(step, flow=flow, calls=calls, environ={**self.aws.environ, **variables, **environ})

    def url(self, key: str) -> str:
        return f"s3://{self.bucket}/lokki/{FLOW}/{RUN}/{key}"

    def put(self, key: str, content: bytes) -> str:
        """Write an object of the run, past the code under test; return its URL."""
        self.aws.s3.put_object(Bucket=self.bucket, Key=f"lokki/{FLOW}/{RUN}/{key}", Body=content)
        return self.url(key)

    def put_results(self, source: str, *files: object) -> str:
        """Write the files of a map's results and their manifest, as Step Functions does; return the manifest's key."""
        folder = f"lokki/{FLOW}/{RUN}/{source}/map_results/8e8a0b6e"
        listed = []
        for number, content in enumerate(files):
            text = json.dumps(content).encode()
            key = f"{folder}/SUCCEEDED_{number}.json"
            listed.append({"Key": key, "Size": len(text)})
            self.aws.s3.put_object(Bucket=self.bucket, Key=key, Body=text)
        manifest = {
            "DestinationBucket": self.bucket,
            "MapRunArn": f"arn:aws:states:us-east-1:123456789012:mapRun:{FLOW}/{source}:8e8a0b6e",
            "ResultFiles": {"FAILED": [], "PENDING": [], "SUCCEEDED": listed},
        }
        self.aws.s3.put_object(Bucket=self.bucket, Key=f"{folder}/manifest.json", Body=json.dumps(manifest).encode())
        return f"{folder}/manifest.json"

    @property
    def objects(self) -> dict[str, bytes]:
        """All objects of the run, by their keys within it."""
        prefix = f"lokki/{FLOW}/{RUN}/"
        found = {}
        for page in self.aws.s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket):
            for each in page.get("Contents", []):
                body = self.aws.s3.get_object(Bucket=self.bucket, Key=each["Key"])["Body"].read()
                found[each["Key"].removeprefix(prefix)] = body
        return found


def event(call: AnyStep, /, **fields: object) -> dict[str, object]:
    """Make the event of a call: ``event(flap_bird, item={"index": 0, "item": "goose"})``."""
    return {"run_id": RUN, "call": call.name, "params": {}, **fields}


def unpickled(content: bytes) -> object:
    """Read a result as anybody can."""
    import gzip
    import pickle

    return pickle.loads(gzip.decompress(content))
