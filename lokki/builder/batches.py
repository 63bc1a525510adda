"""The states of a call that is run on a batch: on all its items, then on what is left, until nothing is.

The function says how far it came (`lokki.runtime.batches`): it hands back what it has no time for, so that a batch
never runs out of time. When it dies, nobody knows of which item, so the batch is searched by halves: only the item at
fault runs alone, and fails alone. ``FlapBird`` is the task of the whole batch. After it,

* ``FlapBird-If`` chooses what is next, from the variables below;
* ``FlapBird-S`` runs the items that are left, or half of those among which one is at fault;
* ``FlapBird-1`` runs the item at fault alone, once it is known; with ``@step(memory_max=…)`` it is ``FlapBird-XL``,
  which runs it in the larger function;
* ``FlapBird-OK`` hands on the entries of all items, where the child ends.

The input of each of them is the batch. Variables say how far it is:

* ``items``: how many items the batch has; the entries of a later call may be in an object, where they are not counted
* ``first``: the first item without an entry; ``done`` are the entries of those before, or where they are
* ``suspects``: how many items from ``first`` have one at fault among them; 0: none that is known
* ``deaths``: how often the function died
* ``tried``: how many tries of the first item's are used up
* ``died``: the error that the first item is to fail with, as the function died of it alone; "" for none

They hold no items: what a state assigns may have 256 KiB.
https://docs.aws.amazon.com/step-functions/latest/dg/workflow-variables.html and
https://docs.aws.amazon.com/step-functions/latest/dg/state-choice.html
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from lokki.base.naming import ALONE_SUFFIX, CHOICE_SUFFIX, LARGER_SUFFIX, PART_SUFFIX, RESULTS_SUFFIX
from lokki.base.values import Json
from lokki.builder.retries import BATCH_DEATHS, MOST_DEATHS, RetryRule
from lokki.builder.tasks import AslState, TaskState, expression

_COUNT = "$count($states.input.Items)"
_PAYLOAD = "$states.result.Payload"
_PART = "($suspects = 0 ? $items - $first : $ceil($suspects / 2))"
_NONE = expression("''")
"""No error. asl-validator takes a text for a variable as an expression only."""

_LARGER_PART = "($suspects = 1 ? 1 : $items - $first)"
"""How many items are next. After too many deaths, the larger function takes all that are left."""

# The context has no count before the first redrive.
_REDRIVES = expression("$exists($states.context.Execution.RedriveCount) ? $states.context.Execution.RedriveCount : 0")
"""https://docs.aws.amazon.com/step-functions/latest/dg/input-output-contextobject.html"""


@dataclass(frozen=True, slots=True)
class BatchCall:
    """A call that is run on batches.

    - ``name``: of its state
    - ``task``: runs it on the whole batch, and its output is what follows gets
    - ``rules``: of what is tried again
    - ``alone``: the same, for an item that is alone
    - ``larger_function``: the placeholder of the larger function's ARN; None where there is none
    - ``begins``: whether it is the first call of its map's body
    - ``tolerates``: whether an item that the function dies of fails and the others go on
    - ``then``: the field that says what is next
    """

    name: str
    task: TaskState
    rules: Iterable[RetryRule]
    alone: Iterable[RetryRule]
    larger_function: str | None
    begins: bool
    tolerates: bool
    then: AslState

    def states(self) -> dict[str, Json]:
        """Return the states of the call, by name."""
        last = f"{self.name}{RESULTS_SUFFIX}"
        end: dict[str, Json] = {last: {"Type": "Pass", "Output": self._all_entries, **self.then}}
        return {
            self.name: self._whole(),
            self._choice: self._choose(last),
            self._part: self._left(),
            self._alone: self._single(),
            **({} if "Next" in self.then else end),
        }

    @property
    def _choice(self) -> str:
        return f"{self.name}{CHOICE_SUFFIX}"

    @property
    def _part(self) -> str:
        return f"{self.name}{PART_SUFFIX}"

    @property
    def _alone(self) -> str:
        return f"{self.name}{ALONE_SUFFIX if self.larger_function is None else LARGER_SUFFIX}"

    @property
    def _all_entries(self) -> Json:
        """What the batch's output is, with the entries of all items."""
        done = expression("$done")
        return {**self.task.output, "Items": done} if isinstance(self.task.output, dict) else done

    def _whole(self) -> AslState:
        items: AslState = {"items": expression(_COUNT)} if self.begins else {}
        count = _COUNT if self.begins else "$items"
        begun = {**items, "deaths": 0, "died": _NONE}
        assign = {**begun, **_progress(count), "suspects": 0}
        nothing: AslState = {**begun, "first": 0, "suspects": expression(count), "tried": 0, "done": []}
        task = replace(self.task, payload={**self.task.payload, "redrives": _REDRIVES}, assign=assign)
        return self._asl(task, self.rules) | {"Catch": [_catch(nothing, self._choice)], "Next": self._choice}

    def _choose(self, last: str) -> AslState:
        finished: AslState = {"Condition": expression("$first = $items")}
        if "Next" in self.then:
            finished |= {"Output": self._all_entries, **self.then}
        else:
            finished["Next"] = last
        is_alone = f"$died = '' and ($suspects = 1 or $deaths >= {MOST_DEATHS})"
        choices: list[Json] = [finished, {"Condition": expression(is_alone), "Next": self._alone}]
        return {"Type": "Choice", "Choices": choices, "Default": self._part}

    def _left(self) -> AslState:
        left = f"$suspects = 0 ? 0 : $suspects - ($exists({_PAYLOAD}.next) ? {_PAYLOAD}.next : $items) + $first"
        assign = {**_progress("$items"), "suspects": expression(left), "died": _NONE}
        task = self._some(self.task, expression(_PART), assign, died=True)
        caught: AslState = {"suspects": expression(_PART), "deaths": expression("$deaths + 1")}
        return self._asl(task, self.rules) | {"Catch": [_catch(caught, self._choice)], "Next": self._choice}

    def _single(self) -> AslState:
        """Return the task of the item at fault."""
        assign = {**_progress("$items"), "suspects": 0}
        fault: AslState = {"died": expression("$states.errorOutput.Error"), "suspects": 0}
        if self.larger_function is None:
            task = self._some(self.task, 1, assign)
        else:
            task = self._some(self.task.in_function(self.larger_function), expression(_LARGER_PART), assign)
            # Where it had all that were left, one of them is at fault: the first one comes alone.
            fault = {
                "died": expression("$suspects = 1 ? $states.errorOutput.Error : ''"),
                "suspects": expression("$suspects = 1 ? 0 : 1"),
            }
        catch: AslState = {"Catch": [_catch(fault, self._choice)]} if self.tolerates else {}
        return self._asl(task, self.alone) | catch | {"Next": self._choice}

    def _some(self, task: TaskState, size: Json, assign: AslState, *, died: bool = False) -> TaskState:
        """Return the task of items from the first one on that has no entry."""
        payload: AslState = {
            **task.payload,
            "done": expression("$done"),
            "first": expression("$first"),
            "size": size,
            "tried": expression("$tried"),
            **({"died": expression("$died")} if died and self.tolerates else {}),
            "redrives": _REDRIVES,
        }
        return replace(task, payload=payload, assign=assign)

    def _asl(self, task: TaskState, rules: Iterable[RetryRule]) -> AslState:
        retry: list[Json] = [rule.to_asl() for rule in rules]
        return replace(task, output=expression("$states.input")).to_asl() | {"Retry": retry}


def _progress(items: str) -> AslState:
    """Return the variables that a reply sets.

    It says what is next where the batch is not at its end. ``items``: the number of items, as an expression.
    """
    return {
        "first": expression(f"$exists({_PAYLOAD}.next) ? {_PAYLOAD}.next : {items}"),
        "tried": expression(f"$exists({_PAYLOAD}.tried) ? {_PAYLOAD}.tried : 0"),
        "done": expression(f"{_PAYLOAD}.items"),
    }


def _catch(assign: Mapping[str, Json], following: str) -> AslState:
    """Return the rule of ``Catch`` for a function that died, or took too long."""
    return {
        "ErrorEquals": list(BATCH_DEATHS),
        "Output": expression("$states.input"),
        "Assign": dict(assign),
        "Next": following,
    }
