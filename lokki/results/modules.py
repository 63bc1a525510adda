"""Under which name the flow's file is imported here: values name its classes by the name that it had elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from lokki.errors import FlowError
from lokki.loading import import_name, load_flow
from lokki.store.codec import MAINS


class MainModule(Mapping[str, str]):
    """Says under which name the flow's file is imported here, whatever it was called where it ran.

    That is ``__main__``, ``__mp_main__`` in a worker process, or the name by which others import it. Imports it when
    asked.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._names = {*MAINS, import_name(file)[1]}

    def __getitem__(self, name: str) -> str:
        if name not in self._names:
            raise KeyError(name)
        return module_of(self._file)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class PackagedModule(Mapping[str, str]):
    """The same for the flow's file as functions import it from a package, where it never is ``__main__``."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._names = {file.stem, import_name(file)[1]}

    def __getitem__(self, name: str) -> str:
        if name not in self._names:
            raise KeyError(name)
        return module_of(self._file)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def module_of(file: Path) -> str:
    """Return the name of the module that a flow's file is, after importing it unless it is there.

    Raises FlowError for a file that is not there, and whatever it raises when it is imported.
    """
    found = _loaded(file)
    if found is None:
        problem: FlowError | None = None
        try:
            load_flow(str(file))
        except FlowError as error:  # a file of several flows is imported all the same
            problem = error
        found = _loaded(file)
        if found is None:
            raise problem or FlowError(f"{file} cannot be imported.")
    return found


def _loaded(file: Path) -> str | None:
    wanted = file.resolve()
    for name, module in [*sys.modules.items()]:
        path = getattr(module, "__file__", None)
        if isinstance(path, str) and Path(path).name == file.name and Path(path).resolve() == wanted:
            return name
    return None
