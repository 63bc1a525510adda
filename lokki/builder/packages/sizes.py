"""Sizes of packages: refused where Lambda would not take them, and written for people."""

from __future__ import annotations

from collections.abc import Mapping

from lokki.builder.package_types import BuildError

_LARGEST = 10
"""Parts that a refusal names; there may be thousands."""


def refuse_too_large(sizes: Mapping[str, int], limit: int, subject: str, advice: str) -> None:
    """Raise BuildError, with a table of the largest parts, above a limit.

    - ``sizes``: bytes of each part, by name
    - ``subject``: what has the parts, in a sentence with ``{size}``: "the data files have {size}"
    """
    total = sum(sizes.values())
    if total <= limit:
        return
    largest = sorted(sizes.items(), key=lambda part: (-part[1], part[0]))[:_LARGEST]
    table = "\n".join(f"  {size / 2**20:9.1f} MiB  {name}" for name, size in largest)
    raise BuildError(
        f"{subject.format(size=f'{total / 2**20:.1f} MiB')}; Lambda takes {limit / 2**20:.0f} MiB. "
        f"The largest are:\n{table}\n{advice}"
    )


def size_text(size: int) -> str:
    """Write a number of bytes for people.

    >>> size_text(512), size_text(6592), size_text(17_531_355), size_text(80_530_636_800)
    ('512 B', '6.4 KiB', '16.7 MiB', '75.0 GiB')
    """
    if size < 1024:
        return f"{size} B"
    if size < 2**20:
        return f"{size / 1024:.1f} KiB"
    return f"{size / 2**20:.1f} MiB" if size < 2**30 else f"{size / 2**30:.1f} GiB"
