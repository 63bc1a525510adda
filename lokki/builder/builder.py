"""Building a flow: what it becomes on AWS as one value, and the folder that holds it."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from lokki.base.quotas import UNZIPPED_BYTES
from lokki.builder.cloudformation import template_of
from lokki.builder.compiled import Compiled, compile_flow
from lokki.builder.cost_limits import cost_limits
from lokki.builder.lambda_pkg import StepCode, describe_calls, generate_lambda_dir, repository, slug
from lokki.builder.merging import MERGED_FILE, NO_TEMPLATE, UserTemplate, read_user_template
from lokki.builder.package_types import LAMBDA_PYTHON, LAMBDA_PYTHON_TEXT, BuildError, ImageCode, ZipCode
from lokki.builder.packages.archive import bytecode_kind, content_digest
from lokki.builder.packages.folder import NOT_IN_ZIP, Bundle, Package, Written, read_manifest, write_bundle
from lokki.builder.packages.import_check import ON_LAMBDA_MODULES, PackageContents, check_packages, standard_library
from lokki.builder.packages.local_packages import own_metadata
from lokki.builder.packages.sizes import size_text
from lokki.builder.packages.sources import Project, collect, lokki_files
from lokki.builder.packages.trimming import Trimmed, trim
from lokki.builder.permissions import own_permissions
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
from lokki.builder.settings import check_retention, check_settings, default_permissions
from lokki.builder.state_machine import dump_state_machine, state_machine_of
from lokki.builder.template_text import dump_template
from lokki.config import LokkiConfig
from lokki.graph import FlowGraph
from lokki.plan_json import plan_to_json

_DIGEST_LENGTH = 32


@dataclass(frozen=True, slots=True)
class Contents:
    """What packages hold beyond the flow itself.

    - ``project``: its files, and where its steps are
    - ``available``: what is required, before it is chosen from
    - ``user``: the template of the user's
    """

    project: Project
    available: Available
    user: UserTemplate = NO_TEMPLATE


def assemble(compiled: Compiled, contents: Contents, zip_bytes: int = UNZIPPED_BYTES) -> Bundle:
    """Return all that a flow becomes on AWS.

    Equal input gives equal bytes. ``zip_bytes``: most of a zip, unzipped. Raises FlowError, ConfigError and BuildError
    for what AWS would not take.
    """
    config, project = compiled.config, contents.project
    name = compiled.name
    trimmed = trim(project.files, project.steps, project.trees)
    chosen = choose(compiled, project, trimmed, contents.available)
    missing = _check_packages(project, chosen, config)
    packages = []
    for code in _step_codes(compiled, project, trimmed, chosen):
        files = generate_lambda_dir(code, config)
        vendored = chosen.requirements[code.step_name].vendored
        packages.append(_package(name, code.step_name, files, vendored, config, zip_bytes))
    user = contents.user
    template = template_of(compiled, {package.step: package.code for package in packages}, user)
    return Bundle(
        name,
        plan_to_json(compiled.plan),
        {
            "statemachine.json": dump_state_machine(state_machine_of(compiled)),
            "template.yaml": dump_template(template),
            **({MERGED_FILE: json.dumps(user.sections, indent=2).encode()} if user.path else {}),
            **{
                f"lambdas/{package.step}/{path}": content
                for package in packages
                for path, content in package.files.items()
            },
        },
        tuple(packages),
        (*_notes(trimmed, project), *_role_notes(compiled), *missing, *chosen.notes),
    )


def _step_codes(compiled: Compiled, project: Project, trimmed: Trimmed, chosen: Chosen) -> Iterator[StepCode]:
    """Yield what the function of each step is made of."""
    calls = describe_calls(compiled.plan, cost_limits(compiled))
    for step in compiled.steps:
        yield StepCode(
            compiled.plan.flow,
            step.name,
            project.flow,
            project.steps[step.name],
            calls[step.name],
            trimmed.files[step.name],
            chosen.requirements[step.name].resolved.files_for(compiled.config.packages),
        )


def _notes(trimmed: Trimmed, project: Project) -> Iterator[str]:
    """Yield what the user should know of what is packed."""
    yield from project.notes
    if trimmed.reason and len(project.steps) > 1:
        yield (
            f"{trimmed.reason}, which may reach any step, so every package has the code of all steps, "
            "and a change of one changes all"
        )


def _role_notes(compiled: Compiled) -> Iterator[str]:
    """Yield that lokki does not write the permissions of a given role."""
    names = [step.name for step in compiled.steps if own_permissions(step)]
    if compiled.config.roles.lambda_ and (names or default_permissions(compiled.config)):
        of_whom = ", ".join(f"{name}()" for name in names) or "all steps"
        yield f"the permissions of {of_whom} are not added to roles.lambda of lokki.yml: see that it has them"


def _check_packages(project: Project, chosen: Chosen, config: LokkiConfig) -> list[str]:
    """Check that packages have all that their modules import.

    Returns notes on what may be missing.
    """
    elsewhere = standard_library(LAMBDA_PYTHON) | ON_LAMBDA_MODULES | {*config.provided}
    if config.packages == "image":  # whose requirements are held against their pins, since nothing is installed here
        elsewhere |= project.foreign.keys()
    targets = [
        PackageContents(
            step,
            frozenset(project.files) | (requirement.vendored.paths if requirement.vendored else frozenset()),
            elsewhere,
        )
        for step, requirement in chosen.requirements.items()
    ]
    starts = frozenset({project.flow.module, *(importable.module for importable in project.steps.values())})
    notes = check_packages(project.imports, starts, targets, config.exclude)
    return notes if config.packages == "zip" else []


def _package(
    flow: str, step: str, files: Mapping[str, bytes], vendored: Vendored | None, config: LokkiConfig, zip_bytes: int
) -> Package:
    """Return a package that is named after its content."""
    # So changed code is deployed, and unchanged code is not.
    twice = sorted(vendored.paths & files.keys() - {NOT_IN_ZIP}) if vendored else []
    if twice:
        raise BuildError(f"{twice[0]} is in the project and in a package that it requires. Rename the project's.")
    # In a zip, what is vendored is never unpacked here: it counts by its digest, and is copied when the zip is written.
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
    """Builds flows.

    - ``write``: gets each line of the report
    - ``environ``: the environment variables, by default those of the process
    - ``cache``: keeps what was installed for later builds
    - ``zip_bytes``: how much a zip may hold, unzipped; more where zips stand for images, in the emulator
    """

    write: Callable[[str], None] = _to_stdout
    environ: Mapping[str, str] | None = None
    cache: Path | None = None
    zip_bytes: int = UNZIPPED_BYTES

    def build(self, graph: FlowGraph, config: LokkiConfig) -> Bundle:
        """Build a flow into ``config.build_dir`` and report what changed.

        Writes packages, state machine and template. A failing build leaves the previous one whole. Raises ConfigError
        for settings that are missing or wrong, FlowError for a flow that AWS could not run, BuildError for packages
        that cannot be made.
        """
        check_settings(config)
        return self.build_compiled(graph, compile_flow(graph, config))

    def build_compiled(self, graph: FlowGraph, compiled: Compiled) -> Bundle:
        """Build a flow that is compiled already, as `build` does."""
        start = time.monotonic()
        config = compiled.config
        check_settings(config)
        check_retention(config, compiled.plan.options.timeout)
        cost_limits(compiled)  # refuses what cannot be limited before anything is installed
        folder = Path(config.build_dir)
        read_manifest(folder)  # refuses a folder of something else before there is any work
        contents, requirements = self._gather(graph, config)
        bundle = assemble(compiled, contents, self.zip_bytes)
        changes = write_bundle(bundle, folder)
        for line in _report(bundle, config, requirements, contents):
            self.write(line)
        for entry in changes:
            note = f"  ({entry.note})" if entry.note else ""
            self.write(f"  {entry.change:<9} {size_text(entry.size):>10}  {entry.digest[:12]:<12}  {entry.path}{note}")
        self.write(f"{_summary(changes)} in {folder}, {time.monotonic() - start:.1f} s")
        return bundle

    def _gather(self, graph: FlowGraph, config: LokkiConfig) -> tuple[Contents, Requirements]:
        """Read the project and install what it requires.

        That is all that a build takes from its surroundings.
        """
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
            versions = resolve(requirements, extra, config.architecture, uv, cache)
            if config.packages == "image":  # what is installed when the image is built is known by its pins alone
                foreign = {name: place for name, place in project.foreign.items() if name not in config.provided}
                check_imports(foreign, versions, names[0])
            resolved |= dict.fromkeys(names, versions)
            if config.packages == "zip":
                packed |= dict.fromkeys(names, install_once(versions, uv, cache))
                installed |= {name: packed[name] for name in names}
                continue
            if config.dependencies != "all":
                installed |= dict.fromkeys(names, install_once(versions, uv, cache, packed=False))
            if (local := versions.of_index("")).pins:
                packed |= dict.fromkeys(names, install_once(local, uv, cache))
        metadata = own_metadata(sys.path, project.files, project.flow_file)
        files = {**project.files, **metadata, **lokki_files()}
        available = Available(resolved, installed, packed)
        return Contents(
            replace(project, files=files), available, read_user_template(config.merge_template)
        ), requirements


def cache_folder(environ: Mapping[str, str]) -> Path:
    """Return the folder of lokki's cache.

    https://specifications.freedesktop.org/basedir-spec/latest/
    """
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


def _summary(entries: list[Written]) -> str:
    counts = {change: sum(entry.change == change for entry in entries) for change in ("new", "changed", "removed")}
    parts = [f"{number} {change}" for change, number in counts.items() if number]
    return ", ".join(parts) if parts else "nothing changed"
