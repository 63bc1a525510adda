"""The evaluator of event patterns that tests deliver events with: it decides what EventBridge's page says."""

from __future__ import annotations

import pytest
from aws.event_patterns import matches_pattern

from lokki.base.values import Json

EVENT: Json = {
    "source": "aws.ec2",
    "detail-type": "EC2 Instance State-change Notification",
    "resources": ["arn:aws:ec2:us-east-1:123456789012:instance/i-1", "arn:aws:ec2:us-east-1:123456789012:instance/i-2"],
    "detail": {
        "state": "running",
        "count": 5,
        "ratio": 3.5,
        "nothing": None,
        "empty": "",
        "flag": True,
        "ip": "10.0.0.7",
        "file": "birds/2026/raw.CSV",
        "tags": ["a", "b"],
        "parts": [{"name": "wing", "size": 1}, {"name": "tail", "size": 2}],
    },
}


@pytest.mark.parametrize(
    ("rules", "field", "matches"),
    [
        (["running", "stopped"], "state", True),
        (["Running"], "state", False),
        ([5], "count", True),
        ([5.0], "count", True),
        (["5"], "count", False),
        ([None], "nothing", True),
        ([""], "empty", True),
        ([None], "missing", False),
        ([True], "flag", True),
        ([1], "flag", False),
        (["b"], "tags", True),
        ([{"prefix": "birds/"}], "file", True),
        ([{"prefix": "Birds/"}], "file", False),
        ([{"prefix": {"equals-ignore-case": "BIRDS/"}}], "file", True),
        ([{"suffix": ".csv"}], "file", False),
        ([{"suffix": {"equals-ignore-case": ".csv"}}], "file", True),
        ([{"equals-ignore-case": "RUNNING"}], "state", True),
        ([{"wildcard": "birds/*/raw.*"}], "file", True),
        ([{"wildcard": "birds/*/raw"}], "file", False),
        ([{"wildcard": "birds\\*"}], "file", False),
        ([{"anything-but": "stopped"}], "state", True),
        ([{"anything-but": ["stopped", "running"]}], "state", False),
        ([{"anything-but": 5}], "count", False),
        ([{"anything-but": {"prefix": "birds/"}}], "file", False),
        ([{"anything-but": {"prefix": ["geese/", "ducks/"]}}], "file", True),
        ([{"anything-but": {"suffix": ".CSV"}}], "file", False),
        ([{"anything-but": {"wildcard": "*/raw.*"}}], "file", False),
        ([{"anything-but": "x"}], "missing", False),
        ([{"numeric": [">", 0, "<=", 5]}], "count", True),
        ([{"numeric": [">", 5]}], "count", False),
        ([{"numeric": ["=", 3.5]}], "ratio", True),
        ([{"numeric": ["=", 5]}], "state", False),
        ([{"exists": True}], "state", True),
        ([{"exists": False}], "state", False),
        ([{"exists": False}], "missing", True),
        ([{"exists": True}], "nothing", True),
        ([{"cidr": "10.0.0.0/24"}], "ip", True),
        ([{"cidr": "10.0.1.0/24"}], "ip", False),
    ],
)
def test_a_rule_decides_as_aws_documents_it(rules: Json, field: str, matches: bool) -> None:
    assert matches_pattern({"detail": {field: rules}}, EVENT) is matches


def test_fields_are_all_needed_and_alternatives_by_or() -> None:
    running: Json = {"state": ["running"]}
    assert matches_pattern({"source": ["aws.ec2"], "detail": running}, EVENT)
    assert not matches_pattern({"source": ["aws.s3"], "detail": running}, EVENT)
    either: Json = {"$or": [{"state": ["stopped"]}, {"count": [{"numeric": [">", 4]}]}]}
    assert matches_pattern({"detail": either}, EVENT)
    assert not matches_pattern({"detail": {"$or": [{"state": ["stopped"]}, {"count": [4]}]}}, EVENT)
    assert matches_pattern({"resources": [{"suffix": "instance/i-2"}]}, EVENT)
    assert matches_pattern({"detail": {"parts": {"name": ["tail"], "size": [2]}}}, EVENT)
    assert not matches_pattern({"detail": {"parts": {"name": ["tail"], "size": [1]}}}, EVENT)
    assert not matches_pattern({"detail": {"state": {"name": ["running"]}}}, EVENT)


@pytest.mark.parametrize("pattern", [{"detail": "running"}, {"detail": {"state": [{"suffx": "g"}]}}, ["aws.ec2"]])
def test_what_is_no_pattern_is_refused(pattern: Json) -> None:
    with pytest.raises(AssertionError):
        matches_pattern(pattern, EVENT)
