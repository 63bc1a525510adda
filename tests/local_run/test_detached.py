"""Large arrays change hands without a copy where nobody else can reach their memory, and are copied where one can."""

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import steps
from support.local_runs import Local

from lokki import flow, step
from lokki.local_run import journal_reader
from lokki.local_run.free_memory import free_memory
from lokki.local_run.journal import Parts, PartWriter
from lokki.local_run.ready_results import ReadyResults
from lokki.local_run.seal import Seal
from lokki.runner import Executor

type Numbers = np.ndarray[Any, np.dtype[np.float64]]

NUMBERS = 20_000
"""Of so many numbers, the memory is large enough to be a piece of its own of a pickle."""


RESULT = 8 * NUMBERS + 200
"""Bytes of its pickle, or a few more."""


class Measured:
    """A class of the user's that has an array."""

    def __init__(self, numbers: Numbers) -> None:
        self.numbers = numbers


def numbers() -> Numbers:
    return np.arange(NUMBERS, dtype=np.float64)


def read_only() -> Numbers:
    array = numbers()
    array.flags.writeable = False
    return array


FORMS: dict[str, tuple[Callable[[], object], Callable[[Any], Numbers]]] = {
    "array": (numbers, lambda array: array),
    "reshaped": (lambda: numbers().reshape(-1, 10), lambda array: array),
    "transposed": (lambda: numbers().reshape(-1, 10).T, lambda array: array),
    "read only": (read_only, lambda array: array),
    "frame": (lambda: pd.DataFrame(numbers().reshape(-1, 10)), lambda frame: frame.to_numpy()),
    "columns": (
        lambda: pd.DataFrame({"at": numbers(), "of": np.arange(NUMBERS)}),
        lambda frame: frame["at"].to_numpy(),
    ),
    "in an object": (lambda: {"name": "n", "of": [Measured(numbers())]}, lambda value: value["of"][0].numbers),
}


def hand_on(folder: Path, make: Callable[[], object], reach: Callable[[Any], Any] = id) -> tuple[Any, Any, Any]:
    """Return a result as the step after a map gets it, as it is on disk, and what ``reach`` returned of it."""
    parts, ready = Parts(folder, Seal("run", "2026-01-01")), ReadyResults()
    part = PartWriter(parts, "part-0001", 100, ready)
    value = make()
    reached = reach(value)
    part.add(0, value)
    del value
    part.hand_on()
    part.close()
    [written] = journal_reader.results(parts, 1, failed=0)
    return ready.take()[0], written, reached


def address(array: Numbers) -> int:
    return int(array.__array_interface__["data"][0])


@pytest.mark.parametrize("form", FORMS)
def test_what_nobody_else_refers_to_is_handed_on_as_it_is(form: str, tmp_path: Path) -> None:
    make, array_of = FORMS[form]
    value, written, before = hand_on(tmp_path, make, lambda value: address(array_of(value)))
    assert address(array_of(value)) == before != address(array_of(written))
    assert np.array_equal(array_of(value), array_of(written))
    assert array_of(value).flags.writeable == array_of(written).flags.writeable
    assert array_of(value).flags.c_contiguous == array_of(written).flags.c_contiguous
    assert type(value) is type(written)


SHARED = np.frombuffer(bytearray(8 * NUMBERS))

WAYS: dict[str, tuple[Callable[[], Numbers], Callable[[Numbers], object]]] = {
    "the array": (numbers, lambda array: array),
    "a view": (numbers, lambda array: array[:5]),
    "what it is a view of": (lambda: numbers()[2:], lambda array: array.base),
    "its buffer": (numbers, memoryview),
    "a weak reference": (numbers, weakref.ref),
    "memory of others": (lambda: SHARED[:], lambda array: None),
}


@pytest.mark.parametrize("way", WAYS)
def test_what_somebody_can_reach_is_copied(way: str, tmp_path: Path) -> None:
    make, reach = WAYS[way]
    value, written, (before, _reached) = hand_on(tmp_path, make, lambda array: (address(array), reach(array)))
    assert address(value) != before
    assert np.array_equal(value, written)


def test_two_arrays_of_one_memory_are_copied(tmp_path: Path) -> None:
    def make() -> object:
        array = numbers()
        return array, array[5:]

    value, written, _ = hand_on(tmp_path, make)
    value[0][6] = -1.0
    assert value[1][1] == written[1][1] == 6.0


def test_a_value_that_is_mostly_no_array_is_copied_from_its_pickle(tmp_path: Path) -> None:
    value, written, before = hand_on(tmp_path, lambda: [numbers(), "text" * 100_000], lambda value: address(value[0]))
    assert address(value[0]) != before
    assert value[1] == written[1]


@pytest.mark.parametrize(("free", "expected"), [(8 * RESULT, {0, 1, 2, 3}), (0, {0, 1})])
def test_more_is_ready_where_memory_is_free(free: int, expected: set[int], tmp_path: Path) -> None:
    ready = ReadyResults(most_bytes=RESULT * 2, free_memory=lambda: free)
    part = PartWriter(Parts(tmp_path, Seal("run", "2026-01-01")), "part-0001", 100, ready)
    for index in range(5):
        part.add(index, np.arange(NUMBERS, dtype=np.float64))
        part.hand_on()
    part.close()
    assert set(ready.take()) == expected


def test_what_left_memory_for_the_disk_is_there(tmp_path: Path) -> None:
    parts, ready = Parts(tmp_path, Seal("run", "2026-01-01")), ReadyResults()
    part = PartWriter(parts, "part-0001", 100, ready)
    noise = np.random.default_rng(1).normal(size=1_000_000)
    for index in range(10):  # more than a part leaves in memory
        part.add(index, noise + index)
        part.hand_on()
    part.add(10, "small" * 100)
    part.close()
    copies = ready.take()
    assert set(copies) == set(range(10))
    results = journal_reader.results(parts, 11, failed=0)
    assert all(np.array_equal(results[index], copies[index]) for index in copies)  # type: ignore[arg-type]


def test_no_more_memory_is_free_than_the_machine_has() -> None:
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():
        assert free_memory() == 0
        return
    [total] = [int(line.split()[1]) for line in meminfo.read_text().splitlines() if line.startswith("MemTotal:")]
    assert 2**20 < free_memory() < 1024 * total


MADE: set[int] = set()
SCRATCH = numbers()


@step
def fresh_or_reused(number: int, reuse: bool) -> Numbers:
    array = SCRATCH if reuse else numbers()
    array[:] = number
    MADE.add(address(array))
    return array


@step
def firsts(results: list[Numbers]) -> list[object]:
    return [[float(array[0]) for array in results], sum(address(array) in MADE for array in results)]


@flow
def arrays(reuse: bool):
    return steps.numbers(4).map(fresh_or_reused(reuse=reuse)).agg(firsts)


@pytest.mark.parametrize(("reuse", "uncopied"), [(False, 4), (True, 0)])
@pytest.mark.parametrize("executor", ["threads", "inline"])
def test_a_step_gets_the_arrays_that_the_items_made(
    executor: Executor, reuse: bool, uncopied: int, tmp_path: Path
) -> None:
    MADE.clear()
    assert Local(tmp_path, executor, workers=1).run(arrays(), {"reuse": reuse}) == [[0.0, 1.0, 2.0, 3.0], uncopied]
