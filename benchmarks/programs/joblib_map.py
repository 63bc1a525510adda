"""The trivial map as a joblib program, with a worker per CPU: python joblib_map.py COUNT."""

from __future__ import annotations

import sys

from joblib import Parallel, delayed  # is in an environment of its own


def double(number: int) -> int:
    return number * 2


if __name__ == "__main__":
    print(sum(Parallel(n_jobs=-1)(delayed(double)(number) for number in range(int(sys.argv[1])))))
