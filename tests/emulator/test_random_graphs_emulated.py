"""The law of graphs on AWS: however random, their state machines and functions give what plain calls give."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from aws.deployed import Deployed
from support.random_flow_files import packaged
from support.random_flows import drawn, evaluate

from lokki.base.values import ref_from_reply
from lokki.builder.builder import Builder
from lokki.config import LokkiConfig
from lokki.emulator.run import EmulationOptions
from lokki.emulator.s3.client import S3Server
from lokki.emulator.session import Session
from lokki.store.base import load
from lokki.store.s3 import S3Store

CONFIG = LokkiConfig(artifact_bucket="acme-artifacts")


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with S3Server("acme-artifacts") as server:
        yield server


def check(s3: S3Server, seeds: range, at_once: int) -> None:
    """Run state machines on real handlers in this process; so many graphs are drawn into one flow."""
    for start in seeds[::at_once]:
        members = range(start, start + at_once)
        deployed = Deployed(drawn(members), CONFIG, s3)
        outcome = deployed.run({}, f"run-{start}")
        assert outcome.status == "SUCCEEDED", (members, outcome)
        store = S3Store("acme-artifacts", f"lokki/{deployed.graph.name}/", environ=s3.variables("caller"))
        assert isinstance(outcome.output, dict)
        replies = outcome.output["results"]
        assert isinstance(replies, list)
        assert tuple(load(store, ref_from_reply(reply)) for reply in replies) == evaluate(members), members


def test_random_graphs_give_what_plain_calls_give_emulated(s3: S3Server) -> None:
    check(s3, range(50), 25)


@pytest.mark.slow
def test_many_random_graphs_give_what_plain_calls_give_emulated(s3: S3Server) -> None:
    check(s3, range(50, 2_000), 1)


@pytest.mark.slow
@pytest.mark.parametrize("start", range(0, 120, 40))
def test_random_graphs_in_real_packages_give_what_plain_calls_give(tmp_path: Path, start: int) -> None:
    """Eight in a run: more states are no state machine for AWS, and processes of functions start anew in each run."""
    members = range(start, start + 8)
    graph, bundle = packaged(tmp_path, members), tmp_path / "build"
    config = LokkiConfig(artifact_bucket="my-artifacts", build_dir=str(bundle))
    Builder(write=lambda line: None).build(graph, config)
    session = Session(bundle, lambda event: None, EmulationOptions(workers=4, skip_waits=True), tmp_path / "emulated")
    assert session.run(graph, {}) == evaluate(members)
