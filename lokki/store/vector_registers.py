"""Leaves the CPU's vector registers as other code needs them to be fast.

Why: ISA-L's code for AVX-512 ends without the instruction ``vzeroupper``. Until a thread executes that, newer CPUs of
Intel's pay for each change between AVX and older code, such as numpy's and that of the functions of C's math library:
with a checksum before it, making a random array took a sixth longer.
Source: Intel 64 and IA-32 Architectures Optimization Reference Manual, "Mixing AVX code with SSE code".
"""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hashlib import _Hash

_MAY_HAVE_AVX = os.uname().machine == "x86_64"


def clear_upper_halves() -> None:
    """Clear the upper halves of this thread's vector registers.

    To be called where ISA-L has run and code of the user's may follow.
    """
    # Python cannot execute one instruction. OpenSSL's SHA-512, here of a single block, ends with it where the CPU has
    # AVX, and takes a microsecond; its SHA-1 and SHA-256 do not.
    if _MAY_HAVE_AVX:
        _hash().digest()


@functools.cache
def _hash() -> _Hash:
    import hashlib  # loads OpenSSL, which a cold start of a handler need not wait for

    return hashlib.sha512()
