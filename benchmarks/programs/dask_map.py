"""The trivial map as a dask bag, on threads: python dask_map.py COUNT."""

from __future__ import annotations

import sys

from dask import bag  # is in an environment of its own


def double(number: int) -> int:
    return number * 2


if __name__ == "__main__":
    print(bag.from_sequence(range(int(sys.argv[1]))).map(double).sum().compute(scheduler="threads"))
