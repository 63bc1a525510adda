"""The state machine of a flow in Amazon States Language: what runs one after another, side by side, or by choice.

A call is a Task, a map block a distributed Map, a fork a Parallel state, a switch a Choice after the call that chooses.
https://docs.aws.amazon.com/step-functions/latest/dg/concepts-amazon-states-language.html and
https://docs.aws.amazon.com/step-functions/latest/dg/transforming-data.html for JSONata. ``${…}`` are placeholders that
deploying fills, see `lokki.builder.placeholders`.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from itertools import zip_longest

from lokki.base.quotas import LONGEST_TIMEOUT
from lokki.base.values import Json
from lokki.builder.call_states import ATTEMPT, RUN_ID, call_states, call_task, choice_state, next_or_end, params_of
from lokki.builder.compiled import Compiled, compile_flow, most_at_once
from lokki.builder.map_states import map_state
from lokki.builder.states import parameters_state, result_state, state_of
from lokki.builder.tasks import AslState, TaskState, expression
from lokki.builder.timing import retry_rules
from lokki.builder.wiring import Wiring, branch_value, wire
from lokki.config import LokkiConfig
from lokki.graph import FlowGraph
from lokki.plan_json import plan_comment
from lokki.plans.operations import Block, Call, FanOut, Fork, Switch
from lokki.plans.templates import Output, source_name

_EXECUTION_INPUT = expression("$states.context.Execution.Input")

_PAYLOAD = "$states.result.Payload"

_WITHOUT_PARAMS = f"$sift({_PAYLOAD}, function($value, $name) {{ $name != 'params' }})"
"""What follows needs the parameters as a variable, so they are not handed on a second time in a reply."""


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
    writer = _Writer(compiled, wire(plan))
    first = parameters_state(plan)
    machine: dict[str, Json] = {
        "Comment": plan_comment(plan),
        "QueryLanguage": "JSONata",
        "StartAt": first or state_of(plan.ops[0]),
    }
    if plan.options.timeout is not None:
        machine["TimeoutSeconds"] = min(math.ceil(plan.options.timeout), LONGEST_TIMEOUT)
    states: dict[str, Json] = {} if first is None else {first: writer.parameters()}
    end = None if writer.wiring.result is None else result_state(plan)
    states |= writer.states(plan.ops, end)
    if end is not None:
        states[end] = writer.result()
    machine["States"] = states
    return machine


def dump_state_machine(definition: dict[str, Json]) -> bytes:
    """Write a definition as ``statemachine.json`` holds it.

    It is JSON that people can read, and equal bytes for equal values.
    """
    return (json.dumps(definition, indent=2, ensure_ascii=False) + "\n").encode()


@dataclass(frozen=True, slots=True)
class _Writer:
    """Writes the states outside of maps.

    ``side_by_side``: how many tasks may run at one time where it is.
    """

    compiled: Compiled
    wiring: Wiring
    side_by_side: int = 1

    def states(self, block: Block, end: str | None) -> dict[str, Json]:
        """Return the states of a block.

        ``end``: the state that is next when the block has ended; None for none.
        """
        states: dict[str, Json] = {}
        # zip_longest pairs the last one with None, which has no state to go on to.
        for op, following in zip_longest(block, block[1:]):
            name = state_of(following) if following else end
            then = next_or_end(name)
            match op:
                case Call():
                    task = self._task(op)
                    states |= call_states(self.compiled, task, op, then, side_by_side=self.side_by_side)
                case FanOut():
                    states[state_of(op)] = map_state(self.compiled, self.wiring, op) | then
                case Fork():
                    states[state_of(op)] = self._parallel(op) | then
                case Switch():
                    index = f"{self.wiring.reads[op.id, Output(op.on)]}.case"
                    states[state_of(op)] = choice_state(op, index)
                    for case in op.cases:
                        states |= self.states(case.block, name)
        return states

    def parameters(self) -> AslState:
        """Return the Task that completes the run's parameters.

        It is there in flows that begin with branches. It is for the function of any call, and runs no step.
        """
        plan = self.compiled.plan
        call = next(plan.calls)
        payload: AslState = {"run_id": RUN_ID, "call": call.id, "attempt": ATTEMPT, "bind": True}
        payload["params"] = _EXECUTION_INPUT
        assign: AslState = {"params": expression(f"{_PAYLOAD}.params")} if plan.params else {}
        # No try of the step's own: its code does not run.
        step = self.compiled.step_of(call)
        rules = retry_rules(step, batch=True, express=False)
        state = call_task(self.compiled, call, payload, {}, assign).to_asl()
        return state | {"Retry": [rule.to_asl() for rule in rules]} | next_or_end(state_of(plan.ops[0]))

    def result(self) -> AslState:
        """Return the state that gives the run's result.

        It is there where that is not the output of the last operation.
        """
        outputs: list[Json] = [expression(variable) for variable in self.wiring.result or ()]
        output: Json = {"results": outputs} if self.compiled.plan.returns_tuple else outputs[0]
        return {"Type": "Pass", "Output": output, "End": True}

    def _task(self, call: Call) -> TaskState:
        """Return the Task of a call.

        The first one completes the run's parameters, for all that follow.
        """
        plan = self.compiled.plan
        first = call is plan.ops[0]
        payload: AslState = {"run_id": RUN_ID, "call": call.id, "attempt": ATTEMPT}
        if first:
            payload["params"] = _EXECUTION_INPUT
        elif call.params:
            payload["params"] = params_of([call])
        if call.reads is not None:
            payload["input"] = expression(self.wiring.reads[call.id, call.reads])
        if call.values:
            payload["values"] = {
                source_name(source): expression(self.wiring.reads[call.id, source]) for source in call.values
            }
        reply = expression(_WITHOUT_PARAMS if first else _PAYLOAD)
        assign: AslState = {"params": expression(f"{_PAYLOAD}.params")} if first and plan.params else {}
        assign |= self.wiring.assign(call.id, Output(call.id), reply)
        return call_task(self.compiled, call, payload, self.wiring.output(call.id, reply), assign)

    def _parallel(self, fork: Fork) -> AslState:
        """Return the Parallel state of a fork.

        Each branch gives an object of what it hands out.

        https://docs.aws.amazon.com/step-functions/latest/dg/state-parallel.html
        """
        # A map's items are executions of their own, with events of their own.
        tasks = most_at_once((fork,), lambda op: int(isinstance(op, Call)))
        writer = replace(self, side_by_side=max(self.side_by_side, tasks))
        branches: list[Json] = [
            {"StartAt": state_of(branch[0]), "States": writer.states(branch, None)} for branch in fork.branches
        ]
        assign: AslState = {}
        for number, sources in enumerate(self.wiring.branches[fork.id]):
            for source in sources:
                assign |= self.wiring.assign(fork.id, source, expression(branch_value(number, source)))
        state: AslState = {"Type": "Parallel", "Branches": branches}
        if assign:
            state["Assign"] = assign
        return state | {"Output": self.wiring.output(fork.id, {})}
