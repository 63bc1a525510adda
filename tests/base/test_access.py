"""What a step may touch: good permissions are kept, wrong ones are refused with what to write."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import lokki
from lokki import Allow, FlowError, Read, Write, step
from lokki.base.access import parts_of_url

TABLE = "arn:aws:dynamodb:eu-north-1:123456789012:table/birds"


def test_permissions_are_written_back_as_they_stand_in_a_file() -> None:
    permissions = [
        Read(url="s3://lake/raw/"),
        Allow("dynamodb:GetItem", TABLE),
        Allow(["sqs:SendMessage", "sqs:Get*"], "*", "arn:aws:sqs:${AWS::Region}:${AWS::AccountId}:b"),
    ]
    assert [
        eval(repr(permission), {name: getattr(lokki, name) for name in ("Allow", "Read", "Write")})
        for permission in permissions
    ] == permissions
    assert repr(permissions[1]) == f'Allow("dynamodb:GetItem", "{TABLE}")'


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("s3://lake/raw/2026/", ("lake", "raw/2026/*")),
        ("s3://lake/birds.csv", ("lake", "birds.csv")),
        ("s3://lake/*.csv", ("lake", "*.csv")),
        ("s3://lake/", ("lake", "*")),
        ("s3://lake/gr\u00f6\u00dfe a?b/", ("lake", "gr\u00f6\u00dfe a?b/*")),
    ],
)
def test_a_prefix_ends_with_a_slash_and_anything_else_is_an_object(url: str, parts: tuple[str, str]) -> None:
    assert parts_of_url(Read(url).url) == parts_of_url(Write(url).url) == parts


MISSING = TABLE.replace("birds", "${Table}")

WRONG: list[tuple[Callable[[], object], str]] = [
    (lambda: Read("lake/raw"), "Read('lake/raw'): give \"s3://bucket/prefix/\" for all below a prefix, or "),
    (lambda: Write("s3://lake"), "Write('s3://lake'): give \"s3://bucket/prefix/\" for all below a prefix, or "),
    (lambda: Read("s3://la*ke/raw/"), "Read('s3://la*ke/raw/'): give "),
    (lambda: Read("s3://lake/${day}/"), "Read('s3://lake/${day}/'): '${' cannot stand in it."),
    (
        lambda: Write("s3://lake/\u9ce5"),
        "Write('s3://lake/\u9ce5'): '\u9ce5' cannot stand in a policy: write ?",
    ),
    (lambda: Allow("GetItem", "*"), 'Allow("GetItem", "*"): \'GetItem\' is no action: give a service and what it does'),
    (lambda: Allow("*", "*"), 'Allow("*", "*"): \'*\' is no action: '),
    (lambda: Allow("sqs:*", "birds"), 'Allow("sqs:*", "birds"): \'birds\' is no ARN: give arn:aws:<service>:<region>:'),
    (
        lambda: Allow("sqs:*", MISSING),
        f'Allow("sqs:*", "{MISSING}"): {MISSING!r}: of placeholders there are ${{AWS',
    ),
    (lambda: Allow("sqs:*"), 'Allow("sqs:*"): give an action and the ARN that it is for, '),
    (lambda: Allow([], "*"), 'Allow([], "*"): give an action and the ARN that it is for, '),
    (
        lambda: step(permissions=Read("s3://lake/raw/")),  # type: ignore[call-overload]
        "@step(permissions=Read(url='s3://lake/raw/')): give a list, such as permissions=[Read(",
    ),
    (
        lambda: step(permissions=["s3:GetObject"]),  # type: ignore[list-item]
        '@step(permissions=[\'s3:GetObject\']): give Read("s3://…"), Write("s3://…") or Allow(',
    ),
]


@pytest.mark.parametrize(("make", "message"), WRONG, ids=[message for _, message in WRONG])
def test_what_cannot_be_a_permission_says_what_to_write(make: Callable[[], object], message: str) -> None:
    with pytest.raises(FlowError) as error:
        make()
    assert str(error.value)[: len(message)] == message
