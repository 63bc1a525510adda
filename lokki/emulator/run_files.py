"""The names of what an emulated run keeps in its folder.

They are here so that reading a run needs nothing of the emulator's extra.
"""

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
"""Where the execution stopped, of a run that did not succeed."""


def emulated_name(flow: str) -> str:
    """Return the name of a flow in the records of its emulated runs.

    It is another one than the flow's, so that no local run resumes them.

    >>> emulated_name("birds-flow")
    'birds-flow (emulated)'
    """
    return f"{flow} (emulated)"
