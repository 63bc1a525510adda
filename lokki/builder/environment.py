"""The environment variables of a step's function.

https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars.html
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from lokki.base.quotas import ENVIRONMENT_BYTES
from lokki.base.values import INLINE_LIMIT
from lokki.builder.permissions import Mapped, ref
from lokki.chain import AnyStep
from lokki.config import LokkiConfig
from lokki.errors import ConfigError, FlowError

_NAME = re.compile("[a-zA-Z][a-zA-Z0-9_]+")
"""https://docs.aws.amazon.com/lambda/latest/api/API_Environment.html"""

_RESERVED = re.compile(
    "AWS_(ACCESS_KEY(_ID)?|SECRET_ACCESS_KEY|SESSION_TOKEN|(DEFAULT_)?REGION|EXECUTION_ENV|LAMBDA_[A-Z_]+"
    "|XRAY_(CONTEXT_MISSING|DAEMON_ADDRESS))|_?(HANDLER|X_AMZN_TRACE_ID)|LAMBDA_(RUNTIME_DIR|TASK_ROOT)"
    "|LOKKI_(ARTIFACT_BUCKET|FLOW_NAME)"
)


def function_environment(step: AnyStep, config: LokkiConfig) -> Mapped:
    """Return the variables of a step's function, sorted: lokki's, those of ``lambda_env``, the step's own.

    Raises ConfigError or FlowError for variables that Lambda does not take.
    """
    if problem := _problem(config.lambda_env):
        raise ConfigError(f"lambda_env: {problem}")
    if problem := _problem(step.options.env):
        raise FlowError(f"@step(env=…) of {step.name}(): {problem}")
    texts = {"LOKKI_LOG_LEVEL": config.log_level}
    if config.inline_limit != INLINE_LIMIT:
        texts["LOKKI_INLINE_LIMIT"] = str(config.inline_limit)
    texts |= config.lambda_env
    texts |= step.options.env
    size = sum(len(name.encode()) + len(text.encode()) for name, text in texts.items())
    if size > ENVIRONMENT_BYTES:
        raise ConfigError(
            f"lambda_env and env of {step.name}() have {size} bytes together; Lambda takes {ENVIRONMENT_BYTES}. "
            "Keep large settings in a file of the project."
        )
    variables: Mapped = {**texts, "LOKKI_ARTIFACT_BUCKET": ref("S3Bucket"), "LOKKI_FLOW_NAME": ref("FlowName")}
    return dict(sorted(variables.items()))


def _problem(variables: Mapping[str, str]) -> str:
    for name in variables:
        if not _NAME.fullmatch(name):
            return (
                f"{name!r} cannot name a variable: AWS takes two or more ASCII letters, digits and '_', a letter first."
            )
        if _RESERVED.fullmatch(name):
            return f"{name!r} is set by AWS Lambda or lokki itself. Use another name."
    return ""
