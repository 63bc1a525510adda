"""The environment variables of a step's function.

https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars.html
"""

from __future__ import annotations

import json

from lokki.base.quotas import ENVIRONMENT_BYTES
from lokki.base.values import INLINE_LIMIT
from lokki.base.variables import SECRETS_VARIABLE, variables_problem
from lokki.builder.permissions import TemplatePart, ref, resource_value
from lokki.chain import AnyStep
from lokki.config import LokkiConfig
from lokki.errors import ConfigError

_RESOURCES_VARIABLE = "LOKKI_RESOURCES"
"""The hash of the resources that a step names, so that another table makes another version of its function."""


def function_environment(step: AnyStep, config: LokkiConfig, digest: str = "") -> TemplatePart:
    """Return the variables of a step's function, sorted.

    They are lokki's own, those of ``lambda_env`` and the step's; of secrets, only where their values are. ``digest``:
    of the resources that the step names, "" without any. Raises ConfigError for variables that Lambda does not take;
    those of the step were checked when it was made.
    """
    if problem := variables_problem(config.lambda_env):
        raise ConfigError(f"lambda_env: {problem}")
    texts = {"LOKKI_LOG_LEVEL": config.log_level}
    if config.inline_limit != INLINE_LIMIT:
        texts["LOKKI_INLINE_LIMIT"] = str(config.inline_limit)
    # The settings may overrule lokki's, and a step the settings.
    texts |= config.lambda_env
    texts |= step.options.env
    secrets = step.options.secrets
    if secrets:
        texts = {name: text for name, text in texts.items() if name not in secrets}
        texts[SECRETS_VARIABLE] = json.dumps(dict(sorted(secrets.items())), separators=(",", ":"))
    resources = step.options.resources
    texts = {name: text for name, text in texts.items() if name not in resources}
    if digest:
        texts[_RESOURCES_VARIABLE] = digest
    size = sum(len(name.encode()) + len(text.encode()) for name, text in texts.items())
    if size > ENVIRONMENT_BYTES:
        raise ConfigError(
            f"lambda_env and env of {step.name}() have {size} bytes together; Lambda takes {ENVIRONMENT_BYTES}. "
            "Keep large settings in a file of the project."
        )
    variables: TemplatePart = {**texts, "LOKKI_ARTIFACT_BUCKET": ref("S3Bucket"), "LOKKI_FLOW_NAME": ref("FlowName")}
    variables |= {name: resource_value(resource) for name, resource in resources.items()}
    return dict(sorted(variables.items()))
