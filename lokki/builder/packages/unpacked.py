"""What the project's code names and no package has: a ``birds.csv`` beside the flow, plugins by a computed name."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath

from lokki.builder.packages.code import last_name
from lokki.builder.packages.data_files import printable
from lokki.builder.packages.sensitive import is_named_like_secret

_FILE = re.compile(r"[^\0\n*?<>|:]{1,200}\.[A-Za-z][A-Za-z0-9]{0,9}")


def unpacked_files(
    trees: Mapping[str, ast.Module], sources: Mapping[str, Path], packed: Iterable[str]
) -> Iterator[str]:
    """Yield a note on each file that code names and no package has.

    A file counts if it is here. It is looked for beside the module, and where its imports begin, which is the current
    directory on Lambda.

    - ``trees``: the modules, by their paths in packages
    - ``sources``: where each is on this machine
    - ``packed``: the paths of all files that are packed
    """
    noted = {*packed}
    for path, tree in sorted(trees.items()):
        # Code opens files by Path(__file__).parent, or by the current directory.
        folders = {PurePosixPath(path).parent: sources[path].parent, PurePosixPath(): _top(path, sources[path])}
        for line, name in sorted(set(_files_named(tree))):
            for above, folder in folders.items():
                place = (above / name).as_posix()
                if place not in noted and not is_named_like_secret(place) and (folder / name).is_file():
                    noted.add(place)
                    remedy = f"if the flow reads it, include {printable(place)}"
                    yield f"{path}:{line} names {printable(name)}, which no package has; {remedy}"


def unpacked_modules(
    trees: Mapping[str, ast.Module], sources: Mapping[str, Path], packed: Iterable[str]
) -> Iterator[str]:
    """Yield a note on each import by a computed name of what is not packed.

    Such as ``import_module(f"plugins.{name}")``. Arguments are those of `unpacked_files`.
    """
    packed_paths = {*packed}
    for path, tree in sorted(trees.items()):
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and last_name(node.func) in ("import_module", "__import__") and node.args:
                package = _computed_below(node.args[0])
                place = package.replace(".", "/")
                folder = _top(path, sources[path]) / place
                if package and any(f"{place}/{file.name}" not in packed_paths for file in folder.glob("*.py")):
                    yield (
                        f"{path}:{node.lineno} imports modules of {package} by names that it computes, and not all of "
                        f"them are packed; to pack them, include {place}/*.py"
                    )


def _computed_below(name: ast.expr) -> str:
    """Return the package that a computed name of a module is in.

    It is "plugins" for ``f"plugins.{name}"`` and ``"plugins." + name``, "" of anything else.
    """
    match name:
        case ast.JoinedStr(values=[ast.Constant(value=str(text)), *_]):
            start = text
        case ast.BinOp(left=ast.Constant(value=str(text)), op=ast.Add()):
            start = text
        case _:
            return ""
    package, dot, _ = start.rpartition(".")
    return package if dot and all(part.isidentifier() for part in package.split(".")) else ""


def _top(path: str, source: Path) -> Path:
    return source.parents[path.count("/")]


def _files_named(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield the relative paths of files in a module's texts, with lines.

    ``data / "birds" / "a.csv"`` is one.
    """
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=str(text)):
                name = text
            case ast.BinOp(op=ast.Div()):
                name = _divided(node)
            case _:
                continue
        if _FILE.fullmatch(name) and not name.startswith("/") and ".." not in name and not name.endswith(".py"):
            yield node.lineno, name


def _divided(path: ast.BinOp) -> str:
    """Return the texts that a path ends with, joined.

    It is "" for a path that ends with anything else.
    """
    texts: list[str] = []
    left: ast.expr = path
    while isinstance(left, ast.BinOp) and isinstance(left.op, ast.Div):
        if not isinstance(left.right, ast.Constant) or not isinstance(left.right.value, str):
            break
        texts.append(left.right.value)
        left = left.left
    return "/".join(reversed(texts))
