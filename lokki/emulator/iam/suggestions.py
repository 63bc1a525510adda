"""The lines that a user adds to a step for what was missing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from lokki.base.access import Allow, Permission, Read, Write, action_problem, quoted, resource_problem, url_problem
from lokki.emulator.iam.checking import Missing
from lokki.emulator.iam.policies import ANY, Need
from lokki.emulator.states.services import ACCOUNT, REGION

_READS = {"s3:GetObject", "s3:ListBucket"}
_WRITES = {"s3:AbortMultipartUpload", "s3:PutObject"}
_OBJECTS = "arn:aws:s3:::"
_UNWRITABLE = re.compile(r"[^ -~\u00a0-\u00ff]|\$(?=\{)")
"""What cannot stand in a permission."""


def suggest(needs: Iterable[Need]) -> list[Permission]:
    """Return permissions that allow all this, each once, sorted.

    Objects are allowed by the prefix that they are in, up to its last ``/``. Region and account are those of the stack.
    """
    # A service refuses operations of other names by itself.
    permissions = {_permission(need) for need in needs if not action_problem(need.action)}
    objects = sorted((entry for entry in permissions if not isinstance(entry, Allow)), key=repr)
    largest = [entry for entry in objects if not any(_covers(other, entry) for other in objects)]
    actions: dict[str, set[str]] = {}
    for entry in permissions:
        if isinstance(entry, Allow):
            for arn in map(str, entry.resources):
                actions.setdefault(arn, set()).update(entry.actions)
    resources: dict[tuple[str, ...], list[str]] = {}
    for arn, names in sorted(actions.items()):
        resources.setdefault(tuple(sorted(names)), []).append(arn)
    return [*largest, *(Allow(names, *arns) for names, arns in sorted(resources.items()))]


def suggested_lines(needs: Iterable[Need]) -> list[str]:
    """Return the permissions as they are written in a list, one a line."""
    return [
        repr(entry) if isinstance(entry, Allow) else f"{type(entry).__name__}({quoted(entry.url)})"
        for entry in suggest(needs)
    ]


def lines_by_step(missing: Iterable[Missing], steps: Mapping[str, str]) -> dict[str, list[str]]:
    """Return what each step lacks, as lines.

    ``steps``: the names of steps, by those of their functions.
    """
    needs: dict[str, list[Need]] = {}
    for entry in missing:
        needs.setdefault(steps.get(entry.function, entry.function), []).append(entry.need)
    return {step: suggested_lines(listed) for step, listed in needs.items()}


def advice(lines: Mapping[str, Sequence[str]]) -> str:
    """Say what to add to which step, "" where nothing was missing."""
    return "".join(
        f"\n{step}() lacks permissions that it needs on AWS; add to @step(permissions=[…]):"
        + "".join(f"\n    {line}," for line in listed)
        for step, listed in lines.items()
    )


def _permission(need: Need) -> Permission:
    bucket, _, key = need.resource.removeprefix(_OBJECTS).partition("/")
    if need.action == "s3:ListBucket":
        key = need.prefix or ""
    elif not key or need.action not in _READS | _WRITES:
        return _allow(need)
    # Up to the last slash; a key without one stands for itself.
    url = f"s3://{bucket}/{_UNWRITABLE.sub('?', key[: key.rfind('/') + 1] or key)}"
    if url_problem(url):  # a bucket of a name that is none
        return _allow(need)
    return Write(url) if need.action in _WRITES else Read(url)


def _allow(need: Need) -> Allow:
    resource = _portable(need.resource or need.hint or ANY)
    return Allow(need.action, ANY if resource_problem(resource) else resource)


def _portable(arn: str) -> str:
    """Put the stack's own region and account into an ARN of the emulator's.

    A region that the step's code chose stays. The six characters behind the name of a secret differ in every account.
    """
    arn = _UNWRITABLE.sub("?", arn)
    if arn.startswith(_OBJECTS):  # all that is beside the object
        return re.sub(r"(/.*/).*$", r"\1*", arn)
    arn = re.sub(rf"^(arn:aws:[a-z0-9-]+:[^:]*):{ACCOUNT}:", r"\1:${AWS::AccountId}:", arn)
    arn = re.sub(rf"^(arn:aws:[a-z0-9-]+):{REGION}:", r"\1:${AWS::Region}:", arn)
    return re.sub(r"(:secret:.*-)\w{6}$", r"\1??????", arn)


def _covers(other: Permission, entry: Permission) -> bool:
    """Tell whether one prefix holds another of the same kind."""
    if isinstance(other, Allow) or isinstance(entry, Allow) or type(other) is not type(entry) or other == entry:
        return False
    return other.url.endswith("/") and entry.url.startswith(other.url)
