"""Why a step failed, for people.

The place is the user's line, and the traceback leaves out lokki's own frames.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TYPE_CHECKING

from lokki.errors import StepTimeoutError, StopSignal

if TYPE_CHECKING:  # loaded only when something failed: a Lambda function starts faster without it
    import traceback

_PACKAGE = __file__.rpartition("/base/")[0] + "/"


_LEAST_HIDDEN = 4


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a step failed.

    * ``error``, ``message``: the class name of the error, and its text.
    * ``where``: ``file:line`` of the user's line.
    * ``traceback``: of the user's code; ``full_traceback``: with lokki's frames.
    * ``attempts``: how many tries there were.
    """

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
        return f"{self.step}() raised {self.summary.removesuffix('.') if place else self.summary}{place}{tries}"

    @property
    def summary(self) -> str:
        """The error and the first line of its message."""
        line = first_line(self.message)
        return f"{self.error}: {line}" if line else self.error


def hide_values(failure: Failure, values: Iterable[str]) -> Failure:
    """Return a failure whose texts do not show some values.

    Values of less than four characters stand in too many words to be hidden.

    >>> hide_values(Failure("load", "ValueError", "bad token 0123"), ["0123"]).message
    'bad token ***'
    """
    message, users, full = failure.message, failure.traceback, failure.full_traceback
    for value in sorted(values, key=len, reverse=True):
        if len(value) >= _LEAST_HIDDEN:
            message, users, full = (text.replace(value, "***") for text in (message, users, full))
    return replace(failure, message=message, traceback=users, full_traceback=full)


def first_line(text: str) -> str:
    r"""Return the first line of a text, with a mark where more follow.

    Empty lines at the beginning are left out.

    >>> first_line("bad"), first_line("\nbad:\n1\n2"), first_line("bad\n")
    ('bad', 'bad: …', 'bad')
    """
    lines = [line for line in text.splitlines() if line.strip()]
    return f"{lines[0].strip()} …" if len(lines) > 1 else text.strip()


def failure_of(step: str, error: BaseException, attempts: int = 1, defined_at: str = "") -> Failure:
    """Describe an error that a step raised.

    lokki's own frames are left out of the traceback.

    ``defined_at``: ``file:line`` of the step, for errors that come from no line of the user's. A step that calls
    ``sys.exit()`` raises SystemExit, which is described like any other.
    """
    message, name = error_text(error), _class_name(error)
    where, users, full = defined_at, "", ""
    try:
        # A timeout is an option of the step, and where the step was by then says its traceback.
        is_late = isinstance(error, StepTimeoutError) and defined_at
        where = defined_at if is_late else users_place(trace_of(error)) or defined_at
        users, full = _formatted(error, without_own=True), _formatted(error, without_own=False)
    except (KeyboardInterrupt, StopSignal):
        raise
    except BaseException as broken:  # attributes of a user's exception may raise anything
        users = full = f"{name}: {message}\n(its traceback cannot be shown: {_class_name(broken)})\n"
    name, message, where, users, full = map(_encodable, (name, message, where, users, full))
    return Failure(step, name, message, where, users, full, attempts)


def error_text(error: BaseException) -> str:
    """Return the text of any error.

    A user's ``__str__`` may raise, and that must not hide the error itself.
    """
    try:
        return _exact(str(error))
    except (KeyboardInterrupt, StopSignal):
        raise
    except BaseException as broken:
        return f"(its text cannot be shown: str() raised {_class_name(broken)})"


def describe_error(error: BaseException) -> str:
    """Describe an error by its class, its text and the user's line.

    >>> describe_error(ValueError("bad")), describe_error(KeyError())
    ('ValueError: bad', 'KeyError')
    """
    text = first_line(error_text(error))
    place = place_in_users_files(trace_of(error))
    return f"{_class_name(error)}{': ' if text else ''}{text}{f' at {place}' if place else ''}"


def trace_of(error: BaseException) -> TracebackType | None:
    """Return the traceback of an error.

    Read from BaseException, past what a user's class says that it is.
    """
    trace: TracebackType | None = vars(BaseException)["__traceback__"].__get__(error)
    return trace


def _class_name(error: BaseException) -> str:
    return str(type.__dict__["__qualname__"].__get__(type(error)))  # past what a metaclass of the user's says


def _exact(text: str) -> str:
    """Return text as a plain str.

    The methods of a subclass would be the user's code.
    """
    return str.__str__(text)


def _encodable(text: str) -> str:
    """Escape halves of surrogate pairs, which no file could hold.

    They come from bytes that were not UTF-8.
    """
    return text.encode("utf-8", "backslashreplace").decode()


def _formatted(error: BaseException, *, without_own: bool) -> str:
    """Format an error with its causes as Python does.

    ``without_own``: without lokki's own frames.
    """
    import traceback  # only here: most starts of a Lambda function end without a failure

    formatted = traceback.TracebackException.from_exception(error)
    current: traceback.TracebackException | None = formatted
    while without_own and current is not None:
        current.stack = traceback.StackSummary.from_list([f for f in current.stack if not is_own_file(f.filename)])
        current = current.__cause__ or current.__context__
    return "".join(formatted.format())


def is_own_file(filename: str) -> bool:
    """Tell whether a file is one of lokki's own."""
    return filename.startswith(_PACKAGE)


def users_place(trace: TracebackType | None) -> str:
    """Return ``file:line`` of the user's line that an error came from.

    It is empty where there is none.
    That is the last one outside of Python's library and installed packages; where there is none, the first outside
    lokki.
    """
    outside = _places_outside_lokki(trace)
    return (_of_users_files(outside)[-1:] or outside[:1] or [""])[0]


def place_in_users_files(trace: TracebackType | None) -> str:
    """Return ``file:line`` of the last line in the user's own files.

    Those are outside of Python's library and installed packages. Nothing where there is none.
    """
    return (_of_users_files(_places_outside_lokki(trace))[-1:] or [""])[0]


def _places_outside_lokki(trace: TracebackType | None) -> list[str]:
    import traceback  # only here, as above

    return [
        f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_tb(trace) if not is_own_file(frame.filename)
    ]


def _of_users_files(places: list[str]) -> list[str]:
    libraries = _libraries()
    return [place for place in places if not place.startswith(libraries)]


def _libraries() -> tuple[str, ...]:
    from sysconfig import get_paths  # only here, as above

    folders = (get_paths()[kind] + "/" for kind in ("stdlib", "platstdlib", "purelib", "platlib"))
    # Modules of the library that are built into Python, such as os; and what dataclasses generates.
    return ("<frozen ", "<string>", *folders)
