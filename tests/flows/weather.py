"""Flows of four shapes over a small network of weather stations, whose reports people look at."""

import os
import time

from lokki import flow, main, step


@step
def stations(count: int) -> list[str]:
    print(f"{count} stations answer")
    time.sleep(0.05)
    return [f"station-{number}" for number in range(count)]


@step
def hours(station: str) -> list[int]:
    return [int(station.partition("-")[2]) * 100 + hour for hour in range(8)]


@step
def read(hour: int) -> int:
    print(f"reading hour {hour}")
    time.sleep(0.002 * (hour % 7))
    if hour % 31 == 5:
        raise ValueError(f"no reading at hour {hour}: the sensor was covered by snow")
    if hour % 41 == 2:
        raise TimeoutError(f"the station did not answer at hour {hour}")
    return hour * 3 % 17


@step
def mean(readings: list[int]) -> float:
    return sum(readings) / len(readings)


@step
def rank(means: list[float]) -> list[float]:
    time.sleep(0.03)
    return sorted(means, reverse=True)


@step
def limits(names: list[str]) -> dict[str, float]:
    time.sleep(0.12)
    return {"low": 1.0, "high": 9.0}


@step
def is_complete(means: list[float]) -> bool:
    return len(means) > 3


@step
def publish(means: list[float]) -> str:
    if "BROKEN" in os.environ:
        raise ConnectionError("nobody takes the bulletin")
    return f"{means[0]:.1f}"


@step
def ask_again(means: list[float]) -> str:
    return "too few"


@step
def bulletin(limit: dict[str, float], text: str) -> str:
    return f"{text} of {limit['high']:.0f}"


@flow
def per_station(station: str):
    return hours(station).map(read, tolerate=0.5).agg(mean)


@flow
def nested_flow(count: int = 6, region: str = "north"):
    """Mean of each station, and how they rank."""
    return stations(count).map(per_station).agg(rank).next(publish)


@flow
def switch_flow(count: int = 2):
    """Publish, or ask again where too few stations answered."""
    names = stations(count)
    limit = names.next(limits)
    return (limit, names.map(per_station).agg(rank).switch(is_complete, {True: publish, False: ask_again}))


@flow
def weather_flow(count: int = 12, region: str = "north"):
    """A bulletin of the means of all stations, held against their limits."""
    names = stations(count)
    limit = names.next(limits)
    text = names.map(per_station).agg(rank).switch(is_complete, {True: publish, False: ask_again})
    return bulletin(limit.result, text.result)


@step
def numbers(count: int) -> list[int]:
    return list(range(count))


@step
def halve(number: int) -> float:
    if number % 1000 == 7:
        raise ArithmeticError(f"{number} is odd")
    return number / 2


@step
def count_all(halves: list[float]) -> int:
    return len(halves)


@flow
def million_flow(count: int = 1_000_000):
    return numbers(count).map(halve, tolerate=0.01).agg(count_all)


if __name__ == "__main__":
    main(nested_flow, switch_flow, weather_flow, million_flow)
