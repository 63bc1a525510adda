"""What a flow requires beyond itself, as its file, its project or a requirements.txt says."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from packaging.requirements import Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet

from lokki.builder.package_types import LAMBDA_PYTHON, BuildError
from lokki.builder.requirements.build_backend import BuiltMetadata, backend_metadata, poetry_metadata
from lokki.builder.requirements.cache import cache_key, read_entry, write_entry
from lokki.builder.requirements.origins import (
    Origins,
    extras_of,
    normalize_name,
    parse_requirement,
    project_origins,
    reference_of,
    requirement_name,
    script_origins,
)
from lokki.builder.requirements.pyproject import (
    Table,
    dependency_lines,
    parse_toml,
    project_table,
    read_pyproject,
    script_table,
    tables_in,
    tool_table,
    workspace_member,
)
from lokki.builder.requirements.requirements_file import absolute_file, requirement_lines
from lokki.builder.requirements.uv import Uv

_UNREAD: Final = {
    "Pipfile": "pipenv requirements > requirements.txt",
    "environment.yml": "pip freeze > requirements.txt",
    "environment.yaml": "pip freeze > requirements.txt",
    "conda.yml": "pip freeze > requirements.txt",
    "conda.yaml": "pip freeze > requirements.txt",
    "pixi.toml": "pip freeze > requirements.txt",
    "requirements.in": "uv pip compile requirements.in -o requirements.txt",
}
"""Files that name requirements, which lokki does not read, each with a command that writes them as it does."""


@dataclass(frozen=True, slots=True)
class Requirements:
    """What a flow requires, in lines as of a requirements.txt.

    - ``constraints``: bounds of versions, which require nothing by themselves
    - ``origins``: where uv finds the packages
    - ``source``: what to tell the user of where this is said
    - ``locked``: the lines name the exact version of everything, so that the versions installed here do not matter
    """

    lines: tuple[str, ...] = ()
    constraints: tuple[str, ...] = ()
    origins: Origins = field(default_factory=Origins)
    source: str = "nothing beyond lokki"
    locked: bool = False


def find_requirements(flow_file: Path, uv: Uv, cache: Path) -> Requirements:
    """Return what a flow requires.

    Script metadata in its file says it, or else the nearest project. With a uv.lock, the versions are those that it
    locks. lokki is left out: it is in every package as it is here. So are folders of this machine, whose code is
    packaged as the flow imports it; what they require is required.

    Raises BuildError for a file that cannot be read, for a lock that is not up to date, and for a project of another
    Python.
    """
    requirements = _Finder(uv, cache).find(flow_file)
    origins = replace(requirements.origins, settings=_uv_settings(requirements.origins.folder))
    return replace(requirements, origins=origins)


@dataclass(frozen=True, slots=True)
class _Finder:
    """Reads what projects say.

    Some have to be asked by uv, and the cache remembers the answer.
    """

    uv: Uv
    cache: Path

    def find(self, flow_file: Path) -> Requirements:
        """Return what the file of a flow, or the nearest project, requires."""
        script = script_table(flow_file)
        if script is not None:
            return self._of_script(flow_file, script)
        unread: Path | None = None
        for folder in flow_file.parents:
            requirements = self._of_folder(folder)
            if requirements is not None:
                return requirements
            unread = unread or next((folder / name for name in _UNREAD if (folder / name).is_file()), None)
            # What is above the repository is another project's.
            if (folder / ".git").exists():
                break
        if unread is not None:
            raise BuildError(
                f"{unread} names requirements, and lokki reads pyproject.toml and requirements.txt. "
                f"Write one: {_UNREAD[unread.name]} (an empty one, if the flow requires nothing)."
            )
        return Requirements(origins=Origins(flow_file.parent))

    def _of_folder(self, folder: Path) -> Requirements | None:
        """Return what a project in a folder requires, None if none is there."""
        pyproject = read_pyproject(folder)
        if project_table(pyproject) is not None:
            return self._of_project(pyproject, folder)
        if "dependencies" in tool_table(pyproject, "poetry"):
            return self._of_poetry(pyproject, folder)
        if (folder / "requirements.txt").is_file():
            lines, constraints = requirement_lines(folder / "requirements.txt", self.uv.environ)
            named = [line for line in lines if not line.startswith("-")]
            origins = Origins(folder, options=tuple(line for line in lines if line.startswith("-")))
            required, origins = self.with_folders(named, origins, ())
            return Requirements(_without_lokki(required), tuple(constraints), origins, "requirements.txt")
        setup = next((name for name in ("setup.cfg", "setup.py") if _has(folder / name, b"install_requires")), None)
        if setup is not None:
            lines, origins = self.with_folders(self._dependencies(folder, ()), Origins(folder), (folder,))
            return Requirements(_without_lokki(lines), (), origins, setup)
        return None

    def _of_script(self, file: Path, script: Table) -> Requirements:
        _check_python(str(script.get("requires-python", "")), f"the script metadata of {file}")
        origins = script_origins(file.parent, tool_table(script, "uv"))
        lines, origins = self.with_folders(dependency_lines(script.get("dependencies", []), str(file)), origins, ())
        # https://docs.astral.sh/uv/guides/scripts/#locking-dependencies
        lock = file.with_name(f"{file.name}.lock")
        if lock.is_file():
            locked = self._exported(lock, file, lines, ["--script", file.name])
            return Requirements(
                locked, (), origins, f"the script metadata of {file.name}, as its lock has it", locked=True
            )
        return Requirements(_without_lokki(lines), (), origins, f"the script metadata of {file.name}")

    def _of_project(self, pyproject: Table, folder: Path) -> Requirements:
        if _is_lokki(folder):
            return Requirements(origins=Origins(folder))  # lokki's own examples
        lines, origins = self.with_folders(self._dependencies(folder, ()), _origins(folder, pyproject), (folder,))
        lock = next((above / "uv.lock" for above in (folder, *folder.parents) if (above / "uv.lock").is_file()), None)
        if lock is not None:
            locked = self._exported(lock, folder / "pyproject.toml", lines, ["--no-emit-workspace"])
            return Requirements(locked, (), origins, "pyproject.toml, as uv.lock has it", locked=True)
        return _as_poetry_locks(folder, lines, origins) if _is_poetrys(pyproject) else _unlocked(lines, origins)

    def _of_poetry(self, pyproject: Table, folder: Path) -> Requirements:
        metadata = poetry_metadata(folder, self.uv, self.cache)
        _check_python(metadata.requires_python, f"{folder / 'pyproject.toml'}: python")
        places = tool_table(pyproject, "poetry").get("source", [])
        urls = [str(place["url"]) for place in tables_in(places) if "url" in place]
        options = tuple(f"--extra-index-url {url}" for url in urls)
        required = _with_extras(metadata.requires, ())
        lines, origins = self.with_folders(required, Origins(folder, options=options), (folder,))
        return _as_poetry_locks(folder, lines, origins)

    def _dependencies(self, folder: Path, extras: Iterable[str]) -> list[str]:
        """Return what the project in a folder requires with extras.

        Its build backend is asked where pyproject.toml does not say it.
        """
        pyproject, file = read_pyproject(folder), str(folder / "pyproject.toml")
        project = project_table(pyproject)
        if project is None or {"dependencies", "optional-dependencies"} & set(
            dependency_lines(project.get("dynamic", []), file)
        ):
            metadata = self._built(folder, pyproject)
            _check_python(metadata.requires_python, f"{folder}: requires-python")
            return _with_extras(metadata.requires, extras)
        _check_python(str(project.get("requires-python", "")), f"{file}: requires-python")
        optional = project.get("optional-dependencies")
        groups = {normalize_name(name): lines for name, lines in optional.items()} if isinstance(optional, dict) else {}
        lists = [project.get("dependencies", []), *(groups.get(normalize_name(extra), []) for extra in extras)]
        return [line for lines in lists for line in dependency_lines(lines, file)]

    def _built(self, folder: Path, pyproject: Table) -> BuiltMetadata:
        if "dependencies" in tool_table(pyproject, "poetry"):
            return poetry_metadata(folder, self.uv, self.cache)
        if not pyproject and not any((folder / name).is_file() for name in ("setup.py", "setup.cfg")):
            return BuiltMetadata("", ())
        build_system = pyproject.get("build-system")
        table = build_system if isinstance(build_system, dict) else {}
        return backend_metadata(folder, table, self.uv, self.cache)

    def with_folders(
        self, lines: Iterable[str], origins: Origins, within: tuple[Path, ...]
    ) -> tuple[list[str], Origins]:
        """Return requirements, with folders replaced by what they require.

        The origins are returned too, completed by those of the folders.
        """
        required: list[str] = []
        for line in lines:
            folder = _local_folder(line, origins)
            if folder is None:
                required.append(line)
            elif folder not in within and not _is_lokki(folder):
                more, others = self.with_folders(
                    self._dependencies(folder, extras_of(line)),
                    _origins(folder, read_pyproject(folder)),
                    (*within, folder),
                )
                required += more
                origins = origins.completed_by(others)
        return required, origins

    def _exported(self, lock: Path, project: Path, lines: Iterable[str], which: list[str]) -> tuple[str, ...]:
        """Return what a lock of uv's holds for a project or a script.

        - ``which``: options of uv's that say which of the two it is

        lokki is not among it, nor what only lokki needs.
        """
        folder = project.parent
        key = cache_key("export 3", lock.read_text("utf-8"), _uv_settings(folder), sorted(lines))
        content = read_entry(self.cache / "exported" / key)
        if content is None:
            options = ["--locked", "--no-default-groups", *which, "--prune", "lokki"]
            style = ["--no-hashes", "--no-header", "--no-annotate", "--quiet"]
            environ = {name: value for name, value in self.uv.environ.items() if name not in ("UV_FROZEN", "UV_LOCKED")}
            python = _python_for(lock, self.uv)
            try:
                exported = replace(self.uv, environ=environ).run(
                    ["export", *options, *style, *python], folder, f"Reading {lock}"
                )
            except BuildError as error:
                # Without a network uv tries to lock anew, and says that it finds no solution.
                if re.search(r"needs to be updated|No solution found", str(error)):
                    command = " ".join(["uv lock", *(which if "--script" in which else [])])
                    raise BuildError(f"{lock} is not up to date with {project}; run {command}.") from None
                raise
            content = exported.encode()
            write_entry(self.cache / "exported" / key, content)
        pins = (line for line in content.decode().splitlines() if line and not line.startswith("#"))
        # What is in folders is packaged by itself, and the lock has what it requires.
        absolute = [absolute_file(line, folder) for line in pins if not line.startswith("-")]
        return tuple(line for line in absolute if _local_folder(line, Origins(folder)) is None)


def _python_for(lock: Path, uv: Uv) -> list[str]:
    """Return an option that has uv read a lock by this Python.

    There is none if the project is for other Pythons, of which uv may have to fetch one.
    """
    locked = re.search(r'(?m)^requires-python = "(.*)"$', lock.read_text("utf-8"))
    is_for_this = locked is None or SpecifierSet(locked[1]).contains(platform.python_version(), prereleases=True)
    return ["--python", str(uv.python)] if is_for_this else []


def _has(file: Path, text: bytes) -> bool:
    return file.is_file() and text in file.read_bytes()


def _origins(folder: Path, pyproject: Table) -> Origins:
    """Return the origins of a project.

    Those of the workspace that it may be a member of are among them.
    """
    tables = [(folder, tool_table(pyproject, "uv"))]
    for above in folder.parents:
        root = tool_table(read_pyproject(above), "uv")
        if "workspace" in root:
            tables.insert(0, (above, root))
            break
    return project_origins(folder, tables)


def _check_python(specifier: str, place: str) -> None:
    """Refuse a project that is for other Pythons than the functions'.

    Raises BuildError. https://packaging.python.org/en/latest/specifications/version-specifiers/
    """
    version = ".".join(map(str, LAMBDA_PYTHON))
    try:
        versions = SpecifierSet(specifier)
    except InvalidSpecifier:
        raise BuildError(f"{place}: {specifier!r} names no versions of Python. Correct it, such as >=3.13.") from None
    if not any(versions.contains(f"{version}.{patch}") for patch in range(100)):  # Lambda's patches come by themselves
        raise BuildError(f"{place} is {specifier!r}, and functions run Python {version}. Allow {version} there.")


def _with_extras(lines: Iterable[str], extras: Iterable[str]) -> list[str]:
    """Return requirements without those for other extras."""
    names = {normalize_name(extra) for extra in extras}
    return [required for line in lines for required in _for_extras(line, names)]


def _for_extras(line: str, extras: Iterable[str]) -> Iterator[str]:
    """Yield a requirement unless it is for other extras than these."""
    requirement = parse_requirement(line)
    if requirement is None or requirement.marker is None or "extra" not in str(requirement.marker):
        yield line
    elif any(requirement.marker.evaluate({"extra": extra}) for extra in extras):
        yield str(_without_marker(requirement))


def _without_marker(requirement: Requirement) -> Requirement:
    requirement.marker = None
    return requirement


def _is_poetrys(pyproject: Table) -> bool:
    build_system = pyproject.get("build-system")
    backend = build_system.get("build-backend") if isinstance(build_system, dict) else ""
    return bool(tool_table(pyproject, "poetry")) or str(backend).startswith("poetry")


def _unlocked(lines: Iterable[str], origins: Origins) -> Requirements:
    return Requirements(_without_lokki(lines), (), origins, "pyproject.toml")


def _as_poetry_locks(folder: Path, lines: Iterable[str], origins: Origins) -> Requirements:
    required = _without_lokki(lines)
    pins = _poetry_pins(folder, required)
    return Requirements(required, pins, origins, f"pyproject.toml{', as poetry.lock has it' if pins else ''}")


def _poetry_pins(folder: Path, lines: Iterable[str]) -> tuple[str, ...]:
    """Return the versions that a poetry.lock locks, () without one.

    Raises BuildError for a lock that has not what the project requires.
    """
    lock = folder / "poetry.lock"
    if not lock.is_file():
        return ()
    packages = tables_in(parse_toml(lock.read_text("utf-8"), str(lock)).get("package"))
    versions: dict[str, set[str]] = {}
    for package in packages:
        versions.setdefault(normalize_name(str(package.get("name"))), set()).add(str(package.get("version")))
    for line in lines:
        requirement = parse_requirement(line)
        if requirement is not None and not requirement.url:
            locked = versions.get(normalize_name(requirement.name), set())
            if not any(requirement.specifier.contains(version, prereleases=True) for version in locked):
                raise BuildError(f"{lock} is not up to date: it has no {line}; run poetry lock.")
    # Of several versions for several platforms uv chooses, within what the project says.
    return tuple(f"{name}=={min(locked)}" for name, locked in sorted(versions.items()) if len(locked) == 1)


def _local_folder(line: str, origins: Origins) -> Path | None:
    """Return the folder of this machine that a requirement is, or None.

    https://docs.astral.sh/uv/concepts/projects/dependencies/#path
    """
    reference = urlsplit(reference_of(line))
    if reference.scheme == "file" and Path(unquote(reference.path)).is_dir():
        return Path(unquote(reference.path)).resolve()
    match origins.sources.get(requirement_name(line)):
        case {"path": str(path)} if Path(path).is_dir():
            return Path(path).resolve()
        case {"workspace": True}:
            return workspace_member(requirement_name(line), origins.folder)
    return None


def _is_lokki(folder: Path) -> bool:
    return (project_table(read_pyproject(folder)) or {}).get("name") == "lokki"


def _without_lokki(lines: Iterable[str]) -> tuple[str, ...]:
    return tuple(line for line in lines if requirement_name(line) != "lokki")


def _uv_settings(folder: Path) -> tuple[str, ...]:
    """Return the content of the files of settings that uv may follow.

    Those of a workspace are above the folder.
    """
    files = (above / name for above in (folder, *folder.parents) for name in ("pyproject.toml", "uv.toml"))
    return tuple(file.read_text("utf-8") for file in files if file.is_file())
