"""Packages made for a test, which uv installs from a folder, without an index."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path

from lokki.builder.uv import Uv


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


def offline_uv(wheels: Path, cache: Path) -> Uv:
    """Return a uv that knows the wheels of a folder and nothing else."""
    return Uv({**os.environ, "UV_FIND_LINKS": str(wheels), "UV_NO_INDEX": "1", "UV_CACHE_DIR": str(cache)})
