"""Placeholders of a state machine's definition, and what fills them.

``statemachine.json`` holds ``${…}`` where a value is known only when the flow is deployed (DefinitionSubstitutions).
The values are written here once, as texts in which ``${…}`` are the template's own parameters and resources:
CloudFormation resolves these when it deploys, `fill_placeholders` does when the definition is checked without a stack.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Final

from lokki.builder.batching import concurrency_limit, sizes_itself
from lokki.builder.compiled import Compiled
from lokki.builder.names import batch_placeholder, function_placeholder, tolerated_placeholder
from lokki.builder.tasks import expression
from lokki.builder.wiring import wire
from lokki.engine.batch_size import batch_expression
from lokki.plans.templates import Output

BUCKET_PLACEHOLDER: Final = "ArtifactBucket"
FLOW_PLACEHOLDER: Final = "FlowName"
INVOKE_PLACEHOLDER: Final = "InvokeFunction"
READ_PLACEHOLDER: Final = "ReadObject"
WRITE_PLACEHOLDER: Final = "WriteObject"
CONCURRENCY_PLACEHOLDER: Final = "MapConcurrency"

BUCKET_PARAMETER: Final = "S3Bucket"
FLOW_PARAMETER: Final = "FlowName"
CONCURRENCY_PARAMETER: Final = "MapConcurrency"
"""Names of the template's parameters that placeholders are filled from."""

_ACTIONS = "arn:${AWS::Partition}:states:::"
"""China and GovCloud have partitions of their own:
https://docs.aws.amazon.com/IAM/latest/UserGuide/reference-arns.html"""


def substitutions(compiled: Compiled, functions: Mapping[str, str]) -> dict[str, str]:
    """Return the text for each placeholder of a flow's definition.

    ``functions``: what stands for each function, by its name.
    """
    values = {
        BUCKET_PLACEHOLDER: f"${{{BUCKET_PARAMETER}}}",
        FLOW_PLACEHOLDER: f"${{{FLOW_PARAMETER}}}",
        INVOKE_PLACEHOLDER: f"{_ACTIONS}lambda:invoke",
    }
    if compiled.maps:
        values[READ_PLACEHOLDER] = f"{_ACTIONS}s3:getObject"
        values[WRITE_PLACEHOLDER] = f"{_ACTIONS}s3:putObject"
    values |= _tolerated_counts(compiled) | _batch_sizes(compiled)
    if has_unbounded_map(compiled):
        # An expression, since what is filled in is text, and the field of a number takes text only as JSONata.
        values[CONCURRENCY_PLACEHOLDER] = f"{{% ${{{CONCURRENCY_PARAMETER}}} %}}"
    return values | {function_placeholder(name): text for name, text in functions.items()}


def fill_placeholders(text: str, values: Mapping[str, str]) -> str:
    """Put values into the placeholders of a text.

    Raises KeyError for a placeholder without a value.

    >>> fill_placeholders("arn:${AWS::Partition}:s3:::${Bucket}", {"AWS::Partition": "aws", "Bucket": "birds"})
    'arn:aws:s3:::birds'
    """
    return re.sub(r"\$\{([\w:]+)\}", lambda placeholder: values[placeholder[1]], text)


def has_unbounded_map(compiled: Compiled) -> bool:
    """Tell whether some map has no limit of its own on items at one time."""
    return any(concurrency_limit(compiled, fan_out) is None for fan_out in compiled.maps)


def exact_share(tolerate: float) -> Fraction:
    """Return a share as the user wrote it.

    0.29 is 29 of 100, though 0.29 * 100 is less than 29 in binary.
    """
    return Fraction(repr(tolerate))


def _batch_sizes(compiled: Compiled) -> dict[str, str]:
    """Return the sizes of batches that size themselves.

    An expression is no part of the definition itself, see `_tolerated_counts`.
    """
    wiring = wire(compiled.plan)
    sizes: dict[str, str] = {}
    for fan_out in compiled.maps:
        if sizes_itself(compiled, fan_out):
            items = f"{wiring.reads[fan_out.id, Output(fan_out.source)]}.items"
            limit = concurrency_limit(compiled, fan_out)
            at_once = f"${{{CONCURRENCY_PARAMETER}}}" if limit is None else str(limit)
            sizes[batch_placeholder(fan_out.key)] = expression(batch_expression(items, at_once))
    return sizes


def _tolerated_counts(compiled: Compiled) -> dict[str, str]:
    """Return how many items of each map may fail, as expressions.

    These are the maps for which no whole percentage says it. The count is computed from the number of items, since AWS
    takes whole percentages only. The expression is no part of the definition itself, whose fields of numbers cfn-lint
    wants to be numbers or placeholders.
    """
    counts: dict[str, str] = {}
    wiring = wire(compiled.plan)
    for fan_out in compiled.maps:
        tolerate = fan_out.options.tolerate
        if isinstance(tolerate, float) and ((share := exact_share(tolerate)) * 100).denominator != 1:
            items = wiring.reads[fan_out.id, Output(fan_out.source)]
            count = expression(f"$floor({items}.items * {share.numerator} / {share.denominator})")
            counts[tolerated_placeholder(fan_out.key)] = count
    return counts
