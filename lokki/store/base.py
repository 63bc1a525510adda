"""Where values are kept between steps.

What every store can do, and how values are saved to and loaded from one.
"""

from __future__ import annotations

from collections.abc import Buffer, Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Protocol

import msgspec

from lokki.base.values import Inline, Ref, Stored, is_inline
from lokki.store import codec
from lokki.store.keys import describe_place

LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
"""Names of this machine, the only one that is spoken to over plain http."""


class Store(Protocol):
    """A place for named bytes.

    Every method raises a StoreError that names the URL if it cannot do its work.

    Keys are parts joined by ``/``, as `lokki.store.keys.check_key` has them. A store reads only URLs of its own.
    """

    def url(self, key: str) -> str:
        """Return the URL that the object of this key has or would have."""

    def write(self, key: str, chunks: Iterable[Buffer]) -> Stored:
        """Write one object from chunks as they come.

        The object appears whole or, if anything fails, not at all.
        """

    def read(self, place: Stored) -> Buffer:
        """Return the bytes of an object, or of a range of it."""

    def read_many(self, places: Iterable[Stored]) -> Iterator[Buffer]:
        """Yield what `read` returns for each place, in order.

        It reads some way ahead, in bounded memory.
        """


def save(store: Store, key: str, value: object, inline_limit: int, *, checked: bool = False) -> Ref:
    """Return a reference to a value, and write it if it is large.

    It is written under `key` unless it may travel inline.

    `checked`: the reference has the value's checksum, so that whatever else is there later is refused. Not for steps
    that may run twice at once: then the value of either counts.
    Raises ResultError if the value does not pickle, StoreError if the store cannot write.
    """
    if is_inline(value, inline_limit):
        return Inline(value)
    chunks = codec.encode(value)
    place = store.write(key, chunks)
    return replace(place, crc32=codec.checksum(chunks)) if checked else place


def load(store: Store, ref: Ref) -> object:
    """Return the value that a reference stands for.

    Raises StoreError if the store cannot read it, or what it reads is not what lokki wrote.
    """
    if isinstance(ref, Inline):
        return ref.result
    return codec.loads(store.read(ref), url=describe_place(ref), crc32=ref.crc32)


def reader(store: Store, ref: Ref) -> Callable[[], object]:
    """Return a function that loads a value, a new copy each time.

    It raises as `load` does.
    """
    if not isinstance(ref, Inline):
        return lambda: load(store, ref)
    # Decoded anew each time: a step may change the value that it gets.
    try:
        text = msgspec.json.encode(ref.result)
    except (UnicodeEncodeError, OverflowError):  # what lokki itself never puts inline, such as a lone surrogate
        member = codec.dumps(ref.result)
        return lambda: codec.loads(member)
    return lambda: msgspec.json.decode(text)


def load_many(store: Store, refs: Sequence[Ref]) -> Iterator[object]:
    """Yield the values that references stand for, in order.

    As `load`, but reading ahead.
    """
    contents = store.read_many(ref for ref in refs if isinstance(ref, Stored))
    for ref in refs:
        yield (
            ref.result
            if isinstance(ref, Inline)
            else codec.loads(next(contents), url=describe_place(ref), crc32=ref.crc32)
        )
