"""Under which name the flow's file is imported here.

Values name its classes by the name that it had elsewhere.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from lokki.errors import FlowError
from lokki.loading import import_name, load_flow
from lokki.store.codec import MAINS


class OwnModule(Mapping[str, str]):
    """Names the module of the flow's file as it is imported here.

    ``names``: what it may have been called where it ran. It is imported when it is asked for.
    """

    def __init__(self, file: Path, names: Iterable[str]) -> None:
        self._file = file
        self._names = {*names, import_name(file)[1]}

    @classmethod
    def of_program(cls, file: Path) -> OwnModule:
        """Return that of a file that ran here, as a program or imported."""
        return cls(file, MAINS)

    @classmethod
    def of_package(cls, file: Path) -> OwnModule:
        """Return that of a file in a package, where it is no ``__main__``."""
        return cls(file, (file.stem,))

    def __getitem__(self, name: str) -> str:
        if name not in self._names:
            raise KeyError(name)
        return module_of(self._file)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def module_of(file: Path) -> str:
    """Return the name of the module that a flow's file is.

    The file is imported unless it is there already.

    Raises FlowError for a file that is not there, and whatever it raises when it is imported.
    """
    module = _loaded(file)
    if module is None:
        problem: FlowError | None = None
        try:
            load_flow(str(file))
        except FlowError as error:  # a file of several flows is imported all the same
            problem = error
        module = _loaded(file)
        if module is None:
            raise problem or FlowError(f"{file} cannot be imported.")
    return module


def _loaded(file: Path) -> str | None:
    resolved = file.resolve()
    for name, module in [*sys.modules.items()]:
        path = getattr(module, "__file__", None)
        if isinstance(path, str) and Path(path).name == file.name and Path(path).resolve() == resolved:
            return name
    return None
