"""Values that all items of a map block read: each item's call gets a copy, made from bytes that are held once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from lokki.plans.templates import Source, source_name
from lokki.store.codec import dumps, loads

type Loaders = Mapping[Source, Callable[[], object]]
"""Functions that give a value anew each time, by what it is."""

_SCALARS = (str, int, float, bool, type(None))
_SCALAR_BYTES = 8


def copies_of(value: object, name: str) -> Callable[[], object]:
    """Return a function that makes copies of a value.

    Deployed, steps share no memory. ``name``: says in errors what the value is.
    """
    return sized_copies(value, name)[0]


def sized_copies(value: object, name: str) -> tuple[Callable[[], object], int]:
    """Return what `copies_of` does, and about how many bytes the value is."""
    if type(value) in _SCALARS:
        return lambda: value, len(value) if isinstance(value, str) else _SCALAR_BYTES
    packed = dumps(value)
    return _loader(packed, name), len(packed)


def write_values(path: Path, values: Mapping[Source, object]) -> None:
    """Write values for worker processes."""
    path.write_bytes(dumps({source: dumps(value) for source, value in values.items()}))


def read_values(path: Path) -> Loaders:
    """Read what `write_values` wrote; the bytes of each are held once."""
    packed = loads(path.read_bytes(), url=str(path))
    assert isinstance(packed, dict)
    return {source: _loader(member, source_name(source)) for source, member in packed.items()}


def _loader(packed: bytes, name: str) -> Callable[[], object]:
    return lambda: loads(packed, url=name)
