"""Where the code of each step's Lambda function is on AWS: what the packages decide and the template says."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Final

from lokki.base.quotas import PYTHONS
from lokki.errors import LokkiError


def lambda_python(here: tuple[int, int]) -> tuple[int, int]:
    """Return the version of Python that functions get.

    It is the one that builds, if Lambda has it, else the newest of Lambda's below.

    >>> lambda_python((3, 14)), lambda_python((3, 16))
    ((3, 14), (3, 15))
    """
    return max((version for version in PYTHONS if version <= here), default=PYTHONS[0])


LAMBDA_PYTHON: Final = lambda_python(sys.version_info[:2])
LAMBDA_PYTHON_TEXT: Final = ".".join(map(str, LAMBDA_PYTHON))


class BuildError(LokkiError):
    """A package cannot be built.

    A tool is missing, a requirement has no wheel for Lambda, the package is too large.
    """


@dataclass(frozen=True, slots=True)
class ZipCode:
    """A zip file in the artifact bucket.

    The key holds a hash of its content, so changed code has another key.
    """

    key: str


@dataclass(frozen=True, slots=True)
class ImageCode:
    """An image in the registry.

    - ``repository``: its name after the registry's prefix
    - ``tag``: a hash of the image's input, or "" for the tag of the settings
    """

    repository: str
    tag: str


type Code = ZipCode | ImageCode
