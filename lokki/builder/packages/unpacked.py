"""What the project's code names and no package has, such as a ``birds.csv`` beside the flow."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath

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
