"""The program that makes a root for a function's process, and goes in.

It comes first where Linux lets a user have a root of their own.

It is run by its path and imports Python's library only. Arguments: the folder that becomes the root, the bytes of
/tmp, what is mounted in it, a line each, and the program to become.
https://man7.org/linux/man-pages/man7/user_namespaces.7.html
"""

from __future__ import annotations

import ctypes
import os
import sys

USER, GROUP = 993, 990
"""As whom functions run; their home is not there: https://github.com/sodadata/soda-core/issues/664"""

_READ_ONLY, _REMOUNT, _BIND, _RECURSIVE, _PRIVATE, _RELATIVE_TIMES = 0x1, 0x20, 0x1000, 0x4000, 0x40000, 0x200000
_LOCKED_FLAGS = 0x2 | 0x4 | 0x8 | 0x400 | 0x800
"""What the machine forbids on its own mounts, which nobody may allow again: set-user-ids, devices, programs, times."""

_libc = ctypes.CDLL(None, use_errno=True)


def enter(root: str, temporary_bytes: int, mounts: str) -> None:
    """Make the root and go into it.

    Raises OSError where this machine does not let a user do that.
    """
    user, group = os.geteuid(), os.getegid()
    os.unshare(os.CLONE_NEWUSER | os.CLONE_NEWNS)
    _write("/proc/self/setgroups", "deny")  # the kernel asks for it before an unprivileged gid_map
    _write("/proc/self/uid_map", f"{USER} {user} 1")
    _write("/proc/self/gid_map", f"{GROUP} {group} 1")
    _mount("none", "/", _RECURSIVE | _PRIVATE)  # what is mounted from here on is not seen outside
    _mount(root, root, _BIND | _RECURSIVE)
    _mount("tmpfs", f"{root}/tmp", 0x2 | 0x4, "tmpfs", f"size={temporary_bytes},mode=1777")
    for line in mounts.splitlines():
        kind, source, target = line.split("\t")
        _bind(source, f"{root}{target}", writable=kind == "w")
    _make_read_only(root)
    os.chroot(root)
    os.chdir("/var/task")


def _bind(source: str, target: str, *, writable: bool) -> None:
    if os.path.isdir(source):  # noqa: PTH112 - pathlib takes longer to import than all of this
        os.makedirs(target, exist_ok=True)  # noqa: PTH103
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)  # noqa: PTH103, PTH120
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT, 0o644))
    _mount(source, target, _BIND | _RECURSIVE)
    if not writable:  # a bind mount takes no flags of its own at first: it is remounted
        _make_read_only(target)


def _make_read_only(target: str) -> None:
    flags = os.statvfs(target).f_flag
    locked = flags & _LOCKED_FLAGS | (_RELATIVE_TIMES if flags & 0x1000 else 0)
    _mount("none", target, _REMOUNT | _BIND | _READ_ONLY | locked)


def _mount(source: str, target: str, flags: int, kind: str = "", options: str = "") -> None:
    arguments = (
        source.encode(),
        target.encode(),
        kind.encode() or None,
        ctypes.c_ulong(flags),
        options.encode() or None,
    )
    if _libc.mount(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), target)


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:  # noqa: PTH123
        file.write(text)


if __name__ == "__main__":
    enter(sys.argv[1], int(sys.argv[2]), sys.argv[3])
    os.execv(sys.argv[4], sys.argv[4:])
