"""Arguments and parameters as JSON and back: the same conversion locally, emulated and deployed."""

from __future__ import annotations

import math
from pathlib import PurePath

import msgspec

from lokki.failures import described
from lokki.signatures import UNKNOWN, accepts, describe
from lokki.values import Json

LARGEST_INTEGER = 2**53
"""Above it Step Functions' JSONata, whose numbers are doubles, would change an integer."""

# What msgspec raises for an annotation that it cannot convert by, whatever the value; recursive aliases recurse.
_UNSUPPORTED = (TypeError, NotImplementedError, NameError, AttributeError, RecursionError)


class ConversionError(ValueError):
    """A value is not what its annotation says, or has no form in JSON; the text completes ``… is …``."""


def to_json(value: object, annotation: object) -> Json:
    """Return the JSON form of a value: what it is in JSON already, or what msgspec makes of it by its annotation.

    Dates, enums, dataclasses, UUIDs, decimals, paths and the like need an annotation, by which they are made again;
    their JSON form is taken for them. Raises ConversionError for a value that would not arrive as its annotation says.
    """
    if annotation is UNKNOWN or annotation is object:
        return _plain_json(value)
    try:
        expected: object = msgspec.convert(value, annotation, dec_hook=_decode, str_keys=True)
    except msgspec.ValidationError as error:
        raise ConversionError(_mismatch(value, annotation, error)) from None
    except _UNSUPPORTED as error:
        return _json_for_unsupported(value, annotation, error)
    except Exception as error:  # a class of the user's may raise anything while it is made
        raise _not_made(value, annotation, error) from error
    made = _encoded(value)
    if not _equal(from_json(made, annotation), expected):
        raise ConversionError(f"{_kind(value)}, which would not arrive as it is but as {_shown(made)}")
    return made


def from_json(value: Json, annotation: object) -> object:
    """Make a value from its JSON form by its annotation; without one, a copy of the JSON.

    By an annotation that msgspec cannot convert by, such as ``Iterable[str]`` or ``str | Path``, JSON stays what it is.
    Raises ConversionError for JSON that the annotation does not describe.
    """
    if annotation is UNKNOWN or annotation is object:
        return _plain_json(value)
    try:
        made: object = msgspec.convert(value, annotation, dec_hook=_decode, str_keys=True)
    except msgspec.ValidationError as error:
        raise ConversionError(_mismatch(value, annotation, error)) from None
    except _UNSUPPORTED as error:
        return _json_for_unsupported(value, annotation, error)
    except Exception as error:  # a class of the user's may raise anything while it is made
        raise _not_made(value, annotation, error) from error
    return made


def as_states_hands_on(value: Json) -> Json:
    """Return the value as it is after Step Functions handed it on: integral numbers are integers.

    Raises ConversionError for integers that JSONata would change.

    >>> as_states_hands_on({"share": 1.0, "half": 0.5})
    {'share': 1, 'half': 0.5}
    """
    if isinstance(value, dict):
        return {name: as_states_hands_on(member) for name, member in value.items()}
    if isinstance(value, list):
        return [as_states_hands_on(member) for member in value]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    if abs(value) > LARGEST_INTEGER and value == int(value):
        raise ConversionError(f"{value}, a number that Step Functions would round (above 2**53); pass it as a string")
    return int(value) if value == int(value) else value


def _json_for_unsupported(value: object, annotation: object, error: BaseException) -> Json:
    """Return the value itself where it is JSON and may be what the annotation says."""
    try:
        plain = _plain_json(value)
    except ConversionError:
        raise ConversionError(
            f"{_kind(value)}, which cannot be made again from JSON by {describe(annotation)} ({error})"
        ) from None
    if not accepts(annotation, type(value)):
        raise ConversionError(f"not {describe(annotation)} but {_kind(value)}")
    return plain


def _encoded(value: object) -> Json:
    """Return the JSON that msgspec makes of a value."""
    try:
        builtin = msgspec.to_builtins(value, str_keys=True, enc_hook=_encode)
        made: Json = msgspec.json.decode(msgspec.json.encode(builtin))
    except (TypeError, ValueError, RecursionError, NotImplementedError) as error:
        raise ConversionError(f"{_kind(value)}, which has no form in JSON ({error})") from None
    if not _is_finite(builtin):
        raise ConversionError(f"{_shown(value)}, a number that JSON does not have")
    return made


def _plain_json(value: object) -> Json:
    """Return a copy of a value that is JSON."""
    try:
        return _copied(value)
    except RecursionError:
        raise ConversionError(f"{_kind(value)}, which is nested too deep for JSON, or contains itself") from None


def _copied(value: object) -> Json:
    if value is None or type(value) in (bool, int):
        return value  # type: ignore[return-value]  # narrowed by exact type
    if type(value) is str and _is_encodable(value):
        return value
    if type(value) is float and math.isfinite(value):
        return value
    if type(value) is list:
        return [_copied(member) for member in value]
    if type(value) is dict and all(type(name) is str and _is_encodable(name) for name in value):
        return {name: _copied(member) for name, member in value.items()}
    if isinstance(value, str | float | dict):
        raise ConversionError(f"{_shown(value)}, which is no JSON value")
    raise ConversionError(f"{_kind(value)}, which is no JSON value; annotate the parameter to have it converted")


def _is_finite(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return all(map(_is_finite, value.values()))
    return all(map(_is_finite, value)) if isinstance(value, list | tuple) else True


def _is_encodable(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def _not_made(value: object, annotation: object, error: Exception) -> ConversionError:
    return ConversionError(f"{_shown(value)}, of which no {describe(annotation)} can be made ({described(error)})")


def _equal(one: object, other: object) -> bool:
    try:
        return bool(one == other)
    except Exception:  # a value's own comparison may raise anything, and arrays answer with an array
        return False


def _mismatch(value: object, annotation: object, error: msgspec.ValidationError) -> str:
    return f"{_shown(value)}, not {describe(annotation)} ({error})"


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except Exception as error:  # a value's own code may raise anything
        text = f"a {_kind(value)} whose repr() raised {described(error)}"
    return text if len(text) <= 80 else f"{text[:79]}…"


def _kind(value: object) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _encode(value: object) -> object:
    if isinstance(value, PurePath):
        return str(value)
    raise NotImplementedError(f"objects of type {_kind(value)} are not supported")


def _decode(kind: type, value: object) -> object:
    if isinstance(kind, type) and issubclass(kind, PurePath) and isinstance(value, str | kind):
        return value if isinstance(value, kind) else kind(value)
    raise NotImplementedError(f"{describe(kind)} is not supported")
