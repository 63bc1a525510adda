"""A map with large results without lokki: python large_map.py threads|memory KIND COUNT SIZE.

By a bare ThreadPoolExecutor.map, which keeps nothing, or by joblib.Memory on joblib's threads, which keeps the results.
A result is made about as fast as such data can be made at all, so that what is measured is what keeping it costs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    type Array = np.ndarray[tuple[int], np.dtype[np.float64]]
    type Result = bytes | list[dict[str, object]] | Array | pd.DataFrame


# Only the kinds that need them import numpy and pandas, which takes longer than some of these maps.
def make_bytes(number: int, size: int) -> bytes:
    return os.urandom(size)


def make_array(number: int, size: int) -> Array:
    import numpy as np

    return np.random.default_rng(number).normal(size=size // 8)


def make_frame(number: int, size: int) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(make_array(number, size).reshape(-1, 10), columns=list("abcdefghij"))


def make_rows(number: int, size: int) -> list[dict[str, object]]:
    return [
        {"time": 1_795_000_000 + row / 4, "level": "info", "message": f"request {row * 7919 % 10007} of {number} done"}
        for row in range(size // 80)
    ]


KINDS: dict[str, Callable[[int, int], Result]] = {
    "bytes": make_bytes,
    "arrays": make_array,
    "frames": make_frame,
    "rows": make_rows,
}


def by_threads(kind: str, count: int, size: int) -> int:
    with ThreadPoolExecutor() as pool:
        return sum(map(len, list(pool.map(KINDS[kind], range(count), repeat(size)))))


def by_memory(kind: str, count: int, size: int) -> int:
    from joblib import Memory, Parallel, delayed  # is in an environment of its own

    make = delayed(Memory("cache", verbose=0).cache(KINDS[kind]))
    results = Parallel(n_jobs=-1, backend="threading")(make(number, size) for number in range(count))
    return sum(map(len, results))


if __name__ == "__main__":
    run = {"threads": by_threads, "memory": by_memory}[sys.argv[1]]
    print(run(sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
