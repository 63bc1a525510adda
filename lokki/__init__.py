"""lokki: plain Python functions as data pipelines; the same file runs on a laptop and on AWS Step Functions."""

from __future__ import annotations

import importlib
import os
import sys

try:
    from collections.abc import Sequence
    from typing import TYPE_CHECKING

    from lokki.base.options import Retry
    from lokki.chain import MapBlock, StepNode, each
    from lokki.decorators import Flow, flow, step
    from lokki.errors import FlowError, LokkiError, ParameterError, RunError
except (ImportError, AttributeError):
    # The user's program may be called as a module of Python that is imported here, which finds the program instead.
    _file = str(getattr(sys.modules.get("__main__"), "__file__", "")).rpartition("/")[2]
    _name = _file.removesuffix(".py")
    if _name in sys.stdlib_module_names:
        raise ImportError(f"{_file} hides the module {_name!r} of Python: rename the file.") from None
    # So may a file beside the program, such as types.py: Python searches the program's folder first.
    _library = os.__file__.removesuffix("os.py")
    for _name in sorted(sys.stdlib_module_names & sys.modules.keys()):
        _file = str(getattr(sys.modules[_name], "__file__", None) or _library)
        if not _file.startswith(_library):
            raise ImportError(f"{_file} hides the module {_name!r} of Python: rename the file.") from None
    raise

if TYPE_CHECKING:
    from lokki.base.access import Allow, Read, Resource, Write
    from lokki.base.starts import After, Event, FinishedRun, S3Created, S3Object
    from lokki.graph import FlowGraph
    from lokki.operate import remote
    from lokki.results.flow_results import local

__all__ = [
    "After",
    "Allow",
    "Event",
    "FinishedRun",
    "Flow",
    "FlowError",
    "FlowGraph",
    "LokkiError",
    "MapBlock",
    "ParameterError",
    "Read",
    "Resource",
    "Retry",
    "RunError",
    "S3Created",
    "S3Object",
    "StepNode",
    "Write",
    "each",
    "flow",
    "local",
    "main",
    "remote",
    "step",
]

_LATE = {
    "After": "lokki.base.starts",
    "Allow": "lokki.base.access",
    "Event": "lokki.base.starts",
    "FinishedRun": "lokki.base.starts",
    "FlowGraph": "lokki.graph",
    "Read": "lokki.base.access",
    "Resource": "lokki.base.access",
    "S3Created": "lokki.base.starts",
    "S3Object": "lokki.base.starts",
    "Write": "lokki.base.access",
    "local": "lokki.results.flow_results",
    "remote": "lokki.operate",
}
"""What draws flows, reads results, or few steps need, by its module: `import lokki` in Lambda does not load it."""


def main(*flows: Flow[...], argv: Sequence[str] | None = None) -> None:
    """Run the command line of a flow.

    Call ``main(birds_flow)`` under ``if __name__ == "__main__"``, at the end of the flow's file.

    * ``flows``: with several, ``main(birds_flow, geese_flow)``, each command takes a flow's name: ``run birds-flow``.
    * ``argv``: the arguments, such as ``["run", "--limit", "5"]``; default: those of the program.

    Raises SystemExit with the exit code. Does nothing where the file is imported by one of lokki's own worker
    processes, or on Lambda, whose packages have no command line.
    """
    # Imported here so that `import lokki` in Lambda does not load it, nor click.
    from importlib.util import find_spec

    if find_spec("lokki.cli") is None:
        return
    # Imported here for the same reason.
    from lokki.cli.main import run_command_line

    run_command_line(flows, argv)


def __getattr__(name: str) -> object:
    """Import what is not always needed when it is asked for (PEP 562)."""
    if name not in _LATE:
        raise AttributeError(f"module 'lokki' has no attribute {name!r}")
    value: object = getattr(importlib.import_module(_LATE[name]), name)
    return value
