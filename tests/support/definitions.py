"""A definition as CloudFormation fills it in, with the names of steps in the place of functions."""

from __future__ import annotations

import json
from collections.abc import Mapping

from lokki.base.values import Json
from lokki.builder.compiled import Compiled, compile_flow
from lokki.builder.placeholders import fill_placeholders, substitutions
from lokki.builder.state_machine import state_machine_of
from lokki.config import LokkiConfig
from lokki.graph import FlowGraph


def filled_definition(graph: FlowGraph, config: LokkiConfig, bucket: str) -> Json:
    """Return a flow's state machine for an account that runs a thousand functions at one time."""
    compiled = compile_flow(graph, config)
    return filled(state_machine_of(compiled), definition_values(compiled, bucket))


def definition_values(compiled: Compiled, bucket: str, concurrency: int = 1_000) -> dict[str, str]:
    """Return what fills a definition's placeholders."""
    values = {
        "AWS::Partition": "aws",
        "S3Bucket": bucket,
        "FlowName": compiled.plan.flow,
        "MapConcurrency": str(concurrency),
    }
    texts = substitutions(compiled, {function.name: function.name for function in compiled.functions})
    return {name: fill_placeholders(text, values) for name, text in texts.items()}


def filled(definition: Json, values: Mapping[str, str]) -> Json:
    """Put values into a definition's places. Fails for a place that has none."""
    whole: Json = json.loads(fill_placeholders(json.dumps(definition, ensure_ascii=False), values))
    return whole
