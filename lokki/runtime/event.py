"""The events that lokki's state machines invoke a step's function with, checked and given types.

Values of the runtime are msgspec structs: to make a dataclass takes fifty times as long, in every cold start.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import msgspec

from lokki.base.item_path import ItemPath
from lokki.base.naming import check_run_id
from lokki.base.options import MapOptions
from lokki.base.values import Inline, Json, JsonField, Ref, ref_from_json
from lokki.errors import EventError, LokkiError
from lokki.plans.operations import Argument, Call
from lokki.plans.templates import Item, Output, Reads, Results, source_name, template_from_json

_LONGEST_TEXT = 8000
_MOST = 2**53  # the largest range of integers that every JSON parser agrees on

_BESIDE_REF = {"map_manifest_key", "items", "case"}
"""What the reply of a call has beside the reference to its result."""

_READS: dict[str | None, Reads] = {None: None, "output": Output(""), "item": Item(), "results": Results("")}


class Entry(msgspec.Struct, frozen=True):
    """An item of a map block on its way.

    * ``index``: of the item in its block.
    * ``ref``: where its value is.
    * ``failed``: why it failed earlier in its batch.
    * ``values``: what is read later than by the next step, by name.
    * ``cases``: the case that each switch chose for it.
    * ``path``: an index for each map that it is in, where that is more than one.
    """

    index: int
    ref: Ref
    failed: dict[str, Json] | None = None
    values: dict[str, Ref] = {}
    cases: dict[str, int] = {}
    path: ItemPath = ()

    @property
    def item(self) -> ItemPath:
        """How the item is named."""
        return self.path or (self.index,)

    @property
    def path_field(self) -> dict[str, Json]:
        """The field that an entry has of an item of a map below a map."""
        return {"path": list(self.path)} if self.path else {}


class Spilled(msgspec.Struct, frozen=True):
    """The entries of a batch that are too many bytes for a state.

    They are in an object of their own.
    """

    url: str


class ItemCount(msgspec.Struct, frozen=True):
    """How many items a map has.

    * ``size``: the bytes of its manifest, 0 where that is not known.
    """

    count: int
    size: int = 0


class Batch(msgspec.Struct, frozen=True):
    """The items of a batch, in order, and how far it is.

    * ``done``: the entries of the reply before, for the items that have one.
    * ``first``: the first item without an entry.
    * ``size``: how many items from there are to be run; 0 for all.
    * ``tried``: how many tries of the first one's were used up before.
    * ``died``: the error by which the function ended when it ran the first one alone; "" for none.
    * ``redriven``: whether an earlier try of the run may have left entries in the store.
    """

    entries: tuple[Entry | Spilled, ...]
    done: tuple[Json, ...] = ()
    first: int = 0
    size: int = 0
    tried: int = 0
    died: str = ""
    redriven: bool = False


class ResultsKey(msgspec.Struct, frozen=True):
    """Where the results of a map block are listed, and how many items it had.

    ``earlier``: where those are listed that the run took over from earlier ones.
    """

    key: str
    items: int
    earlier: tuple[str, ...] = ()


type Value = Ref | ResultsKey
"""Where a value of the run is that is no item."""

type Input = Ref | Entry | Batch | ResultsKey | None


class Request(msgspec.Struct, frozen=True):
    """One invocation: which call of which run, on what.

    * ``params``: the flow's parameters that the call uses.
    * ``attempt``: counts from 1.
    * ``values``: of the run, by name, from outside of the map block that the call may be in.
    * ``bind``: whether only the parameters are to be checked.
    """

    run_id: str
    call: Call
    params: dict[str, Json]
    input: Input
    attempt: int
    values: dict[str, Value] = {}
    bind: bool = False


class ItemCall(msgspec.Struct, frozen=True):
    """What a call inside of a map block hands on with each item.

    Only bodies that are no lines have any.

    * ``hands_on``: the names of values in its reply, with those that they have here; "" is the call's own result.
    * ``switch``: the switch whose case it chooses.
    * ``only``: the switches that it is in a case of, with the number of the case.
    * ``keeps_cases``: the switches whose choice is needed later.
    * ``result``: the name of the item's result, where that is not the call's own.
    """

    hands_on: dict[str, str]
    switch: str = ""
    only: tuple[tuple[str, int], ...] = ()
    keeps_cases: tuple[str, ...] = ()
    result: str = ""

    def is_for(self, entry: Entry) -> bool:
        """Tell whether the call is to run on an item."""
        return all(entry.cases.get(switch) == number for switch, number in self.only)


class Regroups(msgspec.Struct, frozen=True):
    """What a call does that regroups the items of maps below maps.

    * ``around``: the id of the spread that made the items of the level before; empty for a map that is below no other.
    * ``carries``: the names of the values that come with each item.
    * ``items``: for a spread, the name of the value that is an item's list.
    * ``spread``: for a gather, the id of the spread before the map whose results it puts together.
    * ``level``: for a gather, the name of the value with the results of the level before.
    * ``tolerate``: how many items of each list may fail. ``source``: the id of the call that gave the lists.
    * ``inner``, ``outer``: for a gather, the ids of the calls in the map whose results it puts together, and in the
      level before, by which failures are named.
    """

    around: str
    carries: tuple[str, ...]
    items: str = ""
    spread: str = ""
    level: str = ""
    tolerate: int | float | None = None
    source: str = ""
    inner: tuple[str, ...] = ()
    outer: tuple[str, ...] = ()


class _GraphFields(msgspec.Struct, frozen=True):
    """What ``step.json`` says of a call that no line has."""

    binds: bool = False
    keeps_value: bool = False
    passes_on: bool = False
    cases: tuple[bool | int | str | None, ...] = ()
    tolerates: dict[str, int | float] = {}
    regroups: Regroups | None = None
    max_cost: dict[str, JsonField] = {}


class HandledCall(msgspec.Struct, frozen=True):
    """A call that a function handles, as its package describes it.

    * ``first``: whether it validates the parameters of the flow.
    * ``tolerate``: how many items of its map may fail.
    * ``reads_known``: whether the package says what the call reads; where it does not, the event does.
    * ``reads_value``: the name of the value that fills its first parameter, where that is not the current one.
    * ``binds``: whether it checks the parameters of the flow, and is not run for it.
    * ``tolerates``: how many items may fail of the maps whose results are among its values.
    * ``max_cost``: the fields of a `lokki.runtime.cost_limit.CostLimit`, where the run has one.
    """

    call: Call
    first: bool
    tolerate: int | float | None = None
    reads_known: bool = True
    reads_value: str = ""
    binds: bool = False
    tolerates: dict[str, int | float] = {}
    item_call: ItemCall | None = None
    regroups: Regroups | None = None
    max_cost: dict[str, JsonField] = {}

    @property
    def values(self) -> set[str]:
        """The names of all that it reads beside the current value."""
        if self.regroups is not None:
            return {self.regroups.level} if self.regroups.level else set()
        first = {self.reads_value} if self.reads_value else set[str]()
        return first.union(map(source_name, self.call.values))


def parse_event(event: object, calls: Mapping[str, HandledCall]) -> Request:
    """Check an event.

    Raises EventError that names the field that is wrong, and no value of it.
    """
    if not isinstance(event, dict):
        raise EventError(f"the event is {_kind(event)}, not an object with run_id, call and params.")
    run_id, params, attempt = event.get("run_id"), event.get("params", {}), event.get("attempt", 0)
    call_id = event.get("call", next(iter(calls)) if len(calls) == 1 else None)
    if not isinstance(run_id, str):
        raise EventError(f"the event's run_id is {_kind(run_id)}, not a string.")
    try:
        check_run_id(run_id)
    except LokkiError:
        raise EventError("the event's run_id is no name of an execution.") from None
    if not isinstance(call_id, str) or call_id not in calls:
        raise EventError(f"the event's call is none of this function's: {', '.join(calls)}.")
    if not isinstance(params, dict):
        raise EventError(f"the event's params are {_kind(params)}, not an object.")
    if type(attempt) is not int or not 0 <= attempt < _MOST:
        raise EventError(f"the event's attempt is {_kind(attempt)}, not the number of retries before it.")
    handled = calls[call_id]
    if "bind" in event:
        return _binding(event, Request(run_id, handled.call, params, None, attempt + 1, bind=True), handled)
    call, payload = handled.call, _input(event)
    reads = _read_by(payload)
    if not handled.reads_known:
        call = replace(call, reads=reads)
    elif handled.item_call is not None:
        if not isinstance(reads, Item):
            raise EventError(f"the event has {_described(reads)} for {call_id}(), which is run on items.")
    elif not _fits(call.reads, reads):
        raise EventError(f"the event has {_described(reads)} for {call_id}(), which reads {_described(call.reads)}.")
    missing = () if handled.first else sorted(set(call.params) - params.keys())
    if missing:
        raise EventError(f"the event's params lack {', '.join(missing)}, which {call_id}() takes.")
    return Request(run_id, call, params, payload, attempt + 1, _values(event, handled))


def parse_entry(value: Json) -> Entry:
    """Read an item as manifests, replies of inner steps and batches have it.

    Raises EventError for anything else.
    """
    if not isinstance(value, dict):
        raise EventError(f"an item is {_kind(value)}, not an object with an index.")
    fields = {**value}
    index = fields.pop("index", None)
    if type(index) is not int or not 0 <= index < _MOST:
        raise EventError("an item has no index.")
    path = _path(fields.pop("path", []), index)
    if fields.keys() == {"failed"}:
        return Entry(index, Inline(None), _failed(fields["failed"]), path=path)
    if "item" in fields and "result" not in fields:
        fields["result"] = fields.pop("item")
    values, cases = fields.pop("values", {}), fields.pop("cases", {})
    ref = _ref(fields, f"item {index}")
    return Entry(index, ref, None, _values_of_item(values, index), _cases_of_item(cases, index), path)


def _path(value: Json, index: int) -> ItemPath:
    """Read the indices of an item of a map below a map."""
    path = tuple(number for number in value if type(number) is int) if isinstance(value, list) else ()
    if not isinstance(value, list) or len(path) != len(value):
        raise EventError(f"the path of item {index} is no list of indices.")
    return path


def _values_of_item(values: Json, index: int) -> dict[str, Ref]:
    if not isinstance(values, dict):
        raise EventError(f"the values of item {index} are {_kind(values)}, not an object.")
    return {name: _ref(value, f"a value of item {index}") for name, value in values.items()}


def _cases_of_item(cases: Json, index: int) -> dict[str, int]:
    if not isinstance(cases, dict):
        raise EventError(f"the cases of item {index} are {_kind(cases)}, not an object.")
    numbers: dict[str, int] = {}
    for name, number in cases.items():
        if type(number) is not int or not 0 <= number < _MOST:
            raise EventError(f"a case of item {index} is {_kind(number)}, not the number of a case.")
        numbers[name] = number
    return numbers


def plain_text(text: str) -> str:
    """Return a message as it may travel in events and logs.

    It can be encoded, and has at most 8,000 characters.
    """
    return text[:_LONGEST_TEXT].encode("utf-8", "backslashreplace").decode()


def parse_calls(step_name: str, calls: Mapping[str, Json]) -> dict[str, HandledCall]:
    """Read what ``step.json`` says of the calls of a step.

    Raises EventError, or FlowError for a ``tolerate``, for what it cannot mean.
    """
    if not calls:
        raise EventError("the handler has no calls.")
    return {call_id: _handled_call(step_name, call_id, fields) for call_id, fields in calls.items()}


def _handled_call(step_name: str, call_id: str, fields: Json) -> HandledCall:
    if not isinstance(fields, dict):
        raise EventError(f"the handler's call {call_id!r} is {_kind(fields)}, not an object.")
    arguments, reads = fields.get("arguments", []), fields.get("reads")
    if not isinstance(arguments, list):
        raise EventError(f"the arguments of the handler's call {call_id!r} are {_kind(arguments)}, not a list.")
    reads_value = _reads_value(reads)
    if reads_value:
        reads = "output"
    if not isinstance(reads, str | None) or reads not in _READS:
        raise EventError(f"the handler's call {call_id!r} reads what it does not know: output, item or results.")
    tolerate = fields.get("tolerate")
    if not isinstance(tolerate, int | float | None):
        raise EventError(f"the handler's call {call_id!r} tolerates {_kind(tolerate)}, not a number of items.")
    MapOptions(tolerate=tolerate)  # checks it
    try:
        graph = msgspec.convert(fields, _GraphFields)
        item_call = msgspec.convert(fields, ItemCall) if "hands_on" in fields else None
    except msgspec.ValidationError as error:
        raise EventError(f"the handler's call {call_id!r} has a field that it does not know: {error}.") from None
    call = Call(
        call_id,
        step_name,
        tuple(map(_argument, arguments)),
        _READS[reads],
        fans_out=fields.get("fans_out") is True,
        keeps_value=graph.keeps_value,
        cases=graph.cases,
        passes_on=graph.passes_on,
    )
    return HandledCall(
        call,
        fields.get("first") is True,
        tolerate,
        "reads" in fields,
        reads_value,
        graph.binds,
        graph.tolerates,
        item_call,
        graph.regroups,
        graph.max_cost,
    )


def _reads_value(reads: Json) -> str:
    """Return the name of the value that fills a first parameter, or nothing."""
    name = reads.get("value") if isinstance(reads, dict) and len(reads) == 1 else None
    return name if isinstance(name, str) else ""


def _argument(fields: Json) -> Argument:
    keyword = fields.get("keyword") if isinstance(fields, dict) else None
    name = fields.get("parameter") if isinstance(fields, dict) else None
    if not isinstance(fields, dict) or not isinstance(name, str) or not isinstance(keyword, str | None):
        raise EventError("an argument in the handler has no parameter's name.")
    return Argument(name, template_from_json(fields.get("value")), keyword, fields.get("variadic") is True)


def _input(event: dict[str, Json]) -> Input:
    """Find what the call runs on.

    That is one item, a batch of items, the results of a map block, one value, or nothing.
    """
    names = [name for name in ("item", "items", "input") if event.get(name) is not None]
    if len(names) > 1:
        raise EventError(f"the event has {' and '.join(names)}, of which a call takes one.")
    if not names:
        return None
    value = event[names[0]]
    if names == ["item"]:
        return parse_entry(value)
    if names == ["items"]:
        if not isinstance(value, list):
            raise EventError(f"the event's items are {_kind(value)}, not a list.")
        return _batch(event, tuple(map(_entry_of_batch, value)))
    return _value(value, "the event's input")


def _batch(event: dict[str, Json], entries: tuple[Entry | Spilled, ...]) -> Batch:
    done, died = event.get("done", []), event.get("died", "")
    if not isinstance(done, list):
        raise EventError(f"what the event says is done is {_kind(done)}, not a list.")
    for entry in done:
        _entry_of_batch(entry)  # checks it
    if not isinstance(died, str):
        raise EventError(f"how the function died by the event is {_kind(died)}, not the name of an error.")
    first, size, tried, redrives = (_number(event, name) for name in ("first", "size", "tried", "redrives"))
    return Batch(entries, tuple(done), first, size, tried, plain_text(died), redrives > 0)


def _number(event: dict[str, Json], name: str) -> int:
    number = event.get(name, 0)
    if type(number) is float and number.is_integer():
        number = int(number)  # to JSONata, all numbers are alike
    if type(number) is not int or not 0 <= number < _MOST:
        raise EventError(f"the event's {name} is {_kind(number)}, not a number that a batch may have.")
    return number


def _value(value: Json, name: str) -> Value:
    """Read where a value of the run is.

    It is as the call replied, or the map handed on, that gave it.
    """
    if not isinstance(value, dict):
        return _ref(value, name)
    if "results_manifest_key" in value:
        key, count = value["results_manifest_key"], value.get("items")
        if not isinstance(key, str) or type(count) is not int or not 0 <= count < _MOST:
            raise EventError(f"{name} has no results_manifest_key and number of items of a map.")
        return ResultsKey(key, count)
    return _ref({field: member for field, member in value.items() if field not in _BESIDE_REF}, name)


def _values(event: dict[str, Json], handled: HandledCall) -> dict[str, Value]:
    """Find the values of the run that an event has.

    All that a call outside of map blocks reads is there; in one, the items have the rest.
    """
    values, names = event.get("values", {}), handled.values
    if not isinstance(values, dict):
        raise EventError(f"the event's values are {_kind(values)}, not an object.")
    if values.keys() - names:
        raise EventError(f"the event's values have one that {handled.call.id}() does not take.")
    missing = set[str]() if handled.item_call is not None else names - values.keys()
    if missing:
        raise EventError(f"the event's values lack {', '.join(sorted(missing))}, which {handled.call.id}() takes.")
    return {name: _value(value, f"the event's value {name}") for name, value in values.items()}


def _binding(event: dict[str, Json], request: Request, handled: HandledCall) -> Request:
    if event["bind"] is not True:
        raise EventError(f"the event's bind is {_kind(event['bind'])}, not true.")
    if not handled.binds:
        raise EventError(f"the event's bind is for the flow's first call, which {handled.call.id}() is not.")
    return request


def _entry_of_batch(value: Json) -> Entry | Spilled:
    if isinstance(value, dict) and value.keys() == {"entries_url"}:
        url = value["entries_url"]
        if isinstance(url, str):
            return Spilled(url)
    return parse_entry(value)


def _failed(failure: Json) -> dict[str, Json]:
    if not isinstance(failure, dict) or failure.keys() - {"where"} != {"step", "error", "message"}:
        raise EventError(f"the failure of an item is {_kind(failure)}, not one with step, error and message.")
    if not all(isinstance(text, str) for text in failure.values()):
        raise EventError("the failure of an item has a step, error, message or place that is no string.")
    return {name: plain_text(str(text)) for name, text in failure.items()}


def _read_by(payload: Input) -> Reads:
    match payload:
        case None:
            return None
        case Entry() | Batch():
            return Item()
        case ResultsKey():
            return Results("")
        case _:
            return Output("")


def _fits(declared: Reads, received: Reads) -> bool:
    """Tell whether an event has what a call reads.

    Inside a map block, the output of a step comes as an item, too.
    """
    return type(declared) is type(received) or (isinstance(declared, Output) and isinstance(received, Item))


def _described(reads: Reads) -> str:
    match reads:
        case None:
            return "no input"
        case Item():
            return "items"
        case Results():
            return "results of a map"
        case Output():
            return "one input"


def _ref(value: Json, name: str) -> Ref:
    try:
        return ref_from_json(value)
    except LokkiError:
        raise EventError(f"{name} is {_kind(value)}, not a reference to a value.") from None


def _kind(value: object) -> str:
    """Describe a value without showing anything of it."""
    names = {dict: "an object", list: "a list", str: "a string", type(None): "missing"}
    return names.get(type(value), f"a {type(value).__name__}")
