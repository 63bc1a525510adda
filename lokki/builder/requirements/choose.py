"""What of a flow's requirements each step's package has, and what the build says of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from lokki.builder.compiled import Compiled
from lokki.builder.packages.sources import Project
from lokki.builder.packages.trimming import Trimmed
from lokki.builder.requirements.needs import Installed, Needs, StepSources, step_needs
from lokki.builder.requirements.origins import requirement_name
from lokki.builder.requirements.resolve import RUNTIME, Resolved
from lokki.builder.requirements.vendoring import Installation, Vendored

_SHOWN: Final = 8
"""Most names in one line of the report."""


@dataclass(frozen=True, slots=True)
class Requirement:
    """What a step's package has of what is required: the versions, and the files if they are packed here."""

    resolved: Resolved
    vendored: Vendored | None = None


@dataclass(frozen=True, slots=True)
class Available:
    """What is required, by step, before it is chosen from.

    - ``resolved``: the versions of all
    - ``installed``: all that they install
    - ``packed``: what is packed here: for a zip the same, for an image what no index has
    """

    resolved: Mapping[str, Resolved]
    installed: Mapping[str, Installation] = field(default_factory=dict)
    packed: Mapping[str, Installation] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Chosen:
    """What each step's package has, by step, and lines that say what was left out, and why not more."""

    requirements: Mapping[str, Requirement]
    notes: tuple[str, ...] = ()


def choose(compiled: Compiled, project: Project, trimmed: Trimmed, available: Available) -> Chosen:
    """Choose what each step's package has; ``trimmed``: the files of each step's package."""
    if compiled.config.dependencies == "all" or not available.installed:
        everything = {
            step: Requirement(resolved, available.packed[step].taken() if step in available.packed else None)
            for step, resolved in available.resolved.items()
        }
        return Chosen(everything)
    sources = {
        step.name: StepSources(
            trimmed.files[step.name],
            project.steps[step.name],
            (*step.options.env.values(), *compiled.config.lambda_env.values()),
            frozenset(map(requirement_name, step.options.dependencies)),
            trimmed.trees[step.name],
        )
        for step in compiled.steps
    }
    indexes = {id(each): Installed.of(each.distributions) for each in available.installed.values()}
    installed = {step: indexes[id(each)] for step, each in available.installed.items()}
    needs = step_needs(compiled.plan, sources, installed, RUNTIME)
    taken = _Taken({})
    requirements = {
        step: Requirement(available.resolved[step].only(each.packages), taken.of(available.packed.get(step), each))
        for step, each in needs.items()
    }
    return Chosen(requirements, tuple(_notes(needs, available.installed)))


@dataclass(frozen=True, slots=True)
class _Taken:
    """Takes of an installation what is needed, once for all steps that need the same."""

    known: dict[tuple[int, frozenset[str], frozenset[str]], Vendored]

    def of(self, installation: Installation | None, needs: Needs) -> Vendored | None:
        if installation is None:
            return None
        modules = frozenset(
            name for name in needs.modules if any(part in ("test", "tests") for part in name.split("."))
        )
        key = (id(installation), needs.packages.intersection(installation.distributions), modules)
        if key not in self.known:
            self.known[key] = installation.taken(key[1], modules)
        return self.known[key]


def _notes(needs: Mapping[str, Needs], installed: Mapping[str, Installation]) -> Iterator[str]:
    """Yield lines about what is left out, about values that keep packages in, and about code that keeps all in."""
    left_out: dict[tuple[str, ...], list[str]] = {}
    for step, each in needs.items():
        names = tuple(sorted(installed[step].distributions.keys() - each.packages))
        if names:
            left_out.setdefault(names, []).append(step)
    for names, steps in left_out.items():
        yield (
            f"{_listed(names)}: not in {_listed([f'{step}()' for step in steps])}, whose code imports nothing of it "
            "(dependencies: all in lokki.yml packs everything)"
        )
    received: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for step, each in needs.items():
        for sender, packages in each.received.items():
            received.setdefault((sender, tuple(sorted(packages))), []).append(f"{step}()")
    for (sender, names), steps in received.items():
        yield (
            f"{_listed(names)}: in {_listed(steps)} only to read what {sender}() may hand on; results that are plainly "
            "of Python, such as float(x), need nothing of it"
        )
    reasons: dict[str, list[str]] = {}
    for step, each in needs.items():
        if each.reason and len(installed[step].distributions) > len(RUNTIME):
            reasons.setdefault(each.reason, []).append(f"{step}()")
    for reason, steps in reasons.items():
        yield f"{reason}, so {_listed(steps)} has everything that is required"


def _listed(names: Iterable[str]) -> str:
    """Write names, of many the first ones.

    >>> _listed("abc"), _listed("abcdefghij")
    ('a, b, c', 'a, b, c, d, e, f, g, h and 2 more')
    """
    every = list(names)
    more = len(every) - _SHOWN
    return ", ".join(every[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
