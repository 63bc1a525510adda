"""The results of a map block for a step that takes them one by one, and not as a list."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import overload

from lokki.errors import LokkiError, StopSignal


class UnloadedError(StopSignal):
    """A result could not be loaded while a step used it.

    That is no failure of the step, which cannot catch it as an Exception and is not tried again. ``error`` says why.
    """

    def __init__(self, error: LokkiError | OSError) -> None:
        super().__init__(str(error))
        self.error = error


class LazyResults(Sequence[object]):
    """Results that are loaded when they are used, a new copy each time.

    So memory holds those that the step holds, and what the store reads ahead of an iteration. A slice is lazy, too.
    Pickled, it is a list.

    * ``indexes``: of the results, in order.
    * ``load``: yields the results of indexes, in order.
    """

    __slots__ = ("_indexes", "_load")

    def __init__(self, indexes: Sequence[int], load: Callable[[Sequence[int]], Iterator[object]]) -> None:
        self._indexes = indexes
        self._load = load

    def __len__(self) -> int:
        return len(self._indexes)

    @overload
    def __getitem__(self, place: int) -> object: ...
    @overload
    def __getitem__(self, place: slice) -> LazyResults: ...
    def __getitem__(self, place: int | slice) -> object:
        if isinstance(place, slice):
            return LazyResults(self._indexes[place], self._load)
        [value] = self._loaded([self._indexes[place]])
        return value

    def __iter__(self) -> Iterator[object]:
        return self._loaded(self._indexes)

    def __reduce__(self) -> tuple[object, ...]:
        return list, (list(self),)

    def __repr__(self) -> str:
        return f"<{len(self)} results of a map>"

    def _loaded(self, indexes: Sequence[int]) -> Iterator[object]:
        try:
            yield from self._load(indexes)
        except (LokkiError, OSError) as error:
            raise UnloadedError(error) from error
