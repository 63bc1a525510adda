"""What is known of an execution from outside, and the limits that its data must keep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import msgspec

from lokki.base.quotas import STATE_BYTES, VARIABLES_BYTES
from lokki.base.values import Json
from lokki.emulator.states.failures import DATA_LIMIT, QUERY_FAILED, StatesError
from lokki.emulator.states.history import Child
from lokki.emulator.states.ranges import RANGES
from lokki.emulator.states.services import ACCOUNT, REGION

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an execution ended.

    ``error`` and ``cause`` say why it did not succeed.
    """

    status: Literal["SUCCEEDED", "FAILED", "TIMED_OUT", "ABORTED"]
    output: Json = None
    error: str = ""
    cause: str = ""


@dataclass(frozen=True, slots=True)
class Identity:
    """Which execution it is.

    * ``timeout``: seconds that it may take.
    * ``child``: its part of a map, where it is a child.
    * ``express``: whether it is an EXPRESS execution.
    """

    machine: str
    name: str
    timeout: float | None = None
    child: Child | None = None
    express: bool = False

    @property
    def arn(self) -> str:
        """The execution's ARN.

        https://docs.aws.amazon.com/service-authorization/latest/reference/list_awsstepfunctions.html
        """
        kind = "express" if self.express else "execution"
        return f"arn:aws:states:{REGION}:{ACCOUNT}:{kind}:{self.machine}:{self.name}"


def timestamp(moment: datetime) -> str:
    """Write a time as Step Functions does.

    >>> timestamp(datetime(2026, 11, 23, 7, 30, 0, 12_345))
    '2026-11-23T07:30:00.012Z'
    """
    return f"{moment.replace(tzinfo=None).isoformat(timespec='milliseconds')}Z"


def in_range(value: Json, name: str, state: str) -> float:
    """Return the number that an expression gave for a field.

    Raises StatesError for one out of the field's range.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not RANGES[name].has(value):
        raise StatesError(QUERY_FAILED, f"{name} of '{state}' is {_encode(value).decode()[:80]}, not {RANGES[name]}.")
    return value


def variables_size(variables: Mapping[str, Json]) -> int:
    """Return how many bytes variables have."""
    return sum(len(_encode(value)) for value in variables.values())


def check_variables(size: int, state: str) -> None:
    """Raise StatesError if all variables of an execution have too many bytes.

    https://docs.aws.amazon.com/step-functions/latest/dg/workflow-variables.html
    """
    if size > VARIABLES_BYTES:
        problem = f"After the state '{state}' the execution's variables have {size} bytes"
        raise StatesError(DATA_LIMIT, f"{problem}, more than the {VARIABLES_BYTES} that Step Functions takes.")


def check_size(value: Json, what: str) -> bytes:
    """Return the text of a JSON value.

    Raises StatesError for more than 256 KiB of it.
    """
    text = _encode(value)
    if len(text) > STATE_BYTES:
        raise StatesError(
            DATA_LIMIT, f"{what} has {len(text)} bytes, more than the {STATE_BYTES} that Step Functions takes."
        )
    return text
