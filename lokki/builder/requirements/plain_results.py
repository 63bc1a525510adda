"""Whether a step can only hand on plain values of Python: then who reads them needs no package for it.

Results travel pickled, and unpickling imports the classes of what is in them. An annotation proves nothing, since
``numpy.float64`` is a ``float``. What is proved here is that every expression that the function returns is made of
constants, of calls such as ``float(…)`` which give exactly that type, and of displays and comprehensions of such. In
doubt the answer is no.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from lokki.builder.requirements.statements import Statements, dotted_name, import_aliases

_SCALARS = frozenset(
    {
        "int",
        "float",
        "str",
        "bool",
        "len",
        "bytes",
        "repr",
        "ascii",
        "hex",
        "oct",
        "bin",
        "ord",
        "chr",
        "hash",
        "isinstance",
        "issubclass",
        "any",
        "all",
        "range",
    }
)
"""Builtins that give a plain value whatever they are given."""

_CONTAINERS = frozenset(
    {
        "list",
        "tuple",
        "set",
        "frozenset",
        "dict",
        "sorted",
        "sum",
        "min",
        "max",
        "abs",
        "round",
        "divmod",
        "pow",
        "zip",
        "enumerate",
        "reversed",
    }
)
"""Builtins that give a plain value of plain ones."""

_PLAIN_CALLS = frozenset({"json.loads", "json.dumps", "time.time", "os.getenv", "math.sqrt", "math.fsum"})
_TO_PYTHON = frozenset({"tolist", "item"})
"""Methods of arrays that give numbers of Python, where the function is annotated to return such."""

_JSON_NAMES = frozenset(
    {"int", "float", "str", "bool", "None", "list", "dict", "tuple", "Sequence", "Mapping", "Iterable"}
)
_CHANGING = frozenset({"append", "extend", "add", "insert", "update", "setdefault", "appendleft"})
_READING = frozenset(
    {
        "keys",
        "values",
        "items",
        "get",
        "pop",
        "copy",
        "count",
        "index",
        "split",
        "rsplit",
        "splitlines",
        "strip",
        "lstrip",
        "rstrip",
        "lower",
        "upper",
        "title",
        "join",
        "format",
        "replace",
        "removeprefix",
        "removesuffix",
        "encode",
        "decode",
        "startswith",
        "endswith",
        "isdigit",
        "partition",
        "rpartition",
        "zfill",
    }
)
_STEP_DECORATORS = frozenset({"lokki.step", "lokki.decorators.step"})
_VALUE_CLASSES = frozenset({"NamedTuple", "TypedDict"})


def returns_plain_values(tree: ast.Module, statements: Statements, name: str, *, plain_input: bool) -> bool:
    """Tell whether a function at a module's top level returns plain values.

    - ``statements``: the reader of the module's statements
    - ``plain_input``: whether the function is called with plain values
    """
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
    parts = statements.of(tree)
    # A star may bind any name, that of a builtin too.
    if len(functions) != 1 or any(part.has_star for part in parts):
        return False
    function, module_names = functions[0], {*_bound(tree.body)}
    parameters, stored = {*_parameters(function)}, {node.id for node in _stored_names(function)}
    scope = _Scope(
        import_aliases(parts),
        _value_classes(tree),
        _returns_json(function),
        frozenset(module_names | parameters | stored),
    )
    if not all(scope.is_step(decorator) for decorator in function.decorator_list):
        return False
    # A default is a value that was made when the module was imported, and may be anything.
    inputs = parameters if plain_input and _has_plain_defaults(function) else set[str]()
    plain = frozenset(inputs) | frozenset(stored - parameters - module_names)
    while True:  # from all names down to those of which nothing says otherwise
        rest = plain - {*scope.tainted(function, plain)}
        if rest == plain:
            break
        plain = rest
    return all(scope.is_plain(result, plain) for result in _results(function))


@dataclass(frozen=True, slots=True)
class _Scope:
    """What is known of names in a module.

    - ``aliases``: what names are imported as
    - ``classes``: the module's own that hold plain values
    - ``returns_json``: whether the function is annotated to return what JSON has
    - ``bound``: names that are bound in the module or the function
    """

    aliases: Mapping[str, str]
    classes: frozenset[str]
    returns_json: bool
    bound: frozenset[str]

    def is_step(self, decorator: ast.expr) -> bool:
        """Tell whether a decorator is ``@step``, which changes no result."""
        return self._name(decorator.func if isinstance(decorator, ast.Call) else decorator) in _STEP_DECORATORS

    def tainted(self, function: ast.FunctionDef, plain: frozenset[str]) -> Iterator[str]:
        """Yield the local names that may hold a value that is not plain."""
        for node in ast.walk(function):
            match node:
                case ast.Assign(targets=targets, value=value):
                    yield from self._tainted_by(targets, value, plain)
                case (
                    ast.AnnAssign(target=target, value=ast.expr() as value)
                    | ast.AugAssign(target=target, value=value)
                    | ast.NamedExpr(target=target, value=value)
                    | ast.For(target=target, iter=value)
                    | ast.comprehension(target=target, iter=value)
                ):
                    yield from self._tainted_by([target], value, plain)
                case ast.withitem(optional_vars=ast.expr() as target):
                    yield from _names(target)
                case ast.ExceptHandler(name=str(name)):
                    yield name
                case ast.Global(names=names) | ast.Nonlocal(names=names):
                    yield from names
                case ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)) | ast.MatchMapping(rest=str(name)):
                    yield name
                case ast.Call():
                    yield from self._changed_by(node, plain)
                case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda() | ast.ClassDef() if node is not function:
                    yield from (child.id for child in ast.walk(node) if isinstance(child, ast.Name))

    def _tainted_by(self, targets: Iterable[ast.expr], value: ast.expr, plain: frozenset[str]) -> Iterator[str]:
        """Yield the names of both sides if one is not plain.

        Both may be the same list.
        """
        names = [name for target in targets for name in _stored_in(target)]
        keys = [node.slice for target in targets for node in ast.walk(target) if isinstance(node, ast.Subscript)]
        if not plain.issuperset(names) or not all(self.is_plain(part, plain) for part in [value, *keys]):
            yield from (*names, *_names(value))

    def _changed_by(self, call: ast.Call, plain: frozenset[str]) -> Iterator[str]:
        """Yield the names into which a call may put what is not plain."""
        arguments = [*call.args, *(keyword.value for keyword in call.keywords)]
        if self._is_safe(call.func):
            return
        if isinstance(call.func, ast.Attribute):
            if call.func.attr in _READING:
                return
            if call.func.attr in _CHANGING and all(self.is_plain(argument, plain) for argument in arguments):
                return
            yield from _names(call.func.value)
        yield from (name for argument in arguments for name in _names(argument))

    def _is_safe(self, function: ast.expr) -> bool:
        name = self._name(function)
        return name in _SCALARS | _CONTAINERS | _PLAIN_CALLS | {"print"} or name in self.classes

    def _name(self, function: ast.expr) -> str:
        """Return the name of a builtin, an import or a class of the module.

        It is "" for anything else.
        """
        name = imported_name(function, self.aliases)
        if name or not isinstance(function, ast.Name):
            return name
        return function.id if function.id in self.classes or function.id not in self.bound else ""

    def is_plain(self, value: ast.expr, plain: frozenset[str]) -> bool:
        """Tell whether an expression gives nothing but plain values.

        ``plain``: the names that are bound to such.
        """
        match value:
            case ast.Constant() | ast.JoinedStr():
                return True
            case ast.Name(id=name):
                return name in plain
            case ast.Call():
                return self._gives_plain(value, plain)
            case ast.Subscript(value=inner):
                return self.is_plain(inner, plain)
            case ast.IfExp(body=left, orelse=right):
                return self.is_plain(left, plain) and self.is_plain(right, plain)
            case ast.Compare(left=left, comparators=others):
                return all(self.is_plain(part, plain) for part in [left, *others])
            case ast.BinOp() | ast.UnaryOp() | ast.BoolOp() | ast.List() | ast.Tuple() | ast.Set():
                parts = [child for child in ast.iter_child_nodes(value) if isinstance(child, ast.expr)]
                return all(self.is_plain(part, plain) for part in parts)
            case ast.Starred(value=inner) | ast.NamedExpr(value=inner):
                return self.is_plain(inner, plain)
            case ast.Dict(keys=keys, values=values):
                return all(part is None or self.is_plain(part, plain) for part in [*keys, *values])
            case ast.ListComp(elt=element) | ast.SetComp(elt=element) | ast.GeneratorExp(elt=element):
                return self.is_plain(element, plain)
            case ast.DictComp(key=key, value=inner):
                return self.is_plain(key, plain) and self.is_plain(inner, plain)
        return False

    def _gives_plain(self, call: ast.Call, plain: frozenset[str]) -> bool:
        name = self._name(call.func)
        if name in _SCALARS | _PLAIN_CALLS:
            return True
        arguments = [*call.args, *(keyword.value for keyword in call.keywords)]
        are_plain = all(self.is_plain(argument, plain) for argument in arguments)
        if name in _CONTAINERS or name in self.classes:
            return are_plain
        if isinstance(call.func, ast.Attribute):
            if call.func.attr in _TO_PYTHON and self.returns_json and not arguments:
                return True
            return call.func.attr in _READING and are_plain and self.is_plain(call.func.value, plain)
        return False


def _parameters(function: ast.FunctionDef) -> list[str]:
    every = function.args
    return [
        parameter.arg
        for parameter in (
            *every.posonlyargs,
            *every.args,
            *every.kwonlyargs,
            *filter(None, [every.vararg, every.kwarg]),
        )
    ]


def _has_plain_defaults(function: ast.FunctionDef) -> bool:
    defaults = [*function.args.defaults, *filter(None, function.args.kw_defaults)]
    return all(isinstance(default, ast.Constant) for default in defaults)


def _stored_names(function: ast.FunctionDef) -> Iterator[ast.Name]:
    return (node for node in ast.walk(function) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store))


def _names(expression: ast.AST) -> Iterator[str]:
    return (node.id for node in ast.walk(expression) if isinstance(node, ast.Name))


def _stored_in(target: ast.expr) -> Iterator[str]:
    """Yield the names that an assignment binds, or changes the content of.

    Targets are such as ``a``, ``(a, b)``, ``a[0]``, ``a.b``.
    """
    if isinstance(target, ast.Tuple | ast.List):
        for member in target.elts:
            yield from _stored_in(member)
    else:
        yield from _names(target.value if isinstance(target, ast.Subscript | ast.Starred) else target)


def _results(function: ast.FunctionDef) -> Iterator[ast.expr]:
    """Yield the expressions that a function returns or yields.

    Those of functions inside it are not among them.
    """
    waiting: list[ast.AST] = [*function.body]
    while waiting:
        node = waiting.pop()
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda() | ast.ClassDef():
                continue
            case (
                ast.Return(value=ast.expr() as value)
                | ast.Yield(value=ast.expr() as value)
                | ast.YieldFrom(value=value)
            ):
                yield value
        waiting += ast.iter_child_nodes(node)


def _bound(body: Iterable[ast.stmt]) -> Iterator[str]:
    """Yield the names that statements at the top level bind."""
    for statement in body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield statement.name
            continue
        for node in ast.walk(statement):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                yield node.id
            elif isinstance(node, ast.alias):
                yield node.asname or node.name.partition(".")[0]


def imported_name(expression: ast.expr, aliases: Mapping[str, str]) -> str:
    """Return the full name of what was imported.

    Such as ``pickle.load`` of ``p.load``; "" of anything else.
    """
    name = dotted_name(expression)
    return f"{aliases[name[0]]}{name[1]}" if name and name[0] in aliases else ""


def _value_classes(tree: ast.Module) -> frozenset[str]:
    """Return the classes of a module that only hold their arguments."""
    return frozenset(
        node.name
        for node in tree.body
        if isinstance(node, ast.ClassDef)
        and all(isinstance(base, ast.Name) and base.id in _VALUE_CLASSES for base in node.bases)
        and not node.keywords
        and all(isinstance(member, ast.AnnAssign | ast.Expr) and _has_plain_default(member) for member in node.body)
    )


def _has_plain_default(member: ast.AnnAssign | ast.Expr) -> bool:
    return member.value is None or isinstance(member.value, ast.Constant)


def _returns_json(function: ast.FunctionDef) -> bool:
    if function.returns is None:
        return False
    names = {node.id for node in ast.walk(function.returns) if isinstance(node, ast.Name)}
    others = [node for node in ast.walk(function.returns) if isinstance(node, ast.Attribute)]
    return names <= _JSON_NAMES and not others
