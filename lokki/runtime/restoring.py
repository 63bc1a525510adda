"""What a function does anew after Lambda restores it from its snapshot.

All environments of the function share the snapshot.

https://docs.aws.amazon.com/lambda/latest/dg/snapstart-uniqueness.html
https://docs.aws.amazon.com/lambda/latest/dg/snapstart-runtime-hooks-python.html
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable

from snapshot_restore_py import get_after_restore, register_after_restore


def call_after_restore(*hooks: Callable[[], object]) -> None:
    """Have Lambda's runtime call functions after each restore.

    In this order, and before the hooks of the step's modules.

    The step's modules are imported first, so their hooks are there already. They may draw random numbers.
    """
    for hook in reversed(hooks):
        register_after_restore(hook)
        registered = get_after_restore()
        registered.insert(0, registered.pop())


def reseed() -> None:
    """Give the random generators that modules share new seeds.

    Without that, all environments would draw the same numbers.
    """
    random.seed()
    # What is imported later has a seed of its own.
    if numpy_random := sys.modules.get("numpy.random"):
        numpy_random.seed()
