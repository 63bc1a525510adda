"""JSONata, as Step Functions evaluates it in the strings of a definition.

https://docs.aws.amazon.com/step-functions/latest/dg/transforming-data.html: a string that begins with ``{%`` and ends
with ``%}`` is an expression; JSONata 2.0.6 without ``$eval``, and with ``$partition``, ``$range``, ``$hash``,
``$random``, ``$uuid`` and ``$parse``. An expression without a value fails with States.QueryEvaluationError.
"""

from __future__ import annotations

import hashlib
import random
import re
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from functools import cached_property, lru_cache

import msgspec
from jsonata import Jsonata  # type: ignore[import-untyped]
from jsonata.utils import Utils  # type: ignore[import-untyped]

from lokki.base.values import Json
from lokki.emulator.states.failures import QUERY_FAILED, StatesError
from lokki.errors import EmulatorError

_DELIMITED = re.compile(r"\{%(.*)%\}", re.DOTALL)
_EVAL = re.compile(r"\$eval\b")
_HASHES = {"MD5": "md5", "SHA-1": "sha1", "SHA-256": "sha256", "SHA-384": "sha384", "SHA-512": "sha512"}
_LARGEST = 2**53
_PATH = re.compile(r"\s*\$([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)\s*", re.ASCII)
_RESERVED = {"and", "or", "in", "true", "false", "null", "function"}


class NoValue(Enum):
    """Says that there is no value, not even null."""

    NO_VALUE = 0


NO_VALUE = NoValue.NO_VALUE


def is_expression(value: Json) -> bool:
    """Tell whether a value of a definition is an expression.

    >>> [is_expression(value) for value in ("{% 1 + 1 %}", "{% 1", "1 + 1", 2)]
    [True, False, False, False]
    """
    return isinstance(value, str) and _DELIMITED.fullmatch(value) is not None


@lru_cache(1024)
def names_of_path(text: str) -> tuple[str, ...]:
    """Return the names of an expression that is a path and nothing else.

    It is () for any other.

    >>> names_of_path(" $states.input.item "), names_of_path("$states.input[0]"), names_of_path("$a and $b")
    (('states', 'input', 'item'), (), ())
    """
    match = _PATH.fullmatch(text)
    names = () if match is None else tuple(match[1].split("."))
    return () if _RESERVED.intersection(names) else names


class Scope:
    """The ``$states`` and the variables that expressions see."""

    def __init__(self, states: Mapping[str, Json], variables: Mapping[str, Json]) -> None:
        self._values: Mapping[str, Json] = {**variables, "states": dict(states)}

    @cached_property
    def bindings(self) -> dict[str, object]:
        """All of it for the library, converted once for all expressions."""
        return {name: _to_library(value) for name, value in self._values.items()}

    def at(self, path: Sequence[str]) -> Json | NoValue:
        """Return the value that a path of names leads to through objects.

        `NO_VALUE` where it does not lead anywhere, or through something else.
        """
        value: Json = dict(self._values)
        for name in path:
            if not isinstance(value, dict) or name not in value:
                return NO_VALUE
            value = value[name]
        return value


class Expressions:
    """Evaluates templates.

    Expressions are parsed once for each thread, since the library's are not to be shared.
    """

    def __init__(self) -> None:
        self._parsed = threading.local()

    def fill(self, template: Json, scope: Scope, where: str = "") -> Json:
        """Return JSON with each expression in it replaced by its value.

        Raises StatesError, States.QueryEvaluationError, for an expression that fails or has no value; ``where`` names
        the field. Raises EmulatorError for what is not JSONata.
        """
        if isinstance(template, str):
            match = _DELIMITED.fullmatch(template)
            return template if match is None else self._value(match[1], scope, where)
        if isinstance(template, list):
            return [self.fill(member, scope, where) for member in template]
        if isinstance(template, dict):
            return {name: self.fill(member, scope, f"{where}.{name}") for name, member in template.items()}
        return template

    def check(self, template: Json, where: str) -> None:
        """Raise EmulatorError for what cannot be parsed or calls ``$eval``."""
        if isinstance(template, str):
            match = _DELIMITED.fullmatch(template)
            if match is not None:
                self._parse(match[1], where)
        elif isinstance(template, list):
            for member in template:
                self.check(member, where)
        elif isinstance(template, dict):
            for name, member in template.items():
                self.check(member, f"{where}.{name}")

    def _value(self, text: str, scope: Scope, where: str) -> Json:
        path = names_of_path(text)
        # Most expressions are names with dots between them. The library takes 50 times as long for those.
        if path and (direct := scope.at(path)) is not NO_VALUE:
            return _from_library(direct, text)
        parsed = self._parse(text, where)
        try:
            value = parsed.evaluate(None, scope.bindings)
        # The library raises its own errors, but also Python's where an operand is of an odd type.
        except (RuntimeError, ArithmeticError, TypeError, ValueError, LookupError, AttributeError) as error:
            raise StatesError(
                QUERY_FAILED, f"The JSONata expression '{text.strip()}' in {where} failed: {error}"
            ) from None
        if value is None:  # null is NULL_VALUE here
            raise StatesError(
                QUERY_FAILED, f"The JSONata expression '{text.strip()}' in {where} returned nothing (undefined)."
            )
        return _from_library(value, text)

    def _parse(self, text: str, where: str) -> Jsonata:
        # By thread: an expression of the library keeps its environment while it is evaluated.
        cache: dict[str, Jsonata] | None = getattr(self._parsed, "cache", None)
        if cache is None:
            cache = self._parsed.cache = {}
        parsed = cache.get(text)
        if parsed is None:
            if _EVAL.search(text):
                raise EmulatorError(f"{where}: Step Functions has no $eval; use $parse.")
            try:
                parsed = Jsonata.jsonata(text)
            except (RuntimeError, ValueError, LookupError, AttributeError, TypeError) as error:
                raise EmulatorError(f"{where}: '{text.strip()}' is not JSONata: {error}") from None
            # Null must not become "undefined": a field that is null is not a field that is missing.
            parsed.set_output_convert_nulls(False)
            parsed.set_validate_input(False)
            for name, function in _FUNCTIONS.items():
                parsed.register_function(name, Jsonata.JLambda(function))
            cache[text] = parsed
        return parsed


def _to_library(value: Json) -> object:
    """Copy a value for the library.

    It has an object of its own for null, and changes the values that it gets.
    """
    if value is None:
        return Utils.NULL_VALUE
    if isinstance(value, list):
        return [_to_library(member) for member in value]
    if isinstance(value, dict):
        return {name: _to_library(member) for name, member in value.items()}
    return value


def _from_library(value: object, text: str) -> Json:
    """Copy a value of the library.

    Numbers are written as JSON has IEEE 754 doubles, 1 for 1.0.
    """
    if value is None or value is Utils.NULL_VALUE:
        return None
    if isinstance(value, Utils.RangeList):  # what [1..3] gives: it is lazy
        return list(range(value.a, value.b + 1))
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_from_library(member, text) for member in value]
    if isinstance(value, Mapping):
        return {str(name): _from_library(member, text) for name, member in value.items()}
    if isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        # Step Functions computes with doubles: an int beyond 2**53 loses its last digits there.
        return value if -_LARGEST <= value <= _LARGEST else int(float(value))
    if isinstance(value, float):
        return int(value) if value.is_integer() else value
    raise StatesError(QUERY_FAILED, f"The JSONata expression '{text.strip()}' returned a function, which is no JSON.")


def _partition(values: object = None, size: object = None) -> object:
    if not isinstance(values, list) or not isinstance(size, int | float) or size < 1:
        raise ValueError("$partition takes an array and a size of at least 1")
    return [values[start : start + int(size)] for start in range(0, len(values), int(size))]


def _range(first: object = None, last: object = None, step: object = None) -> object:
    if isinstance(first, int | float) and isinstance(last, int | float) and isinstance(step, int | float) and step:
        delta = int(step)
        return list(range(int(first), int(last) + (1 if delta > 0 else -1), delta))
    raise ValueError("$range takes the first number, the last, and a step that is not 0")


def _hash(text: object = None, algorithm: object = "SHA-256") -> object:
    if not isinstance(text, str) or algorithm not in _HASHES:
        raise ValueError(f"$hash takes a string and one of {', '.join(_HASHES)}")
    return hashlib.new(_HASHES[algorithm], text.encode(), usedforsecurity=False).hexdigest()


def _random(seed: object = None) -> object:
    return (random.Random(str(seed)) if seed is not None else random.SystemRandom()).random()


def _uuid() -> object:
    return str(uuid.uuid4())


def _parse_json(text: object = None) -> object:
    if not isinstance(text, str):
        raise ValueError("$parse takes a string of JSON")
    return _to_library(msgspec.json.decode(text))


_FUNCTIONS: Mapping[str, Callable[..., object]] = {
    "partition": _partition,
    "range": _range,
    "hash": _hash,
    "random": _random,
    "uuid": _uuid,
    "parse": _parse_json,
}
