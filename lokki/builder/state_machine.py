"""The state machine of a flow in Amazon States Language: a Task for each call, a distributed Map for each map block.

https://docs.aws.amazon.com/step-functions/latest/dg/concepts-amazon-states-language.html and
https://docs.aws.amazon.com/step-functions/latest/dg/transforming-data.html for JSONata. ``${…}`` are placeholders that
deploying fills, see `lokki.builder.placeholders`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from itertools import zip_longest

from lokki.base.naming import LARGER_SUFFIX, state_name
from lokki.base.quotas import CHILDREN_AT_ONCE, LONGEST_TIMEOUT
from lokki.base.values import Json
from lokki.builder.compiled import Compiled, compile_flow
from lokki.builder.halving import begin_halving, catch_deaths, halving_states
from lokki.builder.names import function_placeholder, map_label, tolerated_placeholder
from lokki.builder.placeholders import (
    BUCKET_PLACEHOLDER,
    CONCURRENCY_PLACEHOLDER,
    FLOW_PLACEHOLDER,
    INVOKE_PLACEHOLDER,
    READ_PLACEHOLDER,
    WRITE_PLACEHOLDER,
    exact_share,
)
from lokki.builder.retries import map_rules
from lokki.builder.states import state_of
from lokki.builder.tasks import BATCH_BYTES, AslState, TaskState
from lokki.builder.timing import execution_type, retry_rules, task_timeout
from lokki.config import LokkiConfig
from lokki.graph import FlowGraph
from lokki.plan_json import plan_comment
from lokki.plans.operations import Call, FanOut
from lokki.store.keys import Keys

_RUN_ID = "{% $states.context.Execution.Name %}"

_ATTEMPT = "{% $states.context.State.RetryCount %}"
"""0 for the first try. https://docs.aws.amazon.com/step-functions/latest/dg/input-output-contextobject.html"""


def build_state_machine(graph: FlowGraph, config: LokkiConfig) -> dict[str, Json]:
    """Return the definition of a flow's state machine.

    Raises ConfigError for an ``execution_type`` that cannot hold a map's items.
    """
    return state_machine_of(compile_flow(graph, config))


def state_machine_of(compiled: Compiled) -> dict[str, Json]:
    """Return the definition of a compiled flow's state machine.

    Raises what `build_state_machine` raises.
    """
    plan = compiled.plan
    machine: dict[str, Json] = {
        "Comment": plan_comment(plan),
        "QueryLanguage": "JSONata",
        "StartAt": state_of(plan.ops[0]),
    }
    if plan.options.timeout is not None:
        machine["TimeoutSeconds"] = min(math.ceil(plan.options.timeout), LONGEST_TIMEOUT)
    # zip_longest pairs the last one with None, which has no state to go on to.
    states: dict[str, Json] = {}
    for op, following in zip_longest(plan.ops, plan.ops[1:]):
        then = _next(state_of(following) if following else None)
        if isinstance(op, FanOut):
            states[state_of(op)] = _map_state(compiled, op) | then
        elif isinstance(op, Call):
            states |= _tries(compiled, _outer_task(compiled, op), op, then, batch=False, express=False)
    machine["States"] = states
    return machine


def dump_state_machine(definition: dict[str, Json]) -> bytes:
    """Write a definition as ``statemachine.json`` holds it.

    It is JSON that people can read, and equal bytes for equal values.
    """
    return (json.dumps(definition, indent=2, ensure_ascii=False) + "\n").encode()


def _next(name: str | None) -> AslState:
    return {"End": True} if name is None else {"Next": name}


def _outer_task(compiled: Compiled, call: Call) -> TaskState:
    """Return the Task of a call outside of maps.

    The first one completes the run's parameters, for all that follow.
    """
    payload: AslState = {"run_id": _RUN_ID, "call": call.id, "attempt": _ATTEMPT}
    first = call.reads is None
    if first:
        payload["params"] = "{% $states.context.Execution.Input %}"
    elif call.params:
        payload["params"] = _params([call])
    if not first:
        payload["input"] = "{% $states.input %}"
    assign: AslState | None = None
    if first and compiled.plan.params:
        assign = {"params": "{% $states.result.Payload.params %}"}
    # What follows needs the parameters as a variable, so they are not handed on a second time in the result.
    without_params = "{% $sift($states.result.Payload, function($value, $name) { $name != 'params' }) %}"
    return _task(compiled, call, payload, without_params if first else "{% $states.result.Payload %}", assign)


def _task(compiled: Compiled, call: Call, payload: AslState, output: Json, assign: AslState | None = None) -> TaskState:
    # https://docs.aws.amazon.com/step-functions/latest/dg/connect-lambda.html
    return TaskState(
        resource=f"${{{INVOKE_PLACEHOLDER}}}",
        function=f"${{{function_placeholder(call.step)}}}",
        payload=payload,
        timeout=task_timeout(compiled, compiled.step_of(call)),
        output=output,
        assign=assign,
    )


def _tries(
    compiled: Compiled, task: TaskState, call: Call, then: AslState, *, batch: bool, express: bool
) -> dict[str, Json]:
    """Return the task of a call, and its task in a larger function.

    The larger one gets what ran out of memory. It has the same input, and what follows takes its result alike.
    """
    name, larger = state_name(call.id), compiled.larger_functions.get(call.step)
    step = compiled.step_of(call)
    retry: list[Json] = [rule.to_asl() for rule in retry_rules(step, batch=batch, express=express)]
    if larger is None:
        return {name: task.to_asl() | {"Retry": retry, **then}}
    larger_function = f"${{{function_placeholder(larger.name)}}}"
    if batch:
        first = task.to_asl() | {"Retry": retry, "Catch": [begin_halving(name)], **then}
        return {name: first, **halving_states(name, task, larger_function, retry, then)}
    rules = retry_rules(step, batch=batch, express=express, last=False)
    catch: Json = catch_deaths(f"{name}{LARGER_SUFFIX}")
    return {
        name: task.to_asl() | {"Retry": [rule.to_asl() for rule in rules], "Catch": [catch], **then},
        f"{name}{LARGER_SUFFIX}": task.in_function(larger_function).to_asl() | {"Retry": retry, **then},
    }


def _params(calls: Iterable[Call]) -> AslState:
    """Return the parameters of calls, read from the first task's variable."""
    return {name: f"{{% $params.{name} %}}" for name in sorted({name for call in calls for name in call.params})}


def _map_state(compiled: Compiled, fan_out: FanOut) -> AslState:
    """Return the distributed Map of a map block.

    Its items are in the manifest that the source's task wrote.
    https://docs.aws.amazon.com/step-functions/latest/dg/state-map-distributed.html
    """
    results = Keys("").map_results(fan_out.source).removesuffix("/")
    return {
        "Type": "Map",
        "Label": map_label(fan_out.source),
        "ItemReader": {
            "Resource": f"${{{READ_PLACEHOLDER}}}",
            "ReaderConfig": {"InputType": "JSON"},
            "Arguments": {"Bucket": f"${{{BUCKET_PLACEHOLDER}}}", "Key": "{% $states.input.map_manifest_key %}"},
        },
        **_child_input(fan_out),
        **_bounds(fan_out),
        "ItemProcessor": _processor(compiled, fan_out),
        # https://docs.aws.amazon.com/step-functions/latest/dg/input-output-resultwriter.html
        "ResultWriter": {
            "Resource": f"${{{WRITE_PLACEHOLDER}}}",
            "WriterConfig": {"OutputType": "JSON", "Transformation": "FLATTEN"},
            "Arguments": {
                "Bucket": f"${{{BUCKET_PLACEHOLDER}}}",
                "Prefix": f"{{% 'lokki/${{{FLOW_PLACEHOLDER}}}/' & $states.context.Execution.Name & '{results}' %}}",
            },
        },
        "Output": {
            "results_manifest_key": "{% $states.result.ResultWriterDetails.Key %}",
            "items": "{% $states.input.items %}",
        },
        "Retry": [rule.to_asl() for rule in map_rules()],
    }


def _child_input(fan_out: FanOut) -> AslState:
    """Return the fields that say what a child execution gets.

    Variables and the context of the run cannot be seen in it.
    """
    common: AslState = {"run_id": _RUN_ID}
    if params := _params(fan_out.calls):
        common["params"] = params
    if fan_out.options.batch is None:
        return {"ItemSelector": common | {"item": "{% $states.context.Map.Item.Value %}"}}
    return {
        "ItemBatcher": {
            "MaxItemsPerBatch": fan_out.options.batch,
            "MaxInputBytesPerBatch": BATCH_BYTES,
            "BatchInput": common,
        }
    }


def _bounds(fan_out: FanOut) -> AslState:
    """Return how many items run at once, and how many may fail.

    Without a limit of the user's, as many run as the account runs functions, which deploying fills in: children that
    have no function wait, cost transitions, and as EXPRESS fail in the end.
    https://docs.aws.amazon.com/step-functions/latest/dg/maprun-fail-threshold.html
    """
    options = fan_out.options
    bounds: AslState = {"MaxConcurrency": f"${{{CONCURRENCY_PLACEHOLDER}}}"}
    if options.concurrency is not None:
        bounds["MaxConcurrency"] = min(options.concurrency, CHILDREN_AT_ONCE)
    if not isinstance(options.tolerate, float):
        return bounds if options.tolerate is None else bounds | {"ToleratedFailureCount": options.tolerate}
    percentage = exact_share(options.tolerate) * 100
    if percentage.denominator == 1:
        return bounds | {"ToleratedFailurePercentage": percentage.numerator}
    return bounds | {"ToleratedFailureCount": f"${{{tolerated_placeholder(fan_out.source)}}}"}


def _processor(compiled: Compiled, fan_out: FanOut) -> AslState:
    kind = execution_type(compiled, fan_out)
    states: dict[str, Json] = {}
    for call, following in zip_longest(fan_out.calls, fan_out.calls[1:]):
        task = _inner_task(compiled, fan_out, call)
        then = _next(state_name(following.id) if following else None)
        batch, express = fan_out.options.batch is not None, kind == "EXPRESS"
        states |= _tries(compiled, task, call, then, batch=batch, express=express)
    return {
        "ProcessorConfig": {"Mode": "DISTRIBUTED", "ExecutionType": kind},
        "StartAt": state_name(fan_out.calls[0].id),
        "States": states,
    }


def _inner_task(compiled: Compiled, fan_out: FanOut, call: Call) -> TaskState:
    """Return the Task of a call inside a map.

    Its input is what `_child_input` says, and so is its output, except for the last one's. That is the result, which
    ResultWriter writes: an object for an item, an array for a batch.
    """
    batch, last = fan_out.options.batch is not None, call is fan_out.calls[-1]
    common = "$states.input.BatchInput" if batch else "$states.input"
    payload: AslState = {"run_id": f"{{% {common}.run_id %}}", "call": call.id, "attempt": _ATTEMPT}
    if call.params:
        payload["params"] = f"{{% {common}.params %}}"
    result = "{% $states.result.Payload.items %}" if batch else "{% $states.result.Payload %}"
    output: Json = result
    if batch:
        payload["items"] = "{% $states.input.Items %}"
        if not last:
            output = {"BatchInput": "{% $states.input.BatchInput %}", "Items": result}
    else:
        payload["item"] = "{% $states.input.item %}"
        if not last:
            output = "{% $merge([$states.input, {'item': $states.result.Payload}]) %}"
    return _task(compiled, call, payload, output)
