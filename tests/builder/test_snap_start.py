"""SnapStart: what is built for it, and what a function does that Lambda restores from a snapshot."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from random import Random

import pytest
from aws.loopback_aws import LoopbackAws
from aws.moto_server import Aws
from aws.role_keys import RoleKeys, role_keys
from build_flows import add_up, fetch, roles_flow, unpack
from support.lambda_function import FLOW, RUN
from support.lambda_runtime import lambda_runtime
from test_cloudformation import of_type, template_of, zipped_handler

from lokki import step
from lokki.base.values import Json, Stored
from lokki.builder.cloudformation import build_template
from lokki.builder.package_types import ZipCode
from lokki.builder.settings import check_settings
from lokki.builder.template_text import dump_template
from lokki.config import LambdaDefaultsConfig, LokkiConfig
from lokki.errors import ConfigError, FlowError, StoreError
from lokki.store.codec import loads
from lokki.store.s3 import S3Store

SNAPSHOTS = LokkiConfig(artifact_bucket="acme-artifacts", lambda_defaults=LambdaDefaultsConfig(snap_start=True))
PLAIN = LokkiConfig(artifact_bucket="acme-artifacts")
TOO_LARGE = (
    "{step}() has 1024 MB of /tmp, and with lambda_defaults.snap_start Lambda gives 512. Lower its disk "
    "(@step(disk=…), lambda_defaults.disk), or remove snap_start from lokki.yml."
)


# --- what is built ---


def snap_starts(template: dict[str, Json]) -> dict[str, Json]:
    return {name: each.get("SnapStart") for name, each in of_type(template, "AWS::Lambda::Function").items()}


def template(config: LokkiConfig) -> dict[str, Json]:
    drawn = roles_flow()
    packages = {one.name: ZipCode(f"lokki-packages/{one.name}.zip") for one in drawn.steps}
    return build_template(drawn, config, packages)


def test_all_functions_start_from_snapshots_if_the_settings_say_so_and_none_without() -> None:
    applied = {"ApplyOn": "PublishedVersions"}
    names = ("FetchFunction", "DoubleFunction", "AddUpFunction")
    assert snap_starts(template(SNAPSHOTS)) == dict.fromkeys(names, applied)
    assert snap_starts(template(PLAIN)) == dict.fromkeys(names)


def test_a_step_with_more_disk_than_a_snapshot_may_have_is_refused() -> None:
    with pytest.raises(FlowError) as caught:
        template_of(fetch().next(add_up).next(unpack), SNAPSHOTS)
    assert str(caught.value) == TOO_LARGE.format(step="unpack")


def test_it_is_the_disk_that_a_function_gets_which_counts() -> None:
    @step(disk=512)
    def work() -> int:
        return 1

    large = replace(SNAPSHOTS, lambda_defaults=replace(SNAPSHOTS.lambda_defaults, disk=1024))
    assert snap_starts(template_of(work(), large)) == {"WorkFunction": {"ApplyOn": "PublishedVersions"}}
    with pytest.raises(FlowError) as caught:
        template_of(fetch(), large)
    assert str(caught.value) == TOO_LARGE.format(step="fetch")


def test_images_are_refused_before_anything_is_built() -> None:
    check_settings(SNAPSHOTS)
    with pytest.raises(ConfigError) as caught:
        check_settings(replace(SNAPSHOTS, ecr_repo_prefix="123456789012.dkr.ecr.eu-north-1.amazonaws.com/acme"))
    assert str(caught.value) == (
        "lambda_defaults.snap_start is for zip packages, and these are images. "
        "Set package_type: zip in lokki.yml, or remove snap_start."
    )


@pytest.mark.slow
def test_cfn_lint_takes_the_template(tmp_path: Path) -> None:
    path = tmp_path / "template.yaml"
    path.write_bytes(dump_template(template(SNAPSHOTS)))
    program = str(Path(sys.executable).with_name("cfn-lint"))
    # Not all regions: two have no SnapStart, which cfn-lint knows (E2530).
    options = ["--format", "json", "--regions", "eu-north-1", "us-east-1", "--include-checks", "I", "-i", "I4010"]
    done = subprocess.run([program, *options, "-t", str(path)], capture_output=True, text=True, check=False)
    assert json.loads(done.stdout) == []


def test_turning_it_on_publishes_new_versions_which_the_state_machine_invokes() -> None:
    with LoopbackAws() as account:
        cloudformation, s3 = account.client("cloudformation"), account.client("s3")
        bucket = account.new_bucket()
        for name in ("fetch", "double", "add_up"):
            s3.put_object(Bucket=bucket, Key=f"lokki-packages/{name}.zip", Body=zipped_handler())
        given = [
            {"ParameterKey": "FlowName", "ParameterValue": "snaps"},
            {"ParameterKey": "S3Bucket", "ParameterValue": bucket},
        ]

        names = ("snaps-fetch", "snaps-double", "snaps-add_up")

        def versions() -> dict[str, list[str]]:
            functions = account.client("lambda")
            # moto's functions are those of every account in this process: only the stack's own count.
            return {
                name: [each["Version"] for each in functions.list_versions_by_function(FunctionName=name)["Versions"]]
                for name in names
            }

        def deploy(config: LokkiConfig, create: bool) -> str:
            change = cloudformation.create_stack if create else cloudformation.update_stack
            body = dump_template(template(config)).decode()
            change(StackName="snaps", TemplateBody=body, Parameters=given, Capabilities=["CAPABILITY_IAM"])
            account.wait()
            return str(cloudformation.describe_stacks(StackName="snaps")["Stacks"][0]["StackStatus"])

        assert deploy(PLAIN, create=True) == "CREATE_COMPLETE"
        assert versions() == {name: ["$LATEST", "1"] for name in names}
        assert deploy(SNAPSHOTS, create=False) == "UPDATE_COMPLETE"
        assert versions() == {name: ["$LATEST", "1", "2"] for name in names}
        states = account.client("stepfunctions")
        [machine] = states.list_state_machines()["stateMachines"]
        definition = states.describe_state_machine(stateMachineArn=machine["stateMachineArn"])["definition"]
        assert set(re.findall(r":function:([\w-]+:\w+)", definition)) == {f"{name}:2" for name in names}


# --- the role's keys ---


@pytest.fixture
def keys() -> Iterator[RoleKeys]:
    with role_keys() as serving:
        yield serving


def store(keys: RoleKeys, **more: str) -> S3Store:
    return S3Store("birds", environ={**keys.environ, "AWS_ENDPOINT_URL": keys.address, **more})


def read(place: S3Store) -> bytes:
    return bytes(place.read(Stored(place.url("song"))))


def test_keys_are_fetched_once_while_they_are_valid(keys: RoleKeys) -> None:
    songs = store(keys)
    assert [read(songs) for _ in range(3)] == [b"a song"] * 3
    assert keys.seen == ["keys", "KEY1", "KEY1", "KEY1"]


def test_keys_that_expire_are_fetched_again(keys: RoleKeys) -> None:
    keys.valid = timedelta(seconds=-1)
    songs = store(keys)
    read(songs)
    keys.valid = timedelta(hours=1)
    read(songs)
    read(songs)
    assert keys.seen == ["keys", "KEY1", "keys", "KEY2", "KEY2"]


def test_keys_of_the_environment_go_before_the_endpoint(keys: RoleKeys) -> None:
    read(store(keys, AWS_ACCESS_KEY_ID="OWN", AWS_SECRET_ACCESS_KEY="secret"))
    assert keys.seen == ["OWN"]


@pytest.mark.parametrize("first", [(500, b""), (200, b"no JSON"), (200, b'{"AccessKeyId": "A"}')])
def test_an_answer_without_keys_is_asked_for_again(keys: RoleKeys, first: tuple[int, bytes]) -> None:
    keys.failures = [first] * 2
    assert read(store(keys)) == b"a song"
    assert keys.seen == ["keys", "keys", "keys", "KEY3"]


def test_an_endpoint_that_gives_no_keys_is_named_without_its_token(keys: RoleKeys) -> None:
    with pytest.raises(StoreError) as caught:
        read(store(keys, AWS_CONTAINER_AUTHORIZATION_TOKEN="wrong-token"))
    assert str(caught.value) == (
        "s3://birds/song cannot be read: the role's keys could not be fetched (OSError: "
        "AWS_CONTAINER_CREDENTIALS_FULL_URI answered with HTTP status 403). "
        "Check AWS_CONTAINER_CREDENTIALS_FULL_URI, and try again."
    )
    assert keys.seen == []


def test_keys_are_not_fetched_over_plain_http_from_elsewhere(keys: RoleKeys) -> None:
    for address in ("http://keys.example.com/keys", "http://10.0.0.1", "ftp://127.0.0.1/keys", "127.0.0.1/keys"):
        with pytest.raises(ConfigError, match="keys over plain http come from this machine only"):
            store(keys, AWS_CONTAINER_CREDENTIALS_FULL_URI=address)


# --- restores, under Lambda's runtime client ---

FLOW_MODULE = """
import random

import numpy
from snapshot_restore_py import register_after_restore

from lokki import flow, step

random.seed(1)         # what stands in every environment that is restored from one snapshot
numpy.random.seed(1)
OWN = random.Random(1)
HOOKED = []

@register_after_restore
def draw_in_a_hook():
    HOOKED.append(random.random())

@step
def draw(what):
    if what != "draw":
        return {**what, "read": True}
    numbers = {"shared": random.random(), "numpy": float(numpy.random.random()), "own": OWN.random()}
    return {**numbers, "hooked": HOOKED, "padding": "x" * 10_000}

@flow
def birds_flow(what: str = "x"):
    return draw(what)
"""
HANDLER = """
import os

from birds import birds_flow, draw

from lokki.runtime.handler import make_handler

lambda_handler = make_handler(draw, flow=birds_flow, calls={"draw": {"reads": "output"}})

class Context:
    def get_remaining_time_in_millis(self): return 60_000

if os.environ.get("STORED_BEFORE"):  # stands for whatever has used the store before the snapshot
    event = {"run_id": "before", "call": "draw", "params": {}, "input": {"result": {"padding": "x" * 10_000}}}
    lambda_handler(event, Context())
"""


def drawn(aws: Aws, folder: Path, environ: Mapping[str, str], seen: list[str]) -> dict[str, Json]:
    """Start a function, have it store what it draws and read that again; return the numbers, from the bucket."""
    folder.mkdir()
    (folder / "birds.py").write_text(FLOW_MODULE)
    (folder / "handler.py").write_text(HANDLER)
    bucket = aws.new_bucket()
    around = {"LOKKI_ARTIFACT_BUCKET": bucket, "LOKKI_FLOW_NAME": FLOW, "AWS_ENDPOINT_URL": aws.endpoint, **environ}
    event: dict[str, Json] = {"run_id": RUN, "call": "draw", "params": {}}
    with lambda_runtime(folder, "handler.lambda_handler", around, lambda: seen.append("restored")) as running:
        stored = running.invoke({**event, "input": {"result": "draw"}})
        assert stored.kind == "response", (stored, (folder / "log").read_text())
        again = running.invoke({**event, "input": stored.content})
        assert again.kind == "response", (again, (folder / "log").read_text())
    assert isinstance(again.content, dict)
    url = str(again.content["result_url"])
    value = loads(S3Store(bucket, environ=aws.environ).read(Stored(url)))
    assert isinstance(value, dict)
    assert value.pop("read") is True
    del value["padding"]
    return value


def test_restores_draw_different_numbers_and_use_the_keys_of_the_endpoint(
    aws: Aws, keys: RoleKeys, tmp_path: Path
) -> None:
    environ = {**keys.environ, "AWS_LAMBDA_INITIALIZATION_TYPE": "snap-start"}
    first, second = (drawn(aws, tmp_path / name, environ, keys.seen) for name in ("first", "second"))
    assert keys.seen == ["restored", "keys"] * 2
    for name in ("shared", "numpy", "hooked"):
        assert first[name] != second[name]
    # A generator of the step's own module is nobody's to seed: docs/configuration.md says so.
    assert first["own"] == second["own"] == Random(1).random()


def test_a_function_without_snapshots_is_left_alone(aws: Aws, tmp_path: Path) -> None:
    environ = {**aws.environ, "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand"}
    numbers = drawn(aws, tmp_path / "only", environ, [])
    assert numbers["shared"] == numbers["own"] == Random(1).random()
    assert numbers["hooked"] == []


def test_keys_from_before_the_snapshot_are_not_used_after_a_restore(aws: Aws, keys: RoleKeys, tmp_path: Path) -> None:
    environ = {**keys.environ, "AWS_LAMBDA_INITIALIZATION_TYPE": "snap-start", "STORED_BEFORE": "1"}
    drawn(aws, tmp_path / "used", environ, keys.seen)
    assert keys.seen == ["keys", "restored", "keys"]
