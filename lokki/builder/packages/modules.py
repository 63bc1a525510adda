"""Following the imports of a project's modules, to find those that a flow needs.

Paths are those that files have in a package, which are those by which Python finds them: the path of a module below the
entry of ``sys.path`` that it comes from. So the deployed flow imports what it imports here, also where a module of the
project has the name of one of Python's: the flow's folder is the first that is searched, here and on Lambda.

https://docs.aws.amazon.com/lambda/latest/dg/python-package.html#python-package-searchpath
"""

from __future__ import annotations

import ast
import os
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from importlib.machinery import EXTENSION_SUFFIXES, FrozenImporter, ModuleSpec
from pathlib import Path, PurePosixPath

from lokki.builder.package_types import LAMBDA_PYTHON, BuildError
from lokki.builder.packages.code import module_name, parse, syntax_error
from lokki.builder.packages.data_files import Base, first_notes, path_matches, read_file
from lokki.builder.packages.import_check import LOADED_BEFORE, standard_library
from lokki.builder.packages.imports import ModuleImport, always_imported, read_imports
from lokki.builder.packages.local_packages import local_packages

_PROJECT_MARKS = ("pyproject.toml", "lokki.yml", "requirements.txt")


@dataclass(frozen=True, slots=True)
class CodeFolders:
    """Where a project's code is.

    - ``folder``: the flow's, from which its file is imported
    - ``roots``: folders of the project's own code
    - ``copies``: modules that were installed from such folders
    - ``pythons``: folders of Python's own
    """

    folder: Path
    roots: tuple[Path, ...]
    copies: frozenset[str]
    pythons: frozenset[Path]

    def is_own(self, folder: Path) -> bool:
        """Tell whether a folder is the project's.

        Neither an environment inside the project nor a folder of Python's own is.
        """
        resolved = folder.resolve()
        return (
            any(map(resolved.is_relative_to, self.roots))
            and not {"site-packages", "dist-packages"} & set(resolved.parts)
            and not any(map(resolved.is_relative_to, self.pythons))
        )


def code_folders(file: Path, folder: Path) -> CodeFolders:
    """Find the folders of a project's code.

    ``folder``: from where the flow's file is imported.
    """
    pythons = frozenset(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib"))
    packages = list(local_packages(sys.path))
    roots = (package.root for package in packages if package.places)
    copies = frozenset(
        path.partition("/")[0].removesuffix(".py")
        for package in packages
        for path in package.copied
        if path.endswith(".py")
    )
    return CodeFolders(folder, (_project_root(file, folder), *roots), copies, pythons)


@dataclass(frozen=True)
class Walk:
    """A walk over imports, which collects the project's modules.

    - ``find``: finds a module by name, as Python does
    - ``exclude``: patterns of modules to leave out
    - ``files``, ``sources``, ``trees``, ``imports``: of each module, by its path: content, place, tree, and what it
      imports
    - ``packages``: the folders of each package of the project, by its path
    - ``places``: the folders from which modules are imported, each with the only names that count there, if there are
      any
    """

    folders: CodeFolders
    find: Callable[[str], ModuleSpec | None]
    exclude: tuple[str, ...]
    files: dict[str, bytes] = field(default_factory=dict)
    sources: dict[str, Path] = field(default_factory=dict)
    trees: dict[str, ast.Module] = field(default_factory=dict)
    imports: dict[str, tuple[ModuleImport, ...]] = field(default_factory=dict)
    packages: dict[str, list[Path]] = field(default_factory=dict)
    places: dict[Path, set[str]] = field(default_factory=dict)
    _seen: set[str] = field(default_factory=set)
    _waiting: list[str] = field(default_factory=list)
    _tops: dict[str, list[Path]] = field(default_factory=dict)
    _own: dict[str, list[Path]] = field(default_factory=dict)

    def follow(self, names: Iterable[str]) -> None:
        """Add the modules of these names, and all that they import.

        The packages that a module is in are added with it.
        """
        self._waiting.extend(names)
        while self._waiting:
            name = self._waiting.pop()
            if name not in self._seen:
                self._seen.add(name)
                self._resolve(name)

    def _resolve(self, name: str) -> None:
        """Add a module and the packages above it, if they are the project's."""
        top, *rest = name.split(".")
        places = self._top(top)
        path = PurePosixPath(top)
        for position in range(len(rest) + 1):
            module = _module_in(places, path.name)
            if module is None:
                return
            file, places = module
            if places:
                self.packages[str(path)] = places
            if file is not None:
                self.add(".".join(path.parts), file)
            if position < len(rest):
                path /= rest[position]

    def add(self, name: str, file: Path) -> None:
        """Add a module by its name, and note what it imports.

        One that is excluded, or there already, is passed over.
        """
        path = f"{name.replace('.', '/')}{'/__init__.py' if file.name == '__init__.py' else '.py'}"
        if path in self.files or path_matches(path, self.exclude):
            return
        # An extension module, which was compiled for this machine's system and processor.
        if file.suffix != ".py":
            raise BuildError(f"{file} is compiled for this machine. Build a wheel of it and require that instead.")
        source = read_file(file)
        tree = parse(source)
        if tree is None:
            raise BuildError(f"{file}{syntax_error(source)}. Correct it, or exclude it in lokki.yml.")
        self.files[path], self.sources[path], self.trees[path] = source, file, tree
        self.imports[path] = read_imports(tree, path)
        self._waiting.extend(name for statement in self.imports[path] for name in statement.names)

    def has(self, name: str) -> bool:
        """Tell whether a module, or a folder of modules, is the project's."""
        top, *rest = name.split(".")
        places = self._own_places(top)
        for part in (top, *rest):
            module = _module_in(places, part)
            if module is None:
                return False
            places = module[1]
        return True

    def foreign(self, starts: Iterable[str]) -> dict[str, str]:
        """Return the modules of others that these always import.

        Each comes with the file and line that imports it.
        """
        always = always_imported(starts, {module_name(path): imports for path, imports in self.imports.items()})
        foreign: dict[str, str] = {}
        standard = standard_library(LAMBDA_PYTHON)
        for path, imports in sorted(self.imports.items()):
            if module_name(path) in always:
                for statement in imports:
                    top = statement.module.partition(".")[0]
                    is_known = top == "lokki" or top in standard or self._top(top)
                    if statement.when == "always" and not is_known:
                        foreign.setdefault(top, f"{path}:{statement.line}")
        return foreign

    def bases(self) -> list[Base]:
        """Return the folders from which modules are imported.

        The flow's is the first.
        """
        for entry in sys.path:
            if (place := _plain(entry or ".")).is_dir() and self.folders.is_own(place):
                self.places.setdefault(place, set())
        others = [Base(place, frozenset(tops)) for place, tops in sorted(self.places.items())]
        return [Base(self.folders.folder), *(base for base in others if base.folder != self.folders.folder)]

    def links(self) -> list[str]:
        """Return notes on modules that are links out of the project."""
        lines = []
        for path, source in sorted(self.sources.items()):
            target = source.resolve()
            inside = any(map(target.is_relative_to, self.folders.roots))
            if not inside and path.partition("/")[0].removesuffix(".py") not in self.folders.copies:
                lines.append(f"{path} is a link out of the project, to {target}; it is packed since it is imported")
        return first_notes(lines, "more modules are such links")

    def _top(self, name: str) -> list[Path]:
        """Return the folders where a top-level module of the project is."""
        if name not in self._tops:
            self._tops[name] = own = self._own_places(name)
            if name in sys.stdlib_module_names:
                self._check_shadow(name, own)
            for place in own:
                self.places.setdefault(place, set()).update(() if self.folders.is_own(place) else (name,))
        return self._tops[name]

    def _own_places(self, name: str) -> list[Path]:
        """Return the folders of a top-level module, if they are the project's."""
        if name not in self._own:
            self._own[name] = [*self._find_own(name)] if name != "lokki" else []
        return self._own[name]

    def _find_own(self, name: str) -> Iterator[Path]:
        try:
            # Only top-level names are asked for: to find a submodule, Python imports the package above.
            spec = self.find(name)
        except (ImportError, ValueError):  # a finder that fails, or a module without a spec
            return
        if spec is None:
            return
        places = [_plain(place).parent for place in spec.submodule_search_locations or ()]
        if not places and spec.has_location and spec.origin:
            places = [_plain(spec.origin).parent]
        yield from (place for place in places if name in self.folders.copies or self.folders.is_own(place))

    def _check_shadow(self, name: str, own: list[Path]) -> None:
        """Refuse a module that is named like one of Python's.

        It is refused where Lambda would take the other one.
        """
        folder = self.folders.folder
        files = [place / name / "__init__.py" for place in own or [folder]]
        files += [place / f"{name}.py" for place in own or [folder]]
        file = next(filter(Path.is_file, files), None)
        if file is None:
            return
        if own and name in LOADED_BEFORE:
            raise BuildError(
                f"{file} has the name of a module of Python's, which Lambda loads before any code of the flow, so the "
                "flow would get Python's there. Rename it."
            )
        if not own and name not in LOADED_BEFORE and not _is_built_in(name):
            raise BuildError(
                f"{file} has the name of a module of Python's, which was loaded here before it could be, so that it "
                "would be another one than on Lambda. Rename it."
            )


def _plain(path: str) -> Path:
    """Return a path without ``..``, which ``sys.path`` may have."""
    return Path(os.path.abspath(path))  # noqa: PTH100 (absolute() leaves them, resolve() follows links)


def _is_built_in(name: str) -> bool:
    """Tell whether a module is part of the interpreter.

    No file takes the place of such a module.
    """
    return name in sys.builtin_module_names or FrozenImporter.find_spec(name) is not None


def _module_in(places: list[Path], name: str) -> tuple[Path | None, list[Path]] | None:
    """Find a module in folders, as Python does.

    Returns its file, None for a package without one, and where its submodules are.
    """
    portions = []
    for place in places:
        if (package := place / name / "__init__.py").is_file():
            return package, [place / name]
        for suffix in (".py", *EXTENSION_SUFFIXES):
            if (module := place / f"{name}{suffix}").is_file():
                return module, []
        if (place / name).is_dir():
            # A namespace goes on through all folders, unless a later one has a module of that name.
            portions.append(place / name)
    return (None, portions) if portions else None


def _project_root(file: Path, folder: Path) -> Path:
    """Return the folder below which files are the project's.

    It is that of the git repository, or else the nearest with a file such as pyproject.toml.
    """
    for above in file.parents:
        # A file in a worktree or a submodule, a folder elsewhere.
        if (above / ".git").exists():
            return above
    for above in file.parents:
        if any((above / mark).exists() for mark in _PROJECT_MARKS):
            return above if folder.is_relative_to(above) else folder
    return folder
