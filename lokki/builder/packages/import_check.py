"""Whether all that a package's modules import is on Lambda.

It may be in the package, in Python, or in Lambda's runtime.
"""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Final, Literal

from lokki.builder.package_types import BuildError
from lokki.builder.packages.code import module_name
from lokki.builder.packages.data_files import path_matches
from lokki.builder.packages.imports import ModuleImport, always_imported

ON_LAMBDA_MODULES: Final = frozenset(
    {"boto3", "botocore", "s3transfer", "jmespath", "awslambdaric", "snapshot_restore_py"}
)
"""What Lambda's Python has. https://docs.aws.amazon.com/lambda/latest/dg/lambda-python.html"""

LOADED_BEFORE: Final = frozenset(
    {
        "__future__", "_colorize", "_weakrefset", "abc", "ast", "codecs", "collections", "contextlib", "copyreg",
        "decimal", "dis", "encodings", "enum", "functools", "genericpath", "importlib", "io", "json", "keyword",
        "linecache", "logging", "math", "numbers", "opcode", "operator", "os", "pkgutil", "posixpath", "re", "reprlib",
        "resource", "runpy", "signal", "site", "sitecustomize", "stat", "string", "struct", "sys", "textwrap",
        "threading", "time", "token", "tokenize", "traceback", "types", "typing", "usercustomize", "warnings",
        "weakref", "zipimport",
    }
)  # fmt: skip
"""Modules of Python's that Lambda's runtime client, or Python as it starts, may load before the code of a function.

https://github.com/aws/aws-lambda-python-runtime-interface-client
"""

LATE_IN_LOKKI: Final = {"local": "lokki.results.flow_results", "remote": "lokki.operate"}
"""What `import lokki` loads when it is asked for, and packages do not have."""

_ONLY_ON_WINDOWS = frozenset({"_msi", "_overlapped", "_winapi", "msilib", "msvcrt", "nt", "winreg", "winsound"})
_LATER = {"annotationlib": (3, 14), "compression": (3, 14), "profiling": (3, 15)}
"""Modules of Python's, with the version that has them first. https://docs.python.org/3/whatsnew/"""

type ModuleKind = Literal["package", "module", "namespace", ""]
"""What a name is in a package, "" for nothing. A namespace is a folder without ``__init__``."""


def standard_library(python: tuple[int, int]) -> frozenset[str]:
    """Return the names of the modules that a version of Python has on Lambda."""
    return sys.stdlib_module_names - _ONLY_ON_WINDOWS - {name for name, since in _LATER.items() if since > python}


@dataclass(frozen=True, slots=True)
class PackageContents:
    """What a step's package has.

    - ``paths``: of its files
    - ``elsewhere``: the modules that are on Lambda without being packed
    """

    step: str
    paths: frozenset[str]
    elsewhere: frozenset[str]

    def kind(self, name: str) -> ModuleKind:
        """Tell what a module's name is in the package."""
        base = name.replace(".", "/")
        if f"{base}/__init__.py" in self.paths:
            return "package"
        if f"{base}.py" in self.paths or self._has_compiled(base):
            return "module"
        if self._has_compiled(f"{base}/__init__"):
            return "package"
        return "namespace" if any(path.startswith(f"{base}/") for path in self.paths) else ""

    def missing(self, imported: ModuleImport, is_here: Callable[[str], bool]) -> str:
        """Return the first part of an import that nothing provides.

        It is "" if all is there. ``is_here``: whether a module is a file on this machine. Packages may make modules as
        they start, which no file shows; what is a file here is none of those.
        """
        if imported.module.partition(".")[0] in self.elsewhere or imported.module in self.elsewhere:
            return ""
        above: ModuleKind = "namespace"
        for name in accumulate(imported.module.split("."), "{}.{}".format):
            kind = self.kind(name)
            if not kind:
                return name if above == "namespace" or (above == "package" and is_here(name)) else ""
            above = kind
        whole = imported.names[-1]
        if imported.module == "lokki":
            late = LATE_IN_LOKKI.get(imported.member)
            return whole if late and not self.kind(late) else ""
        return whole if imported.member and above == "namespace" and not self.kind(whole) else ""

    def _has_compiled(self, base: str) -> bool:
        return any(path.startswith(f"{base}.") and path.endswith(".so") for path in self.paths)


@dataclass(frozen=True, slots=True)
class _Missing:
    """An import that nothing provides.

    - ``place``: the file and line of the import
    - ``name``: the module
    - ``always``: whether it is executed whenever a function starts
    """

    place: str
    name: str
    always: bool


def check_packages(
    imports: Mapping[str, tuple[ModuleImport, ...]],
    starts: frozenset[str],
    targets: list[PackageContents],
    exclude: tuple[str, ...],
) -> list[str]:
    """Return a note on each import that would fail on Lambda.

    Raises BuildError for one that is executed whenever a function starts, since it could not.

    - ``imports``: those of each module by its path
    - ``starts``: the modules that a function imports first
    - ``exclude``: the patterns in lokki.yml, which may be the reason
    """
    always = always_imported(starts, {module_name(path): statements for path, statements in imports.items()})
    notes: dict[str, int] = {}
    # Most steps have the same files, which are checked once; reversed, so that the first step is the one named.
    distinct = {target.paths: target for target in reversed(targets)}
    for target in distinct.values():
        missing = list(_missing(imports, always, target))
        fatal = [entry for entry in missing if entry.always]
        if fatal:
            raise BuildError(_refusal(fatal, target, exclude))
        for entry in missing:
            line = f"{entry.place} imports {entry.name}, which no package has: that fails if it comes to it"
            notes[line] = notes.get(line, 0) + 1
    # What one step's function imports, and only that step requires, is missing in the others, which do not run it.
    return [line for line, count in notes.items() if count == len(distinct)]


def _missing(
    imports: Mapping[str, tuple[ModuleImport, ...]], always: frozenset[str], target: PackageContents
) -> Iterator[_Missing]:
    """Yield each import of the modules that a package does not have."""
    answers: dict[tuple[str, str], str] = {}
    for path, statements in imports.items():
        for statement in statements:
            # Whoever imports in a try or an if expects that the module may be missing.
            if statement.when == "guarded":
                continue
            if (statement.module, statement.member) not in answers:
                answers[statement.module, statement.member] = target.missing(statement, _is_here)
            if name := answers[statement.module, statement.member]:
                yield _Missing(
                    f"{path}:{statement.line}", name, statement.when == "always" and module_name(path) in always
                )


def _is_here(name: str) -> bool:
    """Tell whether a module is a file on this machine.

    Python is not asked, since importing the packages above would run them.
    """
    base = name.replace(".", "/")
    return any(
        (Path(entry or ".") / f"{base}.py").is_file() or (Path(entry or ".") / base / "__init__.py").is_file()
        for entry in sys.path
    )


def _refusal(missing: list[_Missing], target: PackageContents, exclude: tuple[str, ...]) -> str:
    imports = ", ".join(f"{entry.place} imports {entry.name}" for entry in missing)
    remedies = dict.fromkeys(_remedy(entry.name, exclude) for entry in missing)
    return (
        f"{imports}, which nothing that {target.step}() requires provides, so its function could not start. "
        f"{' '.join(remedies)}"
    )


def _remedy(name: str, exclude: tuple[str, ...]) -> str:
    base = name.replace(".", "/")
    if name.partition(".")[0] == "lokki":
        return "It is not on Lambda: import it in the function that uses it, outside of steps."
    if path_matches(f"{base}.py", exclude) or path_matches(f"{base}/__init__.py", exclude):
        return f"It is excluded in lokki.yml: take it out of exclude, or import {name} in the function that uses it."
    provider = _provider(name)
    if not provider and (file := getattr(sys.modules.get(name), "__file__", None)):
        return f"It is {file}, outside of the project: move it into the project, or install it as a package."
    return (
        "Add to the project's pyproject.toml, or to a requirements.txt beside the flow: "
        f"{provider or name.partition('.')[0]}. If Lambda has it all the same, from a layer, say so in lokki.yml: "
        f"provided: [{name.partition('.')[0]}]."
    )


def _provider(name: str) -> str:
    """Return the installed distribution that has a module.

    It is "" if none is known.
    """
    base = name.replace(".", "/")
    providers = _providers()
    names = (f"{base}.py", f"{base}/__init__.py", base.partition("/")[0])
    return next((providers[entry] for entry in names if entry in providers), "")


@cache
def _providers() -> Mapping[str, str]:
    """Return the installed distributions, by their files and top packages.

    They are listed once: it takes a second, and many imports may be missing.
    """
    providers: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        name = str(distribution.metadata["Name"])
        for file in map(str, distribution.files or ()):
            providers.setdefault(file, name)
            top = file.partition("/")[0].partition(".")[0]
            if top.isidentifier():
                providers[top] = min(name, providers.get(top, name))
    return providers
