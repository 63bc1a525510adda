"""What IAM checks for a request to S3.

https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazons3.html,
https://docs.aws.amazon.com/AmazonS3/latest/userguide/using-with-s3-policy-actions.html
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from urllib.parse import parse_qs, unquote

from lokki.emulator.iam.policies import ANY, Need

_ARN = "arn:aws:s3:::"

# Of a bucket and of an object: the parameter of the query that names a part of it, and the end of the action's name.
_BUCKET_PARTS = {
    "accelerate": "AccelerateConfiguration",
    "acl": "BucketAcl",
    "analytics": "AnalyticsConfiguration",
    "cors": "BucketCORS",
    "encryption": "EncryptionConfiguration",
    "intelligent-tiering": "IntelligentTieringConfiguration",
    "inventory": "InventoryConfiguration",
    "lifecycle": "LifecycleConfiguration",
    "logging": "BucketLogging",
    "metrics": "MetricsConfiguration",
    "notification": "BucketNotification",
    "object-lock": "BucketObjectLockConfiguration",
    "ownershipControls": "BucketOwnershipControls",
    "policy": "BucketPolicy",
    "policyStatus": "BucketPolicyStatus",
    "publicAccessBlock": "BucketPublicAccessBlock",
    "replication": "ReplicationConfiguration",
    "requestPayment": "BucketRequestPayment",
    "tagging": "BucketTagging",
    "versioning": "BucketVersioning",
    "website": "BucketWebsite",
}
_PLAIN = {
    "attributes", "continuation-token", "delimiter", "encoding-type", "fetch-owner", "id", "key-marker", "list-type",
    "location", "marker", "max-keys", "max-parts", "max-uploads", "part-number-marker", "partnumber", "prefix",
    "restore", "select", "select-type", "start-after", "upload-id-marker", "uploadid", "uploads", "version-id-marker",
    "versionid", "versions", "x-id",
}  # fmt: skip
"""What else may stand in a query, in lower case. A request with anything else is let through."""
_OBJECT_PARTS = {
    "acl": "ObjectAcl",
    "legal-hold": "ObjectLegalHold",
    "retention": "ObjectRetention",
    "tagging": "ObjectTagging",
}
_DELETED_BY_THEIR_NAME = {"policy", "website"}
"""Parts of a bucket whose deletion is an action; that of others is authorized by the action that puts them."""


def s3_needs(
    method: str, path: str, query: str, headers: Mapping[str, str], exists: Callable[[str, str], bool]
) -> list[Need]:
    """Return what a request needs.

    * ``headers``: by their names in lower case.
    * ``exists``: whether an object is there. A missing one is told to those only who may list the bucket:
      https://docs.aws.amazon.com/AmazonS3/latest/API/API_GetObject.html#API_GetObject_Permissions
    """
    _, bucket, *rest = path.split("/", 2)
    key = rest[0] if rest else ""
    parameters = {name: values[0] for name, values in parse_qs(query, keep_blank_values=True).items()}
    if not bucket:
        return [Need("s3:ListAllMyBuckets", ANY)]
    known = _PLAIN | {part.lower() for part in (_OBJECT_PARTS if key else _BUCKET_PARTS)}
    if any(name not in known and not name.startswith(("x-amz-", "response-")) for name in map(str.lower, parameters)):
        return []
    if not key:
        return list(_bucket_needs(method, _ARN + bucket, parameters))
    needs = list(_object_needs(method, f"{_ARN}{bucket}/{key}", parameters, headers))
    reads = {"s3:GetObject", "s3:GetObjectVersion"} & {need.action for need in needs}
    if reads and method in ("GET", "HEAD") and not exists(bucket, key):
        # Whether S3 knows the prefix there is not documented; the reading that lokki's own roles were made for.
        needs.append(Need("s3:ListBucket", _ARN + bucket, key))
    return needs


def _bucket_needs(method: str, bucket: str, parameters: Mapping[str, str]) -> Iterator[Need]:
    part = next((name for name in _BUCKET_PARTS if name in parameters), "")
    prefix = parameters.get("prefix")
    match method:
        case "POST" if "delete" in parameters:
            return  # each object of the list needs a permission of its own: see `delete_needs`
        case "GET" if "location" in parameters:
            yield Need("s3:GetBucketLocation", bucket)
        case "GET" if "versions" in parameters:
            yield Need("s3:ListBucketVersions", bucket, prefix)
        case "GET" if "uploads" in parameters:
            yield Need("s3:ListBucketMultipartUploads", bucket)
        case "GET" | "PUT" if part:
            yield Need(f"s3:{method.title()}{_BUCKET_PARTS[part]}", bucket)
        case "DELETE" if part:
            yield Need(f"s3:{'Delete' if part in _DELETED_BY_THEIR_NAME else 'Put'}{_BUCKET_PARTS[part]}", bucket)
        case "GET" | "HEAD":
            yield Need("s3:ListBucket", bucket, prefix)
        case "PUT":
            yield Need("s3:CreateBucket", bucket)
        case "DELETE":
            yield Need("s3:DeleteBucket", bucket)


def _object_needs(method: str, place: str, parameters: Mapping[str, str], headers: Mapping[str, str]) -> Iterator[Need]:
    part = next((name for name in _OBJECT_PARTS if name in parameters), "")
    version = "Version" if "versionId" in parameters else ""
    match method:
        case "GET" | "PUT" | "DELETE" if part in ("acl", "tagging"):
            yield Need(f"s3:{method.title()}{_OBJECT_PARTS[part].replace('Object', f'Object{version}')}", place)
        case "GET" | "PUT" if part:
            yield Need(f"s3:{method.title()}{_OBJECT_PARTS[part]}", place)
        case "GET" if "uploadId" in parameters:
            yield Need("s3:ListMultipartUploadParts", place)
        case "GET" | "HEAD":
            yield Need(f"s3:GetObject{version}", place)
            if "attributes" in parameters:
                yield Need(f"s3:GetObject{version}Attributes", place)
        case "PUT":
            yield Need("s3:PutObject", place)
            yield from _header_needs(place, headers)
        case "POST" if "restore" in parameters:
            yield Need("s3:RestoreObject", place)
        case "POST" if "select" in parameters:
            yield Need("s3:GetObject", place)
        case "POST":
            yield Need("s3:PutObject", place)
            yield from _header_needs(place, headers)
        case "DELETE" if "uploadId" in parameters:
            yield Need("s3:AbortMultipartUpload", place)
        case "DELETE":
            yield Need(f"s3:DeleteObject{version}", place)


def _header_needs(place: str, headers: Mapping[str, str]) -> Iterator[Need]:
    """Yield what writing an object needs besides."""
    if source := headers.get("x-amz-copy-source"):
        name, _, version = unquote(source).partition("?versionId=")
        yield Need(f"s3:GetObject{'Version' if version else ''}", _ARN + name.removeprefix("/"))
    if "x-amz-tagging" in headers:
        yield Need("s3:PutObjectTagging", place)
    if "x-amz-acl" in headers or any(name.startswith("x-amz-grant-") for name in headers):
        yield Need("s3:PutObjectAcl", place)


def delete_need(bucket: str, key: str, version: str = "") -> Need:
    """Return what the deletion of one object of a list needs."""
    return Need(f"s3:DeleteObject{'Version' if version else ''}", f"{_ARN}{bucket}/{key}")
