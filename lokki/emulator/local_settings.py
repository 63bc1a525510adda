"""The settings with which a flow is built for this machine."""

from __future__ import annotations

import platform
import sys
from dataclasses import replace

from lokki.config import LokkiConfig
from lokki.errors import EmulatorError

BUCKET = "emulated-artifacts"
"""The name of the bucket where the settings have none: nobody else sees it."""

BUILD_DIR = ".lokki/emulated-build"
"""Where a flow is built whose settings would not do here, so that the user's own build stays as it is."""

_ARCHITECTURES = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "arm64", "arm64": "arm64"}


def emulator_settings(config: LokkiConfig) -> LokkiConfig:
    """Return the settings to build with for this machine.

    They are the user's, but for what this machine cannot run, and with a bucket's name. Raises EmulatorError for
    packages that cannot be made to run here.
    """
    if sys.platform != "linux":
        raise EmulatorError("emulate runs packages for Lambda, which is Linux, so it runs on Linux only.")
    here = _ARCHITECTURES.get(platform.machine().lower(), config.architecture)
    adapted = replace(config, artifact_bucket=config.artifact_bucket or BUCKET, architecture=here, package_type="zip")
    if adapted == replace(config, package_type="zip") and config.packages == "zip":
        return config
    return replace(adapted, build_dir=BUILD_DIR)
