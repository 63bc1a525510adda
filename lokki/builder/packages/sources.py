"""Which files of the user's project a flow needs: what its module imports, and what lokki.yml includes.

Paths are those that files have in a package, which are those by which Python finds them: the path of a module below the
entry of ``sys.path`` that it comes from. So the deployed flow imports what it imports here.
"""

from __future__ import annotations

import ast
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from glob import iglob
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from keyword import iskeyword
from pathlib import Path
from types import ModuleType

from lokki.base.quotas import IMAGE_BYTES, UNZIPPED_BYTES
from lokki.builder.lambda_pkg import Importable
from lokki.builder.package_types import BuildError
from lokki.builder.packages.data_files import FileChoice, Selection, first_notes
from lokki.builder.packages.imports import ModuleImport
from lokki.builder.packages.lazy_walk import LazyWalk
from lokki.builder.packages.modules import Walk, code_folders
from lokki.builder.packages.unpacked import unpacked_files
from lokki.chain import AnyStep, StepNode
from lokki.config import LokkiConfig
from lokki.decorators import Flow
from lokki.errors import FlowError
from lokki.graph import FlowGraph

RESERVED = re.compile(r"Dockerfile|handler\.py|step\.json|requirements(-\d+)?\.txt|lokki/.*")
"""Files that lokki puts into a package's folder."""

_ON_LAMBDA = re.compile(
    r"(__init__|chain|config|decorators|errors|graph|plan|s3)\.py|(base|engine(?!/events\.py)|plans|runtime|store(?!/local\.py))/.*"
)
"""What of lokki a package has: the modules that a flow's file may import, and the folders that run a step.

All of these folders but the events, which nothing emits on Lambda, and the store in a folder, which runs here have.
"""


@dataclass(frozen=True, slots=True)
class Project:
    """What a flow needs of its project.

    - ``flow``, ``steps``: from where to import them
    - ``files``: content by package path
    - ``foreign``: the modules of others that are always imported, each with the file and line that does
    - ``imports``: what each module imports, by path
    - ``trees``: the modules, parsed
    - ``notes``: what to tell the user, a line each
    """

    flow_file: Path
    flow: Importable
    steps: Mapping[str, Importable]
    files: Mapping[str, bytes]
    foreign: Mapping[str, str]
    imports: Mapping[str, tuple[ModuleImport, ...]] = field(default_factory=dict)
    trees: Mapping[str, ast.Module] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def collect(
    graph: FlowGraph,
    config: LokkiConfig,
    skipped: frozenset[Path] = frozenset(),
    find: Callable[[str], ModuleSpec | None] = find_spec,
    zip_bytes: int = UNZIPPED_BYTES,
) -> Project:
    """Find the files that a flow needs, by reading the imports of its modules.

    Nothing is imported or run. Raises FlowError for a flow or a step that Lambda could not import, ConfigError for a
    pattern that matches nothing, BuildError for files that cannot be packaged.

    - ``skipped``: folders, resolved, to take no data from, such as the one that is built
    - ``find``: finds a module by name, as Python does
    - ``zip_bytes``: most bytes of a zip, unzipped
    """
    flow = graph.origin
    if not isinstance(flow, Flow):
        raise FlowError(f"the flow {graph.name!r} is not made by a function with @flow, so Lambda cannot import it.")
    module, file = _module_of(flow)
    flow_name = next((name for name, value in sorted(vars(module).items()) if value is flow), None)
    if flow_name is None:
        raise FlowError(_not_importable(f"the flow {flow.__name__}()", flow.fn.__code__.co_filename))
    name = _import_name(module, file)
    # Up from the file by as many folders as its name has packages: where Python's path begins.
    folder = file.parents[name.count(".") + (file.name == "__init__.py")]
    steps = {step.name: _importable(step, module) for step in graph.steps}
    walk = Walk(code_folders(file, folder), find, config.exclude)
    walk.add(name, file)
    walk.follow([name.rpartition(".")[0] or name, *(importable.module for importable in steps.values())])
    chosen = _choose_files(walk, config, skipped)
    most = zip_bytes if config.packages == "zip" else IMAGE_BYTES
    data = {path: content for path, content in chosen.read(most).items() if path not in walk.files}
    files = {**walk.files, **data}
    for path in files:
        if RESERVED.fullmatch(path):
            raise BuildError(
                f"{path} has a name that lokki needs in every package. Rename it or exclude it in lokki.yml."
            )
    return Project(
        file,
        Importable(name, flow_name),
        steps,
        dict(sorted(files.items())),
        walk.foreign({name, *(importable.module for importable in steps.values())}),
        walk.imports,
        walk.trees,
        tuple(_notes(walk, chosen, files)),
    )


def _choose_files(walk: Walk, config: LokkiConfig, skipped: frozenset[Path]) -> Selection:
    """Choose the files beside modules.

    The modules among them are followed to what they import.
    """
    choice = FileChoice(config.exclude, walk.folders.roots, skipped)
    chosen = Selection()
    if config.include:
        choice.include(config.include, walk.bases(), chosen)
    LazyWalk(walk, choice, chosen).complete()
    return chosen


def _notes(walk: Walk, chosen: Selection, files: Mapping[str, bytes]) -> Iterator[str]:
    """Yield what the user should know of what is packed, and what is not."""
    yield from walk.links()
    yield from chosen.notes
    yield from first_notes([*unpacked_files(walk.trees, walk.sources, files)], "more files are named and not packed")


def lokki_files() -> dict[str, bytes]:
    """Read what of lokki runs a step on Lambda, by package path."""
    folder = Path(__file__).parents[2]
    # Not Path.glob(), which takes six times as long.
    paths = (path.replace(os.sep, "/") for path in iglob("**/*.py", root_dir=folder, recursive=True))  # noqa: PTH207
    return {f"lokki/{path}": (folder / path).read_bytes() for path in sorted(paths) if _ON_LAMBDA.fullmatch(path)}


def _module_of(flow: Flow[...]) -> tuple[ModuleType, Path]:
    module = sys.modules.get(flow.__module__)
    file = getattr(module, "__file__", None)
    if module is None or not file or not Path(file).is_file():
        raise FlowError(
            f"the flow {flow.__name__}() is not in a file, so it cannot be packaged. Save it as a .py file."
        )
    return module, Path(file).resolve()


def _import_name(module: ModuleType, file: Path | None = None) -> str:
    """Return the name by which a module is imported.

    A script has the name of its file.
    """
    name = module.__name__
    if name == "__main__":
        spec = module.__spec__
        name = spec.name if spec is not None else (file or Path(module.__file__ or "")).stem
    bad = next((part for part in name.split(".") if not part.isidentifier() or iskeyword(part)), None)
    if bad is not None:
        raise FlowError(f"{module.__file__} cannot be imported as {bad!r}. Rename it to letters, digits and '_'.")
    return name


def _importable(step: AnyStep, flow_module: ModuleType) -> Importable:
    """Find the name under which a step can be imported.

    It is at the top level of the step's module, or of the flow's.
    """
    own = sys.modules.get(getattr(step.fn, "__module__", None) or "")
    # A step may be made in the flow's module of another's function: clean = step(helpers.clean).
    for module in (own, flow_module):
        if module is None:
            continue
        names = sorted(
            # Preferred is the plain step under its own name; a bound one, f(x=1), finds the same function.
            (value.arguments is not None, name != step.name, name)
            for name, value in vars(module).items()
            if isinstance(value, StepNode) and value.fn is step.fn and value.upstream is None
            if value.options == step.options
        )
        if names:
            return Importable(_import_name(module), names[0][2])
    code = getattr(step.fn, "__code__", None)
    raise FlowError(_not_importable(f"the step {step.name}()", code.co_filename if code else ""))


def _not_importable(what: str, file: str) -> str:
    where = f"{file}: " if file else ""
    return (
        f"{where}{what} is not at the top level of a module, where Lambda could import it by name. "
        "Move it out of the function or class that it is in, and give it a name of its own."
    )
