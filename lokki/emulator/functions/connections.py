"""Which process has the other end of a connection on loopback, by what Linux says of its sockets.

The runtime client knows no secret that it could send with an error of the start, so the runtime API looks at who asks.
https://man7.org/linux/man-pages/man5/proc.5.html, /proc/net/tcp and /proc/pid/fd.
"""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path

_TABLE = Path("/proc/net/tcp")
_LOCAL, _REMOTE, _INODE = 1, 2, 9
"""Columns of the table."""


def belongs_to(pid: int, peer: tuple[str, int], here: tuple[str, int]) -> bool:
    """Tell whether the other end of a connection is a process's.

    ``peer``: the address of that end; ``here``: that of ours.
    """
    inode = _inode(_written(peer), _written(here))
    return inode is not None and _has(pid, f"socket:[{inode}]")


def _written(address: tuple[str, int]) -> str:
    """Write an IPv4 address as the table does.

    >>> _written(("127.0.0.1", 80)) in ("0100007F:0050", "7F000001:0050")
    True
    """
    host = struct.unpack("=I", socket.inet_aton(address[0]))[0]
    return f"{host:08X}:{address[1]:04X}"


def _inode(local: str, remote: str) -> str | None:
    try:
        table = _TABLE.read_text("ascii")
    except OSError:
        return None
    # A line for each socket of the machine: looked for as text first, since there may be thousands.
    start = table.find(f" {local} {remote} ")
    if start < 0:
        return None
    columns = table[table.rfind("\n", 0, start) + 1 : table.find("\n", start)].split()
    return columns[_INODE] if (columns[_LOCAL], columns[_REMOTE]) == (local, remote) else None


def _has(pid: int, link: str) -> bool:
    folder = f"/proc/{pid}/fd"
    try:
        names = os.listdir(folder)  # noqa: PTH208 - on each connection of a function
    except OSError:
        return False
    return any(_target(f"{folder}/{name}") == link for name in names)


def _target(path: str) -> str:
    try:
        return os.readlink(path)  # noqa: PTH115
    except OSError:
        return ""
