"""What starts runs of a deployed flow: the values of ``@flow(on=[…])``, and what a step sees of the event.

Each is checked when it is made, so that a mistake names the user's line. `lokki.builder.starts` makes rules of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from typing import Protocol, get_args

from lokki.base.access import Allow, Permission, Read, Write, parts_of_url, quoted, url_problem
from lokki.base.values import Json
from lokki.errors import FlowError, ParameterError

PATTERN_LENGTH = 2_048
"""Characters of a rule's pattern: https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-quota.html"""

_OPERATORS = (
    "anything-but", "cidr", "equals-ignore-case", "exists", "numeric", "prefix", "suffix", "wildcard",
)  # fmt: skip
"""https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-create-pattern-operators.html"""

_EVENT_PARAMETER = "event"


@dataclass(frozen=True, slots=True)
class S3Object:
    """An object that somebody put into S3.

    * ``version``: its version, "" in a bucket without versions.
    """

    bucket: str
    key: str
    size: int = 0
    etag: str = ""
    version: str = ""

    @property
    def url(self) -> str:
        """The URL of the object, such as ``s3://in/raw/birds.csv``."""
        return f"s3://{self.bucket}/{self.key}"


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """A run of another flow that has succeeded."""

    flow: str
    run_id: str


def utc_moment(moment: date, timezone: str | None) -> datetime:
    """Return a date, or a date and time, as a time in UTC.

    Without a zone of its own it is in ``timezone``, by default UTC; a date is its first moment. Raises FlowError for
    what is no date and for a zone that there is not.
    """
    # Only here: flows that events start load this module in Lambda.
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    if not isinstance(moment, date):
        raise FlowError(f"@flow(schedule_start=…, schedule_end=…): give a date or a datetime, not {moment!r}.")
    whole = moment if isinstance(moment, datetime) else datetime.combine(moment, time())
    if whole.tzinfo is None:
        try:
            whole = whole.replace(tzinfo=ZoneInfo(timezone or "UTC"))
        except (ZoneInfoNotFoundError, ValueError):
            raise FlowError(f"@flow(timezone={timezone!r}): this machine knows no such time zone.") from None
    return whole.astimezone(UTC)


class _Named(Protocol):
    @property
    def name(self) -> str: ...


@dataclass(frozen=True, slots=True)
class S3Created:
    """Start a run for each object that is put into S3.

    ``S3Created("s3://in/raw/", suffix=".csv")`` is for all below the prefix whose names end so, and
    ``S3Created("s3://in/birds.csv")`` for one object. Raises FlowError for what is no such URL.
    """

    url: str
    suffix: str = ""

    def __post_init__(self) -> None:
        problem = url_problem(self.url)
        if not problem and "*" in self.url:
            problem = "'*' cannot stand in it: what is below a prefix is meant anyway"
        if not problem and self.suffix and not parts_of_url(self.url)[1].endswith("*"):
            problem = "it is one object, which needs no suffix: end it with '/' for all below it"
        if problem:
            raise FlowError(f"S3Created({self.url!r}): {problem}.")

    @property
    def keys(self) -> str:
        """The keys, with ``*`` for anything."""
        return parts_of_url(self.url)[1] + self.suffix

    @property
    def pattern(self) -> Mapping[str, Json]:
        """The pattern of its events.

        https://docs.aws.amazon.com/AmazonS3/latest/userguide/ev-events.html
        """
        bucket, keys = parts_of_url(self.url)
        detail: dict[str, Json] = {"bucket": {"name": [bucket]}}
        if self.suffix:
            # Two rules for one field are alternatives; a backslash takes a wildcard's meaning away.
            literal = [re.sub(r"[*\\]", r"\\\g<0>", text) for text in (keys.removesuffix("*"), self.suffix)]
            detail["object"] = {"key": [{"wildcard": "*".join(literal)}]}
        elif keys != "*":
            detail["object"] = {"key": [{"prefix": keys[:-1]} if keys.endswith("*") else keys]}
        return {"source": ["aws.s3"], "detail-type": ["Object Created"], "detail": detail}


@dataclass(frozen=True, slots=True, init=False)
class After:
    """Start a run after each run of another flow that succeeds.

    ``After(other_flow)``, or ``After("other-flow")`` by the name that it is deployed under, in the same account and
    region. Raises FlowError for what is neither.
    """

    flow: str

    def __init__(self, flow: _Named | str) -> None:
        name = flow if isinstance(flow, str) else getattr(flow, "name", None)
        if not isinstance(name, str) or not re.fullmatch("[a-zA-Z][a-zA-Z0-9_-]*", name):
            raise FlowError(f"After({flow!r}): give a flow, or the name that one is deployed under.")
        object.__setattr__(self, "flow", name)


@dataclass(frozen=True, slots=True, init=False)
class BusEvent:
    """Start a run for each event of a pattern.

    The events are those of the account's default bus.
    ``Event({"source": ["shop"], "detail-type": ["order"], "detail": {"country": ["fi", "se"]}})``. Raises FlowError for
    what is no pattern: https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-event-patterns.html
    """

    text: str

    def __init__(self, pattern: Mapping[str, Json]) -> None:
        if problem := _pattern_problem(pattern):
            raise FlowError(f"Event({pattern!r}): {problem}.")
        text = json.dumps(pattern, sort_keys=True)
        if len(text) > PATTERN_LENGTH:
            raise FlowError(f"Event(…): the pattern has {len(text):,} characters; a rule takes {PATTERN_LENGTH:,}.")
        object.__setattr__(self, "text", text)

    @property
    def pattern(self) -> Mapping[str, Json]:
        """The pattern."""
        pattern: dict[str, Json] = json.loads(self.text)
        return pattern

    def __repr__(self) -> str:
        """Return it as it is written in a flow's file."""
        return f"Event({self.text})"


Event = BusEvent
"""What users call it: within lokki, events are what happens in a run."""

type Start = S3Created | After | BusEvent
"""What ``@flow(on=[…])`` takes."""


@dataclass(frozen=True, slots=True)
class EventParameter:
    """A parameter of a flow, as far as events are concerned."""

    name: str
    annotation: object
    required: bool


def _pattern_problem(pattern: object) -> str:
    """Return what is wrong with a pattern, or ""."""
    if not isinstance(pattern, Mapping) or not pattern:
        return 'give a pattern with fields, such as {"source": ["shop"]}'
    for name, rules in pattern.items():
        if not isinstance(name, str):
            return f"the field {name!r} is no text"
        if isinstance(rules, Mapping):
            problem = _pattern_problem(rules)
        elif not isinstance(rules, list) or not rules:
            problem = f"{name}: give a list of values, or more fields"
        elif name == "$or":
            problem = next(filter(None, map(_pattern_problem, rules)), "")
        else:
            problem = next((f"{name}: {problem}" for problem in map(_rule_problem, rules) if problem), "")
        if problem:
            return problem
    return ""


def _rule_problem(rule: object) -> str:
    if isinstance(rule, Mapping):
        names = [*rule]
        if len(names) != 1 or names[0] not in _OPERATORS:
            return f"{dict(rule)!r} is no rule: give one of {', '.join(_OPERATORS)}"
        return ""
    if rule is None or isinstance(rule, str | int | float):
        return ""
    return f"{rule!r} is no value of an event"


def check_starts(flow: str, starts: Sequence[object], params: Iterable[EventParameter]) -> None:
    """Check that a flow can take the events that start it.

    Raises FlowError for what is no start, and for parameters that no run would have a value for.
    """
    by_name = {param.name: param for param in params}
    names: dict[str, str | None] = {}
    for start in starts:
        if not isinstance(start, S3Created | After | BusEvent):
            raise FlowError(
                f'@flow(on=[{start!r}]): give S3Created("s3://…"), After(other_flow) or Event({{…}}), which lokki has.'
            )
        if isinstance(start, After) and start.flow == flow:
            raise FlowError(f"@flow(on=[{start!r}]): it would start itself for ever.")
        names[_kind(start)] = parameter_for(start, by_name.values())
    for kind, name in names.items():
        if name is None:
            raise FlowError(f"the flow {flow!r} is started by {kind}: {_WANTED[kind]}.")
    taken = {name for name in names.values() if name is not None}
    for param in by_name.values():
        if param.required and (param.name not in taken or len(taken) > 1):
            raise FlowError(
                f"the flow {flow!r} is started by events, but its parameter {param.name!r} has no default that a run "
                "could use. Give it one."
            )


_WANTED = {
    "S3Created": "give it a parameter for the object, such as upload: S3Object",
    "After": "give it a parameter for the other run, such as earlier: FinishedRun",
    "Event": "give it a parameter named event, for the event's detail",
}


def _kind(start: Start) -> str:
    return "Event" if isinstance(start, BusEvent) else type(start).__name__


def parameter_for(start: Start, params: Iterable[EventParameter]) -> str | None:
    """Return the name of the parameter that an event arrives in, if any."""
    types = {"S3Created": S3Object, "After": FinishedRun}
    kind = types.get(_kind(start))
    for param in params:
        if kind is None and param.name == _EVENT_PARAMETER:
            return param.name
        if kind is not None and kind in (param.annotation, *get_args(param.annotation)):
            return param.name
    return None


def values_of_event(starts: Sequence[Start], params: Sequence[EventParameter], event: Json) -> dict[str, Json]:
    """Return the parameters of the run that an event starts, as JSON.

    What is deployed computes the same. Raises ParameterError for what is no event, or of another kind.
    """
    by_kind = {_kind(start): start for start in starts}
    kind, value = _value_of(event, by_kind)
    if kind not in by_kind:
        kinds = " or ".join(by_kind) or "nothing, as it has no @flow(on=…)"
        raise ParameterError(f"this event does not start the flow, which is started by {kinds}.")
    name = parameter_for(by_kind[kind], params)
    return {} if name is None else {name: value}


def _value_of(event: Json, kinds: Mapping[str, Start]) -> tuple[str, Json]:
    """Return which kind of start an event is for, and what its run gets."""
    match event:
        case {
            "source": "aws.s3",
            "detail-type": "Object Created",
            "detail": {"bucket": {"name": str(bucket)}, "object": dict(entry)},
        } if "S3Created" in kinds and isinstance(key := entry.get("key"), str):
            return "S3Created", {
                "bucket": bucket,
                "key": key,
                "size": entry.get("size", 0),
                "etag": entry.get("etag", ""),
                "version": entry.get("version-id", ""),
            }
        case {
            "source": "aws.states",
            "detail-type": "Step Functions Execution Status Change",
            "detail": {"stateMachineArn": str(machine), "name": str(name)},
        } if "After" in kinds:
            return "After", {"flow": machine.rpartition(":")[2], "run_id": name}
        case {"source": str(), "detail-type": str(), "detail": dict(detail)}:
            return "Event", detail
    return "", None


def feedback_problem(starts: Iterable[Start], permissions: Iterable[Permission]) -> str:
    """Return how a flow could start itself for ever by what it writes, or ""."""
    listens = [start for start in starts if isinstance(start, S3Created)]
    for permission in permissions:
        for start in listens:
            if any(_overlap(parts_of_url(start.url)[0], start.keys, place) for place in _written(permission)):
                return (
                    f"it is started by {start.url}, and {_text(permission)} allows it to write there: it could start "
                    "itself for ever. Write to another prefix, or listen to another one."
                )
    return ""


def _text(permission: Permission) -> str:
    if isinstance(permission, Allow):
        return repr(permission)
    return f"{type(permission).__name__}({quoted(permission.url)})"


def _written(permission: Permission) -> list[tuple[str, str]]:
    """Return the buckets and keys that a permission allows to write."""
    match permission:
        case Write(url):
            return [parts_of_url(url)]
        case Allow() if any(re.fullmatch(_regex(action.lower()), "s3:putobject") for action in permission.actions):
            arns = (entry for entry in permission.resources if isinstance(entry, str))
            places = (arn.split(":", 5)[-1] if arn.count(":") >= 5 else arn for arn in arns)
            return [(bucket, key or "*") for bucket, _, key in (place.partition("/") for place in places)]
        case Allow() | Read():
            return []


def _overlap(bucket: str, keys: str, place: tuple[str, str]) -> bool:
    """Tell whether some key may be in both places.

    Only what comes before the first wildcard and behind the last one is compared, so it is rather said too often.
    """
    if not re.fullmatch(_regex(place[0]), bucket):
        return False
    first, second = (re.split(r"[*?]", pattern) for pattern in (keys, place[1]))
    if len(first) == 1 or len(second) == 1:
        literal, pattern = (keys, place[1]) if len(first) == 1 else (place[1], keys)
        return re.fullmatch(_regex(pattern), literal) is not None
    starts = first[0].startswith(second[0]) or second[0].startswith(first[0])
    return starts and (first[-1].endswith(second[-1]) or second[-1].endswith(first[-1]))


def _regex(pattern: str) -> str:
    return "(?s)" + re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".")
