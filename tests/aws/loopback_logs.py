"""FilterLogEvents of CloudWatch Logs over moto's log groups: moto takes any pattern in braces for one that fits all.

https://docs.aws.amazon.com/AmazonCloudWatch/latest/logs/FilterAndPatternSyntax.html
"""

from __future__ import annotations

import json
import operator
import re
import shlex
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any

from moto.logs.models import logs_backends

from aws.loopback_protocol import ApiError, Fields, page
from lokki.emulator.states.services import ACCOUNT, REGION

type Fits = Callable[[str], bool]

_TOKEN = re.compile(r'\s*(&&|\|\||\(|\)|!=|<=|>=|=|<|>|\$[\w.\[\]-]*|"(?:\\.|[^"\\])*"|[^\s()=<>!&|"]+)')
_COMPARE = {"<": operator.lt, ">": operator.gt, "<=": operator.le, ">=": operator.ge}


def filter_log_events(request: Fields) -> Fields:
    """Return the events of a log group that fit, by their time."""
    name = request.get("logGroupName") or request["logGroupIdentifier"].rpartition(":log-group:")[2]
    group = logs_backends[ACCOUNT][REGION].groups.get(name)
    if group is None:
        raise ApiError("ResourceNotFoundException", "The specified log group does not exist.")
    wanted, prefix = request.get("logStreamNames"), request.get("logStreamNamePrefix", "")
    fits = read_pattern(request.get("filterPattern", ""))
    first, last = request.get("startTime", 0), request.get("endTime", float("inf"))
    found = [
        {
            "logStreamName": stream.log_stream_name,
            "timestamp": event.timestamp,
            "message": event.message,
            "ingestionTime": event.ingestion_time,
            "eventId": str(event.event_id),
        }
        for stream in group.streams.values()
        if stream.log_stream_name.startswith(prefix) and (wanted is None or stream.log_stream_name in wanted)
        for event in stream.events
        if first <= event.timestamp <= last and fits(event.message)
    ]
    found.sort(key=lambda event: event["timestamp"])
    shown, token = page(found, request, 10_000, size="limit")
    return {"events": shown, "searchedLogStreams": [], **token}


def read_pattern(text: str) -> Fits:
    """Return what tells whether a message fits a pattern. Raises ApiError for one that is not known here."""
    text = text.strip()
    if not text:
        return lambda message: True
    if text.startswith("{"):
        if not text.endswith("}"):
            raise _invalid()
        condition = _Condition(text[1:-1])
        return lambda message: isinstance(value := _decoded(message), dict) and condition.fits(value)
    return _terms(text)


def _terms(text: str) -> Fits:
    """Terms must all be there, those with ``-`` not, and of those with ``?`` one."""
    if text.startswith(("[", "%")):
        raise _invalid()
    terms = shlex.split(text)
    any_of = [term[1:] for term in terms if term.startswith("?")]
    none_of = [term[1:] for term in terms if term.startswith("-")]
    all_of = [term for term in terms if not term.startswith(("?", "-"))]

    def fits(message: str) -> bool:
        return (
            all(term in message for term in all_of)
            and not any(term in message for term in none_of)
            and (not any_of or any(term in message for term in any_of))
        )

    return fits


class _Condition:
    """A pattern for messages that are JSON objects."""

    def __init__(self, text: str) -> None:
        self._tokens = _TOKEN.findall(text)
        if _TOKEN.sub("", text).strip():
            raise _invalid()
        self._at = 0
        self.fits = self._either()
        if self._at < len(self._tokens):
            raise _invalid()

    def _next(self) -> str:
        if self._at >= len(self._tokens):
            raise _invalid()
        self._at += 1
        return str(self._tokens[self._at - 1])

    def _taken(self, token: str) -> bool:
        taken = self._at < len(self._tokens) and self._tokens[self._at] == token
        self._at += taken
        return taken

    def _either(self) -> Callable[[Any], bool]:
        parts = [self._both()]
        while self._taken("||"):
            parts.append(self._both())
        return lambda value: any(part(value) for part in parts)

    def _both(self) -> Callable[[Any], bool]:
        parts = [self._one()]
        while self._taken("&&"):
            parts.append(self._one())
        return lambda value: all(part(value) for part in parts)

    def _one(self) -> Callable[[Any], bool]:
        if self._taken("("):
            inside = self._either()
            if not self._taken(")"):
                raise _invalid()
            return inside
        path, sign = self._next(), self._next()
        if not path.startswith("$."):
            raise _invalid()
        if sign == "NOT" and self._taken("EXISTS"):
            return lambda value: _at(value, path) is _MISSING
        literal = self._next()
        if sign == "IS":
            constant = {"NULL": None, "TRUE": True, "FALSE": False}[literal]
            return lambda value: _at(value, path) is constant
        if sign in ("=", "!="):
            return lambda value: _at(value, path) is not _MISSING and _equal(_at(value, path), literal) == (sign == "=")
        if sign in _COMPARE:
            compare, number = _COMPARE[sign], float(literal)
            return lambda value: isinstance(found := _at(value, path), int | float) and compare(found, number)
        raise _invalid()


_MISSING = object()


def _at(value: Any, path: str) -> Any:
    """Return what is at a path such as ``$.error.items[0]``."""
    for name, index in re.findall(r"\.([\w-]+)|\[(\d+)\]", path):
        if name and isinstance(value, dict) and name in value:
            value = value[name]
        elif index and isinstance(value, list) and int(index) < len(value):
            value = value[int(index)]
        else:
            return _MISSING
    return value


def _equal(found: Any, literal: str) -> bool:
    """Strings may have ``*`` for any text; numbers stand without quotation marks."""
    if isinstance(found, str):
        text = json.loads(literal) if literal.startswith('"') else literal
        return fnmatchcase(found, re.sub(r"([\[?])", r"[\1]", text))
    try:
        return not isinstance(found, bool) and isinstance(found, int | float) and float(literal) == found
    except ValueError:
        return False


def _decoded(message: str) -> Any:
    try:
        return json.loads(message)
    except ValueError:
        return None


def _invalid() -> ApiError:
    return ApiError("InvalidParameterException", "Invalid filter pattern")
