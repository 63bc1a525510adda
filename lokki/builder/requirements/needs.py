"""Which of the installed packages each step needs: what is left out is provably not imported by its code.

A step needs what its package's own files import, or name in a text, since names of modules, plugins and programs travel
as texts; what that leads to (`distributions`); and what is needed to read the values that come to it, since results
travel pickled. Where code imports by a name that it computes, everything stays.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from lokki.builder.lambda_pkg import Importable
from lokki.builder.packages.code import parse
from lokki.builder.requirements.distributions import Distribution, Providers, closure, providers
from lokki.builder.requirements.origins import normalize_name
from lokki.builder.requirements.plain_results import returns_plain_values
from lokki.builder.requirements.statements import WORD, Statement, Statements, import_aliases
from lokki.plan import Plan
from lokki.plans.operations import Block, Call, FanOut, Fork, Switch, sources_of
from lokki.plans.templates import Item, Output, Results, Source

_TEXT_FILES: Final = (
    ".yml",
    ".yaml",
    ".toml",
    ".ini",
    ".cfg",
    ".conf",
    ".json",
    ".txt",
    ".xml",
    ".ipynb",
    ".pyi",
    ".sh",
)

_UNPICKLES: Final = frozenset(
    {
        *(f"{module}.{name}" for module in ("pickle", "_pickle", "dill", "cloudpickle") for name in ("load", "loads")),
        *("pickle.Unpickler", "shelve.open", "joblib.load", "torch.load", "jsonpickle.decode", "yaml.unsafe_load"),
        *("pandas.read_pickle", "lokki.s3.read", "lokki.local", "lokki.remote"),
    }
)
_LOOKS_FOR_PLUGINS: Final = frozenset(
    {
        *("importlib.metadata.entry_points", "importlib_metadata.entry_points", "pkg_resources.iter_entry_points"),
        *("pkgutil.iter_modules", "pkgutil.walk_packages", "importlib.metadata.distributions"),
    }
)


@dataclass(frozen=True, slots=True)
class Mentions:
    """What files name of other packages.

    - ``imports``: modules with the names that are imported from them
    - ``words``: of the texts in them
    - ``reason``: where it is said by code alone what else is imported, or ""
    """

    imports: frozenset[tuple[str, tuple[str, ...]]] = frozenset()
    words: frozenset[str] = frozenset()
    reason: str = ""

    def union(self, others: Sequence[Mentions]) -> Mentions:
        """Return what any of these mentions."""
        return Mentions(
            self.imports.union(*(other.imports for other in others)),
            self.words.union(*(other.words for other in others)),
            next(filter(None, (mentions.reason for mentions in (self, *others))), ""),
        )


@dataclass(frozen=True, slots=True)
class Needs:
    """What a step needs.

    - ``packages``: by name
    - ``modules``: those that it imports
    - ``reason``: where its code hides what else it imports, so that nothing is left out; or ""
    - ``received``: packages that are needed for nothing but values, by the steps that may send them
    """

    packages: frozenset[str]
    modules: frozenset[str] = frozenset()
    reason: str = ""
    received: Mapping[str, frozenset[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StepSources:
    """A step's package before requirements are chosen.

    - ``files``: content by path
    - ``step``: from where to import the step
    - ``texts``: those of the environment of its function
    - ``required``: names of packages that it requires by itself
    - ``trees``: what is parsed of the files already
    """

    files: Mapping[str, bytes]
    step: Importable
    texts: tuple[str, ...] = ()
    required: frozenset[str] = frozenset()
    trees: Mapping[str, ast.Module] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Installed:
    """What is installed, indexed.

    - ``distributions``: packages by name
    - ``providers``: who provides modules
    - ``programs``: who has programs, by their names
    """

    distributions: Mapping[str, Distribution]
    providers: Providers
    programs: Mapping[str, str]

    @staticmethod
    def of(distributions: Mapping[str, Distribution]) -> Installed:
        """Index packages."""
        programs = {
            path.removeprefix("bin/"): name
            for name, distribution in distributions.items()
            for path in distribution.paths
            if path.startswith("bin/")
        }
        return Installed(distributions, providers(distributions), programs)

    def named_by(self, mentions: Mentions) -> frozenset[str]:
        """Return the packages that are mentioned."""
        packages: set[str] = set()
        for module, names in mentions.imports:
            packages |= self._imported(module, names)
        for word in mentions.words:
            packages |= self._named(word)
        return frozenset(packages)

    def _imported(self, module: str, names: Iterable[str]) -> frozenset[str]:
        """Return who provides what is imported.

        Of a bare namespace they are those that have the imported parts.
        """
        parts = [self.providers.of(f"{module}.{name}") for name in names]
        if all(parts) and module in self.providers.folders and not self._is_regular(module):
            return frozenset[str]().union(*parts) if parts else self.providers.of(module)
        return self.providers.of(module).union(*parts)

    def _is_regular(self, module: str) -> bool:
        names = module.split(".")
        return any(".".join(names[: count + 1]) in self.providers.modules for count in range(len(names)))

    def _named(self, word: str) -> frozenset[str]:
        """Return the packages that a word of a text may name."""
        named = {name for name in (normalize_name(word), self.programs.get(word, "")) if name in self.distributions}
        names = word.split(".")
        above = (".".join(names[:count]) for count in range(len(names), 0, -1))
        return next((owners for name in above if (owners := self.providers.of(name))), frozenset()) | named


def step_needs(
    plan: Plan, sources: Mapping[str, StepSources], installed: Mapping[str, Installed], runtime: Iterable[str]
) -> dict[str, Needs]:
    """Return what each step needs of what is installed for it.

    ``runtime``: what lokki needs in every package.
    """
    reader = _Reader()
    mentions = {name: reader.mentions(step) for name, step in sources.items()}
    own = {name: _own(installed[name], mentions[name], step) for name, step in sources.items()}
    received = _received(plan, sources, own, reader)
    return {name: _needs(installed[name], mentions[name], own[name], received[name], runtime) for name in sources}


def _own(installed: Installed, mentions: Mentions, step: StepSources) -> frozenset[str]:
    """Return the packages that a step's own code leads to."""
    if mentions.reason:
        return frozenset(installed.distributions)
    direct = (installed.named_by(mentions) | step.required) & installed.distributions.keys()
    return closure(direct, lambda name: installed.distributions[name].uses)


def _needs(
    installed: Installed,
    mentions: Mentions,
    own: frozenset[str],
    received: Mapping[str, frozenset[str]],
    runtime: Iterable[str],
) -> Needs:
    """Join what a step's code leads to, what it receives, and lokki's needs.

    ``received``: packages by the steps that may send values of them.
    """
    always = closure(
        installed.distributions.keys() & set(runtime), lambda package: installed.distributions[package].requires
    )
    packages = own.union(always, *received.values()).intersection(installed.distributions)
    modules = frozenset(
        name for module, names in mentions.imports for name in (module, *(f"{module}.{part}" for part in names))
    )
    # Only what nothing else needs is worth a note.
    alone = {sender: names - own - always for sender, names in received.items()}
    return Needs(
        packages, modules | mentions.words, mentions.reason, {sender: names for sender, names in alone.items() if names}
    )


def _received(
    plan: Plan, sources: Mapping[str, StepSources], own: Mapping[str, frozenset[str]], reader: _Reader
) -> dict[str, dict[str, frozenset[str]]]:
    """Return which packages the values may need that come to each step.

    They are grouped by the steps that may send such values. A value comes to a step as its first argument, or as any
    other that is a result of the run.
    """
    sent: dict[Source, Mapping[str, frozenset[str]]] = {}
    received: dict[str, dict[str, frozenset[str]]] = {name: {} for name in sources}

    def follow(block: Block) -> None:
        for op in block:
            match op:
                case Call():
                    values = [sent.get(source, {}) for source in sources_of(op)]
                    incoming = {sender: names for value in values for sender, names in value.items()}
                    received[op.step] |= incoming
                    sent[Output(op.id)] = outgoing_of(op, incoming)
                case FanOut():
                    # What an item may need, its list needs: an item is named by its map, and without it in the body.
                    sent[Item()] = sent[Item(op.id)] = sent.get(Output(op.source), {})
                    follow(op.body)
                    sent[Results(op.id)] = sent[Output(op.result)]
                case Fork():
                    for branch in op.branches:
                        follow(branch)
                case Switch():
                    for case in op.cases:
                        follow(case.block)
                    outputs = [sent[Output(case.output)] for case in op.cases]
                    sent[Output(op.id)] = {sender: names for output in outputs for sender, names in output.items()}

    def outgoing_of(call: Call, incoming: Mapping[str, frozenset[str]]) -> Mapping[str, frozenset[str]]:
        name = call.step
        if call.passes_on:
            return incoming
        outgoing = {**incoming, **({name: own[name]} if own[name] else {})}
        # A step that proves to hand on plain values cuts the chain: what came to it does not go on.
        plain = not outgoing or _is_plain(sources[name], reader, plain_input=not incoming)
        return {} if plain else outgoing

    follow(plan.ops)
    return received


def _is_plain(step: StepSources, reader: _Reader, *, plain_input: bool) -> bool:
    base = step.step.module.replace(".", "/")
    for path in (f"{base}.py", f"{base}/__init__.py"):
        if path in step.files:
            tree = reader.tree(step, path)
            return tree is not None and _returns_plain_values(tree, step, reader, plain_input)
    return False


def _returns_plain_values(tree: ast.Module, step: StepSources, reader: _Reader, plain_input: bool) -> bool:
    try:
        return returns_plain_values(tree, reader.statements, step.step.name, plain_input=plain_input)
    except RecursionError:  # of expressions that are nested too deeply
        return False


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads each file, and each statement of a module, once.

    Many packages have the same ones.
    """

    texts: dict[tuple[str, bytes], Mentions] = field(default_factory=dict)
    parsed: dict[bytes, ast.Module | None] = field(default_factory=dict)
    modules: dict[tuple[str, ast.Module], Mentions] = field(default_factory=dict)
    statements: Statements = field(default_factory=lambda: Statements({}))

    def mentions(self, step: StepSources) -> Mentions:
        """Return what the files and texts of a step name."""
        own = Mentions(words=frozenset(word for text in step.texts for word in WORD.findall(text)))
        files = [
            self._of_file(step, path)
            for path in sorted(step.files)
            # What lokki itself needs is added by name; its modules mention much that a step does not use.
            if not path.startswith("lokki/") and ".dist-info/" not in path
        ]
        return own.union(files)

    def _of_file(self, step: StepSources, path: str) -> Mentions:
        tree = self.tree(step, path)
        if tree is not None:
            if (path, tree) not in self.modules:
                self.modules[path, tree] = _mentions_of_module(path, self.statements.of(tree))
            return self.modules[path, tree]
        key = path, step.files[path]
        if key not in self.texts:
            self.texts[key] = _mentions_of_text(*key)
        return self.texts[key]

    def tree(self, step: StepSources, path: str) -> ast.Module | None:
        """Return a module, parsed, or None for what is not Python."""
        if path in step.trees or not path.endswith(".py"):
            return step.trees.get(path)
        content = step.files[path]
        if content not in self.parsed:
            self.parsed[content] = parse(content)
        return self.parsed[content]


def _mentions_of_text(path: str, content: bytes) -> Mentions:
    if path.endswith((".py", *_TEXT_FILES)):  # what is no Python may be a template for code
        return Mentions(words=frozenset(WORD.findall(content.decode("utf-8", "replace"))))
    return Mentions()


def _mentions_of_module(path: str, statements: list[Statement]) -> Mentions:
    aliases = import_aliases(statements)
    line, what = min((place for statement in statements for place in _unsaid(statement, aliases)), default=(0, ""))
    return Mentions(
        frozenset[tuple[str, tuple[str, ...]]]().union(*(statement.imports for statement in statements)),
        frozenset[str]().union(*(statement.words for statement in statements)),
        f"{path}:{line} {what}" if what else "",
    )


def _unsaid(statement: Statement, aliases: Mapping[str, str]) -> Iterator[tuple[int, str]]:
    """Yield the lines where only a run tells what is imported.

    Each comes with what is done there.
    """
    yield from statement.computed
    for (name, rest), line in statement.uses.items():
        if name in aliases:
            whole = f"{aliases[name]}{rest}"
            if whole in _UNPICKLES:
                yield line, "unpickles"
            elif whole in _LOOKS_FOR_PLUGINS:
                yield line, "looks for plugins"
