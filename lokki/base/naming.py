"""Names of flows, calls, states and runs, and which of them AWS takes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from lokki.base.quotas import EXECUTION_NAME_LENGTH, STATE_NAME_LENGTH
from lokki.errors import FlowError, ParameterError

FLOW_NAME_LENGTH = 64
"""Longest flow name: leaves room for suffixes in the 80 characters of a state machine's name.
https://docs.aws.amazon.com/step-functions/latest/apireference/API_CreateStateMachine.html"""

LARGER_SUFFIX = "-XL"
"""Ends the name of the state in which a call runs again that ran out of memory: ``FlapBird-XL``.

No step's state has a ``-`` in its name."""

CHOICE_SUFFIX, PART_SUFFIX, ALONE_SUFFIX, RESULTS_SUFFIX = "-If", "-S", "-1", "-OK"
"""End the names of the further states of a call on a batch; no longer than the larger function's, since names are."""

MAP_SUFFIX = "Map"
"""What the state of a map block has after the name of its source: ``GetBirds`` and ``GetBirdsMap``."""


def nearest_name(word: str, names: Iterable[str], likeness: float = 0.6) -> str | None:
    """Return the name that a misspelt word may have meant.

    ``likeness``: from 0 to 1, how much it must be like the word. None where no name is.

    >>> nearest_name("bild", ["build", "run"]), nearest_name("x", ["build", "run"])
    ('build', None)
    """
    import difflib  # for start-up: Lambda functions begin without it

    return next(iter(difflib.get_close_matches(word, list(names), 1, likeness)), None)


def suggestion(word: str, names: Iterable[str]) -> str:
    """Say which name a word may have meant, or else which there are.

    >>> suggestion("bild", ["build", "run"]), suggestion("x", ["build", "run"]), suggestion("x", [])
    ("Did you mean 'build'?", 'There are: build, run.', 'There are: none.')
    """
    names = list(names)
    near = nearest_name(word, names)
    return f"Did you mean {near!r}?" if near is not None else f"There are: {', '.join(names) or 'none'}."


def flow_name(function_name: str) -> str:
    """Turn the name of a flow's function into the flow's name.

    Flow names are in kebab-case.

    >>> flow_name("birds_flow"), flow_name("BirdsFlow"), flow_name("loadS3Files_v2")
    ('birds-flow', 'birds-flow', 'load-s3-files-v2')

    Raises FlowError for a name that no state machine or stack could have: one with letters outside ASCII (``<lambda>``
    too), or of more than 64 characters.
    """
    # Runs of capitals are one word, as in `HTMLParser`, and digits stay with the letters before them.
    words = re.findall(r"[A-Z]+(?![a-z])[0-9]*|[A-Z]?[a-z0-9]+|[0-9]+", function_name)
    name = "-".join(word.lower() for word in words)
    if not re.fullmatch(r"[A-Za-z0-9_]+", function_name) or not name[:1].isalpha():
        raise FlowError(
            f"a flow cannot be named {function_name!r}: AWS takes ASCII letters, digits and '_', a letter first. "
            "Rename the flow's function."
        )
    if len(name) > FLOW_NAME_LENGTH:
        raise FlowError(
            f"the flow's name {name!r} has {len(name)} characters; AWS leaves room for {FLOW_NAME_LENGTH}. "
            "Shorten the name of the flow's function."
        )
    return name


def check_step_name(name: str) -> None:
    """Raise FlowError unless a step may have this name.

    It must be a Python identifier that is short enough for the name of a state.

    It may have letters outside ASCII, which states have too; names of Lambda functions are made from it by the builder.
    """
    if not name.isidentifier():
        raise FlowError(
            f"a step cannot be named {name!r}: it must be a Python identifier. "
            "Define the step's function with def and a name."
        )
    if not state_name(name):
        raise FlowError(f"a step cannot be named {name!r}: it needs a letter or a digit. Rename the step's function.")
    longest = STATE_NAME_LENGTH - len(MAP_SUFFIX) - len("9999")
    if len(state_name(name)) > longest:
        raise FlowError(
            f"the step's name {name!r} is too long for AWS: a state's name has at most {STATE_NAME_LENGTH} characters, "
            f"of which {longest} are left for the step. Shorten the name of the function."
        )


def state_name(step_id: str) -> str:
    """Turn the id of a call into the name of its state.

    State names are in PascalCase.

    >>> state_name("get_birds"), state_name("clean_2"), state_name("parseHTML")
    ('GetBirds', 'Clean2', 'ParseHTML')
    """
    return "".join(word[:1].upper() + word[1:] for word in step_id.split("_"))


def operation_state(op_id: str) -> str:
    """Return the name of the state of a call, a map block, a fork or a switch.

    >>> operation_state("get_birds"), operation_state("get_birds.map_2")
    ('GetBirds', 'GetBirdsMap2')
    """
    return "".join(map(state_name, op_id.split(".")))


def occurrence_ids(names: Sequence[str]) -> list[str]:
    """Give each call of a step an id of its own.

    The first has the step's name, the next ones the name with ``_2``, ``_3`` …

    >>> occurrence_ids(["load", "clean", "clean", "save"])
    ['load', 'clean', 'clean_2', 'save']

    A number that would make the name of another step is passed over:

    >>> occurrence_ids(["clean", "clean_2", "clean"])
    ['clean', 'clean_2', 'clean_3']
    """
    taken = set(names)
    used: set[str] = set()
    ids = []
    for name in names:
        step_id, number = name, 1
        # A step of the user's may be named `clean_2`: its first call has that id.
        while step_id in used or (number > 1 and step_id in taken):
            number += 1
            step_id = f"{name}_{number}"
        used.add(step_id)
        ids.append(step_id)
    return ids


def check_state_names(states: Iterable[tuple[str, str]]) -> None:
    """Raise FlowError when two states would have the same name.

    Takes pairs of a state's name and what the state stands for.

    Names of states must be unique in the whole state machine, over all nesting, and in more than case, since results
    are kept in folders named like them, where case may not count. https://states-language.net/spec.html#states-fields
    """
    origins: dict[str, str] = {}
    for state, origin in states:
        first = origins.setdefault(state.lower(), origin)
        if first is not origin:
            raise FlowError(
                f"{first} and {origin} would both be the state {state!r} on AWS (case does not count). "
                "Rename one of the functions."
            )


CODE_FOLDER = "/var/task/"
"""Where Lambda has a function's code; behind it a file has the path that it has below the flow's folder.
https://docs.aws.amazon.com/lambda/latest/dg/python-package.html"""


def check_run_id(run_id: str) -> None:
    """Raise ParameterError unless an id can name an execution.

    It has 1 to 80 of ``A-Za-z0-9-_``, a letter or digit first.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", run_id) or len(run_id) > EXECUTION_NAME_LENGTH:
        raise ParameterError(
            f"{run_id!r} cannot be a run id: give 1 to {EXECUTION_NAME_LENGTH} ASCII letters, digits, '-' and '_', a "
            "letter or digit first (it names the execution on AWS and a folder here)."
        )
