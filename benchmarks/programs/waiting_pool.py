"""A map of items that wait, as a bare program on 32 threads: python waiting_pool.py COUNT."""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor


def wait(number: int) -> int:
    time.sleep(0.02)
    return number


if __name__ == "__main__":
    with ThreadPoolExecutor(32) as pool:
        print(sum(pool.map(wait, range(int(sys.argv[1])))))
