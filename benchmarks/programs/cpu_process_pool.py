"""The work of flows/cpu_flow.py on a bare pool of 2 processes: python cpu_process_pool.py LIMIT SIZE.

The function is written out here, so that this program does not pay for importing lokki.
"""

from __future__ import annotations

import sys
from concurrent.futures import ProcessPoolExecutor


def longest_chain(numbers: range) -> int:
    """Return how many numbers the longest chain has that starts in a range."""
    longest = 0
    for start in numbers:
        number, length = start, 1
        while number != 1:
            number = number // 2 if number % 2 == 0 else 3 * number + 1
            length += 1
        longest = max(longest, length)
    return longest


if __name__ == "__main__":
    limit, size = int(sys.argv[1]), int(sys.argv[2])
    ranges = [range(start, min(start + size, limit)) for start in range(1, limit, size)]
    with ProcessPoolExecutor(2) as pool:
        print(max(pool.map(longest_chain, ranges)))
