"""What travels between steps, which is JSON and references to values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeGuard, TypeIs

import msgspec

from lokki.errors import StoreError

type Json = bool | int | float | str | list[Json] | dict[str, Json] | None
"""Any JSON value, as Python's ``json`` and ``msgspec`` decode it."""

if TYPE_CHECKING:
    type JsonField = Json
else:  # msgspec takes no recursive alias: to it, any JSON is an object
    JsonField = object

INLINE_LIMIT = 4096
"""Default for the largest JSON text, in bytes of UTF-8, that travels inside a state instead of in the store."""

DEPTH_LIMIT = 100
"""The deepest nesting of lists and dicts that counts as exact JSON; deeper (and cyclic) values go to the store."""

_LARGEST_INT = 2**53
_REF_FIELDS = ("result", "result_url", "range", "crc32")
_LENGTH_LIMIT = 2_000_000
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Inline:
    """A value that travels inside the state itself.

    Its JSON is ``{"result": <json>}``.
    """

    result: Json


@dataclass(frozen=True, slots=True)
class Stored:
    """A value in a store.

    Its JSON is ``{"result_url": …}``, with the fields below where they are known.

    * ``range``: offset and length, for a value in a packed object.
    * ``crc32``: the checksum of the value's pickle, where it is known; it tells the value from others.
    """

    result_url: str
    range: tuple[int, int] | None = None
    crc32: int | None = None


type Ref = Inline | Stored
"""Where a value is: the only form in which values pass from step to step."""


def ref_to_json(ref: Ref) -> dict[str, Json]:
    """Return the JSON object that stands for a reference.

    States, manifests and events have it.
    """
    if isinstance(ref, Inline):
        return {"result": ref.result}
    fields: dict[str, Json] = {"result_url": ref.result_url}
    if ref.range is not None:
        fields["range"] = list(ref.range)
    if ref.crc32 is not None:
        fields["crc32"] = ref.crc32
    return fields


def ref_from_json(obj: Json) -> Ref:
    """Return the reference that a JSON object stands for.

    Raises StoreError if it is anything else, which means that something other than lokki wrote it.
    """
    match obj:
        case {"result": result, **rest} if not rest:
            return Inline(result)
        case {"result_url": str(url), **rest} if rest.keys() <= {"range", "crc32"}:
            crc = rest.get("crc32")
            if _is_natural(crc) or (crc is None and "crc32" not in rest):
                match rest.get("range"):
                    case None if "range" not in rest:
                        return Stored(url, crc32=crc)
                    case [offset, length] if _is_natural(offset) and _is_natural(length):
                        return Stored(url, (offset, length), crc)
    raise StoreError(
        f"{_shown(obj)} is not a reference to a result; lokki writes "
        '{"result": <json>}, {"result_url": <url>} or {"result_url": <url>, "range": [<offset>, <length>]}. '
        "Hand on what the previous step returned, unchanged."
    )


def ref_from_reply(reply: Json) -> Ref:
    """Return the reference that a function's reply has among other fields.

    Raises StoreError if it has none.
    """
    if isinstance(reply, dict):
        return ref_from_json({name: reply[name] for name in _REF_FIELDS if name in reply})
    return ref_from_json(reply)


def inline_json(value: object, limit: int) -> bytes | None:
    """Return the JSON text of a value that may travel inline.

    The text is compact and in UTF-8; None for a value that must be stored. A value may travel inline when it is exact
    JSON (see `is_exact_json`) and its text is at most `limit` bytes long; 0 keeps every value out of the state.
    """
    # The most frequent kinds first: this is done for each of a million results.
    if type(value) is int:
        if not -_LARGEST_INT <= value <= _LARGEST_INT:
            return None
    elif type(value) is str:
        if len(value) > limit:
            return None
    elif value is not None and type(value) is not bool and not is_exact_json(value, most=limit):
        return None
    try:
        text = _encode(value)
    except UnicodeEncodeError:
        return None
    return text if len(text) <= limit else None


def is_inline(value: object, limit: int) -> TypeGuard[Json]:
    """Tell whether a value may travel inline, as `inline_json` has it."""
    return inline_json(value, limit) is not None


def is_exact_json(value: object, *, most: int = _LENGTH_LIMIT) -> bool:
    """Tell whether a value comes back from JSON exactly as it was.

    That is, through Step Functions too, with the same types and the same value.
    Only None, bool, int, float, str, list and dict themselves count, never subclasses (an IntEnum would come back
    an int), and dict keys must be str. JSON has one kind of number and Step Functions computes with JSONata, whose
    numbers are IEEE 754 doubles printed with up to 15 significant digits and without a trailing ``.0``
    (https://docs.jsonata.org/string-functions#string). So an int counts up to 2**53 either way, the largest range
    in which a double holds every int; a float counts when it is finite, not integral (1.0 would come back as the
    int 1, -0.0 as 0) and no different after 15 digits. Text must be encodable (no lone surrogates). Nesting deeper
    than `DEPTH_LIMIT`, cycles, and what is longer than `most` characters at least, each repeat counted, do not count.
    """
    level: list[object] = [value]
    # How long the text is at least: a scalar has a character, a member a comma, and a key its quotes and colon, too.
    length = 1
    for _ in range(DEPTH_LIMIT + 1):
        deeper: list[object] = []
        for member in level:
            if type(member) is list:
                deeper += member
                length += 2 * len(member)
            elif type(member) is dict:
                if not all(type(key) is str and _is_encodable(key) for key in member):
                    return False
                deeper += member.values()
                length += 5 * len(member) + sum(map(len, member))
            elif not _is_exact_scalar(member):
                return False
            # Here and not at the end: a large value is known to be too long when a small part of it was looked at.
            if length > most:
                return False
        if not deeper:
            return True
        level = deeper
    return False


def _is_exact_scalar(value: object) -> bool:
    if type(value) is str:
        return _is_encodable(value)
    if type(value) is int:
        return -_LARGEST_INT <= value <= _LARGEST_INT
    if type(value) is float:
        return not value.is_integer() and float(format(value, ".15g")) == value and value - value == 0.0
    return value is None or type(value) is bool


def _is_encodable(text: str) -> bool:
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False


def _is_natural(number: object) -> TypeIs[int]:
    return type(number) is int and number >= 0


def _shown(obj: object) -> str:
    """Return a short form of a foreign value for an error message."""
    text = repr(obj)
    return text if len(text) <= 80 else f"{text[:77]}..."
