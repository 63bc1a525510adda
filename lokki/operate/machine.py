"""The state machine of a run: which state is which call, and which map it belongs to. Pure functions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import cast

from lokki.base.values import Json
from lokki.errors import StoreError


@dataclass(frozen=True, slots=True)
class MapState:
    """A map: the call whose items it takes, its inner calls in order, and how many items a child has (0: one each)."""

    source: str
    inner: tuple[str, ...]
    batch: int = 0


@dataclass(frozen=True, slots=True)
class Machine:
    """The states in their order: ``calls``: the call of each task outside of maps, ``maps``: what each map is."""

    order: tuple[str, ...] = ()
    calls: Mapping[str, str] = field(default_factory=dict)
    maps: Mapping[str, MapState] = field(default_factory=dict)


def read_machine(definition: Json) -> Machine:
    """Read the definition of a state machine. Raises StoreError for one that lokki did not build."""
    order: list[str] = []
    calls: dict[str, str] = {}
    maps: dict[str, MapState] = {}
    previous = ""
    try:
        for name, state in _in_order(cast("dict[str, Json]", definition)):
            order.append(name)
            if state["Type"] == "Map":
                inner = tuple(_call(each) for _, each in _in_order(cast("dict[str, Json]", state["ItemProcessor"])))
                batcher = cast("dict[str, int]", state.get("ItemBatcher") or {})
                maps[name] = MapState(previous, inner, batcher.get("MaxItemsPerBatch", 0))
            else:
                previous = calls[name] = _call(state)
                # Where a call runs again in a larger function, it is the same call.
                calls |= {
                    str(catch["Next"]): previous for catch in cast("list[dict[str, Json]]", state.get("Catch", []))
                }
    except (KeyError, TypeError) as error:
        raise StoreError(f"the run's state machine is none that lokki builds: {error!r}.") from None
    return Machine(tuple(order), calls, maps)


def _in_order(machine: dict[str, Json]) -> Iterator[tuple[str, dict[str, Json]]]:
    states = cast("dict[str, dict[str, Json]]", machine["States"])
    name: Json = machine["StartAt"]
    while name is not None:
        yield cast("str", name), states[cast("str", name)]
        name = states[cast("str", name)].get("Next")


def _call(state: dict[str, Json]) -> str:
    arguments = cast("dict[str, dict[str, Json]]", state["Arguments"])
    return str(arguments["Payload"]["call"])


def execution_arn(state_machine: str, run_id: str) -> str:
    """Return the ARN of an execution, whose name is the run's id; it has neither version nor alias in it.

    >>> execution_arn("arn:aws:states:us-east-1:1:stateMachine:birds-flow", "run-1")
    'arn:aws:states:us-east-1:1:execution:birds-flow:run-1'

    https://docs.aws.amazon.com/step-functions/latest/apireference/API_DescribeExecution.html
    """
    return f"{state_machine.replace(':stateMachine:', ':execution:', 1)}:{run_id}"


def results_folder(map_run: str) -> str:
    """Return the folder below ResultWriter's prefix that a Map Run writes to: the UUID at the end of its ARN.

    >>> results_folder("arn:aws:states:us-east-1:1:mapRun:birds-flow/get_birds:4977ded7-b097-3bee-81e1-7863c5660f29")
    '4977ded7-b097-3bee-81e1-7863c5660f29'

    https://docs.aws.amazon.com/step-functions/latest/dg/input-output-resultwriter.html
    """
    return map_run.rpartition(":")[2]


def console_link(arn: str) -> str:
    """Return where AWS's console shows an execution.

    >>> console_link("arn:aws:states:us-east-1:1:execution:b:r")
    'https://us-east-1.console.aws.amazon.com/states/home?region=us-east-1#/v2/executions/details/arn:aws:states:us-east-1:1:execution:b:r'
    """
    _, partition, _, region, *_ = arn.split(":")
    host = {"aws-cn": "amazonaws.cn", "aws-us-gov": "amazonaws-us-gov.com"}.get(partition, "aws.amazon.com")
    return f"https://{region}.console.{host}/states/home?region={region}#/v2/executions/details/{arn}"
