"""What a distributed map says of its items, its children and its results, read and checked.

https://docs.aws.amazon.com/step-functions/latest/dg/state-map-distributed.html
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from lokki.base.values import Json
from lokki.emulator.states.fields import Fields
from lokki.emulator.states.results import OutputType, Transformation
from lokki.errors import EmulatorError

GET_OBJECT = "arn:aws:states:::s3:getObject"
PUT_OBJECT = "arn:aws:states:::s3:putObject"

_LABEL = re.compile(r"[^\s?*<>{}\[\]:;,\\|^~$#%&`\"\x00-\x1f\x7f-\x9f]{1,40}")
_WHOLE_INPUT = ("{% $states.input %}",)
"""A map without ItemReader and Items iterates over its input."""


@dataclass(frozen=True, slots=True)
class Reader:
    """The file in S3 that has a map's items, as JSON or JSON lines.

    https://docs.aws.amazon.com/step-functions/latest/dg/input-output-itemreader.html
    """

    input_type: Literal["JSON", "JSONL"]
    bucket: str
    key: str
    max_items: Json


@dataclass(frozen=True, slots=True)
class Batcher:
    """How many items, and bytes, one child execution gets.

    https://docs.aws.amazon.com/step-functions/latest/dg/input-output-itembatcher.html
    """

    max_items: Json
    max_bytes: Json
    batch_input: tuple[Json] | None


@dataclass(frozen=True, slots=True)
class Writer:
    """In which form results go where.

    ``destination``: templates of bucket and prefix; None hands the results on in the state's output.
    https://docs.aws.amazon.com/step-functions/latest/dg/input-output-resultwriter.html
    """

    transformation: Transformation
    output_type: OutputType
    destination: tuple[str, str] | None


@dataclass(frozen=True, slots=True)
class MapSettings:
    """All fields of a map but its inner states, rules and transition.

    * ``label``: how it is called in ARNs.
    * ``source``: where items are, or a template of them; ``selector``: a template that replaces each item.
    * ``express``: whether children are EXPRESS executions.
    """

    label: str
    source: Reader | tuple[Json]
    selector: tuple[Json] | None
    batcher: Batcher | None
    max_concurrency: Json
    tolerated_count: Json
    tolerated_percentage: Json
    express: bool
    writer: Writer


def read_map_settings(name: str, fields: Fields, *, express: bool) -> MapSettings:
    """Read them.

    Raises EmulatorError for values that AWS refuses.
    """
    return MapSettings(
        _read_label(name, fields),
        _read_source(fields),
        fields.optional("ItemSelector"),
        _read_batcher(fields.inside("ItemBatcher")) if "ItemBatcher" in fields else None,
        fields.number_template("MaxConcurrency", 0),
        fields.number_template("ToleratedFailureCount"),
        fields.number_template("ToleratedFailurePercentage"),
        express,
        _read_writer(fields.inside("ResultWriter")) if "ResultWriter" in fields else Writer("COMPACT", "JSON", None),
    )


def _read_label(name: str, fields: Fields) -> str:
    label = fields.value("Label") if "Label" in fields else name
    if not isinstance(label, str) or not _LABEL.fullmatch(label):
        raise EmulatorError(f"{fields.where}: Label is {label!r}; AWS takes up to 40 characters without separators.")
    return label


def _read_source(fields: Fields) -> Reader | tuple[Json]:
    items = fields.optional("Items")
    if "ItemReader" not in fields:
        return _WHOLE_INPUT if items is None else items
    if items is not None:
        raise EmulatorError(f"{fields.where}: ItemReader and Items exclude each other.")
    return _read_reader(fields.inside("ItemReader"))


def _read_reader(fields: Fields) -> Reader:
    fields.one_of("Resource", (GET_OBJECT,))
    config = fields.inside("ReaderConfig")
    input_type: Literal["JSON", "JSONL"] = config.one_of("InputType", ("JSON", "JSONL"))
    max_items = config.number_template("MaxItems")
    config.end()
    arguments = fields.inside("Arguments")
    bucket, key = arguments.text("Bucket"), arguments.text("Key")
    arguments.end()
    fields.end()
    return Reader(input_type, bucket, key, max_items)


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
    """Read WriterConfig, or Resource and Arguments, or all three."""
    destination = None
    if "Resource" in fields or "Arguments" in fields:
        fields.one_of("Resource", (PUT_OBJECT,))
        arguments = fields.inside("Arguments")
        destination = (arguments.text("Bucket"), arguments.text("Prefix", ""))
        arguments.end()
    elif "WriterConfig" not in fields:
        raise EmulatorError(f"{fields.where}: it cannot be empty.")
    transformation: Transformation = "NONE"
    output_type: OutputType = "JSON"
    if "WriterConfig" in fields:
        config = fields.inside("WriterConfig")
        transformation = config.one_of("Transformation", ("NONE", "COMPACT", "FLATTEN"), default="NONE")
        output_type = config.one_of("OutputType", ("JSON", "JSONL"), default="JSON")
        config.end()
    fields.end()
    return Writer(transformation, output_type, destination)
