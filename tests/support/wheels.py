"""Packages made for a test, which uv installs from a folder, without an index."""

from __future__ import annotations

import io
import os
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

from lokki.builder.requirements.uv import Uv


def make_wheel(folder: Path, name: str, files: Mapping[str, str | bytes], version: str = "1.0") -> str:
    """Write a wheel of pure Python and return what pins it."""
    folder.mkdir(exist_ok=True)
    info = f"{name}-{version}.dist-info"
    metadata = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/licenses/LICENSE": "Anybody may do anything.\n",
    }
    contents = {**files, **metadata}
    record = "".join(f"{path},,\n" for path in [*contents, f"{info}/RECORD"])
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        for path, content in {**contents, f"{info}/RECORD": record}.items():
            wheel.writestr(path, content)
    return f"{name}=={version}"


# Builds offline: its backend is in the archive and needs nothing.
_BACKEND = """
import os, zipfile
NAME, VERSION, TAG, MODULE = {name!r}, "1.0", {tag!r}, {module!r}

def build_wheel(folder, config_settings=None, metadata_directory=None):
    info = f"{{NAME}}-{{VERSION}}.dist-info"
    files = {{
        f"{{NAME}}.py": MODULE,
        f"{{info}}/METADATA": f"Metadata-Version: 2.1\\nName: {{NAME}}\\nVersion: {{VERSION}}\\n",
        f"{{info}}/WHEEL": f"Wheel-Version: 1.0\\nGenerator: tests\\nRoot-Is-Purelib: true\\nTag: {{TAG}}\\n",
    }}
    wheel = f"{{NAME}}-{{VERSION}}-{{TAG}}.whl"
    with zipfile.ZipFile(os.path.join(folder, wheel), "w") as archive:
        for path, content in files.items():
            archive.writestr(path, content)
        archive.writestr(f"{{info}}/RECORD", "".join(f"{{path}},,\\n" for path in [*files, f"{{info}}/RECORD"]))
    return wheel
"""


def project_files(name: str, module: str, tag: str = "py3-none-any") -> dict[str, str]:
    """Return the files of a project of one module, which is built to a wheel of this tag."""
    return {
        "pyproject.toml": (
            f'[project]\nname = "{name}"\nversion = "1.0"\n[build-system]\nrequires = []\n'
            'build-backend = "backend"\nbackend-path = ["."]\n'
        ),
        "backend.py": _BACKEND.format(name=name, tag=tag, module=module),
        "PKG-INFO": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
    }


def make_sdist(folder: Path, name: str, module: str, tag: str = "py3-none-any") -> None:
    """Write an archive of sources of version 1.0, which is built to a wheel of this tag."""
    folder.mkdir(exist_ok=True)
    with tarfile.open(folder / f"{name}-1.0.tar.gz", "w:gz") as archive:
        for path, text in project_files(name, module, tag).items():
            member = tarfile.TarInfo(f"{name}-1.0/{path}")
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))


def offline_uv(wheels: Path, cache: Path) -> Uv:
    """Return a uv that knows the wheels of a folder and nothing else."""
    return Uv({**os.environ, "UV_FIND_LINKS": str(wheels), "UV_NO_INDEX": "1", "UV_CACHE_DIR": str(cache)})
