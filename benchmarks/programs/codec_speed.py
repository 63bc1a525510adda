"""Times the codec against gzip.compress(pickle.dumps(value, 5)) on one kind of value: python codec_speed.py KIND.

Prints one line of JSON: seconds of the fastest of several tries, and bytes. It is a program of its own so that the
memory it needs does not count as another benchmark's.
"""

from __future__ import annotations

import gzip
import json
import pickle
import random
import sys
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from lokki.store.codec import dumps, encode, loads

SEED = 20261122
TRIES = 5


def orders() -> list[dict[str, object]]:
    """Return 100,000 rows of many short fields, as a query of a shop's orders returns them."""
    source = random.Random(SEED)
    cities = ["Helsinki", "Tampere", "Turku", "Oulu", "Espoo", "Vantaa", "Lahti", "Kuopio"]
    return [
        {
            "order_id": 1_000_000 + number,
            "customer": f"customer-{source.randrange(20_000):05}",
            "city": source.choice(cities),
            "ordered": f"2026-{source.randrange(1, 13):02}-{source.randrange(1, 29):02}",
            "hour": source.randrange(24),
            "quantity": source.randrange(1, 10),
            "price": source.randrange(100, 100_000) / 100,
            "paid": source.random() < 0.9,
        }
        for number in range(100_000)
    ]


def logs() -> list[dict[str, object]]:
    """Return 50,000 rows with a message each, as a service logs them."""
    source = random.Random(SEED)
    words = ["request", "user", "order", "payment", "cache", "timeout", "retry", "after", "from", "with", "new", "of"]
    return [
        {
            "time": 1_795_000_000 + number / 4,
            "level": source.choice(["debug", "info", "info", "info", "warning", "error"]),
            "message": " ".join(source.choices(words, k=20)) + f" {source.randrange(10**6)}",
        }
        for number in range(50_000)
    ]


def floats() -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return 100 MB of floats that no algorithm makes smaller."""
    return np.random.default_rng(SEED).random(12_500_000)


def text() -> str:
    """Return 4 MB of text that people wrote: the top-level modules of Python's standard library."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    return "".join(file.read_text(encoding="utf-8") for file in files)


KINDS: dict[str, Callable[[], object]] = {"orders": orders, "logs": logs, "floats": floats, "text": text}


def fastest[T](function: Callable[[], T], tries: int) -> tuple[float, T]:
    """Return the seconds of the fastest of several calls, and what the last one returned."""
    times: list[float] = []
    for _ in range(tries):
        began = time.perf_counter()
        result = function()
        times.append(time.perf_counter() - began)
    return min(times), result


def main(kind: str) -> None:
    value = KINDS[kind]()
    write, packed = fastest(lambda: dumps(value), TRIES)
    pieces, _ = fastest(lambda: encode(value), TRIES)
    read, back = fastest(lambda: loads(packed), TRIES)
    if pickle.dumps(back, 5) != pickle.dumps(value, 5) or pickle.loads(gzip.decompress(packed)) is None:
        sys.exit(f"{kind}: what comes back is not what went in")
    pickling, _ = fastest(lambda: pickle.dumps(value, 5), TRIES)
    gzip_write, gzip_packed = fastest(lambda: gzip.compress(pickle.dumps(value, 5)), TRIES)
    gzip_read, _ = fastest(lambda: pickle.loads(gzip.decompress(gzip_packed)), TRIES)
    payload = pickle.dumps(value, 5)
    compress, _ = fastest(lambda: dumps(payload), TRIES)  # a pickle of bytes is the bytes
    gzip_compress, _ = fastest(lambda: gzip.compress(payload), TRIES)
    measured = {
        "payload": len(payload),
        "packed": len(packed),
        "gzip_packed": len(gzip_packed),
        "write": write,
        "pieces": pieces,
        "read": read,
        "pickling": pickling,
        "gzip_write": gzip_write,
        "gzip_read": gzip_read,
        "compress": compress,
        "gzip_compress": gzip_compress,
    }
    print(json.dumps(measured))


if __name__ == "__main__":
    main(sys.argv[1])
