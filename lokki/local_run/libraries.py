"""Which modules a flow imports are libraries, and how worker processes share one import of them.

Why: a worker imports the flow's own code anew, as a Lambda sandbox does: a generator of random numbers, a connection or
an open file that is made there is the worker's own. Importing libraries anew would only take time (a second, for
scikit-learn), so they are imported once, by the process that workers are forked from. The generators of random numbers
that libraries made and the system seeded are seeded again in each worker.
"""

from __future__ import annotations

import gc
import importlib
import os
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import PurePath
from types import BuiltinFunctionType, FunctionType, ModuleType
from weakref import WeakSet

_PYTHON = f"{PurePath(os.__file__).parent}{os.sep}"
_LOKKI = f"{PurePath(__file__).parent.parent}{os.sep}"
_INSTALLED = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMBA_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
"""What libraries read to know how many threads they may use, as joblib sets them:
https://joblib.readthedocs.io/en/stable/parallel.html#avoiding-over-subscription-of-cpu-resources
"""


def inner_threads(workers: int, cpus: int, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that limit the threads of libraries in workers.

    All workers together use no more than there are CPUs. What the user has set is left as it is.

    >>> inner_threads(2, 8, {"OMP_NUM_THREADS": "1"})["MKL_NUM_THREADS"]
    '4'
    """
    threads = str(max(1, cpus // workers))
    return {name: threads for name in THREAD_VARIABLES if name not in environment}


def is_of_project(module: ModuleType, root: str) -> bool:
    """Tell whether a module is the user's own code.

    The package ``root`` of the flow is, wherever it is installed.
    """
    if module.__name__.partition(".")[0] == root:
        return True
    file = getattr(module, "__file__", None)
    if not isinstance(file, str) or file.startswith((_PYTHON, _LOKKI)):
        return False
    return not any(folder in file for folder in _INSTALLED)


def libraries(module: ModuleType, root: str, modules: Mapping[str, ModuleType]) -> list[str]:
    """Return the installed libraries that a module imports, in order.

    Those that the project's modules have imported that it uses are among them, with all modules of theirs that are
    imported (``modules`` is `sys.modules`). What only lokki uses is not.
    """
    roots: set[str] = set()
    visited: set[str] = set()
    pending = [module]
    while pending:
        for name in _named_in(pending.pop()) - visited:
            visited.add(name)
            used = modules.get(name)
            if used is None:
                continue
            if is_of_project(used, root):
                pending.append(used)
            elif _is_installed(used):
                roots.add(name.partition(".")[0])
    return [name for name in modules if name.partition(".")[0] in roots and not name.endswith(".__main__")]


def _is_installed(module: ModuleType) -> bool:
    file = getattr(module, "__file__", None)
    return isinstance(file, str) and any(folder in file for folder in _INSTALLED)


def _named_in(module: ModuleType) -> set[str]:
    """Return the modules that a module's global names come from.

    Asks values nothing that would run code of theirs.
    """
    names: set[object] = set()
    for value in list(vars(module).values()):
        if type(value) is ModuleType:
            names.add(value.__name__)
        elif type(value) in (FunctionType, BuiltinFunctionType, type):
            names.add(value.__module__)
        else:
            names.add(type(value).__module__)
    return {name for name in names if isinstance(name, str)}


class Generators:
    """The random generators of libraries that the system seeded.

    After a fork they would give the same numbers in every worker.
    """

    def __init__(self) -> None:
        self._unseeded: WeakSet[random.Random] = WeakSet()

    @contextmanager
    def noticed(self) -> Iterator[None]:
        """Notice generators of Python's that are made meanwhile without a seed."""
        seed, unseeded = random.Random.seed, self._unseeded

        def noticing(generator: random.Random, a: object = None, version: int = 2) -> None:
            (unseeded.discard if a is not None else unseeded.add)(generator)
            seed(generator, a, version)  # type: ignore[arg-type]  # whatever the caller gave

        random.Random.seed = noticing  # type: ignore[assignment, method-assign]
        try:
            yield
        finally:
            random.Random.seed = seed  # type: ignore[method-assign]

    def seed_again(self) -> None:
        """Let each go on with numbers of its own."""
        for generator in self._unseeded:
            generator.seed()
        numpy_random = sys.modules.get("numpy.random")
        if numpy_random is not None:
            _seed_numpy(numpy_random)


def _seed_numpy(numpy_random: ModuleType) -> None:
    """Seed numpy's generators anew, where the system seeded them.

    That is the one that all share, and those whose entropy has 128 bits, as the system's has.
    """
    numpy_random.seed()
    for generator in gc.get_objects():
        if type(generator) is numpy_random.Generator:
            bits = generator.bit_generator
            entropy = getattr(bits.seed_seq, "entropy", None)
            # A seed that somebody chose is a smaller number, and its sequence is what they want again.
            if isinstance(entropy, int) and entropy.bit_length() > 64:
                bits.state = type(bits)().state


def import_libraries(names: Sequence[str]) -> None:
    """Import libraries, as far as they can be imported.

    A worker that needs one of the others says why it cannot.
    """
    for name in names:
        try:
            importlib.import_module(name)
        except Exception:  # a library may raise anything while it is imported
            continue


def forget_project(root: str) -> None:
    """Let workers import modules of the project that a library imported."""
    for name, module in list(sys.modules.items()):
        if name != "__main__" and is_of_project(module, root):
            del sys.modules[name]
