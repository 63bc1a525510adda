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
    """What a step's package has of what is required.

    - ``resolved``: the versions
    - ``vendored``: the files, if they are packed here
    """

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
    """What each step's package has of what is required, by step.

    ``notes``: what was left out, and why not more, a line each.
    """

    requirements: Mapping[str, Requirement]
    notes: tuple[str, ...] = ()


def choose(compiled: Compiled, project: Project, trimmed: Trimmed, available: Available) -> Chosen:
    """Choose what each step's package has of what is required.

    ``trimmed``: the files of each step's package.
    """
    if compiled.config.dependencies == "all" or not available.installed:
        everything = {
            step: Requirement(resolved, available.packed[step].select() if step in available.packed else None)
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
    # Most steps have one installation in common, which is indexed once.
    indexes = {id(whole): Installed.of(whole.distributions) for whole in available.installed.values()}
    installed = {step: indexes[id(whole)] for step, whole in available.installed.items()}
    needs = step_needs(compiled.plan, sources, installed, RUNTIME)
    selections = _Selections({})
    requirements = {
        step: Requirement(available.resolved[step].only(need.packages), selections.of(available.packed.get(step), need))
        for step, need in needs.items()
    }
    return Chosen(requirements, tuple(_notes(needs, available.installed)))


@dataclass(frozen=True, slots=True)
class _Selections:
    """Selects files of an installation.

    It does so once for all steps that need the same.
    """

    selected: dict[tuple[int, frozenset[str], frozenset[str]], Vendored]

    def of(self, installation: Installation | None, needs: Needs) -> Vendored | None:
        if installation is None:
            return None
        modules = frozenset(
            name for name in needs.modules if any(part in ("test", "tests") for part in name.split("."))
        )
        key = (id(installation), needs.packages.intersection(installation.distributions), modules)
        if key not in self.selected:
            self.selected[key] = installation.select(key[1], modules)
        return self.selected[key]


def _notes(needs: Mapping[str, Needs], installed: Mapping[str, Installation]) -> Iterator[str]:
    """Yield what the user should know of the choice, a line each.

    It is about what is left out, values that keep packages in, and code that keeps all in.
    """
    left_out: dict[tuple[str, ...], list[str]] = {}
    for step, need in needs.items():
        names = tuple(sorted(installed[step].distributions.keys() - need.packages))
        if names:
            left_out.setdefault(names, []).append(step)
    for names, steps in left_out.items():
        yield (
            f"{_listed(names)}: not in {_listed([f'{step}()' for step in steps])}, whose code imports nothing of it "
            "(dependencies: all in lokki.yml packs everything)"
        )
    received: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for step, need in needs.items():
        for sender, packages in need.received.items():
            received.setdefault((sender, tuple(sorted(packages))), []).append(f"{step}()")
    for (sender, names), steps in received.items():
        yield (
            f"{_listed(names)}: in {_listed(steps)} only to read what {sender}() may hand on; results that are plainly "
            "of Python, such as float(x), need nothing of it"
        )
    reasons: dict[str, list[str]] = {}
    for step, need in needs.items():
        if need.reason and len(installed[step].distributions) > len(RUNTIME):
            reasons.setdefault(need.reason, []).append(f"{step}()")
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
