"""A small interpreter of state machines, beside the emulator's: it knows what lokki's definitions use and no more.

It refuses what AWS refuses of variables: a branch that assigns a name of a state around it.
https://docs.aws.amazon.com/step-functions/latest/dg/workflow-variables.html
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from lokki.base.values import Json
from lokki.emulator.states.expressions import Expressions, Scope

type Variables = ChainMap[str, Json]
type Function = Callable[[str, dict[str, Any]], Json]
"""Invokes a function by its name with a payload."""


class WalkError(Exception):
    """A function failed; `error` is the name that rules of Catch have."""

    def __init__(self, error: str) -> None:
        super().__init__(error)
        self.error = error


@dataclass
class Walker:
    """Runs a definition on functions, and on objects by their keys; `visited` has the states in the order of entry."""

    function: Function
    objects: MutableMapping[str, Json]
    run_id: str = "run-1"
    params: dict[str, Json] = field(default_factory=dict)
    visited: list[str] = field(default_factory=list)
    variables: dict[str, Json] = field(default_factory=dict)
    expressions: Expressions = field(default_factory=Expressions)

    def run(self, machine: Mapping[str, Any]) -> Json:
        check_scopes(machine)
        variables: Variables = ChainMap({})
        output = self._level(machine, self.params, variables)
        self.variables = dict(variables)
        return output

    def _level(self, level: Mapping[str, Any], value: Json, variables: Variables) -> Json:
        name = level["StartAt"]
        while name is not None:
            state = level["States"][name]
            self.visited.append(name)
            name, value = self._state(state, value, variables)
        return value

    def _state(self, state: Mapping[str, Any], value: Json, variables: Variables) -> tuple[str | None, Json]:
        states: dict[str, Json] = {
            "input": value,
            "context": {
                "Execution": {"Name": self.run_id, "Input": self.params},
                "State": {"RetryCount": 0},
            },
        }

        def fill(template: Json, **more: Json) -> Json:
            return self.expressions.fill(template, Scope({**states, **more}, dict(variables)))

        def leave(rule: Mapping[str, Any], default: Json, **more: Json) -> tuple[str | None, Json]:
            assigned = fill(rule.get("Assign", {}), **more)
            output = fill(rule["Output"], **more) if "Output" in rule else default
            variables.update(assigned)  # type: ignore[arg-type]
            return rule.get("Next"), output

        match state["Type"]:
            case "Pass":
                return leave(state, value)
            case "Choice":
                for rule in state["Choices"]:
                    holds = fill(rule["Condition"])
                    assert isinstance(holds, bool), rule
                    if holds:
                        return leave(rule, value)
                return state["Default"], value
            case "Parallel":
                results: list[Json] = [
                    self._level(branch, value, variables.new_child()) for branch in state["Branches"]
                ]
                return leave(state, results, result=results)
            case "Map":
                return leave(state, None, result=self._map(state, fill, states))
            case "Task":
                arguments: Any = fill(state["Arguments"])
                try:
                    payload = self.function(arguments["FunctionName"], arguments["Payload"])
                except WalkError as error:
                    for rule in state.get("Catch", []):
                        if error.error in rule["ErrorEquals"]:
                            return leave(rule, value, errorOutput={"Error": error.error})
                    raise
                return leave(state, None, result={"Payload": payload})
        raise AssertionError(state)

    def _map(self, state: Mapping[str, Any], fill: Callable[..., Any], states: dict[str, Any]) -> Json:
        manifest: Any = self.objects[fill(state["ItemReader"]["Arguments"])["Key"]]
        children: list[Json] = []
        if "ItemBatcher" in state:
            size = state["ItemBatcher"]["MaxItemsPerBatch"]
            if isinstance(size, str):  # a placeholder: any size will do
                size = 3
            common = fill(state["ItemBatcher"]["BatchInput"])
            children = [
                {"BatchInput": common, "Items": manifest[first : first + size]}
                for first in range(0, len(manifest), size)
            ]
        else:
            for item in manifest:
                context = {**states["context"], "Map": {"Item": {"Value": item}}}
                children.append(fill(state["ItemSelector"], context=context))
        # A distributed map's children see no variables.
        outputs = [self._level(state["ItemProcessor"], child, ChainMap({})) for child in children]
        prefix = fill(state["ResultWriter"]["Arguments"])["Prefix"]
        results: list[Json] = []
        for output in reversed(outputs):  # in any order
            results += output if isinstance(output, list) else [output]
        self.objects[f"{prefix}/manifest.json"] = results
        return {"ResultWriterDetails": {"Key": f"{prefix}/manifest.json"}}


def levels(level: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the levels of a definition: itself, branches and item processors."""
    yield level
    for state in level["States"].values():
        for inner in [*state.get("Branches", []), *([state["ItemProcessor"]] if "ItemProcessor" in state else [])]:
            yield from levels(inner)


def check_scopes(level: Mapping[str, Any], outer: frozenset[str] = frozenset()) -> None:
    """Fail where a branch assigns a variable that a state around it assigns."""
    own = frozenset(
        name
        for state in level["States"].values()
        for rule in [state, *state.get("Catch", []), *state.get("Choices", [])]
        for name in rule.get("Assign", {})
    )
    assert not own & outer, (own, outer)
    for state in level["States"].values():
        for branch in state.get("Branches", []):
            check_scopes(branch, own | outer)
        if "ItemProcessor" in state:
            check_scopes(state["ItemProcessor"])
