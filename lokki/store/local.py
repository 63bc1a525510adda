"""A store in a directory."""

from __future__ import annotations

import errno
import os
import sys
import tempfile
from collections.abc import Buffer, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import groupby
from pathlib import Path
from typing import BinaryIO

from lokki.base.values import Stored
from lokki.errors import StoreError, damaged
from lokki.store.codec import Piece
from lokki.store.keys import check_key, check_range, truncation_error

_SCHEME = "local:///"
_MOST_PIECES = 1024  # IOV_MAX on Linux and macOS, see writev(2)


class LocalStore:
    """Objects as files under a directory.

    The URL of one is ``local:///<key>``, so that the directory can be moved.

    Nothing outside of the directory is read or written, also not through symbolic links. Only their owner may read what
    is written. ``existing``: folders of so many first parts of a key are never made, so that what was removed while
    somebody wrote into it stays removed.
    """

    def __init__(self, root: Path, *, existing: int | None = None) -> None:
        self._root = root.resolve()
        self._existing = existing

    def url(self, key: str) -> str:
        """Return the URL of a key."""
        return _SCHEME + check_key(key)

    def write(self, key: str, chunks: Iterable[Buffer]) -> Stored:
        """Write a file, and replace an older one in one step.

        It is written beside its place, flushed to the disk and renamed.

        An error from the chunks is handed on as it is.
        """
        url = self.url(key)
        path = self._path(key, url)
        with self._translating(url, "written"):
            first = None if self._existing is None else self._root.joinpath(*key.split("/")[: self._existing])
            make_directory(path.parent, first)
            # In the same directory: a file is renamed in one step only within its file system.
            descriptor, name = tempfile.mkstemp(prefix=".", suffix=".part", dir=path.parent)
        temporary = Path(name)
        try:
            with open(descriptor, "wb") as file:  # noqa: PTH123
                for chunk in chunks:
                    with self._translating(url, "written"):
                        file.write(chunk)
                with self._translating(url, "written"):
                    file.flush()
                    # First the content and then the name, or a power cut could leave the name of an empty file.
                    os.fsync(descriptor)
                    temporary.replace(path)
                    flush_directory(path.parent)
        finally:
            temporary.unlink(missing_ok=True)  # it is gone already if it was renamed
        return Stored(url)

    def read(self, place: Stored) -> Buffer:
        """Return the bytes of a file, or of a range of it."""
        [content] = self.read_many([place])
        return content

    def read_many(self, places: Iterable[Stored]) -> Iterator[Buffer]:
        """Yield the bytes of each place, one by one.

        A file is opened once for all its ranges in a row.
        """
        for url, same in groupby(places, key=lambda place: place.result_url):
            with self._translating(url, "read"), self._opened(url) as file:
                size = os.fstat(file.fileno()).st_size
                for place in same:
                    yield _read(file, place, size)

    def _opened(self, url: str) -> BinaryIO:
        if not url.startswith(_SCHEME):
            raise StoreError(f"{url} is not in this store, which reads only {_SCHEME}… under {self._root}.")
        return self._path(check_key(url.removeprefix(_SCHEME)), url).open("rb")

    @contextmanager
    def _translating(self, url: str, action: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if action == "read" and isinstance(error, FileNotFoundError):
                raise damaged(
                    f"{url} is not there: no such file under {self._root}", "Run the step that writes it again."
                ) from error
            problem = f"{url} cannot be {action} under {self._root}: {error.strerror or error}"
            if action == "read" and isinstance(error, IsADirectoryError | NotADirectoryError):
                raise damaged(problem) from error
            raise StoreError(f"{problem}.") from error

    def _path(self, key: str, url: str) -> Path:
        path = self._root / key
        # A key has no `..`, but a folder on its way may be a link.
        if not path.resolve().is_relative_to(self._root):
            raise StoreError(f"{url} leads out of {self._root} through a symbolic link. Remove the link.")
        return path


def _read(file: BinaryIO, place: Stored, size: int) -> bytes:
    offset, length = check_range(place, size)
    file.seek(offset)
    content = file.read(length)
    # The size was right a moment ago, and another process may write meanwhile.
    if len(content) < length:
        raise truncation_error(place, "it was shortened while it was read")
    return content


def make_directory(path: Path, existing: Path | None = None) -> None:
    """Make a directory and its parents so that they stay.

    They are made down from one that must exist, and outlive a power cut.
    """
    if path.is_dir():
        return
    if path == existing:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    make_directory(path.parent, existing)
    path.mkdir(0o700, exist_ok=True)
    flush_directory(path.parent)


def open_to_append(path: Path) -> int:
    """Open a file to append to, and return its descriptor.

    A new file may be read by its owner alone.
    """
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)


def write_pieces(descriptor: int, pieces: Sequence[Piece]) -> None:
    """Write pieces one after the other without joining them.

    All of them, of which one call of the system may take only some.
    """
    rest = list(pieces)
    while rest:
        written = os.writev(descriptor, rest[:_MOST_PIECES])
        done = 0
        while done < len(rest) and written >= len(rest[done]):
            written -= len(rest[done])
            done += 1
        rest = rest[done:]
        if written:
            rest[0] = memoryview(rest[0])[written:]


def begin_writing_back(descriptor: int, offset: int = 0, length: int = 0) -> None:
    """Have the system begin to force a range of a file to disk.

    By default, all of it. So the fsync that comes later finds little left to wait for. Linux alone can be asked, and
    promises nothing.
    """
    if sys.platform == "linux":
        # It would drop these pages from memory, too, but not while they are on their way to the disk.
        with suppress(OSError):
            os.posix_fadvise(descriptor, offset, length, os.POSIX_FADV_DONTNEED)


def flush_directory(path: Path) -> None:
    """Force to disk which files a directory holds.

    Or what a file does.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
