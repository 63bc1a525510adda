"""What ``build --check`` finds: limits of AWS that a build comes to, and what cfn-lint says."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from lokki.base.quotas import (
    DEFINITION_BYTES,
    ENVIRONMENT_BYTES,
    EXPRESS_SECONDS,
    FUNCTION_NAME_LENGTH,
    MACHINE_NAME_LENGTH,
    TEMPLATE_BYTES,
    UNZIPPED_BYTES,
)
from lokki.builder.compiled import Compiled
from lokki.builder.environment import function_environment
from lokki.builder.machine_limits import machine_limits
from lokki.builder.names import function_suffixes
from lokki.builder.package_types import ZipCode
from lokki.builder.packages.folder import Bundle
from lokki.builder.packages.sizes import size_text
from lokki.builder.timing import execution_type, fits_express, longest_item

_NEAR_LIMITS = ("I1002", "I2010", "I3010")


def check_build(compiled: Compiled, bundle: Bundle, folder: Path) -> tuple[list[str], list[str]]:
    """Return what is wrong with a build, and what was not checked.

    Both are lines of text.
    """
    findings = [*exceeded_limits(compiled, bundle)]
    command = _cfn_lint_command()
    if command is None:
        return findings, ["cfn-lint is not installed, so the template is not checked with it (pip install cfn-lint)"]
    return [*findings, *_cfn_lint(command, folder / "template.yaml")], []


def exceeded_limits(compiled: Compiled, bundle: Bundle) -> Iterator[str]:
    """Yield a line for each limit that the build, or a run of it, exceeds."""
    yield from _sizes(bundle)
    yield from (f"statemachine.json: {line}" for line in machine_limits(compiled))
    yield from _functions(compiled, bundle)
    for fan_out in compiled.maps:
        if execution_type(compiled, fan_out) == "EXPRESS" and not fits_express(compiled, fan_out):
            yield (
                f"statemachine.json: an item of the map over {fan_out.source}() may take "
                f"{longest_item(compiled, fan_out):.0f} s with all tries, "
                f"but an EXPRESS execution ends after {EXPRESS_SECONDS}; shorten timeouts or retries, or remove "
                "execution_type"
            )


def _sizes(bundle: Bundle) -> Iterator[str]:
    for path, limit in (("statemachine.json", DEFINITION_BYTES), ("template.yaml", TEMPLATE_BYTES)):
        size = len(bundle.files[path])
        if size > limit:
            yield f"{path}: has {size:,} bytes, AWS takes {limit:,}; split the flow"
    for package in bundle.packages:
        if isinstance(package.code, ZipCode) and package.vendored is not None:
            size = package.vendored.size + sum(map(len, package.own.values()))
            if size > UNZIPPED_BYTES:
                yield f"lambdas/{package.step}.zip: has {size_text(size)} unzipped, Lambda takes 250 MiB; require less"


def _functions(compiled: Compiled, bundle: Bundle) -> Iterator[str]:
    """Check names, and variables with the values that deploying fills in."""
    if len(bundle.flow) > MACHINE_NAME_LENGTH:
        yield f"template.yaml: the state machine's name {bundle.flow!r} is longer than {MACHINE_NAME_LENGTH} characters"
    suffixes = function_suffixes(bundle.flow, [function.name for function in compiled.functions])
    for step in compiled.steps:
        name = f"{bundle.flow}-{suffixes[step.name]}"
        if len(name) > FUNCTION_NAME_LENGTH:
            yield f"template.yaml: the function's name {name!r} is longer than {FUNCTION_NAME_LENGTH} characters"
        variables = function_environment(step, compiled.config)
        values = {"LOKKI_ARTIFACT_BUCKET": compiled.config.artifact_bucket, "LOKKI_FLOW_NAME": bundle.flow}
        texts = {key: values.get(key, value) for key, value in variables.items()}
        size = sum(len(key.encode()) + len(str(value).encode()) for key, value in texts.items())
        if size > ENVIRONMENT_BYTES:
            yield f"template.yaml: the variables of {step.name}() have {size} bytes, Lambda takes {ENVIRONMENT_BYTES}"


def _cfn_lint_command() -> str | None:
    beside = Path(sys.executable).with_name("cfn-lint")
    return str(beside) if beside.exists() else shutil.which("cfn-lint")


def _cfn_lint(command: str, template: Path) -> Iterator[str]:
    """Run cfn-lint and yield each of its findings as a line.

    Rules that only inform are included.
    """
    # What comes near a limit is no finding: what exceeds one is refused or found by lokki itself.
    options = ["--include-checks", "I", "--ignore-checks", *_NEAR_LIMITS, "--format", "parseable", "--", str(template)]
    process = subprocess.run([command, *options], capture_output=True, text=True, check=False)
    if process.returncode:
        yield from (f"cfn-lint: {line}" for line in (process.stdout + process.stderr).splitlines() if line.strip())
