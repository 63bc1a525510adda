"""Names of what a flow becomes on AWS: injective, and within AWS's lengths whatever a flow and its steps are called."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from lokki.base.naming import state_name
from lokki.base.quotas import FUNCTION_NAME_LENGTH, LABEL_LENGTH
from lokki.chain import AnyStep
from lokki.config import LokkiConfig
from lokki.errors import ConfigError, FlowError

FLOW_NAME_PATTERN = "[a-zA-Z][a-zA-Z0-9_-]*"
"""What state machines, functions, schedules, log groups and prefixes of keys all take as their name's beginning."""

_HASH_LENGTH = 8
_LONGEST_ID = 200
"""Characters of a step's name in a logical id, which has at most 255.
https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/resources-section-structure.html"""
_LONGEST_FLOW = FUNCTION_NAME_LENGTH - len("-") - _HASH_LENGTH


def deployed_name(flow: str, config: LokkiConfig) -> str:
    """Return the name that a flow has on AWS.

    It is ``flow_name`` of the settings, else the flow's own. Raises ConfigError or FlowError for a name that leaves no
    room for the names of functions, or that AWS cannot take.
    """
    name = config.flow_name or flow
    problem = ""
    if not re.fullmatch(FLOW_NAME_PATTERN, name):
        problem = "AWS takes ASCII letters, digits, '-' and '_', a letter first"
    elif len(name) > _LONGEST_FLOW:
        problem = f"it has {len(name)} characters; functions are named after it, which leaves room for {_LONGEST_FLOW}"
    if problem and config.flow_name:
        raise ConfigError(f"flow_name: a flow cannot be deployed as {name!r}: {problem}. Give it another flow_name.")
    if problem:
        raise FlowError(f"the flow {name!r} cannot be deployed under its name: {problem}. Set flow_name in lokki.yml.")
    return name


def function_suffixes(flow: str, steps: Iterable[str]) -> dict[str, str]:
    """Return what follows the flow's name in the name of each function.

    >>> function_suffixes("birds-flow", ["get_birds", "flap_" * 12])["get_birds"]
    'get_birds'
    >>> function_suffixes("birds-flow", ["get_birds", "flap_" * 12])["flap_" * 12]
    'flap_flap_flap_flap_flap_flap_flap_flap_flap_88cba3f6'

    A step's name has no ``-``, so two flows share no name of a function. Raises FlowError if two steps of this one do.
    """
    longest = FUNCTION_NAME_LENGTH - len(flow) - len("-")
    suffixes = {step: shorten(step, longest) for step in steps}
    # Hashes of 32 bits may be equal; one function would then have the code of another step.
    first: dict[str, str] = {}
    for step, suffix in suffixes.items():
        other = first.setdefault(suffix, step)
        if other != step:
            raise FlowError(f"the functions of {other}() and {step}() would both be named {flow}-{suffix}. Rename one.")
    return suffixes


def shorten(name: str, longest: int) -> str:
    """Return a name in ASCII of limited length.

    A name that fits stays as it is, of others the beginning, ``_`` and a hash of all of it.

    >>> shorten("flap", 64), shorten("größe", 64)
    ('flap', 'groe_d353a267')
    """
    # A hash also where only letters are lost: "größe" and "groe" are two steps.
    if len(name) <= longest and name.isascii():
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:_HASH_LENGTH]
    room = longest - _HASH_LENGTH - len("_")
    beginning = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()[: max(room, 0)].rstrip("_")
    return f"{beginning}_{digest}" if beginning else digest


def map_label(source_id: str) -> str:
    """Return the label of a map, which is part of the ARNs of its runs.

    Ids are unique, and so are labels.
    """
    return shorten(source_id, LABEL_LENGTH)


def function_id(step: str) -> str:
    """Return the logical id of a function, such as ``FlapBirdFunction``.

    No other resource's id ends in ``Function`` or ``LogGroup``, so no step's name can collide with one.
    """
    return f"{state_name(shorten(step, _LONGEST_ID))}Function"


def log_group_id(step: str) -> str:
    """Return the logical id of a log group, such as ``FlapBirdLogGroup``."""
    return f"{state_name(shorten(step, _LONGEST_ID))}LogGroup"


def role_id(step: str) -> str:
    """Return the logical id of a step's role, as ``FlapBirdFunctionRole``."""
    return f"{function_id(step)}Role"


def version_id(step: str, content: str) -> str:
    """Return the logical id of a version of a function.

    It is ``FlapBirdVersion`` and a hash of ``content``. What changes a function changes the id, and so CloudFormation
    makes a version and leaves the last one as it is. Hashes all have the same length, and no other resource's id ends
    in one, so no two steps' versions share an id.
    """
    digest = hashlib.sha256(content.encode()).hexdigest()[:_HASH_LENGTH]
    return f"{state_name(shorten(step, _LONGEST_ID))}Version{digest}"


def tolerated_placeholder(source_id: str) -> str:
    """Return the placeholder of how many items of a map may fail.

    It is such as ``GetBirdsTolerated``.
    """
    return f"{state_name(shorten(source_id, _LONGEST_ID))}Tolerated"


@dataclass(frozen=True, slots=True)
class DeployedFunction:
    """A Lambda function of a step.

    - ``name``: the step's, or one that no step has, from which all names of the function are made
    - ``larger``: whether it is the one for calls that ran out of memory in the other
    """

    name: str
    step: AnyStep
    larger: bool = False


def deployed_functions(steps: Iterable[AnyStep]) -> list[DeployedFunction]:
    """Return the functions of all steps, a larger one behind its step's own."""
    listed = list(steps)
    taken = {state_name(step.name) for step in listed}
    functions: list[DeployedFunction] = []
    for step in listed:
        functions.append(DeployedFunction(step.name, step))
        if step.options.memory_max is not None:
            name = f"{step.name}_xl"
            # A step of the user's may have this very name, or one that makes the same state.
            while state_name(name) in taken:
                name += "_xl"
            taken.add(state_name(name))
            functions.append(DeployedFunction(name, step, larger=True))
    return functions


def function_placeholder(step: str) -> str:
    """Return the placeholder of a function's ARN.

    It is such as ``FlapBirdFunctionArn``.
    """
    return f"{function_id(step)}Arn"
