"""No code that lokki runs leaves vector registers in a state that slows the user's code down."""

import ctypes
import mmap
import os
import platform
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from isal import isal_zlib

from lokki.errors import StoreError
from lokki.store.codec import Pack, checksum_of, dumps, encode, is_whole, loads, pickle_pieces
from lokki.store.vector_registers import clear_upper_halves

NOISE = os.urandom(300_000)
TEXT = "flappy goose " * 20_000
SMALL = list(range(300))
PACKED = {name: dumps(value) for name, value in {"noise": NOISE, "text": TEXT, "small": SMALL}.items()}


def loads_damaged() -> None:
    with pytest.raises(StoreError):
        loads(PACKED["text"][:-1])


CALLS: dict[str, Callable[[], object]] = {
    "dumps of noise": lambda: dumps(NOISE),
    "dumps of text": lambda: dumps(TEXT),
    "dumps of a small value": lambda: dumps(SMALL),
    "encode": lambda: encode([NOISE, TEXT]),
    "a pack": lambda: Pack().add_pieces(pickle_pieces(NOISE)),
    "loads of noise": lambda: loads(PACKED["noise"]),
    "loads of text": lambda: loads(PACKED["text"]),
    "loads of a small value": lambda: loads(PACKED["small"]),
    "loads of what is damaged": loads_damaged,
    "a check": lambda: is_whole(PACKED["text"]),
    "a checksum": lambda: checksum_of(NOISE),
}

# mov ecx, 1; xgetbv; ret: which registers the thread uses, see Intel's manual, volume 1, 13.6
_XGETBV = bytes.fromhex("b9010000000f01d0c3")
_UPPER_HALVES = 1 << 2 | 1 << 6  # of YMM, and of ZMM 0 to 15


def _about_the_cpu() -> set[str]:
    """Return its vendor and what it can do."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return set()
    return set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())


pytestmark = pytest.mark.skipif(
    not {"GenuineIntel", "avx512f", "vpclmulqdq", "xgetbv1"} <= _about_the_cpu(),
    reason="not a CPU of Intel's with AVX-512, which alone says exactly which registers are in use",
)


@pytest.fixture(scope="module")
def registers_in_use() -> Iterator[Callable[[], int]]:
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(_XGETBV)
    code = ctypes.c_char.from_buffer(page)
    yield ctypes.CFUNCTYPE(ctypes.c_uint32)(ctypes.addressof(code))
    del code
    page.close()


def test_isal_alone_leaves_upper_halves_in_use(registers_in_use: Callable[[], int]) -> None:
    isal_zlib.crc32(NOISE)
    assert registers_in_use() & _UPPER_HALVES


@pytest.mark.parametrize("call", CALLS)
def test_no_upper_halves_are_in_use_after(call: str, registers_in_use: Callable[[], int]) -> None:
    clear_upper_halves()
    CALLS[call]()
    assert registers_in_use() & _UPPER_HALVES == 0
