"""Where the code of each step's Lambda function is on AWS: what the packages decide and the template says."""

from __future__ import annotations

from dataclasses import dataclass

from lokki.errors import LokkiError


class BuildError(LokkiError):
    """A package cannot be built: a tool is missing, a requirement has no wheel for Lambda, the package is too large."""


@dataclass(frozen=True, slots=True)
class ZipCode:
    """A zip file in the artifact bucket; the key holds a hash of its content, so changed code has another key."""

    key: str


@dataclass(frozen=True, slots=True)
class ImageCode:
    """An image: the repository's name after the registry's prefix, and a tag that is a hash of the image's input."""

    repository: str
    tag: str


type Code = ZipCode | ImageCode
