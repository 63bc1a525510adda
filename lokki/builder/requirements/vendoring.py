"""Installing what a flow requires for Lambda: once for each set of versions, compiled and packed.

Each step's package takes of an installation the packages that it needs. Nothing is left out that code can read: only
modules of tests that nothing imports, and, where a package would be too large otherwise, what compilers read.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import unquote, urlsplit
from zipfile import ZipFile, ZipInfo

import msgspec

from lokki.base.quotas import UNZIPPED_BYTES
from lokki.builder.packages.archive import Member, bytecode, bytecode_kind, digest_of, pack, write_archive
from lokki.builder.packages.sizes import refuse_too_large
from lokki.builder.requirements.cache import cache_key, read_entry, write_entry
from lokki.builder.requirements.distributions import (
    Distribution,
    find_distributions,
    is_program,
    read_site,
    record,
    test_folders,
    unimported_tests,
)
from lokki.builder.requirements.origins import reference_of
from lokki.builder.requirements.resolve import Resolved, install, marker_environment
from lokki.builder.requirements.uv import Uv

_ROOM = 8 * 2**20
"""What is left of the limit for the flow's own code when it is decided whether bytecode fits."""

_FORMAT = 2
"""Raised when equal pins come to another content than before, so that nobody's cache gives the old one."""

_FOR_COMPILERS = (".h", ".hpp", ".hh", ".c", ".cc", ".cpp", ".pxd", ".pyx", ".pxi", ".a", ".lib")
"""Left out only of what would not fit otherwise: some packages read a header when they are imported."""


@dataclass(frozen=True, slots=True)
class InstalledFile:
    """A file of an installation.

    - ``digest``: the SHA-256 of its content, in hexadecimal
    - ``is_program``: whether it may be started
    """

    digest: str
    size: int
    is_program: bool = False


@dataclass(frozen=True, slots=True)
class Index:
    """What the cache keeps of an installation beside its archive.

    - ``files``: by path
    - ``distributions``: packages by name
    - ``tests``: folders of tests that nothing imports
    """

    files: Mapping[str, InstalledFile]
    distributions: Mapping[str, Distribution]
    tests: tuple[str, ...]


@dataclass(frozen=True)
class Vendored:
    """What a package takes of an installation.

    - ``archive``: packs all that is installed, and more
    - ``files``: which of it are taken, by path
    - ``records``: files that are others than in the archive, since they list what is taken
    - ``note``: what to tell the user of what is left out, or ""
    """

    archive: Path
    files: Mapping[str, InstalledFile]
    records: Mapping[str, bytes] = field(default_factory=dict)
    note: str = ""

    @cached_property
    def paths(self) -> frozenset[str]:
        """The paths of all files."""
        return frozenset(self.files)

    @cached_property
    def digest(self) -> str:
        """A hash of the content, however it is packed."""
        return digest_of((path, file.digest, file.is_program) for path, file in self.files.items())

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes, unzipped, of each folder or file at the top.

        They are sorted by name.
        """
        sizes: dict[str, int] = {}
        for path, file in sorted(self.files.items()):
            top = path.partition("/")[0]
            sizes[top] = sizes.get(top, 0) + file.size
        return sizes

    @cached_property
    def size(self) -> int:
        """Bytes unzipped."""
        return sum(file.size for file in self.files.values())

    def members(self) -> Iterator[Member]:
        """Yield all files, packed as they are in the archive."""
        with ZipFile(self.archive) as archive, self.archive.open("rb") as file:
            for entry in archive.infolist():
                if entry.filename in self.files and entry.filename not in self.records:
                    yield _packed_member(entry, file.fileno(), self.files[entry.filename])
        yield from (pack(path, content) for path, content in self.records.items())


@dataclass(frozen=True, slots=True)
class Installation:
    """All that a set of pins installs.

    - ``archive``: packs all files
    - ``index``: says what they are
    """

    archive: Path
    index: Index

    @property
    def distributions(self) -> Mapping[str, Distribution]:
        """The packages by name."""
        return self.index.distributions

    def select(self, names: Iterable[str] | None = None, imported: Iterable[str] = ()) -> Vendored:
        """Return the files of packages, by default of all.

        ``imported``: modules that the step imports, whose folders of tests stay. Compiled modules and what compilers
        read are taken if there is room.
        """
        packages = frozenset(self.distributions if names is None else names)
        tests = _without_imported(self.index.tests, imported)
        files = self._files(packages, tests)
        sources = {path: file for path, file in files.items() if not path.endswith(".pyc")}
        spare = {path for path in sources if path.endswith(_FOR_COMPILERS) or tests & set(test_folders(path))}
        note = ""
        if _size(sources) > UNZIPPED_BYTES - _ROOM and spare:
            files = {path: file for path, file in files.items() if path not in spare}
            sources = {path: file for path, file in sources.items() if path not in spare}
            note = "what only compilers and tests read is left out, since it would not fit"
        # Slow to start is better than refused.
        if _size(files) > UNZIPPED_BYTES - _ROOM:
            files = sources
        records = dict(self._records(packages, sources))
        rewritten = {
            path: InstalledFile(hashlib.sha256(content).hexdigest(), len(content)) for path, content in records.items()
        }
        return Vendored(self.archive, dict(sorted((files | rewritten).items())), records, note)

    def _files(self, packages: frozenset[str], tests: set[str]) -> dict[str, InstalledFile]:
        """Return the files of packages, without modules of these tests."""
        # Two packages may have the same file, such as an __init__ of a namespace.
        left_out = self._paths(self.distributions.keys() - packages) - self._paths(packages)
        if tests:
            left_out |= {path for path in self.index.files if path.endswith(".py") and tests & set(test_folders(path))}
        return {path: file for path, file in self.index.files.items() if _source_of(path) not in left_out}

    def _paths(self, names: Iterable[str]) -> set[str]:
        return {path for name in names for path in self.distributions[name].paths}

    def _records(self, names: Iterable[str], files: Mapping[str, InstalledFile]) -> Iterator[tuple[str, bytes]]:
        """Yield the RECORD of each package, with what is taken of it."""
        for name in names:
            own = [path for path in self.distributions[name].paths if path in files]
            for path in own:
                info, _, file = path.rpartition("/")
                if file == "RECORD" and info.endswith(".dist-info"):
                    yield path, record(info, ((one, files[one].digest, files[one].size) for one in own if one != path))


def install_once(resolved: Resolved, uv: Uv, cache: Path, *, packed: bool = True) -> Installation:
    """Install pins, unless the cache has what they install.

    ``packed``: for a zip, so that there is an archive. Raises BuildError when uv cannot install them.
    """
    key = cache_key(_FORMAT, resolved.pins, resolved.platform, bytecode_kind(), *_elsewhere(resolved))
    archive, index_file = cache / "vendored" / f"{key}.zip", cache / "vendored" / f"{key}.json"
    index = read_entry(index_file) if archive.exists() or not packed else None
    if index is None:
        archive.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=archive.parent) as temporary:
            new_archive = Path(temporary) / "archive" if packed else None
            index = msgspec.json.encode(_install(resolved, uv, Path(temporary) / "site", new_archive))
            if new_archive is not None:
                new_archive.replace(archive)
        write_entry(index_file, index)  # last, since it says that the archive is there
    return Installation(archive, msgspec.json.decode(index, type=Index))


def vendored_files(vendored: Vendored) -> dict[str, bytes]:
    """Read what is taken, without the bytecode, by path."""
    with ZipFile(vendored.archive) as archive:
        return {
            path: vendored.records.get(path) or archive.read(path)
            for path in vendored.files
            if "__pycache__" not in path.split("/")
        }


def _elsewhere(resolved: Resolved) -> Iterator[object]:
    """Yield what decides beside the pins what they install.

    It is where they come from, and the content of files.
    """
    if resolved.elsewhere:
        yield [resolved.origins.key, resolved.built]
        for pin in resolved.pins:
            reference = urlsplit(reference_of(pin))
            if reference.scheme == "file" and (file := Path(unquote(reference.path))).is_file():
                yield hashlib.sha256(file.read_bytes()).hexdigest()


def check_zip_size(sizes: Mapping[str, int], step: str, limit: int = UNZIPPED_BYTES) -> None:
    """Raise BuildError if the zip of a step is too large for Lambda.

    ``sizes``: bytes of its parts, unzipped, by name.
    """
    refuse_too_large(
        sizes,
        limit,
        f"the zip package of {step}() has {{size}} unzipped",
        "Require less, or set package_type: image in lokki.yml, where 10 GB fit.",
    )


def _install(resolved: Resolved, uv: Uv, site: Path, archive: Path | None) -> Index:
    """Install pins into a folder, and return the index of it.

    ``archive``: where to pack the files, None for nowhere.
    """
    install(resolved, site, uv) if resolved.pins else site.mkdir()
    files = read_site(site)
    tests = unimported_tests(files)
    compiled = _pack_all(files, tests, archive) if archive is not None else {}
    return Index(
        {
            path: InstalledFile(hashlib.sha256(content).hexdigest(), len(content), is_program(path, content))
            for path, content in (files | compiled).items()
        },
        find_distributions(files, marker_environment(resolved.platform)),
        tuple(tests),
    )


def _pack_all(files: Mapping[str, bytes], tests: Sequence[str], archive: Path) -> dict[str, bytes]:
    """Pack files and what modules compile to, and return the latter."""
    with ThreadPoolExecutor() as pool:  # zlib packs on other cores while this one compiles
        packed = [
            pool.submit(pack, path, content, executable=is_program(path, content)) for path, content in files.items()
        ]
        compiled = dict(filter(None, (bytecode(*entry) for entry in files.items() if _is_compiled(entry[0], tests))))
        packed += [pool.submit(pack, path, content) for path, content in compiled.items()]
        with archive.open("wb") as file:
            write_archive(file, (member.result() for member in packed))
    return compiled


def _is_compiled(path: str, tests: Sequence[str]) -> bool:
    return path.endswith(".py") and not path.startswith("bin/") and not set(tests) & set(test_folders(path))


def _source_of(path: str) -> str:
    """Return the path of the module that a file is compiled from.

    It is the path itself for any other file.

    >>> _source_of("a/__pycache__/b.cpython-313.pyc"), _source_of("a/b.json")
    ('a/b.py', 'a/b.json')
    """
    folder, _, name = path.rpartition("/")
    if not name.endswith(".pyc"):
        return path
    return f"{folder.removesuffix('__pycache__')}{name.partition('.')[0]}.py"


def _without_imported(tests: Iterable[str], imported: Iterable[str]) -> set[str]:
    """Return the folders of tests that none of these modules is in."""
    places = {name.replace(".", "/") for name in imported}
    return {folder for folder in tests if not any(f"{place}/".startswith(f"{folder}/") for place in places)}


def _size(files: Mapping[str, InstalledFile]) -> int:
    return sum(file.size for file in files.values())


def _packed_member(entry: ZipInfo, descriptor: int, file: InstalledFile) -> Member:
    """Read a member of an archive as it is packed."""
    header = os.pread(descriptor, 30, entry.header_offset)
    start = entry.header_offset + 30 + int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    # Read at a position and not by zipfile, which would unpack it only to pack it again.
    packed = os.pread(descriptor, entry.compress_size, start)
    return Member(entry.filename, entry.CRC, entry.file_size, packed, entry.compress_type, file.is_program)
