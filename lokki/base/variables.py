"""What environment variables say: those that a function may have, and those of OpenTelemetry."""

from __future__ import annotations

import re
from collections.abc import Mapping

from lokki.base.quotas import ENVIRONMENT_BYTES

SECRETS_VARIABLE = "LOKKI_SECRETS"
"""The variable of a function that has the sources of its secrets, as JSON by variable."""

# Texts, not compiled here: most starts compare no variable with them.
_VARIABLE = "[a-zA-Z][a-zA-Z0-9_]+"
"""https://docs.aws.amazon.com/lambda/latest/api/API_Environment.html"""

_NO_VALUE = "[\\0\\ud800-\\udfff]"

_RESERVED_VARIABLES = (
    "AWS_(ACCESS_KEY(_ID)?|SECRET_ACCESS_KEY|SESSION_TOKEN|(DEFAULT_)?REGION|EXECUTION_ENV|LAMBDA_[A-Z_]+"
    "|XRAY_(CONTEXT_MISSING|DAEMON_ADDRESS))|_?(HANDLER|X_AMZN_TRACE_ID)|LAMBDA_(RUNTIME_DIR|TASK_ROOT)"
    "|LOKKI_(ARTIFACT_BUCKET|FLOW_NAME|RESOURCES|SECRETS)"
)
"""Environment variables that a function cannot set: Lambda refuses them, and four are lokki's.
https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars.html"""


def variables_problem(variables: Mapping[str, str]) -> str:
    """Return what is wrong with a function's environment variables, or "".

    Lambda refuses some names, and more than 4 KB of names and values together; no process can have a value with NUL.
    """
    for name, text in variables.items():
        if not re.fullmatch(_VARIABLE, name):
            return (
                f"{name!r} cannot name a variable: AWS takes two or more ASCII letters, digits and '_', a letter first."
            )
        if re.fullmatch(_RESERVED_VARIABLES, name):
            return f"{name!r} is set by AWS Lambda or lokki itself. Use another name."
        if re.search(_NO_VALUE, text):
            return f"{name!r} has a value that is no text for a variable: it holds NUL or half a character."
    size = sum(len(name.encode()) + len(text.encode()) for name, text in variables.items())
    if size > ENVIRONMENT_BYTES:
        return (
            f"the variables have {size:,} bytes together; Lambda takes {ENVIRONMENT_BYTES:,}. "
            "Keep large settings in a file of the project."
        )
    return ""


def is_traced(environ: Mapping[str, str]) -> bool:
    """Tell whether the environment names a collector of OpenTelemetry.

    https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
    """
    endpoint = environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    is_off = environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or environ.get("OTEL_TRACES_EXPORTER") == "none"
    return bool(endpoint) and not is_off
