"""The trivial map as tasks of redun, which keeps each result in a database: python redun_map.py COUNT."""

from __future__ import annotations

import sys

from redun import Scheduler, task  # is in an environment of its own
from redun.config import Config

redun_namespace = "lokki_benchmark"


@task()
def double(number: int) -> int:
    return number * 2


@task()
def total(numbers: list[int]) -> int:
    return sum(numbers)


@task()
def doubles(count: int) -> int:
    return total([double(number) for number in range(count)])


if __name__ == "__main__":
    scheduler = Scheduler(config=Config({"backend": {"db_uri": "sqlite:///redun.db"}}))
    scheduler.load()
    print(scheduler.run(doubles(int(sys.argv[1]))))
