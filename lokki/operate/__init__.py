"""Operating a deployed flow: starting runs, watching them, reading what they did and wrote."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lokki.results.flow_results import FlowResults


def remote(
    flow: str, *, stack: str | None = None, region: str | None = None, file: Path | str | None = None
) -> FlowResults:
    """Return the runs of a deployed flow; ``flow``: the name that it is deployed under, such as ``"birds-flow"``.

    ``stack``: default, the stack that `lokki deploy` makes; ``region``: default, that of the environment or the
    profile; ``file``: the flow's, for values of classes that it defines itself, if it cannot be imported by its name.

    Raises AwsError for a flow that is not deployed there, and when AWS refuses.
    """
    # Only here: boto3 takes a quarter of a second to import, and the pure parts of this package do not need it.
    from lokki.deploy.aws import connect
    from lokki.deploy.deployed import find_deployed
    from lokki.operate.executions import results_of

    aws = connect(region)
    return results_of(aws, find_deployed(aws, flow, stack), Path(file) if file is not None else None)
