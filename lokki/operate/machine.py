"""Names of what a run is on AWS: its execution, the folder of a map's results, its page in the console."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from lokki.base.values import Json

if TYPE_CHECKING:
    from mypy_boto3_stepfunctions.type_defs import HistoryEventTypeDef


def execution_arn(state_machine: str, run_id: str) -> str:
    """Return the ARN of an execution, whose name is the run's id.

    It has neither version nor alias in it.

    >>> execution_arn("arn:aws:states:us-east-1:1:stateMachine:birds-flow", "run-1")
    'arn:aws:states:us-east-1:1:execution:birds-flow:run-1'

    https://docs.aws.amazon.com/step-functions/latest/apireference/API_DescribeExecution.html
    """
    return f"{state_machine.replace(':stateMachine:', ':execution:', 1)}:{run_id}"


def results_folder(map_run: str) -> str:
    """Return the folder that a Map Run writes its results to.

    Below ResultWriter's prefix, it is the UUID at the end of the run's ARN.

    >>> results_folder("arn:aws:states:us-east-1:1:mapRun:birds-flow/get_birds:4977ded7-b097-3bee-81e1-7863c5660f29")
    '4977ded7-b097-3bee-81e1-7863c5660f29'

    https://docs.aws.amazon.com/step-functions/latest/dg/input-output-resultwriter.html
    """
    return map_run.rpartition(":")[2]


def function_reply(event: HistoryEventTypeDef) -> dict[str, Json] | None:
    """Return what a task's function replied.

    None for an event of another kind. It is not what the state hands on: at the end of a branch,
    that is the branch's output.
    """
    details = event.get("taskSucceededEventDetails")
    response: Json = None if details is None else msgspec.json.decode(details.get("output") or "null")
    reply = response.get("Payload") if isinstance(response, dict) else None
    return reply if isinstance(reply, dict) else None


def console_link(arn: str) -> str:
    """Return where AWS's console shows an execution.

    >>> console_link("arn:aws:states:us-east-1:1:execution:b:r")
    'https://us-east-1.console.aws.amazon.com/states/home?region=us-east-1#/v2/executions/details/arn:aws:states:us-east-1:1:execution:b:r'
    """
    _, partition, _, region, *_ = arn.split(":")
    host = {"aws-cn": "amazonaws.cn", "aws-us-gov": "amazonaws-us-gov.com"}.get(partition, "aws.amazon.com")
    return f"https://{region}.console.{host}/states/home?region={region}#/v2/executions/details/{arn}"
