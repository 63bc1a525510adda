"""Runs on AWS, put together as subjects of reports."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from lokki.observing.translating import RunTranslator
from lokki.operate.executions import DeployedRuns
from lokki.operate.following import begin, look_back
from lokki.operate.machine import console_link
from lokki.plan import Plan
from lokki.plan_json import plan_from_definition
from lokki.reports.subject import RunSubject
from lokki.reports.timed import facts_of
from lokki.results.flow_results import FlowResults

MOST_CHILDREN = 200
"""How many failed children of a map are asked why they failed: each is a request."""


def deployed_subject(
    runs: DeployedRuns, results: FlowResults, run_id: str, flow: Plan, locate: Callable[[str], str]
) -> RunSubject:
    """Return a run on AWS.

    * ``flow``: the flow as it is here, and ``locate`` where its files are: failures name places in packages.

    Raises RunFolderError for a run that there is not.
    """
    run = results.run(run_id)
    translator = RunTranslator(flow, locate)
    _, events = look_back(runs, replace(begin(runs, run_id), most=MOST_CHILDREN))
    facts = facts_of((at.timestamp(), translator.translate(event)) for at, event in events)
    execution = runs.execution(run_id)
    version = execution.get("stateMachineVersionArn", "").rpartition(":")[2]
    code = {"state machine": f"version {version}"} if version else {}
    plan = plan_from_definition(runs.definition(run_id))
    return RunSubject(run, plan, facts, "on AWS", code, console_link(runs.arn(run_id)))
