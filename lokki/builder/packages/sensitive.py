"""Which files look like secrets: by the names that tools give them, and by private keys in them."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

_FILES = (
    # Variables and settings of programs
    ".env", ".env.*", "*.env", ".envrc", "*.tfstate", "*.tfstate.*", "*.tfvars", "*.tfvars.json",
    # Private keys and stores of keys
    "*.pem", "*.key", "*.p12", "*.pfx", "*.p8", "*.pk8", "*.jks", "*.keystore", "*.kdbx", "*.kdb", "*.ppk", "*.gpg",
    "id_rsa", "id_dsa", "id_ecdsa", "id_ecdsa_sk", "id_ed25519", "id_ed25519_sk",
    # Passwords and tokens
    ".netrc", "_netrc", ".pypirc", ".npmrc", ".yarnrc.yml", ".git-credentials", ".pgpass", ".my.cnf", ".htpasswd",
    ".dockercfg", ".vault-token", "kubeconfig", "*.kubeconfig", "credentials", "credentials.*", "credentials*.json",
    "*credentials.json", "client_secret*.json", "service-account*", "service_account*", "*.secret", "*.secrets",
    "secret.*", "secrets.*", "*accesskeys.csv", "rootkey.csv",
)  # fmt: skip
_FOLDERS = frozenset({".aws", ".azure", ".docker", ".gcloud", ".gnupg", ".kube", ".ssh"})

_PRIVATE_KEY = re.compile(rb"-----BEGIN [A-Z0-9 ]*PRIVATE KEY( BLOCK)?-----")
_LARGEST_KEY = 2**17
"""Files of keys, and JSON that holds one, are smaller; larger files are not searched."""


def is_named_like_secret(path: str) -> bool:
    """Tell whether a file, or a folder above it, has a name that secrets have.

    >>> is_named_like_secret("config/prod.env"), is_named_like_secret("sub/.ssh/id"), is_named_like_secret("keys.csv")
    (True, True, False)
    """
    *folders, name = path.lower().split("/")
    return any(folder in _FOLDERS for folder in folders) or any(fnmatchcase(name, pattern) for pattern in _FILES)


def has_private_key(content: bytes) -> bool:
    """Tell whether a file's content has a private key in it.

    >>> has_private_key(b"-----BEGIN RSA PRIVATE KEY-----"), has_private_key(b"-----BEGIN CERTIFICATE-----")
    (True, False)
    """
    return len(content) <= _LARGEST_KEY and _PRIVATE_KEY.search(content) is not None
