"""Deploying a flow: a plan against what is there, as a value, and doing what it says."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import yaml
from botocore.config import Config

from lokki.base.quotas import CHILDREN_AT_ONCE, NEW_ACCOUNT_FUNCTIONS, TEMPLATE_BODY_BYTES
from lokki.base.values import Json
from lokki.builder.cloudformation import START_PARAMETER
from lokki.builder.package_types import ImageCode, ZipCode
from lokki.builder.packages.archive import content_digest
from lokki.builder.packages.folder import Bundle, archive_path
from lokki.builder.packages.sizes import size_text
from lokki.config import LokkiConfig
from lokki.deploy.aws import Aws, aws_errors
from lokki.deploy.bucket import Upload, check_bucket, missing, put_text, upload
from lokki.deploy.changes import Templates, in_words
from lokki.deploy.deployed import check_stack_name, stack_name
from lokki.deploy.images import (
    Image,
    ImageBuilder,
    Registry,
    find_builder,
    make_repository,
    missing_images,
    registry_of,
)
from lokki.deploy.live import live_version, point_live_at
from lokki.deploy.network import describe_way_to_s3
from lokki.deploy.retention import Retention, describe_rule_to_add, plan_retention, set_retention
from lokki.deploy.stack import ChangeSet, Notify, Stacks, StackState, check_updatable
from lokki.errors import AwsError

_DIGEST_LENGTH = 32
_HASTY = Config(connect_timeout=3, read_timeout=5, retries={"total_max_attempts": 1})


@dataclass(frozen=True, slots=True)
class Target:
    """What is to be deployed, and to which stack.

    A build, the settings that it was made with, and the stack, default the flow's.

    ``functions_at_once``: how many functions the account may run at one time, 0 if that is not known. ``now``: when it
    is deployed.
    """

    bundle: Bundle
    config: LokkiConfig
    stack: str | None = None
    functions_at_once: int = 0
    now: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def folder(self) -> Path:
        """Where the build was written."""
        return Path(self.config.build_dir)

    @property
    def template(self) -> Mapping[str, Json]:
        """The template."""
        template: dict[str, Json] = yaml.safe_load(self.bundle.files["template.yaml"])
        return template

    @property
    def name(self) -> str:
        """The name of the stack."""
        return self.stack or stack_name(self.bundle.flow)

    @property
    def parameters(self) -> dict[str, str]:
        """The parameters of the template, all of which the settings give."""
        values = {
            "FlowName": self.bundle.flow,
            "S3Bucket": self.config.artifact_bucket,
            "ECRRepoPrefix": self.config.ecr_repo_prefix,
            "ImageTag": self.config.lambda_defaults.image_tag,
            "MapConcurrency": str(
                self.config.map_concurrency or min(self.functions_at_once, CHILDREN_AT_ONCE) or NEW_ACCOUNT_FUNCTIONS
            ),
            START_PARAMETER: self._schedule_start,
        }
        declared = self.template.get("Parameters")
        return {name: value for name, value in values.items() if isinstance(declared, dict) and name in declared}

    @property
    def _schedule_start(self) -> str:
        """When the schedule begins, "" where it has begun."""
        match self.template.get("Parameters"):
            case {"ScheduleStart": {"Default": str(start)}} if datetime.fromisoformat(start) > self.now:
                return start
        return ""

    @property
    def ended(self) -> str:
        """When the schedule has ended, "" where it has not."""
        match self.template["Resources"]:
            case {"Schedule": {"Properties": {"EndDate": str(end)}}} if datetime.fromisoformat(end) <= self.now:
                return end
        return ""

    @property
    def assumes_a_new_account(self) -> bool:
        """Whether maps run as many items at once as a new account allows.

        So it is where nothing else is known.
        """
        at_once = self.config.map_concurrency or self.functions_at_once
        return not at_once and "MapConcurrency" in self.parameters


@dataclass(frozen=True, slots=True)
class Deployment:
    """The plan of a deployment, which nothing has carried out yet.

    What would be uploaded, built and pushed, changed, and which version runs would use.

    ``proposed``: the change set, None where the stack is as it should be. ``repoint``: the version that the alias
    must point at again, "" if it does; it does not after a rollback. ``network``: what the user should know of the way
    to S3, or "". ``retention``: how long results are to stay, None if the bucket says so already or is the user's.
    """

    target: Target
    account: str
    uploads: tuple[Upload, ...]
    images: tuple[Image, ...]
    registry: Registry | None
    proposed: ChangeSet | None
    templates: Templates
    repoint: str = ""
    network: str = ""
    retention: Retention | None = None

    @property
    def changes_nothing(self) -> bool:
        """Whether everything is as it should be.

        Packages that are missing nonetheless are restored.
        """
        changes = (self.proposed, self.repoint, self.uploads, self.images, self.retention)
        return not any(changes)


def plan(aws: Aws, target: Target, environ: Mapping[str, str] = os.environ) -> Deployment:
    """Compare a build with what is deployed.

    A change set is created for that; nothing else changes.

    Raises AwsError, with what to do, for a bucket, a stack or an account that it cannot be deployed to.
    """
    check_stack_name(target.name)
    if target.ended:
        raise AwsError(
            f"the schedule has ended ({target.ended}), and Scheduler takes no end that is past: give a later "
            "schedule_end=, or remove schedule= from @flow."
        )
    with aws_errors("ask who you are"):
        account = aws.sts.get_caller_identity()["Account"]
    check_bucket(aws, target.config.artifact_bucket)
    if not target.config.map_concurrency:
        target = replace(target, functions_at_once=functions_at_once(aws))
    uploads, images = _packages(target)
    registry = registry_of(target.config.ecr_repo_prefix, aws) if images else None
    to_build = missing_images(aws, registry, images) if registry is not None else []
    if to_build:
        find_builder(environ)  # before anything is begun
    to_upload = missing(aws, target.config.artifact_bucket, uploads)
    retention = plan_retention(aws, target.config, target.bundle.flow, account)
    stacks = Stacks(aws)
    state = stacks.find(target.name)
    _check_stack(target, state)
    proposed = _propose(aws, stacks, target, creates=state is None)
    current: Mapping[str, Json] = state.template if state is not None else {}
    parameters = state.parameters if state is not None else {}
    templates = Templates(current, target.template, parameters, target.parameters)
    repoint = _rolled_back(aws, stacks, target, state) if state is not None and proposed is None else ""
    network = describe_way_to_s3(aws, target.config.lambda_defaults.vpc)
    return Deployment(
        target, account, tuple(to_upload), tuple(to_build), registry, proposed, templates, repoint, network, retention
    )


def functions_at_once(aws: Aws, *, patient: bool = True) -> int:
    """Ask how many functions the account may run at one time.

    Those reserved for others do not count; 0 if the account may not be asked.

    ``patient``: whether a network that does not answer is waited for.

    https://docs.aws.amazon.com/lambda/latest/api/API_GetAccountSettings.html
    """
    try:
        with aws_errors("ask how many functions the account runs"):
            client = aws.functions if patient else aws.session.client("lambda", region_name=aws.region, config=_HASTY)
            limit = client.get_account_settings().get("AccountLimit", {})
    except AwsError:
        return 0  # whoever deploys may not be allowed to ask; what is assumed then is said
    return limit.get("UnreservedConcurrentExecutions", limit.get("ConcurrentExecutions", 0))


def describe_plan(aws: Aws, plan: Deployment) -> list[str]:
    """Return a plan in words."""
    target = plan.target
    lines = [f"{target.bundle.flow} → stack {target.name} in {aws.region}, account {plan.account}"]
    if plan.uploads:
        size = size_text(sum(package.size for package in plan.uploads))
        lines.append(f"  upload {_count(len(plan.uploads), 'package')} ({size}) to {target.config.artifact_bucket}")
    if plan.images and plan.registry is not None:
        lines.append(f"  build and push {_count(len(plan.images), 'image')} to {plan.registry.host}")
    if plan.proposed is not None:
        lines += [f"  {line}" for line in in_words(plan.proposed.changes, plan.templates)]
        lines.append("  runs that go on keep their code; new ones use this")
    if target.assumes_a_new_account:
        lines.append(
            f"  maps run {NEW_ACCOUNT_FUNCTIONS} items at once, as in a new account: this one could not be asked how "
            "many functions it runs (lambda:GetAccountSettings); set map_concurrency in lokki.yml"
        )
    if plan.repoint:
        lines.append(f"  new runs use version {plan.repoint.rpartition(':')[2]} again, which a rollback left")
    if plan.network:
        lines.append(f"  {plan.network}")
    if plan.retention is not None:
        lines.append(f"  {plan.retention.description}")
    lines += describe_rule_to_add(aws, target.config, target.bundle.flow, plan.account)
    if plan.changes_nothing:
        lines.append("  no changes")
    return lines


def deploy(aws: Aws, plan: Deployment, tell: Notify, environ: Mapping[str, str] = os.environ) -> str:
    """Carry out a plan, and return the ARN of the state machine.

    Raises AwsError; the stack is then as it was.
    """
    target = plan.target
    stacks = Stacks(aws)
    try:
        if plan.uploads:
            upload(aws, target.config.artifact_bucket, plan.uploads)
            tell(f"uploaded {_count(len(plan.uploads), 'package')}")
        if plan.images and plan.registry is not None:
            _push(aws, plan, plan.registry, tell, environ)
    except BaseException:  # Ctrl-C, too
        discard(aws, plan)
        raise
    if plan.proposed is not None:
        stacks.execute(target.name, plan.proposed, tell)
    state = stacks.find(target.name)
    if state is None:
        raise AwsError(f"the stack {target.name} is gone. Deploy again.")
    if version := _rolled_back(aws, stacks, target, state):
        point_live_at(aws, state.outputs["StateMachineArn"], version)
    if plan.retention is not None:
        set_retention(aws, plan.retention, tell)
    return state.outputs["StateMachineArn"]


def discard(aws: Aws, plan: Deployment) -> None:
    """Give up a plan, so that nothing of it is left."""
    if plan.proposed is not None:
        Stacks(aws).discard(plan.proposed)


def _packages(target: Target) -> tuple[list[Upload], list[Image]]:
    uploads: list[Upload] = []
    images: list[Image] = []
    for package in target.bundle.packages:
        match package.code:
            case ZipCode(key):
                path = target.folder / archive_path(package.step)
                uploads.append(Upload(key, path, path.stat().st_size))
            case ImageCode(repository, tag):
                content = content_digest(package.files)[:_DIGEST_LENGTH]
                tag = tag or target.config.lambda_defaults.image_tag
                images.append(Image(package.step, repository, tag, content, target.folder / "lambdas" / package.step))
    return uploads, images


def _check_stack(target: Target, state: StackState | None) -> None:
    if state is None:
        return
    check_updatable(target.name, state.status)
    other = state.parameters.get("FlowName")
    if other != target.bundle.flow or "Artifacts" not in state.outputs:
        holds = f"the flow {other}" if other else "something that lokki did not deploy"
        raise AwsError(f"the stack {target.name} holds {holds}, not {target.bundle.flow}. Give another --stack-name.")


def _propose(aws: Aws, stacks: Stacks, target: Target, *, creates: bool) -> ChangeSet | None:
    text = target.bundle.files["template.yaml"]
    url = ""
    if len(text) > TEMPLATE_BODY_BYTES:
        digest = hashlib.sha256(text).hexdigest()[:_DIGEST_LENGTH]
        key = f"lokki-packages/{target.bundle.flow}/template-{digest}.yaml"
        url = put_text(aws, target.config.artifact_bucket, key, text)
    return stacks.propose(target.name, text, target.parameters, creates=creates, url=url)


def _rolled_back(aws: Aws, stacks: Stacks, target: Target, state: StackState) -> str:
    """Return the version that the stack has and new runs do not use.

    Its ARN, "" if they do use it.
    """
    version = stacks.resource(target.name, "StateMachineVersion")
    return version if version and live_version(aws, state.outputs["StateMachineArn"]) != version else ""


def _push(aws: Aws, plan: Deployment, registry: Registry, tell: Notify, environ: Mapping[str, str]) -> None:
    builder = ImageBuilder(find_builder(environ), plan.target.config.architecture, environ)
    builder.log_in(aws, registry)
    for image in plan.images:
        name = registry.prefix + image.repository
        if make_repository(aws, registry, name):
            tell(f"made the repository {name}")
        for pushed in builder.build(image, registry):
            builder.push(pushed)
        tell(f"pushed {name}:{image.tag}")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
