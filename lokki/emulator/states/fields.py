"""Reading JSON objects whose every field must be known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from lokki.base.values import Json
from lokki.emulator.states.expressions import is_expression
from lokki.emulator.states.ranges import RANGES
from lokki.errors import EmulatorError

_REQUIRED = object()


class Fields:
    """The fields of one object of a definition; `end` refuses those that nobody asked for."""

    def __init__(self, described: object, where: str) -> None:
        if not isinstance(described, dict):
            raise EmulatorError(f"{where}: it is {type(described).__name__}, not an object.")
        self.where = where
        self._fields: dict[str, Json] = dict(described)
        self._known: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self._fields

    def value(self, name: str, default: object = _REQUIRED) -> Json:
        """Return a field, or its default. Raises EmulatorError for one that is missing and has none."""
        self._known.add(name)
        if name not in self._fields and default is _REQUIRED:
            raise EmulatorError(f"{self.where}: {name} is missing.")
        return self._fields.get(name, cast("Json", default))

    def optional(self, name: str) -> tuple[Json] | None:
        """Return a field, which may be null, in a tuple; None where there is no such field."""
        return (self.value(name),) if name in self._fields else None

    def text(self, name: str) -> str:
        """Return a string."""
        value = self.value(name)
        if not isinstance(value, str):
            raise EmulatorError(f"{self.where}: {name} is {value!r}, not a string.")
        return value

    def one_of(self, name: str, words: Sequence[str], default: object = _REQUIRED) -> str:
        """Return one of some strings."""
        value = self.value(name, default)
        if value not in words:
            raise EmulatorError(f"{self.where}: {name} is {value!r}; the emulator knows {', '.join(words)}.")
        return cast("str", value)

    def number(self, name: str) -> float | None:
        """Return a number of the field's range, or None where there is no such field."""
        if name not in self._fields:
            return None
        value = self.value(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not RANGES[name].has(value):
            raise EmulatorError(f"{self.where}: {name} is {value!r}, not {RANGES[name]}.")
        return value

    def whole(self, name: str, default: int) -> int:
        """Return a whole number of the field's range, or the default where there is no such field."""
        value = self.number(name)
        return default if value is None else int(value)

    def number_template(self, name: str, default: Json = None) -> Json:
        """Return a number of the field's range or an expression, or the default where there is no such field."""
        if name not in self._fields:
            return default
        value = self.value(name)
        return value if is_expression(value) else self.number(name)

    def text_template(self, name: str, default: object = _REQUIRED) -> Json:
        """Return a string, which may be an expression."""
        value = self.value(name, default)
        if name in self._fields and not isinstance(value, str):
            raise EmulatorError(f"{self.where}: {name} is {value!r}, not a string.")
        return value

    def flag(self, name: str) -> bool:
        """Return whether a field is true; False where there is none."""
        value = self.value(name, False)
        if not isinstance(value, bool):
            raise EmulatorError(f"{self.where}: {name} is {value!r}, not true or false.")
        return value

    def comment(self) -> None:
        """Know the field that changes nothing."""
        if "Comment" in self._fields:
            self.text("Comment")

    def mapping(self, name: str) -> dict[str, Json]:
        """Return an object."""
        value = self.value(name)
        if not isinstance(value, dict):
            raise EmulatorError(f"{self.where}: {name} is {type(value).__name__}, not an object.")
        return value

    def objects(self, name: str) -> list[Fields]:
        """Return a list of objects; an empty one where there is none."""
        value = self.value(name, [])
        if not isinstance(value, list):
            raise EmulatorError(f"{self.where}: {name} is {type(value).__name__}, not a list.")
        return [Fields(each, f"{self.where}: {name}[{number}]") for number, each in enumerate(value)]

    def inside(self, name: str) -> Fields:
        """Return the fields of an object in this one."""
        return Fields(self.value(name), f"{self.where}: {name}")

    def end(self) -> None:
        """Raise EmulatorError if there are fields that nobody asked for."""
        unknown = sorted(set(self._fields) - self._known)
        if unknown:
            raise EmulatorError(f"{self.where}: the emulator does not know the field {unknown[0]!r}.")
