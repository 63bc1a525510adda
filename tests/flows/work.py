"""A map whose items sleep, fail where a file says so, and are retried."""

import time
from pathlib import Path

from lokki import Retry, flow, main, step


@step
def numbers(count: int) -> list[int]:
    return list(range(count))


@step(retry=Retry(attempts=2, delay=0.01, on=(ConnectionError,)))
def work(number: int, seconds: float) -> int:
    with Path("ran.txt").open("a") as ran:
        ran.write(f"{number}\n")
    time.sleep(seconds)
    marks = Path("bad.txt").read_text().split() if Path("bad.txt").exists() else []
    if f"retry-{number}" in marks:
        raise ConnectionError("try again")
    if str(number) in marks:
        raise ValueError(f"unlucky {number}")
    return number


@step
def total(found: list[int]) -> dict[str, float]:
    return {"total": sum(found)}


@flow
def work_flow(count: int = 4, seconds: float = 0.0):
    return numbers(count).map(work(seconds=seconds)).agg(total)


if __name__ == "__main__":
    main(work_flow)
