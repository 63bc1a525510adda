"""Large arrays, and the frames made of them, that change hands without a copy.

Why: a copy of an array costs more than writing it to disk, as the system fills every page of new memory with zeros
first. Steps share no memory, so an array can be handed on as it is only where nobody else can reach its memory.
Python counts who refers to an object, and numpy keeps with each array the one that its memory is of: where the value is
gone, and what is left of its arrays has no other references than those of this module, they are its own.
"""

from __future__ import annotations

import pickle
import sys
import weakref
from collections.abc import Sequence
from dataclasses import dataclass

from lokki.store.arrays import SHARED_BYTES, is_array
from lokki.store.codec import copy_pickled, pickle_pieces

_PIECE = memoryview(bytearray(1))
_ALONE = sys.getrefcount(_PIECE.obj)
"""What Python counts, while it counts, for an object that an attribute of one object alone refers to."""


@dataclass(frozen=True, slots=True)
class Detached:
    """A value in two parts.

    * ``skeleton``: its pickle without the memory of its large arrays.
    * ``memory``: that of each of them, which is still theirs.
    """

    skeleton: bytes
    memory: list[memoryview]

    def value(self) -> object:
        """Return the value anew.

        It has its arrays' own memory if nobody else can reach that, and copies if somebody can. Raises whatever the
        code of the value's class raises.
        """
        is_own = all(map(_is_unshared, self.memory))
        return pickle.loads(self.skeleton, buffers=self.memory if is_own else map(_copy, self.memory))


@dataclass(frozen=True, slots=True)
class DetachedArray:
    """An array that was a value by itself.

    ``memory``: the array's, which refers to it.
    """

    memory: memoryview

    def value(self) -> object:
        """Return the array, or a copy if somebody else can reach its memory."""
        return self.memory.obj if _is_unshared(self.memory) else copy_pickled(pickle_pieces(self.memory.obj))


type DetachedValue = Detached | DetachedArray


def detach(value: object, pickled: Sequence[memoryview]) -> DetachedValue | None:
    """Take a value apart, if large arrays are at least half of it.

    ``pickled``: its pickle in pieces. Raises whatever the code of the value's class raises.
    """
    for piece in pickled:
        if piece.obj is value and is_array(value):
            return DetachedArray(piece)
    if 2 * sum(len(piece) for piece in pickled if _is_of_large_array(piece)) < sum(map(len, pickled)):
        return None
    memory: list[memoryview] = []

    def is_kept(buffer: pickle.PickleBuffer) -> bool:
        piece = buffer.raw()
        if _is_of_large_array(piece):
            memory.append(piece)
            return False
        return True

    return Detached(pickle.dumps(value, 5, buffer_callback=is_kept), memory)


def _is_of_large_array(piece: memoryview) -> bool:
    return len(piece) >= SHARED_BYTES and is_array(piece.obj)


def _is_unshared(piece: memoryview) -> bool:
    """Tell whether only a piece of memory refers to the array that it is of.

    No name may refer to an array while its references are counted.
    """
    if sys.getrefcount(piece.obj) != _ALONE:
        return False
    array: object = piece.obj
    while is_array(array) and weakref.getweakrefcount(array) == 0:
        if array.flags.owndata:
            return True
        if sys.getrefcount(array.base) != _ALONE:
            return False
        array = array.base
    return False


def _copy(piece: memoryview) -> bytes | bytearray:
    return bytes(piece) if piece.readonly else bytearray(piece)
