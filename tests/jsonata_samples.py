"""Every form of JSONata expression that state machines hold, with values to evaluate it on and what must come out.

The values are those that could go wrong: arrays of one member and of none, which JSONata likes to unpack, null, which
is no value in many languages, and falsy ones.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from jsonata.utils import Utils

from lokki.base.values import Json

TRICKY: list[Json] = [
    *(None, False, 0, "", [], [1], [[1]], [[]], [None], {}, {"a": [1]}, [{"a": []}], "{% 1 %}", 1.5, "ä"),
]
"""Values that a step may hand on, or that a parameter may have."""

RUN = "2026-11-23_a"

ENTRIES: list[Json] = [{"index": 0, "result": value} for value in TRICKY]
REFS: list[Json] = [*ENTRIES, {"result_url": "s3://a/b", "range": [0, 1]}, {"results_manifest_key": "k", "items": 0}]
BATCHES: list[Json] = [*([entry] for entry in ENTRIES), ENTRIES]
PARAMS: list[Json] = [{}, {f"p{number}": value for number, value in enumerate(TRICKY)}]

PATHS: dict[str, list[Json]] = {
    "context.Execution.Name": [RUN],
    "context.Execution.Input": PARAMS,
    "context.State.RetryCount": [0, 3],
    "context.Map.Item.Value": REFS,
    "input": REFS,
    "input.run_id": [RUN],
    "input.params": PARAMS,
    "input.item": REFS,
    "input.items": [0, 1, 10_000_000],
    "input.map_manifest_key": ["a/b.json"],
    "input.values": PARAMS,
    "input.BatchInput": PARAMS,
    "input.BatchInput.run_id": [RUN],
    "input.BatchInput.params": PARAMS,
    "input.Items": BATCHES,
    "result.Payload": REFS,
    "result.Payload.params": PARAMS,
    "result.Payload.items": BATCHES,
    "result.ResultWriterDetails.Key": ["a/b.json"],
}
"""What may be at each path in `$states` that an expression consists of; it must come out as it is."""


PREFIX = re.compile(r"'(lokki/\S+/)' & \$states\.context\.Execution\.Name & '(/[\w.]+/map_results)'")


@dataclass(frozen=True)
class Sample:
    expression: str
    bindings: dict[str, Json]
    expected: Json


def samples(expression: str) -> Iterator[Sample]:
    """Yield the samples of one expression of a definition. A form that is unknown here has none."""
    for value in PATHS.get(expression.removeprefix("$states."), []):
        yield Sample(expression, _at(expression.removeprefix("$"), value), value)
    yield from halved(expression)
    yield from chosen(expression)
    yield from looked_up(expression)
    if parameter := re.fullmatch(r"\$params\.([a-z_]+)", expression):
        for value in TRICKY:
            yield Sample(expression, {"params": {parameter[1]: value, "other": 1}}, value)
    if prefix := PREFIX.fullmatch(expression):
        yield Sample(expression, _at("states.context.Execution.Name", RUN), f"{prefix[1]}{RUN}{prefix[2]}")
    if expression == "$merge([$states.input, {'item': $states.result.Payload}])":
        for entry in ENTRIES:
            kept: dict[str, Json] = {"run_id": RUN, "params": {"a": [1], "b": None}}
            given: Json = {"input": {**kept, "item": {"index": 0, "item": [0]}}, "result": {"Payload": entry}}
            yield Sample(expression, {"states": given}, {**kept, "item": entry})
    if expression == "$sift($states.result.Payload, function($value, $name) { $name != 'params' })":
        for reply in [*({"result": value} for value in TRICKY), {"map_manifest_key": "k", "items": 0}]:
            for params in PARAMS:
                yield Sample(expression, _at("states.result.Payload", {**reply, "params": params}), reply)


ENTRY_OF_BATCH = "function($entry) { $exists($entry.entries_url) or $lookup($entry.cases, '%s') = %d }"


def chosen(expression: str) -> Iterator[Sample]:
    """Yield the samples of a condition of a switch."""
    name = next(iter(re.findall(r"'(\w+\.switch)'", expression)), "grade.switch")
    for number, case in product(range(3), range(3)):
        answer: Json = {"case": case, "result": TRICKY}
        yield from _of(f"$states.input.case = {number}", expression, _at("states.input", answer), number == case)
        entry: Json = {"index": 0, "result": [], "cases": {name: case, "other.switch": number}}
        condition = f"$lookup($states.input.item.cases, '{name}') = {number}"
        yield from _of(condition, expression, _at("states.input.item", entry), number == case)
        condition = f"$count($filter($states.input.Items, {ENTRY_OF_BATCH % (name, number)})) > 0"
        failed: Json = {"index": 1, "failed": {"step": "grade", "error": "E", "message": ""}}
        for items in ([entry], [entry, entry], [failed, entry], [failed, failed, entry, failed]):
            yield from _of(condition, expression, _at("states.input.Items", list(items)), number == case)
        yield from _of(condition, expression, _at("states.input.Items", [failed]), False)
        yield from _of(condition, expression, _at("states.input.Items", [{"entries_url": "s3://a/b"}]), True)


def looked_up(expression: str) -> Iterator[Sample]:
    """Yield the samples of values that variables hold, and of those in the outputs of branches and inputs of items."""
    for ref in REFS:
        if variable := re.fullmatch(r"\$([a-z_0-9]+)", expression):
            yield Sample(expression, {variable[1]: ref, "other": 1}, ref)
        if branch := re.fullmatch(r"\$lookup\(\$states\.result\[(\d)\], '([a-z_.0-9]+)'\)", expression):
            outputs: list[Json] = [{"other": 1, branch[2]: number} for number in range(3)]
            outputs[int(branch[1])] = {branch[2]: ref}
            yield Sample(expression, {"states": {"result": outputs}}, ref)
        if value := re.fullmatch(
            r"\$lookup\(\$(states\.input(?:\.BatchInput)?\.values), '([a-z_.0-9]+)'\)", expression
        ):
            yield Sample(expression, _at(value[1], {value[2]: ref, "other": 1}), ref)
    if part := re.fullmatch(r"\$([a-z_0-9]+)\.(map_manifest_key|items)", expression):
        reply: dict[str, Json] = {"map_manifest_key": "a/b.json", "items": 3, "result": [1]}
        yield Sample(expression, {part[1]: reply}, reply[part[2]])


def _of(form: str, expression: str, bindings: dict[str, Json], expected: Json) -> Iterator[Sample]:
    if form == expression:
        yield Sample(expression, bindings, expected)


def halved(expression: str) -> Iterator[Sample]:
    """Yield the samples of an expression of a batch that goes on, or is searched for the item at fault."""
    for items, first, suspects, deaths, replied in (
        (1, 0, 1, 0, 0),
        (5, 0, 5, 0, 2),
        (5, 3, 1, 2, 4),
        (5, 3, 2, 2, 4),
        (5, 4, 0, 3, None),
        (5, 5, 0, 4, None),
        (9, 0, 9, 64, 5),
    ):
        entries: list[Json] = [{"index": index, "item": TRICKY[index]} for index in range(items)]
        part = -(-suspects // 2) if suspects else items - first
        payload: dict[str, Json] = {} if replied is None else {"next": replied, "tried": 2}
        states: Json = {
            "input": {"Items": entries},
            "result": {"Payload": {"items": entries[:replied], **payload}},
            "errorOutput": {"Error": "Runtime.ExitError"},
        }
        died = "Runtime.OutOfMemory" if deaths == 2 else ""
        variables: dict[str, Json] = {"items": items, "first": first, "suspects": suspects, "deaths": deaths}
        variables |= {"tried": 0, "died": died, "done": entries[:first]}
        following = items if replied is None else replied
        values: dict[str, Json] = {
            "$count($states.input.Items)": items,
            NEXT.replace("$items", "$count($states.input.Items)"): following,
            NEXT: following,
            "$exists($states.result.Payload.tried) ? $states.result.Payload.tried : 0": 0 if replied is None else 2,
            "$first": first,
            "$items": items,
            "$tried": 0,
            "$died": died,
            "$done": entries[:first],
            "$first = $items": first == items,
            "$died = '' and ($suspects = 1 or $deaths >= 64)": not died and (suspects == 1 or deaths >= 64),
            "($suspects = 0 ? $items - $first : $ceil($suspects / 2))": part,
            "($suspects = 1 ? 1 : $items - $first)": 1 if suspects == 1 else items - first,
            f"$suspects = 0 ? 0 : $suspects - ({NEXT}) + $first": suspects - following + first if suspects else 0,
            "$deaths + 1": deaths + 1,
            "''": "",
            "$suspects = 1 ? $states.errorOutput.Error : ''": "Runtime.ExitError" if suspects == 1 else "",
            "$states.errorOutput.Error": "Runtime.ExitError",
            "$suspects = 1 ? 0 : 1": 0 if suspects == 1 else 1,
        }
        if expression in values:
            yield Sample(expression, {"states": states, **variables}, values[expression])
    for count in (0, 3):
        yield from _of(REDRIVES, expression, _at("states.context.Execution", {"RedriveCount": count}), count)
    yield from _of(REDRIVES, expression, _at("states.context.Execution", {"Name": RUN}), 0)


NEXT = "$exists($states.result.Payload.next) ? $states.result.Payload.next : $items"

REDRIVES = "$exists($states.context.Execution.RedriveCount) ? $states.context.Execution.RedriveCount : 0"


def as_jsonata(value: Json) -> object:
    """Return a value as the library takes it, which has a null of its own."""
    if isinstance(value, dict):
        return {name: as_jsonata(member) for name, member in value.items()}
    if isinstance(value, list):
        return [as_jsonata(member) for member in value]
    return Utils.NULL_VALUE if value is None else value


def expressions(definition: Json) -> Iterator[str]:
    """Yield every JSONata expression of a definition, with the template's places filled."""
    if isinstance(definition, dict):
        definition = list(definition.values())
    if isinstance(definition, list):
        for member in definition:
            yield from expressions(member)
    elif isinstance(definition, str) and definition.startswith("{%"):
        yield definition.removeprefix("{%").removesuffix("%}").strip().replace("${FlowName}", "birds-flow")


def _at(path: str, value: Json) -> dict[str, Json]:
    first, *rest = path.split(".")
    for name in reversed(rest):
        value = {name: value}
    return {first: value}
