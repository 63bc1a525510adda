"""Random graphs in files of their own, which worker processes import and packages hold."""

from __future__ import annotations

from itertools import count
from pathlib import Path

from lokki.graph import FlowGraph
from lokki.loading import load_flow
from support import random_flows

_numbers = count()


def packaged(folder: Path, seeds: range) -> FlowGraph:
    """Return the flow of some seeds from a file."""
    path = folder / f"graphs_{next(_numbers)}.py"
    flow_of_seeds = f"\n\n@flow\ndef random_graphs():\n    return draw({seeds!r})\n"
    path.write_text(Path(random_flows.__file__).read_text() + flow_of_seeds)
    return load_flow(f"{path}:random_graphs")()
