"""Runs on this machine, put together as subjects of reports, and what a report has beside them."""

from __future__ import annotations

from collections.abc import Mapping

from lokki.builder.compiled import compile_flow
from lokki.config import load_config
from lokki.emulator.run_files import emulated_name
from lokki.errors import LokkiError
from lokki.estimate.cost import Estimate
from lokki.estimate.spent import Bill
from lokki.graph import FlowGraph
from lokki.local_run.runs import RunRecord, Runs, recorded_plan
from lokki.plan import plan_lines
from lokki.reports.comparing import compare_runs
from lokki.reports.costs import estimate_of
from lokki.reports.page import Content, report_page
from lokki.reports.samples import ReplayCommand, samples_of
from lokki.reports.subject import RunSubject
from lokki.reports.timed import facts_of, logged_events
from lokki.results.flow_results import local


def local_subject(runs: Runs, record: RunRecord) -> RunSubject:
    """Return a run on this machine, emulated ones too.

    Raises StoreError for a plan that cannot be read.
    """
    flow = record.flow.removesuffix(emulated_name(""))
    run = local(flow, runs.folder.parent).run(record.run_id)
    place = "emulated on this machine" if run.emulated else "on this machine"
    facts = facts_of(logged_events(runs.folder / record.run_id))
    return RunSubject(run, recorded_plan(record), facts, place, record.code)


def write_page(
    subject: RunSubject,
    replay: ReplayCommand,
    *,
    other: RunSubject | None = None,
    graph: FlowGraph | None = None,
    environment: str | None = None,
    commands: Mapping[str, str] | None = None,
    bill: Bill | None = None,
) -> str:
    """Write the report of a run.

    * ``replay``: returns the command that runs a failed call again.
    * ``other``: the run that it is held against.
    * ``graph``: the flow, to tell what a run costs; ``environment``: the settings that it would have.
    * ``commands``: what can be done with the run, by what that is.
    * ``bill``: what a run on AWS did cost.
    """
    examples = [example for group in subject.facts.groups for example in group.examples]
    content = Content(
        samples_of(subject.run, examples, replay),
        None if other is None else compare_runs(subject, other),
        None if graph is None else _cost(graph, subject, environment),
        tuple((commands or {}).items()),
        bill=bill,
    )
    return report_page(subject, content)


def _cost(graph: FlowGraph, subject: RunSubject, environment: str | None) -> Estimate | None:
    try:
        compiled = compile_flow(graph, load_config(environment=environment))
    except LokkiError:  # settings that nothing can be built with: the report says nothing of costs
        return None
    if plan_lines(compiled.plan) != plan_lines(subject.plan):  # the flow has changed since
        return None
    return estimate_of(compiled, subject.facts)
