"""The trivial map as a bare ThreadPoolExecutor.map program: python thread_pool.py COUNT."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor


def double(number: int) -> int:
    return number * 2


if __name__ == "__main__":
    with ThreadPoolExecutor() as pool:
        print(sum(pool.map(double, range(int(sys.argv[1])))))
