"""Modules of Python's that files of the user hide, since Python searches the folder of a script first."""

from __future__ import annotations

import os
import re
import sys
import traceback
from pathlib import Path
from typing import Final

_LOKKI: Final = Path(__file__).resolve().parents[1]


def hidden_module(error: BaseException) -> tuple[str, str] | None:
    """Return the module of Python's that a file hides, and that file.

    It is the one that the error is about, else any; None if there is none. A ``json.py`` beside a flow is what all of
    lokki gets, and what libraries get.
    """
    library = Path(os.__file__).parent.resolve()
    hidden = {
        name: file
        for name in sorted(sys.stdlib_module_names & sys.modules.keys())
        if (file := getattr(sys.modules[name], "__file__", None)) and not Path(file).resolve().is_relative_to(library)
    }
    # As in: cannot import name 'Random' from 'random'; No module named 'html.parser'
    named = [name for name in hidden if re.search(rf"'{name}['.]", str(error))]
    return next(((name, hidden[name]) for name in [*named, *hidden]), None)


def is_hidden_from_library(error: BaseException) -> bool:
    """Tell whether a library fails since a module of Python's is hidden.

    That is not so where the user's own code fails.
    """
    if not isinstance(error, ImportError | AttributeError) or (hidden := hidden_module(error)) is None:
        return False
    library = Path(os.__file__).parent.resolve()
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    file = Path(frame.f_code.co_filename).resolve()
    is_library = file.is_relative_to(library) or "site-packages" in file.parts or file.is_relative_to(_LOKKI)
    return is_library and re.search(rf"'{hidden[0]}['.]", str(error)) is not None
