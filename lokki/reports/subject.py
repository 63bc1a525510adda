"""A run as its report sees it, wherever it ran."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lokki.plan import Plan
from lokki.reports.facts import RunFacts
from lokki.results.flow_results import Run


@dataclass(frozen=True, slots=True)
class RunSubject:
    """A run that a report is of, or that another one is held against.

    * ``place``: where it ran, in words; ``link``: a page of AWS that shows it, empty for others.
    * ``code``: a checksum of each step's source, or what else names the code, by what it is of.
    """

    run: Run
    plan: Plan
    facts: RunFacts
    place: str
    code: Mapping[str, str]
    link: str = ""
