"""What follows when the function of a batch runs out of memory: only the item at fault runs in the larger function.

Nobody knows which item it was, so the batch is searched by halves in the step's own function. ``FlapBird`` is the task
of the whole batch. When it dies,

* ``FlapBird-If`` chooses what is next, from the variables below;
* ``FlapBird-S`` runs a part of the items in the same function: half of those among which one is at fault;
* ``FlapBird-XL`` runs the item at fault, once it is known, in the larger function;
* ``FlapBird-OK`` hands on the results of all items, as the task of the whole batch would have.

The input of each of them is the batch. Variables say how far it is: ``first`` is the first item without a result,
``suspects`` how many items from there have one at fault among them (0: none that is known), ``tries`` counts the parts,
``replies`` are the entries of the results. They hold no items: what a state assigns may have 256 KiB.
https://docs.aws.amazon.com/step-functions/latest/dg/workflow-variables.html and
https://docs.aws.amazon.com/step-functions/latest/dg/state-choice.html
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from lokki.base.naming import CHOICE_SUFFIX, LARGER_SUFFIX, PART_SUFFIX, RESULTS_SUFFIX
from lokki.base.values import Json
from lokki.builder.retries import DEATHS
from lokki.builder.tasks import AslState, TaskState
from lokki.plan import PARTS_OF_BATCH

_ITEMS = "$states.input.Items"
_PART = f"($suspects = 0 ? $count({_ITEMS}) - $first : $ceil($suspects / 2))"
_LARGER_PART = f"($suspects = 1 ? 1 : $count({_ITEMS}) - $first)"
"""How many items are next. After too many parts, the larger function takes all that are left."""


def halving_states(
    name: str, task: TaskState, larger_function: str, retry: list[Json], then: Mapping[str, Json]
) -> dict[str, Json]:
    """Return the states that follow the task of a whole batch, by name.

    - ``task``: the batch's own task; ``FlapBird-If`` is the first state after it
    - ``larger_function``: the placeholder of the larger function's ARN
    """
    choice = f"{name}{CHOICE_SUFFIX}"
    part, larger = f"{name}{PART_SUFFIX}", f"{name}{LARGER_SUFFIX}"
    catch: Json = {**catch_deaths(choice), "Assign": {"suspects": f"{{% {_PART} %}}", "tries": "{% $tries + 1 %}"}}
    progress: AslState = {
        "suspects": "{% $floor($suspects / 2) %}",
        "tries": "{% $tries + 1 %}",
    }
    return {
        choice: {
            "Type": "Choice",
            "Choices": [
                {"Condition": f"{{% $first = $count({_ITEMS}) %}}", "Next": f"{name}{RESULTS_SUFFIX}"},
                {"Condition": f"{{% $suspects = 1 or $tries >= {PARTS_OF_BATCH} %}}", "Next": larger},
            ],
            "Default": part,
        },
        part: _part(task, _PART, progress) | {"Retry": retry, "Catch": [catch], "Next": choice},
        larger: _part(task.in_function(larger_function), _LARGER_PART, {"suspects": 0})
        | {"Retry": retry, "Next": choice},
        f"{name}{RESULTS_SUFFIX}": {"Type": "Pass", "Output": _with_all_replies(task.output), **then},
    }


def catch_deaths(following: str) -> AslState:
    """Return the rule of ``Catch`` for a function that died.

    It goes on to another state with the same input.
    """
    return {"ErrorEquals": list(DEATHS), "Output": "{% $states.input %}", "Next": following}


def begin_halving(name: str) -> AslState:
    """Return the rule of ``Catch`` of the task of a whole batch."""
    first: Json = {"first": 0, "suspects": f"{{% $count({_ITEMS}) %}}", "tries": 0, "replies": []}
    return {**catch_deaths(f"{name}{CHOICE_SUFFIX}"), "Assign": first}


def _part(task: TaskState, size: str, progress: Mapping[str, Json]) -> AslState:
    """Return the task of some of the batch's items.

    The handler gets the number of all items, too: the replies of all parts share the room of one state.
    """
    # The brackets make a list of a single item, too, which JSONata takes for the item itself.
    items = f"[$filter({_ITEMS}, function($item, $index) {{ $index >= $first and $index < $first + {size} }})]"
    payload = {**task.payload, "items": f"{{% {items} %}}", "items_of_batch": f"{{% $count({_ITEMS}) %}}"}
    assign: Json = {
        "first": f"{{% $first + {size} %}}",
        **progress,
        "replies": "{% [$replies, $states.result.Payload.items] %}",
    }
    return replace(task, payload=payload, output="{% $states.input %}").to_asl() | {"Assign": assign}


def _with_all_replies(output: Json) -> Json:
    """Return the output of the whole batch's task with the parts' results."""
    replies = "{% $replies %}"
    return {**output, "Items": replies} if isinstance(output, dict) else replies
