"""Checksums that bind the files of a run to that run and to their place in it.

So a file is noticed, when it is read, that was changed or cut short, that is another run's, or another file of the same
run. A checksum goes on from one of the run and the file's key, so it takes no other bytes than its own. Files that
people read, JSON objects all of them, have it as their last member.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass

from lokki.errors import damaged

_AGAIN = "Run the step that wrote it again."
_CHECKSUM = re.compile(rb'\s*,\s*"checksum":\s*"([0-9a-f]{8})"\s*\}\s*\Z')


@dataclass(frozen=True, slots=True)
class Seal:
    """What the files of one run are bound to.

    ``required``: whether a file without a checksum is refused; the first lokki wrote none.
    """

    run_id: str
    started: str = ""
    required: bool = True

    def start(self, key: str) -> int:
        """Return what the checksum of a file of the run goes on from.

        ``key``: its path in the run's folder.
        """
        return zlib.crc32(f"{self.run_id}\n{self.started}\n{key}\n".encode())

    def close(self, key: str, text: bytes) -> bytes:
        """Return the text of a JSON object with its checksum as the last member."""
        content, _, _ = text.rpartition(b"}")
        content = content.rstrip()
        member = b',\n  "checksum": "%08x"\n}\n' if b"\n" in content else b',"checksum":"%08x"}'
        return content + member % zlib.crc32(content, self.start(key))

    def open(self, key: str, text: bytes, name: str) -> bytes:
        """Return the text of a JSON object without its checksum.

        ``name``: how messages name the file. Raises StoreError for a checksum that is wrong or missing.
        """
        # The pattern ends where the text ends: what looks like a checksum inside of a value is none.
        checksum = _CHECKSUM.search(text)
        if checksum is None:
            if self.required:
                raise damaged(f"{name} is damaged: it has no checksum", _AGAIN)
            return text
        content = text[: checksum.start()]
        if int(checksum[1], 16) != zlib.crc32(content, self.start(key)):
            raise damaged(f"{name} is damaged: it was changed, or is the file of another run", _AGAIN)
        return content + b"}"
