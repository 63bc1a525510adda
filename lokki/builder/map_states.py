"""A map block in Amazon States Language: its distributed Map, and what each item goes through in a child execution.

https://docs.aws.amazon.com/step-functions/latest/dg/state-map-distributed.html
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import zip_longest

from lokki.base.naming import RESULTS_SUFFIX
from lokki.base.values import Json
from lokki.builder.batching import concurrency_limit, in_batches
from lokki.builder.call_states import (
    ATTEMPT,
    RUN_ID,
    batch_states,
    call_states,
    call_task,
    choice_state,
    next_or_end,
    params_of,
)
from lokki.builder.compiled import Compiled
from lokki.builder.names import batch_placeholder, map_label, tolerated_placeholder
from lokki.builder.placeholders import (
    BUCKET_PLACEHOLDER,
    CONCURRENCY_PLACEHOLDER,
    FLOW_PLACEHOLDER,
    READ_PLACEHOLDER,
    WRITE_PLACEHOLDER,
    exact_share,
)
from lokki.builder.retries import map_rules
from lokki.builder.states import case_state, state_of
from lokki.builder.tasks import BATCH_BYTES, AslState, TaskState, expression
from lokki.builder.timing import execution_type
from lokki.builder.wiring import INPUT, Wiring
from lokki.plans.operations import Block, Call, FanOut, Switch, operations_in, sources_of
from lokki.plans.templates import Output, Results, source_name
from lokki.store.keys import Keys


def map_state(compiled: Compiled, wiring: Wiring, fan_out: FanOut) -> AslState:
    """Return the Map of a map block, but for what is next.

    Its items are in the manifest that the source's task wrote.
    """
    results = Keys("").map_results(fan_out.key).removesuffix("/")
    items = wiring.reads[fan_out.id, Output(fan_out.source)]
    return {
        "Type": "Map",
        "Label": map_label(fan_out.key),
        "ItemReader": {
            "Resource": f"${{{READ_PLACEHOLDER}}}",
            "ReaderConfig": {"InputType": "JSON"},
            "Arguments": {"Bucket": f"${{{BUCKET_PLACEHOLDER}}}", "Key": expression(f"{items}.map_manifest_key")},
        },
        **_child_input(compiled, fan_out, wiring),
        **_bounds(compiled, fan_out),
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
        **_results(fan_out, wiring, items),
        "Retry": [rule.to_asl() for rule in map_rules()],
    }


def _results(fan_out: FanOut, wiring: Wiring, items: str) -> AslState:
    """Return the fields that hand on a reference to all results."""
    results: Json = {
        "results_manifest_key": expression("$states.result.ResultWriterDetails.Key"),
        "items": expression(f"{items}.items"),
    }
    variables = wiring.assign(fan_out.id, Results(fan_out.id), results)
    return {**({"Assign": variables} if variables else {}), "Output": wiring.output(fan_out.id, results)}


def _child_input(compiled: Compiled, fan_out: FanOut, wiring: Wiring) -> AslState:
    """Return the fields that say what a child execution gets.

    Variables and the context of the run cannot be seen in it.
    """
    common: AslState = {"run_id": RUN_ID}
    if params := params_of(fan_out.calls):
        common["params"] = params
    if values := wiring.bodies[fan_out.id]:
        common["values"] = {source_name(source): expression(variable) for source, variable in values.items()}
    if not in_batches(compiled, fan_out):
        return {"ItemSelector": common | {"item": expression("$states.context.Map.Item.Value")}}
    return {
        "ItemBatcher": {
            "MaxItemsPerBatch": fan_out.options.batch or f"${{{batch_placeholder(fan_out.key)}}}",
            "MaxInputBytesPerBatch": BATCH_BYTES,
            "BatchInput": common,
        }
    }


def _bounds(compiled: Compiled, fan_out: FanOut) -> AslState:
    """Return how many items run at once, and how many may fail.

    Without a limit of the user's, as many run as the account runs functions, which deploying fills in: children that
    have no function wait, cost transitions, and as EXPRESS fail in the end.
    https://docs.aws.amazon.com/step-functions/latest/dg/maprun-fail-threshold.html
    """
    options = fan_out.options
    bounds: AslState = {"MaxConcurrency": f"${{{CONCURRENCY_PLACEHOLDER}}}"}
    limit = concurrency_limit(compiled, fan_out)
    if limit is not None:
        bounds["MaxConcurrency"] = limit
    if not isinstance(options.tolerate, float):
        return bounds if options.tolerate is None else bounds | {"ToleratedFailureCount": options.tolerate}
    percentage = exact_share(options.tolerate) * 100
    if percentage.denominator == 1:
        return bounds | {"ToleratedFailurePercentage": percentage.numerator}
    return bounds | {"ToleratedFailureCount": f"${{{tolerated_placeholder(fan_out.key)}}}"}


def _processor(compiled: Compiled, fan_out: FanOut) -> AslState:
    kind = execution_type(compiled, fan_out)
    body = _Body(compiled, fan_out, kind == "EXPRESS")
    return {
        "ProcessorConfig": {"Mode": "DISTRIBUTED", "ExecutionType": kind},
        "StartAt": state_of(fan_out.body[0]),
        "States": body.states(fan_out.body, None),
    }


@dataclass(frozen=True, slots=True)
class _Body:
    """Writes the states that an item, or a batch of them, goes through."""

    compiled: Compiled
    fan_out: FanOut
    express: bool

    @property
    def _batch(self) -> bool:
        return in_batches(self.compiled, self.fan_out)

    @property
    def _common(self) -> str:
        """Where what all items have is in a child's input."""
        return f"{INPUT}.BatchInput" if self._batch else INPUT

    def states(self, block: Block, end: str | None) -> dict[str, Json]:
        """Return the states of a block.

        ``end``: the state that is next when the block has ended; None for none.
        """
        states: dict[str, Json] = {}
        for op, following in zip_longest(block, block[1:]):
            name = state_of(following) if following else end
            match op:
                case Call():
                    task = self._task(op, last=name is None)
                    then = next_or_end(name)
                    if self._batch:
                        states |= batch_states(self.compiled, task, op, self.fan_out, then, express=self.express)
                    else:
                        states |= call_states(self.compiled, task, op, then, express=self.express)
                case Switch():
                    states |= self._cases_of_batch(op, name) if self._batch else self._cases(op, name)
        return states

    def _task(self, call: Call, *, last: bool) -> TaskState:
        """Return the Task of a call.

        Its input is what `_child_input` says, and so is its output, except for the last one's. That is the result,
        which ResultWriter writes: an object for an item, an array for a batch.
        """
        payload: AslState = {"run_id": expression(f"{self._common}.run_id"), "call": call.id, "attempt": ATTEMPT}
        if call.params:
            payload["params"] = expression(f"{self._common}.params")
        if values := self._values(call):
            payload["values"] = values
        result = expression("$states.result.Payload.items" if self._batch else "$states.result.Payload")
        output: Json = result
        if self._batch:
            payload["items"] = expression(f"{INPUT}.Items")
            if not last:
                output = {"BatchInput": expression(f"{INPUT}.BatchInput"), "Items": result}
        else:
            payload["item"] = expression(f"{INPUT}.item")
            if not last:
                output = expression(f"$merge([{INPUT}, {{'item': $states.result.Payload}}])")
        return call_task(self.compiled, call, payload, output)

    def _values(self, call: Call) -> AslState:
        """Return what a call reads from outside of the map."""
        own = self.fan_out.own_items.union(self.fan_out.carries)
        own |= {Output(op.id) for op in operations_in(self.fan_out.body)}
        sources = (source for source in sources_of(call) if source not in own)
        names = map(source_name, sources)
        return {name: expression(f"$lookup({self._common}.values, '{name}')") for name in names}

    def _cases(self, switch: Switch, end: str | None) -> dict[str, Json]:
        """Return the states of a switch for one item.

        The item's entry says which case it chose.
        """
        index = f"$lookup({INPUT}.item.cases, '{switch.id}')"
        states: dict[str, Json] = {state_of(switch): choice_state(switch, index)}
        for case in switch.cases:
            states |= self.states(case.block, end)
        return states

    def _cases_of_batch(self, switch: Switch, end: str | None) -> dict[str, Json]:
        """Return the states of a switch for a batch.

        All cases come one after another. Each runs the entries that chose it, and is skipped where none did. Entries
        that are in the store are not seen here, and the handler knows which of them it is to run.
        """
        states: dict[str, Json] = {}
        names = [case_state(switch, number) for number in range(len(switch.cases))]
        last = end if end is not None else f"{names[0]}{RESULTS_SUFFIX}"
        for number, (case, following) in enumerate(zip(switch.cases, [*names[1:], last], strict=True)):
            chosen = f"$exists($entry.entries_url) or $lookup($entry.cases, '{switch.id}') = {number}"
            condition = f"$count($filter({INPUT}.Items, function($entry) {{ {chosen} }})) > 0"
            states[names[number]] = {
                "Type": "Choice",
                "Choices": [{"Condition": expression(condition), "Next": state_of(case.block[0])}],
                "Default": following,
            }
            states |= self.states(case.block, following)
        if end is None:
            states[last] = {"Type": "Pass", "Output": expression(f"{INPUT}.Items"), "End": True}
        return states
