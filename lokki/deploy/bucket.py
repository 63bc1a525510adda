"""The bucket of a flow: whether it can be used, the packages in it, and all that a flow has there."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import batched
from pathlib import Path
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from lokki.base.quotas import KEYS_PER_DELETE
from lokki.deploy.aws import Aws, aws_errors, code_of
from lokki.errors import AwsError

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import ObjectIdentifierTypeDef

_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class Upload:
    """A file to upload, and the key that it gets."""

    key: str
    path: Path
    size: int

    @property
    def checksum(self) -> str:
        """The SHA-256 of the file in base 64, as S3 writes it.

        https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity.html
        """
        with self.path.open("rb") as file:
            return b64encode(hashlib.file_digest(file, "sha256").digest()).decode()


def check_bucket(aws: Aws, bucket: str) -> None:
    """Refuse a bucket that a deployment cannot use.

    Raises AwsError, with what to do, for one that does not exist, is not the account's or is in another region.

    Lambda takes code from buckets in its own region:
    https://docs.aws.amazon.com/lambda/latest/api/API_FunctionCode.html
    """
    with aws_errors(f"look at the bucket {bucket}"):
        try:
            region = aws.s3.head_bucket(Bucket=bucket).get("BucketRegion") or aws.region
        except ClientError as error:
            headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
            region = headers.get("x-amz-bucket-region", aws.region)
            if code_of(error) in ("404", "NoSuchBucket"):
                raise AwsError(
                    f"artifact_bucket: there is no bucket {bucket}. Make it (aws s3 mb s3://{bucket} --region "
                    f"{aws.region}), or name another in lokki.yml."
                ) from None
            if code_of(error) == "403" and region == aws.region:
                raise AwsError(
                    f"artifact_bucket: access to the bucket {bucket} is denied. It may belong to somebody else: name "
                    "another in lokki.yml, or ask for s3:ListBucket, s3:GetObject and s3:PutObject on it."
                ) from None
            if region == aws.region:
                raise
    if region != aws.region:
        raise AwsError(
            f"artifact_bucket: the bucket {bucket} is in {region} and the flow goes to {aws.region}; Lambda takes code "
            f"from its own region only. Give --region {region}, or name a bucket in {aws.region} in lokki.yml."
        )


def missing(aws: Aws, bucket: str, uploads: Iterable[Upload]) -> list[Upload]:
    """Return the files that the bucket lacks or holds with other content."""

    def is_there(upload: Upload) -> bool:
        try:
            there = client.head_object(Bucket=bucket, Key=upload.key, ChecksumMode="ENABLED")
            return there["ContentLength"] == upload.size and there.get("ChecksumSHA256") == upload.checksum
        except ClientError as error:
            if code_of(error) in ("404", "NoSuchKey"):
                return False
            raise

    client = aws.s3
    candidates = list(uploads)
    with aws_errors(f"look for packages in the bucket {bucket}"), ThreadPoolExecutor(_AT_ONCE) as pool:
        return [upload for upload, exists in zip(candidates, pool.map(is_there, candidates), strict=True) if not exists]


def upload(aws: Aws, bucket: str, uploads: Sequence[Upload]) -> None:
    """Upload files side by side, each whole or not at all.

    S3 keeps the checksum of each.

    In one request each, which S3 takes up to 5 GB: of one in parts it would keep a checksum of the parts' checksums.
    """

    def send(package: Upload) -> None:
        with package.path.open("rb") as file:
            client.put_object(
                Bucket=bucket,
                Key=package.key,
                Body=file,
                ChecksumAlgorithm="SHA256",
                ChecksumSHA256=package.checksum,
            )

    client = aws.s3
    with aws_errors(f"upload packages to the bucket {bucket}"), ThreadPoolExecutor(_AT_ONCE) as pool:
        for _ in pool.map(send, uploads):
            pass


def put_text(aws: Aws, bucket: str, key: str, content: bytes) -> str:
    """Write a small object and return its URL, as CloudFormation wants it."""
    with aws_errors(f"write to the bucket {bucket}"):
        aws.s3.put_object(Bucket=bucket, Key=key, Body=content)
    suffix = "amazonaws.com.cn" if aws.region.startswith("cn-") else "amazonaws.com"
    return f"https://{bucket}.s3.{aws.region}.{suffix}/{key}"


def stored(aws: Aws, bucket: str, prefix: str) -> tuple[int, int]:
    """Count the objects under a prefix, and their bytes.

    Returns [0, 0] for a bucket that does not exist.
    """
    with aws_errors(f"look into the bucket {bucket}"):
        sizes = [size for _, size in _versions(aws, bucket, prefix)]
    return len(sizes), sum(sizes)


def remove_all(aws: Aws, bucket: str, prefix: str) -> int:
    """Delete all objects under a prefix, with all their versions.

    Returns how many. Raises AwsError.
    """
    removed = 0
    with aws_errors(f"delete from the bucket {bucket}"):
        for batch in batched(_versions(aws, bucket, prefix), KEYS_PER_DELETE, strict=False):
            versions = [version for version, _ in batch]
            answer = aws.s3.delete_objects(Bucket=bucket, Delete={"Objects": versions, "Quiet": True})
            removed += len(versions)
            for failed in answer.get("Errors", []):
                raise AwsError(
                    f"s3://{bucket}/{failed.get('Key')} cannot be deleted: {failed.get('Message')}. Try again."
                )
    return removed


def _versions(aws: Aws, bucket: str, prefix: str) -> Iterator[tuple[ObjectIdentifierTypeDef, int]]:
    """Yield each version of each object under a prefix, and its bytes.

    Without versioning each object has one.
    """
    try:
        for page in aws.s3.get_paginator("list_object_versions").paginate(Bucket=bucket, Prefix=prefix):
            for version in page.get("Versions", []):
                yield {"Key": version["Key"], "VersionId": version["VersionId"]}, version["Size"]
            for marker in page.get("DeleteMarkers", []):
                yield {"Key": marker["Key"], "VersionId": marker["VersionId"]}, 0
    except ClientError as error:
        if code_of(error) != "NoSuchBucket":
            raise
