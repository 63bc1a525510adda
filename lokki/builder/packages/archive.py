"""Zip files that have equal bytes for equal content.

Machine, user, clock and folder leave no trace in them. The format is written here and not by zipfile, since what many
archives share is then packed once and copied as it is. https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT
"""

from __future__ import annotations

import hashlib
import marshal
import struct
import sys
import warnings
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.util import MAGIC_NUMBER, source_hash
from typing import BinaryIO, Final

from lokki.builder.package_types import LAMBDA_PYTHON, BuildError

TASK_ROOT: Final = "/var/task"
"""Where Lambda unpacks a function's code. https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars.html"""

_LOCAL = struct.Struct("<IHHHHHIIIHH")
_CENTRAL = struct.Struct("<IHHHHHHIIIHHHHHII")
_END = struct.Struct("<IHHHHIIH")
_VERSION = 20
_MADE_ON_UNIX = (3 << 8) | _VERSION
_UTF_8 = 0x800
_FIRST_OF_1980 = 0x21
_STORED, _DEFLATED = 0, 8
_MOST_MEMBERS = 0xFFFF

_LEVEL = 1
"""Of zlib: level 6 takes more than twice as long, for 13 % less of numpy and pandas."""

_UNCHECKED_HASH = 0b01
"""Python takes such a ``.pyc`` for current without looking at the source. https://peps.python.org/pep-0552/"""


@dataclass(frozen=True, slots=True)
class Member:
    """A file of an archive, packed.

    - ``path``: with ``/`` between folders
    - ``checksum``, ``size``: of the content, unpacked
    - ``method``: how ``packed`` is packed, as zip files number it
    """

    path: str
    checksum: int
    size: int
    packed: bytes
    method: int
    executable: bool = False


def pack(path: str, content: bytes, *, executable: bool = False) -> Member:
    """Pack one file.

    What does not shrink is stored as it is.
    """
    deflate = zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    packed = deflate.compress(content) + deflate.flush()
    method = _DEFLATED
    if len(packed) >= len(content):
        packed, method = content, _STORED
    return Member(path, zlib.crc32(content), len(content), packed, method, executable)


def write_archive(file: BinaryIO, members: Iterable[Member]) -> None:
    """Write an archive of the members, sorted by path.

    Raises BuildError for more files than a zip file holds.
    """
    entries: list[bytes] = []
    for member in sorted(members, key=lambda member: member.path):
        offset = file.tell()
        name = member.path.encode()
        common = (
            _VERSION, _UTF_8, member.method, 0, _FIRST_OF_1980,
            member.checksum, len(member.packed), member.size, len(name), 0,
        )  # fmt: skip
        file.write(_LOCAL.pack(0x04034B50, *common) + name)
        file.write(member.packed)
        # Lambda keeps a file's mode, which only an archive that was made on Unix has.
        mode = 0o100755 if member.executable else 0o100644
        entries.append(_CENTRAL.pack(0x02014B50, _MADE_ON_UNIX, *common, 0, 0, 0, mode << 16, offset) + name)
    count = len(entries)
    if count > _MOST_MEMBERS:
        raise BuildError(
            f"the package has {count:,} files; a zip file holds {_MOST_MEMBERS:,}. Use package_type: image."
        )
    start, size = file.tell(), sum(len(entry) for entry in entries)
    file.writelines(entries)
    file.write(_END.pack(0x06054B50, 0, 0, count, count, size, start, 0))


def content_digest(files: Mapping[str, bytes]) -> str:
    """Return a hash of the paths and the content of files.

    It does not depend on how they are packed, which zlibs do differently.
    """
    return digest_of((path, hashlib.sha256(content).hexdigest(), False) for path, content in files.items())


def digest_of(entries: Iterable[tuple[str, str, bool]]) -> str:
    """Return a hash of entries, whatever their order.

    An entry is a path, the hash of its content, and whether it is a program.
    """
    digest = hashlib.sha256()
    for path, content, is_program in sorted(entries):
        digest.update(f"{'x' if is_program else '-'} {content} {path}\n".encode())
    return digest.hexdigest()


def bytecode_kind() -> str:
    """Return what identifies the bytecode that this Python makes for Lambda's.

    It is "" if Lambda's is another version.
    """
    return MAGIC_NUMBER.hex() if sys.version_info[:2] == LAMBDA_PYTHON else ""


def bytecode(path: str, source: bytes) -> tuple[str, bytes] | None:
    """Return path and content of a module's ``.pyc`` in a package.

    Lambda can write none beside the code, so without it every cold start would compile every module. The code knows its
    source by its place on Lambda. Equal sources give equal bytes. None is returned for what does not compile, and by
    another Python than Lambda's.
    """
    if not bytecode_kind():
        return None
    try:
        with warnings.catch_warnings(action="ignore"):  # which may be set to be errors
            code = compile(source, f"{TASK_ROOT}/{path}", "exec", dont_inherit=True, optimize=0)
    except (SyntaxError, ValueError, RecursionError):
        # Such as a template for code, which packages may hold; if it is imported, Python says what is wrong.
        return None
    # By its hash and not its time: a time would make equal sources different archives.
    header = MAGIC_NUMBER + _UNCHECKED_HASH.to_bytes(4, "little") + source_hash(source)
    folder, _, name = path.rpartition("/")
    place = f"{folder}/__pycache__" if folder else "__pycache__"
    stem = name.removesuffix(".py")
    return f"{place}/{stem}.cpython-{LAMBDA_PYTHON[0]}{LAMBDA_PYTHON[1]}.pyc", header + marshal.dumps(code)
