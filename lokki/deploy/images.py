"""Images of steps: building them with whatever builds images here, and their repositories in ECR."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from botocore.exceptions import ClientError

from lokki.builder.lambda_pkg import NETRC
from lokki.deploy.aws import Aws, aws_errors, code_of
from lokki.errors import AwsError

BUILDERS: Final = ("docker", "podman", "buildah")
"""What can build and push images, the most common first."""

_REGISTRY: Final = re.compile(r"(?P<account>\d{12})\.dkr[.-]ecr\.(?P<region>[a-z0-9-]+)\.[a-z.]+")
_PLATFORMS: Final = {"x86_64": "linux/amd64", "arm64": "linux/arm64"}

_LIFECYCLE: Final = json.dumps(
    {
        "rules": [
            {
                "rulePriority": 1,
                "description": "Images without a tag are of no version of a function",
                "selection": {
                    "tagStatus": "untagged",
                    "countType": "sinceImagePushed",
                    "countUnit": "days",
                    "countNumber": 14,
                },
                "action": {"type": "expire"},
            }
        ]
    }
)
"""Tagged images stay: versions of functions that runs still use need theirs.
https://docs.aws.amazon.com/AmazonECR/latest/userguide/LifecyclePolicies.html"""


@dataclass(frozen=True, slots=True)
class Image:
    """An image to build and push.

    - ``repository``: its name in the registry
    - ``folder``: where its Dockerfile is

    ``content``: a hash of what it is built from, which is a tag of it too.
    """

    step: str
    repository: str
    tag: str
    content: str
    folder: Path


@dataclass(frozen=True, slots=True)
class Registry:
    """A registry in ECR.

    Its host, and what the names of its repositories begin with: "" or a text with ``/`` at its end.
    """

    host: str
    account: str
    region: str
    prefix: str


def registry_of(ecr_repo_prefix: str, aws: Aws) -> Registry:
    """Read the setting `ecr_repo_prefix`.

    Raises AwsError for what is not a registry in ECR in the flow's own region.

    Lambda takes images from ECR in its own region only:
    https://docs.aws.amazon.com/lambda/latest/dg/images-create.html
    """
    host, _, rest = ecr_repo_prefix.partition("/")
    address = _REGISTRY.fullmatch(host)
    if address is None:
        raise AwsError(
            f"ecr_repo_prefix: {host} is no registry in ECR, and Lambda takes images from nowhere else. It looks like "
            f"123456789012.dkr.ecr.{aws.region}.amazonaws.com."
        )
    if address["region"] != aws.region:
        raise AwsError(
            f"ecr_repo_prefix: {host} is in {address['region']} and the flow goes to {aws.region}; Lambda takes images "
            f"from its own region only. Give --region {address['region']}, or another registry in lokki.yml."
        )
    return Registry(host, address["account"], address["region"], f"{rest}/" if rest else "")


def missing_images(aws: Aws, registry: Registry, images: Iterable[Image]) -> list[Image]:
    """Return those images that are not in their repositories under their tags.

    Raises AwsError for a tag that other code has: functions would go on with that.
    """
    return [image for image in images if not _is_there(aws, registry, image)]


def _is_there(aws: Aws, registry: Registry, image: Image) -> bool:
    name = registry.prefix + image.repository
    with aws_errors(f"look for the image of {image.step}() in ECR"):
        try:
            [details] = aws.ecr.describe_images(
                registryId=registry.account, repositoryName=name, imageIds=[{"imageTag": image.tag}]
            )["imageDetails"]
        except ClientError as error:
            if code_of(error) in ("ImageNotFoundException", "RepositoryNotFoundException"):
                return False
            raise
    if image.content not in details.get("imageTags", []):
        raise AwsError(
            f"the image {name}:{image.tag} holds other code than {image.step}() has now. Give another --image-tag, or "
            "remove image_tag from lokki.yml: then each image is tagged by its content."
        )
    return True


def make_repository(aws: Aws, registry: Registry, name: str) -> bool:
    """Create the repository of a step's images unless it exists.

    Images are scanned on push, and those that nobody uses expire.

    Returns whether it was made.
    """
    with aws_errors(f"make the repository {name} in ECR"):
        try:
            aws.ecr.create_repository(
                registryId=registry.account,
                repositoryName=name,
                imageScanningConfiguration={"scanOnPush": True},
            )
        except ClientError as error:
            if code_of(error) != "RepositoryAlreadyExistsException":
                raise
            return False
        aws.ecr.put_lifecycle_policy(registryId=registry.account, repositoryName=name, lifecyclePolicyText=_LIFECYCLE)
    return True


def remove_repository(aws: Aws, registry: Registry, name: str) -> bool:
    """Delete a repository with its images, and return whether it existed."""
    with aws_errors(f"delete the repository {name} in ECR"):
        try:
            aws.ecr.delete_repository(registryId=registry.account, repositoryName=name, force=True)
        except ClientError as error:
            if code_of(error) != "RepositoryNotFoundException":
                raise
            return False
    return True


def find_builder(environ: Mapping[str, str] = os.environ) -> str:
    """Return the program that builds images here.

    Raises AwsError where there is none.
    """
    for name in BUILDERS:
        if shutil.which(name, path=environ.get("PATH")):
            return name
    raise AwsError(
        f"images cannot be built: none of {', '.join(BUILDERS)} is installed. Install one, or set package_type: zip in "
        "lokki.yml."
    )


@dataclass(frozen=True, slots=True)
class ImageBuilder:
    """Builds and pushes images with one of `BUILDERS`.

    The program's own output goes to stderr.
    """

    program: str
    architecture: str
    environ: Mapping[str, str]

    def log_in(self, aws: Aws, registry: Registry) -> None:
        """Log in to the registry for 12 hours.

        The token goes through a pipe, so that no process list shows it.

        https://docs.aws.amazon.com/AmazonECR/latest/userguide/registry_auth.html
        """
        with aws_errors("get a token for ECR"):
            [authorization] = aws.ecr.get_authorization_token(registryIds=[registry.account])["authorizationData"]
        user, _, password = base64.b64decode(authorization["authorizationToken"]).decode().partition(":")
        self._run(["login", "--username", user, "--password-stdin", registry.host], "log in to ECR", password)

    def build(self, image: Image, registry: Registry) -> list[str]:
        """Build an image and return its names in the registry."""
        repository = f"{registry.host}/{registry.prefix}{image.repository}"
        names = [f"{repository}:{tag}" for tag in dict.fromkeys((image.content, image.tag))]
        # Lambda takes a single image and no index of attestations, which docker's default makes of it:
        # https://docs.aws.amazon.com/lambda/latest/dg/python-image.html
        plain = ["--provenance=false"] if self.program == "docker" else []
        options = [
            "--platform",
            _PLATFORMS[self.architecture],
            *plain,
            *self._secrets(image.folder / "Dockerfile"),
            *(part for name in names for part in ("-t", name)),
        ]
        self._run(["build", *options, str(image.folder)], f"build the image of {image.step}()")
        return names

    def _secrets(self, dockerfile: Path) -> list[str]:
        """Return the option that hands a Dockerfile the user's passwords.

        None if it asks for none, or the user has none.

        https://docs.docker.com/build/building/secrets/
        """
        passwords = Path(self.environ.get("NETRC") or Path(self.environ.get("HOME", "/")) / ".netrc")
        is_wanted = f"id={NETRC} " in dockerfile.read_text("utf-8") and passwords.is_file()
        return ["--secret", f"id={NETRC},src={passwords}"] if is_wanted else []

    def push(self, name: str) -> None:
        """Push an image."""
        self._run(["push", name], f"push {name}")

    def _run(self, arguments: Sequence[str], doing: str, text: str | None = None) -> None:
        try:
            done = subprocess.run(
                [self.program, *arguments],
                env=dict(self.environ),
                input=text,
                text=True,
                stdin=subprocess.DEVNULL if text is None else None,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                check=False,
            )
        except OSError as error:
            raise AwsError(f"{self.program} could not {doing}: {error.strerror}.") from error
        if done.returncode:
            last = [line for line in done.stdout.splitlines() if line.strip()][-15:]
            output = "".join(f"\n  {line}" for line in last)
            raise AwsError(f"{self.program} could not {doing}; it said:{output}\nFix that and deploy again.")
