"""State machines as the emulator runs them: a definition, read and checked field by field; unknown fields are refused.

https://docs.aws.amazon.com/step-functions/latest/dg/statemachine-structure.html
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, cast

from lokki.base.quotas import LONGEST_TIMEOUT, STATE_NAME_LENGTH
from lokki.base.values import Json
from lokki.emulator.states.expressions import Expressions, is_expression
from lokki.emulator.states.failures import Retrier
from lokki.emulator.states.fields import Fields
from lokki.emulator.states.rules import Catcher, read_catchers, read_retriers
from lokki.errors import EmulatorError

LAMBDA_INVOKE = "arn:aws:states:::lambda:invoke"
GET_OBJECT = "arn:aws:states:::s3:getObject"
PUT_OBJECT = "arn:aws:states:::s3:putObject"

_LABEL = re.compile(r"[^\s?*<>{}\[\]:;,\\|^~$#%&`\"\x00-\x1f\x7f-\x9f]{1,40}")


@dataclass(frozen=True, slots=True)
class After:
    """What follows a state's work: what it hands on, what it keeps in variables, and where the execution goes then.

    ``output`` is None where the result is handed on; ``next`` is None at the end.
    """

    next: str | None
    output: tuple[Json] | None = None
    assign: dict[str, Json] | None = None


@dataclass(frozen=True, slots=True)
class Task:
    """Invokes a Lambda function. https://docs.aws.amazon.com/step-functions/latest/dg/state-task.html"""

    name: str
    function: Json
    payload: tuple[Json] | None
    timeout: Json
    retry: tuple[Retrier, ...]
    catch: tuple[Catcher[After], ...]
    after: After


@dataclass(frozen=True, slots=True)
class Pass:
    """Hands on. https://docs.aws.amazon.com/step-functions/latest/dg/state-pass.html"""

    name: str
    after: After


@dataclass(frozen=True, slots=True)
class Choice:
    """Goes where the first condition that holds says. https://docs.aws.amazon.com/step-functions/latest/dg/state-choice.html

    ``default`` is None where one of the conditions has to hold.
    """

    name: str
    rules: tuple[tuple[Json, After], ...]
    default: After | None


@dataclass(frozen=True, slots=True)
class Succeed:
    """Ends the execution. https://docs.aws.amazon.com/step-functions/latest/dg/state-succeed.html"""

    name: str
    after: After


@dataclass(frozen=True, slots=True)
class Fail:
    """Fails the execution. https://docs.aws.amazon.com/step-functions/latest/dg/state-fail.html"""

    name: str
    error: Json
    cause: Json


@dataclass(frozen=True, slots=True)
class Reader:
    """Where a map's items are: one JSON file, or one of JSON lines, in S3.

    https://docs.aws.amazon.com/step-functions/latest/dg/input-output-itemreader.html
    """

    input_type: Literal["JSON", "JSONL"]
    bucket: Json
    key: Json
    max_items: Json


@dataclass(frozen=True, slots=True)
class Batcher:
    """How items are put together. https://docs.aws.amazon.com/step-functions/latest/dg/input-output-itembatcher.html"""

    max_items: Json
    max_bytes: Json
    batch_input: tuple[Json] | None


@dataclass(frozen=True, slots=True)
class Writer:
    """How and where results go. https://docs.aws.amazon.com/step-functions/latest/dg/input-output-resultwriter.html

    ``destination``: templates of bucket and prefix; None hands the results on in the state's output.
    """

    transformation: Literal["NONE", "COMPACT", "FLATTEN"]
    output_type: Literal["JSON", "JSONL"]
    destination: tuple[Json, Json] | None


@dataclass(frozen=True, slots=True)
class Map:
    """A distributed map. https://docs.aws.amazon.com/step-functions/latest/dg/state-map-distributed.html"""

    name: str
    label: str
    source: Reader | tuple[Json]
    selector: tuple[Json] | None
    batcher: Batcher | None
    max_concurrency: Json
    tolerated_count: Json
    tolerated_percentage: Json
    express: bool
    processor: States
    writer: Writer
    retry: tuple[Retrier, ...]
    catch: tuple[Catcher[After], ...]
    after: After


type State = Task | Pass | Choice | Succeed | Fail | Map


@dataclass(frozen=True, slots=True)
class States:
    """States of one level, by name, and the one to start at."""

    start: str
    by_name: dict[str, State]


@dataclass(frozen=True, slots=True)
class StateMachine:
    """A whole definition. ``timeout``: seconds that an execution may take, or None."""

    name: str
    states: States
    timeout: float | None

    @property
    def maps(self) -> Iterator[Map]:
        """All map states."""
        return (state for state in self.states.by_name.values() if isinstance(state, Map))


def read_definition(definition: object, name: str) -> StateMachine:
    """Read a definition. Raises EmulatorError, with state and field, for what the emulator or AWS does not take."""
    fields = Fields(definition, "the state machine")
    fields.comment()
    fields.one_of("Version", ("1.0",), default="1.0")
    _check_language(fields, required=True)
    timeout = fields.number("TimeoutSeconds")
    seen: set[str] = set()
    states = _read_states(fields, seen)
    fields.end()
    machine = StateMachine(name, states, timeout)
    labels = [each.label for each in machine.maps]
    if len(set(labels)) < len(labels):
        raise EmulatorError(f"the state machine: labels of maps must differ: {', '.join(sorted(labels))}.")
    return machine


def _read_states(fields: Fields, seen: set[str], *, nested: bool = False) -> States:
    start = fields.text("StartAt")
    described = fields.mapping("States")
    by_name = {name: _read_state(name, each, seen, nested=nested) for name, each in described.items()}
    if start not in by_name:
        raise EmulatorError(f"{fields.where}: StartAt is {start!r}, which is none of its states.")
    reached = {start}
    for state in by_name.values():
        for target in _targets(state):
            if target not in by_name:
                raise EmulatorError(
                    f"the state {state.name}: Next is {target!r}, which is none of the states beside it."
                )
            reached.add(target)
    if lost := sorted(set(by_name) - reached):
        raise EmulatorError(f"{fields.where}: nothing leads to the state {lost[0]}.")
    return States(start, by_name)


def _targets(state: State) -> Iterator[str]:
    if isinstance(state, Choice):
        afters = [after for _, after in state.rules] + ([state.default] if state.default else [])
        yield from (after.next for after in afters if after.next is not None)
    elif not isinstance(state, Fail) and state.after.next is not None:
        yield state.after.next
    if isinstance(state, Task | Map):
        yield from (catcher.after.next for catcher in state.catch if catcher.after.next is not None)


def _read_state(name: str, described: Json, seen: set[str], *, nested: bool) -> State:
    where = f"the state {name}"
    if name in seen or not 1 <= len(name) <= 80:
        raise EmulatorError(f"{where}: names of states have 1 to 80 characters and are unique in the state machine.")
    seen.add(name)
    fields = Fields(described, where)
    fields.comment()
    _check_language(fields)
    kind = fields.one_of("Type", ("Task", "Pass", "Choice", "Succeed", "Fail", "Map"))
    state: State
    match kind:
        case "Task":
            state = _read_task(name, fields)
        case "Map":
            if nested:
                raise EmulatorError(f"{where}: lokki makes no map inside a map, and the emulator runs none.")
            state = _read_map(name, fields, seen)
        case "Pass":
            state = Pass(name, _read_after(fields))
        case "Choice":
            state = _read_choice(name, fields)
        case "Succeed":
            state = Succeed(name, After(None, fields.optional("Output")))
        case _:
            state = _read_fail(name, fields)
    fields.end()
    return state


def _check_language(fields: Fields, *, required: bool = False) -> None:
    language = fields.value("QueryLanguage", None)
    if language != "JSONata" and (required or language is not None):
        raise EmulatorError(f"{fields.where}: QueryLanguage is {language!r}; the emulator knows JSONata only.")


def _read_after(fields: Fields) -> After:
    following = fields.text("Next") if "Next" in fields else None
    if (following is not None) == fields.flag("End"):
        raise EmulatorError(f"{fields.where}: it needs either Next, the name of a state, or End: true.")
    return After(following, fields.optional("Output"), _read_assign(fields))


def _read_assign(fields: Fields) -> dict[str, Json] | None:
    """Read ``Assign``. https://docs.aws.amazon.com/step-functions/latest/dg/workflow-variables.html"""
    if "Assign" not in fields:
        return None
    assign = fields.mapping("Assign")
    for name in assign:
        if name == "states" or not name.isidentifier() or len(name) > STATE_NAME_LENGTH:
            raise EmulatorError(
                f"{fields.where}: Assign: {name!r} is no name of a variable: those are identifiers of up to "
                f"{STATE_NAME_LENGTH} characters, and 'states' is Step Functions' own."
            )
    return assign


def _read_choice(name: str, fields: Fields) -> Choice:
    rules = fields.objects("Choices")
    if not rules:
        raise EmulatorError(f"{fields.where}: Choices is empty; it needs at least one rule.")
    default = After(fields.text("Default")) if "Default" in fields else None
    return Choice(name, tuple(map(_read_rule, rules)), default)


def _read_rule(fields: Fields) -> tuple[Json, After]:
    fields.comment()
    condition = fields.text("Condition")
    if not is_expression(condition):
        raise EmulatorError(f"{fields.where}: Condition is {condition!r}, which is no JSONata expression.")
    after = After(fields.text("Next"), fields.optional("Output"), _read_assign(fields))
    fields.end()
    return condition, after


def _read_fail(name: str, fields: Fields) -> Fail:
    error, cause = fields.text_template("Error", None), fields.text_template("Cause", None)
    if isinstance(error, str) and error.startswith("States."):
        raise EmulatorError(f"{fields.where}: Error is {error!r}; names that begin with 'States.' are Step Functions'.")
    return Fail(name, error, cause)


def _read_task(name: str, fields: Fields) -> Task:
    resource = fields.text("Resource")
    if resource != LAMBDA_INVOKE:
        raise EmulatorError(f"{fields.where}: Resource is {resource!r}; the emulator knows {LAMBDA_INVOKE} only.")
    arguments = fields.inside("Arguments")
    function = arguments.text_template("FunctionName")
    payload = arguments.optional("Payload")
    arguments.end()
    return Task(
        name,
        function,
        payload,
        fields.number_template("TimeoutSeconds", LONGEST_TIMEOUT),
        read_retriers(fields),
        read_catchers(fields, _read_after),
        _read_after(fields),
    )


def _read_map(name: str, fields: Fields, seen: set[str]) -> Map:
    label = fields.value("Label", name)
    if not isinstance(label, str) or not _LABEL.fullmatch(label):
        raise EmulatorError(f"{fields.where}: Label is {label!r}; AWS takes up to 40 characters without separators.")
    processor = fields.inside("ItemProcessor")
    processor.comment()
    config = processor.inside("ProcessorConfig")
    config.one_of("Mode", ("DISTRIBUTED",))
    express = config.one_of("ExecutionType", ("STANDARD", "EXPRESS")) == "EXPRESS"
    config.end()
    inner = _read_states(processor, seen, nested=True)
    processor.end()
    items = fields.optional("Items")
    reader = _read_reader(fields.inside("ItemReader")) if "ItemReader" in fields else None
    if reader is not None and items is not None:
        raise EmulatorError(f"{fields.where}: ItemReader and Items exclude each other.")
    return Map(
        name,
        label,
        reader if reader is not None else (items if items is not None else ("{% $states.input %}",)),
        fields.optional("ItemSelector"),
        _read_batcher(fields.inside("ItemBatcher")) if "ItemBatcher" in fields else None,
        fields.number_template("MaxConcurrency", 0),
        fields.number_template("ToleratedFailureCount"),
        fields.number_template("ToleratedFailurePercentage"),
        express,
        inner,
        _read_writer(fields),
        read_retriers(fields),
        read_catchers(fields, _read_after),
        _read_after(fields),
    )


def _read_reader(fields: Fields) -> Reader:
    fields.one_of("Resource", (GET_OBJECT,))
    config = fields.inside("ReaderConfig")
    kind = config.one_of("InputType", ("JSON", "JSONL"))
    most = config.number_template("MaxItems")
    config.end()
    arguments = fields.inside("Arguments")
    bucket, key = arguments.text_template("Bucket"), arguments.text_template("Key")
    arguments.end()
    fields.end()
    return Reader("JSONL" if kind == "JSONL" else "JSON", bucket, key, most)


def _read_batcher(fields: Fields) -> Batcher:
    batcher = Batcher(
        fields.number_template("MaxItemsPerBatch"),
        fields.number_template("MaxInputBytesPerBatch"),
        fields.optional("BatchInput"),
    )
    if batcher.max_items is None and batcher.max_bytes is None:
        raise EmulatorError(f"{fields.where}: it needs MaxItemsPerBatch, MaxInputBytesPerBatch or both.")
    fields.end()
    return batcher


def _read_writer(fields: Fields) -> Writer:
    """Read ResultWriter: WriterConfig, or Resource and Arguments, or all three. Without it, outputs are handed on."""
    if "ResultWriter" not in fields:
        return Writer("COMPACT", "JSON", None)
    writer = fields.inside("ResultWriter")
    destination = None
    if "Resource" in writer or "Arguments" in writer:
        writer.one_of("Resource", (PUT_OBJECT,))
        arguments = writer.inside("Arguments")
        destination = (arguments.text_template("Bucket"), arguments.text_template("Prefix", ""))
        arguments.end()
    elif "WriterConfig" not in writer:
        raise EmulatorError(f"{writer.where}: it cannot be empty.")
    transformation, output_type = "NONE", "JSON"
    if "WriterConfig" in writer:
        config = writer.inside("WriterConfig")
        transformation = config.one_of("Transformation", ("NONE", "COMPACT", "FLATTEN"), default="NONE")
        output_type = config.one_of("OutputType", ("JSON", "JSONL"), default="JSON")
        config.end()
    writer.end()
    return Writer(
        cast("Literal['NONE', 'COMPACT', 'FLATTEN']", transformation),
        cast("Literal['JSON', 'JSONL']", output_type),
        destination,
    )


def check_expressions(definition: Json, expressions: Expressions) -> None:
    """Raise EmulatorError for a string in a definition that should be JSONata and is not."""
    expressions.check(definition, "the state machine")
