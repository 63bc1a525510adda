"""The settings of an AWS profile, which obstore does not read.

``aws configure`` writes them.

Source: https://docs.aws.amazon.com/sdkref/latest/guide/file-format.html
"""

from __future__ import annotations

from collections.abc import Mapping

ROLE_ENDPOINT = "AWS_CONTAINER_CREDENTIALS_FULL_URI"
"""Where a role's keys come from, in a function with SnapStart and in containers."""

# Where any of these is set, keys come from there and not from the profile.
_OTHER_SOURCES = (
    ROLE_ENDPOINT,
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
)
_VARIABLES = {
    "aws_access_key_id": "AWS_ACCESS_KEY_ID",
    "aws_secret_access_key": "AWS_SECRET_ACCESS_KEY",
    "aws_session_token": "AWS_SESSION_TOKEN",
    "region": "AWS_REGION",
}


def with_profile(environ: Mapping[str, str]) -> Mapping[str, str]:
    """Return the environment with what the profile adds to it.

    It adds keys and region where the environment itself is silent.

    The profile is ``AWS_PROFILE``, or else ``default``; the files are ``AWS_SHARED_CREDENTIALS_FILE`` and
    ``AWS_CONFIG_FILE``, or else those in ``~/.aws``. Profiles without keys of their own (SSO, assumed roles) give only
    the region: ``aws configure export-credentials --format env`` prints their keys. A file that is not there or
    cannot be read gives nothing.
    """
    if "AWS_ACCESS_KEY_ID" in environ and ("AWS_REGION" in environ or "AWS_DEFAULT_REGION" in environ):
        return environ
    name = environ.get("AWS_PROFILE") or "default"
    settings = {
        **_section(environ, "AWS_CONFIG_FILE", "config", name if name == "default" else f"profile {name}"),
        **_section(environ, "AWS_SHARED_CREDENTIALS_FILE", "credentials", name),
    }
    if "AWS_ACCESS_KEY_ID" in environ or any(name in environ for name in _OTHER_SOURCES):
        settings = {key: value for key, value in settings.items() if key == "region"}
    if "AWS_DEFAULT_REGION" in environ:
        settings.pop("region", None)
    return {**{_VARIABLES[key]: value for key, value in settings.items()}, **environ}


def _section(environ: Mapping[str, str], variable: str, file: str, name: str) -> dict[str, str]:
    # Only here: in Lambda the environment has everything, and a start is billed by the millisecond.
    import configparser
    from pathlib import Path

    home = environ.get("HOME")
    path = environ.get(variable) or (f"{home}/.aws/{file}" if home else "")
    parser = configparser.RawConfigParser()
    try:
        parser.read_string(Path(path).read_text(encoding="utf-8"), path)
    except (OSError, UnicodeDecodeError, configparser.Error):
        return {}
    if not parser.has_section(name):
        return {}
    return {key: value for key, value in parser.items(name) if key in _VARIABLES}
