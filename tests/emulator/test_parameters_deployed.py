"""Inputs of executions: those that AWS's own tools send, and those that are nearly too large for a state."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from aws.deployed import Deployed

from lokki import flow, step
from lokki.base.values import Json
from lokki.config import LokkiConfig
from lokki.emulator.s3.client import S3Server
from lokki.errors import ParameterError
from lokki.plan import PARAMETERS_BYTES, bind_parameters, lower
from lokki.runner import LocalRunner


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with S3Server("acme-artifacts") as server:
        yield server


@step
def rows(count: int) -> list[str]:
    return [f"{number:04}" + "x" * 3900 for number in range(count)]


@step
def tag(row: str, words: list[str]) -> int:
    return len(row) + len(words)


@step
def total(sizes: list[int]) -> int:
    return sum(sizes)


@flow
def tagged(words: list[str], count: int = 60):
    return rows(count).map(tag(words), batch=60).agg(total)


@step
def greet(Comment: str) -> str:  # noqa: N803
    return Comment


@flow
def commented(Comment: str = "none"):  # noqa: N803
    return greet(Comment)


def words(size: int) -> list[str]:
    """Return words that with the other parameter have so many bytes as JSON."""
    rest = size - len(msgspec.json.encode({"words": [""], "count": 60}))
    return ["w" * rest]


ADDED: dict[str, Json] = {
    "Comment": "Insert your JSON here",
    "AWS_STEP_FUNCTIONS_STARTED_BY_EXECUTION_ID": "arn:aws:states:us-east-1:123456789012:execution:parent:run-1",
}


def test_what_the_tools_of_aws_add_to_an_input_starts_a_run(s3: S3Server) -> None:
    outcome = Deployed(tagged(), LokkiConfig(), s3).run({"words": ["a"], "count": 3, **ADDED}, "added")
    assert (outcome.status, outcome.output) == ("SUCCEEDED", {"result": 3 * 3905})


def test_any_other_key_is_refused_as_before(s3: S3Server) -> None:
    outcome = Deployed(tagged(), LokkiConfig(), s3).run({"words": ["a"], "comment": ""}, "unknown")
    assert outcome.error == "ParameterError"
    assert "unknown parameter 'comment' (the flow takes count, words)" in str(outcome.cause)


def test_a_flow_may_have_a_parameter_of_that_name(s3: S3Server) -> None:
    outcome = Deployed(commented(), LokkiConfig(), s3).run({"Comment": "mine"}, "own")
    assert outcome.output == {"result": "mine"}


def test_parameters_of_the_largest_size_go_through_a_batch_of_the_largest_items(s3: S3Server) -> None:
    outcome = Deployed(tagged(), LokkiConfig(), s3).run({"words": words(PARAMETERS_BYTES), "count": 60}, "largest")
    assert (outcome.status, outcome.output) == ("SUCCEEDED", {"result": 60 * 3905})


def test_larger_ones_are_refused_before_anything_starts(tmp_path: Path) -> None:
    graph = tagged()
    given = {"words": words(PARAMETERS_BYTES + 1), "count": 60}
    with pytest.raises(ParameterError) as bound:
        bind_parameters(lower(graph).params, given)
    assert str(bound.value) == (
        "the parameters have 180,001 bytes as JSON, and a run takes 180,000: Step Functions hands them from state to "
        "state. Put what is large into a file or an object, and pass where that is."
    )
    with pytest.raises(ParameterError, match="180,001 bytes"):
        LocalRunner(root=tmp_path / "runs").run(graph, given)
    assert not (tmp_path / "runs").exists()
