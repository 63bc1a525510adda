"""Building a flow: what it becomes on AWS as one value, and the folder that holds it."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from lokki.base.quotas import UNZIPPED_BYTES
from lokki.builder.cloudformation import build_template
from lokki.builder.lambda_pkg import StepCode, describe_calls, generate_lambda_dir, repository, slug
from lokki.builder.names import deployed_name
from lokki.builder.package_types import LAMBDA_PYTHON, LAMBDA_PYTHON_TEXT, BuildError, ImageCode, ZipCode
from lokki.builder.packages.archive import bytecode_kind, content_digest
from lokki.builder.packages.folder import NOT_IN_ZIP, Bundle, Package, Written, read_manifest, write_bundle
from lokki.builder.packages.import_check import ON_LAMBDA_MODULES, Target, check_packages, standard_library
from lokki.builder.packages.local_packages import own_metadata
from lokki.builder.packages.sizes import size_text
from lokki.builder.packages.sources import Project, collect, lokki_files
from lokki.builder.packages.trimming import Trimmed, trim
from lokki.builder.requirements.choose import Available, Chosen, choose
from lokki.builder.requirements.find import Requirements, find_requirements
from lokki.builder.requirements.resolve import Resolved, check_imports, resolve
from lokki.builder.requirements.uv import Uv
from lokki.builder.requirements.vendoring import (
    Installation,
    Vendored,
    check_zip_size,
    install_once,
    vendored_files,
)
from lokki.builder.settings import check_settings
from lokki.builder.state_machine import build_state_machine, dump_state_machine
from lokki.builder.template_text import dump_template
from lokki.config import LokkiConfig
from lokki.graph import FlowGraph
from lokki.plan import lower
from lokki.runtime.event import template_to_json

_DIGEST_LENGTH = 32


@dataclass(frozen=True, slots=True)
class Contents:
    """What packages are made of beyond the flow itself: its project, and what is required."""

    project: Project
    available: Available


def compile_flow(graph: FlowGraph, config: LokkiConfig, contents: Contents, zip_bytes: int = UNZIPPED_BYTES) -> Bundle:
    """Return all that a flow becomes on AWS; equal input gives equal bytes. ``zip_bytes``: most of a zip, unzipped.

    Raises FlowError, ConfigError and BuildError for what AWS would not take.
    """
    plan = lower(graph)
    name = deployed_name(plan.flow, config)
    calls = describe_calls(plan, template_to_json)
    packages = []
    steps = contents.project.steps
    trimmed = trim(contents.project.files, steps, contents.project.trees)
    chosen = choose(graph, plan, config, contents.project, trimmed, contents.available)
    missing = _check_packages(contents.project, chosen, config)
    for step in graph.steps:
        requirement = chosen.requirements[step.name]
        code = StepCode(
            plan.flow,
            step.name,
            contents.project.flow,
            steps[step.name],
            calls[step.name],
            trimmed.files[step.name],
            requirement.resolved.files_for(config.packages),
        )
        packages.append(
            _package(name, step.name, generate_lambda_dir(code, config), requirement.vendored, config, zip_bytes)
        )
    definition = build_state_machine(graph, config)
    template = build_template(graph, config, {package.step: package.code for package in packages})
    return Bundle(
        name,
        {
            "statemachine.json": dump_state_machine(definition),
            "template.yaml": dump_template(template),
            **{
                f"lambdas/{package.step}/{path}": content
                for package in packages
                for path, content in package.files.items()
            },
        },
        tuple(packages),
        (*_notes(trimmed, contents.project), *missing, *chosen.notes),
    )


def _notes(trimmed: Trimmed, project: Project) -> Iterator[str]:
    """Yield what the user should know of what is packed."""
    yield from project.notes
    if trimmed.reason and len(project.steps) > 1:
        yield (
            f"{trimmed.reason}, which may reach any step, so every package has the code of all steps, "
            "and a change of one changes all"
        )


def _check_packages(project: Project, chosen: Chosen, config: LokkiConfig) -> list[str]:
    """Check that packages have all that their modules import, and return notes on what may be missing."""
    elsewhere = standard_library(LAMBDA_PYTHON) | ON_LAMBDA_MODULES | {*config.provided}
    if config.packages == "image":  # whose requirements are held against their pins, since nothing is installed here
        elsewhere |= project.foreign.keys()
    targets = [
        Target(step, frozenset(project.files) | (one.vendored.paths if one.vendored else frozenset()), elsewhere)
        for step, one in chosen.requirements.items()
    ]
    starts = frozenset({project.flow.module, *(importable.module for importable in project.steps.values())})
    notes = check_packages(project.imports, starts, targets, config.exclude)
    return notes if config.packages == "zip" else []


def _package(
    flow: str, step: str, files: Mapping[str, bytes], vendored: Vendored | None, config: LokkiConfig, zip_bytes: int
) -> Package:
    """Name a package after its content, so that changed code is deployed and unchanged code is not."""
    twice = sorted(vendored.paths & files.keys() - {NOT_IN_ZIP}) if vendored else []
    if twice:
        raise BuildError(f"{twice[0]} is in the project and in a package that it requires. Rename the project's.")
    if vendored is None or config.packages == "image":
        files = {**(vendored_files(vendored) if vendored else {}), **files}
        is_named = config.lambda_defaults.image_tag != LokkiConfig().lambda_defaults.image_tag
        tag = "" if is_named else content_digest(files)[:_DIGEST_LENGTH]
        return Package(step, ImageCode(repository(flow, step), tag), files)
    whole = hashlib.sha256(f"{content_digest(files)} {bytecode_kind()} {vendored.digest}".encode()).hexdigest()
    code = ZipCode(f"lokki-packages/{flow}/{slug(step)}-{whole[:_DIGEST_LENGTH]}.zip")
    package = Package(step, code, files, vendored)
    own = {"the flow and lokki": sum(map(len, package.own.values()))}
    check_zip_size(vendored.sizes | own, step, zip_bytes)
    return package


def _to_stdout(line: str) -> None:
    sys.stdout.write(f"{line}\n")


@dataclass(frozen=True, slots=True)
class Builder:
    """Builds flows: ``write`` gets each line of the report, ``cache`` keeps what was installed for later builds.

    ``zip_bytes``: how much a zip may hold, unzipped, which is more where zips stand for images, in the emulator.
    """

    write: Callable[[str], None] = _to_stdout
    environ: Mapping[str, str] | None = None
    cache: Path | None = None
    zip_bytes: int = UNZIPPED_BYTES

    def build(self, graph: FlowGraph, config: LokkiConfig) -> Bundle:
        """Write a flow's packages, state machine and template to ``config.build_dir`` and report what changed.

        A failing build leaves the previous one whole. Raises ConfigError for settings that are missing or wrong,
        FlowError for a flow that AWS could not run, BuildError for packages that cannot be made.
        """
        began = time.monotonic()
        check_settings(config)
        folder = Path(config.build_dir)
        read_manifest(folder)  # refuses a folder of something else before there is any work
        contents, requirements = self._gather(graph, config)
        bundle = compile_flow(graph, config, contents, self.zip_bytes)
        written = write_bundle(bundle, folder)
        for line in _report(bundle, config, requirements, contents):
            self.write(line)
        for each in written:
            note = f"  ({each.note})" if each.note else ""
            self.write(f"  {each.change:<9} {size_text(each.size):>10}  {each.digest[:12]:<12}  {each.path}{note}")
        self.write(f"{_summary(written)} in {folder}, {time.monotonic() - began:.1f} s")
        return bundle

    def _gather(self, graph: FlowGraph, config: LokkiConfig) -> tuple[Contents, Requirements]:
        """Read the project and install what it requires, which is all that a build takes from its surroundings."""
        environ = os.environ if self.environ is None else self.environ
        cache, uv = self.cache or cache_folder(environ), Uv(environ)
        skipped = frozenset({Path(config.build_dir).resolve(), cache.resolve()})
        project = collect(graph, config, skipped, zip_bytes=self.zip_bytes)
        requirements = find_requirements(project.flow_file, uv, cache)
        resolved: dict[str, Resolved] = {}
        installed: dict[str, Installation] = {}
        packed: dict[str, Installation] = {}
        for extra in dict.fromkeys(step.options.dependencies for step in graph.steps):
            names = [step.name for step in graph.steps if step.options.dependencies == extra]
            found = resolve(requirements, extra, config.architecture, uv, cache)
            if config.packages == "image":  # what is installed when the image is built is known by its pins alone
                foreign = {name: place for name, place in project.foreign.items() if name not in config.provided}
                check_imports(foreign, found, names[0])
            resolved |= dict.fromkeys(names, found)
            if config.packages == "zip":
                packed |= dict.fromkeys(names, install_once(found, uv, cache))
                installed |= {name: packed[name] for name in names}
                continue
            if config.dependencies != "all":
                installed |= dict.fromkeys(names, install_once(found, uv, cache, packed=False))
            if (local := found.of_index("")).pins:
                packed |= dict.fromkeys(names, install_once(local, uv, cache))
        metadata = own_metadata(sys.path, project.files, project.flow_file)
        files = {**project.files, **metadata, **lokki_files()}
        return Contents(replace(project, files=files), Available(resolved, installed, packed)), requirements


def cache_folder(environ: Mapping[str, str]) -> Path:
    """Return the folder of lokki's cache, by the XDG base directory specification."""
    return Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lokki"


def _report(bundle: Bundle, config: LokkiConfig, requirements: Requirements, contents: Contents) -> list[str]:
    count = len(bundle.packages)
    kind = f"{config.packages} package{'s' if count > 1 else ''}"
    lines = [f"{bundle.flow}: {count} {kind} for {config.architecture}, requirements from {requirements.source}"]
    packed = {package.vendored.note for package in bundle.packages if package.vendored is not None}
    notes = sorted(({resolved.note for resolved in contents.available.resolved.values()} | packed) - {""})
    if config.packages == "zip" and not bytecode_kind():
        version = ".".join(map(str, sys.version_info[:2]))
        notes.append(
            f"built by Python {version}, so without bytecode for Lambda's {LAMBDA_PYTHON_TEXT}: cold starts take longer"
        )
    return [*lines, *(f"  note: {note}" for note in [*notes, *bundle.notes])]


def _summary(written: list[Written]) -> str:
    counts = {change: sum(each.change == change for each in written) for change in ("new", "changed", "removed")}
    parts = [f"{number} {change}" for change, number in counts.items() if number]
    return ", ".join(parts) if parts else "nothing changed"
