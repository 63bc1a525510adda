"""One AWS account and region through boto3, and its errors as lines that say what to do."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Final

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    HTTPClientError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    SSOError,
    TokenRetrievalError,
)
from botocore.exceptions import ConnectionError as UnreachableError

from lokki.errors import AwsError

if TYPE_CHECKING:
    from mypy_boto3_cloudformation import CloudFormationClient
    from mypy_boto3_ec2 import EC2Client
    from mypy_boto3_ecr import ECRClient
    from mypy_boto3_iam import IAMClient
    from mypy_boto3_lambda import LambdaClient
    from mypy_boto3_logs import CloudWatchLogsClient
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_stepfunctions import SFNClient
    from mypy_boto3_sts import STSClient

ATTEMPTS = 8
"""How often a call is tried that AWS throttles or fails, with exponential backoff and jitter in between.
https://docs.aws.amazon.com/sdkref/latest/guide/feature-retry-behavior.html"""

_EXPIRED: Final = frozenset(
    {"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired", "UnauthorizedException"}
)
_UNKNOWN: Final = frozenset(
    {
        "AuthFailure", "IncompleteSignature", "InvalidAccessKeyId", "InvalidClientTokenId", "InvalidSignatureException",
        "InvalidToken", "MissingAuthenticationToken", "SignatureDoesNotMatch", "UnrecognizedClientException",
    }
)  # fmt: skip
_DENIED: Final = frozenset(
    {"403", "AccessDenied", "AccessDeniedException", "Forbidden", "NotAuthorized", "UnauthorizedOperation"}
)
_THROTTLED: Final = frozenset(
    {
        "LimitExceededException", "PriorRequestNotComplete", "RequestLimitExceeded", "RequestThrottled", "SlowDown",
        "ThrottledException", "Throttling", "ThrottlingException", "TooManyRequestsException",
    }
)  # fmt: skip
"""The names that services have for the four kinds of errors that any call may end with.
https://docs.aws.amazon.com/AWSCloudFormation/latest/APIReference/CommonErrors.html"""

_WHO_MAY_NOT: Final = re.compile(
    r"User: (?P<who>\S+) is not authorized to perform: (?P<action>[\w-]+:\w+)(?: on resource: (?P<what>\S+))?"
)

LOG_IN: Final = "sign in again (aws sso login), or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"


class Aws:
    """Clients for the services of one account in one region.

    Calls that AWS throttles are retried with jitter.

    Clients are made when they are first used, which takes a tenth of a second each, and kept.
    """

    def __init__(self, session: boto3.session.Session, region: str) -> None:
        self.session = session
        self.region = region

    @cached_property
    def cloudformation(self) -> CloudFormationClient:
        """The client of CloudFormation."""
        return self.session.client("cloudformation", region_name=self.region, config=_config())

    @cached_property
    def ec2(self) -> EC2Client:
        """The client of EC2, for networks."""
        return self.session.client("ec2", region_name=self.region, config=_config())

    @cached_property
    def ecr(self) -> ECRClient:
        """The client of the registry of images."""
        return self.session.client("ecr", region_name=self.region, config=_config())

    @cached_property
    def functions(self) -> LambdaClient:
        """The client of Lambda."""
        return self.session.client("lambda", region_name=self.region, config=_config())

    @cached_property
    def iam(self) -> IAMClient:
        """The client of IAM."""
        return self.session.client("iam", region_name=self.region, config=_config())

    @cached_property
    def logs(self) -> CloudWatchLogsClient:
        """The client of CloudWatch Logs."""
        return self.session.client("logs", region_name=self.region, config=_config())

    @cached_property
    def s3(self) -> S3Client:
        """The client of S3."""
        return self.session.client("s3", region_name=self.region, config=_config())

    @cached_property
    def states(self) -> SFNClient:
        """The client of Step Functions."""
        return self.session.client("stepfunctions", region_name=self.region, config=_config())

    @cached_property
    def sts(self) -> STSClient:
        """The client that tells who calls."""
        return self.session.client("sts", region_name=self.region, config=_config())

    def environ(self, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
        """Return the environment with this session's keys and region in it.

        For `lokki.store.s3`.

        So whatever boto3 can log in with (SSO, an assumed role) serves for reading results too. Raises AwsError.
        """
        with aws_errors("log in"):
            credentials = self.session.get_credentials()
            if credentials is None:
                raise NoCredentialsError
            keys = credentials.get_frozen_credentials()
        variables = {
            "AWS_ACCESS_KEY_ID": keys.access_key or "",
            "AWS_SECRET_ACCESS_KEY": keys.secret_key or "",
            "AWS_REGION": self.region,
        }
        rest = {name: value for name, value in environ.items() if name not in ("AWS_SESSION_TOKEN", "AWS_PROFILE")}
        return rest | variables | ({"AWS_SESSION_TOKEN": keys.token} if keys.token else {})


def connect(region: str | None = None, environ: Mapping[str, str] = os.environ) -> Aws:
    """Return the account that the environment names, without any call.

    It is that of the environment's keys, of a profile or of the machine's role.

    ``region``: default ``AWS_REGION``, ``AWS_DEFAULT_REGION`` or the profile's. ``AWS_ENDPOINT_URL`` is honoured, by
    boto3 itself. Raises AwsError when there is no region or the profile is not there.
    """
    with aws_errors("log in"):
        session = boto3.session.Session()
        chosen = region or environ.get("AWS_REGION") or session.region_name
    if not chosen:
        raise AwsError("no region is set: give --region, or set AWS_REGION, such as eu-north-1.")
    return Aws(session, chosen)


@contextmanager
def aws_errors(doing: str) -> Iterator[None]:
    """Translate what boto3 raises into AwsError.

    ``doing``: what was to be done, as in "lokki could not <doing>".
    """
    try:
        yield
    except (ClientError, BotoCoreError) as error:
        raise AwsError(explained(error, doing)) from error


def code_of(error: ClientError) -> str:
    """Return the name that a service gives an error, as `AccessDenied`."""
    return str(error.response.get("Error", {}).get("Code", ""))


def message_of(error: ClientError) -> str:
    """Return what the service says about an error."""
    return str(error.response.get("Error", {}).get("Message", "")).strip()


def explained(error: ClientError | BotoCoreError, doing: str) -> str:
    """Return one line that says what happened and what to do."""
    if isinstance(error, ClientError):
        return _refused(error, doing)
    match error:
        case NoCredentialsError() | PartialCredentialsError():
            return f"there are no AWS credentials: {LOG_IN}."
        case ProfileNotFound():
            return f"{error}. AWS_PROFILE must name a profile of ~/.aws/config."
        case CredentialRetrievalError() | TokenRetrievalError() | SSOError():
            return f"the AWS credentials cannot be read: {_sentence(str(error))} To continue, {LOG_IN}."
        case UnreachableError() | HTTPClientError():
            return f"AWS cannot be reached to {doing}: {_sentence(str(error))} Check the network and AWS_ENDPOINT_URL."
        case _:
            return f"could not {doing}: {_sentence(str(error))}"


def _refused(error: ClientError, doing: str) -> str:
    code, message = code_of(error), message_of(error)
    if code in _EXPIRED:
        return f"the AWS credentials have expired: {LOG_IN}."
    if code in _UNKNOWN:
        return f"AWS does not know the credentials, or not in this account or region ({code}): {LOG_IN}."
    if code in _DENIED:
        return _denied(error, doing, message)
    if code in _THROTTLED:
        return (
            f"AWS throttles the account's calls; could not {doing} in {ATTEMPTS} tries. Wait a minute and do it again."
        )
    return f"could not {doing}: {_sentence(message or code)}"


def _denied(error: ClientError, doing: str, message: str) -> str:
    denial = _WHO_MAY_NOT.search(message)
    if denial is None:
        action = error.operation_name
        return f"access is denied to {doing} ({action}): ask the account's administrator for this permission."
    on = f" on {denial['what'].rstrip('.,')}" if denial["what"] else ""
    return f"{denial['who']} may not {denial['action']}{on}, to {doing}: ask the account's administrator for it."


def _sentence(text: str) -> str:
    text = " ".join(text.split())
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _config() -> Config:
    """Return how calls are made and retried.

    Standard retries wait with exponential backoff and jitter, never in a hot loop.
    """
    return Config(
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        connect_timeout=10,
        read_timeout=60,
        user_agent_extra="lokki",
    )
