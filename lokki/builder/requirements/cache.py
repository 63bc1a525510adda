"""lokki's cache of what building found out: each entry is there whole or not at all."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from tempfile import TemporaryDirectory


def write_whole(path: Path, content: bytes) -> None:
    """Write a file of the cache so that it is there whole or not at all, whoever else writes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=path.parent) as folder:
        temporary = Path(folder) / "new"
        temporary.write_bytes(content)
        temporary.replace(path)


def read_kept(file: Path) -> bytes | None:
    """Return the content of a file of the cache, if it is there."""
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return None


def cache_key(*parts: object) -> str:
    """Return a name for what JSON-like values decide."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
