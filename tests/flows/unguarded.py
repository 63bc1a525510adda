"""A flow's file without the guard around main(): worker processes that import it must not run the flow again."""

import os
import threading

from lokki import flow, main, step

if "SPAWN" in os.environ:
    threading.Thread(target=threading.Event().wait, daemon=True).start()  # with a second thread nothing is forked


@step
def numbers() -> list[int]:
    return [1, 2, 3]


@step
def double(number: int) -> int:
    return number * 2


@step
def total(found: list[int]) -> int:
    return sum(found)


@flow
def unguarded_flow():
    return numbers().map(double).agg(total)


main(unguarded_flow)
