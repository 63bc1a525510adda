"""The page of a report: what is known of a run as what the template shows, with nothing left to compute there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec
from jinja2 import BaseLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lokki.base.item_path import item_name
from lokki.observing.report import OpReport
from lokki.pictures.shapes import Mark, plain
from lokki.pictures.svg import svg
from lokki.plans.levels import GATHER, LEVEL, SPREAD
from lokki.plans.operations import MAP
from lokki.progress.displays import counts
from lokki.progress.displays import seconds as duration
from lokki.reports.comparing import Comparison, TimeChange
from lokki.reports.facts import Activity, Durations, FailedCall, FailureGroup, OpFacts
from lokki.reports.samples import Sample
from lokki.reports.subject import RunSubject

if TYPE_CHECKING:  # not loaded for a report without costs
    from lokki.estimate.cost import CostLine, Estimate
    from lokki.estimate.spent import Bill

SHOWN_GAPS = 5
_LEAST_GAP = 0.02
"""Which share of a run a gap must have to be shown."""

_NOISE = 0.05
"""Seconds by which no time is said to differ."""

_ERROR = 8_000
"""Characters of the error that a run ended with."""

_ICONS = {"finished": "✓", "failed": "✗", "running": "▶", "restored": "↺", "interrupted": "■", "skipped": "–"}
_WORDS = {"restored": "kept from before"}

ENDED_BADLY = ("failed", "timed_out", "aborted", "killed", "interrupted", "damaged")


@dataclass(frozen=True, slots=True)
class Bar:
    """A stretch of the timeline, in hundredths of the whole."""

    left: str
    width: str


@dataclass(frozen=True, slots=True)
class OpRow:
    """A step that runs once, or a map block, as table and timeline show it."""

    id: str
    title: str
    status: str
    icon: str
    word: str
    took: str
    share: str
    items: str
    failed: str
    retried: str
    size: str
    bars: Sequence[Bar]
    curve: str = ""
    failed_curve: str = ""
    peak: str = ""
    workers: str = ""


@dataclass(frozen=True, slots=True)
class ProgressRow:
    """What runs just now.

    ``done``: how many items of a map block have ended, of how many; ``items`` is None for a step.
    """

    title: str
    words: str
    done: int
    items: int | None


@dataclass(frozen=True, slots=True)
class HistogramBar:
    """How many items took a time between two bounds."""

    label: str
    count: str
    width: str


@dataclass(frozen=True, slots=True)
class ItemTimes:
    """How long the items of a map block took."""

    title: str
    bars: Sequence[HistogramBar]
    facts: Sequence[tuple[str, str]]
    note: str


@dataclass(frozen=True, slots=True)
class GroupView:
    """Failures of one error."""

    title: str
    count: str
    retried: str
    step: str
    where: str
    message: str
    traceback: str
    is_open: bool
    samples: Sequence[tuple[str, Sample]]
    others: str


@dataclass(frozen=True, slots=True)
class ChangeRow:
    """An operation in two runs."""

    title: str
    previous: str
    now: str
    change: str
    word: str
    items: str


@dataclass(frozen=True, slots=True)
class Content:
    """All that a report has beside the facts of its run.

    * ``samples``: in the order of the groups' examples.
    * ``links``: to other pages on the run, by their names; ``item_address`` returns that of a failed call's page.
    * ``cost``: what the run would cost on AWS; ``bill``: what it did cost there.
    """

    samples: Sequence[Sample] = ()
    comparison: Comparison | None = None
    cost: Estimate | None = None
    commands: Sequence[tuple[str, str]] = field(default_factory=tuple)
    links: Sequence[tuple[str, str]] = field(default_factory=tuple)
    item_address: Callable[[FailedCall], str] | None = None
    bill: Bill | None = None


def report_page(subject: RunSubject, content: Content) -> str:
    """Write the report of a run."""
    template = page_environment(PackageLoader("lokki.reports")).get_template("report.html")
    return template.render(report_values(subject, content))


def page_environment(loader: BaseLoader) -> Environment:
    """Return what fills templates, in which whatever a run says is escaped."""
    return Environment(
        loader=loader,
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_plain,
    )


def report_values(subject: RunSubject, content: Content) -> dict[str, object]:
    """Return all that the template ``report_body.html`` shows of a run."""
    facts = subject.facts
    rows = [_row(subject, op) for op in facts.report.ops.values()]
    return {
        "run": subject.run,
        "place": subject.place,
        "link": subject.link,
        "tiles": list(_tiles(subject, content)),
        "error": _error(subject),
        "progress": list(_progress(subject)),
        "drawing": Markup(svg(subject.plan, _marks(subject))),
        "rows": rows,
        "axis": _axis(facts.seconds),
        "gaps": [_bar(start, end, facts.seconds) for start, end in _shown_gaps(subject)],
        "gap_texts": list(_gap_texts(subject)),
        "pauses": [_pause(subject, start, end) for start, end in facts.pauses],
        "slowest": _slowest(subject),
        "times": list(_item_times(subject)),
        "groups": list(_groups(facts.groups, content.samples)),
        "unlisted": f"{facts.unlisted:,}" if facts.unlisted else "",
        "params": [(name, _json(value)) for name, value in subject.run.params.items()],
        "code": subject.code.items(),
        "changed_code": facts.changed_code,
        "comparison": content.comparison,
        "changes": list(_change_rows(content.comparison)) if content.comparison is not None else [],
        "cost": content.cost,
        "bill": list(_bill(content.cost.lines)) if content.cost is not None else [],
        "spent": list(_bill(content.bill.lines)) if content.bill is not None else [],
        "notes": content.bill.notes if content.bill is not None else [],
        "commands": content.commands,
        "links": content.links,
        "item_address": content.item_address,
    }


def _plain(value: object) -> object:
    """Leave out of a text what no page can hold."""
    return plain(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _tiles(subject: RunSubject, content: Content) -> Iterator[tuple[str, str, str]]:
    """Yield name, value and kind of the numbers at the top."""
    facts, run = subject.facts, subject.run
    yield "status", run.status.replace("_", " "), "bad" if run.status in ENDED_BADLY else "good"
    if facts.start:
        yield "took", duration(facts.seconds), ""
    elif run.seconds is not None:
        yield "took", duration(run.seconds), ""
    if any(op.items is not None and op.is_map for op in facts.report.ops.values()):
        yield "items finished", f"{facts.finished_items:,}", ""
        yield "items failed", f"{facts.failed_items:,}", "bad" if facts.failed_items else ""
    if tries := sum(op.tries for op in facts.ops.values()):
        yield "tries that failed and were repeated", f"{tries:,}", ""
    if content.cost is not None:
        yield "estimated cost on AWS", _dollars(content.cost.dollars), ""
    if content.bill is not None:
        yield "cost on AWS", _dollars(content.bill.dollars), ""
        if content.bill.estimated is not None:
            yield "as estimated", _dollars(sum(line.dollars for line in content.bill.estimated)), ""


def _progress(subject: RunSubject) -> Iterator[ProgressRow]:
    """Yield what runs just now, of a run that is in progress."""
    ops = subject.facts.report.ops.values() if subject.run.status == "running" else ()
    for op in ops:
        if op.status == "running":
            facts = subject.facts.ops.get(op.id, OpFacts(op.id))
            words = counts(op, facts.seconds) if op.is_map else duration(facts.seconds)
            yield ProgressRow(_title(op), words, op.finished + op.failed, op.items if op.is_map else None)


def _error(subject: RunSubject) -> str:
    text = subject.facts.report.message or subject.run.info.error
    return text if len(text) <= _ERROR else f"{text[: _ERROR - 1]}…"


def _marks(subject: RunSubject) -> Mapping[str, Mark]:
    ops = subject.facts.report.ops
    marks: dict[str, Mark] = {}
    if not ops:  # it kept no log
        return marks
    is_over = subject.run.status in ("finished", "succeeded")
    for op_id in [*(call.id for call in subject.plan.calls), *(fan_out.id for fan_out in subject.plan.fan_outs)]:
        op = ops.get(op_id)
        if op is not None:
            marks[op_id] = Mark(op.status, _mark_text(subject, op), f"#op-{op_id}")
    inside = {call.id for fan_out in subject.plan.fan_outs for call in fan_out.calls}
    for call in subject.plan.calls:
        if call.id not in marks and call.id not in inside:
            marks[call.id] = Mark("skipped" if is_over else "waiting", "skipped" if is_over else "did not run")
    return marks


def _mark_text(subject: RunSubject, op: OpReport) -> str:
    facts = subject.facts.ops.get(op.id)
    words = [_ICONS.get(op.status, ""), _WORDS.get(op.status, "" if op.status == "finished" else op.status)]
    if op.is_map:
        words.append(f"{op.finished:,}/{op.items or 0:,} items" + (f", {op.failed:,} failed" if op.failed else ""))
    if facts is not None and facts.spans:
        words.append(duration(facts.seconds))
    return " ".join(word for word in words if word)


def _row(subject: RunSubject, op: OpReport) -> OpRow:
    facts = subject.facts.ops.get(op.id, OpFacts(op.id))
    whole = subject.facts.seconds
    is_map = op.is_map
    curves = _curves(facts, subject) if facts.activity is not None else ("", "", "")
    return OpRow(
        op.id,
        _title(op),
        op.status,
        _ICONS.get(op.status, ""),
        _WORDS.get(op.status, op.status),
        duration(facts.seconds) if facts.spans else "",
        f"{100 * facts.seconds / whole:.0f} %" if facts.spans and whole else "",
        f"{op.finished:,}/{op.items:,}" if is_map and op.items is not None else f"{op.items:,}" if op.items else "",
        f"{op.failed:,}" if op.failed else "",
        f"{facts.tries:,}" if facts.tries else "",
        _bytes(facts.size) if facts.size else "",
        [_span(subject, span) for span in facts.spans],
        *curves,
        _workers(op, facts),
    )


def _title(op: OpReport) -> str:
    if op.id.endswith(SPREAD):
        return f"lists of {op.id.removesuffix(SPREAD).removesuffix(MAP)} joined into one"
    if op.id.endswith(GATHER):
        return f"results over {op.id.removesuffix(GATHER).removesuffix(MAP)} put back into lists"
    if not op.is_map:
        return op.id
    # Of a map below a map, what is before the inner one runs for itself, and what is behind it.
    source = op.id.partition(LEVEL)[0].removesuffix(MAP)
    return f"each item of {source}: {op.title}"


def _span(subject: RunSubject, span: tuple[float, float]) -> Bar:
    elapsed = subject.facts.elapsed
    return _bar(elapsed(span[0]), elapsed(span[1]), subject.facts.seconds)


def _bar(start: float, end: float, whole: float) -> Bar:
    left = 100 * start / whole if whole else 0.0
    width = 100 * (end - start) / whole if whole else 0.0
    return Bar(f"{left:.3f}", f"{min(width, 100 - left):.3f}")


def _curves(facts: OpFacts, subject: RunSubject) -> tuple[str, str, str]:
    """Return the curves of items over time.

    Of those that ended well and of those that failed, and how many a second there were at most.
    """
    activity = facts.activity
    if activity is None or not activity.finished:
        return "", "", ""
    most = max(map(sum, zip(activity.finished, activity.failed, strict=True))) or 1
    end = facts.spans[-1][1] if facts.spans else subject.facts.end
    failed = _curve(activity, activity.failed, most, subject, end) if any(activity.failed) else ""
    return _curve(activity, activity.finished, most, subject, end), failed, f"{most / activity.width:,.0f}"


def _curve(activity: Activity, counts: Sequence[int], most: int, subject: RunSubject, map_end: float) -> str:
    """Return the outline of a curve over the whole timeline.

    It is drawn in a square of 1000 by 100. ``map_end``: where it ends; the last stretch may be longer than the map.
    """
    facts = subject.facts
    whole = facts.seconds or 1.0
    texts = []
    for place, count in enumerate(counts):
        if count:
            start = activity.start + place * activity.width
            left, right = (1000 * facts.elapsed(min(at, map_end)) / whole for at in (start, start + activity.width))
            height = max(100 * count / most, 4)
            texts.append(f"M{left:.1f} 100V{100 - height:.1f}H{max(right, left + 1):.1f}V100Z")
    return "".join(texts)


def _workers(op: OpReport, facts: OpFacts) -> str:
    if not op.is_map or not facts.durations.items or not facts.seconds or op.workers > 9_999:
        return ""
    busy = facts.durations.seconds / (facts.seconds * max(op.workers, 1))
    return f"{op.workers:,} at one time, busy {min(100 * busy, 100):.0f} %"


def _axis(whole: float) -> list[str]:
    return [duration(whole * part / 4) if part else "0" for part in range(5)] if whole else []


def _shown_gaps(subject: RunSubject) -> list[tuple[float, float]]:
    """Return the longest gaps of those that matter, in order."""
    gaps = [gap for gap in subject.facts.gaps if gap[1] - gap[0] >= _LEAST_GAP * subject.facts.seconds]
    return sorted(sorted(gaps, key=lambda gap: gap[0] - gap[1])[:SHOWN_GAPS])


def _gap_texts(subject: RunSubject) -> Iterator[str]:
    for start, end in _shown_gaps(subject):
        yield f"{duration(end - start)} from {duration(start)} on"


def _pause(subject: RunSubject, start: float, end: float) -> str:
    return f"paused for {duration(end - start)}, {duration(subject.facts.elapsed(start))} after the start"


def _slowest(subject: RunSubject) -> list[tuple[str, str]]:
    """Return what took longest: steps, map blocks and single items."""
    rows: list[tuple[float, str]] = []
    for op in subject.facts.report.ops.values():
        facts = subject.facts.ops.get(op.id, OpFacts(op.id))
        if facts.spans:
            rows.append((facts.seconds, _title(op)))
        if facts.durations.slowest_item:
            rows.append((facts.durations.slowest, item_name(op.title, facts.durations.slowest_item)))
    return [(name, duration(seconds)) for seconds, name in sorted(rows, reverse=True)[:5]]


def _item_times(subject: RunSubject) -> Iterator[ItemTimes]:
    for op in subject.facts.report.ops.values():
        facts = subject.facts.ops.get(op.id)
        if facts is not None and facts.durations.items:
            yield _times(_title(op), facts.durations)


def _times(title: str, times: Durations) -> ItemTimes:
    most = max(times.counts)
    bars = [
        HistogramBar(f"{_short(low)} – {_short(high)}", f"{count:,}", f"{100 * count / most:.1f}")
        for low, high, count in times.bars
    ]
    facts = [("mean", _short(times.seconds / times.items))]
    facts += [(f"{share:.0%} within", _short(times.quantile(share))) for share in (0.5, 0.95, 0.99)]
    if times.slowest_item:
        facts.append((f"slowest: item {'/'.join(map(str, times.slowest_item))}", _short(times.slowest)))
    note = f"{times.means:,} of {times.items:,} items were told together with others: their mean counts for each."
    return ItemTimes(title, bars, facts, note if times.means else "")


def _short(value: float) -> str:
    """Write a duration for an axis.

    >>> _short(2e-05), _short(0.005), _short(2.0), _short(200.0)
    ('20 µs', '5 ms', '2 s', '200 s')
    """
    if value == float("inf"):
        return "∞"
    if value < 0.001:
        return f"{value * 1e6:.3g} µs"
    return f"{value * 1e3:.3g} ms" if value < 1 else f"{value:,.3g} s" if value < 1000 else f"{value:,.0f} s"


def _groups(groups: Sequence[FailureGroup], samples: Sequence[Sample]) -> Iterator[GroupView]:
    rest = iter(samples)
    for number, group in enumerate(groups):
        own = [next(rest) for _ in group.examples]
        first = group.examples[0].failure if group.examples else None
        yield GroupView(
            group.error,
            f"{group.count:,}",
            f"{group.retried:,}" if group.retried else "",
            group.step,
            group.where,
            "" if first is None else first.message,
            "" if first is None else first.traceback,
            number == 0,
            [(item_name(sample.call.step, sample.call.item), sample) for sample in own],
            "they say different things; this is the first" if group.messages else "",
        )


def _change_rows(comparison: Comparison) -> Iterator[ChangeRow]:
    yield _change_row("the run", comparison.whole)
    for change in comparison.times:
        yield _change_row(_title(OpReport(change.id, ())).rstrip(": "), change)


def _change_row(title: str, change: TimeChange) -> ChangeRow:
    share = change.share
    text = "" if share is None else "same" if abs(share) < 0.005 else f"{share:+.0%}"
    if share is not None and share >= 10:
        text = f"×{share + 1:,.0f}"
    is_noise = share is None or abs(share) < 0.1 or abs((change.seconds or 0) - (change.previous or 0)) < _NOISE
    word = "" if is_noise or share is None else "slower" if share > 0 else "faster"
    before, now = change.items
    failed_before, failed_now = change.failed
    items = f"{before:,} → {now:,}" if before or now else ""
    if failed_before or failed_now:
        items += f", failed {failed_before:,} → {failed_now:,}"
    return ChangeRow(title, _took(change.previous), _took(change.seconds), text, word, items)


def _took(value: float | None) -> str:
    return "did not run" if value is None else duration(value)


def _bill(lines: Iterable[CostLine]) -> Iterator[tuple[str, str, str]]:
    for line in lines:
        if line.quantity:
            yield line.price.unit, f"{line.quantity:,.6g}", _dollars(line.dollars)


def _dollars(amount: float) -> str:
    return (
        f"${amount:,.2f}" if amount == 0 or amount >= 0.1 else f"${amount:.2g}" if amount >= 1e-4 else f"${amount:.6f}"
    )


def _bytes(number: int) -> str:
    return f"{number:,} B" if number < 10_000 else f"{number / 1024:,.0f} KiB"


def _json(value: object) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 2_000 else f"{text[:1_999]}…"
