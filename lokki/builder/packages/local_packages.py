"""Packages that are installed from folders of this machine, which no index has.

Their code is packaged as the flow imports it, like the project's own; with their metadata ``importlib.metadata`` knows
them in a package as it does here. https://packaging.python.org/en/latest/specifications/direct-url/
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from packaging.utils import canonicalize_name

# Requirements name folders of this machine where a project does: "birds @ file:///home/…".
_FOLDER = re.compile(rb"(?m)^(Requires-Dist: [^@;\n]*?)\s*@ file:[^;\n]*")


@dataclass(frozen=True, slots=True)
class LocalPackage:
    """A package that is installed from a folder of this machine.

    - ``info``: its ``dist-info``
    - ``root``: the folder
    - ``places``: for an editable one, where its modules may be
    - ``copied``: for any other, its files in the environment
    """

    info: Path
    root: Path
    places: tuple[Path, ...] = ()
    copied: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        """The name, as its metadata spells it."""
        return self.info.name.removesuffix(".dist-info").rpartition("-")[0]

    def owned(self, paths: Iterable[str]) -> list[str]:
        """Return the paths of a package that are of this one's files."""
        return sorted(
            path for path in paths if path in self.copied or any((place / path).is_file() for place in self.places)
        )

    def metadata(self, owned: Iterable[str]) -> dict[str, bytes]:
        """Return its metadata as files, by package path.

        It tells nothing of this machine, or of the tool that installed it.
        """
        names = ("METADATA", "entry_points.txt", "top_level.txt")
        licenses = [path for path in sorted((self.info / "licenses").rglob("*")) if path.is_file()]
        files = [*(self.info / name for name in names if (self.info / name).is_file()), *licenses]
        folder = self.info.name
        contents = {
            f"{folder}/{file.relative_to(self.info).as_posix()}": _portable(file.read_bytes()) for file in files
        }
        # Without hashes, since packages of other steps have other bodies in these files.
        rows = sorted([*owned, *contents, f"{folder}/RECORD"])
        return {**contents, f"{folder}/RECORD": "".join(f"{path},,\n" for path in rows).encode()}


def local_packages(path: Iterable[str]) -> Iterator[LocalPackage]:
    """Yield what is installed from folders, by the entries of ``sys.path``.

    lokki is not among them: its files are in every package, without metadata.
    """
    for entry in dict.fromkeys(path):
        site = Path(entry or ".")
        for file in sorted(site.glob("*.dist-info/direct_url.json")):
            if file.parent.name.startswith("lokki-"):
                continue
            match json.loads(file.read_bytes()):
                case {"url": str(url), "dir_info": {"editable": True}}:
                    root = _folder_of(url)
                    yield LocalPackage(file.parent, root, (root, root / "src", *_linked(site, file.parent)))
                case {"url": str(url), "dir_info": dict()}:
                    yield LocalPackage(file.parent, _folder_of(url), copied=frozenset(_recorded(file.parent)))


def own_metadata(path: Iterable[str], files: Mapping[str, bytes], flow_file: Path) -> dict[str, bytes]:
    """Return the metadata to pack with the project's files, by package path.

    It is that of each package on ``path`` that is installed from a folder, if the flow is in it, if files are its, or
    if a module names it in a text.
    """
    metadata: dict[str, bytes] = {}
    sources = b"\n".join(content for name, content in files.items() if name.endswith(".py"))
    for package in local_packages(path):
        owned = package.owned(files)
        if owned or flow_file.is_relative_to(package.root) or _is_named(package.name, sources):
            metadata |= package.metadata(owned)
    return metadata


def _folder_of(url: str) -> Path:
    return Path(unquote(urlsplit(url).path)).resolve()


def _portable(content: bytes) -> bytes:
    return _FOLDER.sub(rb"\1", content)


def _is_named(name: str, sources: bytes) -> bool:
    texts = re.findall(rb"""["']([A-Za-z0-9][A-Za-z0-9._-]*)["']""", sources)
    return canonicalize_name(name) in {canonicalize_name(text.decode()) for text in texts}


def _linked(site: Path, info: Path) -> Iterator[Path]:
    """Yield the folders that an editable package puts on Python's path.

    https://docs.python.org/3/library/site.html
    """
    for name in _recorded(info):
        if name.endswith(".pth") and (site / name).is_file():
            lines = (site / name).read_text("utf-8").splitlines()
            yield from (Path(line) for line in lines if line and not line.startswith(("#", "import ", "import\t")))


def _recorded(info: Path) -> list[str]:
    record = info / "RECORD"
    return [row[0] for row in csv.reader(record.read_text("utf-8").splitlines()) if row] if record.is_file() else []
