"""Which log records of a run are shown.

Those of the user's own code are shown from one level on, those of libraries from another.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import PurePath

_LIBRARIES = (f"{PurePath(os.__file__).parent}{os.sep}", f"{PurePath(__file__).parent.parent}{os.sep}")
_INSTALLED = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")


@dataclass(frozen=True, slots=True)
class LogLevels:
    """The least severe records to show, as `logging` counts levels.

    * ``own``: of the user's code.
    * ``libraries``: of what is installed, of Python's own modules and of lokki; they log much that is of no concern.
    """

    own: int = logging.INFO
    libraries: int = logging.WARNING

    def shows(self, record: logging.LogRecord) -> bool:
        """Tell whether to show a record, by the file of the line that logged it."""
        return record.levelno >= (self.libraries if _is_of_library(record.pathname) else self.own)


def _is_of_library(path: str) -> bool:
    return path.startswith(_LIBRARIES) or any(folder in path for folder in _INSTALLED)
