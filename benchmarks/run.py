"""Measures lokki, and says which of its targets it reaches.

uv run benchmarks/run.py            print the tables
uv run benchmarks/run.py --write    put them into benchmarks/README.md, too
uv run benchmarks/run.py --check    exit with 1 when a target is missed
uv run benchmarks/run.py codec      measure one topic only
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime

import build
import chain
import codec
import cpu_map
import default_shape
import emulation
import handler_scale
import handler_start
import large_results
import local_map
import memory
import nested_maps
import startup
import waiting_map
from measuring import HERE, Table, compiled_modules, markdown

TOPICS: dict[str, Callable[[], Table]] = {
    "startup": startup.measure,
    "build": build.measure,
    "chain": chain.measure,
    "local_map": local_map.measure,
    "nested_maps": nested_maps.measure,
    "large_results": large_results.measure,
    "cpu_map": cpu_map.measure,
    "emulation": emulation.measure,
    "waiting_map": waiting_map.measure,
    "default_shape": default_shape.measure,
    "memory": memory.measure,
    "codec": codec.measure,
    "handler_start": handler_start.measure,
    "handler_scale": handler_scale.measure,
}
README = HERE / "README.md"
MARKER = "<!-- Below this line, everything is written by: uv run benchmarks/run.py --write -->"


def main() -> int:
    options = _options()
    began, load = time.perf_counter(), os.getloadavg()[0]
    tables = []
    with compiled_modules():
        for topic in options.topics or TOPICS:
            print(f"measuring {topic} …", file=sys.stderr, flush=True)
            tables.append(TOPICS[topic]())
    missed = [row for table in tables for row in table.missed]
    text = "\n".join([_machine(time.perf_counter() - began, load, options.topics), *map(markdown, tables)])
    print(text)
    if options.write:
        intro = README.read_text(encoding="utf-8").partition(MARKER)[0]
        README.write_text(f"{intro}{MARKER}\n\n{text}", encoding="utf-8")
    for row in missed:
        print(f"missed: {row.what}: {row.measured} {row.ratio} (target {row.target})", file=sys.stderr)
    return 1 if missed and options.check else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure lokki, and say which of its targets it reaches.")
    parser.add_argument("topics", nargs="*", metavar="TOPIC", help=f"what to measure, default all: {', '.join(TOPICS)}")
    parser.add_argument("--write", action="store_true", help="put the tables into benchmarks/README.md")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a target is missed")
    options = parser.parse_args()
    unknown = [topic for topic in options.topics if topic not in TOPICS]
    if unknown:
        parser.error(f"there is no topic {unknown[0]!r}: choose from {', '.join(TOPICS)}")
    if options.write and options.topics:
        parser.error("--write needs all topics, since it replaces all tables")
    return options


def _machine(seconds: float, load: float, topics: list[str]) -> str:
    command = " ".join(["uv run benchmarks/run.py", *topics])
    machine = f"{os.cpu_count()} cores ({platform.machine()}), {platform.system()}, load {load:.1f} at the start"
    interpreter = f"{platform.python_implementation()} {platform.python_version()}"
    return f"Measured on {datetime.now(UTC):%Y-%m-%d} by `{command}` in {seconds:.0f} s: {machine}, {interpreter}.\n"


if __name__ == "__main__":
    sys.exit(main())
