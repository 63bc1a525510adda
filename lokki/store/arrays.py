"""numpy's arrays, and pickles of plain ones, of which all but the memory is known from another one.

Why: the results of a map are mostly alike. Of an array of 100 KB, pickling the 150 bytes around the memory takes nearly
as long as writing all of it, and they are the same for all arrays of one type and shape.
"""

from __future__ import annotations

import copyreg
import pickle
import sys
from collections.abc import Buffer, Hashable
from typing import Protocol, TypeGuard

SHARED_BYTES = 2**16
"""From how many bytes on pickle hands on the memory of a value as it is. What is smaller it copies into its frames
(PEP 3154)."""

_NUMBERS = frozenset("biufc")
"""The kinds of types of which a pickle holds no more than their name."""

_MOST_KINDS = 256


class _Flags(Protocol):
    owndata: bool
    c_contiguous: bool
    writeable: bool


class _Type(Hashable, Protocol):
    @property
    def kind(self) -> str: ...

    @property
    def metadata(self) -> object: ...


class Array(Buffer, Protocol):
    """What is needed of numpy's arrays."""

    @property
    def base(self) -> object:
        """What the memory is of, where it is no memory of the array's own."""

    @property
    def dtype(self) -> _Type:
        """The type of its elements."""

    @property
    def flags(self) -> _Flags:
        """What its memory is like."""

    @property
    def nbytes(self) -> int:
        """Bytes of its elements."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its size in each dimension."""


type _Kind = tuple[_Type, tuple[int, ...], bool]

_around: dict[_Kind, tuple[list[memoryview], list[memoryview]]] = {}


def is_array(value: object) -> TypeGuard[Array]:
    """Tell whether an object is an array of numpy's, and of no subclass."""
    numpy = sys.modules.get("numpy")  # where there is an array, somebody has imported it
    return numpy is not None and type(value) is numpy.ndarray


def known_pieces(value: object) -> list[memoryview] | None:
    """Return an array's pickle in pieces, if one of its kind is known.

    The memory is the array's own. The pieces are those that pickle would give.
    """
    if not _is_plain(value) or (around := _around.get(_kind(value))) is None:
        return None
    before, after = around
    return [*before, pickle.PickleBuffer(value).raw(), *after]


def note_pieces(value: object, pieces: list[memoryview]) -> None:
    """Keep what is around the memory of a plain array in its pickle.

    Of another value nothing is kept.
    """
    if not _is_plain(value):
        return
    places = [place for place, piece in enumerate(pieces) if piece.obj is value]
    if len(places) != 1:
        return
    if len(_around) >= _MOST_KINDS:
        _around.clear()
    [place] = places
    _around[_kind(value)] = pieces[:place], pieces[place + 1 :]


def _is_plain(value: object) -> TypeGuard[Array]:
    """Tell whether a value is a large array of numbers, which numpy pickles."""
    return (
        is_array(value)
        and value.nbytes >= SHARED_BYTES
        and value.flags.c_contiguous
        and value.dtype.kind in _NUMBERS
        and value.dtype.metadata is None
        and type(value) not in copyreg.dispatch_table
    )


def _kind(array: Array) -> _Kind:
    return array.dtype, array.shape, array.flags.writeable
