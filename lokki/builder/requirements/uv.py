"""Running uv, which resolves and installs what packages require."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from lokki.builder.package_types import LAMBDA_PYTHON_TEXT, BuildError

NO_WHEEL = "Require another version of it, set architecture in lokki.yml, or publish a wheel of it where uv finds it."
"""What to do about a package without a wheel."""

_NOT_BUILT = (
    "no (matching distribution|wheels?|usable wheels)|not have any wheels|building from source|Failed to build|"
    "Building source distributions is disabled"
)


@dataclass(frozen=True)
class Uv:
    """The uv of this machine, looked for when it is first used.

    It is that of ``$UV``, of this environment, or on the path.
    """

    environ: Mapping[str, str]
    python: Path = Path(sys.executable)

    @cached_property
    def command(self) -> str:
        """The uv that answers first.

        Raises BuildError when there is none.
        """
        for candidate in self._candidates():
            try:
                answer = subprocess.run([candidate, "--version"], capture_output=True, env=self.environ, check=False)
            except OSError:
                continue
            if answer.returncode == 0:  # a shim may be there that leads to nothing
                return candidate
        raise BuildError(
            "uv is needed to install what the flow requires for Lambda, and it is not here. "
            "Install it (pip install uv), or name it in the environment variable UV."
        )

    def _candidates(self) -> Iterator[str]:
        if self.environ.get("UV"):
            yield self.environ["UV"]
        # The environment's own uv comes before that of the path, which may be of another version.
        beside = self.python.with_name("uv")
        if beside.exists():
            yield str(beside)
        on_path = shutil.which("uv", path=self.environ.get("PATH", ""))
        if on_path:
            yield on_path

    def run(self, arguments: Sequence[str], folder: Path, purpose: str) -> str:
        """Run a command in a folder and return what it prints.

        Raises BuildError with what uv says when it fails; ``purpose`` begins that sentence.
        """
        try:
            done = subprocess.run(
                [self.command, *arguments],
                cwd=folder,
                env={**self.environ, "UV_NO_PROGRESS": "1", "NO_COLOR": "1"},
                capture_output=True,
                text=True,
                check=False,
            )
        except OSError as error:
            raise BuildError(f"uv cannot be run: {error}. Install it anew (pip install uv).") from None
        if done.returncode:
            raise BuildError(f"{purpose} failed. uv says:\n{_indented(done.stderr)}\n{_advice(done.stderr)}")
        return done.stdout


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.strip().splitlines()[-20:])


def _advice(text: str) -> str:
    if re.search(_NOT_BUILT, text):
        return f"A package has no wheel for Lambda's Python {LAMBDA_PYTHON_TEXT} on this architecture. {NO_WHEEL}"
    if re.search(r"error sending request|Failed to fetch|dns error|[Cc]ould not connect", text):
        return "Check the network and the index that uv is set to use."
    return "Correct the requirements and build again."
