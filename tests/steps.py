"""Steps and flows that tests of the local runner share; at the top level of a module, where processes find them."""

import datetime
import multiprocessing
import os
import signal
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

from lokki import Retry, flow, step

KINDS = ("ints", "strings", "nothing", "nested", "tuples", "dates", "big", "frames", "mixed", "empty", "streamed")


def make_frame(rows: int) -> object:
    import pandas as pd  # late, since it takes long and few tests need it

    return pd.DataFrame({"a": range(rows), "b": [f"x{row}" for row in range(rows)]})


def make_values(kind: str, count: int) -> list[object]:
    made: dict[str, object] = {
        "ints": lambda n: n * 7 - 3,
        "strings": lambda n: f"bird {n}\n\u2028ä",
        "nothing": lambda n: None,
        "nested": lambda n: {"n": [n, {"deep": [None, True, n / 3]}], "s": {n, n + 1}, 5: b"\0" * n},
        "tuples": lambda n: (n, ("a", [n]), ()),
        "dates": lambda n: datetime.date(2026, 1, 1) + datetime.timedelta(days=n),
        "big": lambda n: bytes([n % 256]) * (3000 + n * 9000) + os.fsencode(str(n)),
        "frames": make_frame,
    }
    if kind == "mixed":
        kinds = list(made)
        return [made[kinds[n % len(kinds)]](n) for n in range(count)]  # type: ignore[operator]
    return [made[kind](n) for n in range(count)] if kind in made else []  # type: ignore[operator]


@step
def values(kind: str, count: int) -> object:
    if kind == "streamed":
        return (value for value in make_values("mixed", count))
    return make_values(kind, count)


@step
def split(value: object) -> list[object]:
    return value if isinstance(value, list) else [value, [value], None]


@step
def same(value: object) -> object:
    return value


@step
def wrap(value: object) -> object:
    return [value]


@step
def pair(value: object) -> object:
    return (value, datetime.date(2026, 7, 1))


@step
def nothing(value: object) -> None:
    return None


@step
def swell(value: object) -> object:
    return {"payload": "honk" * 20_000, "of": value}


@step
def tag(value: object, label: str, since: datetime.date = datetime.date(2026, 1, 1)) -> object:
    return [label, since, value]


_tries = threading.local()


def spoil(value: object) -> None:
    """Change a value, as a step may that fails later: its next try must not see that."""
    if isinstance(value, list):
        value.append("spoilt")
    elif isinstance(value, dict):
        value.clear()


@step(retry=Retry(attempts=3, delay=0, on=(ConnectionError,)))
def succeed_late(value: object) -> object:
    _tries.count = getattr(_tries, "count", 0) + 1
    if _tries.count % 3:
        spoil(value)
        raise ConnectionResetError(f"try {_tries.count}")
    return value


@step
def fragile(value: object) -> object:
    if zlib.crc32(repr(value).encode()) % 3 == 0:
        raise ValueError("not this one")
    return value


TRIP: list[int] = []


@step
def trip(value: object) -> object:
    """Fail at the call that TRIP counts down to."""
    if TRIP:
        TRIP[0] -= 1
        if TRIP[0] == 0:
            spoil(value)
            raise RuntimeError("tripped")
    return value


@step
def collect(results: list[object]) -> list[object]:
    return results


@step
def count(results: list[object]) -> int:
    return len(results)


UNARY = {s.name: s for s in (same, wrap, pair, nothing, swell, succeed_late, trip)}
CLOSING = {s.name: s for s in (collect, count)}


# --- plain numbers ---


@step
def numbers(count: int) -> list[int]:
    return list(range(count))


@step
def double(number: int) -> int:
    return number * 2


@step
def add(number: int, amount: int) -> int:
    return number + amount


@step
def total(results: list[int]) -> int:
    return sum(results)


@flow
def doubled(count: int = 10):
    return numbers(count).map(double).agg(total)


@flow
def listed(count: int = 10):
    return numbers(count).map(double).agg(collect)


@step
def gather(results: list[int]) -> list[int]:
    return results


@flow
def three_maps():
    block = numbers(4).map(double).agg(gather)
    return block.map(double).agg(gather).map(add(amount=2)).agg(total)


# --- steps that note in a file that they ran, and do as they are told there ---


def note(log: str, text: str) -> None:
    """Append a line at once; many processes may do so."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(descriptor, f"{text}\n".encode())
    os.close(descriptor)


def noted(log: Path) -> list[str]:
    return log.read_text().splitlines() if log.exists() else []


@step
def first(number: int, log: str) -> int:
    note(log, f"first {number}")
    return number * 10


@step
def second(number: int, log: str) -> int:
    note(log, f"second {number}")
    if Path(f"{log}.fail.{number}").exists():
        raise ValueError(f"cannot take {number}")
    return number + 1


@step
def third(number: int, log: str) -> int:
    note(log, f"third {number}")
    return number * 2


@flow
def chained(log: str, count: int = 6):
    return numbers(count).map(first(log=log)).next(second(log=log)).next(third(log=log)).agg(total)


# --- steps that end their process ---


@step
def die_at(number: int, doomed: int, how: str, log: str) -> int:
    note(log, f"{os.getpid()} {number}")
    if number == doomed:
        if how == "exit":
            os._exit(7)
        os.kill(os.getpid(), getattr(signal, how))
        time.sleep(30)
    return number


@step(retry=Retry(attempts=3, delay=0.01))
def die_twice(number: int, log: str) -> int:
    note(log, str(number))
    if number == 3 and noted(Path(log)).count("3") < 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@flow
def dying(log: str, how: str = "SIGKILL", count: int = 20):
    return numbers(count).map(die_at(doomed=5, how=how, log=log)).agg(collect)


@flow
def dying_tolerated(log: str, how: str = "SIGKILL", count: int = 20):
    return numbers(count).map(die_at(doomed=5, how=how, log=log), tolerate=1).agg(collect)


@flow
def dying_twice(log: str, count: int = 8):
    return numbers(count).map(die_twice(log=log)).agg(collect)


# --- time ---


@step(timeout=0.3)
def sleepy(number: int, log: str) -> int:
    note(log, f"{os.getpid()} {number}")
    if number == 2:
        time.sleep(30)
    return number


@step(timeout=0.3, retry=Retry(attempts=3, delay=0.01))
def sleepy_at_first(number: int, log: str) -> int:
    note(log, str(number))
    if number == 2 and noted(Path(log)).count("2") < 3:
        time.sleep(30)
    return number


@flow
def too_slow(log: str):
    return numbers(5).map(sleepy(log=log), tolerate=1).agg(collect)


@flow
def slow_at_first(log: str):
    return numbers(5).map(sleepy_at_first(log=log)).agg(collect)


@step
def sleep(number: int, seconds: float) -> int:
    time.sleep(seconds)
    return number


@step
def sleep_once(seconds: float) -> int:
    time.sleep(seconds)
    return 1


@flow(timeout=0.3)
def late_in_map(seconds: float = 30.0):
    return numbers(4).map(sleep(seconds=seconds)).agg(collect)


@flow(timeout=0.3)
def late_in_step(seconds: float = 30.0):
    return sleep_once(seconds)


@flow
def slow(log: str, count: int = 40, seconds: float = 0.05):
    return numbers(count).map(first(log=log)).next(sleep(seconds=seconds)).next(third(log=log)).agg(total)


@flow
def hung(seconds: float = 60.0):
    return numbers(2).map(sleep(seconds=seconds)).agg(total)


# --- environment ---


@step(env={"BIRD": "goose"})
def read_bird(number: int) -> str:
    return os.environ["BIRD"]


@step(env={"BIRD": "duck"})
def read_other_bird(bird: str) -> list[str]:
    return [bird, os.environ["BIRD"]]


@flow
def with_environment():
    return numbers(3).map(read_bird).agg(collect)


@flow
def with_two_environments():
    return numbers(3).map(read_bird).next(read_other_bird).agg(collect)


# --- bad results ---


class Locked:
    """Does not pickle."""

    def __reduce__(self) -> str:
        raise RuntimeError("no pickling here")


@step
def lock(number: int) -> object:
    return threading.Lock() if number == 2 else number


@step
def odd(number: int) -> object:
    return Locked() if number == 2 else number


@flow
def locks_last():
    return numbers(4).map(lock).agg(count)


@flow
def locks_inside():
    return numbers(4).map(lock).next(same).agg(count)


@flow
def odd_last():
    return numbers(4).map(odd).agg(count)


@step
def interrupt(number: int) -> int:
    if number == 2:
        raise KeyboardInterrupt
    return number


@flow
def interrupted():
    return numbers(4).map(interrupt).agg(count)


# --- the kill storm ---


def work_for(seconds: float, number: object) -> None:
    """Take a while; every other hundred of items takes eight times as long, which nobody can foresee."""
    end = time.perf_counter() + seconds * (8 if int(str(number)) % 200 >= 100 else 1)
    while time.perf_counter() < end:
        time.sleep(seconds / 4)


@step
def storm_a(number: int, log: str, seconds: float) -> int:
    note(log, f"a {number} {time.monotonic_ns()} {os.getpid()}.{threading.get_ident()}")
    work_for(seconds, number)
    return number


@step
def storm_b(number: int, log: str, seconds: float) -> dict[str, object]:
    work_for(seconds, number)
    return {"n": number, "payload": b"honk" * 1500}


@step
def storm_c(value: dict[str, object], log: str, seconds: float) -> dict[str, object]:
    work_for(seconds, value["n"])
    note(log, f"c {value['n']} {time.monotonic_ns()} {os.getpid()}.{threading.get_ident()}")
    return value


@step
def storm_total(results: list[dict[str, object]]) -> list[int]:
    assert all(result["payload"] == b"honk" * 1500 for result in results)
    return [int(str(result["n"])) for result in results]


@flow
def storm(log: str, count: int = 2000, seconds: float = 0.0001):
    return (
        numbers(count)
        .map(storm_a(log=log, seconds=seconds))
        .next(storm_b(log=log, seconds=seconds))
        .next(storm_c(log=log, seconds=seconds))
        .agg(storm_total)
    )


@step
def graph_call(value: list[int], name: str, log: str, seconds: float) -> list[int]:
    note(log, f"{name} begins {os.getpid()}")
    work_for(seconds * 50, 0)
    note(log, f"{name} ends {os.getpid()}")
    return value


@step
def graph_score(value: dict[str, object], log: str, model: list[int], common: list[int]) -> list[int]:
    note(log, f"c {value['n']} {time.monotonic_ns()} {os.getpid()}.{threading.get_ident()}")
    model.append(int(str(value["n"])))  # a list of its own
    assert common == [7]
    return model


@step
def graph_total(scores: list[list[int]], parts: list[list[int]]) -> object:
    return [[score[-1] for score in scores], max(map(len, scores)), parts]


@flow
def graph_storm(log: str, count: int = 300, seconds: float = 0.0001):
    source = numbers(count).next(graph_call(name="source", log=log, seconds=seconds))
    model = source.next(graph_call(name="model", log=log, seconds=seconds))
    common = graph_call([7], name="common", log=log, seconds=seconds)
    scored = source.map(storm_a(log=log, seconds=seconds)).next(storm_b(log=log, seconds=seconds))
    scored = scored.next(graph_score(log=log, model=model.result, common=common.result))
    late = common.next(graph_call(name="late", log=log, seconds=0.001))
    squares = numbers(20).map(double).agg(graph_call(name="doubled", log=log, seconds=seconds))
    return scored.agg(graph_total(parts=[late.result, squares.result, model.result]))


@step
def generate(count: int, log: str) -> Iterator[int]:
    for number in range(count):
        note(log, f"yield {number}")
        yield number


@step
def stick(number: int, log: str) -> int:
    if number == 0:
        time.sleep(0.5)
        raise ValueError("first")
    time.sleep(120)
    return number


@flow
def stuck(log: str):
    return numbers(2).map(stick(log=log)).agg(total)


@step
def in_a_child(number: int) -> int:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(abs, (-number,))


@flow
def in_children(count: int = 2):
    return numbers(count).map(in_a_child).agg(gather)
