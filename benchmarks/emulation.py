"""Emulating a map of items that cost nothing: what the emulator itself costs, once and for each item."""

from __future__ import annotations

from measuring import FLOWS, Program, Row, Table, at_least, interleaved, median, median_and_min, python, seconds

FEW, MANY = 10, 10_000
REPEATS = 3
TARGET = 1_500
"""Items a second, start and end left out."""


SINGLE, DEFAULT = "single_flow.py", "trivial_flow.py"
"""The flow with a child execution for each item, and the one in the default shape."""


def measure() -> Table:
    shapes = {SINGLE: "one child for each item", DEFAULT: "default shape"}
    cases = {(flow, count): f"emulate, {count:,} items, {shapes[flow]}" for flow in shapes for count in (FEW, MANY)}
    programs = [_program(name, *case, "emulate") for case, name in cases.items()]
    local = "run, 10,000 items"
    samples = interleaved([*programs, _program(local, DEFAULT, MANY, "run")], {}, REPEATS)
    rows = []
    for flow in shapes:
        begin, whole = (samples[cases[flow, count]] for count in (FEW, MANY))
        rate = (MANY - FEW) / max(median(whole) - median(begin), 0.001)
        rows += [
            Row(cases[flow, FEW], median_and_min(seconds(begin))),
            Row(
                cases[flow, MANY],
                median_and_min(seconds(whole)),
                f"{rate:,.0f} items/s",
                *at_least(rate, TARGET),
            ),
        ]
    rows.append(Row(local, median_and_min(seconds(samples[local]))))
    note = (
        "Wall time of the whole process: build, S3, functions in processes of their own, and the states of each child "
        f"execution. Ratio: items a second, without what {FEW} items take. Half of that is moto, which is the S3, "
        "starting."
    )
    return Table("Emulation of trivial items", note, tuple(rows))


def _program(name: str, flow: str, count: int, command: str) -> Program:
    arguments = (FLOWS / flow, command, "--count", str(count), "--quiet")
    return Program(name, python(*arguments), str(count * (count - 1)))
