"""Emulating a map of items that cost nothing: what the emulator itself costs, once and for each item."""

from __future__ import annotations

from measuring import FLOWS, Program, Row, Table, interleaved, median, median_and_min, python, seconds

FEW, MANY = 10, 10_000
REPEATS = 3
TARGET = 1_500
"""Items a second, start and end left out."""


def measure() -> Table:
    names = {count: f"emulate, {count:,} items" for count in (FEW, MANY)}
    programs = [_program(names[count], count, "emulate") for count in (FEW, MANY)]
    local = "run, 10,000 items"
    samples = interleaved([*programs, _program(local, MANY, "run")], {}, REPEATS)
    begin, whole = (median(samples[names[count]]) for count in (FEW, MANY))
    rate = (MANY - FEW) / (whole - begin)
    rows = (
        Row(names[FEW], median_and_min(seconds(samples[names[FEW]]))),
        Row(
            names[MANY],
            median_and_min(seconds(samples[names[MANY]])),
            f"{rate:,.0f} items/s",
            f"≥ {TARGET:,} items/s",
            rate >= TARGET,
        ),
        Row(local, median_and_min(seconds(samples[local]))),
    )
    note = (
        "Wall time of the whole process: build, S3, functions in processes of their own, one child execution for each "
        f"item. Ratio: items a second, without what {FEW} items take. Half of that is moto, which is the S3, starting."
    )
    return Table("Emulation of trivial items", note, rows)


def _program(name: str, count: int, command: str) -> Program:
    arguments = (FLOWS / "trivial_flow.py", command, "--count", str(count), "--quiet")
    return Program(name, python(*arguments), str(count * (count - 1)))
