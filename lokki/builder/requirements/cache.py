"""lokki's cache of what building found out.

Each entry is there whole or not at all, whoever else writes it.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from tempfile import TemporaryDirectory


def write_entry(path: Path, content: bytes) -> None:
    """Write an entry of the cache, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # In a folder of its own beside the entry: other builds may write the same entry at this moment.
    with TemporaryDirectory(dir=path.parent) as folder:
        temporary = Path(folder) / "new"
        temporary.write_bytes(content)
        temporary.replace(path)


def read_entry(file: Path) -> bytes | None:
    """Return the content of an entry, None if it is not there."""
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return None


def cache_key(*parts: object) -> str:
    """Return a name for the entry that JSON-like values decide."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
