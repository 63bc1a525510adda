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
_LONGEST_VARIABLE = 60
"""Characters of an id in the name of a variable, which has at most 80: there is room for what is added.
https://docs.aws.amazon.com/step-functions/latest/dg/workflow-variables.html"""

_BRANCH_SUFFIX = "__branch"
"""Ends the names of variables of a branch: it may assign none of a name that the states around it assign."""

_PLAIN_VARIABLE = re.compile(r"[a-zA-Z](?!.*__)[a-zA-Z0-9_]*")
_FUNCTION_NAMES = """
abs append assert average base64decode base64encode boolean ceil clone contains count decodeUrl decodeUrlComponent
distinct each encodeUrl encodeUrlComponent error eval exists filter floor formatBase formatInteger formatNumber
fromMillis hash join keys length lookup lowercase map match max merge millis min not now number pad parse
parseInteger partition power random range reduce replace reverse round shuffle sift single sort split spread sqrt
string substring substringAfter substringBefore sum toMillis trim type uppercase uuid zip
"""
_JSONATA_FUNCTIONS = frozenset(_FUNCTION_NAMES.split())
"""A variable of one of these names would take the function's place in what lokki's expressions call.
https://docs.jsonata.org/overview and, for Step Functions' own,
https://docs.aws.amazon.com/step-functions/latest/dg/transforming-data.html"""

_OTHER_VARIABLES = frozenset({"states", "params", "items", "first", "suspects", "deaths", "tried", "died", "done"})
"""Those of Step Functions, of a run's parameters, and of a batch that is searched for the item at fault."""

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


def map_label(key: str) -> str:
    """Return the label of a map, which is part of the ARNs of its runs.

    Names of results are unique, and so are labels: ``rows``, and ``rows-map_2`` for the second map over them.
    """
    return shorten(key.replace(".", "-"), LABEL_LENGTH)


def variable_name(name: str, depth: int = 0) -> str:
    """Return the variable that holds a value of the run.

    ``name`` is that of `lokki.plans.templates.source_name`, ``depth`` how many branches of forks it is given in.

    >>> variable_name("train"), variable_name("grade.switch"), variable_name("train", 1), variable_name("train", 2)
    ('train', 'grade__switch', 'train__branch', 'train__branch2')
    >>> variable_name("sum"), variable_name("größe")
    ('sum__09f5ffef', 'groe__d353a267')
    """
    first, *others = name.split(".")
    if not _is_plain_variable(first):
        first = _hashed(first)
    # No plain name has two underscores together, so nothing that is added makes the name of another value.
    suffix = "" if depth == 0 else _BRANCH_SUFFIX if depth == 1 else f"{_BRANCH_SUFFIX}{depth}"
    return "__".join([first, *others]) + suffix


def _is_plain_variable(call_id: str) -> bool:
    return (
        _PLAIN_VARIABLE.fullmatch(call_id) is not None
        and len(call_id) <= _LONGEST_VARIABLE - len("__switch_9999")
        and call_id not in _JSONATA_FUNCTIONS | _OTHER_VARIABLES
    )


def _hashed(call_id: str) -> str:
    """Return a name that no plain id is, with a hash of all of the id."""
    letters = re.sub("[^a-zA-Z0-9]+", "", unicodedata.normalize("NFKD", call_id)) or "id"
    beginning = letters if letters[0].isalpha() else f"id{letters}"
    return f"{beginning[:30]}__{hashlib.sha256(call_id.encode()).hexdigest()[:_HASH_LENGTH]}"


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


def tolerated_placeholder(key: str) -> str:
    """Return the placeholder of how many items of a map may fail.

    It is such as ``GetBirdsTolerated``, and ``GetBirdsMap2Tolerated`` for the second map over the same items.
    """
    return f"{state_name(shorten(key.replace('.', '_'), _LONGEST_ID))}Tolerated"


def batch_placeholder(key: str) -> str:
    """Return the placeholder of how many items a batch of a map has.

    It is such as ``GetBirdsBatch``.
    """
    return f"{state_name(shorten(key.replace('.', '_'), _LONGEST_ID))}Batch"


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
