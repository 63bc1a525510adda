"""Why a step failed, described for people: the user's line, and a traceback without lokki's own frames."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # loaded only when something failed: a Lambda function starts faster without it
    import traceback

_PACKAGE = __file__.rpartition("/")[0] + "/"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a step failed: the error's class name and message, the user's line, and the traceback of the user's code."""

    step: str
    error: str
    message: str
    where: str = ""
    traceback: str = ""
    full_traceback: str = ""
    attempts: int = 1

    def __str__(self) -> str:
        tries = f" (tried {self.attempts} times)" if self.attempts > 1 else ""
        place = f" at {self.where}" if self.where else ""
        return f"{self.step}() raised {self.error}{': ' if self.message else ''}{self.message}{place}{tries}"


def failure_of(step: str, error: BaseException, attempts: int = 1, defined_at: str = "") -> Failure:
    """Describe an error that a step raised: lokki's own frames are left out of the traceback.

    ``defined_at``: ``file:line`` of the step, for errors that come from no line of the user's. A step that calls
    ``sys.exit()`` raises SystemExit, which is described like any other.
    """
    import traceback  # only here: most starts of a Lambda function end without a failure

    users = _without_own_frames(error)
    where = users_place(error.__traceback__) or defined_at
    full = "".join(traceback.format_exception(error))
    name, message, where, users, full = map(_encodable, (type(error).__qualname__, _message(error), where, users, full))
    return Failure(step, name, message, where, users, full, attempts)


def _encodable(text: str) -> str:
    """Escape halves of surrogate pairs, such as those of bytes that were no UTF-8: no file could hold them."""
    return text.encode("utf-8", "backslashreplace").decode()


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as broken:  # a user's __str__ may raise anything, and its failure must not hide the first
        return f"(its text cannot be shown: str() raised {type(broken).__name__})"


def _without_own_frames(error: BaseException) -> str:
    import traceback  # only here, as above

    described = traceback.TracebackException.from_exception(error)
    current: traceback.TracebackException | None = described
    while current is not None:
        current.stack = traceback.StackSummary.from_list([f for f in current.stack if not _is_own(f.filename)])
        current = current.__cause__ or current.__context__
    return "".join(described.format())


def _is_own(filename: str) -> bool:
    return filename.startswith(_PACKAGE)


def users_place(trace: TracebackType | None) -> str:
    """Return ``file:line`` of the user's line that an error came from, or nothing when there is none.

    That is the last one outside of Python's library and installed packages; where there is none, the first outside
    lokki.
    """
    outside = _places_outside_lokki(trace)
    return (_of_users_files(outside)[-1:] or outside[:1] or [""])[0]


def place_in_users_files(trace: TracebackType | None) -> str:
    """Return ``file:line`` of the last line outside of Python's library and installed packages, or nothing."""
    return (_of_users_files(_places_outside_lokki(trace))[-1:] or [""])[0]


def _places_outside_lokki(trace: TracebackType | None) -> list[str]:
    import traceback  # only here, as above

    return [f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_tb(trace) if not _is_own(frame.filename)]


def _of_users_files(places: list[str]) -> list[str]:
    libraries = _libraries()
    return [place for place in places if not place.startswith(libraries)]


def _libraries() -> tuple[str, ...]:
    from sysconfig import get_paths  # only here, as above

    folders = (get_paths()[kind] + "/" for kind in ("stdlib", "platstdlib", "purelib", "platlib"))
    # Modules of the library that are built into Python, such as os; and what dataclasses generates.
    return ("<frozen ", "<string>", *folders)
