"""A store in a directory."""

from __future__ import annotations

import errno
import os
import sys
import tempfile
import threading
from collections.abc import Buffer, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import groupby
from pathlib import Path
from typing import BinaryIO

from lokki.base.values import Stored
from lokki.errors import StoreError, damaged
from lokki.store.keys import check_key, check_range, truncation_error

_SCHEME = "local:///"
FLUSH_SECONDS = 1.0
"""How much later than it was written a power cut can still take what was written by `LocalStore.write_soon`."""

_AT_ONCE = 8
_MOST_PIECES = 1024  # IOV_MAX on Linux and macOS, see writev(2)


class LocalStore:
    """Objects as files under a directory.

    The URL of one is ``local:///<key>``, so that the directory can be moved.

    Nothing outside of the directory is read or written, also not through symbolic links. Only their owner may read what
    is written. ``existing``: folders of so many first parts of a key are never made, so that what was removed while
    somebody wrote into it stays removed. ``pending``: what forces to disk what `write_soon` wrote.
    """

    def __init__(self, root: Path, *, existing: int | None = None, pending: PendingFiles | None = None) -> None:
        self._root = root.resolve()
        self._existing = existing
        self._pending = pending or PendingFiles()

    def url(self, key: str) -> str:
        """Return the URL of a key."""
        return _SCHEME + check_key(key)

    def write(self, key: str, chunks: Iterable[Buffer]) -> Stored:
        """Write a file, and replace an older one in one step.

        It is written beside its place, flushed to the disk and renamed.

        An error from the chunks is handed on as it is.
        """
        return self._write(key, chunks, flush_file=os.fsync, flush=_flush_entry)

    def write_soon(self, key: str, chunks: Iterable[Buffer]) -> Stored:
        """Write a file as `write` does, but do not wait for the disk.

        A kill does not lose it, and from a second later or the next `flush` on no power cut does. One before that may
        leave an empty file: only for what is checked when it is read, and written after all that it names.
        """
        return self._write(key, chunks, flush_file=begin_writing_back, flush=self._pending.add)

    def flush(self) -> None:
        """Force to disk what `write_soon` wrote.

        Raises StoreError when the disk cannot take it.
        """
        with self._translating(self.url("*"), "written"):
            self._pending.flush()

    def _write(
        self,
        key: str,
        chunks: Iterable[Buffer],
        flush_file: Callable[[int], None],
        flush: Callable[[Path], None],
    ) -> Stored:
        url = self.url(key)
        path = self._path(key, url)
        with self._translating(url, "written"):
            first = None if self._existing is None else self._root.joinpath(*key.split("/")[: self._existing])
            make_directory(path.parent, first, flush)
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
                    flush_file(descriptor)
                    temporary.replace(path)
                    flush(path)
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


class PendingFiles:
    """Files and folders that are to be forced to disk soon.

    A second after the first of them was added, or earlier by `flush`: many at once cost the disk less than each alone.
    ``force``: forces one to disk.
    """

    def __init__(self, force: Callable[[Path], None] | None = None) -> None:
        self._force = force or flush_directory
        self._paths: dict[Path, None] = {}
        self._changing = threading.Lock()
        self._flushing = threading.Lock()
        self._waiting: _Waiting | None = None
        self._lost: OSError | None = None

    def add(self, path: Path) -> None:
        """Add a file or folder that is new, and so the folder that it is in."""
        with self._changing:
            self._paths[path] = self._paths[path.parent] = None
            if self._waiting is not None:
                return
            self._waiting = _Waiting(self._flush_later)
            self._waiting.start()

    def flush(self) -> None:
        """Force everything that was added to disk.

        No thread is left that would do so later. Raises OSError; what could not be forced to disk stays.
        """
        with self._changing:
            waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.end()
        self._flush()
        # The system says only once that it lost what was written, and perhaps said so when nobody waited.
        lost, self._lost = self._lost, None
        if lost is not None:
            raise lost

    def _flush(self) -> None:
        # Whoever comes while another thread flushes waits: all that was added before is on disk when this returns.
        with self._flushing:
            with self._changing:
                paths, self._paths = self._paths, {}
            try:
                # Files first: after a power cut, few names should be there whose content is not.
                for group in (path for path in paths if not path.is_dir()), filter(Path.is_dir, paths):
                    self._force_all(list(group))
            except BaseException:
                with self._changing:
                    self._paths = paths | self._paths
                raise

    def _force_all(self, paths: list[Path]) -> None:
        """Force some files or folders to disk, several at a time.

        The disk takes those that wait for it in one go: 100 on 8 threads took a tenth of the time. Raises OSError.
        """
        errors: list[OSError] = []

        def work() -> None:
            with suppress(IndexError):  # another thread took the last one
                while paths:
                    try:
                        self._force(paths.pop())
                    except (FileNotFoundError, NotADirectoryError):
                        pass  # it was removed meanwhile
                    except OSError as error:
                        errors.append(error)

        helpers = [
            threading.Thread(target=work, name="lokki-disk", daemon=True) for _ in range(min(_AT_ONCE, len(paths)) - 1)
        ]
        for helper in helpers:
            helper.start()
        work()
        for helper in helpers:
            helper.join()
        if errors:
            raise errors[0]

    def _flush_later(self) -> None:
        with self._changing:
            if self._waiting is threading.current_thread():
                self._waiting = None
        try:
            self._flush()
        except OSError as error:
            self._lost = error


class _Waiting(threading.Thread):
    """Calls a function a second later, unless it is ended before."""

    def __init__(self, function: Callable[[], None]) -> None:
        super().__init__(name="lokki-disk", daemon=True)
        self._function = function
        self._ended = threading.Event()

    def run(self) -> None:
        """Wait, and call the function."""
        if not self._ended.wait(FLUSH_SECONDS):
            self._function()

    def end(self) -> None:
        """End the thread, or wait for what it has begun."""
        self._ended.set()
        # A signal in start() leaves a thread that is not known to be started. It ends at once when it begins.
        with suppress(RuntimeError):
            self.join()


def make_directory(path: Path, existing: Path | None = None, flush: Callable[[Path], None] | None = None) -> None:
    """Make a directory and its parents so that they stay.

    They are made down from one that must exist, and outlive a power cut. ``flush``: sees to that for a new
    folder, by default at once.
    """
    if path.is_dir():
        return
    if path == existing:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    make_directory(path.parent, existing, flush)
    path.mkdir(0o700, exist_ok=True)
    (flush or _flush_entry)(path)


def open_to_append(path: Path) -> int:
    """Open a file to append to, and return its descriptor.

    A new file may be read by its owner alone.
    """
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)


def write_pieces(descriptor: int, pieces: Sequence[Buffer]) -> None:
    """Write pieces one after the other without joining them.

    All of them, of which one call of the system may take only some.
    """
    rest = [memoryview(piece).cast("B") for piece in pieces]
    while rest:
        written = os.writev(descriptor, rest[:_MOST_PIECES])
        done = 0
        while done < len(rest) and written >= rest[done].nbytes:
            written -= rest[done].nbytes
            done += 1
        rest = rest[done:]
        if written:
            rest[0] = rest[0][written:]


def begin_writing_back(descriptor: int, offset: int = 0, length: int = 0) -> None:
    """Have the system begin to force a range of a file to disk.

    By default, all of it. So the fsync that comes later finds little left to wait for. Linux alone can be asked, and
    promises nothing.
    """
    if sys.platform == "linux":
        # It would drop these pages from memory, too, but not while they are on their way to the disk.
        with suppress(OSError):
            os.posix_fadvise(descriptor, offset, length, os.POSIX_FADV_DONTNEED)


def _flush_entry(path: Path) -> None:
    flush_directory(path.parent)


def flush_directory(path: Path) -> None:
    """Force to disk which files a directory holds.

    Or what a file does.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
