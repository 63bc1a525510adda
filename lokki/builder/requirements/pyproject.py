"""Reading pyproject.toml, the same in a script's comments, and the tables of both.

https://packaging.python.org/en/latest/specifications/pyproject-toml/
"""

from __future__ import annotations

import re
import tokenize
import tomllib
from collections.abc import Mapping
from pathlib import Path

from lokki.builder.package_types import BuildError
from lokki.builder.requirements.origins import requirement_name

type Table = Mapping[str, object]

# https://packaging.python.org/en/latest/specifications/inline-script-metadata/
_SCRIPT = re.compile(r"(?m)^# /// script[ \t]*$\n(?P<content>(?:^#(?: .*)?$\n)+?)^# ///[ \t]*$")


def script_table(file: Path) -> Table | None:
    """Return the metadata in a script's comments, None without any."""
    try:
        with tokenize.open(file) as opened:  # Python may say another encoding
            blocks = list(_SCRIPT.finditer(opened.read()))
    except (SyntaxError, UnicodeDecodeError) as error:
        raise BuildError(f"{file} is not text in the encoding that it says: {error}. Save it as UTF-8.") from None
    if not blocks:
        return None
    lines = blocks[0].group("content").splitlines()
    content = "\n".join(line.removeprefix("#").removeprefix(" ") for line in lines)
    return parse_toml(content, f"the script metadata of {file}")


def read_pyproject(folder: Path) -> Table:
    """Read the pyproject.toml of a folder, empty without one.

    Raises BuildError for one that is not TOML.
    """
    file = folder / "pyproject.toml"
    if not file.is_file():
        return {}
    try:
        return parse_toml(file.read_text("utf-8-sig"), str(file))
    except UnicodeDecodeError:
        raise BuildError(f"{file} is not UTF-8 text, as TOML has to be. Save it as UTF-8.") from None


def project_table(pyproject: Table) -> Table | None:
    """Return the table ``[project]``, None without one."""
    project = pyproject.get("project")
    return project if isinstance(project, dict) else None


def tool_table(table: Table, name: str) -> Table:
    """Return the table of a tool, empty without one."""
    tools = table.get("tool")
    tool = tools.get(name) if isinstance(tools, dict) else None
    return tool if isinstance(tool, dict) else {}


def tables_in(value: object) -> list[Table]:
    """Return the tables of an array, empty for anything else."""
    return [table for table in value if isinstance(table, dict)] if isinstance(value, list) else []


def dependency_lines(value: object, source: str) -> list[str]:
    """Return a list of requirements.

    Raises BuildError, which names the source, for anything else.
    """
    if not isinstance(value, list) or not all(isinstance(member, str) for member in value):
        raise BuildError(f"{source}: dependencies must be a list of texts. Correct it.")
    return value


def workspace_member(name: str, folder: Path) -> Path:
    """Return the folder of a member of a workspace.

    ``folder``: one that is in the workspace. https://docs.astral.sh/uv/concepts/projects/workspaces/
    """
    for root in (folder, *folder.parents):
        workspace = tool_table(read_pyproject(root), "uv").get("workspace")
        patterns = workspace.get("members", []) if isinstance(workspace, dict) else []
        for member in (root, *(place for pattern in patterns for place in sorted(root.glob(pattern)))):
            if requirement_name(str((project_table(read_pyproject(member)) or {}).get("name", ""))) == name:
                return member.resolve()
    raise BuildError(f"{folder / 'pyproject.toml'}: {name} is no member of its workspace. Correct its source.")


def parse_toml(text: str, source: str) -> dict[str, object]:
    """Parse TOML.

    Raises BuildError, which names the source, if it is none.
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BuildError(f"{source} is not valid TOML: {error}. Correct it.") from None
