"""Which files of the user's project a flow needs: what its module imports, and what lokki.yml includes.

Paths are those that files have in a package, which are those by which Python finds them: the path of a module below the
entry of ``sys.path`` that it comes from. So the deployed flow imports what it imports here.
"""

from __future__ import annotations

import ast
import json
import os
import re
import sys
import sysconfig
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from glob import iglob
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec
from importlib.metadata import PathDistribution
from importlib.util import find_spec
from itertools import accumulate
from keyword import iskeyword
from pathlib import Path, PurePosixPath
from types import ModuleType
from urllib.parse import unquote, urlsplit

from lokki.builder.lambda_pkg import Importable
from lokki.builder.package_types import BuildError
from lokki.builder.reaching import last_name
from lokki.chain import AnyStep, StepNode
from lokki.config import LokkiConfig
from lokki.decorators import Flow
from lokki.errors import ConfigError, FlowError
from lokki.graph import FlowGraph

RESERVED = re.compile(r"Dockerfile|handler\.py|requirements(-\d+)?\.txt|lokki/.*")
"""Files that lokki puts into a package's folder."""

_NOT_ON_LAMBDA = re.compile(
    "__main__|builder/|causes|cli|deploy|drawing|emulator/|estimate|measured|operate|prices|progress|replay|results"
)
_NEVER = {"__pycache__", "node_modules", "tests"}
_PROJECT_MARKS = ("pyproject.toml", "lokki.yml", "requirements.txt")


@dataclass(frozen=True, slots=True)
class Project:
    """What a flow needs of its project: its file, from where to import it and its steps, files by package path.

    ``foreign``: the modules of others that it imports in any case, each with the file that does.
    """

    flow_file: Path
    flow: Importable
    steps: Mapping[str, Importable]
    files: Mapping[str, bytes]
    foreign: Mapping[str, str]


def collect(
    graph: FlowGraph,
    config: LokkiConfig,
    skipped: frozenset[Path] = frozenset(),
    find: Callable[[str], ModuleSpec | None] = find_spec,
) -> Project:
    """Find the files that a flow needs, by reading the imports of its modules; nothing is imported or run.

    ``skipped``: folders, resolved, to take no included file from, such as the one that is built. Raises FlowError for a
    flow or a step that Lambda could not import, ConfigError for a pattern that matches nothing, BuildError for files
    that cannot be packaged.
    """
    flow = graph.origin
    if not isinstance(flow, Flow):
        raise FlowError(f"the flow {graph.name!r} is not made by a function with @flow, so Lambda cannot import it.")
    module, file = _module_of(flow)
    flow_name = next((name for name, value in sorted(vars(module).items()) if value is flow), None)
    if flow_name is None:
        raise FlowError(_not_importable(f"the flow {flow.__name__}()", flow.fn.__code__.co_filename))
    name = _import_name(module, file)
    folder = file.parents[name.count(".") + (file.name == "__init__.py")]
    steps = {step.name: _importable(step, module) for step in graph.steps}
    pythons = frozenset(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib"))
    roots, copies = _local_packages(sys.path)
    walk = _Walk((_project_root(file, folder), *roots), copies, pythons, find, config.exclude, {}, {})
    walk.add(name, file)
    walk.follow(name.rpartition(".")[0] or name)
    for importable in steps.values():
        walk.follow(importable.module)
    files = walk.files | _included(folder, config, skipped)
    for path in files:
        if RESERVED.fullmatch(path):
            raise BuildError(
                f"{path} has a name that lokki needs in every package. Rename it or exclude it in lokki.yml."
            )
    return Project(file, Importable(name, flow_name), steps, dict(sorted(files.items())), walk.foreign)


def lokki_files() -> dict[str, bytes]:
    """Read lokki's own modules, as they are installed here, by package path, without what Lambda has no use for."""
    folder = Path(__file__).parent.parent
    # Not Path.glob(), which takes six times as long.
    paths = (path.replace(os.sep, "/") for path in iglob("**/*.py", root_dir=folder, recursive=True))  # noqa: PTH207
    return {f"lokki/{path}": (folder / path).read_bytes() for path in sorted(paths) if not _NOT_ON_LAMBDA.match(path)}


def _module_of(flow: Flow[...]) -> tuple[ModuleType, Path]:
    module = sys.modules.get(flow.__module__)
    file = getattr(module, "__file__", None)
    if module is None or not file or not Path(file).is_file():
        raise FlowError(
            f"the flow {flow.__name__}() is not in a file, so it cannot be packaged. Save it as a .py file."
        )
    return module, Path(file).resolve()


def _import_name(module: ModuleType, file: Path | None = None) -> str:
    """Return the name by which a module is imported; a script has the name of its file."""
    name = module.__name__
    if name == "__main__":
        spec = module.__spec__
        name = spec.name if spec is not None else (file or Path(module.__file__ or "")).stem
    bad = next((part for part in name.split(".") if not part.isidentifier() or iskeyword(part)), None)
    if bad is not None:
        raise FlowError(f"{module.__file__} cannot be imported as {bad!r}. Rename it to letters, digits and '_'.")
    return name


def _importable(step: AnyStep, flow_module: ModuleType) -> Importable:
    """Find the name under which a step is at the top level of its module, or of the flow's."""
    own = sys.modules.get(getattr(step.fn, "__module__", None) or "")
    for module in (own, flow_module):
        if module is None:
            continue
        names = sorted(
            (value.arguments is not None, name != step.name, name)
            for name, value in vars(module).items()
            if isinstance(value, StepNode) and value.fn is step.fn and value.upstream is None
            if value.options == step.options
        )
        if names:
            return Importable(_import_name(module), names[0][2])
    code = getattr(step.fn, "__code__", None)
    raise FlowError(_not_importable(f"the step {step.name}()", code.co_filename if code else ""))


def _not_importable(what: str, file: str) -> str:
    where = f"{file}: " if file else ""
    return (
        f"{where}{what} is not at the top level of a module, where Lambda could import it by name. "
        "Move it out of the function or class that it is in, and give it a name of its own."
    )


def _project_root(file: Path, folder: Path) -> Path:
    """Return the folder below which files are the project's: that of the git repository, else of the nearest marks."""
    for above in file.parents:
        if (above / ".git").exists():
            return above
    for above in file.parents:
        if any((above / mark).exists() for mark in _PROJECT_MARKS):
            return above if folder.is_relative_to(above) else folder
    return folder


def _local_packages(path: Iterable[str]) -> tuple[list[Path], frozenset[str]]:
    """Return what is installed from folders of this machine, which no index has: it is packaged like the project.

    That is the folders of editable ones, and the names of the modules that others were copied to.
    https://packaging.python.org/en/latest/specifications/direct-url/
    """
    roots: list[Path] = []
    copies: set[str] = set()
    for file in sorted(found for entry in path for found in Path(entry or ".").glob("*.dist-info/direct_url.json")):
        if file.parent.name.startswith("lokki-"):
            continue
        match json.loads(file.read_bytes()):
            case {"url": str(url), "dir_info": {"editable": True}}:
                roots.append(Path(unquote(urlsplit(url).path)).resolve())
            case {"dir_info": dict()}:
                files = (Path(path) for path in PathDistribution(file.parent).files or ())
                copies.update(path.parts[0].removesuffix(".py") for path in files if path.suffix == ".py")
    return roots, frozenset(copies)


@dataclass(frozen=True, slots=True)
class _Walk:
    """A walk over the imports of modules, which adds those of the project to ``files``.

    ``roots``: folders of the project's own code; ``copies``: modules that were installed from such; ``pythons``:
    folders of Python's own.
    """

    roots: tuple[Path, ...]
    copies: frozenset[str]
    pythons: frozenset[Path]
    find: Callable[[str], ModuleSpec | None]
    exclude: tuple[str, ...]
    files: dict[str, bytes]
    foreign: dict[str, str]

    def follow(self, name: str) -> None:
        """Add the module of this name, the packages that it is in, and all that they import."""
        top, *rest = name.split(".")
        places = self._top(top)
        path = PurePosixPath(top)
        for position in range(len(rest) + 1):
            found = _module_in(places, path.name)
            if found is None:
                return
            module, places = found
            if module is not None:
                self.add(".".join(path.parts), module)
            if position < len(rest):
                path /= rest[position]

    def add(self, name: str, file: Path) -> None:
        """Add a module by its name, unless it is there or excluded, and follow its imports."""
        path = f"{name.replace('.', '/')}{'/__init__.py' if file.name == '__init__.py' else '.py'}"
        if path in self.files or _matches(path, self.exclude):
            return
        if file.suffix != ".py":
            raise BuildError(f"{file} is compiled for this machine. Build a wheel of it and require that instead.")
        self.files[path] = source = file.read_bytes()
        try:
            with warnings.catch_warnings(action="ignore"):  # Python told them when it imported the file
                tree = ast.parse(source)
        except (SyntaxError, ValueError) as error:
            raise BuildError(f"{file} cannot be read: {error}. Correct it, or exclude it in lokki.yml.") from None
        for imported in _imports(tree, name, is_package=file.name == "__init__.py"):
            self.follow(imported)
        for top in _always_imported(tree):
            if not self._top(top) and top != "lokki" and top not in sys.stdlib_module_names:
                self.foreign.setdefault(top, path)

    def _top(self, name: str) -> list[Path]:
        """Return the folders in which a module of this name is, if it is the project's."""
        if name == "lokki" or name in sys.stdlib_module_names:
            return []
        try:
            spec = self.find(name)
        except (ImportError, ValueError):  # a finder that fails, or a module without a spec
            return []
        if spec is None:
            return []
        places = [Path(place).parent for place in spec.submodule_search_locations or ()]
        if not places and spec.has_location and spec.origin:
            places = [Path(spec.origin).parent]
        return [place for place in places if name in self.copies or self._is_own(place)]

    def _is_own(self, folder: Path) -> bool:
        """Tell whether a folder is the project's, and not an environment's inside it, or Python's own."""
        resolved = folder.resolve()
        return (
            any(map(resolved.is_relative_to, self.roots))
            and not {"site-packages", "dist-packages"} & set(resolved.parts)
            and not any(map(resolved.is_relative_to, self.pythons))
        )


def _module_in(places: list[Path], name: str) -> tuple[Path | None, list[Path]] | None:
    """Find a module as Python does: its file, None for a package without one, and where its submodules are."""
    portions = []
    for place in places:
        if (package := place / name / "__init__.py").is_file():
            return package, [place / name]
        for suffix in (".py", *EXTENSION_SUFFIXES):
            if (module := place / f"{name}{suffix}").is_file():
                return module, []
        if (place / name).is_dir():
            portions.append(place / name)
    return (None, portions) if portions else None


def _imports(tree: ast.Module, module: str, *, is_package: bool) -> Iterator[str]:
    """Yield the name of each module that a module may import, and of what may be a module."""
    parents = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = parents[: len(parents) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            if base:
                yield base
                yield from (f"{base}.{alias.name}" for alias in node.names if alias.name != "*")
        elif isinstance(node, ast.Call) and last_name(node.func) in ("import_module", "__import__"):
            match node.args:
                case [ast.Constant(value=str(name))] if name.strip(".") == name:
                    yield name


def _always_imported(tree: ast.Module) -> Iterator[str]:
    """Yield the first name of each module that is imported at the top level, whatever happens."""
    for node in tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield (node.module or "").partition(".")[0]


def _included(folder: Path, config: LokkiConfig, skipped: frozenset[Path]) -> dict[str, bytes]:
    """Read the files that the patterns of ``include`` match, and those of ``exclude`` do not."""
    if not config.include:
        return {}
    files = {}
    unused = set(config.include)
    for file in _files(folder, skipped):
        path = file.relative_to(folder).as_posix()
        matched = {pattern for pattern in config.include if _matches(path, (pattern,))}
        unused -= matched
        if matched and not _matches(path, config.exclude):
            files[path] = file.read_bytes()
    if unused:
        raise ConfigError(
            f"include: {min(unused)!r} matches no file in {folder} (hidden files, caches and tests are never taken). "
            "Correct the pattern: it starts at the folder of the flow's file, such as data/*.csv or **/*.sql."
        )
    return files


def _files(folder: Path, skipped: frozenset[Path]) -> Iterator[Path]:
    for place, folders, names in folder.walk():
        folders[:] = sorted(
            name
            for name in folders
            if name not in _NEVER
            and not name.startswith(".")
            and not name.endswith(".egg-info")
            and (place / name).resolve() not in skipped
            and not (place / name / "pyvenv.cfg").exists()
        )
        yield from (place / name for name in sorted(names) if not name.startswith(".") and not name.endswith(".pyc"))


def _matches(path: str, patterns: tuple[str, ...]) -> bool:
    """Tell whether a pattern matches a path, or a folder that it is in; one without ``/`` matches at any depth."""
    above = [PurePosixPath(part) for part in accumulate(path.split("/"), lambda upper, name: f"{upper}/{name}")]
    return any(
        place.full_match(pattern.rstrip("/") if "/" in pattern.rstrip("/") else f"**/{pattern.rstrip('/')}")
        for pattern in patterns
        for place in above
    )
