"""The trivial map as a bare ProcessPoolExecutor.map program: python process_pool.py COUNT.

In chunks, as its documentation advises for long iterables; one item at a time it takes many times as long.
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ProcessPoolExecutor

CHUNKS_PER_CPU = 16


def double(number: int) -> int:
    return number * 2


if __name__ == "__main__":
    count = int(sys.argv[1])
    chunk = max(1, count // ((os.cpu_count() or 1) * CHUNKS_PER_CPU))
    with ProcessPoolExecutor() as pool:
        print(sum(pool.map(double, range(count), chunksize=chunk)))
