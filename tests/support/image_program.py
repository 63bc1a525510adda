"""A program that stands for docker, podman or buildah: it notes how it is called, and fails where it is told to."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Program:
    """A program in a folder of its own that notes how it was called, and fails where it is told to."""

    folder: Path
    name: str

    @property
    def environ(self) -> dict[str, str]:
        return {"PATH": f"{self.folder}{os.pathsep}{os.defpath}"}

    def calls(self) -> list[list[str]]:
        return [json.loads(line) for line in (self.folder / "calls").read_text().splitlines()]


def program(folder: Path, name: str, fails: str = "") -> Program:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(
        "#!/usr/bin/env python3\n"
        "import json, sys, pathlib\n"
        "given = sys.stdin.read()\n"
        f"with open({str(folder / 'calls')!r}, 'a') as file:\n"
        "    file.write(json.dumps(sys.argv[1:] + ([given] if given else [])) + '\\n')\n"
        f"if sys.argv[1] == {fails!r}:\n"
        "    print('step 3/9 failed')\n"
        "    sys.exit('no space left on device')\n"
    )
    path.chmod(0o755)
    return Program(folder, name)
