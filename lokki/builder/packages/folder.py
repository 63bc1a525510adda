"""The folder that a build writes, and what changed in it.

It is replaced as a whole, or stays as it was.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BufferedRandom
from itertools import chain
from pathlib import Path

import msgspec

from lokki.base.values import Json
from lokki.builder.package_types import BuildError, Code, ImageCode, ZipCode
from lokki.builder.packages.archive import Member, bytecode, pack, write_archive
from lokki.builder.packages.sizes import size_text
from lokki.builder.requirements.vendoring import Vendored
from lokki.errors import ConfigError

MANIFEST = "build.json"
"""What is in the folder, with hashes: what `deploy` reads, and the mark of a folder that may be replaced."""

NOT_IN_ZIP = "requirements.txt"
"""In a step's folder for people to read; its packages are in the zip."""


@dataclass(frozen=True, slots=True)
class Package:
    """The package of a step.

    - ``code``: where it will be on AWS
    - ``files``: those of its folder, by path
    - ``vendored``: what a zip holds of what is required
    """

    step: str
    code: Code
    files: Mapping[str, bytes]
    vendored: Vendored | None = None

    @property
    def own(self) -> dict[str, bytes]:
        """The files of the zip that are not vendored, without bytecode."""
        return {path: content for path, content in self.files.items() if path != NOT_IN_ZIP}


@dataclass(frozen=True, slots=True)
class Bundle:
    """A built flow as a value, before any zip is made.

    - ``plan``: the plan of the flow, as `lokki.plan_json` writes it
    - ``files``: those of its folder, by path
    - ``notes``: what the user should know of it, a line each
    """

    flow: str
    plan: Mapping[str, Json]
    files: Mapping[str, bytes]
    packages: tuple[Package, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Written:
    """A line of the build's report, on a file or a step's folder.

    ``change`` says what became of it since the last build.
    """

    path: str
    change: str
    size: int
    digest: str
    note: str = ""


class ArchiveEntry(msgspec.Struct, frozen=True):
    """Size and hash of a zip, as it stands in the folder."""

    size: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True):
    """What ``build.json`` says of a build.

    - ``plan``: the plan of the flow, as `lokki.plan_json` writes it
    - ``packages``: of each step, where its package is in the folder and on AWS
    - ``files``: the SHA-256 of each file, by path
    - ``archives``: the zips, by path
    """

    flow: str = ""
    plan: dict[str, object] = {}
    packages: dict[str, dict[str, str | int]] = {}
    files: dict[str, str] = {}
    archives: dict[str, ArchiveEntry] = {}

    @property
    def content(self) -> tuple[object, ...]:
        """What identifies a build, which is all but the bytes of its zips."""
        return self.flow, self.plan, self.packages, self.files


class _Mark(msgspec.Struct, frozen=True):
    """The least that says of a ``build.json`` that lokki wrote it."""

    packages: dict[str, object]


def write_bundle(bundle: Bundle, folder: Path) -> list[Written]:
    """Write a bundle in place of what an earlier build wrote.

    A failure leaves that whole, and what is unchanged is not made again. It is not synced to the disk: what a power cut
    takes, the next build makes again. Raises ConfigError for a folder that no build has written, BuildError when it
    cannot be written.
    """
    folder = folder.resolve()
    previous = read_manifest(folder)
    manifest = _describe(bundle)
    if previous is not None and _is_intact(folder, bundle, manifest, previous):
        return _report(bundle, previous, previous)
    previous = previous or Manifest()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Beside the folder, since a rename is one step only within a file system.
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as temporary:
            new = Path(temporary) / "new"
            new.mkdir()
            archives = _write_files(bundle, manifest, new, folder, previous)
            manifest = msgspec.structs.replace(manifest, archives=archives)
            _write(new, ".gitignore", b"*\n")
            _write(new, MANIFEST, (json.dumps(msgspec.to_builtins(manifest), indent=2) + "\n").encode())
            # When all is written: what is written later would have the umask's modes.
            _open_to_all(new)
            _replace(folder, new, Path(temporary) / "old")
    except OSError as error:
        raise BuildError(
            f"{folder} cannot be written: {error.strerror}. The last build is as it was. Make room, or set build_dir."
        ) from error
    return _report(bundle, manifest, previous)


def read_manifest(folder: Path) -> Manifest | None:
    """Read what an earlier build wrote of itself, None if there is nothing.

    What another version of lokki wrote may have another shape: it counts as empty. Raises ConfigError for a folder of
    something else, which a build would destroy.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return None
    try:
        content = (folder / MANIFEST).read_bytes()
        msgspec.json.decode(content, type=_Mark)
    except (OSError, ValueError):
        raise ConfigError(
            f"build_dir: {folder} holds files that lokki did not write, and a build replaces the whole folder. "
            "Choose another build_dir in lokki.yml, or remove the folder."
        ) from None
    try:
        return msgspec.json.decode(content, type=Manifest)
    # So that a newer lokki may change the file's shape without leaving folders that nobody can replace.
    except (msgspec.ValidationError, UnicodeDecodeError):
        return Manifest()


def archive_path(step: str) -> str:
    """Return the place of a step's zip in the folder."""
    return f"lambdas/{step}.zip"


def _describe(bundle: Bundle) -> Manifest:
    """Return the manifest of a bundle before its zips are written."""
    packages: dict[str, dict[str, str | int]] = {}
    for package in bundle.packages:
        match package.code:
            case ZipCode(key):
                packages[package.step] = {
                    "zip": archive_path(package.step),
                    "key": key,
                    "unzipped": _unzipped_size(package),
                }
            case ImageCode(repository, tag):
                packages[package.step] = {"folder": f"lambdas/{package.step}", "repository": repository, "tag": tag}
    files = {path: hashlib.sha256(content).hexdigest() for path, content in sorted(bundle.files.items())}
    return Manifest(bundle.flow, dict(bundle.plan), packages, files)


def _unzipped_size(package: Package) -> int:
    return sum(map(len, package.own.values())) + (package.vendored.size if package.vendored else 0)


def _is_intact(folder: Path, bundle: Bundle, manifest: Manifest, previous: Manifest) -> bool:
    """Tell whether the folder holds this very bundle, nothing lost or edited."""
    # Compared first, so that nothing is read where something has changed.
    if previous.content != manifest.content:
        return False
    try:
        return all(_read(folder, path) == content for path, content in bundle.files.items()) and all(
            (folder / path).stat().st_size == archive.size for path, archive in previous.archives.items()
        )
    except OSError:
        return False


def _read(folder: Path, path: str) -> bytes:
    # A folder has hundreds of files, for which making paths takes longer than reading them does.
    with open(f"{folder}/{path}", "rb") as file:  # noqa: PTH123
        return file.read()


def _write_files(
    bundle: Bundle, manifest: Manifest, new: Path, folder: Path, previous: Manifest
) -> dict[str, ArchiveEntry]:
    """Write all files of a bundle, and return the entries of its zips.

    A zip that has not changed is taken from the last build.
    """
    for path, content in bundle.files.items():
        _write(new, path, content)
    archives: dict[str, ArchiveEntry] = {}
    packed = _PackedFiles({})
    for package in bundle.packages:
        if isinstance(package.code, ImageCode):
            continue
        path = archive_path(package.step)
        unchanged = _unchanged_archive(package.step, manifest, previous, folder)
        if unchanged is not None:
            _link(folder / path, new / path)
            archives[path] = unchanged
            continue
        with (new / path).open("w+b") as file:
            vendored = package.vendored.members() if package.vendored else ()
            write_archive(file, chain(packed.of(package.own), vendored))
            archives[path] = ArchiveEntry(file.tell(), _digest(file))
    return archives


def _unchanged_archive(step: str, manifest: Manifest, previous: Manifest, folder: Path) -> ArchiveEntry | None:
    """Return the entry of a step's zip if the folder still has the right one."""
    entry = previous.archives.get(archive_path(step))
    if entry is None or previous.packages.get(step) != manifest.packages[step]:
        return None
    file = folder / archive_path(step)
    # Its size stands for its content: hashing it would mean to read hundreds of megabytes in each build.
    return entry if file.is_file() and file.stat().st_size == entry.size else None


@dataclass(frozen=True, slots=True)
class _PackedFiles:
    """Packs each file once, however many steps have it."""

    members: dict[tuple[str, bytes], list[Member]]

    def of(self, files: Mapping[str, bytes]) -> Iterator[Member]:
        """Yield files and the bytecode of modules, packed."""
        for entry in files.items():
            if entry not in self.members:
                compiled = bytecode(*entry) if entry[0].endswith(".py") else None
                self.members[entry] = [pack(*file) for file in (entry, compiled) if file is not None]
            yield from self.members[entry]


def _digest(file: BufferedRandom) -> str:
    file.flush()
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()


def _write(folder: Path, path: str, content: bytes) -> None:
    file = folder / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copyfile(source, target)


def _open_to_all(folder: Path) -> None:
    """Set the modes that Lambda needs, whatever the umask.

    Images keep them, and run as a user of their own.
    """
    for place, _, names in folder.walk():
        place.chmod(0o755)
        for name in names:
            (place / name).chmod(0o644)


def _replace(folder: Path, new: Path, old: Path) -> None:
    """Put the new folder in place of the old one.

    The old one comes back if that fails.
    """
    if folder.exists():
        folder.rename(old)
    try:
        new.rename(folder)
    except OSError:
        if old.exists():
            old.rename(folder)
        raise


def _report(bundle: Bundle, manifest: Manifest, previous: Manifest) -> list[Written]:
    """Compare what is in the folder now with what was in it."""
    lines = [
        Written(path, _change(previous.files.get(path), manifest.files[path]), len(content), manifest.files[path])
        for path, content in bundle.files.items()
        if "/" not in path
    ]
    for package in bundle.packages:
        change = _change(previous.packages.get(package.step), manifest.packages[package.step])
        match package.code:
            case ZipCode(key):
                path = archive_path(package.step)
                digest = key.rpartition("-")[2].removesuffix(".zip")
                note = f"{size_text(_unzipped_size(package))} unzipped"
                lines.append(Written(path, change, manifest.archives[path].size, digest, note))
            case ImageCode(repository, tag):
                size = sum(map(len, package.files.values()))
                lines.append(Written(f"lambdas/{package.step}/", change, size, tag, f"for {repository}"))
    removed = (step for step in previous.packages if step not in manifest.packages)
    return [*lines, *(Written(f"lambdas/{step}", "removed", 0, "") for step in removed)]


def _change(old: object, new: object) -> str:
    return "new" if old is None else "unchanged" if old == new else "changed"
