"""What a step may touch on AWS beyond lokki's own bucket: the values of ``@step(permissions=[…])``.

Each is checked when it is made, so that a mistake names the user's line. `lokki.builder.permissions` makes policies of
them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from lokki.errors import FlowError

# Texts, compiled at their first use: cold starts load this module.
_URL = r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])/((?s:.*))"
_ACTION = r"[A-Za-z0-9-]+:[A-Za-z0-9*?]+"
_ARN = r"arn:[a-z*?-]+:[A-Za-z0-9*?-]+:[A-Za-z0-9*?-]*:[A-Za-z0-9*?-]*:.+"
_PLACEHOLDER = r"\$\{AWS::(Region|AccountId|Partition)\}"
_SOURCE = (
    r"ssm:/?[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*|(?!ssm:|arn:)[A-Za-z0-9/_+=.@-]{1,512}"
    r"|arn:[a-z-]+:secretsmanager:[a-z0-9-]+:[0-9]{12}:secret:[A-Za-z0-9/_+=.@-]+"
)
_LAYER = r"arn:[a-z-]+:lambda:[a-z0-9-]+:[0-9]{12}:layer:[A-Za-z0-9_-]{1,140}:[0-9]+"
"""https://docs.aws.amazon.com/lambda/latest/api/API_Layer.html"""

_RESOURCE = r"[A-Za-z0-9]{1,255}(\.[A-Za-z0-9.]+)?"
"""https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/resources-section-structure.html"""

_OUTSIDE_POLICIES = "[^ -~\\u00a0-\\u00ff]"
"""What the text of a policy cannot have, and line breaks, which no ARN has.
https://docs.aws.amazon.com/IAM/latest/APIReference/API_PutRolePolicy.html"""


@dataclass(frozen=True, slots=True)
class Read:
    """Permission to read objects in S3 and to list them.

    ``Read("s3://lake/raw/")`` is for all below the prefix, ``Read("s3://lake/birds.csv")`` for one object; ``*`` stands
    for anything. Raises FlowError for what is no such URL.
    """

    url: str

    def __post_init__(self) -> None:
        _check_url("Read", self.url)


@dataclass(frozen=True, slots=True)
class Write:
    """Permission to write objects to S3, also in parts.

    The URL is as `Read` takes it. It does not allow to read or to delete. Raises FlowError for what is no such URL.
    """

    url: str

    def __post_init__(self) -> None:
        _check_url("Write", self.url)


@dataclass(frozen=True, slots=True, repr=False)
class Resource:
    """A resource of the template that ``merge_template`` names.

    ``Resource("Table")`` is what ``!Ref Table`` gives, most often the name, and ``Resource("Table.Arn")`` an attribute.
    Raises FlowError for what names none.
    """

    name: str

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not re.fullmatch(_RESOURCE, self.name):
            raise FlowError(
                f'{self!r}: give the logical id of a resource, such as Resource("Table"), or an attribute of it, such '
                'as Resource("Table.Arn").'
            )

    @property
    def id(self) -> str:
        """The logical id."""
        return self.name.partition(".")[0]

    @property
    def attribute(self) -> str:
        """The attribute, "" for what Ref gives."""
        return self.name.partition(".")[2]

    def __repr__(self) -> str:
        """Return it as it is written in a flow's file."""
        return f"Resource({quoted(self.name)})"


@dataclass(frozen=True, slots=True, init=False, repr=False)
class Allow:
    """Permission to do actions of any service on some resources.

    ``Allow("dynamodb:GetItem", "arn:aws:dynamodb:eu-north-1:123456789012:table/birds")``. Several actions are a list,
    several resources follow each other. In ARNs ``${AWS::Region}``, ``${AWS::AccountId}`` and ``${AWS::Partition}``
    stand for where the flow is deployed, ``*`` for anything; the resource ``"*"`` is for actions that have none, and
    ``Resource("Table.Arn")`` for one of ``merge_template``. Raises FlowError for what is no action or no ARN.
    """

    actions: tuple[str, ...]
    resources: tuple[str | Resource, ...]

    def __init__(self, actions: str | Iterable[str], *resources: str | Resource) -> None:
        names = (actions,) if isinstance(actions, str) else tuple(actions)
        object.__setattr__(self, "actions", names)
        object.__setattr__(self, "resources", resources)
        if not names or not resources:
            raise FlowError(
                f"{self!r}: give an action and the ARN that it is for, such as "
                'Allow("dynamodb:GetItem", "arn:aws:dynamodb:eu-north-1:123456789012:table/birds").'
            )
        problems = (*map(action_problem, names), *map(resource_problem, resources))
        if problem := next(filter(None, problems), ""):
            raise FlowError(f"{self!r}: {problem}.")

    def __repr__(self) -> str:
        """Return it as it is written in a flow's file."""
        actions = quoted(self.actions[0]) if len(self.actions) == 1 else f"[{', '.join(map(quoted, self.actions))}]"
        return f"Allow({', '.join([actions, *map(quoted, self.resources)])})"


type Permission = Read | Write | Allow
"""What ``@step(permissions=[…])`` takes."""


SSM = "ssm:"
"""How sources of secrets begin that are parameters of Systems Manager; all others are in Secrets Manager."""


def secret_permission(source: str) -> Allow:
    """Return the permission to read a secret, and nothing else.

    Secrets Manager puts six characters behind a name:
    https://docs.aws.amazon.com/secretsmanager/latest/userguide/auth-and-access_iam-policies.html
    """
    if source.startswith("arn:"):
        return Allow("secretsmanager:GetSecretValue", source)
    place = "${AWS::Region}:${AWS::AccountId}"
    if source.startswith(SSM):
        name = source.removeprefix(SSM).removeprefix("/")
        return Allow("ssm:GetParameter", f"arn:${{AWS::Partition}}:ssm:{place}:parameter/{name}")
    resource = f"arn:${{AWS::Partition}}:secretsmanager:{place}:secret:{source}-??????"
    return Allow("secretsmanager:GetSecretValue", resource)


def secret_problem(source: object) -> str:
    """Return what is wrong with the source of a secret, or "".

    https://docs.aws.amazon.com/secretsmanager/latest/apireference/API_CreateSecret.html,
    https://docs.aws.amazon.com/systems-manager/latest/APIReference/API_PutParameter.html
    """
    if isinstance(source, str) and re.fullmatch(_SOURCE, source):
        return ""
    return (
        "give the name or the ARN of a secret in Secrets Manager, such as 'prod/api-token', or 'ssm:/prod/api-token' "
        "for a parameter of Systems Manager; never its value"
    )


def layer_problem(layer: object) -> str:
    """Return what is wrong with the ARN of a layer, or ""."""
    if isinstance(layer, str) and re.fullmatch(_LAYER, layer):
        return ""
    return (
        "give the ARN of a layer with its version, such as "
        "'arn:aws:lambda:eu-north-1:123456789012:layer:native-libraries:3'"
    )


def parts_of_url(url: str) -> tuple[str, str]:
    """Return the bucket of a checked URL, and the pattern of its keys.

    >>> parts_of_url("s3://lake/raw/"), parts_of_url("s3://lake/birds.csv"), parts_of_url("s3://lake/")
    (('lake', 'raw/*'), ('lake', 'birds.csv'), ('lake', '*'))
    """
    bucket, _, key = url.removeprefix("s3://").partition("/")
    return bucket, f"{key}*" if not key or key.endswith("/") else key


def url_problem(url: object) -> str:
    """Return what is wrong with a URL of S3, or ""."""
    match = re.fullmatch(_URL, url) if isinstance(url, str) else None
    if match is None:
        return 'give "s3://bucket/prefix/" for all below a prefix, or "s3://bucket/key" for one object'
    return _problem_in_policy(match[2]) or ("'${' cannot stand in it" if "${" in match[2] else "")


def action_problem(action: object) -> str:
    """Return what is wrong with an action of IAM, or ""."""
    if isinstance(action, str) and re.fullmatch(_ACTION, action):
        return ""
    return f'{action!r} is no action: give a service and what it does, such as "dynamodb:GetItem"'


def resource_problem(resource: object) -> str:
    """Return what is wrong with a resource of IAM, or ""."""
    if isinstance(resource, Resource):
        return ""
    if not isinstance(resource, str):
        return f'{resource!r} is no ARN: give a text, such as "arn:aws:sqs:eu-north-1:123456789012:birds"'
    text = re.sub(_PLACEHOLDER, "x", resource)
    if "${" in text:
        return f"{resource!r}: of placeholders there are ${{AWS::Region}}, ${{AWS::AccountId}} and ${{AWS::Partition}}"
    if resource != "*" and not re.fullmatch(_ARN, text):
        return (
            f"{resource!r} is no ARN: give arn:aws:<service>:<region>:<account>:<resource>, such as "
            '"arn:aws:sqs:eu-north-1:123456789012:birds"'
        )
    return _problem_in_policy(text)


def _check_url(name: str, url: object) -> None:
    if problem := url_problem(url):
        raise FlowError(f"{name}({url!r}): {problem}.")


def _problem_in_policy(text: str) -> str:
    if match := re.search(_OUTSIDE_POLICIES, text):
        return f"{match[0]!r} cannot stand in a policy: write ? in its place, which stands for any character"
    return ""


def quoted(value: object) -> str:
    """Return a text as it is written in a flow's file."""
    return f'"{value}"' if isinstance(value, str) and value.isprintable() and '"' not in value else repr(value)
