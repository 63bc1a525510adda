"""Installing what a flow requires for Lambda: once for each set of versions, pruned, compiled and packed."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Final
from urllib.parse import unquote, urlsplit
from zipfile import ZipFile

from lokki.builder.archive import bytecode, bytecode_kind, content_digest, pack, write_archive
from lokki.builder.cache import cache_key, write_whole
from lokki.builder.dependencies import Resolved, install
from lokki.builder.origins import reference_of
from lokki.builder.package_types import BuildError
from lokki.builder.uv import Uv

UNZIPPED_LIMIT: Final = 262_144_000
"""Most bytes of a function's code, unzipped: 250 MiB.
https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html"""

_ROOM = 8 * 2**20
"""What is left of the limit for the flow's own code when it is decided whether bytecode fits."""

_FORMAT = 1
"""Raised when equal pins would come to another content, so that what is in caches is made anew."""

# Leaving these out changes no import: stubs, headers and sources for compilers, and what installers leave behind.
_UNNEEDED_SUFFIXES = (
    ".pyi",
    ".pyc",
    ".pyo",
    ".h",
    ".hpp",
    ".hh",
    ".c",
    ".cc",
    ".cpp",
    ".pxd",
    ".pyx",
    ".pxi",
    ".a",
    ".lib",
)
_UNNEEDED_NAMES = {
    "RECORD",
    "INSTALLER",
    "REQUESTED",
    "direct_url.json",
    "uv_cache.json",
    "uv_build.json",
    ".lock",
    "py.typed",
}
_TESTS = {"tests", "test"}
_IMPORT_OF_TESTS = re.compile(rb"^\s*(?:from\s+([\w.]+)\s+import\s+([\w ,(]*)|import\s+([\w. ,]+))", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Vendored:
    """Installed requirements: an archive of them, a hash of its content, its unzipped size by package, its paths."""

    archive: Path
    digest: str
    sizes: Mapping[str, int]
    paths: frozenset[str]

    @property
    def size(self) -> int:
        """Bytes unzipped."""
        return sum(self.sizes.values())


def vendor(resolved: Resolved, uv: Uv, cache: Path, *, for_zip: bool = True) -> Vendored:
    """Return what the pins install, from the cache if it is there.

    Raises BuildError when uv cannot install it, and, with a table of the largest packages, when it is too large
    ``for_zip``.
    """
    key = cache_key(_FORMAT, resolved.pins, resolved.platform, bytecode_kind(), *_elsewhere(resolved))
    archive, about = cache / "vendored" / f"{key}.zip", cache / "vendored" / f"{key}.json"
    if not about.exists() or not archive.exists():
        archive.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=archive.parent) as temporary:
            made = Path(temporary) / "archive"
            content = json.dumps(_make(resolved, uv, Path(temporary) / "site", made, for_zip=for_zip)).encode()
            made.replace(archive)
        write_whole(about, content)
    kept = json.loads(about.read_bytes())
    return Vendored(archive, kept["digest"], kept["sizes"], frozenset(kept["paths"]))


def vendored_files(vendored: Vendored) -> dict[str, bytes]:
    """Read what is installed, without the bytecode, by path."""
    with ZipFile(vendored.archive) as archive:
        return {path: archive.read(path) for path in sorted(vendored.paths) if "__pycache__" not in path.split("/")}


def _elsewhere(resolved: Resolved) -> Iterator[object]:
    """Yield what decides beside the pins what they install: where they come from, and the content of files."""
    if resolved.elsewhere:
        yield [resolved.origins.key, resolved.built]
        for pin in resolved.pins:
            reference = urlsplit(reference_of(pin))
            if reference.scheme == "file" and (file := Path(unquote(reference.path))).is_file():
                yield hashlib.sha256(file.read_bytes()).hexdigest()


def check_size(sizes: Mapping[str, int], step: str) -> None:
    """Raise BuildError, with a table of the largest packages, if a package is too large for Lambda."""
    total = sum(sizes.values())
    if total <= UNZIPPED_LIMIT:
        return
    largest = sorted(sizes.items(), key=lambda entry: (-entry[1], entry[0]))[:10]
    table = "\n".join(f"  {size / 2**20:7.1f} MiB  {name}" for name, size in largest)
    raise BuildError(
        f"the zip package{f' of {step}()' if step else ''} has {total / 2**20:.1f} MiB unzipped; Lambda takes "
        f"{UNZIPPED_LIMIT / 2**20:.0f} MiB. The largest parts are:\n{table}\n"
        "Require less, or set package_type: image in lokki.yml, where 10 GB fit."
    )


def _make(resolved: Resolved, uv: Uv, site: Path, archive: Path, *, for_zip: bool) -> dict[str, object]:
    """Install the pins into a folder, pack what Lambda needs of it, and return what is kept about it."""
    install(resolved, site, uv) if resolved.pins else site.mkdir()
    files = _needed(site)
    if for_zip:
        check_size(_sizes(files), "")
    with ThreadPoolExecutor() as pool:  # zlib packs on other cores while this one compiles
        packed = [pool.submit(pack, path, content, executable=_runs(path, content)) for path, content in files.items()]
        compiled = dict(filter(None, (bytecode(*entry) for entry in files.items() if entry[0].endswith(".py"))))
        if sum(map(len, [*files.values(), *compiled.values()])) <= UNZIPPED_LIMIT - _ROOM:
            files |= compiled
            packed += [pool.submit(pack, path, content) for path, content in compiled.items()]
        with archive.open("wb") as file:
            write_archive(file, (member.result() for member in packed))
    digest = content_digest(files, lambda path: _runs(path, files[path]))
    return {"digest": digest, "sizes": _sizes(files), "paths": sorted(files)}


def _runs(path: str, content: bytes) -> bool:
    """Tell whether a file is a program that a package may start; the mode on disk may be the user's choice."""
    return not path.endswith(".py") and content.startswith((b"\x7fELF", b"#!"))


def _needed(site: Path) -> dict[str, bytes]:
    """Read the files of an installation that Lambda needs, sorted by path."""
    paths = sorted(
        path.relative_to(site).as_posix() for path in site.rglob("*") if path.is_file() and not path.is_symlink()
    )
    candidates = [path for path in paths if not _is_unneeded(PurePosixPath(path))]
    tests = {folder for path in candidates for folder in _test_folders(path)}
    kept = [path for path in candidates if not any(_test_folders(path))]
    files = {path: (site / path).read_bytes() for path in kept}
    wanted = _imported_tests(files, tests)
    for path in candidates:
        if any(folder in wanted for folder in _test_folders(path)):
            files[path] = (site / path).read_bytes()
    return dict(sorted(files.items()))


def _is_unneeded(path: PurePosixPath) -> bool:
    return (
        path.name in _UNNEEDED_NAMES
        or path.suffix in _UNNEEDED_SUFFIXES
        or path.parts[0] == "bin"
        or "__pycache__" in path.parts
    )


def _test_folders(path: str) -> Iterator[str]:
    """Yield the folders of tests that a file is in; at the top they are a package that somebody may have required."""
    parts = path.split("/")[:-1]
    return ("/".join(parts[: place + 1]) for place, part in enumerate(parts) if place and part in _TESTS)


def _imported_tests(files: Mapping[str, bytes], folders: set[str]) -> set[str]:
    """Return the folders of tests that code outside of tests imports, as some packages do for helpers."""
    wanted = set()
    for path, content in files.items():
        if path.endswith(".py") and b"test" in content:
            for match in _IMPORT_OF_TESTS.finditer(content):
                wanted |= set(_folders(path, *(group.decode() if group else "" for group in match.groups())))
    return {folder for folder in folders if any(f"{folder}/".startswith(f"{name}/") for name in wanted)}


def _folders(path: str, module: str, names: str, modules: str) -> Iterator[str]:
    """Yield the folders, up to one of tests, that one line of imports leads to."""
    level = len(module) - len(module.lstrip("."))
    base = path.split("/")[: -level or None] if level else []
    targets = [[*base, *module.strip(".").split("."), name] for name in re.findall(r"\w+", names)] if module else []
    targets += [name.split(".") for name in re.findall(r"[\w.]+", modules)]
    for target_parts in targets:
        parts = [part for part in target_parts if part]
        for place, part in enumerate(parts):
            if place and part in _TESTS:
                yield "/".join(parts[: place + 1])


def _sizes(files: Mapping[str, bytes]) -> dict[str, int]:
    """Return the bytes below each folder or file at the top, sorted by name."""
    sizes: dict[str, int] = {}
    for path, content in sorted(files.items()):
        top = path.partition("/")[0]
        sizes[top] = sizes.get(top, 0) + len(content)
    return sizes


def sizes_with(vendored: Vendored, own: Sequence[int]) -> dict[str, int]:
    """Return the sizes of a whole package, of which ``own`` are the files that are not vendored."""
    return {**vendored.sizes, "the flow and lokki": sum(own)}
