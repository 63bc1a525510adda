"""What is installed in a folder: the packages, the files of each, and which of them lead to which others.

One package leads to another if it requires it, imports it anywhere (inside functions and behind ``try``, too), names it
in an extra, looks for plugins that it has, or has files inside it. What nothing leads to is provably not imported.
"""

from __future__ import annotations

import base64
import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Final

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

if TYPE_CHECKING:
    from packaging.metadata import RawMetadata

PYTHON_LINE: Final = b"#!/usr/bin/env python3\n"
"""First line of programs in Python: the path of this machine's Python means nothing on Lambda."""

_OF_INSTALLERS: Final = {"INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json", "uv_build.json", ".lock"}
_THIS_PYTHON = re.compile(rb"#!\s*/(?!usr/bin/env\b)[^\n]*python[0-9.]*[^/\n]*\n")
# What installers write where the path of Python is too long for a first line, or has a space.
_LONG_PYTHON = re.compile(rb"#!/bin/sh\n'''exec' [^\n]*\n' '''\n")

_TESTS: Final = {"tests", "test"}
_IMPORT_OF_TESTS = re.compile(rb"^\s*(?:from\s+([\w.]+)\s+import\s+([\w ,(]*)|import\s+([\w. ,]+))", re.MULTILINE)
_NAME_OF_TESTS = re.compile(rb"""["'}]([\w.]*\.tests?(?:\.\w+)*)["'.]""")

_IMPORT = re.compile(
    rb"(?:^|[;:])[ \t]*(?:from[ \t]+([A-Za-z_][\w.]*)[ \t]+import\b|import[ \t]+([A-Za-z_][\w., \t]*))", re.MULTILINE
)
# The name of a module as a text: import_optional_dependency("fsspec"), {"class": "s3fs.S3FileSystem"}.
_IMPORT_CALL = re.compile(rb"""(?:import|spec|load|lazy)\w*\(\s*["']([A-Za-z_]\w*(?:\.\w+)*)["']""")
_DOTTED_TEXT = re.compile(rb"""[:,(\[={]\s*["']([A-Za-z_]\w*(?:\.\w+)+)["']""")
_SOURCES: Final = (".py", ".pyi", ".pyx", ".pxd")

# Extras that are for who develops a package, and no backends of it.
_FOR_DEVELOPERS = re.compile(
    r"(tests?|testing|dev(elop(er|ment)?)?|docs?|documentation|lint(ers|ing)?|typ(e|es|ing)|type-?check(ing)?|mypy|check"
    r"|cover|cov(erage)?|enabler|build|bench(mark)?s?|maint(enance)?|ci|style|pre-?commit|examples?)"
)
_PROGRAM_GROUPS: Final = {"console_scripts", "gui_scripts"}


@dataclass(frozen=True, slots=True)
class Distribution:
    """An installed package.

    - ``paths``: of its files
    - ``requires``: packages that its metadata requires for Lambda, without extras
    - ``uses``: all packages that it leads to, by import, extra or plugin too
    """

    paths: tuple[str, ...]
    requires: tuple[str, ...] = ()
    uses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Providers:
    """Which packages provide which modules.

    ``folders``: packages of Python, with or without an ``__init__``.
    """

    modules: Mapping[str, frozenset[str]]
    folders: Mapping[str, frozenset[str]]

    def of(self, module: str) -> frozenset[str]:
        """Return who provides a module, and what it is in.

        Of a bare namespace they are all that have a part of it.
        """
        above = list(accumulate(module.split("."), lambda upper, name: f"{upper}.{name}"))
        owners = frozenset[str]().union(*(self.modules.get(name, frozenset()) for name in above))
        return owners or self.folders.get(module, frozenset())


def providers(distributions: Mapping[str, Distribution]) -> Providers:
    """Return who provides which modules, by the names of files."""
    modules: dict[str, set[str]] = {}
    folders: dict[str, set[str]] = {}
    for name, distribution in distributions.items():
        for path in distribution.paths:
            module = _module(path)
            if module is not None:
                modules.setdefault(module, set()).add(name)
                for above in accumulate(module.split(".")[:-1], lambda upper, part: f"{upper}.{part}"):
                    folders.setdefault(above, set()).add(name)
    return Providers(
        {module: frozenset(names) for module, names in modules.items()},
        {folder: frozenset(names) for folder, names in folders.items()},
    )


def _module(path: str) -> str | None:
    """Return the dotted name of the module that a file is, if it is one."""
    *folders, file = path.split("/")
    stem, _, suffix = file.partition(".")
    if not (suffix == "py" or suffix == "so" or suffix.endswith(".so")):
        return None
    parts = folders if stem == "__init__" else [*folders, stem]
    return ".".join(parts) if parts and all(part.isidentifier() for part in parts) else None


def closure(names: Iterable[str], leads_to: Callable[[str], Iterable[str]]) -> frozenset[str]:
    """Return these packages and all that they lead to.

    >>> sorted(closure("a", {"a": "b", "b": "ac", "c": "", "d": ""}.__getitem__))
    ['a', 'b', 'c']
    """
    reached: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting += leads_to(name)
    return frozenset(reached)


def read_site(site: Path) -> dict[str, bytes]:
    """Read what is installed in a folder, by path, sorted.

    What only says how it was installed is left out, and programs begin with a line that names no path of this machine.
    """
    paths = sorted(
        path.relative_to(site).as_posix() for path in site.rglob("*") if path.is_file() and not path.is_symlink()
    )
    return {
        path: _portable(path, (site / path).read_bytes())
        for path in paths
        if path.rpartition("/")[2] not in _OF_INSTALLERS and "__pycache__" not in path.split("/")
    }


def _portable(path: str, content: bytes) -> bytes:
    """Return a program with a first line that any machine understands."""
    if not path.startswith("bin/"):
        return content
    line = _LONG_PYTHON.match(content) or _THIS_PYTHON.match(content)
    return PYTHON_LINE + content[line.end() :] if line else content


def is_program(path: str, content: bytes) -> bool:
    """Tell whether a file is a program that a package may start.

    The mode on disk is not asked, since it may be the user's choice.
    """
    is_module = path.endswith(".py") and not path.startswith("bin/")
    return not is_module and content.startswith((b"\x7fELF", b"#!"))


def record(info: str, entries: Iterable[tuple[str, str, int]]) -> bytes:
    """Write a RECORD, the list of a package's files.

    ``entries``: of each file path, SHA-256 in hexadecimal, and size.

    https://packaging.python.org/en/latest/specifications/recording-installed-packages/#the-record-file
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for path, digest, size in sorted(entries):
        hashed = base64.urlsafe_b64encode(bytes.fromhex(digest)).rstrip(b"=").decode()
        writer.writerow((path, f"sha256={hashed}", size))
    writer.writerow((f"{info}/RECORD", "", ""))
    return text.getvalue().encode()


def find_distributions(files: Mapping[str, bytes], markers: Mapping[str, str]) -> dict[str, Distribution]:
    """Return the packages among installed files, by name.

    ``markers``: the environment for which they are.
    """
    infos = [path.removesuffix("/METADATA") for path in files if re.fullmatch(r"[^/]+\.dist-info/METADATA", path)]
    paths = {_name(info): tuple(_recorded(files, info)) for info in infos}
    distributions = {name: Distribution(own) for name, own in paths.items()}
    reader = _Reader(files, distributions, providers(distributions), markers)
    plugins = _plugin_groups(files, infos)
    return {_name(info): reader.distribution(info, plugins) for info in infos}


def _name(info: str) -> str:
    return canonicalize_name(info.removesuffix(".dist-info").rpartition("-")[0])


def _recorded(files: Mapping[str, bytes], info: str) -> list[str]:
    """Return which files are a package's, as its RECORD says."""
    # By RECORD and not by folder: packages of one namespace share folders.
    text = files.get(f"{info}/RECORD", b"").decode("utf-8", "replace")
    rows = {row[0] for row in csv.reader(io.StringIO(text)) if row}
    return sorted(path for path in rows | {path for path in files if path.startswith(f"{info}/")} if path in files)


def _plugin_groups(files: Mapping[str, bytes], infos: Sequence[str]) -> dict[str, list[str]]:
    """Return which packages have plugins, by group of entry points.

    https://packaging.python.org/en/latest/specifications/entry-points/
    """
    groups: dict[str, list[str]] = {}
    for info in infos:
        text = files.get(f"{info}/entry_points.txt", b"").decode("utf-8", "replace")
        for group in re.findall(r"^\[\s*([^\]]+?)\s*\]", text, re.MULTILINE):
            if group not in _PROGRAM_GROUPS:
                groups.setdefault(group, []).append(_name(info))
    return groups


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads what packages lead to."""

    files: Mapping[str, bytes]
    distributions: Mapping[str, Distribution]
    providers: Providers
    markers: Mapping[str, str]

    def distribution(self, info: str, plugins: Mapping[str, Sequence[str]]) -> Distribution:
        """Read what a package leads to."""
        # Imported here since it brings the package email with it, and an unchanged build reads no metadata.
        from packaging.metadata import parse_email

        name = _name(info)
        paths = self.distributions[name].paths
        requires, extras = self._required(parse_email(self.files[f"{info}/METADATA"])[0])
        uses = {*requires, *extras, *self._within(name)}
        for path in paths:
            # Cython's sources, too: what a compiled module imports can be read nowhere else.
            if path.endswith(_SOURCES) and not any(test_folders(path)):
                uses |= self._mentioned(self.files[path], plugins)
        return Distribution(paths, tuple(sorted(requires)), tuple(sorted(uses - {name})))

    def _required(self, metadata: RawMetadata) -> tuple[set[str], set[str]]:
        """Return what a package requires on Lambda, and what with extras.

        Extras for who develops the package do not count.
        """
        extras = [extra for extra in metadata.get("provides_extra", []) if not _FOR_DEVELOPERS.fullmatch(extra.lower())]
        requires: set[str] = set()
        optional: set[str] = set()
        for line in metadata.get("requires_dist", []):
            try:
                requirement = Requirement(line)
            except InvalidRequirement:  # of an old package; uv installed what it could read of it
                continue
            name = str(canonicalize_name(requirement.name))
            if name not in self.distributions:
                continue
            if self._holds(requirement, ""):
                requires.add(name)
            # An extra names a backend that is imported if it is there, such as pyarrow for pandas.
            elif any(self._holds(requirement, extra) for extra in extras):
                optional.add(name)
        return requires, optional

    def _holds(self, requirement: Requirement, extra: str) -> bool:
        return requirement.marker is None or requirement.marker.evaluate({**self.markers, "extra": extra})

    def _within(self, name: str) -> Iterator[str]:
        """Yield who has modules inside the top packages of this one.

        Some plugins do.
        """
        for module, owners in self.providers.modules.items():
            if name in owners and "." not in module:
                yield from self.providers.folders.get(module, ())

    def _mentioned(self, source: bytes, plugins: Mapping[str, Sequence[str]]) -> set[str]:
        """Return who provides the modules that a source names.

        Plugins of groups that it names are among them.
        """
        names: set[bytes] = set()
        for module, modules in _IMPORT.findall(source):
            names.update([module] if module else (words[0] for part in modules.split(b",") if (words := part.split())))
        names.update(_IMPORT_CALL.findall(source), _DOTTED_TEXT.findall(source))
        owners = frozenset[str]().union(*(self.providers.of(name.decode()) for name in names))
        return {*owners, *(one for group, names in plugins.items() if group.encode() in source for one in names)}


def test_folders(path: str) -> Iterator[str]:
    """Yield the folders of tests that a file is in.

    One at the top is none of them: it is a package that somebody may have required.
    """
    parts = path.split("/")[:-1]
    return ("/".join(parts[: place + 1]) for place, part in enumerate(parts) if place and part in _TESTS)


def unimported_tests(files: Mapping[str, bytes]) -> list[str]:
    """Return the folders of tests that nothing needs, sorted.

    No code outside of tests imports them, or names them as modules.
    """
    unimported = {folder for path in files for folder in test_folders(path)}
    waiting = [path for path, content in files.items() if path.endswith(".py") and b"test" in content]
    while waiting:
        outside = [path for path in waiting if not unimported & set(test_folders(path))]
        imported = {folder for path in outside for folder in _tests_of(path, files[path])}
        if not outside:
            break
        unimported = {
            folder for folder in unimported if not any(f"{folder}/".startswith(f"{name}/") for name in imported)
        }
        waiting = [path for path in waiting if path not in set(outside)]
    return sorted(unimported)


def _tests_of(path: str, content: bytes) -> Iterator[str]:
    """Yield the folders of tests that a module imports or names."""
    for match in _IMPORT_OF_TESTS.finditer(content):
        yield from _folders(path, *(group.decode() if group else "" for group in match.groups()))
    for name in _NAME_OF_TESTS.findall(content):
        yield from _folders(path, name.decode(), "x", "")


def _folders(path: str, module: str, names: str, modules: str) -> Iterator[str]:
    """Yield the folders that one line of imports leads to.

    Each is cut after its part for tests.
    """
    level = len(module) - len(module.lstrip("."))
    base = path.split("/")[: -level or None] if level else []
    targets = [[*base, *module.strip(".").split("."), name] for name in re.findall(r"\w+", names)] if module else []
    targets += [name.split(".") for name in re.findall(r"[\w.]+", modules)]
    for target_parts in targets:
        parts = [part for part in target_parts if part]
        for place, part in enumerate(parts):
            if place and part in _TESTS:
                yield "/".join(parts[: place + 1])
