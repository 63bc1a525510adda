"""The command ``lokki`` as ``python -m lokki``."""

from __future__ import annotations

from lokki.cli.main import console

if __name__ == "__main__":
    console()
