"""The state machine of a flow, in Amazon States Language with JSONata: one Task per call, one distributed Map per map.

https://docs.aws.amazon.com/step-functions/latest/dg/concepts-amazon-states-language.html and
https://docs.aws.amazon.com/step-functions/latest/dg/transforming-data.html for JSONata. ``${…}`` are places that the
template fills (DefinitionSubstitutions): the bucket, the flow's name and the functions' ARNs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from fractions import Fraction
from itertools import zip_longest
from typing import cast

from lokki.base.naming import LARGER_SUFFIX, MAP_SUFFIX, state_name
from lokki.base.quotas import CHILDREN_AT_ONCE, LONGEST_TIMEOUT
from lokki.base.values import Json
from lokki.builder.halving import begin_halving, catch_deaths, halving_states
from lokki.builder.names import deployed_functions, function_placeholder, map_label, tolerated_placeholder
from lokki.builder.retries import map_rules
from lokki.builder.timing import execution_type, retry_rules, task_timeout
from lokki.config import LokkiConfig
from lokki.graph import FlowGraph
from lokki.plan import Call, FanOut, Op, Plan, lower
from lokki.store.keys import Keys

type State = dict[str, Json]

BUCKET_PLACEHOLDER = "ArtifactBucket"
FLOW_PLACEHOLDER = "FlowName"
INVOKE_PLACEHOLDER = "InvokeFunction"
READ_PLACEHOLDER = "ReadObject"
WRITE_PLACEHOLDER = "WriteObject"
CONCURRENCY_PLACEHOLDER = "MapConcurrency"

BATCH_BYTES = 200_000
"""Most bytes of items in a batch: with the batch's own input they must stay below the 256 KiB of a state's input.
https://docs.aws.amazon.com/step-functions/latest/dg/input-output-itembatcher.html"""

_RUN_ID = "{% $states.context.Execution.Name %}"

_ATTEMPT = "{% $states.context.State.RetryCount %}"
"""0 for the first try. https://docs.aws.amazon.com/step-functions/latest/dg/input-output-contextobject.html"""


def build_state_machine(graph: FlowGraph, config: LokkiConfig) -> dict[str, Json]:
    """Return the definition of a flow's state machine.

    Raises ConfigError for an ``execution_type`` that cannot hold a map's items.
    """
    plan = lower(graph)
    machine: dict[str, Json] = {
        "Comment": f"{plan.flow}, built by lokki",
        "QueryLanguage": "JSONata",
        "StartAt": _state_of(plan.ops[0]),
    }
    if plan.options.timeout is not None:
        machine["TimeoutSeconds"] = min(math.ceil(plan.options.timeout), LONGEST_TIMEOUT)
    larger = _larger_functions(graph)
    states: dict[str, Json] = {}
    for op, following in zip_longest(plan.ops, plan.ops[1:]):
        then = _next(_state_of(following) if following else None)
        if isinstance(op, FanOut):
            states[_state_of(op)] = _map_state(plan, op, config, larger) | then
        else:
            states |= _tries(_outer_task(plan, op, config), op, larger, then, batch=False, express=False)
    machine["States"] = states
    return machine


def dump_state_machine(definition: dict[str, Json]) -> bytes:
    """Write a definition as ``statemachine.json`` has it: JSON that people can read, equal bytes for equal values."""
    return (json.dumps(definition, indent=2, ensure_ascii=False) + "\n").encode()


def _state_of(op: Op) -> str:
    return state_name(op.id) + (MAP_SUFFIX if isinstance(op, FanOut) else "")


def _next(name: str | None) -> State:
    return {"End": True} if name is None else {"Next": name}


def _outer_task(plan: Plan, call: Call, config: LokkiConfig) -> State:
    """Make the Task of a call outside of maps. The first one completes the run's parameters, for all that follow."""
    payload: State = {"run_id": _RUN_ID, "call": call.id, "attempt": _ATTEMPT}
    first = call.reads is None
    if first:
        payload["params"] = "{% $states.context.Execution.Input %}"
    elif call.params:
        payload["params"] = _params([call])
    if not first:
        payload["input"] = "{% $states.input %}"
    kept: State = {}
    if first and plan.params:
        kept["Assign"] = {"params": "{% $states.result.Payload.params %}"}
    output = "{% $sift($states.result.Payload, function($value, $name) { $name != 'params' }) %}"
    kept["Output"] = output if first else "{% $states.result.Payload %}"
    return _task(plan, call, payload, config) | kept


def _task(plan: Plan, call: Call, payload: State, config: LokkiConfig) -> State:
    # https://docs.aws.amazon.com/step-functions/latest/dg/connect-lambda.html
    return {
        "Type": "Task",
        "Resource": f"${{{INVOKE_PLACEHOLDER}}}",
        "Arguments": {"FunctionName": f"${{{function_placeholder(call.step.name)}}}", "Payload": payload},
        "TimeoutSeconds": task_timeout(plan, call.step, config),
    }


def _larger_functions(graph: FlowGraph) -> dict[str, str]:
    """Return the name of the larger function of each step that has one."""
    return {each.step.name: each.name for each in deployed_functions(graph.steps) if each.larger}


def _tries(
    task: State, call: Call, larger: Mapping[str, str], then: State, *, batch: bool, express: bool
) -> dict[str, Json]:
    """Return the states of a call: its task, and those that run what ran out of memory in a larger function.

    They get what the first got, and all that follows takes the one's result for the other's.
    """
    name, function = state_name(call.id), larger.get(call.step.name)
    retry: list[Json] = [rule.to_asl() for rule in retry_rules(call, batch=batch, express=express)]
    if function is None:
        return {name: task | {"Retry": retry, **then}}
    larger_function = f"${{{function_placeholder(function)}}}"
    if batch:
        first = task | {"Retry": retry, "Catch": [begin_halving(name)], **then}
        return {name: first, **halving_states(name, task, larger_function, retry, then)}
    rules = retry_rules(call, batch=batch, express=express, last=False)
    catch: Json = catch_deaths(f"{name}{LARGER_SUFFIX}")
    arguments = cast("State", task["Arguments"]) | {"FunctionName": larger_function}
    return {
        name: task | {"Retry": [rule.to_asl() for rule in rules], "Catch": [catch], **then},
        f"{name}{LARGER_SUFFIX}": task | {"Arguments": arguments, "Retry": retry, **then},
    }


def _params(calls: Iterable[Call]) -> State:
    """Take the parameters that these calls use out of the variable in which the first task left all of them."""
    return {name: f"{{% $params.{name} %}}" for name in sorted({name for call in calls for name in call.params})}


def _map_state(plan: Plan, fan_out: FanOut, config: LokkiConfig, larger: Mapping[str, str]) -> State:
    """Make the distributed Map of a map block; its items are in the manifest that the source's task wrote.

    https://docs.aws.amazon.com/step-functions/latest/dg/state-map-distributed.html
    """
    results = Keys("").map_results(fan_out.id).removesuffix("/")
    return {
        "Type": "Map",
        "Label": map_label(fan_out.id),
        "ItemReader": {
            "Resource": f"${{{READ_PLACEHOLDER}}}",
            "ReaderConfig": {"InputType": "JSON"},
            "Arguments": {"Bucket": f"${{{BUCKET_PLACEHOLDER}}}", "Key": "{% $states.input.map_manifest_key %}"},
        },
        **_hand_on(fan_out),
        **_bounds(fan_out),
        "ItemProcessor": _processor(plan, fan_out, config, larger),
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


def _hand_on(fan_out: FanOut) -> State:
    """Say what a child execution gets: variables and the context of this one cannot be seen in it."""
    common: State = {"run_id": _RUN_ID}
    if params := _params(fan_out.inner):
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


def _bounds(fan_out: FanOut) -> State:
    """Say how many items run at once, and how many may fail.

    Without a bound of the user's, as many run as the account runs functions, which deploying fills in: children that
    have no function wait, cost transitions, and as EXPRESS fail in the end.
    https://docs.aws.amazon.com/step-functions/latest/dg/maprun-fail-threshold.html
    """
    options = fan_out.options
    bounds: State = {"MaxConcurrency": f"${{{CONCURRENCY_PLACEHOLDER}}}"}
    if options.concurrency is not None:
        bounds["MaxConcurrency"] = min(options.concurrency, CHILDREN_AT_ONCE)
    if not isinstance(options.tolerate, float):
        return bounds if options.tolerate is None else bounds | {"ToleratedFailureCount": options.tolerate}
    percentage = _share(options.tolerate) * 100
    if percentage.denominator == 1:
        return bounds | {"ToleratedFailurePercentage": percentage.numerator}
    return bounds | {"ToleratedFailureCount": f"${{{tolerated_placeholder(fan_out.id)}}}"}


def _share(tolerate: float) -> Fraction:
    """Return a share as it was written: 0.29 is 29 of 100, though 0.29 * 100 is less in binary."""
    return Fraction(repr(tolerate))


def map_substitutions(plan: Plan) -> dict[str, str]:
    """Return how many items of each map may fail, where that is no whole percentage, by placeholder.

    It is counted from the number of items, since a percentage must be whole. The expression is no part of the
    definition itself, whose fields of numbers cfn-lint wants to be numbers or placeholders.
    """
    counts: dict[str, str] = {}
    for op in plan.ops:
        if isinstance(op, FanOut) and isinstance(op.options.tolerate, float):
            share = _share(op.options.tolerate)
            if (share * 100).denominator != 1:
                expression = f"$floor($states.input.items * {share.numerator} / {share.denominator})"
                counts[tolerated_placeholder(op.id)] = f"{{% {expression} %}}"
    return counts


def _processor(plan: Plan, fan_out: FanOut, config: LokkiConfig, larger: Mapping[str, str]) -> State:
    kind = execution_type(plan, fan_out, config)
    states: dict[str, Json] = {}
    for call, following in zip_longest(fan_out.inner, fan_out.inner[1:]):
        task = _inner_task(plan, fan_out, call, config)
        then = _next(state_name(following.id) if following else None)
        batch, express = fan_out.options.batch is not None, kind == "EXPRESS"
        states |= _tries(task, call, larger, then, batch=batch, express=express)
    return {
        "ProcessorConfig": {"Mode": "DISTRIBUTED", "ExecutionType": kind},
        "StartAt": state_name(fan_out.inner[0].id),
        "States": states,
    }


def _inner_task(plan: Plan, fan_out: FanOut, call: Call, config: LokkiConfig) -> State:
    """Make the Task of a call inside a map: its input is what ``_hand_on`` says, and so is its output but for the last.

    The last one's output is the result, which ResultWriter writes: an object for an item, an array for a batch.
    """
    batch, last = fan_out.options.batch is not None, call is fan_out.inner[-1]
    common = "$states.input.BatchInput" if batch else "$states.input"
    payload: State = {"run_id": f"{{% {common}.run_id %}}", "call": call.id, "attempt": _ATTEMPT}
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
    return _task(plan, call, payload, config) | {"Output": output}
