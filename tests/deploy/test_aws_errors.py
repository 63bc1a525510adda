"""What AWS and boto3 may answer to any call, as the one line that the user reads."""

import pytest
from aws.moto_server import Aws as Server
from botocore.exceptions import (
    ClientError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    EndpointConnectionError,
    NoCredentialsError,
    ProfileNotFound,
    UnauthorizedSSOTokenError,
)
from support.golden import compare

from lokki.deploy.aws import aws_errors, connect
from lokki.errors import AwsError

WHO = "arn:aws:sts::123456789012:assumed-role/dev/anna"


def refused(code: str, message: str = "", operation: str = "CreateChangeSet") -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": message}}, operation)


ERRORS = (
    NoCredentialsError(),
    ProfileNotFound(profile="work"),
    UnauthorizedSSOTokenError(),
    CredentialRetrievalError(provider="custom-process", error_msg="exit 1"),
    EndpointConnectionError(endpoint_url="http://127.0.0.1:9"),
    ConnectTimeoutError(endpoint_url="http://127.0.0.1:9"),
    refused("ExpiredToken", "The security token included in the request is expired"),
    refused("ExpiredTokenException"),
    refused("InvalidClientTokenId", "The security token included in the request is invalid."),
    refused(
        "AccessDenied",
        f"User: {WHO} is not authorized to perform: cloudformation:CreateChangeSet on resource: "
        "arn:aws:cloudformation:eu-north-1:123456789012:stack/birds/* because no identity-based policy allows the "
        "cloudformation:CreateChangeSet action",
    ),
    refused("AccessDenied", "Access Denied", "PutObject"),
    refused("ThrottlingException", "Rate exceeded"),
    refused("ValidationError", "Template error: instance of Fn::GetAtt\n references undefined resource X"),
    refused("InternalFailure"),
)


def line_of(error: Exception) -> str:
    with pytest.raises(AwsError) as caught, aws_errors("plan the stack birds"):
        raise error
    assert caught.value.__cause__ is error
    return str(caught.value)


def test_an_error_is_one_line_that_says_what_to_do(update_golden: bool) -> None:
    lines = [f"{type(error).__name__}: {line_of(error)}\n" for error in ERRORS]
    assert all(line.count("\n") == 1 for line in lines)
    compare("aws-errors.txt", "".join(lines), update_golden)


def test_without_credentials_the_first_call_says_so(monkeypatch: pytest.MonkeyPatch, clean: None) -> None:
    with pytest.raises(AwsError, match=r"^there are no AWS credentials: sign in again"), aws_errors("ask who you are"):
        connect("us-east-1").sts.get_caller_identity()
    with pytest.raises(AwsError, match=r"^there are no AWS credentials"):
        connect("us-east-1").environ()


def test_a_region_must_be_known(monkeypatch: pytest.MonkeyPatch, clean: None) -> None:
    with pytest.raises(AwsError) as caught:
        connect()
    assert str(caught.value) == "no region is set: give --region, or set AWS_REGION, such as eu-north-1."
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-north-1")
    assert connect().region == "eu-north-1"
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    assert (connect().region, connect("us-east-1").region) == ("eu-west-1", "us-east-1")


def test_a_profile_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch, clean: None) -> None:
    monkeypatch.setenv("AWS_PROFILE", "work")
    with pytest.raises(AwsError, match=r"^The config profile \(work\) could not be found\. AWS_PROFILE must name"):
        connect()


def test_stores_get_the_keys_that_boto3_found(aws: Server, monkeypatch: pytest.MonkeyPatch, clean: None) -> None:
    for name, value in aws.environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token")
    given = {"AWS_PROFILE": "work", "AWS_ENDPOINT_URL": aws.endpoint, "OTHER": "kept"}
    assert connect().environ(given) == {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_SESSION_TOKEN": "token",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": aws.endpoint,
        "OTHER": "kept",
    }


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """An environment that says nothing of AWS."""
    nowhere = str(tmp_path_factory.mktemp("aws") / "none")
    for name in (
        "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_REGION",
        "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL",
    ):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, nowhere)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
