"""Which settings a build needs, and which texts in them AWS would refuse in the middle of a deployment."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

from lokki.base import quotas
from lokki.base.access import (
    Allow,
    Permission,
    Read,
    Write,
    action_problem,
    layer_problem,
    resource_problem,
    url_problem,
)
from lokki.config import LokkiConfig, PermissionsConfig
from lokki.errors import ConfigError

# docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html
_BUCKET = r"(?!.*\.\.)(?![0-9]+\.[0-9]+\.[0-9]+\.[0-9]+$)[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]"
_BUCKET_IS = "the name of an S3 bucket has 3 to 63 of a-z, 0-9, '-' and '.', no s3:// and no path"

# docs.aws.amazon.com/AmazonECR/latest/APIReference/API_CreateRepository.html
_REGISTRY = r"[a-z0-9][a-z0-9.-]*(:[0-9]+)?(/[a-z0-9]+([._-][a-z0-9]+)*)*"
_REGISTRY_IS = "it is a registry and how repositories in it begin: lower case, no https://, no '/' at the end"

# docs.docker.com/reference/cli/docker/image/tag
_IMAGE_TAG = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_IMAGE_TAG_IS = "the tag of an image has 1 to 128 letters, digits, '_', '.' and '-'"

# docs.aws.amazon.com/IAM/latest/UserGuide/reference_identifiers.html
_ROLE = r"arn:[a-z-]+:iam::[0-9]+:role/.+"
_ROLE_IS = "the ARN of a role is arn:aws:iam::<account>:role/<name>"

_BOUNDARY = r"arn:[a-z-]+:iam::([0-9]+|aws):policy/.+"
_BOUNDARY_IS = "the ARN of a managed policy is arn:aws:iam::<account>:policy/<name>"

# docs.aws.amazon.com/kms/latest/developerguide/concepts.html#key-id-key-ARN: policies take no aliases
_KEY = r"arn:[a-z-]+:kms:[a-z0-9-]+:[0-9]+:key/[A-Za-z0-9-]+"
_KEY_IS = "the ARN of a key is arn:aws:kms:<region>:<account>:key/<id>; an alias is not taken"

# docs.aws.amazon.com/AWSEC2/latest/UserGuide/resource-ids.html, as CloudFormation's types of parameters check them
_SUBNET = r"subnet-([0-9a-f]{8}|[0-9a-f]{17})"
_SUBNET_IS = "the id of a subnet is subnet- and 8 or 17 of 0-9 and a-f"
_SECURITY_GROUP = r"sg-([0-9a-f]{8}|[0-9a-f]{17})"
_SECURITY_GROUP_IS = "the id of a security group is sg- and 8 or 17 of 0-9 and a-f"

# docs.aws.amazon.com/tag-editor/latest/userguide/best-practices-and-strats.html
_TAG_KEY = r"(?!(?i:aws:))[\w .:/=+@-]{1,128}"
_TAG_KEY_IS = "the name of a tag has 1 to 128 letters, digits, spaces and _.:/=+-@, and does not begin with aws:"
_TAG_VALUE = r"[\w .:/=+@-]{0,256}"
_TAG_VALUE_IS = "the value of a tag has at most 256 letters, digits, spaces and _.:/=+-@"

# A webhook's URL may stand in Secrets Manager or Parameter Store, from where CloudFormation reads it:
# docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/dynamic-references.html
_DESTINATION = (
    r"[A-Za-z0-9.!#%&'*+/=?^_`{|}~-]+@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+|arn:[a-z-]+:sns:[a-z0-9-]+:[0-9]{12}:[A-Za-z0-9_-]{1,256}"
    r"|https://[^\s$<>\"\\^`{|}]+|\{\{resolve:(ssm|secretsmanager):[^\s{}]+\}\}"
)
_DESTINATION_IS = (
    "give an e-mail address, the ARN of an SNS topic that is no FIFO topic, or the https:// URL of a webhook, which "
    "may be {{resolve:secretsmanager:<name>}}"
)


def check_settings(config: LokkiConfig) -> None:
    """Raise ConfigError for settings with which nothing can be built.

    It has the line to add to lokki.yml for a setting that is missing, or a line for each wrong text.
    """
    if not config.artifact_bucket:
        raise ConfigError(
            "artifact_bucket is not set: a deployed flow needs an S3 bucket for its code and for what steps hand on. "
            "Make one with lokki bootstrap, which deploy then uses by itself, or add this line to lokki.yml, with a "
            "bucket of yours:\nartifact_bucket: my-bucket"
        )
    if config.packages == "image" and not config.ecr_repo_prefix:
        raise ConfigError(
            "ecr_repo_prefix is not set: image packages need a registry. Add this line to lokki.yml, with yours (or "
            "package_type: zip):\necr_repo_prefix: 123456789012.dkr.ecr.eu-north-1.amazonaws.com/my-team"
        )
    if config.packages == "image" and config.lambda_defaults.snap_start:
        raise ConfigError(
            "lambda_defaults.snap_start is for zip packages, and these are images. "
            "Set package_type: zip in lokki.yml, or remove snap_start."
        )
    if config.packages == "image" and config.lambda_defaults.layers:
        raise ConfigError(
            "lambda_defaults.layers is for zip packages, and these are images. "
            "Put what they hold into the image, or set package_type: zip in lokki.yml."
        )
    wrong = [
        f"{setting}: {text!r} is not valid: {form_is}."
        for setting, text, form, form_is in _texts(config)
        if not re.fullmatch(form, text)
    ]
    wrong += _permission_problems(config.lambda_defaults.permissions)
    wrong += _account_problems(config)
    if wrong:
        raise ConfigError("\n".join([*wrong, "Correct lokki.yml, or the variable that sets it."]))


def check_retention(config: LokkiConfig, timeout: float | None) -> None:
    """Raise ConfigError for results that would go while a run needs them.

    A run can be redriven for some days after its end, and then reads what it wrote first. ``timeout``: how many seconds
    a run may take, None where nobody says.
    """
    least = quotas.REDRIVE_DAYS + math.ceil((timeout or 0.0) / 86_400)
    if config.retention and config.retention < least:
        raise ConfigError(
            f"retention: {config.retention} days are too few: a run takes up to {timeout:g} s (@flow(timeout=…)) and "
            f"can be redriven for {quotas.REDRIVE_DAYS} days after that. Set {least} or more."
        )


def default_permissions(config: LokkiConfig) -> tuple[Permission, ...]:
    """Return what all steps may do beside what each says itself.

    The settings were checked.
    """
    permissions = config.lambda_defaults.permissions
    allowed = (Allow(action, *resources) for action, resources in permissions.allow.items() if resources)
    return (*map(Read, permissions.read), *map(Write, permissions.write), *allowed)


def _permission_problems(permissions: PermissionsConfig) -> Iterator[str]:
    place = "lambda_defaults.permissions"
    for name, urls in (("read", permissions.read), ("write", permissions.write)):
        for url in urls:
            if problem := url_problem(url):
                yield f"{place}.{name}: {url!r} is not valid: {problem}."
    for action, resources in permissions.allow.items():
        for problem in filter(None, (action_problem(action), *map(resource_problem, resources))):
            yield f"{place}.allow: {problem}."


def _account_problems(config: LokkiConfig) -> Iterator[str]:
    """Yield what is wrong with settings that an account asks for."""
    vpc = config.lambda_defaults.vpc
    for layer in config.lambda_defaults.layers:
        if problem := layer_problem(layer):
            yield f"lambda_defaults.layers: {layer!r} is not valid: {problem}."
    if bool(vpc.subnets) != bool(vpc.security_groups):
        missing = "security_groups" if vpc.subnets else "subnets"
        yield f"lambda_defaults.vpc.{missing}: is empty: a function in a VPC has subnets and security groups."
    if config.encrypt and not config.kms_key:
        yield f"encrypt: {', '.join(config.encrypt)} with which key? Set kms_key to the ARN of one."


def _texts(config: LokkiConfig) -> Iterator[tuple[str, str, str, str]]:
    """Yield the texts of the settings and what form each must have.

    Each is the name of the setting, the text, the pattern of its form and the form in words.
    """
    yield "artifact_bucket", config.artifact_bucket, _BUCKET, _BUCKET_IS
    if config.packages == "image":
        yield "ecr_repo_prefix", config.ecr_repo_prefix, _REGISTRY, _REGISTRY_IS
        yield "lambda_defaults.image_tag", config.lambda_defaults.image_tag, _IMAGE_TAG, _IMAGE_TAG_IS
    for name, role in (("pipeline", config.roles.pipeline), ("lambda", config.roles.lambda_)):
        if role:
            yield f"roles.{name}", role, _ROLE, _ROLE_IS
    if config.permissions_boundary:
        yield "permissions_boundary", config.permissions_boundary, _BOUNDARY, _BOUNDARY_IS
    if config.kms_key:
        yield "kms_key", config.kms_key, _KEY, _KEY_IS
    for name, destinations in (("failed", config.notify.failed), ("succeeded", config.notify.succeeded)):
        for destination in destinations:
            yield f"notify.{name}", destination, _DESTINATION, _DESTINATION_IS
    vpc = config.lambda_defaults.vpc
    for subnet in vpc.subnets:
        yield "lambda_defaults.vpc.subnets", subnet, _SUBNET, _SUBNET_IS
    for group in vpc.security_groups:
        yield "lambda_defaults.vpc.security_groups", group, _SECURITY_GROUP, _SECURITY_GROUP_IS
    for key, value in config.tags.items():
        yield "tags", key, _TAG_KEY, _TAG_KEY_IS
        yield f"tags.{key}", value, _TAG_VALUE, _TAG_VALUE_IS
