"""The bucket that lokki makes for an account and a region, for users who name none: found by its name alone."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from botocore.exceptions import ClientError

from lokki.config import LokkiConfig
from lokki.deploy.aws import Aws, aws_errors, code_of
from lokki.deploy.stack import Notify
from lokki.errors import AwsError

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import (
        CreateBucketRequestTypeDef,
        LifecycleRuleOutputTypeDef,
        LifecycleRuleTypeDef,
        PublicAccessBlockConfigurationTypeDef,
    )

    type Rule = LifecycleRuleTypeDef | LifecycleRuleOutputTypeDef

_WITHOUT_NAMESPACES: Final = frozenset({"me-south-1", "me-central-1"})
"""Regions in which an account has no names of buckets to itself.
https://docs.aws.amazon.com/AmazonS3/latest/userguide/gpbucketnamespaces.html"""

_DAYS_OF_UPLOADS: Final = 7

KEY_ARN: Final = re.compile(r"arn:[a-z-]+:kms:[a-z0-9-]+:[0-9]+:key/[A-Za-z0-9-]+")
"""What a policy takes for a key: https://docs.aws.amazon.com/kms/latest/developerguide/key-policy-overview.html"""

_ALL_BLOCKED: Final[PublicAccessBlockConfigurationTypeDef] = {
    "BlockPublicAcls": True,
    "BlockPublicPolicy": True,
    "IgnorePublicAcls": True,
    "RestrictPublicBuckets": True,
}
"""https://docs.aws.amazon.com/AmazonS3/latest/userguide/access-control-block-public-access.html"""

_UNFINISHED_UPLOADS: Final[LifecycleRuleTypeDef] = {
    "ID": "lokki-unfinished-uploads",
    "Status": "Enabled",
    "Filter": {"Prefix": ""},
    "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": _DAYS_OF_UPLOADS},
}
"""Parts of uploads that were never finished cost as objects do, and no list of objects shows them.
https://docs.aws.amazon.com/AmazonS3/latest/userguide/mpu-abort-incomplete-mpu-lifecycle-config.html"""


@dataclass(frozen=True, slots=True)
class OwnBucket:
    """The bucket of lokki's own in an account and region.

    ``exists``: whether it has been created.
    """

    name: str
    account: str
    region: str
    exists: bool

    @property
    def has_namespace(self) -> bool:
        """Whether nobody but the account can ever have a bucket of this name."""
        return self.region not in _WITHOUT_NAMESPACES


def bucket_name(account: str, region: str) -> str:
    """Return the name of the bucket that lokki makes.

    >>> bucket_name("123456789012", "eu-north-1"), bucket_name("123456789012", "me-south-1")
    ('lokki-123456789012-eu-north-1-an', 'lokki-123456789012-me-south-1')
    """
    return f"lokki-{account}-{region}{'' if region in _WITHOUT_NAMESPACES else '-an'}"


def find_own_bucket(aws: Aws) -> OwnBucket:
    """Look for lokki's own bucket.

    Raises AwsError for one of that name that belongs to somebody else.
    """
    with aws_errors("ask who you are"):
        account = aws.sts.get_caller_identity()["Account"]
    name = bucket_name(account, aws.region)
    with aws_errors(f"look at the bucket {name}"):
        try:
            aws.s3.head_bucket(Bucket=name, ExpectedBucketOwner=account)
        except ClientError as error:
            if code_of(error) in ("404", "NoSuchBucket"):
                return OwnBucket(name, account, aws.region, exists=False)
            if code_of(error) == "403":
                raise AwsError(
                    f"the bucket {name} is not this account's, or access to it is denied. Name one in lokki.yml: "
                    "artifact_bucket: my-bucket"
                ) from None
            raise
    return OwnBucket(name, account, aws.region, exists=True)


def with_bucket(aws: Aws, config: LokkiConfig, bootstrap: str = "lokki bootstrap") -> LokkiConfig:
    """Return settings that name a bucket.

    Their own, else the one that `bootstrap` created.

    Raises AwsError, with both ways to have one, where there is none.
    """
    if config.artifact_bucket:
        return config
    own = find_own_bucket(aws)
    if not own.exists:
        raise AwsError(
            f"there is no bucket for the flow's code and results: make one with: {bootstrap} --region {aws.region}, or "
            "name one in lokki.yml: artifact_bucket: my-bucket"
        )
    return replace(config, artifact_bucket=own.name)


def bucket_key(aws: Aws, bucket: str) -> str:
    """Return the customer's key under which a bucket encrypts.

    Its ARN or id, "" where the key is S3's own.

    https://docs.aws.amazon.com/AmazonS3/latest/userguide/UsingKMSEncryption.html
    """
    with aws_errors(f"read the encryption of the bucket {bucket}"):
        try:
            rules = aws.s3.get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"]["Rules"]
        except ClientError as error:
            if code_of(error) == "ServerSideEncryptionConfigurationNotFoundError":
                return ""
            raise
    defaults = [rule.get("ApplyServerSideEncryptionByDefault", {}) for rule in rules]
    return next((default["KMSMasterKeyID"] for default in defaults if "KMSMasterKeyID" in default), "")


def with_key(aws: Aws, config: LokkiConfig, tell: Notify) -> LokkiConfig:
    """Return settings that name the customer's key of the bucket.

    Steps must be allowed to use it, if the bucket has one.

    A key that policies cannot name (an id, an alias, one that AWS manages) is left to the setting ``kms_key``.
    """
    if config.kms_key:
        return config
    try:
        key = bucket_key(aws, config.artifact_bucket)
    except AwsError:
        return config  # whoever deploys may not be allowed to look; doctor says so
    if not KEY_ARN.fullmatch(key):
        return config
    tell(f"the bucket {config.artifact_bucket} encrypts by {key}, which the roles may use")
    return replace(config, kms_key=key)


def make_bucket(aws: Aws, bucket: OwnBucket, tell: Notify) -> None:
    """Create the bucket if it does not exist, and set it up.

    Doing it again changes nothing.
    """
    if not bucket.exists:
        request: CreateBucketRequestTypeDef = {"Bucket": bucket.name}
        if bucket.has_namespace:
            request["BucketNamespace"] = "account-regional"
        if aws.region != "us-east-1":  # which has no such constraint: API_CreateBucket
            request["CreateBucketConfiguration"] = {"LocationConstraint": aws.region}  # type: ignore[typeddict-item]
        with aws_errors(f"make the bucket {bucket.name}"):
            aws.s3.create_bucket(**request)
        tell(f"made the bucket {bucket.name}")
    owner = bucket.account
    with aws_errors(f"set up the bucket {bucket.name}"):
        aws.s3.put_public_access_block(
            Bucket=bucket.name, ExpectedBucketOwner=owner, PublicAccessBlockConfiguration=_ALL_BLOCKED
        )
        policy = json.dumps(_only_by_tls(bucket.name, aws.session.get_partition_for_region(aws.region)))
        aws.s3.put_bucket_policy(Bucket=bucket.name, ExpectedBucketOwner=owner, Policy=policy)
    # The rules of flows with a retention stay: a bootstrap done again must not undo them.
    others: list[Rule] = [
        rule for rule in read_lifecycle(aws, bucket.name, owner) if rule.get("ID") != _UNFINISHED_UPLOADS["ID"]
    ]
    write_lifecycle(aws, bucket.name, owner, [_UNFINISHED_UPLOADS, *others])
    tell("set up: no public access, TLS only, unfinished uploads removed after 7 days")


def read_lifecycle(aws: Aws, bucket: str, owner: str) -> list[LifecycleRuleOutputTypeDef]:
    """Return the lifecycle rules of a bucket.

    https://docs.aws.amazon.com/AmazonS3/latest/API/API_GetBucketLifecycleConfiguration.html
    """
    with aws_errors(f"read the lifecycle rules of the bucket {bucket}"):
        try:
            return aws.s3.get_bucket_lifecycle_configuration(Bucket=bucket, ExpectedBucketOwner=owner)["Rules"]
        except ClientError as error:
            if code_of(error) == "NoSuchLifecycleConfiguration":
                return []
            raise


def write_lifecycle(aws: Aws, bucket: str, owner: str, rules: list[Rule]) -> None:
    """Replace all lifecycle rules of a bucket.

    No rules at all are no configuration, which is deleted instead.

    https://docs.aws.amazon.com/AmazonS3/latest/API/API_PutBucketLifecycleConfiguration.html
    """
    with aws_errors(f"write the lifecycle rules of the bucket {bucket}"):
        if rules:
            aws.s3.put_bucket_lifecycle_configuration(
                Bucket=bucket, ExpectedBucketOwner=owner, LifecycleConfiguration={"Rules": rules}
            )
        else:
            aws.s3.delete_bucket_lifecycle(Bucket=bucket, ExpectedBucketOwner=owner)


def _only_by_tls(name: str, partition: str) -> dict[str, object]:
    """Return a policy that refuses what is not encrypted on its way.

    https://docs.aws.amazon.com/AmazonS3/latest/userguide/example-bucket-policies.html
    """
    arn = f"arn:{partition}:s3:::{name}"
    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": "OnlyByTls",
                "Effect": "Deny",
                "Principal": "*",
                "Action": "s3:*",
                "Resource": [arn, f"{arn}/*"],
                "Condition": {"Bool": {"aws:SecureTransport": "false"}},
            }
        ],
    }
