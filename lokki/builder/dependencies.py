"""What a flow requires beyond itself: where that is written, and which versions it comes to on Lambda."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from lokki.builder.archive import LAMBDA_PYTHON
from lokki.builder.package_types import BuildError
from lokki.builder.uv import Uv

RUNTIME: Final = ("isal", "msgspec", "obstore")
"""What lokki itself needs on Lambda."""

ON_LAMBDA: Final = frozenset({"boto3", "botocore", "s3transfer", "jmespath", "awslambdaric"})
"""What Lambda's Python has. https://docs.aws.amazon.com/lambda/latest/dg/lambda-python.html"""

# The oldest glibc of Lambda's Python 3.13 is that of Amazon Linux 2023, 2.34; current wheels are made for 2.28.
PLATFORMS: Final = {"x86_64": "x86_64-manylinux_2_28", "arm64": "aarch64-manylinux_2_28"}

_NAME = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)")
# https://packaging.python.org/en/latest/specifications/inline-script-metadata/
_SCRIPT = re.compile(r"(?m)^# /// script[ \t]*$\n(?P<content>(?:^#(?: .*)?$\n)+?)^# ///[ \t]*$")


@dataclass(frozen=True, slots=True)
class Requirements:
    """Lines as in a requirements.txt; ``folder``: where they hold; ``source``: what to tell the user of them.

    ``locked``: they name the exact version of everything, so that the versions installed here do not matter.
    """

    lines: tuple[str, ...] = ()
    constraints: tuple[str, ...] = ()
    folder: Path = field(default_factory=Path)
    source: str = "nothing beyond lokki"
    locked: bool = False


@dataclass(frozen=True, slots=True)
class Resolved:
    """Each package with its version for one platform, sorted; ``note``: what to tell the user of them."""

    pins: tuple[str, ...]
    platform: str
    note: str = ""

    @property
    def text(self) -> str:
        """The content of a requirements.txt."""
        return "".join(f"{pin}\n" for pin in self.pins)


def find_requirements(flow_file: Path, uv: Uv, cache: Path) -> Requirements:
    """Return what a flow requires: by script metadata in its file, or the nearest pyproject.toml or requirements.txt.

    With a uv.lock, the versions are those that it locks. lokki is left out: it is in every package as it is here.
    Raises BuildError for a file that cannot be read.
    """
    script = _script_requirements(flow_file)
    if script is not None:
        return Requirements(_without_lokki(script), (), flow_file.parent, f"the script metadata of {flow_file.name}")
    for folder in flow_file.parents:
        project = _project_table(folder / "pyproject.toml")
        if project is not None:
            return _project_requirements(project, folder, uv, cache)
        if (folder / "requirements.txt").is_file():
            lines, constraints = _requirement_lines(folder / "requirements.txt", ())
            return Requirements(_without_lokki(lines), tuple(constraints), folder, "requirements.txt")
        if (folder / ".git").exists():
            break
    return Requirements(folder=flow_file.parent)


def resolve(requirements: Requirements, extra: Sequence[str], architecture: str, uv: Uv, cache: Path) -> Resolved:
    """Find the version of each package that the requirements, lokki's own and the extra ones come to on Lambda.

    They are the versions installed here wherever that is possible, so that what ran here runs there. Raises BuildError
    when there are none.
    """
    platform = PLATFORMS[architecture]
    lines = [*requirements.lines, *_runtime_requirements(), *extra]
    installed = installed_versions()
    wanted = RUNTIME if requirements.locked else installed
    constraints = [f"{name}=={installed[name]}" for name in sorted(wanted) if name in installed]
    fixed = list(requirements.constraints)
    place = cache / "resolved" / _key("resolve", platform, lines, constraints, fixed, _settings(requirements.folder))
    pins = _kept(place)
    if pins is None:
        try:
            pins = _compile(lines, [*fixed, *constraints], platform, requirements.folder, uv)
        except BuildError:
            pins = _compile(lines, fixed, platform, requirements.folder, uv)
        write_whole(place, "".join(f"{pin}\n" for pin in pins).encode())
    names = [name for name, version in map(_split_pin, pins) if installed.get(name, version) != version]
    return Resolved(tuple(pins), platform, f"other versions than here: {', '.join(names)}" if names else "")


def check_imports(foreign: Mapping[str, str], resolved: Resolved, step: str) -> None:
    """Raise BuildError for modules that the project imports in any case, and that nothing in the package provides.

    ``foreign``: such modules, each with the file that imports it. boto3 is on Lambda without being packaged.
    """
    pinned = {_split_pin(pin)[0] for pin in resolved.pins} | ON_LAMBDA
    unknown = [module for module in sorted(foreign) if normalized(module) not in pinned]
    providers = importlib.metadata.packages_distributions() if unknown else {}
    missing = [module for module in unknown if not {normalized(name) for name in providers.get(module, [])} & pinned]
    if missing:
        imports = ", ".join(f"{foreign[module]} imports {module}" for module in missing)
        names = ", ".join(min(providers.get(module, [module])) for module in missing)
        raise BuildError(
            f"{imports}, which nothing that {step}() requires provides, so its function could not start. "
            f"Add to the project's pyproject.toml, or to a requirements.txt beside the flow: {names}."
        )


def installed_versions() -> dict[str, str]:
    """Return the version of each package installed here, by normalized name, but those not from an index."""
    versions: dict[str, str] = {}
    for entry in sys.path:
        for info in sorted(Path(entry or ".").glob("*.dist-info")):
            name, _, version = info.name.removesuffix(".dist-info").rpartition("-")
            if "+" not in version and not (info / "direct_url.json").exists():
                versions.setdefault(normalized(name), version)
    return versions


def normalized(name: str) -> str:
    """Return the one spelling of a package's name. https://peps.python.org/pep-0503/#normalized-names"""
    return re.sub(r"[-_.]+", "-", name).lower()


def write_whole(path: Path, content: bytes) -> None:
    """Write a file of the cache so that it is there whole or not at all, whoever else writes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=path.parent) as folder:
        temporary = Path(folder) / "new"
        temporary.write_bytes(content)
        temporary.replace(path)


def _compile(lines: Iterable[str], constraints: Iterable[str], platform: str, folder: Path, uv: Uv) -> list[str]:
    with TemporaryDirectory() as temporary:
        given, bounds = Path(temporary) / "requirements.in", Path(temporary) / "constraints.txt"
        given.write_text("".join(f"{line}\n" for line in lines), "utf-8")
        bounds.write_text("".join(f"{line}\n" for line in constraints), "utf-8")
        printed = uv.run(
            [
                "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--python", sys.executable,
                *target(platform), "--constraints", str(bounds), str(given),
            ],
            folder,
            "Finding versions for Lambda of what the flow requires",
        )  # fmt: skip
    return sorted(line.strip() for line in printed.splitlines() if line.strip() and not line.startswith(("#", "-")))


def target(platform: str) -> list[str]:
    """Return the options by which uv takes what runs on Lambda."""
    version = ".".join(map(str, LAMBDA_PYTHON))
    return ["--python-platform", platform, "--python-version", version, "--only-binary", ":all:"]


def _runtime_requirements() -> list[str]:
    """Return lokki's requirements of what it needs on Lambda, as its own metadata has them.

    https://packaging.python.org/en/latest/specifications/core-metadata/#requires-dist-multiple-use
    """
    # importlib.metadata.requires() gives the same, and imports Python's e-mail package for it: 6 ms.
    metadata = importlib.metadata.distribution("lokki").read_text("METADATA") or ""
    required = re.findall(r"^Requires-Dist: (.+)$", metadata.partition("\n\n")[0], re.MULTILINE)
    return [line for line in required if "extra ==" not in line and _requirement_name(line) in RUNTIME]


def _script_requirements(file: Path) -> list[str] | None:
    blocks = list(_SCRIPT.finditer(file.read_text("utf-8")))
    if not blocks:
        return None
    lines = blocks[0].group("content").splitlines()
    content = "\n".join(line.removeprefix("#").removeprefix(" ") for line in lines)
    return _strings(_toml(content, f"the script metadata of {file}").get("dependencies", []), str(file))


def _project_table(file: Path) -> Mapping[str, object] | None:
    if not file.is_file():
        return None
    project = _toml(file.read_text("utf-8"), str(file)).get("project")
    return project if isinstance(project, dict) else None


def _project_requirements(project: Mapping[str, object], folder: Path, uv: Uv, cache: Path) -> Requirements:
    if project.get("name") == "lokki":
        return Requirements(folder=folder)  # lokki's own examples
    lock = next((above / "uv.lock" for above in (folder, *folder.parents) if (above / "uv.lock").is_file()), None)
    if lock is not None:
        lines = _exported(lock, folder, uv, cache)
        return Requirements(lines, (), folder, "pyproject.toml, as uv.lock has it", locked=True)
    lines = _without_lokki(_strings(project.get("dependencies", []), str(folder / "pyproject.toml")))
    return Requirements(lines, (), folder, "pyproject.toml")


def _exported(lock: Path, folder: Path, uv: Uv, cache: Path) -> tuple[str, ...]:
    """Return what a uv.lock locks for a project, without lokki and what only lokki needs."""
    place = cache / "exported" / _key("export", lock.read_text("utf-8"), _settings(folder))
    lines = _kept(place)
    if lines is None:
        options = ["--frozen", "--no-default-groups", "--no-emit-local", "--no-emit-workspace", "--prune", "lokki"]
        style = ["--no-hashes", "--no-header", "--no-annotate", "--quiet"]
        printed = uv.run(["export", *options, *style], folder, f"Reading {lock}")
        lines = [line for line in printed.splitlines() if line and not line.startswith("#")]
        write_whole(place, "".join(f"{line}\n" for line in lines).encode())
    return tuple(lines)


def _requirement_lines(file: Path, within: tuple[Path, ...]) -> tuple[list[str], list[str]]:
    """Read a requirements.txt and those that it names; return requirements and constraints.

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
        if not content or re.match(r"(-e|--editable)\b|\.\.?(/|$)", content):
            continue  # the project's own code is packaged as what the flow imports
        other = re.fullmatch(r"(-r|--requirement|-c|--constraint)[= ]?\s*(\S+)", content)
        if other is None:
            lines.append(content)
            continue
        more, bounds = _requirement_lines(file.parent / other[2], (*within, file))
        constraints += bounds if other[1] in ("-r", "--requirement") else [*more, *bounds]
        lines += more if other[1] in ("-r", "--requirement") else []
    return lines, constraints


def _without_lokki(lines: Iterable[str]) -> tuple[str, ...]:
    return tuple(line for line in lines if _requirement_name(line) != "lokki")


def _requirement_name(line: str) -> str:
    match = _NAME.match(line)
    return normalized(match[1]) if match else ""


def _split_pin(pin: str) -> tuple[str, str]:
    name, _, version = pin.partition("==")
    return _requirement_name(name), version.partition(" ")[0]


def _toml(text: str, source: str) -> dict[str, object]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BuildError(f"{source} is not valid TOML: {error}. Correct it.") from None


def _strings(value: object, source: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(member, str) for member in value):
        raise BuildError(f"{source}: dependencies must be a list of texts. Correct it.")
    return value


def _settings(folder: Path) -> list[str]:
    """Return the content of the files whose settings uv follows in a folder."""
    return list(_texts(folder / name for name in ("pyproject.toml", "uv.toml")))


def _texts(files: Iterable[Path]) -> Iterator[str]:
    for file in files:
        if file.is_file():
            yield file.read_text("utf-8")


def _key(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _kept(file: Path) -> list[str] | None:
    """Return the lines of a file of the cache, if it is there."""
    try:
        return file.read_text("utf-8").splitlines()
    except FileNotFoundError:
        return None
