"""Checksums of the files that an emulated run leaves.

They are written as AWS writes them, and so have no checksums inside.
"""

from __future__ import annotations

from collections.abc import Buffer, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from lokki.errors import StoreError, damaged
from lokki.local_run.folder import CHECKSUMS, LOCK, LOG, RECORD
from lokki.local_run.seal import Seal
from lokki.store.codec import checksum_of
from lokki.store.local import LocalStore

_GROWING = {CHECKSUMS, RECORD, LOCK, LOG}
"""Files that have a checksum of their own, or are written to after the run."""

_AGAIN = "Emulate it again, as a new run."


@dataclass(frozen=True, slots=True)
class Checksums:
    """The checksums of a run's files by path.

    Of a run that was killed there are none, and nothing is checked.
    """

    folder: Path
    by_path: Mapping[str, int] = field(default_factory=dict)

    def check(self, path: str, content: Buffer) -> None:
        """Raise StoreError for content that is not what the run left there."""
        checksum = self.by_path.get(path)
        if checksum is not None and checksum != checksum_of(content):
            raise damaged(f"{self.folder / path} is damaged: it was changed, or is the file of another run", _AGAIN)


def write_checksums(folder: Path, seal: Seal) -> None:
    """Note the checksums of all files of a run that has ended."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    names = {path.relative_to(folder).as_posix(): path for path in files}
    checksums = {name: checksum_of(path.read_bytes()) for name, path in names.items() if name not in _GROWING}
    text = seal.close(CHECKSUMS, msgspec.json.format(msgspec.json.encode({"crc32": checksums}), indent=2))
    LocalStore(folder).write(CHECKSUMS, [text])


def take_checksums(folder: Path, seal: Seal) -> None:
    """Check all files of a run that is resumed, and remove the checksums.

    Raises StoreError for a file that is damaged.
    """
    checksums = read_checksums(folder, seal)
    for name in checksums.by_path:
        try:
            content = (folder / name).read_bytes()
        except OSError as error:
            raise damaged(f"{folder / name} cannot be read: {error.strerror}", _AGAIN) from error
        checksums.check(name, content)
    (folder / CHECKSUMS).unlink(missing_ok=True)


def read_checksums(folder: Path, seal: Seal) -> Checksums:
    """Read the checksums of a run.

    Raises StoreError when they are damaged themselves.
    """
    path = folder / CHECKSUMS
    try:
        content = seal.open(CHECKSUMS, path.read_bytes(), str(path))
        return Checksums(folder, msgspec.json.decode(content, type=dict[str, dict[str, int]])["crc32"])
    except FileNotFoundError:
        return Checksums(folder)
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}. {_AGAIN}") from error
    except (ValueError, KeyError) as error:  # msgspec's errors are ValueErrors
        raise damaged(f"{path} is damaged: {error}", _AGAIN) from None
