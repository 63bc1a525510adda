"""Which versions of packages a flow's requirements come to on Lambda."""

from __future__ import annotations

import importlib.metadata
import re
import sys
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import msgspec

from lokki.builder.package_types import LAMBDA_PYTHON, LAMBDA_PYTHON_TEXT, BuildError
from lokki.builder.packages.import_check import ON_LAMBDA_MODULES
from lokki.builder.requirements.cache import cache_key, read_entry, write_entry
from lokki.builder.requirements.find import Requirements
from lokki.builder.requirements.origins import (
    Origins,
    file_reference,
    index_of,
    inputs_for_uv,
    is_for_extra,
    normalize_name,
    parse_requirement,
    reference_of,
    requirement_name,
)
from lokki.builder.requirements.uv import NO_WHEEL, Uv

RUNTIME: Final = ("isal", "msgspec", "obstore")
"""What lokki itself needs on Lambda."""

ON_LAMBDA: Final = frozenset(map(normalize_name, ON_LAMBDA_MODULES))
"""Packages that Lambda's Python has."""

PLATFORMS: Final = {"x86_64": "x86_64-manylinux_2_34", "arm64": "aarch64-manylinux_2_34"}
"""What uv calls Lambda's machines: Python 3.12 and later run on Amazon Linux 2023, which has glibc 2.34.
https://docs.aws.amazon.com/linux/al2023/ug/core-glibc.html"""

# What uv says of packages that it would have to build, which it must not unless it is told so.
_UNBUILT = re.compile(r"Wheels are required for `([^`]+)`|attempted to build `([^`=@ ]+)")


@dataclass(frozen=True, slots=True)
class Resolved:
    """The version of each package for one platform.

    - ``pins``: sorted, as lines of a requirements.txt
    - ``platform``: as uv calls it
    - ``note``: what to tell the user of them, or ""
    - ``built``: names of packages that have no wheel and are built here, since they are nothing but Python
    - ``elsewhere``: the pins that the project does not take from the public index, with the index that it takes them
      from, or "" for those that are made or found on this machine
    - ``origins``: how uv finds these
    """

    pins: tuple[str, ...]
    platform: str
    note: str = ""
    built: tuple[str, ...] = ()
    elsewhere: Mapping[str, str] = field(default_factory=dict)
    origins: Origins = field(default_factory=Origins)

    def of_index(self, index: str | None) -> Resolved:
        """Return only what comes from an index.

        None is the public one, "" this machine.
        """
        return self._with(tuple(pin for pin in self.pins if self.elsewhere.get(pin) == index))

    def only(self, names: Container[str]) -> Resolved:
        """Return only the packages of these names."""
        return self._with(tuple(pin for pin in self.pins if requirement_name(pin) in names))

    def _with(self, pins: tuple[str, ...]) -> Resolved:
        elsewhere = {pin: place for pin, place in self.elsewhere.items() if pin in pins}
        names = {requirement_name(pin) for pin in pins}
        return replace(self, pins=pins, built=tuple(name for name in self.built if name in names), elsewhere=elsewhere)

    def files_for(self, packages: str) -> dict[str, bytes]:
        """Return the files of requirements of a package, by name.

        An image has one for each index, a zip one in all.
        """
        if packages == "zip":
            return {"requirements.txt": self.text.encode()}
        indexes = sorted(set(self.elsewhere.values()) - {""})
        return {
            "requirements.txt": self.of_index(None).text.encode(),
            **{
                f"requirements-{number}.txt": f"--index-url {index}\n{self.of_index(index).text}".encode()
                for number, index in enumerate(indexes, 1)
            },
        }

    @property
    def text(self) -> str:
        """The content of a requirements.txt, without passwords.

        A file of this machine is there by its name alone.
        """
        lines = (re.sub(r"file:///(.*/)?", "", pin) for pin in self.pins)
        return "".join(f"{re.sub(r'(https?://)[^/@]*@', r'\1', line)}\n" for line in lines)


def resolve(requirements: Requirements, extra: Sequence[str], architecture: str, uv: Uv, cache: Path) -> Resolved:
    """Find the version for Lambda of each package that is required.

    What lokki itself and ``extra`` require is among them. The versions are those installed here wherever that is
    possible, so that what ran here runs there. Raises BuildError when there are none.
    """
    lines = [*requirements.lines, *_runtime_requirements(), *extra]
    installed = installed_versions()
    preferred = RUNTIME if requirements.locked else installed
    constraints = [f"{name}=={installed[name]}" for name in sorted(preferred) if name in installed]
    fixed = list(requirements.constraints)
    origins = requirements.origins
    question = _Question(lines, [*fixed, *constraints], PLATFORMS[architecture], origins)
    place = (
        cache / "resolved" / cache_key("resolve 3", lines, question.constraints, fixed, question.platform, origins.key)
    )
    content = read_entry(place)
    if content is None:
        try:
            # First with the versions installed here; where they do not fit Lambda, with any.
            answer = _answer(question, uv)
        except BuildError:
            answer = _answer(replace(question, constraints=fixed), uv)
        content = msgspec.json.encode([answer.pins, answer.built, answer.elsewhere])
        write_entry(place, content)
    pins, built, elsewhere = msgspec.json.decode(content, type=tuple[tuple[str, ...], tuple[str, ...], dict[str, str]])
    names = [name for name, version in map(_split_pin, pins) if installed.get(name, version) != version]
    note = f"other versions than here: {', '.join(names)}" if names else ""
    return Resolved(pins, question.platform, note, built, elsewhere, origins)


def check_imports(foreign: Mapping[str, str], resolved: Resolved, step: str) -> None:
    """Refuse modules that are always imported and that nothing provides.

    Raises BuildError. boto3 is on Lambda without being packaged.

    - ``foreign``: modules of others, each with the file that imports it
    - ``step``: whose package it is
    """
    pinned = {_split_pin(pin)[0] for pin in resolved.pins} | ON_LAMBDA
    unknown = [module for module in sorted(foreign) if normalize_name(module) not in pinned]
    providers = importlib.metadata.packages_distributions() if unknown else {}
    missing = [
        module for module in unknown if not {normalize_name(name) for name in providers.get(module, [])} & pinned
    ]
    if missing:
        imports = ", ".join(f"{foreign[module]} imports {module}" for module in missing)
        names = ", ".join(min(providers.get(module, [module])) for module in missing)
        raise BuildError(
            f"{imports}, which nothing that {step}() requires provides, so its function could not start. "
            f"Add to the project's pyproject.toml, or to a requirements.txt beside the flow: {names}."
        )


def installed_versions() -> dict[str, str]:
    """Return the version of each package installed here, by name.

    Those that are not from an index are left out.
    """
    versions: dict[str, str] = {}
    for entry in sys.path:
        for info in sorted(Path(entry or ".").glob("*.dist-info")):
            name, _, version = info.name.removesuffix(".dist-info").rpartition("-")
            # A local version such as 2.5.1+cpu, and what came from a folder, no index has.
            if "+" not in version and not (info / "direct_url.json").exists():
                versions.setdefault(normalize_name(name), version)
    return versions


@dataclass(frozen=True, slots=True)
class _Question:
    """What uv is asked.

    - ``lines``: requirements
    - ``constraints``: bounds of their versions
    - ``origins``: where packages come from
    """

    lines: Sequence[str]
    constraints: Sequence[str]
    platform: str
    origins: Origins


def _answer(question: _Question, uv: Uv) -> Resolved:
    """Ask uv for versions.

    They are of wheels, and where there is none, of what can be built since it is nothing but Python.
    """
    built: set[str] = set()
    while True:
        try:
            answer = _compile(question, built, uv)
        except BuildError as error:
            missing = {normalize_name(name) for match in _UNBUILT.findall(str(error)) for name in match if name} - built
            # uv names only the packages at which it stopped; it is asked again until it names no new one.
            if not missing:
                raise
            built |= missing
            continue
        if answer.built:
            _check_built(answer, uv)
        return answer


def _compile(question: _Question, built: set[str], uv: Uv) -> Resolved:
    """Ask uv once.

    ``built``: names of packages that it may build.
    """
    origins = question.origins
    with TemporaryDirectory() as temporary:
        bounds = Path(temporary) / "constraints.txt"
        bounds.write_text("".join(f"{line}\n" for line in question.constraints), "utf-8")
        printed = uv.run(
            [
                "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--emit-index-annotation",
                "--python", sys.executable, *target(question.platform, built), *origins.arguments,
                "--constraints", str(bounds), *_input_files(question.lines, origins, Path(temporary)),
            ],
            origins.folder,
            "Finding versions for Lambda of what the flow requires",
        )  # fmt: skip
    pins = dict(_read_pins(printed))
    indexes = {pin: index_of(pin, place, origins) for pin, place in pins.items()}
    elsewhere = {pin: index for pin, index in sorted(indexes.items()) if index is not None}
    built_pins = {pin: "" for pin in sorted(pins) if _is_source(pin) or requirement_name(pin) in built}
    names = tuple(map(requirement_name, built_pins))
    return Resolved(
        tuple(sorted(pins)), question.platform, built=names, elsewhere=elsewhere | built_pins, origins=origins
    )


def _input_files(lines: Sequence[str], origins: Origins, folder: Path) -> list[str]:
    """Write requirements as files for uv, and return their paths."""
    files = inputs_for_uv(lines, origins)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return [str(folder / name) for name in files]


def _read_pins(printed: str) -> Iterator[tuple[str, str]]:
    """Yield each pin that uv printed, with the index that it is from.

    uv names that on the line after the pin.
    """
    lines = [*map(str.strip, printed.splitlines()), ""]
    for line, comment in pairwise(lines):
        if line and not line.startswith(("#", "-")):
            pin = file_reference(Path(line)) if line.startswith("/") else line
            yield pin, comment.removeprefix("# from ") if comment.startswith("# from ") else ""


def _is_source(pin: str) -> bool:
    """Tell whether a pin is a reference to what is no wheel.

    Such as a repository or an archive.
    """
    reference = reference_of(pin).partition("#")[0]
    return bool(reference) and not reference.endswith(".whl")


def _check_built(answer: Resolved, uv: Uv) -> None:
    """Build what has to be built, to see that it is nothing but Python.

    Raises BuildError for anything else, since Lambda is another machine.

    https://packaging.python.org/en/latest/specifications/binary-distribution-format/#file-contents
    """
    pins = tuple(pin for pin in answer.pins if requirement_name(pin) in answer.built)
    with TemporaryDirectory() as temporary:
        site = Path(temporary) / "site"
        install(replace(answer, pins=pins), site, uv)
        for wheel in sorted(site.glob("*.dist-info/WHEEL")):
            tags = re.findall(r"^Tag: (\S+)", wheel.read_text("utf-8"), re.MULTILINE)
            if not all(tag.endswith("-any") for tag in tags):
                name, _, version = wheel.parent.name.removesuffix(".dist-info").rpartition("-")
                raise BuildError(
                    f"{name} {version} has no wheel for Lambda's Python {LAMBDA_PYTHON_TEXT} on this architecture, and "
                    f"what was built of it here runs only on machines like this one. {NO_WHEEL}"
                )


def install(resolved: Resolved, site: Path, uv: Uv) -> None:
    """Install pins for Lambda into a new folder.

    Raises BuildError when uv cannot.
    """
    site.mkdir()
    with TemporaryDirectory() as temporary:
        files = _input_files(resolved.pins, resolved.origins, Path(temporary))
        uv.run(
            [
                "pip", "install", "--quiet", "--no-deps", "--python", sys.executable, "--link-mode", "hardlink",
                *target(resolved.platform, resolved.built), *resolved.origins.arguments, "--target", str(site),
                *(argument for file in files for argument in ("--requirements", file)),
            ],
            resolved.origins.folder,
            "Installing for Lambda what the flow requires",
        )  # fmt: skip


def target(platform: str, built: Iterable[str] = ()) -> list[str]:
    """Return the options by which uv takes what runs on Lambda.

    It builds nothing but the packages named by ``built``.
    """
    version = ".".join(map(str, LAMBDA_PYTHON))
    wheels = ["--only-binary", ":all:", *(f"--no-binary={name}" for name in sorted(built))]
    return ["--python-platform", platform, "--python-version", version, *wheels]


def marker_environment(platform: str) -> dict[str, str]:
    """Return what markers of requirements are compared with on Lambda.

    Names are those of PEP 508.

    https://packaging.python.org/en/latest/specifications/dependency-specifiers/#environment-markers
    """
    version = ".".join(map(str, LAMBDA_PYTHON))
    return {
        "implementation_name": "cpython",
        "implementation_version": f"{version}.0",
        "os_name": "posix",
        "platform_machine": platform.partition("-")[0],
        "platform_python_implementation": "CPython",
        "platform_release": "",
        "platform_system": "Linux",
        "platform_version": "",
        "python_full_version": f"{version}.0",
        "python_version": version,
        "sys_platform": "linux",
    }


def _runtime_requirements() -> list[str]:
    """Return what lokki requires on Lambda, as its metadata has it.

    https://packaging.python.org/en/latest/specifications/core-metadata/#requires-dist-multiple-use
    """
    # importlib.metadata.requires() gives the same, and imports Python's e-mail package for it: 6 ms.
    metadata = importlib.metadata.distribution("lokki").read_text("METADATA") or ""
    lines = re.findall(r"^Requires-Dist: (.+)$", metadata.partition("\n\n")[0], re.MULTILINE)
    return [line for line in lines if requirement_name(line) in RUNTIME and not is_for_extra(line)]


def _split_pin(pin: str) -> tuple[str, str]:
    """Return name and version of a pin.

    A reference has no version, which is "" then.
    """
    requirement = parse_requirement(pin)
    if requirement is None:
        return "", ""
    return normalize_name(requirement.name), next((bound.version for bound in requirement.specifier), "")
