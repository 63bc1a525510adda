"""Keys of a JSON object that its class does not have.

To drop them would lose what was meant.
"""

from __future__ import annotations

import dataclasses
import typing
from collections import abc
from collections.abc import Iterable

from lokki.base import signatures
from lokki.base.naming import nearest_name
from lokki.base.values import Json

_SCALARS = frozenset({str, int, float, bool, type(None)})


def unknown_key(value: Json, annotation: object) -> str | None:
    """Describe the first key that an annotation does not know.

    On any level; None when there is no such key.

    >>> class Box(typing.TypedDict):
    ...     width: int
    >>> unknown_key([{"width": 3, "wdth": 4}], list[Box])
    "the key 'wdth', which Box does not have (did you mean 'width'?)"
    """
    if not isinstance(value, list | dict) or annotation in _SCALARS:
        return None
    kinds = [kind for kind in signatures.parts(annotation) if _may_be(value, kind)]
    problems = [_unknown_in(value, kind) for kind in kinds]
    return problems[0] if problems and None not in problems else None


def _may_be(value: list[Json] | dict[str, Json], kind: object) -> bool:
    """Tell whether a list or an object may stand for a value of this kind."""
    origin = typing.get_origin(kind) or kind
    if not isinstance(origin, type) or origin is object:
        return origin is not typing.Literal
    if isinstance(value, dict):
        return _fields(origin) is not None or issubclass(origin, abc.Mapping)
    return issubclass(origin, abc.Iterable) and not issubclass(origin, abc.Mapping)


def _unknown_in(value: list[Json] | dict[str, Json], kind: object) -> str | None:
    origin = typing.get_origin(kind) or kind
    if not isinstance(origin, type):
        return None
    if isinstance(value, list):
        return _first(zip(value, _members(value, kind, origin), strict=False))
    fields = _fields(origin)
    if fields is None:
        return _first((member, signatures.member(kind)) for member in value.values())
    unknown = next((key for key in value if key not in fields), None)
    if unknown is not None:
        return _described(unknown, fields, kind)
    hints = _hints(origin, typing.get_args(kind))
    return _first((member, hints.get(fields[key], signatures.UNKNOWN)) for key, member in value.items())


def _first(pairs: Iterable[tuple[Json, object]]) -> str | None:
    problems = (unknown_key(member, annotation) for member, annotation in pairs)
    return next((problem for problem in problems if problem is not None), None)


def _members(value: list[Json], kind: object, origin: type) -> Iterable[object]:
    """Return what the annotation says of each member of a list."""
    arguments = typing.get_args(kind)
    if issubclass(origin, tuple) and hasattr(origin, "_fields"):
        return _hints(origin, arguments).values()
    if origin is tuple and arguments[1:] != (...,):
        return arguments
    return [arguments[0] if arguments else signatures.UNKNOWN] * len(value)


def _fields(kind: type) -> dict[str, str] | None:
    """Return the fields of a class by their names in JSON.

    None for a class of which no JSON object is made.
    """
    if typing.is_typeddict(kind):
        return {name: name for name in typing.get_type_hints(kind)}
    if dataclasses.is_dataclass(kind):
        return {field.name: field.name for field in dataclasses.fields(kind)}
    encoded: tuple[str, ...] | None = getattr(kind, "__struct_encode_fields__", None)
    if encoded is not None:
        return dict(zip(encoded, getattr(kind, "__struct_fields__", ()), strict=True))
    attributes = getattr(kind, "__attrs_attrs__", None)
    return None if attributes is None else {attribute.name: attribute.name for attribute in attributes}


def _hints(kind: type, arguments: tuple[object, ...]) -> dict[str, object]:
    """Return the annotations of a class's fields.

    The variables of a generic class are replaced by its arguments.
    """
    filled = dict(zip(getattr(kind, "__parameters__", ()), arguments, strict=False))
    hints = typing.get_type_hints(kind, include_extras=True)
    return {name: _filled(hint, filled) for name, hint in hints.items()}


def _filled(annotation: object, filled: dict[object, object]) -> object:
    variables = getattr(annotation, "__parameters__", ())
    if isinstance(annotation, typing.TypeVar):
        return filled.get(annotation, signatures.UNKNOWN)
    if not variables or isinstance(annotation, type):
        return annotation
    return annotation[tuple(filled.get(variable, signatures.UNKNOWN) for variable in variables)]  # type: ignore[index]


def _described(key: str, fields: dict[str, str], kind: object) -> str:
    near = nearest_name(key, fields)
    hint = f"did you mean {near!r}?" if near is not None else f"it has {', '.join(fields) or 'none'}"
    return f"the key {key!r}, which {signatures.describe(kind)} does not have ({hint})"
