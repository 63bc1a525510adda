"""Damages to the files of runs, each made from a seed: what disks, copies, tools and people do to files."""

import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

type Damage = Callable[[random.Random, Path, Sequence[Path]], str]
"""Damages a file; the last argument: files of other runs, and of this one, to swap it with. Returns what was done."""


def flip_bit(chance: random.Random, path: Path, others: Sequence[Path]) -> str:
    content = bytearray(path.read_bytes())
    position, bit = chance.randrange(len(content)), chance.randrange(8)
    content[position] ^= 1 << bit
    path.write_bytes(content)
    return f"bit {bit} of byte {position} flipped"


def truncate(chance: random.Random, path: Path, others: Sequence[Path]) -> str:
    content = path.read_bytes()
    length = chance.randrange(len(content))
    path.write_bytes(content[:length])
    return f"cut to {length} of {len(content)} bytes"


def delete_bytes(chance: random.Random, path: Path, others: Sequence[Path]) -> str:
    content = path.read_bytes()
    start = chance.randrange(len(content))
    end = min(len(content), start + chance.choice((1, 1, 2, 7, 64)))
    path.write_bytes(content[:start] + content[end:])
    return f"bytes {start} to {end} deleted"


def insert_bytes(chance: random.Random, path: Path, others: Sequence[Path]) -> str:
    content = path.read_bytes()
    start, length = chance.randrange(len(content) + 1), chance.choice((1, 1, 2, 7, 64))
    path.write_bytes(content[:start] + chance.randbytes(length) + content[start:])
    return f"{length} bytes inserted at {start}"


def zero_block(chance: random.Random, path: Path, others: Sequence[Path]) -> str:
    content = path.read_bytes()
    start = chance.randrange(len(content))
    length = min(len(content) - start, chance.choice((1, 16, 512)))
    path.write_bytes(content[:start] + bytes(length) + content[start + length :])
    return f"{length} bytes zeroed at {start}"


def repeat_line(chance: random.Random, path: Path, others: Sequence[Path]) -> str:
    lines = path.read_bytes().splitlines(keepends=True)
    number = chance.randrange(len(lines))
    lines.insert(chance.randrange(len(lines) + 1), lines[number])
    path.write_bytes(b"".join(lines))
    return f"line {number} repeated"


def drop_line(chance: random.Random, path: Path, others: Sequence[Path]) -> str:
    lines = path.read_bytes().splitlines(keepends=True)
    number = chance.randrange(len(lines))
    del lines[number]
    path.write_bytes(b"".join(lines))
    return f"line {number} dropped"


def repeat_block(chance: random.Random, path: Path, others: Sequence[Path]) -> str:
    content = path.read_bytes()
    start = chance.randrange(len(content))
    end = min(len(content), start + chance.choice((8, 60, 400)))
    path.write_bytes(content[:end] + content[start:end] + content[end:])
    return f"bytes {start} to {end} repeated"


def swap(chance: random.Random, path: Path, others: Sequence[Path]) -> str:
    """Put another file in its place: of its name in another run, or any other of this run."""
    same = [other for other in others if other.name == path.name]
    other = chance.choice(same if same and chance.random() < 0.7 else list(others))
    shutil.copyfile(other, path)
    return f"replaced by {other}"


def remove(chance: random.Random, path: Path, others: Sequence[Path]) -> str:
    path.unlink()
    return "removed"


def empty(chance: random.Random, path: Path, others: Sequence[Path]) -> str:
    path.write_bytes(b"")
    return "emptied"


def replace_by_folder(chance: random.Random, path: Path, others: Sequence[Path]) -> str:
    path.unlink()
    path.mkdir()
    return "replaced by a folder"


DAMAGES: tuple[Damage, ...] = (
    flip_bit,
    flip_bit,
    flip_bit,
    truncate,
    truncate,
    delete_bytes,
    insert_bytes,
    zero_block,
    repeat_line,
    drop_line,
    repeat_block,
    swap,
    swap,
    remove,
    empty,
    replace_by_folder,
)
