"""Finding the flow in a user's file, for ``lokki run flow.py[:name]``."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import cache
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from lokki.base.naming import nearest_name
from lokki.decorators import Flow
from lokki.errors import FlowError
from lokki.graph import FlowGraph
from lokki.store.codec import MAINS

_importing = ContextVar("importing", default=False)


def is_importing() -> bool:
    """Tell whether a user's file is being imported for its flow.

    One that calls ``main()`` must not run it then.
    """
    return _importing.get()


def load_flow(target: str) -> Flow[...]:
    """Import a file, or a module by its dotted name, and return its flow.

    That is the only one, or the one named after a colon. A file is imported under the name that it has for other files
    beside it, or in its package, so that worker processes find it and values that it pickles can be read elsewhere.
    Raises FlowError when there is no such file or flow, and whatever the user's file raises.
    """
    source, _, name = target.rpartition(":") if ":" in target else (target, "", "")
    is_file = source.endswith(".py") or Path(source).exists()
    with _noted():
        module = _import_file(Path(source)) if is_file else _import_module(source)
    flows = {key: value for key, value in vars(module).items() if isinstance(value, Flow)}
    if name:
        return _named(source, name, flows)
    # Flows that the file imports from elsewhere count only where it has none of its own.
    own = {value.__name__: value for value in flows.values() if value.__module__ == module.__name__}
    candidates = own or {value.__name__: value for value in flows.values()}
    if len(candidates) == 1:
        return next(iter(candidates.values()))
    if not candidates:
        raise FlowError(f"{source} has no flow: put @flow above the function that chains the steps.")
    raise FlowError(
        f"{source} has several flows, {', '.join(candidates)}: say which, as in {source}:{next(iter(candidates))}."
    )


def import_again(name: str, file: str, *, is_main: bool) -> ModuleType:
    """Import the flow's file in a worker process.

    Its call of ``main()`` does nothing: the process is there for nothing else. ``is_main``: the file is the program
    that was started, and values may have been pickled as of ``__main__``. Where another module has its name, it gets
    the one that multiprocessing gives it.
    """
    _importing.set(True)
    if is_main and (folder := str(import_name(Path(file))[0])) not in sys.path:
        sys.path.append(folder)
    spec = find_spec(name)
    if is_main and (spec is None or spec.origin is None or Path(spec.origin).resolve() != Path(file).resolve()):
        name = "__mp_main__"
        spec = spec_from_file_location(name, file)
        if spec is None or spec.loader is None:
            raise FlowError(f"{file} cannot be imported by worker processes: name it like a module, with '.py'.")
        sys.modules[name] = module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    module = importlib.import_module(name)
    if is_main:
        sys.modules["__main__"] = sys.modules["__mp_main__"] = module
    return module


def import_name(path: Path) -> tuple[Path, str]:
    """Return the folder from which a file is imported, and its name there.

    The name begins with that of its package.
    """
    folder, parts = path.resolve().parent, [path.stem]
    while (folder / "__init__.py").exists():
        parts.insert(0, folder.name)
        folder = folder.parent
    return folder, ".".join(part for part in parts if part != "__init__")


def check_hides_nothing(path: Path) -> None:
    """Raise FlowError for a file that hides a module of Python's.

    Python's library, or lokki, would get it in the place of its own.
    """
    name = import_name(path)[1]
    if name in sys.stdlib_module_names and name != "test":  # Python's own tests, which nobody imports
        raise FlowError(f"{path.name} hides the module {name!r} of Python: rename the file.")


def name_main() -> None:
    """Give classes of ``__main__`` the name by which others import its file.

    Pickled objects name the module of their class, and only this program finds it by ``__main__``. So a class of
    ``flow.py`` becomes ``flow.Bird``, as with ``lokki run flow.py``, and ``flow`` stands for the module that runs,
    which is not imported a second time. Does nothing where no other program could import the file: at a prompt, in a
    notebook.
    """
    module = sys.modules["__main__"]
    name = _name_elsewhere(module)
    if name is not None and sys.modules.setdefault(name, module) is module:
        _rename_classes(vars(module), name)


def _name_elsewhere(main: ModuleType) -> str | None:
    """Return the name by which other programs import ``__main__``'s file."""
    file = getattr(main, "__file__", None)
    if hasattr(sys, "ps1") or not isinstance(file, str):
        return None
    spec = main.__spec__
    if spec is not None:  # python -m package.flow
        return spec.name
    path = Path(file)
    return import_name(path)[1] if path.suffix == ".py" and "." not in path.stem and path.is_file() else None


def _rename_classes(namespace: Mapping[str, object], name: str) -> None:
    for value in list(namespace.values()):
        if issubclass(type(value), type) and getattr(value, "__module__", None) in MAINS:
            with suppress(AttributeError, TypeError):  # a metaclass of the user's may refuse
                value.__module__ = name
            _rename_classes(vars(value), name)


def _named(source: str, name: str, flows: dict[str, Flow[...]]) -> Flow[...]:
    if name in flows:
        return flows[name]
    near = nearest_name(name, flows)
    hint = f"did you mean {near!r}?" if near is not None else f"it has: {', '.join(flows) or 'none'}."
    raise FlowError(f"{source} has no flow {name!r}; {hint}")


@contextmanager
def _noted() -> Iterator[None]:
    token = _importing.set(True)
    try:
        yield
    finally:
        _importing.reset(token)


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise FlowError(f"{path} is a folder: name a file in it." if path.is_dir() else f"there is no file {path}.")
    folder, name = import_name(path)
    if "." in path.stem or path.suffix != ".py":
        raise FlowError(f"{path} cannot be imported: name it like a module, with one dot, before 'py'.")
    check_hides_nothing(path)
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    module = importlib.import_module(name)
    if Path(getattr(module, "__file__", None) or "").resolve() != path.resolve():
        raise FlowError(
            f"{path} cannot be imported as {name!r}: there is another module of that name. Rename the file."
        )
    return module


def _import_module(name: str) -> ModuleType:
    missing = FlowError(f"there is no file and no module {name!r}.")
    if not all(part.isidentifier() for part in name.split(".")):
        raise missing
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or (error.name != name and not name.startswith(f"{error.name}.")):
            raise  # a module that the user's own code imports
        raise missing from None


def file_of(graph: FlowGraph) -> Path | None:
    """Return the file that a flow is in, if it is in one."""
    module = sys.modules.get(getattr(graph.origin, "__module__", ""))
    file = getattr(module, "__file__", None)
    return Path(file) if isinstance(file, str) else None


def path_from(folder: Path, file: Path | None) -> str:
    """Name a file from a folder if it is below it, else by its whole path.

    Both can so be moved together.
    """
    if file is None:
        return ""
    file = file.absolute()
    return str(file.relative_to(folder) if file.is_relative_to(folder) else file)


def package_locator(file: Path | None) -> Callable[[str], str]:
    """Return a function that maps a packaged path to the file here.

    That is the file of which the path in a flow's package is a copy.

    ``file``: the flow's. What is not beside or below it, or below a folder above it, stays as it is.
    """
    folders = file.absolute().parents if file is not None else ()

    @cache  # failures of a map name the same few files again and again
    def locate(path: str) -> str:
        return next((str(folder / path) for folder in folders if (folder / path).is_file()), path)

    return locate
