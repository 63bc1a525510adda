"""What a flow requires beyond itself, as its file, its project or a requirements.txt says."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

from lokki.builder.cache import cache_key, read_kept, write_whole
from lokki.builder.origins import (
    Origins,
    absolute_option,
    extras_of,
    file_reference,
    normalized,
    project_origins,
    reference_of,
    requirement_name,
    script_origins,
)
from lokki.builder.package_types import BuildError
from lokki.builder.uv import Uv

# https://packaging.python.org/en/latest/specifications/inline-script-metadata/
_SCRIPT = re.compile(r"(?m)^# /// script[ \t]*$\n(?P<content>(?:^#(?: .*)?$\n)+?)^# ///[ \t]*$")
_Table = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Requirements:
    """Lines as in a requirements.txt; ``origins``: where uv finds them; ``source``: what to tell the user of them.

    ``locked``: they name the exact version of everything, so that the versions installed here do not matter.
    """

    lines: tuple[str, ...] = ()
    constraints: tuple[str, ...] = ()
    origins: Origins = field(default_factory=Origins)
    source: str = "nothing beyond lokki"
    locked: bool = False


def find_requirements(flow_file: Path, uv: Uv, cache: Path) -> Requirements:
    """Return what a flow requires: by script metadata in its file, or the nearest pyproject.toml or requirements.txt.

    With a uv.lock, the versions are those that it locks. lokki is left out: it is in every package as it is here. So
    are folders of this machine, whose code is packaged as the flow imports it; what they require is required.
    Raises BuildError for a file that cannot be read.
    """
    found = _find(flow_file, uv, cache)
    return replace(found, origins=replace(found.origins, settings=_uv_settings(found.origins.folder)))


def _find(flow_file: Path, uv: Uv, cache: Path) -> Requirements:
    script = _script_table(flow_file)
    if script is not None:
        return _script_requirements(flow_file, script)
    for folder in flow_file.parents:
        pyproject = _pyproject(folder)
        if _project_of(pyproject) is not None:
            return _project_requirements(pyproject, folder, uv, cache)
        if (folder / "requirements.txt").is_file():
            lines, constraints = _requirement_lines(folder / "requirements.txt", uv.environ, ())
            required = tuple(line for line in lines if not line.startswith("-"))
            origins = Origins(folder, options=tuple(line for line in lines if line.startswith("-")))
            return Requirements(_without_lokki(required), tuple(constraints), origins, "requirements.txt")
        if (folder / ".git").exists():
            break
    return Requirements(origins=Origins(flow_file.parent))


def _script_table(file: Path) -> _Table | None:
    blocks = list(_SCRIPT.finditer(file.read_text("utf-8")))
    if not blocks:
        return None
    lines = blocks[0].group("content").splitlines()
    content = "\n".join(line.removeprefix("#").removeprefix(" ") for line in lines)
    return _toml(content, f"the script metadata of {file}")


def _script_requirements(file: Path, script: _Table) -> Requirements:
    origins = script_origins(file.parent, _uv_table(script))
    lines, origins = _with_folders(_strings(script.get("dependencies", []), str(file)), origins, ())
    return Requirements(_without_lokki(lines), (), origins, f"the script metadata of {file.name}")


def _pyproject(folder: Path) -> _Table:
    file = folder / "pyproject.toml"
    return _toml(file.read_text("utf-8"), str(file)) if file.is_file() else {}


def _project_of(pyproject: _Table) -> _Table | None:
    project = pyproject.get("project")
    return project if isinstance(project, dict) else None


def _uv_table(table: _Table) -> _Table:
    tool = table.get("tool")
    uv = tool.get("uv") if isinstance(tool, dict) else None
    return uv if isinstance(uv, dict) else {}


def _project_requirements(pyproject: _Table, folder: Path, uv: Uv, cache: Path) -> Requirements:
    project = _project_of(pyproject) or {}
    if project.get("name") == "lokki":
        return Requirements(origins=Origins(folder))  # lokki's own examples
    lines, origins = _with_folders(_dependencies(pyproject, folder), _origins(folder, pyproject), (folder,))
    lock = next((above / "uv.lock" for above in (folder, *folder.parents) if (above / "uv.lock").is_file()), None)
    if lock is not None:
        locked = _exported(lock, folder, uv, cache)
        return Requirements(locked, (), origins, "pyproject.toml, as uv.lock has it", locked=True)
    return Requirements(_without_lokki(lines), (), origins, "pyproject.toml")


def _origins(folder: Path, pyproject: _Table) -> Origins:
    """Return the origins of a project, with those of the workspace that it may be a member of."""
    tables = [(folder, _uv_table(pyproject))]
    for above in folder.parents:
        root = _uv_table(_pyproject(above))
        if "workspace" in root:
            tables.insert(0, (above, root))
            break
    return project_origins(folder, tables)


def _dependencies(pyproject: _Table, folder: Path, extras: Iterable[str] = ()) -> list[str]:
    project, file = _project_of(pyproject) or {}, str(folder / "pyproject.toml")
    optional = project.get("optional-dependencies")
    groups = {normalized(name): lines for name, lines in optional.items()} if isinstance(optional, dict) else {}
    lists = [project.get("dependencies", []), *(groups.get(normalized(extra), []) for extra in extras)]
    return [line for lines in lists for line in _strings(lines, file)]


def _with_folders(lines: Iterable[str], origins: Origins, within: tuple[Path, ...]) -> tuple[list[str], Origins]:
    """Return requirements in which folders of this machine gave way to what they require, and the origins of all."""
    found: list[str] = []
    for line in lines:
        folder = _local_folder(line, origins)
        if folder is None:
            found.append(line)
        elif folder not in within and requirement_name(line) != "lokki":
            pyproject = _pyproject(folder)
            required = _dependencies(pyproject, folder, extras_of(line))
            more, others = _with_folders(required, _origins(folder, pyproject), (*within, folder))
            found += more
            origins = origins.joined(others)
    return found, origins


def _local_folder(line: str, origins: Origins) -> Path | None:
    """Return the folder of this machine that a requirement is, if it is one.

    https://docs.astral.sh/uv/concepts/projects/dependencies/#path
    """
    reference = urlsplit(reference_of(line))
    if reference.scheme == "file" and Path(unquote(reference.path)).is_dir():
        return Path(unquote(reference.path)).resolve()
    match origins.sources.get(requirement_name(line)):
        case {"path": str(path)} if Path(path).is_dir():
            return Path(path).resolve()
        case {"workspace": True}:
            return _member(requirement_name(line), origins.folder)
    return None


def _member(name: str, folder: Path) -> Path:
    """Return the folder of a member of the workspace that a folder is in.

    https://docs.astral.sh/uv/concepts/projects/workspaces/
    """
    for root in (folder, *folder.parents):
        workspace = _uv_table(_pyproject(root)).get("workspace")
        patterns = workspace.get("members", []) if isinstance(workspace, dict) else []
        for member in (root, *(place for pattern in patterns for place in sorted(root.glob(pattern)))):
            if requirement_name(str((_project_of(_pyproject(member)) or {}).get("name", ""))) == name:
                return member.resolve()
    raise BuildError(f"{folder / 'pyproject.toml'}: {name} is no member of its workspace. Correct its source.")


def _exported(lock: Path, folder: Path, uv: Uv, cache: Path) -> tuple[str, ...]:
    """Return what a uv.lock locks for a project, without lokki and what only lokki needs."""
    place = cache / "exported" / cache_key("export 2", lock.read_text("utf-8"), _uv_settings(folder))
    kept = read_kept(place)
    if kept is None:
        options = ["--frozen", "--no-default-groups", "--no-emit-workspace", "--prune", "lokki"]
        style = ["--no-hashes", "--no-header", "--no-annotate", "--quiet"]
        kept = uv.run(["export", *options, *style], folder, f"Reading {lock}").encode()
        write_whole(place, kept)
    lines = [_absolute_file(line, folder) for line in kept.decode().splitlines() if line and not line.startswith("#")]
    return tuple(line for line in lines if line and not line.startswith("-"))


def _requirement_lines(file: Path, environ: Mapping[str, str], within: tuple[Path, ...]) -> tuple[list[str], list[str]]:
    """Read a requirements.txt and those that it names; return requirements and options, and constraints.

    Where it names variables of the environment, such as ``${TOKEN}``, it has their values.

    https://pip.pypa.io/en/stable/reference/requirements-file-format/
    """
    if file in within:
        raise BuildError(f"{file} includes itself. Remove one of its -r lines.")
    try:
        text = file.read_text("utf-8")
    except OSError as error:
        raise BuildError(f"{file} cannot be read: {error.strerror}. Correct the line that names it.") from None
    lines: list[str] = []
    constraints: list[str] = []
    for line in text.replace("\\\n", " ").splitlines():
        content = re.sub(r"(^|\s)#.*$", "", line).strip()
        content = re.sub(r"\s+--hash[= ]\S+", "", content)
        content = re.sub(r"\$\{([A-Z0-9_]+)\}", lambda name: environ.get(name[1], name[0]), content)
        if re.match(r"(-e|--editable)\b", content):
            continue  # the project's own code is packaged as what the flow imports
        other = re.fullmatch(r"(-r|--requirement|-c|--constraint)[= ]?\s*(\S+)", content)
        if other is None:
            lines += filter(None, [_absolute_file(absolute_option(content, file.parent), file.parent)])
            continue
        more, bounds = _requirement_lines(file.parent / other[2], environ, (*within, file))
        constraints += bounds if other[1] in ("-r", "--requirement") else [*more, *bounds]
        lines += more if other[1] in ("-r", "--requirement") else []
    return lines, constraints


def _absolute_file(line: str, folder: Path) -> str:
    """Return a line with the path that it may be as a reference, and "" for a folder, whose code is packaged itself."""
    path, semicolon, marker = line.partition(" ; ")
    is_file = re.search(r"\.(whl|zip|tar\.gz)$", path) is not None
    if "://" in path or reference_of(path) or not (is_file or re.match(r"\.\.?(/|$)|/", path)):
        return line
    return f"{file_reference((folder / path).resolve())}{semicolon}{marker}" if is_file else ""


def _without_lokki(lines: Iterable[str]) -> tuple[str, ...]:
    return tuple(line for line in lines if requirement_name(line) != "lokki")


def _toml(text: str, source: str) -> dict[str, object]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BuildError(f"{source} is not valid TOML: {error}. Correct it.") from None


def _strings(value: object, source: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(member, str) for member in value):
        raise BuildError(f"{source}: dependencies must be a list of texts. Correct it.")
    return value


def _uv_settings(folder: Path) -> tuple[str, ...]:
    """Return the content of the files whose settings uv may follow in a folder: those of a workspace are above it."""
    files = (above / name for above in (folder, *folder.parents) for name in ("pyproject.toml", "uv.toml"))
    return tuple(file.read_text("utf-8") for file in files if file.is_file())
