"""Which files beside modules go into packages.

They are what ``include`` names, and the data of the packages that are imported. A secret, a hidden file and a link out
of the project go in only where ``include`` spells their very path.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.machinery import EXTENSION_SUFFIXES
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import Final

from lokki.builder.package_types import BuildError
from lokki.builder.packages.file_tree import Tree, TreeEntry
from lokki.builder.packages.sensitive import has_private_key, is_named_like_secret
from lokki.builder.packages.sizes import refuse_too_large
from lokki.errors import ConfigError

_MOST_NOTES: Final = 8
"""More would hide the rest of what a build reports."""

_LESS_DATA = "Exclude in lokki.yml what the flow does not read, or let it read that from S3."

_WILD = "*?["
_SECRET = "looks like a secret"
_KEY = "has a private key in it"
_NAMEABLE = (_SECRET, _KEY, "is a link out of the project")
"""Reasons that a user overrules by naming the file."""


@dataclass(frozen=True, slots=True)
class Base:
    """A folder from which modules are imported.

    ``tops``: the only modules and packages there that count, if there are any.
    """

    folder: Path
    tops: frozenset[str] = frozenset()

    def has(self, path: str) -> bool:
        """Tell whether a path below the folder counts."""
        return not self.tops or path.partition("/")[0].removesuffix(".py") in self.tops


@dataclass(frozen=True, slots=True)
class Selection:
    """The files to pack, and what to tell the user of them.

    - ``files``: where each is, by its path in the package
    - ``named``: the paths that ``include`` spells out
    - ``packed``: notes on files that are packed, a line each
    - ``left_out``: notes on files that are not
    """

    files: dict[str, Path] = field(default_factory=dict)
    named: set[str] = field(default_factory=set)
    packed: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for the user, a line each."""
        packed = dict.fromkeys(self.packed)  # a link to a folder is noted with each file behind it
        return (*packed, *first_notes([*dict.fromkeys(self.left_out)], "more files are not packed, for such reasons"))

    def read(self, limit: int) -> dict[str, bytes]:
        """Read the files, except for those with a private key.

        Raises BuildError where they are too large together.
        """
        # Before anything is read: what is too large for a package may be too large for memory.
        sizes = {printable(path): file.stat().st_size for path, file in self.files.items()}
        refuse_too_large(sizes, limit, "the data files of the packages have {size}", _LESS_DATA)
        contents = {}
        for path, file in self.files.items():
            content = read_file(file)
            # Code is packed since it is imported, whatever is in it: left out, the function could not start.
            if has_private_key(content) and not path.endswith(".py"):
                if path not in self.named:
                    self.left_out.append(_not_packed(path, _KEY))
                    continue
                if not is_named_like_secret(path):  # which is noted already
                    self.packed.append(f"{printable(path)} {_KEY}; it is packed since include names it")
            contents[path] = content
        return contents


@dataclass(frozen=True, slots=True)
class FileChoice:
    """Chooses files of a project.

    - ``exclude``: patterns
    - ``roots``: the project's folders, resolved
    - ``skipped``: folders never to enter
    """

    exclude: tuple[str, ...]
    roots: tuple[Path, ...]
    skipped: frozenset[Path]

    def include(self, patterns: Sequence[str], bases: Sequence[Base], chosen: Selection) -> None:
        """Choose what patterns match.

        A pattern counts in the first folder, the flow's; what matches nothing there, in the others. Raises ConfigError
        for a pattern that matches nothing, or nothing that can be packed.
        """
        remaining = dict.fromkeys(patterns)
        reasons: dict[str, str] = {}
        for base in bases:
            below = {pattern: _below(pattern, base, bases) for pattern in remaining}
            patterns_here = {pattern: path for pattern, path in below.items() if path is not None}
            for pattern in self._choose(patterns_here, base, chosen, reasons) if patterns_here else ():
                remaining.pop(pattern, None)
        for pattern in sorted(remaining):
            raise ConfigError(_matches_nothing(pattern, bases, reasons.get(pattern, "")))

    def _choose(
        self, patterns: Mapping[str, str], base: Base, chosen: Selection, reasons: dict[str, str]
    ) -> Iterator[str]:
        """Choose what patterns match in one folder.

        Yields each pattern that a file matches.
        """
        spelled = frozenset(path for pattern in patterns.values() for path in _spelled(pattern))
        exact = frozenset(patterns.values())

        def enters(path: str, _: Path) -> bool:
            return base.has(path) and any(_may_match_below(pattern, path) for pattern in exact)

        # One walk for all patterns: a project may have a hundred thousand files.
        for entry in Tree(self.roots, self.skipped, spelled, enters).walk(base.folder):
            names = [name for name, pattern in patterns.items() if _concerns(pattern, entry)]
            if not names or not base.has(entry.path):
                continue
            # An excluded file counts as a match: the user knows of it, so its pattern is no mistake.
            if path_matches(entry.path, self.exclude):
                yield from names
                continue
            reason = entry.obstacle or (_SECRET if _is_secret(entry) and entry.path not in exact else "")
            if not reason:
                yield from names
                chosen.files.setdefault(entry.path, entry.file)
                if entry.path in exact:
                    chosen.named.add(entry.path)
                chosen.packed.extend(_remarks(entry))
                continue
            if entry.path in exact:
                # Named by its very path, it is missed if it is left out; matched by a wildcard, a note will do.
                raise ConfigError(f"include: {printable(entry.path)} {reason}. Correct include in lokki.yml.")
            chosen.left_out.append(_not_packed(entry.path, reason))
            reasons.update({name: f"{printable(entry.path)}, which {reason}" for name in names if name not in reasons})

    def data_of(self, packages: Mapping[str, Iterable[Path]], chosen: Selection) -> None:
        """Choose the data files of packages.

        They are in the packages' folders and below, up to other packages. ``packages``: the folders of each by its
        path.
        """

        def enters(path: str, folder: Path) -> bool:
            is_package = path in packages or (folder / "__init__.py").exists()
            return not is_package and not path_matches(path, self.exclude)

        tree = Tree(self.roots, self.skipped, frozenset(), enters)
        for package, folders in packages.items():
            for folder in folders:
                for entry in tree.walk(folder, f"{package}/"):
                    if entry.path in chosen.files or _is_code(entry.path) or path_matches(entry.path, self.exclude):
                        continue
                    reason = entry.obstacle or (_SECRET if _is_secret(entry) else "")
                    if reason:
                        chosen.left_out.append(_not_packed(entry.path, reason))
                    else:
                        chosen.files[entry.path] = entry.file

    def modules_of(self, package: str, folders: Iterable[Path]) -> Iterator[TreeEntry]:
        """Yield the modules in a package, at any depth.

        Those that only ``include`` can name are not among them.
        """

        def enters(path: str, _: Path) -> bool:
            return not path_matches(path, self.exclude)

        tree = Tree(self.roots, self.skipped, frozenset(), enters)
        for folder in folders:
            for entry in tree.walk(folder, f"{package}/"):
                if entry.path.endswith(".py") and not entry.obstacle:
                    yield entry


def first_notes(notes: Sequence[str], of_others: str) -> list[str]:
    """Return the first notes, and a line that counts the others."""
    more = len(notes) - _MOST_NOTES
    return [*notes[:_MOST_NOTES], *([f"{more} {of_others}"] if more > 0 else [])]


def path_matches(path: str, patterns: Iterable[str]) -> bool:
    """Tell whether a pattern matches a path, or a folder above it.

    A pattern without ``/`` matches at any depth.
    """
    above = [PurePosixPath(part) for part in accumulate(path.split("/"), lambda upper, name: f"{upper}/{name}")]
    plain = [pattern.removeprefix("./").rstrip("/") for pattern in patterns]
    return any(
        place.full_match(pattern if "/" in pattern else f"**/{pattern}") or str(place) == pattern
        for pattern in plain
        for place in above
    )


def printable(path: str) -> str:
    """Return a path as it can be printed on one line."""
    return path if path.isprintable() else repr(path)


def read_file(file: Path) -> bytes:
    """Read a file of the project.

    Raises BuildError if it cannot be read.
    """
    try:
        return file.read_bytes()
    except OSError as error:
        raise BuildError(
            f"{printable(str(file))} cannot be read: {error.strerror}. Make it readable, or exclude it in lokki.yml."
        ) from None


def _below(pattern: str, base: Base, bases: Sequence[Base]) -> str | None:
    """Return a pattern relative to a folder, None if it leads to another.

    Raises ConfigError for base_ that leads to none of the folders, which nothing on Lambda could find.
    """
    plain = pattern.removeprefix("./").rstrip("/")
    if plain in ("", "."):
        return "**"
    if not plain.startswith("/") and ".." not in plain.split("/"):
        return plain
    # Not resolved: a link in the project is packed under its own path.
    place = os.path.normpath(bases[0].folder / plain)
    folders = [one.folder for one in bases]
    parents = [folder for folder in folders if place.startswith(f"{folder}{os.sep}")]
    if not parents:
        raise ConfigError(
            f"include: {pattern!r} leads out of the folders from which the flow imports "
            f"({', '.join(map(str, folders))}), so no code on Lambda would find it by that path. "
            f"Put the files below base_ of these, or a link to them."
        )
    nearest = max(parents, key=lambda folder: len(folder.parts))
    return place.removeprefix(f"{nearest}{os.sep}") if nearest == base.folder else None


def _spelled(pattern: str) -> Iterator[str]:
    """Yield each path that a pattern spells out.

    They are what stands before its first wildcard, and the folders above.
    """
    plain = []
    for part in pattern.split("/"):
        if any(character in part for character in _WILD):
            break
        plain.append(part)
        yield "/".join(plain)
    yield pattern


def _may_match_below(pattern: str, folder: str) -> bool:
    """Tell whether a pattern may match a file below a folder."""
    parts = pattern.split("/")
    if len(parts) == 1:
        return True
    for part, name in zip(parts, folder.split("/"), strict=False):
        if part == "**":
            return True
        if part != name and not PurePosixPath(name).full_match(part):
            return False
    return True


def _concerns(pattern: str, entry: TreeEntry) -> bool:
    """Tell whether a pattern matches an entry, or might match below it.

    The latter is for a folder that cannot be entered.
    """
    if entry.obstacle and entry.file.is_dir() and _may_match_below(pattern, entry.path):
        return True
    return path_matches(entry.path, (pattern,))


def _is_secret(entry: TreeEntry) -> bool:
    return is_named_like_secret(entry.path) and not entry.path.endswith(".py")


def _is_code(path: str) -> bool:
    """Tell whether a file is code, and no data.

    Code is packed only where it is imported; so are stubs for type checkers.
    """
    return path.endswith((".py", ".pyc", *(suffix for suffix in EXTENSION_SUFFIXES if suffix != ".so")))


def _remarks(entry: TreeEntry) -> Iterator[str]:
    if entry.remark:
        yield f"{entry.remark}; it is packed since include names it"
    if _is_secret(entry):
        yield f"{printable(entry.path)} {_SECRET}; it is packed since include names it"


def _not_packed(path: str, reason: str) -> str:
    remedy = "; to pack it, name it in include" if reason.startswith(_NAMEABLE) else ""
    return f"{printable(path)} {reason}, so it is not packed{remedy}"


def _matches_nothing(pattern: str, bases: Sequence[Base], reason: str) -> str:
    if reason:
        remedy = "remove that, or correct the pattern in lokki.yml"
        if reason.partition(", which ")[2].startswith(_NAMEABLE):
            remedy = "such files are packed only where include names each by its path"
        return f"include: {pattern!r} matches nothing but {reason}: {remedy}."
    others = "".join(f" or {base.folder}" for base in bases[1:])
    return (
        f"include: {pattern!r} matches no file in {bases[0].folder}{others} (hidden files, caches and tests only where "
        "it spells their path). Correct the pattern: it starts at the folder of the flow's file, such as data/*.csv or "
        "**/*.sql."
    )
