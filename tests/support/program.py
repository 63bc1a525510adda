"""Runs a flow and writes its result to a file: what `local_runs.start` starts.

Arguments: the flow's name in `steps`, or ``module:name``; executor, root, parameters as JSON, and flags. ``resume``
goes on with the flow's latest run, ``again`` with the run ``run``, finished or not; ``killed`` kills the program when
the run has finished.
"""

import importlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import cast

from lokki.base.options import Executor
from lokki.engine.events import Event, RunFinished
from lokki.errors import LokkiError
from lokki.runner import LocalRunner, Resume, ignore_event


def main() -> int:
    name, executor, root, params, *flags = sys.argv[1:]
    module, _, flow = name.rpartition(":")
    graph = getattr(importlib.import_module(module or "steps"), flow)()
    resume = Resume("run") if "again" in flags else Resume() if "resume" in flags else None
    try:
        listener = kill_when_finished if "killed" in flags else ignore_event
        runner = LocalRunner(root=Path(root), executor=cast("Executor", executor), workers=2, listener=listener)
        result = runner.run(graph, json.loads(params), run_id=None if resume else "run", resume=resume)
    except KeyboardInterrupt:
        return 130
    except LokkiError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    temporary = Path(root) / "result.new"
    temporary.write_text(json.dumps(result))
    temporary.rename(Path(root) / "result.json")
    return 0


def kill_when_finished(event: Event) -> None:
    if isinstance(event, RunFinished):
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    raise SystemExit(main())
