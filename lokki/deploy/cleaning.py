"""Results of old runs: which may go, as a value, and deleting them.

What a run wrote may be read as long as it can be redriven, and longer by a run that took it over.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from lokki.builder.packages.sizes import size_text
from lokki.deploy.aws import Aws, aws_errors
from lokki.deploy.bucket import remove_all, stored
from lokki.deploy.deployed import Deployed
from lokki.deploy.pruning import REDRIVABLE
from lokki.deploy.stack import Notify
from lokki.store.base import Store
from lokki.store.keys import Keys
from lokki.store.takeover import read_takeover

_MOST_COUNTED = 10_000
"""Objects that are counted where nothing is deleted: ten requests."""


@dataclass(frozen=True, slots=True)
class OldRun:
    """A run whose results may go, with the number and bytes of its objects."""

    id: str
    objects: int
    size: int


@dataclass(frozen=True, slots=True)
class Cleaning:
    """Results that are to be deleted.

    - ``needed``: how many runs are old enough and stay, since they can be redriven or others read their results
    - ``remaining``: how many runs have results and stay, those among them
    """

    flow: str
    bucket: str
    prefix: str
    runs: tuple[OldRun, ...]
    needed: int
    remaining: int


@dataclass(frozen=True, slots=True)
class _Execution:
    """What Step Functions says of a run. ``stop``: None for one in progress."""

    stop: datetime | None
    succeeded: bool

    def is_needed(self, now: datetime) -> bool:
        """Tell whether it goes on, or may be redriven."""
        return self.stop is None or (not self.succeeded and now - self.stop < REDRIVABLE)


def plan_cleaning(
    aws: Aws, deployed: Deployed, store: Store, older: timedelta, now: datetime | None = None
) -> Cleaning:
    """Find the runs that ended so long ago and whose results nothing needs.

    ``store``: the flow's. Step Functions knows a run for 90 days after its end; of older ones, the newest object says
    when they were in progress.
    """
    now = now or datetime.now(UTC)
    with aws_errors("look for results of old runs"):
        executions = _executions(aws, deployed.state_machine)
        written = list(_runs_with_results(aws, deployed))
        old, needed = set[str](), set[str]()
        for run_id in written:
            execution = executions.get(run_id)
            ended = _newest(aws, deployed, run_id, now) if execution is None else execution.stop
            if ended is not None and now - ended >= older:
                old.add(run_id)
            # One of which Step Functions knows nothing may have failed, and only just left its list.
            if execution.is_needed(now) if execution is not None else ended is None or now - ended < REDRIVABLE:
                needed.add(run_id)
        young = {run_id for run_id in written if run_id not in old}
        stays = young | needed
        stays |= set(_taken_over(store, deployed.prefix, stays))
        goes = [run_id for run_id in written if run_id not in stays]
        runs = tuple(OldRun(run_id, *stored(aws, deployed.bucket, f"{deployed.prefix}{run_id}/")) for run_id in goes)
    return Cleaning(deployed.flow, deployed.bucket, deployed.prefix, runs, len(old & stays), len(written) - len(goes))


def cleaning_in_words(plan: Cleaning) -> list[str]:
    """Say what would go, and what stays although it is old."""
    lines = [
        f"s3://{plan.bucket}/{plan.prefix}{run.id}/: {_count(run.objects, 'object')} ({size_text(run.size)})"
        for run in plan.runs
    ]
    total = sum(run.size for run in plan.runs)
    lines.append(f"{_count(len(plan.runs), 'run')}, {size_text(total)}; {_count(plan.remaining, 'run')} stay")
    if plan.needed:
        lines.append(f"of these, {plan.needed} as old: they can be redriven, or later runs read their results")
    return lines


def clean(aws: Aws, plan: Cleaning, tell: Notify) -> None:
    """Delete the results that the plan names.

    Raises AwsError; what is deleted by then is gone, and doing it again does the rest.
    """
    for run in plan.runs:
        count = remove_all(aws, plan.bucket, f"{plan.prefix}{run.id}/")
        tell(f"s3://{plan.bucket}/{plan.prefix}{run.id}/: {_count(count, 'object')} deleted")


def describe_stored(aws: Aws, bucket: str, prefix: str) -> str:
    """Say how much is below a prefix.

    Only so many objects are counted.
    """
    count = size = 0
    with aws_errors(f"look into the bucket {bucket}"):
        pages = aws.s3.get_paginator("list_objects_v2").paginate(
            Bucket=bucket, Prefix=prefix, PaginationConfig={"MaxItems": _MOST_COUNTED + 1}
        )
        for page in pages:
            count += len(page.get("Contents", []))
            size += sum(entry["Size"] for entry in page.get("Contents", []))
    if count > _MOST_COUNTED:
        return f"more than {_MOST_COUNTED:,} objects, {size_text(size)} of them counted"
    return f"{_count(count, 'object')}, {size_text(size)}"


def _executions(aws: Aws, state_machine: str) -> dict[str, _Execution]:
    pages = aws.states.get_paginator("list_executions").paginate(stateMachineArn=state_machine)
    return {
        execution["name"]: _Execution(execution.get("stopDate"), execution["status"] == "SUCCEEDED")
        for page in pages
        for execution in page["executions"]
    }


def _runs_with_results(aws: Aws, deployed: Deployed) -> Iterator[str]:
    pages = aws.s3.get_paginator("list_objects_v2").paginate(
        Bucket=deployed.bucket, Prefix=deployed.prefix, Delimiter="/"
    )
    for page in pages:
        for entry in page.get("CommonPrefixes", []):
            yield entry["Prefix"].removeprefix(deployed.prefix).removesuffix("/")


def _newest(aws: Aws, deployed: Deployed, run_id: str, now: datetime) -> datetime:
    """Return when the last object of a run was written."""
    pages = aws.s3.get_paginator("list_objects_v2").paginate(
        Bucket=deployed.bucket, Prefix=f"{deployed.prefix}{run_id}/"
    )
    return max((entry["LastModified"] for page in pages for entry in page.get("Contents", [])), default=now)


def _taken_over(store: Store, prefix: str, run_ids: Iterable[str]) -> Iterator[str]:
    """Yield the runs whose results other runs took over.

    Those that they took over in turn are among them.
    """
    pending = list(run_ids)
    visited: set[str] = set()
    while pending:
        run_id = pending.pop()
        if run_id in visited:
            continue
        visited.add(run_id)
        takeover = read_takeover(store, Keys(f"{prefix}{run_id}"))
        if takeover is not None:
            yield takeover.run
            pending.append(takeover.run)


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
