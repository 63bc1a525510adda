"""Reading the logs of a flow's functions from CloudWatch, merged by time, in bounded memory."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from lokki.deploy.aws import aws_errors, code_of
from lokki.operate.attribution import Attribution, StreamEvent
from lokki.results.items import LogLine

if TYPE_CHECKING:
    from mypy_boto3_logs import CloudWatchLogsClient

_AFTER = timedelta(minutes=1)
_LATE = 15_000
"""Milliseconds that events may come late to CloudWatch: following looks back so far."""


@dataclass(frozen=True, slots=True)
class LogWindow:
    """A span of time, in milliseconds since 1970.

    Without ``end`` it goes to now.
    """

    start: int
    end: int | None = None

    @classmethod
    def of(cls, start: datetime, stop: datetime | None) -> LogWindow:
        """Return the window of a run.

        Functions may still write for a moment when it has ended.
        """
        # Of whole seconds, and one more: clocks of functions and of Step Functions differ by a little.
        return cls(int(start.timestamp()) * 1000 - 1000, None if stop is None else _milliseconds(stop + _AFTER))


def run_lines(
    client: CloudWatchLogsClient,
    groups: Iterable[str],
    run_id: str,
    window: LogWindow,
    since: int = 0,
    attribution: Attribution | None = None,
) -> Iterator[LogLine]:
    """Yield the lines of a run in order of time, as they are read.

    ``since``: earlier ones are read, but not shown.
    """
    attributed = attribution or Attribution()
    for entry in merged_events(client, groups, window):
        for line in attributed.take(entry):
            if line.subject.run == run_id and line.time >= since:
                yield LogLine(_iso(line.time), line.subject.call, line.subject.item, line.text)


def merged_events(client: CloudWatchLogsClient, groups: Iterable[str], window: LogWindow) -> Iterator[StreamEvent]:
    """Yield all events of some log groups, in order of time, as they are read."""
    return heapq.merge(*(_entries(client, group, window) for group in groups), key=lambda event: event.time)


def follow_lines(
    client: CloudWatchLogsClient,
    groups: list[str],
    run_id: str,
    window: LogWindow,
    has_ended: Callable[[], bool],
    sleep: Callable[[float], None],
    since: int = 0,
) -> Iterator[LogLine]:
    """Yield the lines of a run until a moment after it has ended."""
    attribution = Attribution()
    taken: dict[str, int] = {}
    start, quiet = window.start, 0
    while True:
        is_over = has_ended()
        is_news = False
        sources = [_entries(client, group, LogWindow(start), taken) for group in groups]
        newest = start + _LATE
        for entry in heapq.merge(*sources, key=lambda event: event.time):
            newest = max(newest, entry.time)
            for line in attribution.take(entry):
                if line.subject.run == run_id and line.time >= since:
                    is_news = True
                    yield LogLine(_iso(line.time), line.subject.call, line.subject.item, line.text)
        start = max(start, newest - _LATE)
        for event in [event for event, time in taken.items() if time < start]:
            del taken[event]
        quiet = 0 if is_news or not is_over else quiet + 1
        if quiet > 1:
            return
        sleep(2.0)


def _entries(
    client: CloudWatchLogsClient, group: str, window: LogWindow, taken: dict[str, int] | None = None
) -> Iterator[StreamEvent]:
    """Yield the events of a log group, sorted by time, page by page.

    A group that does not exist has none.

    https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_FilterLogEvents.html
    """
    query: Any = {"logGroupName": group, "startTime": window.start}
    if window.end is not None:
        query["endTime"] = window.end
    with aws_errors(f"read the log group {group}"):
        try:
            for page in client.get_paginator("filter_log_events").paginate(**query):
                for event in page["events"]:
                    if taken is not None:
                        if event["eventId"] in taken:
                            continue
                        taken[event["eventId"]] = event["timestamp"]
                    yield StreamEvent(event["timestamp"], f"{group} {event['logStreamName']}", event["message"])
        except ClientError as error:
            if code_of(error) != "ResourceNotFoundException":
                raise


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def _iso(milliseconds: int) -> str:
    moment = datetime.fromtimestamp(milliseconds / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
