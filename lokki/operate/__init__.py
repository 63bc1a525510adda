"""Operating a deployed flow: start, watch, read, stop and redrive its runs.

* ``executions``: the runs of a deployed flow, as Step Functions knows them. All calls to Step Functions are made
  here.
* ``watching``: folds the history of a run into the events of local runs, so that ``invoke`` shows what ``run`` shows.
  Pure.
* ``following``: asks again and again, and emits what is new, until a run has ended.
* ``machine``: ARNs, folders and links that follow from each other's names. Pure.
* ``attribution``: tells which run, call and item a line of a function's log belongs to. Pure.
* ``logs``: reads these lines from CloudWatch, merged by time, in bounded memory.
* ``latest``: decides what a run of the newest deployment takes over from one that failed.
* ``tracing``: sends the trace of a run, from its history.
* ``spending``: counts what a run was billed, from its history and its logs.

`remote` below is the door for scripts and notebooks; the commands come through ``executions.runs_of``. Results are
read by `lokki.results`, which knows nothing of boto3: it asks the executions here.

What must never happen: a line or a result of one run shown as another's, a watched run that costs more calls than the
account's quota allows, and a run that is stopped because nobody watches it any more.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lokki.results.flow_results import FlowResults


def remote(
    flow: str, *, stack: str | None = None, region: str | None = None, file: Path | str | None = None
) -> FlowResults:
    """Return the runs of a deployed flow.

    ``flow``: the name that it is deployed under, such as ``"birds-flow"``.

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
