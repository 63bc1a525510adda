"""What an emulated run keeps in its folder, by name; here so that reading it needs nothing of the emulator's extra."""

from __future__ import annotations

HISTORY = "history.jsonl"
"""The history of the execution and its children, as AWS has it."""

FUNCTION_LOGS = "functions.log"
"""All that the functions wrote."""

DEFINITION = "statemachine.json"
"""The state machine, as it was built."""

OBJECTS = "objects"
"""What was in S3 when the run ended, by key."""

SNAPSHOT = "execution.json"
"""Of a run that did not succeed: where it stopped."""


def emulated_name(flow: str) -> str:
    """Return what a run's record has for its flow, so that no local run goes on with it.

    >>> emulated_name("birds-flow")
    'birds-flow (emulated)'
    """
    return f"{flow} (emulated)"
