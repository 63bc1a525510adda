"""How long functions, tasks and items may take, and whether a kind of child execution is long enough for a map."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from lokki.base.quotas import EXPRESS_SECONDS, FUNCTION_SECONDS, NEW_ACCOUNT_FUNCTIONS
from lokki.builder.batching import in_batches
from lokki.builder.compiled import Compiled
from lokki.builder.retries import (
    MOST_DEATHS,
    THROTTLING_RESERVE,
    RetryRule,
    only_deaths,
    service_rule,
    step_rule,
    throttling_rule,
    without_deaths,
)
from lokki.chain import AnyStep
from lokki.config import LokkiConfig
from lokki.errors import ConfigError
from lokki.plans.operations import Block, Call, FanOut, Switch

_TASK_MARGIN = 15
"""Seconds that a task waits longer than the function may run, so that it is the function that ends with an error of its
own. Lambda takes up to 10 seconds to start the code before it counts:
https://docs.aws.amazon.com/lambda/latest/dg/lambda-runtime-environment.html#runtimes-lifecycle-ib"""

_BATCH_MARGIN = 5
"""Seconds that a batch has for reading its items and writing its results."""


_ITEMS = 10
_LEAST_SECONDS = 300
"""Items, and seconds, for which a function has time at least whose batches size themselves: what is left is handed
back, and costs another invocation."""


def function_timeout(compiled: Compiled, step: AnyStep) -> int:
    """Return the timeout of a step's function, in whole seconds.

    It is the step's ``timeout``, else ``lambda_defaults.timeout``. In a batch the step's ``timeout`` is for one item,
    so there it covers each try of each item, as far as Lambda's longest timeout goes; of a batch that sizes itself, of
    some items.
    """
    own = step.options.timeout
    if own is None:
        return compiled.config.lambda_defaults.timeout
    batches = [
        fan_out.options.batch or 0
        for fan_out in compiled.maps
        if in_batches(compiled, fan_out) and any(call.step == step.name for call in fan_out.calls)
    ]
    if not batches:
        return math.ceil(own)
    retry = step.options.retry
    item = own
    if retry is not None:
        item = own * retry.attempts + sum(retry.wait(failed) for failed in range(1, retry.attempts))
    # One function serves all calls of a step, so the map that needs most decides.
    longest = max(item * batch + _BATCH_MARGIN if batch else max(item * _ITEMS, _LEAST_SECONDS) for batch in batches)
    return math.ceil(min(FUNCTION_SECONDS, longest))


def task_timeout(compiled: Compiled, step: AnyStep) -> int:
    """Return the seconds that a task waits for one invocation."""
    return function_timeout(compiled, step) + _TASK_MARGIN


def retry_rules(
    step: AnyStep, *, batch: bool, express: bool, last: bool = True, side_by_side: int = 1
) -> list[RetryRule]:
    """Return the rules of a call's task.

    In a batch, the function itself gives each item the step's tries. ``last``: whether no larger function follows.
    ``side_by_side``: how many tasks may wait for a free function at one time.
    """
    # The step's rule comes first: Step Functions takes the first rule that names the error.
    own = None if batch else step_rule(step.options.retry)
    if own is not None and not last:
        own = without_deaths(own)
    return [*([own] if own else []), service_rule(), throttling_rule(express=express, side_by_side=side_by_side)]


def alone_rules(step: AnyStep, *, express: bool) -> list[RetryRule]:
    """Return the rules of the task of a batch's item at fault.

    A death counts as a try of the step's, as it does out of a batch.
    """
    own = step_rule(step.options.retry)
    deaths = None if own is None else only_deaths(own)
    return [*([deaths] if deaths else []), service_rule(), throttling_rule(express=express)]


def longest_item(compiled: Compiled, fan_out: FanOut) -> float:
    """Return the seconds of an EXPRESS child at worst, with all tries.

    A child has an item, or a batch. A part of its time is for waiting until the account has a free function.
    """
    batch = in_batches(compiled, fan_out)

    def longest(call: Call) -> float:
        step = compiled.step_of(call)
        rules = retry_rules(step, batch=batch, express=True)[:-1]
        tries = 1 + sum(rule.retries for rule in rules[:-1])
        once = tries * task_timeout(compiled, step) + sum(rule.longest_wait for rule in rules)
        return once * _invocations(step, batch=batch)

    return THROTTLING_RESERVE + _longest(fan_out.body, longest, batch=batch)


def _longest(block: Block, seconds: Callable[[Call], float], *, batch: bool) -> float:
    """Return the seconds that a block of a map's body may take.

    Of a switch an item goes through one case, a batch through all.
    """
    total = 0.0
    for op in block:
        if isinstance(op, Call):
            total += seconds(op)
        elif isinstance(op, Switch):
            cases = [_longest(case.block, seconds, batch=batch) for case in op.cases]
            total += sum(cases) if batch else max(cases)
    return total


def _invocations(step: AnyStep, *, batch: bool) -> int:
    """Return how often a call is made at worst.

    It is made again where its function runs out of memory.
    """
    if step.options.memory_max is None:
        return 1
    # Of a batch: the whole, then its parts, after each of which the larger function may run.
    return 2 + 2 * MOST_DEATHS if batch else 2


def fits_express(compiled: Compiled, fan_out: FanOut) -> bool:
    """Tell whether an EXPRESS child has time for the worst case of an item."""
    # Batches that size themselves are none where the setting is EXPRESS.
    as_express = replace(compiled, config=replace(compiled.config, execution_type="EXPRESS"))
    return longest_item(as_express, fan_out) <= EXPRESS_SECONDS


def execution_type(compiled: Compiled, fan_out: FanOut) -> str:
    """Return the kind of a map's child executions.

    It is STANDARD, unless the settings say EXPRESS. An EXPRESS child ends after five minutes. When other runs of the
    account hold all functions, it may spend them waiting and fail, while a STANDARD child waits as long as it takes:
    throttling delays a run and never fails it. So EXPRESS is the user's choice. Raises ConfigError for EXPRESS where
    one try of each inner step does not fit, so that an item within its timeouts would be cut off.
    """
    if compiled.config.execution_type != "EXPRESS":
        return "STANDARD"
    # One try only: all tries may take longer, which `build --check` says, and is the user's risk.
    batch = in_batches(compiled, fan_out)
    one_try = round(
        _longest(fan_out.body, lambda call: function_timeout(compiled, compiled.step_of(call)), batch=batch)
    )
    if one_try > EXPRESS_SECONDS:
        steps = " and ".join(f"{call.step}()" for call in fan_out.calls)
        raise ConfigError(
            f"execution_type: EXPRESS ends after {EXPRESS_SECONDS} seconds, but {steps} in the map over "
            f"{fan_out.source}() may take {one_try}. Give them a shorter @step(timeout=…), or remove execution_type."
        )
    return "EXPRESS"


def at_once(config: LokkiConfig) -> int:
    """Return how many functions the account is sure to run at one time.

    It is the number that is set, else that of a new account.
    """
    return config.map_concurrency or NEW_ACCOUNT_FUNCTIONS
