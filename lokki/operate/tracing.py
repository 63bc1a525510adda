"""Sending the trace of a run on AWS, made of what Step Functions tells of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from lokki.observing.spans import SpanFold, send_spans
from lokki.observing.translating import RunTranslator
from lokki.operate.executions import DeployedRuns
from lokki.operate.following import begin, look_back
from lokki.plan import Plan


def send_trace(
    runs: DeployedRuns, run_id: str, plan: Plan, locate: Callable[[str], str], environ: Mapping[str, str]
) -> str:
    """Send the spans of a run, and return a warning.

    It is empty where there is none. ``locate``: returns the path here of a path in a package. Raises RunFolderError for
    a run that does not exist.
    """
    _, timed_events = look_back(runs, begin(runs, run_id))
    translator, fold = RunTranslator(plan, locate), SpanFold(plan, "aws", environ.get("TRACEPARENT", ""))
    for at, event in timed_events:
        fold.take(int(at.timestamp() * 1e6) * 1000, translator.translate(event))
    return send_spans(fold, runs.deployed.flow, environ)
