"""The statements of a role, and what they allow.

lokki's roles have conditions by StringLike, and deny some things to the code of functions.
https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements.html
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from lokki.emulator.states.services import ACCOUNT, REGION

_ARN_PARTS = 6
ANY = "*"
"""The resource of an action that has none."""


@dataclass(frozen=True, slots=True)
class Need:
    """What IAM checks for a request.

    * ``action``: such as ``s3:GetObject``.
    * ``resource``: an ARN; `ANY` where the action has none, "" where it is not known.
    * ``hint``: an ARN that stands in the request, where it is not known whether IAM checks it.
    * ``prefix``: of a list of objects, which is a condition key; None for all else.
    """

    action: str
    resource: str
    prefix: str | None = None
    hint: str = ""


@dataclass(frozen=True, slots=True)
class PolicyStatement:
    """A statement, which allows or denies.

    ``conditions``: by the condition key, patterns of which one must match.
    """

    actions: tuple[str, ...]
    resources: tuple[str, ...]
    conditions: Mapping[str, tuple[str, ...]]
    denies: bool = False

    def covers(self, need: Need) -> bool:
        """Tell whether it says something of a request."""
        return (
            any(matches_pattern(action.lower(), need.action.lower()) for action in self.actions)
            and (not need.resource or any(names(resource, need.resource) for resource in self.resources))
            and all(self._meets(key, patterns, need) for key, patterns in self.conditions.items())
        )

    @staticmethod
    def _meets(key: str, patterns: Iterable[str], need: Need) -> bool:
        # A condition on a key that the request does not have is not met.
        return (
            key == "s3:prefix"
            and need.prefix is not None
            and any(matches_pattern(text, need.prefix) for text in patterns)
        )


def allowed(statements: Sequence[PolicyStatement], need: Need) -> bool:
    """Tell whether the statements of a role allow something.

    One that denies it outdoes all others:
    https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_evaluation-logic.html
    """
    effects = {statement.denies for statement in statements if statement.covers(need)}
    return effects == {False}


def names(pattern: str, arn: str) -> bool:
    """Tell whether a resource of a policy names an ARN of the emulation.

    The emulation's account stands for whichever account the policy names, and its region, where the step's code chose
    none, for whichever region.

    >>> names("arn:aws:sqs:eu-north-1:210987654321:birds", f"arn:aws:sqs:{REGION}:{ACCOUNT}:birds")
    True
    >>> names("arn:aws:sqs:eu-north-1:210987654321:birds", f"arn:aws:sqs:eu-west-1:{ACCOUNT}:birds")
    False
    """
    parts, actual = pattern.split(":", 5), arn.split(":", 5)
    if len(parts) == len(actual) == _ARN_PARTS:
        if parts[4].isdigit() and actual[4] == ACCOUNT:
            parts[4] = ACCOUNT
        if actual[3] == REGION:
            parts[3] = REGION
        parts[1] = actual[1]
    return matches_pattern(":".join(parts), arn)


def matches_pattern(pattern: str, text: str) -> bool:
    """Tell whether a text is what a pattern with * and ? says.

    >>> matches_pattern("arn:aws:s3:::lake/raw/*", "arn:aws:s3:::lake/raw/2026/a"), matches_pattern("a?c", "ac")
    (True, False)
    """
    return _compiled(pattern).fullmatch(text) is not None


@lru_cache(maxsize=10_000)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(re.escape(pattern).replace(r"\*", ".*").replace(r"\?", "."), re.DOTALL)
