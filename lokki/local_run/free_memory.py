"""How much memory is free: of the machine, and of the container or other control group that the process is in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")
# By what /proc/self/cgroup calls the hierarchy: version 2 has one without a name. See cgroups(7).
_FILES = {
    "": ("memory.max", "memory.current"),
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes"),
}


def free_memory() -> int:
    """Return how many bytes of memory are free.

    0 where the system does not tell.
    """
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        kibibytes = [int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
        groups = Path("/proc/self/cgroup").read_text().splitlines()
    except (OSError, ValueError):  # macOS has no /proc
        return 0
    return max(0, min((*(1024 * number for number in kibibytes), *_left_in(groups)), default=0))


def _left_in(groups: list[str]) -> Iterator[int]:
    """Yield how many bytes are left of each limit that the process has.

    ``groups``: the lines of /proc/self/cgroup. A group has its parents' limits, too.
    """
    for line in groups:
        _, hierarchy, path = line.split(":", 2)
        if hierarchy in _FILES:
            limit, usage = _FILES[hierarchy]
            folder = _GROUPS / hierarchy / path.lstrip("/")
            for group in (folder, *folder.parents):
                # The root has no limit, a container may not see its parents, and "max" is no number.
                with suppress(OSError, ValueError):
                    yield int((group / limit).read_text()) - int((group / usage).read_text())
