"""Turning values into bytes and back, against gzip and pickle of the standard library."""

from __future__ import annotations

import msgspec
from measuring import PROGRAMS, Program, Row, Table, python, run_once

TIMES_AS_FAST = 20.0
WITH_TARGET = ("logs", "text")
GIGABYTES_PER_SECOND = 0.9


class Speed(msgspec.Struct):
    """What programs/codec_speed.py prints: seconds, and bytes."""

    payload: int
    packed: int
    gzip_packed: int
    write: float
    pieces: float
    read: float
    pickling: float
    gzip_write: float
    gzip_read: float
    compress: float
    gzip_compress: float


def measure() -> Table:
    rows = [row for kind in ("orders", "logs", "text", "floats") for row in _measured(kind)]
    note = (
        "Payload is the size of the pickle; the fastest of 5 tries, each kind in a process of its own. Ratio: "
        "how many times as fast as `gzip.compress(pickle.dumps(value, 5))` and `pickle.loads(gzip.decompress(data))`, "
        "run right after. `pickle.dumps` alone is what no compressor makes faster: its ratio is the limit. In pieces: "
        "as a step's result goes to the store, without being joined first. Compressing alone: of the pickle's bytes, "
        "against `gzip.compress` of them."
    )
    return Table("Codec", note, tuple(rows))


def _measured(kind: str) -> list[Row]:
    sample = run_once(Program(f"codec, {kind}", python(PROGRAMS / "codec_speed.py", kind), "payload"))
    speed = msgspec.json.decode(sample.output, type=Speed)
    size = f"{kind}, {speed.payload / 1e6:.0f} MB"
    packed = f"to {speed.packed / speed.payload:.0%} (gzip: {speed.gzip_packed / speed.payload:.0%})"
    write, read = speed.payload / 1e9 / speed.write, speed.payload / 1e9 / speed.read
    write_ratio, read_ratio = speed.gzip_write / speed.write, speed.gzip_read / speed.read
    write_target: tuple[str, bool | None] = ("", None)
    read_target = write_target
    in_pieces: list[Row] = []
    if kind == "floats":
        target = f"≥ {GIGABYTES_PER_SECOND} GB/s"
        write_target = (target, write >= GIGABYTES_PER_SECOND)
        read_target = (target, read >= GIGABYTES_PER_SECOND)
        pieces = speed.payload / 1e9 / speed.pieces
        ratio = f"{speed.gzip_write / speed.pieces:.1f}×"
        in_pieces = [
            Row(f"{size}: write in pieces", f"{pieces:.2f} GB/s", ratio, target, pieces >= GIGABYTES_PER_SECOND)
        ]
    elif kind in WITH_TARGET:
        write_target = (f"≥ {TIMES_AS_FAST:.0f}×", write_ratio >= TIMES_AS_FAST)
    compressing: list[Row] = []
    if kind != "floats":
        times, rate = speed.gzip_compress / speed.compress, f"{speed.payload / 1e9 / speed.compress:.2f} GB/s"
        target = f"≥ {TIMES_AS_FAST:.0f}×"
        compressing = [Row(f"{size}: compressing alone", rate, f"{times:.1f}×", target, times >= TIMES_AS_FAST)]
    ceiling = speed.gzip_write / speed.pickling
    return [
        Row(f"{size}: `pickle.dumps` alone", f"{speed.payload / 1e9 / speed.pickling:.2f} GB/s", f"{ceiling:.1f}×"),
        Row(f"{size}: write, {packed}", f"{write:.2f} GB/s", f"{write_ratio:.1f}×", *write_target),
        *in_pieces,
        *compressing,
        Row(f"{size}: read", f"{read:.2f} GB/s", f"{read_ratio:.1f}×", *read_target),
    ]
