"""Flows that are built in tests, each with its settings: what the golden files are made of."""

from __future__ import annotations

import datetime
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lokki import (
    After,
    Allow,
    Event,
    FinishedRun,
    Flow,
    FlowGraph,
    Read,
    Resource,
    Retry,
    S3Created,
    S3Object,
    StepNode,
    Write,
    each,
    flow,
    step,
)
from lokki.base.values import Json
from lokki.config import LambdaDefaultsConfig, LokkiConfig, NotifyConfig, PermissionsConfig, RolesConfig, VpcConfig

if TYPE_CHECKING:
    from lokki.builder.package_types import Code

EXAMPLES = Path(__file__).parent.parent / "examples"


@step
def fetch() -> list[int]:
    return [3, 1, 2]


@step
def tidy(values: list[int]) -> list[int]:
    return sorted(values)


@step
def double(value: int) -> int:
    return value * 2


@step
def label(value: int, prefix: str, width: int = 8) -> str:
    return f"{prefix}{value:>{width}}"


@step
def add_up(values: list[int]) -> int:
    return sum(values)


@step
def spread(value: int) -> list[int]:
    return list(range(value))


@step
def join(labels: list[str]) -> str:
    return ", ".join(labels)


@step(retry=Retry(attempts=4, delay=0.2, backoff=3, max_delay=20, on=(ConnectionError, TimeoutError)), timeout=2.5)
def call_service(value: int) -> int:
    return value


@step(retry=Retry(attempts=2), timeout=30, memory=1024, env={"MODEL": "large"})
def predict(value: int) -> int:
    return value


@step(retry=Retry(attempts=2), memory=256, memory_max=2048, disk=1024, timeout=20)
def unpack(value: int) -> int:
    return value


@step
def read_days(since: datetime.date, days: int) -> list[str]:
    return [str(since + datetime.timedelta(days=day)) for day in range(days)]


@step
def count_birds(day: str, bird: str, limit: int) -> int:
    return min(limit, len(day + bird))


@step
def report(counts: list[int], title: str) -> str:
    return f"{title}: {counts}"


@step
def a_step_whose_name_says_everything_that_there_is_to_say_about_it(values: list[int]) -> list[int]:
    return values


BIRDS_TABLE = "arn:${AWS::Partition}:dynamodb:${AWS::Region}:${AWS::AccountId}:table/birds"


@step(permissions=[Read("s3://acme-lake/raw/"), Read("s3://acme-lake/names.csv"), Read("s3://acme-maps/")])
def load_lake() -> list[int]:
    return [1]


@step(permissions=[Write("s3://acme-lake/clean/"), Allow(["dynamodb:GetItem", "dynamodb:Query"], BIRDS_TABLE)])
def look_up(value: int) -> int:
    return value


@step(
    reserved_concurrency=5,
    disk=2048,
    layers=["arn:aws:lambda:eu-north-1:123456789012:layer:geometry:7"],
    env={"JOBS": Resource("Jobs"), "BIRD": "goose"},
    permissions=[Read("s3://acme-lake/raw/"), Allow("sqs:SendMessage", Resource("Jobs.Arn"))],
)
def measure_bird(value: int) -> int:
    return value


@flow(
    schedule="cron(0 6 * * ? *)",
    timezone="Europe/Helsinki",
    schedule_start=datetime.datetime(2099, 1, 1, 12),
    schedule_end=datetime.date(2099, 7, 1),
)
def account_flow():
    return fetch().map(measure_bird).agg(add_up)


@flow
def permissions_flow():
    return load_lake().map(look_up, batch=1).agg(add_up)


@flow
def single_flow():
    return fetch()


@flow
def linear_flow():
    return fetch().next(tidy).next(add_up)


@flow
def inner_chain_flow(prefix: str = "no. "):
    return fetch().map(double, batch=1).next(call_service).next(label(prefix)).agg(join)


@flow
def two_maps_flow():
    return fetch().map(double, batch=1).agg(add_up).next(spread).map(call_service, concurrency=3, batch=1).agg(add_up)


@flow
def repeated_flow():
    return fetch().next(tidy).next(tidy).map(double, batch=1).next(double).agg(tidy).next(add_up)


@flow(schedule="cron(30 6 ? * MON-FRI *)", timezone="Europe/Helsinki", timeout=5400)
def reports_flow(
    since: datetime.date = datetime.date(2026, 1, 1), days: int = 7, bird: str = "goose", limit: int = 100
):
    return read_days(since, days).map(count_birds(bird, limit), batch=1).agg(report(title="Birds"))


@flow
def memory_flow():
    return fetch().next(tidy).map(unpack, batch=1).agg(add_up).next(unpack)


@flow
def memory_in_batches_flow():
    return fetch().map(unpack, batch=10).agg(add_up)


@flow
def batches_flow(prefix: str):
    return (
        fetch()
        .map(predict, tolerate=5, concurrency=40, batch=1)
        .agg(add_up)
        .next(spread)
        .map(call_service, batch=10, tolerate=0.29)
        .next(label(prefix))
        .agg(join)
    )


@flow
def a_flow_whose_name_is_long_as_well_flow():
    return (
        fetch()
        .map(double, batch=1)
        .agg(a_step_whose_name_says_everything_that_there_is_to_say_about_it)
        .map(double)
        .agg(tidy)
    )


@flow(schedule="rate(1 hour)")
def roles_flow():
    return fetch().map(double).agg(add_up)


@step
def measure(upload: S3Object | None, earlier: FinishedRun | None, event: dict[str, object] | None) -> int:
    return 0


@flow(
    on=[
        S3Created("s3://acme-lake/raw/", suffix=".csv"),
        S3Created("s3://acme-maps/"),
        After("birds-flow"),
        Event({"source": ["shop"], "detail-type": ["order"], "detail": {"country": ["fi", {"prefix": "s"}]}}),
    ]
)
def started_flow(
    upload: S3Object | None = None, earlier: FinishedRun | None = None, event: dict[str, object] | None = None
):
    return measure(upload, earlier, event)


@flow(schedule="rate(1 hour)")
def hourly_flow():
    return fetch().next(add_up)


@step
def size(value: int) -> Literal["small", "large"]:
    return "small" if value < 10 else "large"


@step
def scale(value: int, by: int, offsets: dict[str, int]) -> int:
    return value * by + sum(offsets.values())


@step
def compare(values: list[int], one: int, other: int = 0) -> str:
    return f"{values} {one} {other}"


@step
def announce(text: str) -> None:
    return None


@flow
def halved(value: int, times: int = 2) -> StepNode[..., int]:
    return double(value).next(predict)


@flow
def diamond_flow(title: str = "no. "):
    rows = fetch()
    total = rows.next(add_up)
    chosen = total.switch(size, {"small": double, "large": halved})
    return compare(rows.next(tidy).result, total.result, other=chosen.result)


@flow
def results_flow(width: int = 8):
    rows = fetch()
    total = rows.next(add_up)
    scaled = rows.map(scale(by=total.result, offsets={"one": total.result}), tolerate=2)
    checked = scaled.switch(size, {"small": double}, default=call_service).agg(add_up)
    in_batches = rows.map(scale(total.result, {}), batch=10, tolerate=0.125).switch(
        size, {"small": double, "large": predict}
    )
    return in_batches.next(label(prefix=">", width=width)).agg(join).after(checked)


@flow
def branches_flow(value: int, prefix: str = "no. "):
    labelled = spread(value).map(label(prefix), concurrency=3).agg(join)
    doubled = double(value).next(spread)
    said = labelled.next(announce)
    return doubled.next(tidy).next(compare(one=value)).after(said), doubled.next(add_up), labelled


@flow
def inner_flow(value: int, by: int) -> StepNode[..., int]:
    scaled = spread(value).map(scale(by=by, offsets={}), tolerate=1, batch=20).agg(add_up)
    return scaled.switch(size, {"small": double, "large": halved})


@flow
def nested_flow(prefix: str = "no. "):
    rows = fetch()
    total = rows.next(add_up)
    return rows.map(inner_flow(by=total.result), tolerate=0.1).next(label(prefix)).agg(join)


@flow
def each_flow(days: list[datetime.date], numbers: list[int] = [1, 2], limit: int = 100):  # noqa: B006
    counted = each(days).map(count_on(limit=limit), batch=50).agg(add_up)
    chosen = counted.switch(size, {"small": spread, "large": fetch_other})
    return chosen.map(scale(by=3, offsets={})).agg(compare(one=each(numbers).map(double).agg(add_up).result))


@step
def count_on(day: datetime.date, limit: int) -> int:
    return min(day.day, limit)


@step
def fetch_other(value: int) -> list[int]:
    return [value]


def golden_flows() -> str:
    """Return the flows of this module as the text of a module of their own."""
    text = Path(__file__).read_text("utf-8")
    names = text[text.index("from lokki import (") : text.index("from lokki.base")]
    flows = text[text.index("@step\n") : text.index("def golden_flows(")]
    return f"import datetime\nfrom typing import Literal\n{names}\n\n{flows}"


def _example(module: str, name: str) -> Flow[...]:
    """Import an example as a user's `python examples/….py` does: from its own folder."""
    folder = str((EXAMPLES / module).parent)
    sys.path.insert(0, folder)
    try:
        found: Flow[...] = getattr(import_module(Path(module).name), name)
    finally:
        sys.path.remove(folder)
    return found


@dataclass(frozen=True)
class Build:
    """A flow to build, with its settings; each of `images` is packaged as an image, the others as zip files.

    ``merged``: a template of the user's.
    """

    flow: Flow[...]
    config: LokkiConfig = field(default_factory=lambda: LokkiConfig(artifact_bucket="acme-artifacts"))
    images: frozenset[str] = frozenset()
    merged: str = ""

    @property
    def graph(self) -> FlowGraph:
        return self.flow()

    @property
    def packages(self) -> Mapping[str, Code]:
        # Here, as below: this module is packed with its flows, and on Lambda there is no builder.
        from lokki.builder.package_types import ImageCode, ZipCode

        graph = self.graph
        return {
            one.name: ImageCode(f"{graph.name}/{one.name}", "8e1c0a54f7d2")
            if one.name in self.images
            else ZipCode(f"lokki/{graph.name}/code/{one.name}-8e1c0a54f7d2.zip")
            for one in graph.steps
        }

    def state_machine(self) -> dict[str, Json]:
        from lokki.builder.state_machine import build_state_machine

        return build_state_machine(self.graph, self.config)

    def template(self) -> dict[str, Json]:
        from lokki.builder.cloudformation import build_template
        from lokki.builder.merging import read_user_template

        return build_template(self.graph, self.config, self.packages, read_user_template(self.merged))


BUILDS: Mapping[str, Build] = {
    "single": Build(single_flow),
    "linear": Build(linear_flow),
    "inner-chain": Build(inner_chain_flow),
    "two-maps": Build(two_maps_flow),
    "memory": Build(memory_flow),
    "memory-in-batches": Build(memory_in_batches_flow),
    "repeated": Build(repeated_flow),
    "parameters-and-schedule": Build(
        reports_flow,
        LokkiConfig(
            artifact_bucket="acme-artifacts",
            flow_name="bird_reports",
            log_level="DEBUG",
            inline_limit=0,
            lambda_env={"API_URL": "https://api.example.com", "PAGE_SIZE": "1e3"},
            lambda_defaults=LambdaDefaultsConfig(timeout=60, memory=256),
            tags={"team": "birds", "cost-center": "0042"},
            log_retention=365,
            execution_type="EXPRESS",
            tracing=False,
        ),
    ),
    "batches": Build(batches_flow),
    "images": Build(
        batches_flow,
        LokkiConfig(
            artifact_bucket="acme-artifacts",
            ecr_repo_prefix="123456789012.dkr.ecr.eu-north-1.amazonaws.com/acme",
            architecture="arm64",
        ),
        frozenset({"fetch", "predict", "add_up", "spread", "call_service", "label", "join"}),
    ),
    "image-and-zip": Build(
        linear_flow,
        LokkiConfig(ecr_repo_prefix="123456789012.dkr.ecr.eu-north-1.amazonaws.com/acme"),
        frozenset({"tidy"}),
    ),
    "roles": Build(
        roles_flow,
        LokkiConfig(
            artifact_bucket="acme-artifacts",
            roles=RolesConfig(
                pipeline="arn:aws:iam::123456789012:role/pipeline", lambda_="arn:aws:iam::123456789012:role/worker"
            ),
        ),
    ),
    "permissions": Build(
        permissions_flow,
        LokkiConfig(
            artifact_bucket="acme-artifacts",
            lambda_defaults=LambdaDefaultsConfig(
                permissions=PermissionsConfig(
                    read=("s3://acme-shared/",),
                    allow={"sns:Publish": ("arn:${AWS::Partition}:sns:${AWS::Region}:${AWS::AccountId}:birds",)},
                )
            ),
        ),
    ),
    "account": Build(
        account_flow,
        LokkiConfig(
            artifact_bucket="acme-artifacts",
            log_level="WARNING",
            log_format="JSON",
            kms_key="arn:aws:kms:eu-north-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab",
            encrypt=("environment", "logs"),
            tags={"cost-center": "0042"},
            lambda_defaults=LambdaDefaultsConfig(
                layers=("arn:aws:lambda:eu-north-1:580247275435:layer:LambdaInsightsExtension:64",),
                vpc=VpcConfig(("subnet-0a1b2c3d", "subnet-4e5f6a7b"), ("sg-0a1b2c3d",)),
            ),
        ),
        merged=str(Path(__file__).parent / "flows" / "infra.yaml"),
    ),
    "notifications": Build(
        hourly_flow,
        LokkiConfig(
            artifact_bucket="acme-artifacts",
            notify=NotifyConfig(
                failed=(
                    "birds@example.com",
                    "night-watch@example.com",
                    "arn:aws:sns:eu-north-1:123456789012:pages",
                    "https://hooks.example.com/services/T0/B0/x",
                ),
                succeeded=("arn:aws:sns:eu-north-1:123456789012:news",),
            ),
        ),
    ),
    "diamond": Build(diamond_flow),
    "results": Build(results_flow),
    "branches": Build(branches_flow),
    "each": Build(each_flow),
    "nested": Build(nested_flow),
    "starts": Build(started_flow),
    "long-names": Build(a_flow_whose_name_is_long_as_well_flow),
    "birds": Build(_example("birds_flow_example", "birds_flow")),
    "primes": Build(_example("primes_flow_example", "primes_flow")),
    "penguins": Build(_example("penguins/penguins_flow", "penguins_flow")),
}
"""By the name of the folder of their golden files."""
