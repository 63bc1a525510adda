"""IAM's rules for the policies that lokki writes, and the calls of an emulated run as IAM would see them.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_evaluation-logic.html
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import parse_qs

from lokki.base.values import Json

ACCOUNT = "123456789012"
REGION = "us-east-1"

type Mapped = Mapping[str, Json]
type Use = tuple[str, str, str]
"""A statement's Sid, an action and a resource of it."""


@dataclass(frozen=True, slots=True)
class Call:
    """A call to AWS: who makes it, the action, the resource's ARN, and the condition keys that it has."""

    role: str
    action: str
    resource: str
    context: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Statement:
    """An Allow statement.

    ``condition``: for each condition key the patterns, one of which must match it; ``equal``: the values.
    """

    sid: str
    actions: tuple[str, ...]
    resources: tuple[str, ...]
    condition: tuple[tuple[str, tuple[str, ...]], ...] = ()
    equal: tuple[tuple[str, tuple[str, ...]], ...] = ()

    def uses(self, call: Call) -> Iterator[Use]:
        """Yield by which of its actions and resources it allows a call."""
        context = dict(call.context)
        for key, patterns in self.condition:
            if key not in context or not any(matches(pattern, context[key]) for pattern in patterns):
                return
        if any(context.get(key) not in values for key, values in self.equal):
            return
        for action in self.actions:
            for resource in self.resources:
                if matches(action, call.action, case=False) and matches(resource, call.resource):
                    yield self.sid, action, resource

    @property
    def all_uses(self) -> set[Use]:
        """Everything that it allows."""
        return {(self.sid, action, resource) for action in self.actions for resource in self.resources}


def matches(pattern: str, text: str, *, case: bool = True) -> bool:
    """Tell whether a text is what a pattern with * and ? says; * also stands for / and for nothing."""
    expression = re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".")
    return re.fullmatch(expression, text, re.DOTALL if case else re.DOTALL | re.IGNORECASE) is not None


@dataclass(frozen=True)
class Roles:
    """The roles of a template, for one stack of it: the statements of each role, by its logical id."""

    template: Mapped
    values: Mapping[str, str] = field(default_factory=dict)

    def statements(self, role: str) -> list[Statement]:
        """Return what a role may do. Fails for anything in a policy that this evaluator does not know."""
        return [
            self._statement(cast("Mapped", each))
            for document in self.documents(role)
            for each in _list(document["Statement"])
        ]

    def documents(self, role: str) -> list[Mapped]:
        """Return the policies of a role: the inline one, then the managed ones that the template makes."""
        properties = cast("dict[str, list[dict[str, Mapped]]]", self._resource(role)["Properties"])
        managed = [
            cast("dict[str, Mapped]", self._resource(str(each["Ref"]))["Properties"])
            for each in properties.get("ManagedPolicyArns", [])
        ]
        return [policy["PolicyDocument"] for policy in (*properties["Policies"], *managed)]

    def size(self, document: Mapped) -> int:
        """Return how many characters IAM counts of a policy: all but white space."""
        return len(json.dumps(self._filled(dict(document)), separators=(",", ":")))

    def _filled(self, value: Json) -> Json:
        if isinstance(value, list):
            return [self._filled(each) for each in value]
        if not isinstance(value, dict):
            return value
        if value.keys() & {"Ref", "Fn::Sub", "Fn::GetAtt"}:
            return self.text(value)
        return {name: self._filled(each) for name, each in value.items()}

    @property
    def names(self) -> set[str]:
        """The logical ids of the roles."""
        return {name for name, each in self._resources.items() if each["Type"] == "AWS::IAM::Role"}

    def log_group(self, function: str) -> str:
        """Return the ARN of the group that a function logs to, by the ARN of its version."""
        [properties] = [
            cast("Mapped", each["Properties"])
            for name, each in self._resources.items()
            if each["Type"] == "AWS::Lambda::Function" and function.startswith(f"{self.arn(name)}:")
        ]
        group = cast("dict[str, dict[str, str]]", properties["LoggingConfig"])["LogGroup"]["Ref"]
        return self.arn(group).removesuffix(":*")

    def arn(self, name: str) -> str:
        """Return the ARN that GetAtt, or Ref for state machines, gives of a resource."""
        resource = self._resource(name)
        properties = cast("Mapped", resource["Properties"])
        match resource["Type"]:
            case "AWS::Lambda::Function":
                return f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{self.text(properties['FunctionName'])}"
            case "AWS::Logs::LogGroup":
                return f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:{self.text(properties['LogGroupName'])}:*"
            case "AWS::StepFunctions::StateMachine":
                return f"arn:aws:states:{REGION}:{ACCOUNT}:stateMachine:{self.text(properties['StateMachineName'])}"
        known = {"AWS::SNS::Topic": "sns", "AWS::SQS::Queue": "sqs", "AWS::Events::Connection": "events"}
        kind = str(resource["Type"])
        if kind in known:
            named = f"connection/{name}/c0" if known[kind] == "events" else name
            return f"arn:aws:{known[kind]}:{REGION}:{ACCOUNT}:{named}"
        raise AssertionError(f"no ARN is known of a {resource['Type']}")

    def text(self, value: Json) -> str:
        """Return a text with Ref, Fn::Sub and Fn::GetAtt resolved."""
        match value:
            case str():
                return value
            case {"Fn::Sub": str(text)}:
                return re.sub(r"\$\{([\w:]+)(?:\.Arn)?\}", lambda found: self._value(found[1]), text)
            case {"Fn::GetAtt": [str(name), "Arn"]}:
                return self.arn(name)
            case {"Fn::GetAtt": [str(name), "SecretArn"]}:
                return f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:events!{self.arn(name).rpartition(':')[2]}"
            case {"Ref": str(name)}:
                return self._value(name)
        raise AssertionError(f"not known: {value}")

    @property
    def _resources(self) -> Mapping[str, Mapped]:
        return cast("Mapping[str, Mapped]", self.template["Resources"])

    def _resource(self, name: str) -> Mapped:
        return self._resources[name]

    def _value(self, name: str) -> str:
        pseudo = {"AWS::Partition": "aws", "AWS::Region": REGION, "AWS::AccountId": ACCOUNT}
        if name in pseudo:
            return pseudo[name]
        if name in self._resources:
            return self.arn(name)
        parameters = cast("dict[str, dict[str, str]]", self.template["Parameters"])
        return self.values[name] if name in self.values else parameters[name]["Default"]

    def _statement(self, statement: Mapped) -> Statement:
        assert set(statement) <= {"Sid", "Effect", "Action", "Resource", "Condition"}, statement
        assert statement["Effect"] == "Allow", statement
        condition = cast("dict[str, dict[str, Json]]", statement.get("Condition", {}))
        assert set(condition) <= {"StringEquals", "StringLike"}, statement
        return Statement(
            str(statement["Sid"]),
            tuple(self.text(each) for each in _list(statement["Action"])),
            tuple(self.text(each) for each in _list(statement["Resource"])),
            tuple(
                (key, tuple(self.text(each) for each in _list(patterns)))
                for key, patterns in condition.get("StringLike", {}).items()
            ),
            tuple(
                (key, tuple(self.text(each) for each in _list(values)))
                for key, values in condition.get("StringEquals", {}).items()
            ),
        )


def _list(value: Json) -> list[Json]:
    return value if isinstance(value, list) else [value]


def allowing(statements: Iterable[Statement], call: Call) -> set[Use]:
    """Return by what a call is allowed; nothing if it is denied."""
    return {use for statement in statements for use in statement.uses(call)}


@dataclass(frozen=True, slots=True)
class S3Request:
    """A request that S3 got, and whether the object that it reads is missing."""

    actor: str
    method: str
    bucket: str
    key: str
    query: str
    missing: bool = False

    def calls(self, role: str) -> list[Call]:
        """Return the actions that IAM checks.

        https://docs.aws.amazon.com/AmazonS3/latest/userguide/using-with-s3-policy-actions.html,
        https://docs.aws.amazon.com/AmazonS3/latest/userguide/mpuoverview.html#mpuAndPermissions
        """
        bucket = f"arn:aws:s3:::{self.bucket}"
        asked = parse_qs(self.query, keep_blank_values=True)
        if not self.key:
            assert (self.method, "list-type" in asked) == ("GET", True), self
            return [Call(role, "s3:ListBucket", bucket, (("s3:prefix", asked.get("prefix", [""])[0]),))]
        place = f"{bucket}/{self.key}"
        parts = bool(asked.keys() & {"uploads", "uploadId"})
        match self.method, parts:
            case "GET" | "HEAD", False:
                found = [Call(role, "s3:GetObject", place)]
                # Whether S3 knows the prefix when it looks whether a missing object may be told is not documented.
                listed = Call(role, "s3:ListBucket", bucket, (("s3:prefix", self.key),))
                return [*found, listed] if self.missing else found
            case "PUT", _:
                assert set(asked) <= {"partNumber", "uploadId", "x-id"}, self
                return [Call(role, "s3:PutObject", place)]
            case "POST", True:
                return [Call(role, "s3:PutObject", place)]
            case "DELETE", True:
                return [Call(role, "s3:AbortMultipartUpload", place)]
            case "GET", True:
                return [Call(role, "s3:ListMultipartUploadParts", place)]
        raise AssertionError(f"not known: {self}")
