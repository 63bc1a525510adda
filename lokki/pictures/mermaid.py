"""A plan as a flowchart of Mermaid, which GitHub, GitLab and many wikis draw where they show Markdown.

The words of its language: https://mermaid.js.org/syntax/flowchart.html
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count

from lokki.pictures.flow_figure import call_lines, case_text, input_lines, map_lines, returned_text
from lokki.pictures.shapes import shortened
from lokki.plan import Plan
from lokki.plans.levels import drawn_block
from lokki.plans.operations import Block, Call, FanOut, Fork, Switch, read_next
from lokki.plans.templates import Item, Reads

_SHOWN_LETTERS = 80

type _Ends = Sequence[tuple[str, str]]
"""Nodes from which an arrow leads to what comes next, each with what stands at its arrow."""


def mermaid(plan: Plan) -> str:
    """Write a plan as a flowchart."""
    return "\n".join(["flowchart TD", *_Chart().lines(plan)]) + "\n"


class _Chart:
    """Numbers the nodes while it writes them.

    Names of steps are no names of nodes, as ``end`` is a word of the language.
    """

    def __init__(self) -> None:
        self._numbers = count(1)
        self._ends: _Ends = ()
        # Behind all nodes: what stands between those of a subgraph becomes a part of it.
        self._arrows: list[str] = []

    def lines(self, plan: Plan) -> Iterator[str]:
        """Yield the lines of a plan."""
        if texts := input_lines(plan):
            yield from self._node(texts, "([", "])")
        yield from self._block(drawn_block(plan.ops), None)
        if plan.result is not None:
            yield from self._node([returned_text(plan)], "([", "])")
        yield from self._arrows

    def _block(self, block: Block, previous: Reads) -> Iterator[str]:
        for op in block:
            match op:
                case Call():
                    brackets = ("{{", "}}") if op.cases else ("[", "]")
                    yield from self._node(call_lines(op, previous), *brackets)
                case FanOut():
                    yield f'subgraph m{next(self._numbers)}["{_text([", ".join(map_lines(op))])}"]'
                    yield from (f"  {line}" for line in self._block(op.body, Item()))
                    yield "end"
                case Fork():
                    yield from self._beside([("", branch, previous) for branch in op.branches])
                case Switch():
                    yield from self._beside([(case_text(case), case.block, None) for case in op.cases])
            previous = read_next(op)

    def _beside(self, blocks: Sequence[tuple[str, Block, Reads]]) -> Iterator[str]:
        starts, ends = self._ends, []
        for label, block, previous in blocks:
            self._ends = [(node, label or own) for node, own in starts]
            yield from self._block(block, previous)
            ends += self._ends
        self._ends = ends

    def _node(self, lines: Sequence[str], opening: str, closing: str) -> Iterator[str]:
        node = f"n{next(self._numbers)}"
        yield f'{node}{opening}"{_text(lines)}"{closing}'
        for start, label in self._ends:
            at = f'|"{_text([label])}"|' if label else ""
            self._arrows.append(f"{start} -->{at} {node}")
        self._ends = [(node, "")]


def _text(lines: Sequence[str]) -> str:
    return "<br>".join(_escaped(shortened(line, _SHOWN_LETTERS)) for line in lines)


def _escaped(line: str) -> str:
    """Write letters by their numbers that mean something else.

    To Mermaid, to HTML, or to Markdown, which labels are read as.
    """
    plain_dollars = line.replace("$$", "$\N{ZERO WIDTH NON-JOINER}$")  # two begin a formula
    return "".join(f"#{ord(letter)};" if letter in '"#&;<>`*\\~|' else letter for letter in plain_dollars)
