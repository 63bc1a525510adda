"""The states of a call, its Task and those for what its function has no memory for, and the choice after one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from lokki.base.naming import LARGER_SUFFIX
from lokki.base.values import Json
from lokki.builder.batches import BatchCall
from lokki.builder.compiled import Compiled
from lokki.builder.names import function_placeholder
from lokki.builder.placeholders import INVOKE_PLACEHOLDER
from lokki.builder.retries import DEATHS
from lokki.builder.states import state_of
from lokki.builder.tasks import AslState, TaskState, expression
from lokki.builder.timing import alone_rules, retry_rules, task_timeout
from lokki.plans.operations import Call, FanOut, Switch

ATTEMPT: Final = "{% $states.context.State.RetryCount %}"
"""0 for the first try. https://docs.aws.amazon.com/step-functions/latest/dg/input-output-contextobject.html"""

RUN_ID: Final = "{% $states.context.Execution.Name %}"


def next_or_end(name: str | None) -> AslState:
    """Return the field that says what is next; None for nothing."""
    return {"End": True} if name is None else {"Next": name}


def params_of(calls: Iterable[Call]) -> AslState:
    """Return the parameters of calls, read from the variable that holds all."""
    return {name: expression(f"$params.{name}") for name in sorted({name for call in calls for name in call.params})}


def call_task(
    compiled: Compiled, call: Call, payload: AslState, output: Json, assign: Mapping[str, Json] | None = None
) -> TaskState:
    """Return the Task that invokes the function of a call.

    https://docs.aws.amazon.com/step-functions/latest/dg/connect-lambda.html
    """
    return TaskState(
        resource=f"${{{INVOKE_PLACEHOLDER}}}",
        function=f"${{{function_placeholder(call.step)}}}",
        payload=payload,
        timeout=task_timeout(compiled, compiled.step_of(call)),
        output=output,
        assign=assign or None,
    )


def call_states(
    compiled: Compiled,
    task: TaskState,
    call: Call,
    then: AslState,
    *,
    express: bool = False,
    side_by_side: int = 1,
) -> dict[str, Json]:
    """Return the task of a call on one value, and the larger one.

    The larger one gets what ran out of memory. It has the same input, and what follows takes its result alike.
    ``side_by_side``: how many tasks of the execution may wait for a free function at one time.
    """
    name, larger = state_of(call), compiled.larger_functions.get(call.step)
    step = compiled.step_of(call)
    rules = retry_rules(step, batch=False, express=express, side_by_side=side_by_side)
    retry: list[Json] = [rule.to_asl() for rule in rules]
    if larger is None:
        return {name: task.to_asl() | {"Retry": retry, **then}}
    rules = retry_rules(step, batch=False, express=express, last=False, side_by_side=side_by_side)
    catch: Json = {
        "ErrorEquals": list(DEATHS),
        "Output": "{% $states.input %}",
        "Next": f"{name}{LARGER_SUFFIX}",
    }
    larger_function = f"${{{function_placeholder(larger.name)}}}"
    return {
        name: task.to_asl() | {"Retry": [rule.to_asl() for rule in rules], "Catch": [catch], **then},
        f"{name}{LARGER_SUFFIX}": task.in_function(larger_function).to_asl() | {"Retry": retry, **then},
    }


def batch_states(
    compiled: Compiled, task: TaskState, call: Call, fan_out: FanOut, then: AslState, *, express: bool
) -> dict[str, Json]:
    """Return the states of a call on a batch."""
    step, larger = compiled.step_of(call), compiled.larger_functions.get(call.step)
    return BatchCall(
        state_of(call),
        task,
        rules=retry_rules(step, batch=True, express=express),
        alone=alone_rules(step, express=express),
        larger_function=None if larger is None else f"${{{function_placeholder(larger.name)}}}",
        begins=call is fan_out.body[0],
        tolerates=bool(fan_out.options.tolerate),
        then=then,
    ).states()


def choice_state(switch: Switch, index: str) -> AslState:
    """Return the choice between the cases of a switch.

    ``index``: the expression of the number of the case. There is always one: a value that has no case is an error of
    the step that returned it.
    """
    choices: list[Json] = [
        {"Condition": expression(f"{index} = {number}"), "Next": state_of(case.block[0])}
        for number, case in enumerate(switch.cases)
    ]
    return {"Type": "Choice", "Choices": choices}
