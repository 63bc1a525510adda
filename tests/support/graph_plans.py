"""Plans that are graphs, drawn by hand or at random, what they compute, and functions that keep the contract.

A value is a text that says how it came to be, such as ``score(clean(load()), model=train(load()))``. So two ways of
running a plan agree in a text only if each call got what it was to get. docs/contract.md says what the events are.
"""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field, replace
from typing import Any

from lokki import step
from lokki.base.options import FlowOptions, MapOptions
from lokki.base.values import Json
from lokki.builder.compiled import Compiled
from lokki.builder.names import deployed_functions, function_placeholder
from lokki.chain import AnyStep
from lokki.config import LokkiConfig
from lokki.graph import FlowParameter
from lokki.plan import Plan, bind_parameters
from lokki.plans.operations import (
    Argument,
    Block,
    Call,
    Case,
    CaseValue,
    FanOut,
    Fork,
    Op,
    Switch,
    operations_in,
    sources_of,
)
from lokki.plans.templates import Item, Output, ParamRef, Reads, Results, Source, Template, source_name
from support.interpreter import Interpreter
from support.state_walker import WalkError

ITEMS = 3
"""How many items each source gives, but those whose text has a checksum that says none."""


def call(call_id: str, *values: Template, reads: Reads = None, **fields: Any) -> Call:
    """Make a call of a step of the same name, with its values as keyword arguments."""
    arguments = tuple(Argument(f"a{number}", value, f"a{number}") for number, value in enumerate(values))
    return Call(call_id, fields.pop("step", call_id), arguments, reads, **fields)


def compiled(plan: Plan, larger: bool = False, config: LokkiConfig | None = None) -> Compiled:
    """Compile a plan whose steps are made up: each name that a call of it has."""
    options: dict[str, Any] = {"memory": 256, "memory_max": 1024} if larger else {}
    steps: dict[str, AnyStep] = {}
    for name in dict.fromkeys(each.step for each in plan.calls):

        def work(value: object = None, **others: object) -> object:
            raise AssertionError("a test's own functions run instead")

        work.__name__ = work.__qualname__ = name
        steps[name] = step(**options)(work)
    whole = replace(plan, steps=steps)
    return Compiled(whole, tuple(steps.values()), config or LokkiConfig(), tuple(deployed_functions(steps.values())))


# --- the shapes that a flow may have ---


def plan_of(*ops: Op, **fields: Any) -> Plan:
    """Make a plan of two parameters with defaults."""
    params = (FlowParameter("p", default="x"), FlowParameter("q", default=1))
    return Plan("graph", params, ops, FlowOptions(), **fields)


def graded(reads: Source) -> tuple[Call, Switch]:
    """Return a call that chooses and its switch: a case of one call, one whose result is not its last, a default."""
    cases = (
        Case("good", (call("keep", ParamRef("p"), reads=reads),), "keep"),
        Case("bad", (call("fix", reads=reads), call("note", reads=Output("fix"))), "fix"),
        Case(None, (call("drop", reads=Output("grade")),), "drop"),
    )
    return call("grade", reads=reads, cases=("good", "bad", None)), Switch("grade.switch", "grade", cases)


def _switch_in_map(batch: int | None) -> Plan:
    body = (*graded(Item("rows.map")), call("seal", Output("model"), reads=Output("grade.switch")))
    return plan_of(
        call("load", ParamRef("q")),
        call("model", reads=Output("load")),
        call("rows", reads=Output("load"), fans_out=True),
        FanOut("rows.map", "rows", body, MapOptions(batch=batch)),
        call("total", reads=Results("rows.map")),
    )


GRAPHS: Mapping[str, Plan] = {
    "diamond": plan_of(
        call("load"),
        Fork(
            "train.fork",
            (
                (call("train", reads=Output("load")),),
                (
                    call("rows", reads=Output("load"), fans_out=True),
                    FanOut("rows.map", "rows", (call("clean", reads=Item()),), MapOptions(concurrency=3)),
                ),
            ),
        ),
        call("join", ParamRef("p"), reads=Results("rows.map")),
        call("items", reads=Output("join"), fans_out=True),
        FanOut("items.map", "items", (call("score", Output("train"), reads=Item()),), MapOptions(batch=5)),
        call("rank", {"model": [Output("train")]}, reads=Results("items.map")),
    ),
    "switch": plan_of(call("load"), *graded(Output("load")), call("report", reads=Output("grade.switch"))),
    "switch-in-map": _switch_in_map(None),
    "switch-in-batches": _switch_in_map(10),
    "branches-first": plan_of(
        Fork("one.fork", ((call("one", ParamRef("p")),), (call("two", ParamRef("q")),), (call("three"),))),
        call("report", Output("two"), reads=Output("one"), after=("three",)),
    ),
    "tuple": plan_of(
        call("load"),
        call("one", reads=Output("load")),
        call("two", reads=Output("load")),
        result=(Output("one"), Output("two")),
    ),
    "two-maps-of-one": plan_of(
        call("rows", fans_out=True, keeps_value=True),
        FanOut("rows.map", "rows", (call("one", reads=Item()),), MapOptions(tolerate=0.125)),
        call("total", reads=Results("rows.map")),
        FanOut("rows.map_2", "rows", (call("two", Output("total"), reads=Item()),), MapOptions(tolerate=0.125)),
        call("report", Output("rows"), reads=Results("rows.map_2")),
    ),
    "branches-in-a-case": plan_of(
        call("load"),
        call("grade", reads=Output("load"), cases=(True, False)),
        Switch(
            "grade.switch",
            "grade",
            (
                Case(
                    True,
                    (
                        Fork(
                            "fast.fork", ((call("fast", reads=Output("load")),), (call("slow", reads=Output("load")),))
                        ),
                        call("both", Output("slow"), reads=Output("fast")),
                    ),
                    "fast",
                ),
                Case(False, (call("none"),), "none"),
            ),
        ),
        call("publish", reads=Output("grade.switch")),
    ),
}
"""Plans by the name of their shape."""


# --- what a plan computes ---


def computed(one: Call, first: str, values: Mapping[Source, Json], params: Mapping[str, Json]) -> str:
    """Return what a call returns: its own name with all that it got."""

    def text(template: Template) -> str:
        match template:
            case ParamRef(name):
                return f"${params[name]}"
            case Output() | Results() | Item():
                return json.dumps(values[template])
            case list():
                return f"[{', '.join(map(text, template))}]"
            case dict():
                return f"{{{', '.join(f'{name}: {text(member)}' for name, member in template.items())}}}"
            case _:
                return json.dumps(template)

    arguments = [f"{argument.parameter}={text(argument.template)}" for argument in one.arguments]
    return f"{one.id}({', '.join([*([first] if one.reads else []), *arguments])})"


def items_of(text: str) -> list[str]:
    return [f"{text}#{number}" for number in range(ITEMS if zlib.crc32(text.encode()) % 7 else 0)]


def short(text: str) -> str:
    """Shorten what grows without end, as it does in random plans; equal texts stay equal."""
    return text if len(text) < 200 else f"{text[:40]}…{zlib.crc32(text.encode())}"


def chosen(one: Call | Switch, text: str) -> int:
    return zlib.crc32(text.encode()) % len(one.cases)


class _Texts(Interpreter):
    """Runs plans whose steps are made up: they return texts, and a source's text stands for its items."""

    def call(self, call: Call, values: Mapping[Source, Any]) -> object:
        first = "" if call.reads is None else json.dumps(values[call.reads])
        return short(computed(call, first, values, self.params))

    def items(self, value: object) -> Iterable[object]:
        return items_of(str(value))

    def case(self, switch: Switch, value: object) -> Case:
        return switch.cases[chosen(switch, str(value))]


def run_directly(plan: Plan, params: Mapping[str, Json]) -> tuple[object, set[str]]:
    """Return the result of a plan, and the ids of the calls that were made."""
    interpreter = _Texts(plan, params)
    values = interpreter.run(plan.ops, {})
    outputs = [values[output] for output in plan.outputs]
    return ({"results": outputs} if plan.returns_tuple else outputs[0]), set(interpreter.order)


# --- functions that keep the contract ---


@dataclass
class Functions:
    """The functions of a plan: they read events and answer as docs/contract.md says.

    An entry's `values` hold all that its item has so far, where real ones hand on only what is needed. `dies`: whether
    the smaller function dies of a text.
    """

    compiled: Compiled
    objects: MutableMapping[str, Json]
    dies: Callable[[str], bool] = lambda text: False
    hides_entries: bool = False
    """Whether replies of batches are in the store, where the state machine does not see them."""
    hands_back: bool = False
    """Whether each invocation runs one item of its batch only."""
    invoked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    params: dict[str, Json] = field(default_factory=dict)

    def __call__(self, name: str, event: dict[str, Any]) -> Json:
        self.invoked.append((name, event))
        functions = {f"${{{function_placeholder(each.name)}}}": each for each in self.compiled.functions}
        one = next(each for each in self.compiled.plan.calls if each.id == event["call"])
        assert functions[name].step.name == one.step
        larger = functions[name].larger
        if event.get("bind"):
            return {"params": {**self.defaults, **event["params"]}}
        first = one is self.compiled.plan.ops[0]
        params = {**self.defaults, **event["params"]} if first else event.get("params", {})
        outside = {each: self.load(ref) for each, ref in event.get("values", {}).items()}
        if "items" in event:
            entries = [each for entry in event["items"] for each in self.opened(entry)]
            replies: list[Json] = [each for entry in event.get("done", []) for each in self.opened(entry)]
            begin = event.get("first", 0)
            assert len(replies) == begin
            end = 1 + begin if self.hands_back else begin + event.get("size", len(entries))
            replies += [self.entry(one, entry, outside, params, larger) for entry in entries[begin:end]]
            following: dict[str, Json] = {"next": len(replies)} if len(replies) < len(entries) else {}
            if self.hides_entries:
                url = f"s3://hidden/{len(self.objects)}"
                self.objects[url] = replies
                return {"items": [{"entries_url": url}], **following}
            return {"items": replies, **following}
        if "item" in event:
            return self.entry(one, event["item"], outside, params, larger)
        value = self.load(event["input"]) if "input" in event else None
        assert ("input" in event) == (one.reads is not None)
        assert set(outside) == set(map(source_name, one.values))
        values = {source: outside[source_name(source)] for source in one.values}
        text = computed(one, json.dumps(value), values, params)
        reply = self.reply(one, self.lived(text, larger))
        return {**reply, "params": params} if first else reply

    @property
    def defaults(self) -> dict[str, Json]:
        return bind_parameters(self.compiled.plan.params, {})

    def lived(self, text: str, larger: bool) -> str:
        if self.dies(text) and not larger:
            raise WalkError("Runtime.OutOfMemory")
        return short(text)

    def reply(self, one: Call, text: str) -> dict[str, Json]:
        reply: dict[str, Json] = {}
        if one.fans_out:
            key = f"{one.id}/map_manifest.json"
            self.objects[key] = [{"index": index, "item": item} for index, item in enumerate(items_of(text))]
            reply = {"map_manifest_key": key, "items": len(items_of(text))}
        if not one.fans_out or one.keeps_value:
            reply["result"] = text
        if one.cases:
            reply["case"] = chosen(one, text)
        return reply

    def opened(self, entry: dict[str, Any]) -> list[dict[str, Any]]:
        entries: list[dict[str, Any]] = [entry]
        if "entries_url" in entry:
            hidden: Any = self.objects[entry["entries_url"]]
            entries = hidden
        return entries

    def load(self, ref: Mapping[str, Any]) -> Json:
        if "results_manifest_key" not in ref:
            value: Json = ref["result"]
            return value
        entries: Any = self.objects[ref["results_manifest_key"]]
        whole = sorted((each for entry in entries for each in self.opened(entry)), key=lambda entry: entry["index"])
        assert [entry["index"] for entry in whole] == list(range(ref["items"]))
        return [entry["result"] for entry in whole]

    def entry(
        self, one: Call, entry: dict[str, Any], outside: dict[str, Json], params: Mapping[str, Json], larger: bool
    ) -> dict[str, Json]:
        fan_out = next(each for each in self.compiled.plan.fan_outs if one in each.calls)
        chosen_cases: dict[str, int] = entry.get("cases", {})
        only = list(cases_around(fan_out.body, one.id))
        if any(chosen_cases.get(switch.id) != number for switch, number in only):
            return entry
        has: dict[str, Json] = entry.get("values", {"": entry.get("item")})
        inside = {Output(op.id) for op in operations_in(fan_out.body)}
        values: dict[Source, Json] = {}
        for source in sources_of(one):
            if isinstance(source, Item):
                assert source.id in ("", fan_out.id)
                values[source] = has[""]
            else:
                values[source] = (has if source in inside else outside)[source_name(source)]
        assert set(outside) == {source_name(s) for s in sources_of(one) if s not in inside and not isinstance(s, Item)}
        first = "" if one.reads is None else json.dumps(values[one.reads])
        text = self.lived(computed(one, first, values, params), larger)
        has = {**has, one.id: text}
        for switch, number in reversed(only):
            if has.get(switch.cases[number].output) is not None and switch.id not in has:
                has[switch.id] = has[switch.cases[number].output]
        reply: dict[str, Json] = {"index": entry["index"], "values": has, "cases": {**chosen_cases}}
        if one.cases:
            switch = next(op for op in operations_in(fan_out.body) if isinstance(op, Switch) and op.on == one.id)
            reply["cases"] = {**chosen_cases, switch.id: chosen(one, text)}
        return {**reply, "result": has.get(fan_out.result, text)}


def cases_around(block: Block, call_id: str) -> Iterator[tuple[Switch, int]]:
    """Yield the cases that a call of a body is in, the outer ones first."""
    for op in block:
        if isinstance(op, Switch):
            for number, case in enumerate(op.cases):
                if any(each.id == call_id for each in operations_in(case.block)):
                    yield op, number
                    yield from cases_around(case.block, call_id)


# --- random plans ---

WORDS = (
    *("load", "train", "clean", "score", "rank", "join", "sum", "params", "states", "count", "filter", "_hidden"),
    *("größe", "result", "parameters", "two__scores", "function", "true", "branch", "first", "a", "b", "c", "d", "e"),
)
VALUES: tuple[CaseValue, ...] = ("good", "bad", 3, True, False)


@dataclass
class _Drawing:
    random: random.Random
    ids: set[str] = field(default_factory=set)

    def plan(self) -> Plan:
        block, visible = self.block((), 0, 6)
        outputs = [source for source in visible if isinstance(source, Output)]
        last = block[-1]
        result: Output | tuple[Output, ...] | None = self.random.choice(outputs)
        if self.random.random() < 0.3:
            result = tuple(self.random.sample(outputs, min(len(outputs), self.random.randint(1, 3))))
        elif isinstance(last, Call | Switch) and self.random.random() < 0.5:
            result = None
        params = (FlowParameter("p", default="x"), FlowParameter("q", default=1))
        return with_kept_values(Plan("graph", params, block, FlowOptions(), result=result))

    def new_id(self) -> str:
        word = self.random.choice(WORDS)
        call_id, number = word, 1
        while call_id in self.ids:
            number += 1
            call_id = f"{word}_{number}"
        self.ids.add(call_id)
        return call_id

    def call(self, visible: tuple[Source, ...], **fields: Any) -> Call:
        reads = self.random.choice([None, *visible[-3:]]) if visible else None
        places: list[Template] = [ParamRef("p"), ParamRef("q"), 7, *visible]
        count = self.random.choice([0, 0, 1, 2])
        values = [self.random.choice(places) for _ in range(count)]
        return call(self.new_id(), *([values] if count == 2 else values), reads=reads, **fields)

    def block(
        self, visible: tuple[Source, ...], depth: int, size: int, *, body: bool = False
    ) -> tuple[Block, tuple[Source, ...]]:
        """Return a block, and what can be read after it."""
        ops: list[Op] = []
        for _ in range(self.random.randint(1, size)):
            kinds = ["call", "call", *([] if body else ["map", "map", "fork"]), "switch"]
            kind = self.random.choice(kinds if depth < 3 else ["call"])
            more = getattr(self, f"_{kind}")(visible, depth, ops, body)
            visible = (*visible, *more)
        if not any(isinstance(op, Call | Switch) for op in ops):
            visible = (*visible, *self._call(visible, depth, ops, body))
        return tuple(ops), visible

    def _call(self, visible: tuple[Source, ...], depth: int, ops: list[Op], body: bool) -> Iterator[Source]:
        ops.append(self.call(visible))
        yield Output(ops[-1].id)

    def _map(self, visible: tuple[Source, ...], depth: int, ops: list[Op], body: bool) -> Iterator[Source]:
        source = self.call(visible, fans_out=True)
        ops.append(source)
        visible = (*visible, Output(source.id))
        for number in range(self.random.choice([1, 1, 2])):
            if self.random.random() < 0.3:
                ops.append(self.call(visible))
                yield Output(ops[-1].id)
            inner, _ = self.block((*visible, Item()), depth + 1, 3, body=True)
            outputs = [op.id for op in inner if isinstance(op, Call | Switch)]
            output = self.random.choice(["", "", *outputs])
            batch = self.random.choice([None, 1, 2, 5])
            tolerate = self.random.choice([None, 0.125])
            fan_out_id = f"{source.id}.map{f'_{number + 1}' if number else ''}"
            ops.append(FanOut(fan_out_id, source.id, inner, MapOptions(None, batch, tolerate), output))
            yield Results(fan_out_id)
        yield Output(source.id)

    def _fork(self, visible: tuple[Source, ...], depth: int, ops: list[Op], body: bool) -> Iterator[Source]:
        branches, more = [], list[Source]()
        for _ in range(self.random.randint(2, 3)):
            branch, after = self.block(visible, depth + 1, 2)
            branches.append(branch)
            more += after[len(visible) :]
        ops.append(Fork(f"{branches[0][0].id}.fork", tuple(branches)))
        yield from more

    def _switch(self, visible: tuple[Source, ...], depth: int, ops: list[Op], body: bool) -> Iterator[Source]:
        values = self.random.sample(VALUES, self.random.randint(1, 3))
        if self.random.random() < 0.5:
            values.append(None)
        on = self.call(visible, cases=tuple(values))
        ops.append(on)
        cases = []
        for value in values:
            inner, _ = self.block((*visible, Output(on.id)), depth + 1, 2, body=body)
            output = self.random.choice([op.id for op in inner if isinstance(op, Call | Switch)])
            cases.append(Case(value, inner, output))
        ops.append(Switch(f"{on.id}.switch", on.id, tuple(cases)))
        yield Output(on.id)
        yield Output(ops[-1].id)


def with_kept_values(plan: Plan) -> Plan:
    """Return a plan in which each source that is read as a value says so."""
    read = {source for one in plan.calls for source in sources_of(one)} | set(plan.outputs)

    def changed(op: Op) -> Op:
        match op:
            case Call():
                return replace(op, keeps_value=op.fans_out and Output(op.id) in read)
            case FanOut():
                return replace(op, body=tuple(map(changed, op.body)))
            case Fork():
                return replace(op, branches=tuple(tuple(map(changed, branch)) for branch in op.branches))
            case Switch():
                cases = (replace(case, block=tuple(map(changed, case.block))) for case in op.cases)
                return replace(op, cases=tuple(cases))

    # The output of a case is read by its switch, and it may be a source of a map.
    for op in operations_in(plan.ops):
        if isinstance(op, Switch):
            read |= {Output(case.output) for case in op.cases}
    return replace(plan, ops=tuple(map(changed, plan.ops)))


def random_plan(source: random.Random) -> Plan:
    """Draw a plan: branches, joins, values of the run as arguments, maps, switches."""
    return _Drawing(source).plan()
