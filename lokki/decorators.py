"""The two decorators with which a flow is written: ``@step`` and ``@flow``."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Concatenate, Protocol, overload

from lokki.base import signatures
from lokki.base.failures import users_place
from lokki.base.naming import check_step_name, flow_name
from lokki.base.options import Executor, FlowOptions, Retry, StepOptions
from lokki.base.placeholders import REQUIRED, ChainResult, FlowParameter, Param
from lokki.chain import Chain, Drawing, MapBlock, StepNode, SubFlow, check_drawing, drawing, is_drawing
from lokki.errors import FlowError, ParameterError
from lokki.plan import lower

if TYPE_CHECKING:  # start-up: see Flow.using, and StepOptions
    from datetime import date

    from lokki.base.access import Permission, Resource
    from lokki.base.starts import Start
    from lokki.graph import FlowGraph
    from lokki.progress.launching import Launcher

_LEADING_PLACE = re.compile(r".+?\.py:\d+(?=: )")
"""Where an error is, as many begin their text."""

__all__ = ["Flow", "MapBlock", "StepNode", "flow", "step"]


@overload
def step[**P, R](fn: Callable[P, R], /) -> StepNode[P, R]: ...
@overload
def step[**P, R](
    *,
    memory: int | None = None,
    timeout: float | None = None,
    retry: Retry | None = None,
    env: Mapping[str, str | Resource] | None = None,
    dependencies: Iterable[str] = (),
    disk: int | None = None,
    memory_max: int | None = None,
    permissions: Iterable[Permission] = (),
    secrets: Mapping[str, str] | None = None,
    layers: Iterable[str] = (),
    reserved_concurrency: int | None = None,
    seconds: float | None = None,
) -> Callable[[Callable[P, R]], StepNode[P, R]]: ...
def step[**P, R](
    fn: Callable[P, R] | None = None,
    /,
    *,
    memory: int | None = None,
    timeout: float | None = None,
    retry: Retry | None = None,
    env: Mapping[str, str | Resource] | None = None,
    dependencies: Iterable[str] = (),
    disk: int | None = None,
    memory_max: int | None = None,
    permissions: Iterable[Permission] = (),
    secrets: Mapping[str, str] | None = None,
    layers: Iterable[str] = (),
    reserved_concurrency: int | None = None,
    seconds: float | None = None,
) -> StepNode[P, R] | Callable[[Callable[P, R]], StepNode[P, R]]:
    """Make a function a step of flows, by ``@step`` or ``@step(timeout=60)``.

    * ``memory``: megabytes of the step's Lambda function, 128 to 10240. No local meaning: a local step has what the
      machine has. Default: ``lambda_defaults.memory``.
    * ``disk``: megabytes of the function's ``/tmp``, 512 to 10240. No local meaning. Default:
      ``lambda_defaults.disk``.
    * ``memory_max``: megabytes of a second function, in which a call or an item runs again that ran out of memory in
      the first one; of a batch, only the item at fault. No local meaning. Default: none, and it fails.
    * ``timeout``: seconds that one try may take, at most 1,800. Locally a step that runs longer fails the same way; on
      threads Python cannot stop it, so it is left behind and its result is dropped. Default: none locally,
      ``lambda_defaults.timeout`` deployed.
    * ``retry``: when and how often to try again, see `Retry`. Default: one try.
    * ``env``: environment variables of the step. Deployed, they are set before the module is imported; locally, while
      the step runs. `Resource` gives what a resource of ``merge_template`` is called; locally the variable must be set.
    * ``dependencies``: requirements that the step's package has beyond the project's. No local meaning: a local step
      uses the environment that lokki runs in.
    * ``permissions``: what the step's code may do on AWS, as `Read`, `Write` and `Allow` say it, beyond what
      ``lambda_defaults.permissions`` allows to all steps. Its function has a role of its own then. No local meaning: a
      local step has your own keys.
    * ``secrets``: variables of the step, and the name of the secret in Secrets Manager whose value each has, or
      ``ssm:/name`` for a parameter of Systems Manager. Deployed, the values are read when the function starts; locally
      when the run starts, where the variable is not set.
    * ``layers``: ARNs of layers that the step's function has beside ``lambda_defaults.layers``. No local meaning.
    * ``reserved_concurrency``: how many invocations of the step Lambda runs at one time, over all runs; so many are
      kept free for it, too. Maps run no more of it at once. No local meaning. Default: as many as the account runs.
    * ``seconds``: how long one call takes, of one item in a map, as ``estimate`` measured it: for ``@flow(max_cost=…)``
      and for ``estimate``. It limits nothing. Default: not known.

    Each call sees `contextvars`, decimal's context and numpy's error handling as they were when the flow's file had
    been imported, on whichever executor; what it changes in them ends with it. What the file keeps in a
    ``threading.local`` is seen by steps outside of maps, on processes and inline, but not by workers on threads.

    Raises FlowError for options that make no sense, a name that AWS could not have, and ``async def``.
    """
    variables, resources = _variables(env)
    options = StepOptions(
        memory,
        timeout,
        retry,
        variables,
        _tuple(dependencies),
        disk,
        memory_max,
        _permissions(permissions),
        {} if secrets is None else secrets,
        _layers(layers),
        reserved_concurrency,
        resources,
        seconds,
    )

    def decorate(function: Callable[P, R]) -> StepNode[P, R]:
        return _make_step(function, options)

    return decorate if fn is None else decorate(fn)


def _variables(env: Mapping[str, str | Resource] | None) -> tuple[Mapping[str, str], Mapping[str, Resource]]:
    """Return the variables that are texts, and those that name resources."""
    if not isinstance(env, Mapping):  # which StepOptions refuses
        return {} if env is None else env, {}
    texts = {name: value for name, value in env.items() if isinstance(value, str)}
    if len(texts) == len(env):
        return texts, {}
    # Only here: most steps have no resources, and start without the module.
    from lokki.base.access import Resource

    resources = {name: value for name, value in env.items() if isinstance(value, Resource)}
    if len(texts) + len(resources) < len(env):
        raise FlowError(f"@step(env={env!r}): give a dict of strings, such as env={{'REGION': 'eu-north-1'}}.")
    return texts, resources


def _tuple(dependencies: Iterable[str]) -> tuple[str, ...]:
    if isinstance(dependencies, str) or not isinstance(dependencies, Iterable):
        raise FlowError(f"@step(dependencies={dependencies!r}): give a list, such as dependencies=['pandas>=2'].")
    return tuple(dependencies)


def _permissions(permissions: Iterable[Permission]) -> tuple[Permission, ...]:
    if not isinstance(permissions, Iterable):
        raise FlowError(
            f'@step(permissions={permissions!r}): give a list, such as permissions=[Read("s3://lake/raw/")].'
        )
    return tuple(permissions)


def _layers(layers: Iterable[str]) -> tuple[str, ...]:
    if isinstance(layers, str) or not isinstance(layers, Iterable):
        raise FlowError(f"@step(layers={layers!r}): give a list of ARNs.")
    return tuple(layers)


def _make_step[**P, R](function: Callable[P, R], options: StepOptions) -> StepNode[P, R]:
    if isinstance(function, StepNode):
        function = function.fn  # another set of options for the same function
    name = getattr(function, "__name__", None)
    if not callable(function) or not isinstance(name, str):
        raise FlowError(f"@step takes a function with a name, not {function!r}. Put it above a def.")
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise FlowError(f"the step {name}() is async; steps are plain functions. Call asyncio.run(…) inside the step.")
    check_step_name(name)
    return StepNode(function, name, options)


if TYPE_CHECKING:

    class FlowCall[**P, R](FlowGraph, StepNode[P, R]):
        """What a call of a flow is for type checkers.

        It is a graph, and in the body of another flow a step of that one. No type says which of them.
        """

        options: Any


class Flow[**P, R = Any](SubFlow):
    """A flow, which is drawn and checked when it is called.

    Arguments of that call become the defaults of its parameters. In the body of another flow, a call makes it a step of
    that one.
    """

    _is_flow = True

    def __init__(self, fn: Callable[P, object], options: FlowOptions) -> None:
        self.fn = fn
        self.options = options
        self.name = flow_name(fn.__name__)
        self.params = _parameters(fn)
        if options.on:
            # Only here: most flows have none, and start without it.
            from lokki.base.starts import EventParameter, check_starts

            own = [EventParameter(param.name, param.annotation, param.required) for param in self.params]
            check_starts(self.name, options.on, own)
        self.__name__ = fn.__name__
        self.__qualname__ = fn.__qualname__
        self.__module__ = fn.__module__
        self.__doc__ = fn.__doc__
        self.__wrapped__ = fn

    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> FlowCall[P, R]: ...
    # mypy infers Never for a type variable in place of this Any, as for `StepNode`.
    @overload
    def __call__[**Q](
        self: Flow[Concatenate[Any, Q], R], *args: Q.args, **kwargs: Q.kwargs
    ) -> FlowCall[Concatenate[Any, Q], R]: ...
    def __call__(self, *args: object, **kwargs: object) -> FlowGraph | StepNode[..., R]:
        """Draw the flow and check it.

        Its body runs once, with placeholders for the parameters. Raises FlowError for a flow that could not run, and
        ParameterError for arguments that the flow does not take.

        In the body of another flow it is a step, with these arguments, which ``.next``, ``.map``, ``.agg`` and
        ``.switch`` take, and which starts a chain when it has all of them.
        """
        if is_drawing():
            return self.as_step()(*args, **kwargs)
        try:
            defaults = inspect.signature(self.fn).bind_partial(*args, **kwargs).arguments
        except TypeError as error:
            raise ParameterError(f"{self.fn.__name__}(): {error}.") from None
        params = tuple(
            FlowParameter(param.name, param.annotation, defaults.get(param.name, param.default))
            for param in self.params
        )
        try:
            return self._draw(params)
        except FlowError as error:
            code = self.fn.__code__
            own = _LEADING_PLACE.match(str(error))
            error.place = error.place or (own[0] if own else f"{code.co_filename}:{code.co_firstlineno}")
            raise

    def _function(self) -> Callable[P, R]:
        return self.run

    def as_step(self) -> StepNode[..., Any]:
        """Return the step that runs the flow in another one."""
        return StepNode(self.fn, self.__name__, flow=self)

    def draw_body(self, placeholders: list[Param]) -> Chain | tuple[Chain, ...]:
        """Call its function with placeholders and return what it returns.

        Raises FlowError for anything but chains, and for chains that are dropped.
        """
        with drawing(self.fn.__name__) as drawn:
            return _check_head(self.fn.__name__, _call(self.fn, placeholders), drawn)

    @overload
    def run(self, *args: P.args, **kwargs: P.kwargs) -> R: ...
    # A type checker checks parameters beside an option only behind `using`: no type says "P and an option".
    @overload
    def run(self, *args: Any, executor: Executor, **kwargs: Any) -> R: ...
    def run(self, *args: object, **kwargs: object) -> R:
        """Run the flow on this machine and return its result.

        For example ``birds_flow.run(limit=5, executor="inline")``. Arguments are the flow's parameters, as its function
        takes them. ``executor``: see `using`, which has the other options; where the flow has a parameter of that name,
        it is the parameter. The run is kept, for ``resume`` and for ``lokki.local``.

        Raises ParameterError for parameters that do not fit, and RunError when the run failed: the step's own exception
        is its cause, and ``run_id`` says which run to resume.
        """
        options: dict[str, Any] = {}
        if "executor" in kwargs and not any(param.name == "executor" for param in self.params):
            options["executor"] = kwargs.pop("executor")
        launcher: Launcher[..., R] = self.using(**options)
        return launcher.run(*args, **kwargs)

    def resume(
        self,
        run_id: str | None = None,
        *,
        force: bool = False,
        from_step: str | None = None,
        retry_failed: bool = False,
    ) -> R:
        """Resume a run and return its result.

        It failed, was interrupted or was killed, and goes on with its parameters.

        * ``run_id``: default the latest run that is not finished.
        * ``force``: go on also when the flow has changed.
        * ``from_step``: run this step again, and what follows it.
        * ``retry_failed``: run items again whose failures were tolerated, and what follows their map block.

        Raises RunFolderError when there is no such run, and RunError when it failed again.
        """
        return self.using().resume(run_id, force=force, from_step=from_step, retry_failed=retry_failed)

    def using(
        self,
        *,
        executor: Executor = "threads",
        workers: int | None = None,
        run_id: str | None = None,
        root: PurePath | str = ".lokki",
        progress: bool = True,
        keep_going: bool = False,
    ) -> Launcher[P, R]:
        """Return the flow with options for its runs on this machine.

        For example ``birds_flow.using(root=tmp_path).run(limit=5)``.

        * ``executor``: where the items of maps run: ``"threads"``, ``"processes"`` or ``"inline"``.
        * ``workers``: how many items run at one time.
        * ``run_id``: the new run's id; default one made of the time.
        * ``root``: the folder that runs are kept in.
        * ``progress``: show on stderr, or below a notebook's cell, how far the run is.
        * ``keep_going``: run all items of a map although more fail than it tolerates.
        """
        try:
            # Imported here so that Lambda, where flows are only drawn, does not load what runs them.
            from lokki.progress.launching import Launcher, LaunchOptions
        except ModuleNotFoundError as error:
            if error.name != "lokki.progress":
                raise
            raise FlowError(
                f"{self.fn.__name__}.run() runs a flow on a machine of yours, and Lambda has none of it. "
                'Put the call below: if __name__ == "__main__":'
            ) from None

        if is_drawing():
            raise FlowError(
                f"{self.fn.__name__}.run() runs a flow while another one is drawn. Use it as a step: "
                f"{self.fn.__name__}(…), or in .next, .map and .agg."
            )
        options = LaunchOptions(executor, workers, run_id, root, progress, keep_going)
        return Launcher(self.fn, self, options)

    def _draw(self, params: tuple[FlowParameter, ...]) -> FlowGraph:
        # Only here: a function on Lambda draws no flow, and starts faster without what that takes.
        from lokki.graph import FlowGraph

        placeholders = [Param(param.name, param.annotation) for param in params]
        heads = self.draw_body(placeholders)
        graph = FlowGraph(self.name, heads, params, self.options, inspect.cleandoc(self.__doc__ or ""), self)
        if self.options.on:
            self._check_feedback(graph)
        lower(graph)  # finds arguments that cannot travel, here and not in the middle of a run
        return graph

    def _check_feedback(self, graph: FlowGraph) -> None:
        """Raise FlowError for a flow whose steps would start it."""
        from lokki.base.starts import feedback_problem  # as in __init__

        permissions = [entry for step in graph.steps for entry in step.options.permissions]
        if problem := feedback_problem(self.options.on, permissions):
            code = inspect.unwrap(self.fn).__code__
            place = f"{code.co_filename}:{code.co_firstlineno}"
            raise _placed(place, f"the flow {self.name!r} would not end: {problem}")

    def __repr__(self) -> str:
        return f"<flow {self.name}>"

    def _repr_svg_(self) -> str:
        """Draw it, for notebooks."""
        # Imported here so that Lambda, where nobody looks, does not load it.
        from lokki.pictures.svg import svg

        return svg(lower(self._draw(self.params)))


class _FlowDecorator(Protocol):
    """What ``@flow(…)`` makes of a function, by what the function returns."""

    @overload
    def __call__[**P, R](self, fn: Callable[P, StepNode[..., R]], /) -> Flow[P, R]: ...
    @overload
    def __call__[**P, R, S](self, fn: Callable[P, _Two[R, S]], /) -> Flow[P, tuple[R, S]]: ...
    @overload
    def __call__[**P, R, S, T](self, fn: Callable[P, _Three[R, S, T]], /) -> Flow[P, tuple[R, S, T]]: ...
    @overload
    def __call__[**P, R, S, T, U](self, fn: Callable[P, _Four[R, S, T, U]], /) -> Flow[P, tuple[R, S, T, U]]: ...


type _Two[R, S] = tuple[StepNode[..., R], StepNode[..., S]]
type _Three[R, S, T] = tuple[StepNode[..., R], StepNode[..., S], StepNode[..., T]]
type _Four[R, S, T, U] = tuple[StepNode[..., R], StepNode[..., S], StepNode[..., T], StepNode[..., U]]
# Not tuples of any length too: mypy takes a function that fits two of these for one of no known type.


@overload
def flow[**P, R](fn: Callable[P, StepNode[..., R]], /) -> Flow[P, R]: ...
@overload
def flow[**P, R, S](fn: Callable[P, _Two[R, S]], /) -> Flow[P, tuple[R, S]]: ...
@overload
def flow[**P, R, S, T](fn: Callable[P, _Three[R, S, T]], /) -> Flow[P, tuple[R, S, T]]: ...
@overload
def flow[**P, R, S, T, U](fn: Callable[P, _Four[R, S, T, U]], /) -> Flow[P, tuple[R, S, T, U]]: ...
@overload
def flow(
    *,
    schedule: str | None = None,
    timezone: str | None = None,
    timeout: float | None = None,
    on: Iterable[Start] = (),
    schedule_start: date | None = None,
    schedule_end: date | None = None,
    max_cost: float | None = None,
) -> _FlowDecorator: ...
def flow(
    fn: Callable[..., Any] | None = None,
    /,
    *,
    schedule: str | None = None,
    timezone: str | None = None,
    timeout: float | None = None,
    on: Iterable[Start] = (),
    schedule_start: date | None = None,
    schedule_end: date | None = None,
    max_cost: float | None = None,
) -> Flow[..., Any] | Callable[[Callable[..., Any]], Flow[..., Any]]:
    """Make a function a flow, by ``@flow`` or ``@flow(timeout=3600)``.

    Its body chains steps and returns the chain.

    * ``schedule``: ``"rate(1 hour)"`` or ``"cron(0 6 * * ? *)"``, when EventBridge Scheduler starts the deployed flow
      with its parameters' defaults; ``timezone``: the cron's time zone, such as ``"Europe/Helsinki"``, default UTC. No
      local meaning: a laptop has cron.
    * ``schedule_start``, ``schedule_end``: the schedule starts runs from then on, and before then. A date, or a date
      with a time, in ``timezone`` unless it has a zone. Default: from the deployment on, for ever.
    * ``timeout``: seconds that a whole run may take; a longer run fails, locally and deployed. Default: none.
    * ``max_cost``: dollars that a deployed run may cost. It fails before a map starts with whose items it would cost
      more, by what `step`'s ``seconds`` say; each step in a map needs them. No local meaning. Default: none.
    * ``on``: what starts runs of the deployed flow: `S3Created`, `After` and `Event`. No local meaning, but
      ``run --event`` takes such an event from a file.

    Raises FlowError for options that make no sense, and for a name that no AWS resource could have.
    """
    options = FlowOptions(schedule, timezone, timeout, _starts(on), schedule_start, schedule_end, max_cost)

    def decorate(function: Callable[..., Any]) -> Flow[..., Any]:
        if not inspect.isfunction(function) or inspect.iscoroutinefunction(function):
            raise FlowError(f"@flow takes a plain function, not {function!r}. Put it above a def.")
        return Flow(function, options)

    return decorate if fn is None else decorate(fn)


def _starts(on: Iterable[Start]) -> tuple[Start, ...]:
    if not isinstance(on, list | tuple):
        raise FlowError(f'@flow(on={on!r}): give a list, such as on=[S3Created("s3://in/raw/")].')
    return tuple(on)


def _parameters(fn: Callable[..., object]) -> tuple[FlowParameter, ...]:
    hints = signatures.hints(fn)
    parameters = []
    for name, parameter in inspect.signature(fn).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise FlowError(f"the flow {fn.__name__}() takes {parameter}; a flow's parameters need names of their own.")
        default = REQUIRED if parameter.default is parameter.empty else parameter.default
        parameters.append(FlowParameter(name, hints.get(name, signatures.UNKNOWN), default))
    return tuple(parameters)


def _call(fn: Callable[..., object], placeholders: list[Param]) -> object:
    """Call the body with its placeholders.

    They are passed by position or by name, as each parameter takes it.
    """
    kinds = [parameter.kind for parameter in inspect.signature(fn).parameters.values()]
    names = list(inspect.signature(fn).parameters)
    by_name = {
        name: value
        for name, kind, value in zip(names, kinds, placeholders, strict=True)
        if kind is inspect.Parameter.KEYWORD_ONLY
    }
    try:
        return fn(*placeholders[: len(placeholders) - len(by_name)], **by_name)
    except FlowError as error:
        place = users_place(error.__traceback__)
        raise _placed(place, str(error).removeprefix(f"{place}: ")) from error


def _placed(place: str, text: str) -> FlowError:
    error = FlowError(f"{place}: {text}")
    error.place = place
    return error


def _check_head(name: str, head: object, drawn: Drawing) -> Chain | tuple[Chain, ...]:
    """Return what a body returned, which is a chain or a tuple of chains.

    Raises FlowError for anything else, and for chains that are no part of it.
    """
    heads = head if isinstance(head, tuple) and head else (head,)
    for chain in heads:
        if not isinstance(chain, StepNode | MapBlock):
            raise FlowError(
                f"the flow {name}() returned {_returned_text(head)}. "
                "Return the chain, such as: return get_birds().map(flap_bird).agg(join_birds)"
            )
        check_drawing(chain)
    dropped = drawn.dropped(heads)
    if dropped:
        lost = dropped[-1]
        where = lost.where if isinstance(lost, StepNode) else lost.inner_steps[-1].where
        raise _placed(
            where,
            f"{lost} was started and dropped: it is not part of what {name}() returns, so it would never run. "
            "Chaining returns a new chain: use its result.",
        )
    return heads if isinstance(head, tuple) else heads[0]


def _returned_text(head: object) -> str:
    if head is None:
        return "None"
    if isinstance(head, ChainResult):
        return f"{head!r}, which is no chain of steps: leave .result out"
    if isinstance(head, list) and any(isinstance(member, StepNode) for member in head):
        return "a list. To get several results, return a tuple of chains"
    return f"{head!r}, which is no chain of steps"
