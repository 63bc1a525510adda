"""Flows that map over their own parameters, over results that they were handed, and over what switches give."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Literal

from lokki import StepNode, each, flow, main, step


@dataclass
class Bird:
    name: str
    born: datetime.date


@step
def age(bird: Bird, today: datetime.date) -> int:
    return (today - bird.born).days


@step
def year(day: datetime.date) -> int:
    return day.year


@step
def total(numbers: list[int]) -> int:
    return sum(numbers)


@step
def number(value: int) -> int:
    return value


@step
def kind(value: int) -> Literal["many", "one", "none"]:
    return "none" if value == 0 else "one" if value == 1 else "many"


@step
def up_to(value: int) -> list[int]:
    return list(range(value))


@step
def alone(value: int) -> list[int]:
    return [value]


@step
def nothing(value: int) -> list[int]:
    return []


@step
def plus(value: int, more: int) -> int:
    return value + more


@step
def report(years: int, ages: int, numbers: int, days: list[datetime.date]) -> str:
    return f"{years} {ages} {numbers} {len(days)}"


@flow
def summed(numbers: list[int], more: int = 1) -> StepNode[..., int]:
    return each(numbers).map(plus(more=more), batch=2).agg(total)


@flow
def aged(birds: list[Bird], today: datetime.date = datetime.date(2026, 1, 1)) -> StepNode[..., int]:
    return each(birds).map(age(today=today)).agg(total)


@flow
def lists(
    days: list[datetime.date] = [datetime.date(2020, 5, 1), datetime.date(2021, 6, 1)],  # noqa: B006
    birds: list[Bird] = [Bird("goose", datetime.date(2025, 12, 1))],  # noqa: B006, B008
    value: int = 3,
) -> StepNode[..., str]:
    dates = each(days)
    years = dates.map(year).agg(total)
    chosen = number(value).switch(kind, {"many": up_to, "one": alone, "none": nothing})
    again = chosen.map(plus(more=years.result)).agg(total)
    handed_on = chosen.next(summed(more=10))
    numbers = each([again.result, handed_on.result]).after(years).map(number).agg(total)
    return report(years.result, aged(birds).result, numbers.result, dates.result)


if __name__ == "__main__":
    main(lists)
