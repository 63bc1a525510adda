"""How functions in a network of the account reach S3, where all that steps hand on lies."""

from __future__ import annotations

from collections.abc import Iterable

from lokki.config import VpcConfig
from lokki.deploy.aws import Aws, aws_errors
from lokki.errors import AwsError

_IN_USE = ("available", "pending", "pendingAcceptance", "Available", "Pending", "PendingAcceptance")
"""States of endpoints that are there or will be; pages and answers differ in their case."""


def describe_way_to_s3(aws: Aws, vpc: VpcConfig) -> str:
    """Say what is missing for functions in a VPC to reach S3, or "".

    A function in a VPC has no way to the internet of its own. S3 is reached by an endpoint of the VPC, of which a
    gateway costs nothing, or by a NAT gateway, which costs by the gigabyte:
    https://docs.aws.amazon.com/vpc/latest/privatelink/vpc-endpoints-s3.html
    """
    if not vpc.subnets:
        return ""
    try:
        networks, with_endpoint = _networks(aws, vpc.subnets)
    except AwsError as error:
        return (
            "steps run in a VPC, which must have a way to S3, such as a gateway endpoint; it could not be looked at "
            f"(ec2:DescribeSubnets, ec2:DescribeVpcEndpoints): {error}"
        )
    missing = sorted(networks - with_endpoint)
    if not missing:
        return ""
    service = f"com.amazonaws.{aws.region}.s3"
    return (
        f"warning: {', '.join(missing)} has no endpoint for S3: without a NAT gateway every step times out, and with "
        f"one all that steps hand on costs by the gigabyte. Make a gateway endpoint for {service}, which is free"
    )


def _networks(aws: Aws, subnets: Iterable[str]) -> tuple[set[str], set[str]]:
    """Return the VPCs of subnets, and those of them with an endpoint for S3.

    https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeVpcEndpoints.html
    """
    with aws_errors("look at the VPC of the steps"):
        described = aws.ec2.describe_subnets(SubnetIds=[*subnets])["Subnets"]
        networks = {subnet["VpcId"] for subnet in described}
        endpoints = aws.ec2.describe_vpc_endpoints(Filters=[{"Name": "vpc-id", "Values": sorted(networks)}])
    # Names differ by partition: com.amazonaws.eu-north-1.s3, cn.com.amazonaws.cn-north-1.s3.
    of_s3 = [endpoint for endpoint in endpoints["VpcEndpoints"] if endpoint["ServiceName"].endswith(".s3")]
    return networks, {endpoint["VpcId"] for endpoint in of_s3 if endpoint["State"] in _IN_USE}
