"""Reading a requirements.txt as pip does.

https://pip.pypa.io/en/stable/reference/requirements-file-format/
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping
from pathlib import Path

from lokki.builder.package_types import BuildError
from lokki.builder.requirements.origins import absolute_option, file_reference, folder_reference, reference_of

# Longer marks first, since that of UTF-32 begins as that of UTF-16 does.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# https://peps.python.org/pep-0263/
_CODING = re.compile(rb"^[ \t\f]*#.*?coding[:=][ \t]*([-\w.]+)")


def requirement_lines(
    file: Path, environ: Mapping[str, str], within: tuple[Path, ...] = ()
) -> tuple[list[str], list[str]]:
    """Read a file and those that it names.

    Returns requirements with options, and constraints. Where it names variables of the environment, such as
    ``${TOKEN}``, it has their values. Raises BuildError, which names the file, if it cannot be read.

    ``within``: the files that include this one.
    """
    if file in within:
        raise BuildError(f"{file} includes itself. Remove one of its -r lines.")
    lines: list[str] = []
    constraints: list[str] = []
    for line in _text(file).replace("\\\n", " ").splitlines():
        content = re.sub(r"(^|\s)#.*$", "", line).strip()
        content = re.sub(r"\s+--hash[= ]\S+", "", content)
        content = re.sub(r"\$\{([A-Z0-9_]+)\}", lambda name: environ.get(name[1], name[0]), content)
        content = _not_editable(content)
        other = re.fullmatch(r"(-r|--requirement|-c|--constraint)[= ]?\s*(\S+)", content)
        if other is None:
            lines += filter(None, [absolute_file(absolute_option(content, file.parent), file.parent)])
            continue
        more, bounds = requirement_lines(file.parent / other[2], environ, (*within, file))
        constraints += bounds if other[1] in ("-r", "--requirement") else [*more, *bounds]
        lines += more if other[1] in ("-r", "--requirement") else []
    return lines, constraints


def absolute_file(line: str, folder: Path) -> str:
    """Return a line whose path, if it is one, is an absolute reference.

    It may lead to a file, or to a project's folder.
    """
    path, semicolon, marker = line.partition(" ; ")
    is_file = re.search(r"\.(whl|zip|tar\.gz)$", path) is not None
    if "://" in path or reference_of(path) or not (is_file or re.match(r"\.\.?(/|\[|$)|/", path)):
        return line
    if is_file:
        return f"{file_reference((folder / path).resolve())}{semicolon}{marker}"
    place, bracket, extras = path.partition("[")
    return f"{folder_reference((folder / place).resolve(), bracket + extras)}{semicolon}{marker}"


def _not_editable(line: str) -> str:
    """Return an editable requirement as it would be without that.

    In a package nothing is editable.
    """
    match = re.fullmatch(r"(?:-e|--editable)[= ]?\s*(\S+)(.*)", line)
    if match is None:
        return line
    reference, egg, name = match[1].partition("#egg=")
    if "://" in reference:
        return f"{name} @ {reference}{match[2]}" if egg else f"{reference}{match[2]}"
    path = reference if re.match(r"\.|/", reference) else f"./{reference}"
    return f"{path}{match[2]}"


def _text(file: Path) -> str:
    """Read a file as text. Raises BuildError if it cannot be read."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise BuildError(f"{file} cannot be read: {error.strerror}. Correct the line that names it.") from None
    encoding = _encoding(content)
    if not encoding and b"\0" in content:  # of UTF-16 without its mark, which no tool reads
        raise _not_utf_8(file, 1, "")
    try:
        return content.decode(encoding or "utf-8").replace("\r\n", "\n")
    except LookupError:
        raise BuildError(f"{file}: there is no encoding {encoding!r}. Correct the comment that names it.") from None
    except UnicodeDecodeError as error:
        return _with_odd_comments(file, content, encoding, error.start)


def _encoding(content: bytes) -> str:
    """Return the encoding that a file says it has, or "".

    A mark at its start says it, or a comment in its first two lines.
    """
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            return encoding
    comments = (_CODING.match(line) for line in content.split(b"\n", 2)[:2])
    return next((comment[1].decode() for comment in comments if comment), "")


def _with_odd_comments(file: Path, content: bytes, encoding: str, position: int) -> str:
    """Read a file whose comments alone are not UTF-8.

    Raises BuildError for any other, and for one that says its encoding.
    """
    plain = re.sub(rb"(?m)(^|[ \t])#.*$", b"", content)
    if not encoding and plain.isascii():
        return plain.decode().replace("\r\n", "\n")
    raise _not_utf_8(file, content.count(b"\n", 0, position) + 1, encoding)


def _not_utf_8(file: Path, line: int, encoding: str) -> BuildError:
    return BuildError(
        f"{file}, line {line}: is not {encoding or 'UTF-8'} text. Save it as UTF-8, or name its encoding in its first "
        "line: # coding: latin-1"
    )
