"""A Task that invokes a step's function, before it is written as Amazon States Language.

https://docs.aws.amazon.com/step-functions/latest/dg/connect-lambda.html
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from lokki.base.values import Json

type AslState = dict[str, Json]
"""A state, or fields of one, in Amazon States Language."""


BATCH_BYTES: Final = 200_000
"""Most bytes of items in a batch: with the batch's own input they must stay below the 256 KiB of a state's input.
https://docs.aws.amazon.com/step-functions/latest/dg/input-output-itembatcher.html"""


def expression(jsonata: str) -> str:
    """Return JSONata as a field of a state holds it."""
    return f"{{% {jsonata} %}}"


@dataclass(frozen=True, slots=True)
class TaskState:
    """One invocation of a function.

    - ``resource``: the ARN of the action
    - ``function``: the ARN of the function
    - ``payload``: the event that the function gets
    - ``timeout``: seconds
    - ``output``: what the next state gets
    - ``assign``: variables, if the task sets any
    """

    resource: str
    function: str
    payload: Mapping[str, Json]
    timeout: int
    output: Json
    assign: Mapping[str, Json] | None = None

    def in_function(self, function: str) -> TaskState:
        """Return the task that invokes another function."""
        return replace(self, function=function)

    def to_asl(self) -> AslState:
        """Return the state, without what is tried again and what is next."""
        state: AslState = {
            "Type": "Task",
            "Resource": self.resource,
            "Arguments": {"FunctionName": self.function, "Payload": dict(self.payload)},
            "TimeoutSeconds": self.timeout,
        }
        if self.assign is not None:
            state["Assign"] = dict(self.assign)
        return state | {"Output": self.output}
