"""Turns values into bytes and back, as pickles in gzip members.

Pickle protocol 5 in one gzip member, compressed by ISA-L, or stored.

Anybody can read what `dumps` writes with ``gzip.open`` and ``pickle.load``. The same value gives the same bytes: the
gzip header holds no time and no name.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Buffer, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field

from isal import igzip_lib, isal_zlib

from lokki.base.failures import describe_error, error_text, place_in_users_files, trace_of
from lokki.errors import ResultError, StopSignal, StoreError, damaged
from lokki.store.arrays import known_pieces, note_pieces
from lokki.store.vector_registers import clear_upper_halves

MAX_BYTES = 10 * 2**30
"""The largest pickle that `loads` unpacks unless told otherwise: 10 GiB, the most memory a Lambda function can have.
Source: https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html"""

# Levels 1 and 2 are about equally fast and 2 compresses more; 3 takes up to twice as long for 2 to 4 % fewer bytes.
_LEVEL = 2
_GZIP_WINDOW = 31  # zlib's way to ask for a gzip member with a window of 2**15 bytes
_RAW_WINDOW = -15  # and for bare deflate

# RFC 1952: magic, deflate, no flags, no time, no hint, unknown system: the same ten bytes as ISA-L writes.
_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
_TRAILER = struct.Struct("<II")  # CRC-32, and size modulo 2**32
_SHORTEST_MEMBER = len(_HEADER) + 2 + _TRAILER.size

# RFC 1951, 3.2.4, a stored block: 1 if it is the last one, its length, and its length's complement.
_BLOCK = struct.Struct("<BHH")
_LONGEST_BLOCK = 0xFFFF
_LAST_BLOCK = _BLOCK.pack(1, 0, _LONGEST_BLOCK)

_TINY = 256  # bytes, up to which compressing wins nothing that is worth its time
_SAMPLED = 2**15  # bytes, from which samples tell whether compressing is worth its time
_SAMPLES = 8
# At most an eighth of the pickle is sampled, of large ones less than 1 %: the samples cost what compressing them costs.
_LEAST_SAMPLE, _LARGEST_SAMPLE = 2**10, 2**14

_ALIKE = 16
"""How many large values in a row must not shrink, so that a pack samples no more than one in as many."""

# Compressors that no thread is at now. A new one for each pickle took twice as long as compressing its samples, as the
# system fills each page of its buffers with zeros first.
_idle_compressors: list[isal_zlib.Compress] = []

_JOINED = 2**18
"""Up to how many bytes a pickle is joined to be read: copying as much takes less time than what reading it in pieces
does in Python."""

MAINS = ("__main__", "__mp_main__")
"""What the module of a program is called in its own process, and in one that multiprocessing starts anew."""

MISSING = "holds an object of code that is missing here"

own_module: ContextVar[str | None] = ContextVar("own_module", default=None)
"""The module of the flow that runs, where values name a class of a file that ran as ``__main__``."""

_SPEAKING = (pickle.PicklingError, AttributeError, TypeError)
"""What pickle raises for values that it cannot handle, with a text that needs no name of a class before it."""


type Piece = bytes | memoryview
"""Bytes, as many as ``len`` says."""


def dumps(value: object) -> bytes:
    """Return a value as one gzip member around its pickle.

    What compression would not make at least an eighth smaller is stored in the member as it is, at 5 bytes more per
    64 KiB. Large buffers, such as the data of an array, are copied once, into the result.

    Raises ResultError, with the value's type and pickle's reason, if it does not pickle.
    """
    return b"".join(encode(value))


def encode(value: object) -> list[Piece]:
    """Return what `dumps` does, in pieces to write one by one.

    Large buffers that are stored are not copied at all.

    Some pieces are the value's own memory, so write them before anything can change the value. Raises as `dumps`.
    """
    return encode_pickled(pickle_pieces(value))


def encode_pickled(chunks: list[memoryview], *, sampled: bool = True) -> list[Piece]:
    """Return what `encode` does, of a value that `pickle_pieces` has pickled.

    ``sampled``: whether samples of a large one are taken; it is stored where they are not.
    """
    member = _member(chunks, sampled=sampled)
    clear_upper_halves()
    return member


def checksum(member: Sequence[Piece]) -> int:
    """Return the CRC-32 of the pickle in a gzip member.

    It stands in the last bytes of what `dumps` or `encode` made.
    """
    return member_checksum(bytes(member[-1][-_TRAILER.size :]))


def member_checksum(member: bytes) -> int:
    """Return the same of a gzip member in one piece."""
    return int.from_bytes(member[-8:-4], "little")


def checksum_of(data: Buffer, start: int = 0) -> int:
    """Return a CRC-32.

    ``start``: that of the bytes before these.
    """
    checksum = isal_zlib.crc32(data, start)
    clear_upper_halves()
    return checksum


def loads(
    data: Buffer,
    *,
    limit: int = MAX_BYTES,
    url: str = "",
    modules: Mapping[str, str] | None = None,
    crc32: int | None = None,
) -> object:
    """Return the value of one gzip member around a pickle.

    `dumps` or ``gzip`` wrote it.

    Nothing is unpickled before the whole member is unpacked and its checksum is right; unpacking stops when the pickle
    exceeds `limit` bytes. `url` names the data in messages. `modules`: where to look for what modules of these names
    had when the data was written, such as ``{"__main__": "birds_flow"}``. `crc32`: the pickle's checksum, where it is
    known from elsewhere: a whole member that is another value's is refused.

    Raises StoreError if the data is not gzip, truncated, corrupt, longer than one member, too large, or does not
    unpickle.
    """
    name = url or "The data"
    member = memoryview(data)
    pieces = _pieces_of(member, limit, name)
    if sum(map(len, pieces)) > limit:
        raise _too_large(name, limit)
    if crc32 is not None and crc32 != member_checksum(bytes(member[-_TRAILER.size :])):
        raise damaged(f"{name} holds another value than it should", "Run the step that wrote it again.")
    try:
        return _unpickled(pieces, modules)
    except (KeyboardInterrupt, StopSignal):
        raise
    # The code of a value's class may raise anything.
    except BaseException as error:
        raise _not_unpickled(name, error) from error


def _unpickled(pieces: list[memoryview], modules: Mapping[str, str] | None) -> object:
    if modules:
        return _Renaming(_Pieces(pieces), modules).load()
    try:
        if len(pieces) == 1:
            return pickle.loads(pieces[0])
        if sum(map(len, pieces)) <= _JOINED:
            return pickle.loads(b"".join(pieces))
        return pickle.Unpickler(_Pieces(pieces)).load()
    except (ImportError, AttributeError):
        flow_module = own_module.get()
        if flow_module is None:
            raise
        return _Renaming(_Pieces(pieces), dict.fromkeys(MAINS, flow_module)).load()


def _not_unpickled(name: str, error: BaseException) -> StoreError:
    if place_in_users_files(trace_of(error)):
        return StoreError(
            f"{name} is whole but its class raises when it is read: {describe_error(error)}. "
            "Fix the class and resume, or return plain data."
        )
    if isinstance(error, ImportError | AttributeError):
        return StoreError(
            f"{name} {MISSING}: {error_text(error)}. "
            "Install what the step that wrote it has installed, or run that step again with today's code."
        )
    return StoreError(
        f"{name} is whole but does not unpickle: {describe_error(error)}. "
        "Use the Python and package versions that wrote it, or run the step that wrote it again."
    )


def is_whole(member: Buffer, crc32: int | None = None) -> bool:
    """Tell whether a gzip member is whole, without unpickling it.

    ``crc32``: that of the pickle that it must hold, where that is known.
    """
    view = memoryview(member)
    try:
        pieces = _pieces_of(view, MAX_BYTES, "")
    except StoreError:
        return False
    return sum(map(len, pieces)) <= MAX_BYTES and (crc32 is None or crc32 == checksum([view]))


@dataclass(slots=True)
class Pack:
    """Lays several values one after the other in one object.

    Each is a gzip member of its own.

    The caller writes the members where it likes, in the order they are made, and reads one back with `loads` on the
    bytes of its range. `size` is the number of bytes so far; start with the size of a file to append to it.

    The values of a pack are mostly alike: after sixteen large ones in a row that would not shrink, it samples one in
    sixteen, until there is one that does. The same values in the same order give the same bytes.
    """

    size: int = 0
    _stored_in_a_row: int = field(default=0, init=False)

    def add(self, value: object) -> tuple[bytes, tuple[int, int]]:
        """Return the member to write next, and its range.

        The range is an offset and a length in bytes.

        Raises ResultError if the value does not pickle; the pack is then as it was.
        """
        pieces, place = self.add_pieces(pickle_pieces(value))
        return b"".join(pieces), place

    def add_pieces(self, pickled: list[memoryview]) -> tuple[list[Piece], tuple[int, int]]:
        """Return the member of a pickle, and its range.

        The member is in pieces to write one by one. Of one of less than `SHARED_BYTES`, no piece is the value's own
        memory.
        """
        in_a_row = self._stored_in_a_row
        pieces = encode_pickled(pickled, sampled=in_a_row < _ALIKE or in_a_row % _ALIKE == 0)
        if sum(map(len, pickled)) >= _SAMPLED:
            self._stored_in_a_row = in_a_row + 1 if len(pieces) > 1 else 0
        length = sum(map(len, pieces))
        place = (self.size, length)
        self.size += length
        return pieces, place


class _Chunks:
    """A file to pickle into that does not copy large buffers."""

    __slots__ = ("views",)

    def __init__(self) -> None:
        self.views: list[memoryview] = []

    def write(self, chunk: Buffer) -> None:
        self.views.append(chunk.raw() if isinstance(chunk, pickle.PickleBuffer) else memoryview(chunk))


class _Pieces:
    """A file to unpickle from, over pieces of memory.

    Large buffers are copied straight into the object.
    """

    __slots__ = ("_pieces", "_rest")

    def __init__(self, pieces: list[memoryview]) -> None:
        self._pieces = iter(pieces)
        self._rest = memoryview(b"")

    def _views(self, size: int) -> Iterator[memoryview]:
        """Yield the next `size` bytes, or what is left, in pieces."""
        while size > 0:
            if not self._rest:
                piece = next(self._pieces, None)
                if piece is None:
                    return
                self._rest = piece
            view, self._rest = self._rest[:size], self._rest[size:]
            size -= len(view)
            yield view

    def read(self, size: int) -> bytes:
        return b"".join(self._views(size))

    def readinto(self, buffer: Buffer) -> int:
        target = memoryview(buffer)
        done = 0
        for view in self._views(len(target)):
            target[done : done + len(view)] = view
            done += len(view)
        return done

    def readline(self) -> bytes:
        line = bytearray()
        while not line.endswith(b"\n") and (byte := self.read(1)):
            line += byte
        return bytes(line)


class _Renaming(pickle.Unpickler):
    """Looks for classes and functions of some modules in others."""

    def __init__(self, file: _Pieces, modules: Mapping[str, str]) -> None:
        super().__init__(file)
        self._modules = modules

    def find_class(self, module_name: str, global_name: str, /) -> object:
        return super().find_class(self._modules.get(module_name, module_name), global_name)


def copy_pickled(pieces: list[memoryview]) -> object:
    """Return the value of a pickle in pieces.

    It shares no memory with them. Raises whatever the code of the value's class raises.
    """
    return _unpickled(pieces, None)


def pickle_pieces(value: object) -> list[memoryview]:
    """Return a value's pickle in pieces.

    The large ones are the value's own memory. Raises as `dumps`.
    """
    known = known_pieces(value)
    if known is not None:
        return known
    chunks = _Chunks()
    try:
        pickle.Pickler(chunks, 5).dump(value)
    except (KeyboardInterrupt, StopSignal):
        raise
    # The code of a value's class may raise anything.
    except BaseException as error:
        kind = type(value)
        reason = error_text(error) if isinstance(error, _SPEAKING) else describe_error(error)
        raise ResultError(
            f"A result of type {kind.__module__}.{kind.__qualname__} does not pickle: {reason}. "
            "Return plain data, or objects of classes defined at the top level of a module."
        ) from error
    note_pieces(value, chunks.views)
    return chunks.views


def _member(chunks: list[memoryview], *, sampled: bool) -> list[Piece]:
    size = sum(map(len, chunks))
    if size > _TINY and (size < _SAMPLED or (sampled and _shrinks(chunks, size))):
        member = _deflated(chunks)
        if _is_shrunk(len(member), size):
            return [member]
    return _stored(chunks, size)


def _is_shrunk(packed: int, size: int) -> bool:
    return packed * 8 <= size * 7


def _shrinks(chunks: list[memoryview], size: int) -> bool:
    """Tell from samples whether compression saves an eighth.

    The samples are spread evenly over the chunks.
    """
    step = size // _SAMPLES
    length = min(max(_LEAST_SAMPLE, size >> 10), _LARGEST_SAMPLE)
    samples: list[memoryview] = []
    position = 0
    for chunk in chunks:
        while position < len(chunk):
            samples.append(chunk[position : position + length])
            position += step
        position -= len(chunk)
    joined = b"".join(samples)
    return _is_shrunk(_deflated_size(joined), len(joined))


def _deflated_size(sample: bytes) -> int:
    """Return how many bytes a sample takes when it is compressed by itself."""
    try:
        compressor = _idle_compressors.pop()
    except IndexError:
        compressor = isal_zlib.compressobj(_LEVEL, isal_zlib.DEFLATED, _RAW_WINDOW)
    # A full flush forgets what came before. Where an exception comes from a signal in between, the next sample gets
    # another compressor.
    size = len(compressor.compress(sample)) + len(compressor.flush(isal_zlib.Z_FULL_FLUSH))
    _idle_compressors.append(compressor)
    return size


def _deflated(chunks: list[memoryview]) -> bytes:
    if len(chunks) == 1:
        return igzip_lib.compress(chunks[0], _LEVEL, igzip_lib.COMP_GZIP)
    packer = isal_zlib.compressobj(_LEVEL, isal_zlib.DEFLATED, _GZIP_WINDOW)
    parts = [packer.compress(chunk) for chunk in chunks]
    parts.append(packer.flush())
    return b"".join(parts)


def _stored(chunks: list[memoryview], size: int) -> list[Piece]:
    parts: list[Piece] = [_HEADER]
    crc = 0
    for chunk in chunks:
        crc = isal_zlib.crc32(chunk, crc)
        for start in range(0, len(chunk), _LONGEST_BLOCK):
            block = chunk[start : start + _LONGEST_BLOCK]
            parts += (_BLOCK.pack(0, len(block), len(block) ^ _LONGEST_BLOCK), block)
    parts += (_LAST_BLOCK, _TRAILER.pack(crc, size % 2**32))
    return parts


def _pieces_of(member: memoryview, limit: int, name: str) -> list[memoryview]:
    try:
        return _stored_pieces(member) or _inflated_pieces(member, limit, name)
    finally:
        clear_upper_halves()


def _stored_pieces(member: memoryview) -> list[memoryview]:
    """Return what a member holds if all of its blocks are stored.

    Nothing for a member that is not whole, or has a compressed block.

    ISA-L can unpack such a member too, but into a copy; pickle then copies a second time.
    """
    if member[: len(_HEADER)] != _HEADER:
        return []
    pieces: list[memoryview] = []
    position, last, crc, size = len(_HEADER), 0, 0, 0
    while not last:
        if len(member) - position < _BLOCK.size:
            return []
        last, length, complement = _BLOCK.unpack_from(member, position)
        if last > 1 or length ^ complement != _LONGEST_BLOCK:
            return []
        position += _BLOCK.size
        piece = member[position : position + length]
        if piece:
            crc = isal_zlib.crc32(piece, crc)
            size += length
            pieces.append(piece)
        position += length
    return pieces if member[position:] == _TRAILER.pack(crc, size % 2**32) else []


def _inflated_pieces(member: memoryview, limit: int, name: str) -> list[memoryview]:
    if len(member) < _SHORTEST_MEMBER:
        raise _damaged(name, f"it has {len(member)} bytes, less than any gzip file")
    _, size = _TRAILER.unpack(member[-_TRAILER.size :])  # only a hint: it is wrong from 4 GiB on, or by malice
    unpacker = igzip_lib.IgzipDecompressor(igzip_lib.DECOMP_GZIP)
    total = 0
    pieces: list[memoryview] = []
    try:
        pieces.append(memoryview(unpacker.decompress(member, min(size, limit) + 1)))
        total = len(pieces[0])
        while not unpacker.eof and not unpacker.needs_input and total <= limit:
            pieces.append(memoryview(unpacker.decompress(b"", limit + 1 - total)))
            total += len(pieces[-1])
    except igzip_lib.IsalError as error:  # type: ignore[misc]  # its stub gives an instance for the class
        raise _damaged(name, str(error)) from error
    if total > limit:
        raise _too_large(name, limit)
    if not unpacker.eof:
        raise _damaged(name, "it ends too early")
    if unpacker.unused_data:
        raise _damaged(name, "there is more behind the end of the gzip data")
    return pieces


def _damaged(name: str, reason: str) -> StoreError:
    return damaged(f"{name} is damaged or no gzip: {reason}", "Delete it and run the step that wrote it again.")


def _too_large(name: str, limit: int) -> StoreError:
    return StoreError(
        f"{name} unpacks to more than {limit} bytes, the limit here. "
        "If lokki wrote it, split the step's result into smaller ones; if not, do not read it."
    )
