"""Local runs from Python, by ``birds_flow.run(limit=5)`` in scripts, tests and notebooks."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path, PurePath
from types import TracebackType
from typing import cast

from lokki.base.failures import is_own_file
from lokki.base.naming import check_run_id
from lokki.base.options import Executor
from lokki.engine.context import place
from lokki.errors import FlowError, ParameterError, RunError
from lokki.graph import FlowGraph
from lokki.loading import is_importing
from lokki.local_run.levels import LogLevels
from lokki.local_run.own_thread import call_on_thread
from lokki.progress.displays import Display, Nothing, PlainLines
from lokki.progress.notebook import NotebookLines, cell_output, in_notebook
from lokki.progress.run_log import Recorder
from lokki.runner import LocalRunner, Resume


@dataclass(frozen=True, slots=True)
class LaunchOptions:
    """How a flow runs on this machine, as `Flow.using` explains."""

    executor: Executor = "threads"
    workers: int | None = None
    run_id: str | None = None
    root: PurePath | str = ".lokki"
    progress: bool = True
    keep_going: bool = False


_OPTIONS = frozenset(field.name for field in fields(LaunchOptions))


class Launcher[**P, R]:
    """A flow with options for its runs on this machine.

    ``birds_flow.using(workers=2)`` makes one.

    * ``fn``: the flow's function, whose parameters `run` takes.
    * ``draw``: draws the flow.
    """

    def __init__(self, fn: Callable[P, object], draw: Callable[[], FlowGraph], options: LaunchOptions) -> None:
        self._fn = fn
        self._draw = draw
        self._options = options

    def run(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the flow and return its result, as `Flow.run` explains."""
        if self._options.run_id is not None:
            check_run_id(self._options.run_id)
        return self._execute(_by_name(self._fn, args, kwargs), None)

    def resume(
        self,
        run_id: str | None = None,
        *,
        force: bool = False,
        from_step: str | None = None,
        retry_failed: bool = False,
    ) -> R:
        """Resume a run and return its result, as `Flow.resume` explains."""
        resume = Resume(run_id or self._options.run_id, force=force, from_step=from_step, retry_failed=retry_failed)
        return self._execute({}, resume)

    def _execute(self, params: Mapping[str, object], resume: Resume | None) -> R:
        if is_importing() and not place()[0]:
            # Each worker process would start the run again.
            raise FlowError(
                f"{self._fn.__name__} is run while its file is imported, as worker processes and the command line do. "
                'Put the call below: if __name__ == "__main__":'
            )
        options = self._options
        recorder = Recorder(_display(options.progress), lambda emit: None)
        runner = LocalRunner(
            root=Path(options.root),
            executor=options.executor,
            workers=options.workers,
            listener=recorder,
            keep_going=options.keep_going,
            captured=LogLevels(),
        )
        run_id = options.run_id if resume is None else None
        call = partial(runner.run, self._draw(), params, run_id=run_id, resume=resume)
        try:
            # The flow says what its last step returns; the store gave what it returned.
            return cast("R", _called(call, options.executor))
        except RunError as error:
            # Without the frames of lokki's own, which tell a user nothing.
            raise self._told(error, recorder.report.run_id).with_traceback(None) from _users_cause(error)
        finally:
            recorder.close()

    def _told(self, error: RunError, run_id: str) -> RunError:
        """Add to an error how the run that ended with it is resumed."""
        if run_id:
            error.run_id = run_id
            root = str(self._options.root)
            flow = self._fn.__name__ + (f".using(root={root!r})" if root != ".lokki" else "")
            error.add_note(f"fix it and resume with: {flow}.resume({run_id!r})")
        return error


def _by_name(fn: Callable[..., object], args: tuple[object, ...], kwargs: Mapping[str, object]) -> dict[str, object]:
    """Return arguments by name.

    Unknown and missing names are left to the binding of parameters, which says more.
    """
    signature = inspect.signature(fn)
    for name in kwargs:
        if name not in signature.parameters and name in _OPTIONS:
            hint = f"{fn.__name__}.using({name}=…).run(…)"
            raise ParameterError(f"{name!r} is no parameter of {fn.__name__}() but an option of its runs: {hint}.")
    matching = {name: value for name, value in kwargs.items() if name in signature.parameters}
    try:
        bound = signature.bind_partial(*args, **matching).arguments
    except TypeError as error:
        raise ParameterError(f"{fn.__name__}(): {error}.") from None
    return {**bound, **kwargs}


def _called(call: Callable[[], object], executor: Executor) -> object:
    """Call the runner where steps may call ``asyncio.run``.

    That is not below a loop that is running, as in notebooks. The executor ``inline`` stays on the calling thread all
    the same, for debuggers.
    """
    asyncio = sys.modules.get("asyncio")
    if executor == "inline" or asyncio is None or asyncio._get_running_loop() is None:
        return call()
    return call_on_thread(call)


def _display(progress: bool) -> Display:
    if not progress or sys.stderr is None:
        return Nothing()
    return NotebookLines(cell_output()) if in_notebook() else PlainLines(sys.stderr)


def _users_cause(error: RunError) -> BaseException | None:
    """Return what the step raised, with the user's frames alone."""
    cause = error.__cause__
    if cause is None:
        return None
    frames: list[TracebackType] = []
    trace = cause.__traceback__
    while trace is not None:
        frames += [] if is_own_file(trace.tb_frame.f_code.co_filename) else [trace]
        trace = trace.tb_next
    users: TracebackType | None = None
    for frame in reversed(frames):
        users = TracebackType(users, frame.tb_frame, frame.tb_lasti, frame.tb_lineno)
    return cause.with_traceback(users)
