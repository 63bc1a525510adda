"""How long results of a flow's runs stay: one lifecycle rule for each flow, on the bucket that lokki makes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lokki.config import LokkiConfig
from lokki.deploy.aws import Aws, aws_errors
from lokki.deploy.own_bucket import bucket_name, read_lifecycle, write_lifecycle
from lokki.deploy.stack import Notify
from lokki.errors import AwsError

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import LifecycleRuleOutputTypeDef

    from lokki.deploy.own_bucket import Rule


@dataclass(frozen=True, slots=True)
class Retention:
    """A change of how long the results of a flow stay.

    - ``owner``: the account that the bucket must belong to
    - ``days``: 0 for results that stay for good
    """

    bucket: str
    owner: str
    flow: str
    days: int

    @property
    def description(self) -> str:
        """What the change does, in words."""
        place = f"s3://{self.bucket}/{results_prefix(self.flow)}"
        if self.days:
            return f"objects below {place} are deleted {self.days} days after they were written"
        return f"objects below {place} are no longer deleted after some days"


def results_prefix(flow: str) -> str:
    """Return where the results of a flow lie, and nothing else.

    Packages lie below ``lokki-packages/``, which no rule of lokki's names.
    """
    return f"lokki/{flow}/"


def plan_retention(aws: Aws, config: LokkiConfig, flow: str, account: str) -> Retention | None:
    """Compare the settings with the rules of lokki's own bucket.

    Returns None where nothing is to change, and for a bucket of the user's. Raises AwsError where the rules cannot be
    read and the settings want one.
    """
    bucket = config.artifact_bucket
    if bucket != bucket_name(account, aws.region):
        return None
    try:
        days = _days_of(flow, read_lifecycle(aws, bucket, account))
    except AwsError:
        if config.retention:
            raise
        return None  # whoever deploys may not be allowed to look
    return None if days == config.retention else Retention(bucket, account, flow, config.retention)


def describe_rule_to_add(aws: Aws, config: LokkiConfig, flow: str, account: str) -> list[str]:
    """Describe the rule that a bucket of the user's needs."""
    bucket = config.artifact_bucket
    if not config.retention or bucket == bucket_name(account, aws.region):
        return []
    line = (
        f"  retention: {bucket} is your own bucket, which lokki does not change: give it a lifecycle rule that expires "
        f"objects with the prefix {results_prefix(flow)} after {config.retention} days"
    )
    return [line]


def set_retention(aws: Aws, retention: Retention, tell: Notify) -> None:
    """Write the rule of a flow; those of others stay as they are."""
    bucket, owner = retention.bucket, retention.owner
    rules: list[Rule] = [
        rule for rule in read_lifecycle(aws, bucket, owner) if rule.get("ID") != _rule_id(retention.flow)
    ]
    if retention.days:
        rules.append(
            {
                "ID": _rule_id(retention.flow),
                "Status": "Enabled",
                "Filter": {"Prefix": results_prefix(retention.flow)},
                "Expiration": {"Days": retention.days},
            }
        )
    write_lifecycle(aws, bucket, owner, rules)
    tell(retention.description)


def end_retention(aws: Aws, bucket: str, flow: str, tell: Notify) -> None:
    """Remove the rule of a flow that goes, so that what is left of it stays."""
    with aws_errors("ask who you are"):
        account = aws.sts.get_caller_identity()["Account"]
    if bucket != bucket_name(account, aws.region):
        return
    try:
        days = _days_of(flow, read_lifecycle(aws, bucket, account))
    except AwsError as error:
        tell(f"  a rule that deletes results of {flow} may be left: {error}")
        return
    if days:
        set_retention(aws, Retention(bucket, account, flow, 0), tell)


def _rule_id(flow: str) -> str:
    return f"lokki-results-{flow}"


def _days_of(flow: str, rules: list[LifecycleRuleOutputTypeDef]) -> int:
    for rule in rules:
        if rule.get("ID") == _rule_id(flow) and rule["Status"] == "Enabled":
            return rule.get("Expiration", {}).get("Days", 0)
    return 0
