"""Environments for what lokki is measured against, each of its own.

lokkiflow, too, installs a package and a command called ``lokki``: in lokki's own environment it would take their place.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

JOBLIB = "joblib==1.6.0"
LOKKIFLOW = "lokkiflow==0.5.151"
DASK = "dask==2026.8.0"
REDUN = "redun==0.44.1"
METAFLOW = "metaflow==2.19.39"


def install(requirement: str, folder: Path, *others: str) -> Path | None:
    """Make an environment with a package in a folder and return its Python; None when that cannot be done here.

    ``others``: what it is to have beside the package.
    """
    uv = os.environ.get("UV") or shutil.which("uv")
    if uv is None:
        print(f"{requirement} is left out: there is no uv to install it with.", file=sys.stderr)
        return None
    environment = folder / requirement.partition("==")[0]
    python = environment / "bin" / "python"
    for command in (
        [uv, "venv", "--quiet", "--python", sys.executable, str(environment)],
        [uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", str(python), requirement, *others],
    ):
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            reason = done.stderr.strip().splitlines()
            print(f"{requirement} is left out: {reason[-1] if reason else 'uv failed'}", file=sys.stderr)
            return None
    return python
