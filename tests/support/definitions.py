"""A definition as CloudFormation fills it in, with the names of steps in the place of functions."""

from __future__ import annotations

import json

from lokki.base.values import Json
from lokki.builder.names import deployed_functions, function_placeholder
from lokki.builder.state_machine import build_state_machine, map_substitutions
from lokki.config import LokkiConfig
from lokki.graph import FlowGraph
from lokki.plan import lower

ACTIONS = {
    "InvokeFunction": "arn:aws:states:::lambda:invoke",
    "ReadObject": "arn:aws:states:::s3:getObject",
    "WriteObject": "arn:aws:states:::s3:putObject",
    "MapConcurrency": "{% 1000 %}",
}


def filled_definition(graph: FlowGraph, config: LokkiConfig, bucket: str) -> Json:
    """Return a flow's state machine for an account that runs a thousand functions at one time."""
    values = {
        "ArtifactBucket": bucket,
        "FlowName": graph.name,
        **ACTIONS,
        **map_substitutions(lower(graph)),
        **{function_placeholder(each.name): each.name for each in deployed_functions(graph.steps)},
    }
    return filled(build_state_machine(graph, config), values)


def filled(definition: Json, values: dict[str, str]) -> Json:
    """Put values into a definition's places. Fails for a place that has none."""
    text = json.dumps(definition, ensure_ascii=False)
    for name, value in values.items():
        text = text.replace(f"${{{name}}}", value)
    assert "${" not in text, text[text.index("${") :][:80]
    whole: Json = json.loads(text)
    return whole
