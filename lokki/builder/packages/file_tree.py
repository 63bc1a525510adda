"""Walking a project's folders for files to package.

Only plain files are yielded, never in circles, nor from outside of the project unless the user spells the path. Nothing
is opened here: a pipe would wait for ever, a device never end.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

_NEVER = frozenset({"__pycache__", "node_modules", "tests"})
_KINDS = {
    stat.S_IFIFO: "is a pipe and not a file",
    stat.S_IFSOCK: "is a socket and not a file",
    stat.S_IFCHR: "is a device and not a file",
    stat.S_IFBLK: "is a device and not a file",
}


@dataclass(frozen=True, slots=True)
class TreeEntry:
    """A file at its path in a package.

    - ``obstacle``: why it cannot be packed, or ""
    - ``remark``: the link out of the project that it is behind, or ""
    """

    path: str
    file: Path
    obstacle: str = ""
    remark: str = ""


@dataclass(frozen=True, slots=True)
class Tree:
    """How to walk folders.

    - ``roots``: the folders, resolved, that are the project's
    - ``skipped``: folders, resolved, never to enter
    - ``spelled``: paths that the user spells out, which are entered even if they are hidden, or lead out of the project
    - ``enters``: whether a folder at a path can have a file that matters
    """

    roots: tuple[Path, ...]
    skipped: frozenset[Path]
    spelled: frozenset[str]
    enters: Callable[[str, Path], bool]

    def walk(self, folder: Path, prefix: str = "") -> Iterator[TreeEntry]:
        """Yield the files below a folder, sorted.

        ``prefix``: its path in the package, with ``/`` at its end.
        """
        top = TreeEntry(prefix.removesuffix("/"), folder)
        waiting: list[tuple[TreeEntry, frozenset[Path]]] = [(top, frozenset({folder.resolve()}))]
        while waiting:
            place, parents = waiting.pop()
            folders = []
            for entry in self._entries(place, parents):
                if not entry.file.is_dir():
                    yield from [entry] if self._is_wanted(entry) else []
                elif self._is_entered(entry):
                    resolved = entry.file.resolve()
                    if entry.obstacle:
                        yield entry
                    # Such as a link to "..", which would be followed for ever.
                    elif resolved in parents:
                        yield replace(entry, obstacle="is a link to a folder that it is in")
                    else:
                        folders.append((entry, parents | {resolved}))
            # A stack gives the last one first, and the order of files is the order of notes.
            waiting += reversed(folders)

    def _entries(self, folder: TreeEntry, parents: frozenset[Path]) -> list[TreeEntry]:
        """Return what is in a folder, itself one of ``parents``."""
        try:
            names = sorted(os.listdir(folder.file))  # noqa: PTH208 (it needs no paths, which are slow to make)
        except OSError as error:
            return [replace(folder, obstacle=f"cannot be read: {error.strerror}")]
        above = f"{folder.path}/" if folder.path else ""
        return [self._entry(folder.file / name, f"{above}{name}", folder.remark, parents) for name in names]

    def _entry(self, file: Path, path: str, remark: str, parents: frozenset[Path]) -> TreeEntry:
        """Describe what is at a place, without opening it."""
        if not _is_text(file.name):
            return TreeEntry(path, file, "has a name that is not UTF-8")
        try:
            mode = file.stat().st_mode
        except FileNotFoundError:
            return TreeEntry(path, file, f"is a link to {_target(file)}, where nothing is")
        except OSError as error:  # a link to itself, or a folder that may not be entered
            return TreeEntry(path, file, f"cannot be read: {error.strerror}")
        if stat.S_IFMT(mode) in _KINDS:
            return TreeEntry(path, file, _KINDS[stat.S_IFMT(mode)])
        if not file.is_symlink() or any(map(file.resolve().is_relative_to, (*self.roots, *parents))):
            return TreeEntry(path, file, "", remark)
        outside = f"is a link out of the project, to {_target(file)}"
        return (
            TreeEntry(path, file, "", f"{path} {outside}") if path in self.spelled else TreeEntry(path, file, outside)
        )

    def _is_wanted(self, entry: TreeEntry) -> bool:
        name = entry.file.name
        return entry.path in self.spelled or not (name.startswith(".") or name.endswith(".pyc"))

    def _is_entered(self, entry: TreeEntry) -> bool:
        folder = entry.file
        if folder.resolve() in self.skipped or not self.enters(entry.path, folder):
            return False
        return entry.path in self.spelled or not (
            folder.name in _NEVER
            or folder.name.startswith(".")
            or folder.name.endswith(".egg-info")
            or (folder / "pyvenv.cfg").exists()
            or ((folder / "build.json").exists() and (folder / "statemachine.json").exists())  # another build
        )


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _target(file: Path) -> str:
    target = str(file.readlink()) if file.is_symlink() else "nothing"
    return target if target.isprintable() else repr(target)
