"""Steps that take the results of a map one by one: an Iterable, an Iterator or a Sequence, loaded when it is used."""

# A chain is wrong on purpose here; what mypy says of them is the subject of test_typing.py.
# mypy: disable-error-code="call-overload"

import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import steps
from support.local_runs import EXECUTORS, Local

from lokki import FlowError, Retry, flow, step
from lokki.engine.invocation import prepare
from lokki.engine.lazy import LazyResults
from lokki.errors import DamagedError
from lokki.plans.operations import Call
from lokki.plans.templates import Output
from lokki.runner import Executor, Resume


@step
def large_or_small(number: int) -> object:
    if number == 4:
        raise ValueError("four")
    return [number] if number % 2 else bytes([number]) * 20_000


@step
def of_iterable(results: Iterable[Any], more: int = 0) -> object:
    return type(results).__name__, [len(each) for each in results], [len(each) for each in results], more


@step
def of_iterator(results: Iterator[Any]) -> object:
    first = next(results)
    return len(first), [len(each) for each in results], list(results)


@step
def of_sequence(results: Sequence[Any]) -> object:
    again = results[0:2]
    results[1].append("changed")  # a copy
    places = (len(results), results[1], results[-1][0], [len(each) for each in reversed(results)], [3] in results)
    return places, type(again).__name__, [len(each) for each in again], [len(each) for each in results[::-2]]


@step
def of_list(results: list[Any]) -> object:
    return type(results).__name__, len(results)


@step
def handed_on(results: Sequence[Any]) -> Sequence[Any]:
    return results


@step
def untyped(results):  # type: ignore[no-untyped-def]
    return type(results).__name__


@flow
def all_kinds(count: int = 7):
    block = steps.numbers(count).map(large_or_small, tolerate=1)
    return (
        block.agg(of_iterable(more=2)),
        block.agg(of_iterator),
        block.agg(of_sequence),
        block.agg(of_list),
        block.agg(handed_on),
        block.agg(untyped),
    )


@pytest.mark.parametrize("executor", EXECUTORS)
def test_results_come_as_the_step_asks_for_them(executor: Executor, tmp_path: Path) -> None:
    iterable, iterator, sequence, as_list, returned, other = Local(tmp_path, executor).run(all_kinds())  # type: ignore[misc]
    sizes = [len(bytes([n]) * 20_000) if n % 2 == 0 else 1 for n in (0, 1, 2, 3, 5, 6)]
    assert iterable == ("LazyResults", sizes, sizes, 2)
    assert iterator == (sizes[0], sizes[1:], [])
    assert sequence == ((6, [1], 6, sizes[::-1], True), "LazyResults", sizes[:2], sizes[::-2])
    assert as_list == ("list", 6)
    assert (type(returned), [len(each) for each in returned]) == (list, sizes)
    assert other == "list"


def test_a_step_that_is_tried_again_gets_the_results_anew(tmp_path: Path) -> None:
    tries: list[int] = []

    @step(retry=Retry(attempts=3, delay=0))
    def unsteady(results: Iterator[int]) -> int:
        total = sum(results)
        tries.append(total)
        if len(tries) < 3:
            raise OSError("not yet")
        return total

    @flow
    def trying():
        return steps.numbers(5).map(numbered).agg(unsteady)

    assert (Local(tmp_path).run(trying()), tries) == (10, [10, 10, 10])


def test_a_step_that_changed_a_list_of_large_results_gets_them_anew(tmp_path: Path) -> None:
    """At first they need not be read; what the steps returned shares no memory with them."""
    kept = [bytearray(bytes([n]) * 100_000) for n in range(4)]
    tries: list[list[int]] = []

    @step
    def large(number: int) -> bytearray:
        return kept[number]

    @step(retry=Retry(attempts=2, delay=0))
    def spoiling(results: list[bytearray]) -> list[int]:
        tries.append([result[0] for result in results])
        for result in results:
            result[:] = b"!"
        if len(tries) == 1:
            raise OSError("not yet")
        return tries[-1]

    @flow
    def trying():
        return steps.numbers(4).map(large).agg(spoiling)

    assert (Local(tmp_path).run(trying()), tries) == ([0, 1, 2, 3], [[0, 1, 2, 3]] * 2)
    assert [bytes(memory[:2]) for memory in kept] == [bytes([n, n]) for n in range(4)]


def test_a_result_that_cannot_be_loaded_ends_the_run_and_no_step(tmp_path: Path) -> None:
    """The step cannot catch it, is not tried again, and what is damaged is computed anew when the run is resumed."""
    damaged: list[bool] = []

    @step(retry=Retry(attempts=3, delay=0))
    def careless(results: Iterable[bytes]) -> int:
        total = 0
        try:
            for number, result in enumerate(results):
                total += len(result)
                if number == 0 and not damaged:
                    damaged.append(True)
                    for pack in tmp_path.glob("runs/*/numbers/map_results/*.pkl.gz"):
                        pack.write_bytes(pack.read_bytes()[:-30_000] + bytes(30_000))
        except Exception:
            return -1
        return total

    @flow
    def loading():
        return steps.numbers(9).map(random_bytes).agg(careless)

    local = Local(tmp_path, workers=1)
    with pytest.raises(DamagedError, match=r"random_bytes\(\) runs again when the run is resumed\.$"):
        local.run(loading(), run_id="run-1")
    assert local.run(loading(), resume=Resume("run-1")) == 9 * 20_000


@step
def random_bytes(number: int) -> bytes:
    import random

    return random.Random(number).randbytes(20_000)


def test_an_iterator_fits_results_of_its_type() -> None:
    @step
    def of_words(results: Iterator[str]) -> int:
        return 0

    @flow
    def wrong():
        return steps.numbers(3).map(numbered).agg(of_words)

    with pytest.raises(FlowError, match=r"takes list\[str\] as 'results', but gets the list of what numbered"):
        wrong()


@step
def numbered(number: int) -> int:
    return number


def test_results_below_a_map_come_as_an_iterator_too() -> None:
    """Deployed they are a value of the item, which is a list."""

    @step
    def added(results: Iterator[int]) -> int:
        return next(results) + sum(results)

    invocation = prepare(Call("added", "added", (), Output("")), added, {})
    assert (invocation([1, 2, 3]), invocation(iter([1, 2, 3])), invocation.lazy) == (6, 6, False)


def test_what_is_loaded_is_asked_for_in_order_and_once_for_each_use() -> None:
    asked: list[list[int]] = []

    def load(indexes: Sequence[int]) -> Iterator[object]:
        asked.append(list(indexes))
        yield from indexes

    results = LazyResults([0, 2, 5], load)
    assert (results[1], list(results[1:]), next(iter(results)), len(results)) == (2, [2, 5], 0, 3)
    assert asked == [[2], [2, 5], [0, 2, 5]]
    with pytest.raises(IndexError):
        results[3]


LARGE = """
import os
from collections.abc import Iterable
from lokki import flow, step

@step
def numbers(count: int) -> list[int]:
    return list(range(count))

@step
def block(number: int) -> bytes:
    return number.to_bytes(8) + os.urandom(1_000_000)

@step
def total(blocks: Iterable[bytes]) -> int:
    return sum(int.from_bytes(block[:8]) for block in blocks)

@flow
def large(count: int):
    return numbers(count).map(block).agg(total)

print(large.using(progress=False, workers=4).run(count=600))
# Not getrusage: a process begins there with what the one had that started it.
[peak] = (line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM:"))
print(int(peak) * 1024)
"""


@pytest.mark.slow
def test_results_of_600_mb_go_through_a_map_and_an_agg_in_200(tmp_path: Path) -> None:
    (tmp_path / "large.py").write_text(LARGE)
    done = subprocess.run(
        [sys.executable, "large.py"], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    result, peak = map(int, done.stdout.split())
    assert result == sum(range(600))
    assert peak < 200 * 10**6
