"""Where packages come from if not from the public index: what a project tells uv of sources and indexes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import (
    InvalidSdistFilename,
    InvalidWheelFilename,
    canonicalize_name,
    parse_sdist_filename,
    parse_wheel_filename,
)

from lokki.base.values import Json
from lokki.builder.package_types import LAMBDA_PYTHON

_PLACE_OPTION = re.compile(r"(-i|--index-url|--extra-index-url|-f|--find-links)[= ]\s*(\S+)")


@dataclass(frozen=True, slots=True)
class Origins:
    """Where a project's packages come from.

    - ``folder``: where uv finds its settings
    - ``sources``: by package, those of ``[tool.uv.sources]``, with absolute paths
    - ``indexes``: those of ``[[tool.uv.index]]``, with absolute paths
    - ``options``: lines of a requirements.txt, such as ``--extra-index-url https://…``
    - ``arguments``: the same for uv's command line
    - ``settings``: the text of uv's settings

    https://docs.astral.sh/uv/concepts/projects/dependencies/#dependency-sources
    """

    folder: Path = field(default_factory=Path)
    sources: Mapping[str, Json] = field(default_factory=dict)
    indexes: tuple[Mapping[str, Json], ...] = ()
    options: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()

    def completed_by(self, other: Origins) -> Origins:
        """Return these origins, with another project's where they say nothing."""
        indexes = (*self.indexes, *(index for index in other.indexes if index not in self.indexes))
        return replace(self, sources={**other.sources, **self.sources}, indexes=indexes)

    @property
    def places(self) -> set[str]:
        """The URLs and folders of all indexes that the project names."""
        options = (match[2] for option in self.options if (match := _PLACE_OPTION.fullmatch(option)))
        return {_bare(place) for place in (*(str(index["url"]) for index in self.indexes), *options)}

    @property
    def key(self) -> Json:
        """All that decides what a pin installs."""
        indexes: list[Json] = [dict(index) for index in self.indexes]
        return [dict(self.sources), indexes, list(self.options), list(self.arguments), list(self.settings)]


def project_origins(folder: Path, tables: Sequence[tuple[Path, Mapping[str, object]]]) -> Origins:
    """Return the origins of a project by its ``[tool.uv]`` tables.

    ``tables``: each with its folder; the project's own is the last, the others are those of the workspace that it is a
    member of.
    """
    sources: dict[str, Json] = {}
    for place, table in tables:
        sources |= _sources(table, place)
    # The project's own come first: of indexes with one name the first counts.
    indexes = tuple(index for place, table in reversed(tables) for index in _indexes(table, place))
    return Origins(folder, sources, indexes)


def script_origins(folder: Path, table: Mapping[str, object]) -> Origins:
    """Return the origins of a script by its ``[tool.uv]`` table.

    uv itself does not look in the metadata of a script, so indexes become arguments.
    """
    indexes = tuple(_indexes(table, folder))
    arguments: list[str] = []
    for index in indexes:
        # An explicit index is only for the packages whose sources name it.
        if not index.get("explicit"):
            option = "--default-index" if index.get("default") else "--index"
            arguments += [option, f"{index['name']}={index['url']}" if "name" in index else str(index["url"])]
    return Origins(folder, _sources(table, folder), indexes, (), tuple(arguments))


def absolute_option(option: str, folder: Path) -> str:
    """Return an option of a requirements.txt with an absolute path.

    One without a path is returned as it is. https://pip.pypa.io/en/stable/reference/requirements-file-format/
    """
    match = _PLACE_OPTION.fullmatch(option)
    return f"{match[1]} {_absolute(match[2], folder)}" if match else option


def inputs_for_uv(lines: Sequence[str], origins: Origins) -> dict[str, bytes]:
    """Return requirements as files for uv, by name.

    uv follows sources only for what a pyproject.toml requires, so there may be one.
    """
    sourced = [line for line in lines if _source(line, origins) is not None]
    others = [line for line in lines if _source(line, origins) is None]
    files = {"requirements.txt": "".join(f"{line}\n" for line in [*origins.options, *others]).encode()}
    if sourced:
        # Imported here since few projects have sources, and none asks for them in an unchanged build.
        import tomli_w

        sources = {name: origins.sources[name] for name in filter(None, (_source(line, origins) for line in sourced))}
        project = {
            "name": "flow",
            "version": "0",
            "requires-python": f">={'.'.join(map(str, LAMBDA_PYTHON))}",
            "dependencies": sourced,
        }
        tool = {"uv": {"sources": sources, "index": list(_named(origins.indexes).values())}}
        files["pyproject.toml"] = tomli_w.dumps({"project": project, "tool": tool}).encode()
    return files


def index_of(pin: str, place: str, origins: Origins) -> str | None:
    """Return the index that a pin comes from by a project's will.

    It is "" for what only this machine has, and None for what comes from the public index. ``place``: the index in
    which uv found it.
    """
    if reference_of(pin):
        return ""
    index = _bare(place) if place else ""
    return (index if index.startswith("http") else "") if index in origins.places else None


def file_reference(place: Path) -> str:
    """Return a requirement of the package in a file."""
    return f"{_package_in(place.name)} @ {place.as_uri()}"


def folder_reference(place: Path, extras: str = "") -> str:
    """Return a requirement of the project in a folder.

    ``extras``: those that are required, such as ``[plot]``.
    """
    # A project's own name is not needed: what is in folders is known by its place.
    name = re.sub(r"[^A-Za-z0-9]+", "-", place.name).strip("-") or "project"
    return f"{name}{extras} @ {place.as_uri()}"


def parse_requirement(line: str) -> Requirement | None:
    """Parse a line of a requirements.txt.

    None is returned for an option, a path or a URL.

    https://packaging.python.org/en/latest/specifications/dependency-specifiers/
    """
    try:
        return Requirement(re.sub(r"\s--.*", "", line))  # pip takes options behind a requirement
    except InvalidRequirement:
        return None


def requirement_name(line: str) -> str:
    """Return the normalized name of what a line requires, or ""."""
    requirement = parse_requirement(line)
    return normalize_name(requirement.name) if requirement else ""


def is_for_extra(line: str) -> bool:
    """Tell whether metadata names a requirement for an extra only.

    >>> is_for_extra("a; extra == 'docs'"), is_for_extra("a; sys_platform == 'linux'"), is_for_extra("a")
    (True, False, False)
    """
    requirement = parse_requirement(line)
    return requirement is not None and requirement.marker is not None and "extra" in str(requirement.marker)


def extras_of(line: str) -> list[str]:
    """Return the extras that a line requires of a package.

    >>> extras_of("name[two,one]>=1")
    ['one', 'two']
    """
    requirement = parse_requirement(line)
    return sorted(requirement.extras) if requirement else []


def normalize_name(name: str) -> str:
    """Return the one spelling of a package's name.

    https://peps.python.org/pep-0503/#normalized-names
    """
    return str(canonicalize_name(name))


def reference_of(line: str) -> str:
    """Return the URL that a requirement is a reference to, or "".

    https://packaging.python.org/en/latest/specifications/dependency-specifiers/#direct-references
    """
    requirement = parse_requirement(line)
    return (requirement.url or "") if requirement else ""


def _package_in(file: str) -> str:
    """Return the package that a file is of, by the file's name.

    >>> _package_in("lib_2to3-1.0-py3-none-any.whl"), _package_in("lib-2to3-1.0.tar.gz"), _package_in("birds-1_a.zip")
    ('lib-2to3', 'lib-2to3', 'birds')
    """
    try:
        return parse_wheel_filename(file)[0] if file.endswith(".whl") else parse_sdist_filename(file)[0]
    except (InvalidWheelFilename, InvalidSdistFilename):  # of an old tool, or by the user
        return normalize_name(re.split(r"-(?=\d)", file)[0])


def _source(line: str, origins: Origins) -> str | None:
    """Return the name under which a line has a source, or None.

    A line that is a reference itself has none beside it.
    """
    name = requirement_name(line)
    return name if name in origins.sources and not reference_of(line) else None


def _sources(table: Mapping[str, object], folder: Path) -> dict[str, Json]:
    """Return the sources of a table, by normalized name.

    Those for extras and groups are left out, which are not packaged.
    """
    sources: dict[str, Json] = {}
    for name, value in _table(table.get("sources")).items():
        members: list[Json] = [
            {key: _absolute(text, folder) if key == "path" else text for key, text in one.items()}
            for one in _list(value)
            if isinstance(one, dict) and not {"extra", "group"} & one.keys()
        ]
        if members:
            sources[normalize_name(name)] = members if isinstance(value, list) else members[0]
    return sources


def _indexes(table: Mapping[str, object], folder: Path) -> Iterator[Mapping[str, Json]]:
    """Yield the indexes of a table.

    Those are among them that are named as it was done before ``[[tool.uv.index]]``.
    """
    for index in _list(table.get("index")):
        if isinstance(index, dict) and "url" in index:
            yield {**index, "url": _absolute(index["url"], folder)}
    for name in ("index-url", "extra-index-url", "find-links"):
        kind: dict[str, Json] = {"default": True} if name == "index-url" else {}
        kind |= {"format": "flat"} if name == "find-links" else {}
        for place in _list(table.get(name)):
            if isinstance(place, str):
                yield {"url": _absolute(place, folder), **kind}


def _named(indexes: Sequence[Mapping[str, Json]]) -> dict[str, dict[str, Json]]:
    """Return the indexes that sources can name, by name.

    As uv takes them, a name counts once, for the first index that has it. Which is the default one is among uv's
    settings.
    """
    named = [index for index in reversed(indexes) if "name" in index]
    return {str(index["name"]): {key: value for key, value in index.items() if key != "default"} for index in named}


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]


def _table(value: object) -> Mapping[str, Json]:
    return value if isinstance(value, dict) else {}


def _absolute(place: object, folder: Path) -> str:
    text = str(place)
    return text if "://" in text else str(folder / text)


def _bare(place: str) -> str:
    """Return the URL of an index without what may be left out.

    That is a user with a password, and a slash at the end.
    """
    parts = urlsplit(place if "://" in place else Path(place).absolute().as_uri())
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl().rstrip("/")
