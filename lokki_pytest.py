"""lokki's plugin for pytest: the fixture ``lokki_emulated``.

It stands beside the package `lokki`, which pytest would import whenever it starts if it stood inside.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from lokki.emulator.testing import Emulated


@pytest.fixture
def lokki_emulated(tmp_path: Path) -> Emulated:
    """Run flows as AWS would run them.

    ``run = lokki_emulated(birds_flow, limit=3)``.

    The flow is built, and what was built runs: the state machine, the packages, S3. ``run.result`` is what the flow
    returned, ``run.calls`` which functions were called, ``run.objects`` what was in S3, and ``run.waits`` the seconds
    between tries, which are not waited. Needs lokki[emulator], and Linux.
    """
    try:
        # Imported here, so that tests that do not use it start without it.
        from lokki.emulator.testing import Emulated
    except ModuleNotFoundError as error:
        raise pytest.UsageError(f"lokki_emulated needs {error.name}: install lokki[emulator].") from None

    return Emulated(tmp_path / "lokki")
