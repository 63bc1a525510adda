"""The folder that a build writes: whole, or as it was before; and what changed in it."""

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
from typing import cast

from lokki.base.values import Json
from lokki.builder.package_types import BuildError, Code, ImageCode, ZipCode
from lokki.builder.packages.archive import Member, bytecode, pack, write_archive
from lokki.builder.requirements.vendoring import Vendored
from lokki.errors import ConfigError

MANIFEST = "build.json"
"""What is in the folder, with hashes: what `deploy` reads, and the mark of a folder that may be replaced."""

NOT_IN_ZIP = "requirements.txt"
"""In a step's folder for people to read; its packages are in the zip."""


@dataclass(frozen=True, slots=True)
class Package:
    """The package of a step: where it will be on AWS, the files of its folder, and for a zip what it requires."""

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
    """A built flow as a value: the files of its folder by path, and its packages. Zips are made when it is written.

    ``notes``: what the user should know of it, a line each.
    """

    flow: str
    files: Mapping[str, bytes]
    packages: tuple[Package, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Written:
    """A line of the report: a file or a step's folder, what it has become since the last build, size and hash."""

    path: str
    change: str
    size: int
    digest: str
    note: str = ""


def write_bundle(bundle: Bundle, folder: Path) -> list[Written]:
    """Write a bundle in place of what an earlier build wrote; a failure leaves that whole.

    What is unchanged is not made again. Raises ConfigError for a folder that no build has written, BuildError when it
    cannot be written. It is not synced to the disk: what a power cut takes, the next build makes again.
    """
    folder = folder.resolve()
    previous = read_manifest(folder)
    content = _content(bundle)
    if previous is not None and _is_intact(folder, bundle, content, previous):
        return _written(bundle, content, previous, previous)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as temporary:
            new = Path(temporary) / "new"
            new.mkdir()
            archives = _write_files(bundle, content, new, folder, previous or {})
            manifest: dict[str, Json] = {**content, "archives": archives}
            _write(new, ".gitignore", b"*\n")
            _write(new, MANIFEST, (json.dumps(manifest, indent=2) + "\n").encode())
            _open_to_all(new)
            _replace(folder, new, Path(temporary) / "old")
    except OSError as error:
        raise BuildError(
            f"{folder} cannot be written: {error.strerror}. The last build is as it was. Make room, or set build_dir."
        ) from error
    return _written(bundle, content, manifest, previous or {})


def read_manifest(folder: Path) -> dict[str, Json] | None:
    """Read what an earlier build wrote of itself, None if there is nothing.

    Raises ConfigError for a folder of something else, which a build would destroy.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return None
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
    except (OSError, ValueError):
        manifest = None
    if not isinstance(manifest, dict) or not isinstance(manifest.get("packages"), dict):
        raise ConfigError(
            f"build_dir: {folder} holds files that lokki did not write, and a build replaces the whole folder. "
            "Choose another build_dir in lokki.yml, or remove the folder."
        )
    return manifest


def archive_path(step: str) -> str:
    """Return the place of a step's zip in the folder."""
    return f"lambdas/{step}.zip"


def _content(bundle: Bundle) -> dict[str, Json]:
    """Return what identifies a build, all but the bytes of its zips."""
    packages: dict[str, Json] = {}
    for package in bundle.packages:
        match package.code:
            case ZipCode(key):
                unzipped = sum(map(len, package.own.values())) + (package.vendored.size if package.vendored else 0)
                packages[package.step] = {"zip": archive_path(package.step), "key": key, "unzipped": unzipped}
            case ImageCode(repository, tag):
                packages[package.step] = {"folder": f"lambdas/{package.step}", "repository": repository, "tag": tag}
    files: dict[str, Json] = {path: hashlib.sha256(each).hexdigest() for path, each in sorted(bundle.files.items())}
    return {"flow": bundle.flow, "packages": packages, "files": files}


def _is_intact(folder: Path, bundle: Bundle, content: Mapping[str, Json], previous: Mapping[str, Json]) -> bool:
    """Tell whether the folder holds this very bundle, nothing lost or edited."""
    archives = cast("dict[str, dict[str, Json]]", previous.get("archives", {}))
    if any(previous.get(name) != value for name, value in content.items()):
        return False
    try:
        return all(_read(folder, path) == each for path, each in bundle.files.items()) and all(
            (folder / path).stat().st_size == archive["size"] for path, archive in archives.items()
        )
    except OSError:
        return False


def _read(folder: Path, path: str) -> bytes:
    # A folder has hundreds of files, for which making paths takes longer than reading them does.
    with open(f"{folder}/{path}", "rb") as file:  # noqa: PTH123
        return file.read()


def _write_files(
    bundle: Bundle, content: Mapping[str, Json], new: Path, folder: Path, previous: Mapping[str, Json]
) -> dict[str, Json]:
    """Write all files; take zips that have not changed from the last build. Return size and hash of each zip."""
    for path, each in bundle.files.items():
        _write(new, path, each)
    archives: dict[str, Json] = {}
    made = _Packed({})
    for package in bundle.packages:
        if isinstance(package.code, ImageCode):
            continue
        path = archive_path(package.step)
        kept = _kept_archive(package.step, content, previous, folder)
        if kept is not None:
            _link(folder / path, new / path)
            archives[path] = kept
            continue
        with (new / path).open("w+b") as file:
            vendored = package.vendored.members() if package.vendored else ()
            write_archive(file, chain(made.members(package.own), vendored))
            archives[path] = {"size": file.tell(), "sha256": _digest(file)}
    return archives


def _kept_archive(
    step: str, content: Mapping[str, Json], previous: Mapping[str, Json], folder: Path
) -> dict[str, Json] | None:
    """Return what is known of a step's zip in the folder, if it is still the one that is wanted."""
    packages = cast("dict[str, Json]", content["packages"])
    before = cast("dict[str, Json]", previous.get("packages", {}))
    known = cast("dict[str, dict[str, Json]]", previous.get("archives", {})).get(archive_path(step))
    if known is None or before.get(step) != packages[step]:
        return None
    file = folder / archive_path(step)
    return known if file.is_file() and file.stat().st_size == known["size"] else None


@dataclass(frozen=True, slots=True)
class _Packed:
    """Packs each file once, however many steps have it."""

    made: dict[tuple[str, bytes], list[Member]]

    def members(self, files: Mapping[str, bytes]) -> Iterator[Member]:
        for entry in files.items():
            if entry not in self.made:
                compiled = bytecode(*entry) if entry[0].endswith(".py") else None
                self.made[entry] = [pack(*each) for each in (entry, compiled) if each is not None]
            yield from self.made[entry]


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
    """Set the modes that Lambda needs, whatever the umask: images keep them, and run as a user of their own."""
    for place, _, names in folder.walk():
        place.chmod(0o755)
        for name in names:
            (place / name).chmod(0o644)


def _replace(folder: Path, new: Path, old: Path) -> None:
    """Put the new folder in the place of the old one, which comes back if that fails."""
    if folder.exists():
        folder.rename(old)
    try:
        new.rename(folder)
    except OSError:
        if old.exists():
            old.rename(folder)
        raise


def _written(
    bundle: Bundle, content: Mapping[str, Json], manifest: Mapping[str, Json], previous: Mapping[str, Json]
) -> list[Written]:
    """Compare what is in the folder now with what was in it."""
    before_files = cast("dict[str, str]", previous.get("files", {}))
    before = cast("dict[str, Json]", previous.get("packages", {}))
    files = cast("dict[str, str]", content["files"])
    packages = cast("dict[str, dict[str, Json]]", content["packages"])
    archives = cast("dict[str, dict[str, Json]]", manifest["archives"])
    lines = [
        Written(path, _change(before_files.get(path), files[path]), len(each), files[path])
        for path, each in bundle.files.items()
        if "/" not in path
    ]
    for package in bundle.packages:
        change = _change(before.get(package.step), packages[package.step])
        match package.code:
            case ZipCode(key):
                path = archive_path(package.step)
                size, unzipped = cast("int", archives[path]["size"]), cast("int", packages[package.step]["unzipped"])
                note = f"{shown_size(unzipped)} unzipped"
                lines.append(Written(path, change, size, key.rpartition("-")[2].removesuffix(".zip"), note))
            case ImageCode(repository, tag):
                size = sum(map(len, package.files.values()))
                lines.append(Written(f"lambdas/{package.step}/", change, size, tag, f"for {repository}"))
    lines += [Written(f"lambdas/{step}", "removed", 0, "") for step in before if step not in packages]
    return lines


def _change(before: Json, now: Json) -> str:
    return "new" if before is None else "unchanged" if before == now else "changed"


def shown_size(size: int) -> str:
    """Write a number of bytes for people.

    >>> shown_size(512), shown_size(6592), shown_size(17_531_355), shown_size(80_530_636_800)
    ('512 B', '6.4 KiB', '16.7 MiB', '75.0 GiB')
    """
    if size < 1024:
        return f"{size} B"
    if size < 2**20:
        return f"{size / 1024:.1f} KiB"
    return f"{size / 2**20:.1f} MiB" if size < 2**30 else f"{size / 2**30:.1f} GiB"
