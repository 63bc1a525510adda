"""Event patterns of EventBridge: whether an event is one that a rule asks for.

Written from https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-create-pattern-operators.html and from nothing
of lokki's. What is not on that page fails, so that no pattern is taken for one that matches nothing.
"""

from __future__ import annotations

import ipaddress
import operator
import re
from collections.abc import Callable, Mapping

from lokki.base.values import Json

_COMPARISONS: Mapping[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    "=": operator.eq,
    ">": operator.gt,
    ">=": operator.ge,
}
_MISSING = object()


def matches_pattern(pattern: Json, event: Json) -> bool:
    """Tell whether an event matches: every field of the pattern must, of a list any member."""
    assert isinstance(pattern, dict), f"a pattern is an object with fields: {pattern!r}"
    for name, wanted in pattern.items():
        if name == "$or":
            assert isinstance(wanted, list), f"$or has several patterns: {wanted!r}"
            if not any(matches_pattern(each, event) for each in wanted):
                return False
            continue
        value: object = event.get(name, _MISSING) if isinstance(event, dict) else _MISSING
        if isinstance(wanted, dict):
            # Of a list of objects, any object may match.
            inner = value if isinstance(value, list) else [value]
            if not any(matches_pattern(wanted, each if isinstance(each, dict) else {}) for each in inner):
                return False
        elif not _any_rule(wanted, value):
            return False
    return True


def _any_rule(rules: Json, value: object) -> bool:
    assert isinstance(rules, list), f"the values of a pattern are in a list: {rules!r}"
    return any(_rule(rule, value) for rule in rules)


def _rule(rule: Json, value: object) -> bool:
    if isinstance(rule, dict) and "exists" in rule:
        leaf = value is not _MISSING and not isinstance(value, dict)
        return leaf is rule["exists"]
    if value is _MISSING:
        return False
    members = value if isinstance(value, list) else [value]
    return any(_holds(rule, member) for member in members)


def _holds(rule: Json, value: object) -> bool:
    """Tell whether one value fits one rule. Numbers and texts are never equal, nor are numbers and truth values."""
    if not isinstance(rule, dict):
        number = _number(rule)
        return (type(rule) is type(value) and rule == value) or (number is not None and number == _number(value))
    [(name, wanted)] = rule.items()
    match name, wanted:
        case "prefix", str():
            return isinstance(value, str) and value.startswith(wanted)
        case "prefix", {"equals-ignore-case": str(text)}:
            return isinstance(value, str) and value.casefold().startswith(text.casefold())
        case "suffix", str():
            return isinstance(value, str) and value.endswith(wanted)
        case "suffix", {"equals-ignore-case": str(text)}:
            return isinstance(value, str) and value.casefold().endswith(text.casefold())
        case "equals-ignore-case", str():
            return isinstance(value, str) and value.casefold() == wanted.casefold()
        case "wildcard", str():
            return isinstance(value, str) and _wildcard(wanted, value)
        case "anything-but", _:
            return _anything_but(wanted, value)
        case "numeric", list():
            return _numeric(wanted, value)
        case "cidr", str():
            return isinstance(value, str) and ipaddress.ip_address(value) in ipaddress.ip_network(wanted)
    raise AssertionError(f"EventBridge has no such rule: {rule!r}")


def _anything_but(wanted: Json, value: object) -> bool:
    if isinstance(wanted, dict):
        [(name, texts)] = wanted.items()
        assert name in ("prefix", "suffix", "equals-ignore-case", "wildcard"), f"no such rule: {wanted!r}"
        return not any(_holds({name: text}, value) for text in (texts if isinstance(texts, list) else [texts]))
    return not any(_holds(each, value) for each in (wanted if isinstance(wanted, list) else [wanted]))


def _numeric(wanted: list[Json], value: object) -> bool:
    assert len(wanted) in (2, 4), f"numeric has one or two comparisons: {wanted!r}"
    number = _number(value)
    pairs = zip(wanted[::2], wanted[1::2], strict=True)
    return number is not None and all(_COMPARISONS[str(sign)](number, _number(bound) or 0.0) for sign, bound in pairs)


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _wildcard(pattern: str, text: str) -> bool:
    assert "**" not in pattern, "EventBridge refuses two wildcards together"
    parts = re.findall(r"\\.|\*|[^\\*]+", pattern)
    expression = "".join(".*" if part == "*" else re.escape(re.sub(r"\\(.)", r"\1", part)) for part in parts)
    return re.fullmatch(expression, text, re.DOTALL) is not None
