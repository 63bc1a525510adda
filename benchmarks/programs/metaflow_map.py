"""The trivial map as a flow of Metaflow, which starts a process for each item.

python metaflow_map.py --no-pylint run --count COUNT
"""

from __future__ import annotations

import os

os.environ.setdefault("METAFLOW_USER", "benchmark")

from metaflow import FlowSpec, Parameter, step  # is in an environment of its own


class Doubles(FlowSpec):
    count = Parameter("count", type=int, default=10)

    @step
    def start(self) -> None:
        self.numbers = list(range(self.count))
        self.next(self.double, foreach="numbers")

    @step
    def double(self) -> None:
        self.doubled = self.input * 2
        self.next(self.join)

    @step
    def join(self, inputs: list[Doubles]) -> None:
        self.total = sum(one.doubled for one in inputs)
        self.next(self.end)

    @step
    def end(self) -> None:
        print(self.total)


if __name__ == "__main__":
    Doubles()
