"""Adding what modules import lazily, and the data of all packages.

Lazy imports are by names that code computes or texts have. Each adds modules, which may import lazily in turn, so it
goes on until nothing more is found.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from lokki.builder.packages.code import module_name, parse
from lokki.builder.packages.data_files import FileChoice, Selection, read_file
from lokki.builder.packages.lazy_imports import lazy_imports, names_in, public_names
from lokki.builder.packages.local_packages import local_packages
from lokki.builder.packages.modules import Walk

_TEXTS: Final = (".json", ".toml", ".yml", ".yaml", ".ini", ".cfg")
"""Files of settings, which may name modules."""

_LARGEST_TEXT: Final = 2**20


@dataclass(frozen=True, slots=True)
class LazyWalk:
    """A walk that goes on through lazy imports.

    - ``walk``: the modules so far
    - ``chosen``: the files beside them so far
    - ``choice``: chooses more
    """

    walk: Walk
    choice: FileChoice
    chosen: Selection
    _read: set[str] = field(default_factory=set)
    _packages: set[str] = field(default_factory=set)
    _starred: set[str] = field(default_factory=set)

    def complete(self) -> None:
        """Add the modules among the chosen files, and all that they lead to."""
        for path, file in self.chosen.files.items():
            self._add_module(path, file)
        while self._read_modules() or self._read_data():
            self._follow_stars()

    def _read_modules(self) -> bool:
        """Read the modules that are new.

        Returns whether there were any.
        """
        new = sorted(self.walk.trees.keys() - self._read)
        for path in new:
            self._read.add(path)
            lazy = lazy_imports(self.walk.trees[path], path)
            self._starred.update(lazy.starred)
            self._follow_names([*lazy.names, *(names_in(_entry_points()) if lazy.has_plugins else ())])
            for package in sorted(lazy.packages - self._packages):
                self._packages.add(package)
                self._add_package(package)
        return bool(new)

    def _read_data(self) -> bool:
        """Choose the data of packages, and read the settings among it.

        Returns whether these name new modules.
        """
        self.choice.data_of(self.walk.packages, self.chosen)
        count = len(self.walk.trees)
        for path, file in [*self.chosen.files.items()]:
            if path.endswith(_TEXTS) and path not in self._read and file.stat().st_size <= _LARGEST_TEXT:
                self._read.add(path)
                self._follow_names(names_in([read_file(file).decode("utf-8", "replace")]))
        return len(self.walk.trees) > count

    def _follow_names(self, names: Iterable[str]) -> None:
        """Add the modules of names in texts.

        A text such as "birds.csv" is none of the module ``birds``, so two parts have to be there.
        """
        self.walk.follow(name for name in sorted({*names}) if self.walk.has(".".join(name.split(".")[:2])))

    def _follow_stars(self) -> None:
        """Add the modules that ``from package import *`` imports.

        They are those that the package's ``__all__`` names.
        """
        for path, tree in [*self.walk.trees.items()]:
            if module_name(path) in self._starred:
                self.walk.follow(f"{module_name(path)}.{name}" for name in public_names(tree))

    def _add_package(self, name: str) -> None:
        """Add a module of the project, and if it is a package, all modules in it."""
        if self.walk.has(name):
            self.walk.follow([name])
            for entry in self.choice.modules_of(name, self.walk.packages.get(name.replace(".", "/"), ())):
                self._add_module(entry.path, entry.file)

    def _add_module(self, path: str, file: Path) -> None:
        """Add a file that is a module, and what it imports.

        What is no Python, such as a template for code, is data.
        """
        name = module_name(path)
        is_module = path.endswith(".py") and all(part.isidentifier() for part in name.split("."))
        if is_module and parse(read_file(file)) is not None:
            self.walk.add(name, file)
            self.walk.follow([name])


def _entry_points() -> Iterator[str]:
    """Yield the entry points of what is installed from folders."""
    for package in local_packages(sys.path):
        file = package.info / "entry_points.txt"
        if file.is_file():
            yield file.read_text("utf-8")
