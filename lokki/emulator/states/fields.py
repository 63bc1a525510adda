"""Reading JSON objects whose every field must be known.

AWS refuses a definition with a misspelt field, and so does this reader: a field that nobody asked for is an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lokki.base.values import Json
from lokki.emulator.states.expressions import is_expression
from lokki.emulator.states.ranges import RANGES
from lokki.errors import EmulatorError


class Fields:
    """The fields of one object; `end` refuses those that nobody read."""

    def __init__(self, definition: object, where: str) -> None:
        if not isinstance(definition, dict):
            raise EmulatorError(f"{where}: it is {type(definition).__name__}, not an object.")
        self.where = where
        self._fields: dict[str, Json] = dict(definition)  # from a JSON or YAML document, so its values are JSON
        self._unread = set(self._fields)

    def __contains__(self, name: str) -> bool:
        return name in self._fields

    def value(self, name: str) -> Json:
        """Return a field.

        Raises EmulatorError for one that is missing.
        """
        if name not in self._fields:
            raise EmulatorError(f"{self.where}: {name} is missing.")
        self._unread.discard(name)
        return self._fields[name]

    def optional(self, name: str) -> tuple[Json] | None:
        """Return a field that may be null, in a tuple; None if missing."""
        return (self.value(name),) if name in self else None

    def text(self, name: str, default: str | None = None) -> str:
        """Return a string, or its default where there is no such field."""
        value = default if default is not None and name not in self else self.value(name)
        if not isinstance(value, str):
            raise EmulatorError(f"{self.where}: {name} is {value!r}, not a string.")
        return value

    def one_of[Word: str](self, name: str, words: Sequence[Word], default: Word | None = None) -> Word:
        """Return one of some strings, or its default."""
        if default is not None and name not in self:
            return default
        value = self.value(name)
        for word in words:
            if word == value:
                return word
        raise EmulatorError(f"{self.where}: {name} is {value!r}; the emulator knows {', '.join(words)}.")

    def number(self, name: str) -> float | None:
        """Return a number of the field's range, or None if missing."""
        if name not in self:
            return None
        value = self.value(name)
        # bool first: True is an int in Python, and no number in JSON.
        if isinstance(value, bool) or not isinstance(value, int | float) or not RANGES[name].has(value):
            raise EmulatorError(f"{self.where}: {name} is {value!r}, not {RANGES[name]}.")
        return value

    def whole(self, name: str, default: int) -> int:
        """Return a whole number of the field's range, or the default."""
        value = self.number(name)
        return default if value is None else int(value)

    def number_template(self, name: str, default: Json = None) -> Json:
        """Return a number of the field's range, an expression or the default."""
        if name not in self:
            return default
        value = self.value(name)
        return value if is_expression(value) else self.number(name)

    def flag(self, name: str) -> bool:
        """Return whether a field is true; False if missing."""
        value = self.value(name) if name in self else False
        if not isinstance(value, bool):
            raise EmulatorError(f"{self.where}: {name} is {value!r}, not true or false.")
        return value

    def comment(self) -> None:
        """Accept the field that changes nothing."""
        if "Comment" in self:
            self.text("Comment")

    def mapping(self, name: str) -> dict[str, Json]:
        """Return an object."""
        value = self.value(name)
        if not isinstance(value, dict):
            raise EmulatorError(f"{self.where}: {name} is {type(value).__name__}, not an object.")
        return value

    def objects(self, name: str) -> list[Fields]:
        """Return a list of objects; an empty one if missing."""
        value = self.value(name) if name in self else []
        if not isinstance(value, list):
            raise EmulatorError(f"{self.where}: {name} is {type(value).__name__}, not a list.")
        return [Fields(member, f"{self.where}: {name}[{number}]") for number, member in enumerate(value)]

    def inside(self, name: str) -> Fields:
        """Return the fields of an object in this one."""
        return Fields(self.value(name), f"{self.where}: {name}")

    def ignore(self, names: Iterable[str]) -> None:
        """Accept fields that change nothing here."""
        self._unread -= set(names)

    @property
    def unread(self) -> list[str]:
        """The fields that nobody has read, sorted."""
        return sorted(self._unread)

    def end(self) -> None:
        """Raise EmulatorError if there are fields that nobody read."""
        if unknown := self.unread:
            raise EmulatorError(f"{self.where}: the emulator does not know the field {unknown[0]!r}.")
