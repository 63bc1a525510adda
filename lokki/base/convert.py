"""Arguments and parameters as JSON and back, the same locally, emulated and deployed."""

from __future__ import annotations

import datetime
import decimal
import enum
import math
from pathlib import PurePath

import msgspec

from lokki.base.failures import describe_error
from lokki.base.signatures import UNKNOWN, accepts, describe
from lokki.base.values import Json

LARGEST_INTEGER = 2**53
"""Above it Step Functions' JSONata, whose numbers are doubles, would change an integer."""

# What msgspec raises for an annotation that it cannot convert by, whatever the value; recursive aliases recurse.
_UNSUPPORTED = (TypeError, NotImplementedError, NameError, AttributeError, RecursionError)


class ConversionError(ValueError):
    """A value does not fit its annotation, or has no form in JSON.

    The text completes ``… is …``.
    """


class ChangeError(ConversionError):
    """A value fits its annotation, but would arrive as another one."""


def to_json(value: object, annotation: object) -> Json:
    """Return the JSON form of a value.

    That is what it is in JSON already, or what msgspec makes of it by its annotation.

    Dates, enums, dataclasses, UUIDs, decimals, paths and the like need an annotation, by which they are made again;
    their JSON form is taken for them. Raises ConversionError for a value that would not arrive as its annotation says.
    """
    if annotation is UNKNOWN or annotation is object:
        return _plain_json(value)
    try:
        expected: object = msgspec.convert(value, annotation, dec_hook=_decode, str_keys=True)
    except msgspec.ValidationError as error:
        return _json_for_own_kind(value, annotation, error)
    except _UNSUPPORTED as error:
        return _json_for_unsupported(value, annotation, error)
    except Exception as error:  # a class of the user's may raise anything while it is made
        raise _not_made(value, annotation, error) from error
    encoded = _encoded(value)
    arriving = from_json(encoded, annotation)
    if not is_same(arriving, expected) or not _is_faithful(arriving, value):
        raise ChangeError(_changed(value, arriving))
    return encoded


def from_json(value: Json, annotation: object) -> object:
    """Make a value from its JSON form by its annotation.

    Without an annotation it is a copy of the JSON.

    By an annotation that msgspec cannot convert by, such as ``Iterable[str]`` or ``str | Path``, JSON stays what it is.
    Raises ConversionError for JSON that the annotation does not describe.
    """
    if annotation is UNKNOWN or annotation is object:
        return _plain_json(value)
    try:
        converted: object = msgspec.convert(value, annotation, dec_hook=_decode, str_keys=True)
    except msgspec.ValidationError as error:
        raise ConversionError(_mismatch(value, annotation, error)) from None
    except _UNSUPPORTED as error:
        return _json_for_unsupported(value, annotation, error)
    except Exception as error:  # a class of the user's may raise anything while it is made
        raise _not_made(value, annotation, error) from error
    if isinstance(value, list | dict):
        from lokki.base.checking import unknown_key  # for start-up: most Lambda functions begin without it

        key = unknown_key(value, annotation)
        if key is not None:
            raise ChangeError(f"{_shown(value)}, with {key}")
    return converted


def parameter_json(value: object, annotation: object) -> Json:
    """Return a parameter of the flow as Step Functions hands it on.

    Raises ConversionError for a value that would not arrive as it is. Without an annotation a number alone counts:
    ``1.0`` arrives as ``1``.
    """
    encoded = to_json(value, annotation)
    handed_on = as_states_hands_on(encoded)
    if annotation is not UNKNOWN and annotation is not object:
        arriving = from_json(handed_on, annotation)
        if not is_same(arriving, from_json(encoded, annotation)):
            raise ChangeError(f"{_changed(value, arriving)}; annotate its numbers as float")
    return handed_on


def as_states_hands_on(value: Json) -> Json:
    """Return a value as it is after Step Functions handed it on.

    Integral numbers are integers then.

    A double stays what it is, however large. Raises ConversionError for what JSONata, whose numbers are doubles, would
    change: integers above 2**53, and the sign of a zero.

    >>> as_states_hands_on({"share": 1.0, "half": 0.5})
    {'share': 1, 'half': 0.5}
    """
    if isinstance(value, dict):
        return {name: as_states_hands_on(member) for name, member in value.items()}
    if isinstance(value, list):
        return [as_states_hands_on(member) for member in value]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    if isinstance(value, float):
        if value == 0.0 and math.copysign(1.0, value) < 0:
            raise ChangeError("-0.0, whose sign Step Functions would drop; pass 0.0")
        return int(value) if abs(value) <= LARGEST_INTEGER and value.is_integer() else value
    if abs(value) > LARGEST_INTEGER:
        raise ConversionError(f"{value}, a number that Step Functions would round (above 2**53); pass it as a string")
    return value


def _json_for_own_kind(value: object, annotation: object, error: msgspec.ValidationError) -> Json:
    """Return the JSON of a value that is a subclass of its kind.

    Such are members of enums of numbers, which msgspec does not take for numbers.
    """
    try:
        encoded = _encoded(value)
        arriving = from_json(encoded, annotation)
    except ConversionError:
        raise ConversionError(_mismatch(value, annotation, error)) from None
    if not is_same(arriving, value):
        raise ConversionError(_mismatch(value, annotation, error))
    return encoded


def _json_for_unsupported(value: object, annotation: object, error: BaseException) -> Json:
    """Return the value itself where it is JSON and fits the annotation."""
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
        decoded: Json = msgspec.json.decode(msgspec.json.encode(builtin))
    except (TypeError, ValueError, RecursionError, NotImplementedError) as error:
        raise ConversionError(f"{_kind(value)}, which has no form in JSON ({error})") from None
    if not _is_finite(builtin):
        raise ConversionError(f"{_shown(value)}, a number that JSON does not have")
    return decoded


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
    return ConversionError(f"{_shown(value)}, of which no {describe(annotation)} can be made ({describe_error(error)})")


def is_same(one: object, other: object) -> bool:
    """Tell whether two values are the same in every respect.

    That is, in types, time zones, signs of zeros and digits of decimals too.
    """
    if isinstance(other, enum.Enum) and isinstance(other, str | int) and not isinstance(one, enum.Enum):
        return _equal(one, other)  # it is a string or a number, and is taken for one
    if type(one) is not type(other):
        return False
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(is_same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return is_same([*one], [*other]) and is_same([*one.values()], [*other.values()])
    if isinstance(one, set | frozenset) and isinstance(other, set | frozenset):
        return one == other and sorted(map(repr, one)) == sorted(map(repr, other))
    names = _fields(type(one))
    if names:
        return all(is_same(getattr(one, name, None), getattr(other, name, None)) for name in names)
    if isinstance(one, _NEVER_EQUAL_ENOUGH):
        return repr(one) == repr(other)
    return _equal(one, other)


_NEVER_EQUAL_ENOUGH = (float, decimal.Decimal, datetime.datetime, datetime.time)
"""Kinds of which equal values may differ: ``0.0 == -0.0``, ``Decimal("1.0") == Decimal("1")``, time zones."""


def _is_faithful(arriving: object, value: object) -> bool:
    """Tell whether values that are not JSON arrive unchanged.

    JSON may be made into what it stands for.

    A tuple for ``list[int]`` would arrive as a list, and a set in some order.
    """
    if isinstance(value, list) and isinstance(arriving, list):
        return all(map(_is_faithful, arriving, value))
    if isinstance(value, dict) and isinstance(arriving, dict):
        return all(map(_is_faithful, arriving.values(), value.values()))
    return type(value) in _JSON_KINDS or is_same(arriving, value)


_JSON_KINDS = (type(None), bool, int, float, str, list, dict)


def _fields(kind: type) -> tuple[str, ...]:
    """Name the fields of a dataclass, an attrs class or a Struct.

    Other classes have none.
    """
    fields = getattr(kind, "__dataclass_fields__", None) or getattr(kind, "__struct_fields__", None)
    return tuple(fields or (attribute.name for attribute in getattr(kind, "__attrs_attrs__", ())))


def _equal(one: object, other: object) -> bool:
    try:
        return bool(one == other)
    except Exception:  # a value's own comparison may raise anything, and arrays answer with an array
        return False


def _changed(value: object, arriving: object) -> str:
    zone = getattr(value, "tzinfo", None)
    if zone is not None and not isinstance(zone, datetime.timezone):
        return (
            f"{value}, whose time zone {zone} would arrive as a fixed offset; "
            "give an offset (datetime.timezone), and the zone's name as a string"
        )
    return f"{_shown(value)}, which would not arrive as it is but as {_shown(arriving)}"


def _mismatch(value: object, annotation: object, error: msgspec.ValidationError) -> str:
    return f"{_shown(value)}, not {describe(annotation)} ({error})"


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except Exception as error:  # a value's own code may raise anything
        text = f"a {_kind(value)} whose repr() raised {describe_error(error)}"
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
