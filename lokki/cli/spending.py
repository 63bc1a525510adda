"""What a deployed run did cost, beside what an estimate says for the numbers of items that it had."""

from __future__ import annotations

from lokki.builder.compiled import compile_flow
from lokki.cli.account import Account
from lokki.cli.commands.runs import ROOT
from lokki.cli.text import align_columns
from lokki.config import load_config
from lokki.errors import AwsError
from lokki.estimate.cost import CostLine, Workload, estimate
from lokki.estimate.measured import Measured, measure_latest_run
from lokki.estimate.spent import Bill, CountedUsage, spent
from lokki.observing.report import RunReport
from lokki.operate.spending import count_spending
from lokki.plan import Plan, plan_lines
from lokki.plan_json import outline, plan_from_definition
from lokki.runtime.cost_limit import dollars


def bill_of_run(account: Account, run_id: str, report: RunReport) -> Bill:
    """Return what a run did cost beside what an estimate says.

    Raises AwsError where the flow has changed since, so that its settings say nothing of the run.
    """
    compiled = compile_flow(account.graph, load_config(environment=account.environment))
    if plan_lines(outline(compiled.plan)) != plan_lines(plan_from_definition(account.runs.definition(run_id))):
        raise AwsError(f"the flow has changed since the run {run_id}: what it did cost is told by the code that ran.")
    counted = count_spending(account.runs, run_id)
    latest = measure_latest_run(compiled.plan, ROOT)
    items = _items(compiled.plan, report)
    workload = Workload(items, {} if latest is None else latest.measures)
    estimated = None if latest is None else estimate(compiled, workload).lines
    return Bill(spent(compiled, workload, counted), estimated, _notes(counted, latest))


def bill_lines(bill: Bill) -> list[str]:
    """Write a bill as a table and what is to be known of it."""
    estimated = bill.estimated or ()
    rows: list[tuple[str, ...]] = [("COST", "COUNTED", "", "ESTIMATED", "") if estimated else ("COST", "COUNTED", "")]
    others = estimated or bill.lines
    for line, other in zip(bill.lines, others, strict=True):
        if line.quantity or other.quantity:
            rows.append((line.price.unit, *_cells(line), *(_cells(other) if estimated else ())))
    total = ("", dollars(sum(line.dollars for line in estimated))) if estimated else ()
    rows.append(("total", "", dollars(bill.dollars), *total))
    return [*align_columns(rows), *bill.notes]


def _cells(line: CostLine) -> tuple[str, str]:
    return f"{line.quantity:,.6g}" if isinstance(line.quantity, float) else f"{line.quantity:,}", dollars(line.dollars)


def _items(plan: Plan, report: RunReport) -> dict[str, int]:
    """Return how many items the maps of a run had.

    A map that it did not come to has none.
    """
    ops = {op.source: report.ops.get(op.id) for op in plan.fan_outs}
    return {source: 0 if op is None else op.items or 0 for source, op in ops.items()}


def _notes(counted: CountedUsage, latest: Measured | None) -> tuple[str, ...]:
    seconds = sum(call.seconds for call in counted.calls.values())
    lines = [
        f"Lambda: {seconds:,.3f} s billed of {counted.invocations:,} invocations, by what their logs say so far.",
        "Children of maps: counted, their transitions by the plan, without retries; requests to S3 by the plan.",
    ]
    if latest is not None:
        lines.append(f"Estimated: for these numbers of items, by the times of the run {latest.run_id} here.")
    return tuple(lines)
