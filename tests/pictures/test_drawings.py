"""Flows drawn as SVG, as Mermaid and as a page: as a person has looked at them, and laws for any flow."""

from __future__ import annotations

import datetime
import random
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import pytest
from click.testing import CliRunner, Result
from support.browser import Browser, browser
from support.command import Place
from support.golden import compare
from support.graph_plans import GRAPHS, call, plan_of, random_plan

from lokki import flow, step
from lokki.base.options import FlowOptions
from lokki.chain import AnyStep
from lokki.cli.commands.draw import draw_command
from lokki.graph import FlowParameter
from lokki.pictures.flow_figure import Marks, figure_of
from lokki.pictures.mermaid import mermaid
from lokki.pictures.page import page
from lokki.pictures.shapes import Box, Mark, columns, text_width
from lokki.pictures.svg import svg
from lokki.plan import Plan, lower
from lokki.plans.operations import Fork, calls_in, fan_outs_in
from lokki.plans.templates import Output

SVG = "{http://www.w3.org/2000/svg}"


def step_of(name: str, annotations: dict[str, object]) -> AnyStep:
    def work(value: int = 0, *, other: object = None) -> int:
        return value

    work.__name__ = work.__qualname__ = name
    work.__annotations__ = {"value": int, "other": object, "return": int} | annotations
    return step(work)


def one(name: str) -> AnyStep:
    return step_of(name, {})


def many(name: str) -> AnyStep:
    return step_of(name, {"return": list[int]})


def all_of(name: str) -> AnyStep:
    return step_of(name, {"value": list[int]})


@flow
def three_flow(limit: int = 3):  # type: ignore[no-untyped-def]
    return one("load")(limit).next(one("clean")).next(one("save"))


@flow(schedule="cron(0 6 * * ? *)", timezone="Europe/Helsinki")
def twelve_flow(day: datetime.date = datetime.date(2026, 1, 2), rate: float = 1.5, note: str = "<&>" * 30):  # type: ignore[no-untyped-def]
    raw = one("load_raw_data")(other=day)
    model = raw.next(one("train"))
    rows = raw.next(many("customers")).map(one("bill")(other=[rate, note]), concurrency=10, batch=100, tolerate=0.05)
    total = rows.next(one("audit")).agg(all_of("total"))
    quality = step_of("quality", {"return": Literal["good", "bad", "ugly"]})
    cases = {"good": one("publish"), "bad": one("repair"), "ugly": one("discard")}
    checked = model.next(one("prepare")).switch(quality, cases)
    return all_of("collect")([total.result, checked.result, model.result])


@flow
def sixty_flow(day: datetime.date = datetime.date(2026, 1, 2)):  # type: ignore[no-untyped-def]
    raw = one("extract")(other=day)
    tables = [
        raw.next(one(f"clean_{n}")).next(one(f"check_{n}")).next(one(f"load_table_{n}")).result for n in range(14)
    ]
    chain = all_of("collect")(tables)
    for number in range(14):
        chain = chain.next(one(f"refine_{number}"))
    return chain.next(many("rows")).map(one("score")).agg(all_of("rank"))


FLOWS = {"three": lower(three_flow()), "twelve": lower(twelve_flow()), "sixty": lower(sixty_flow())}
MARKS: Marks = {
    "load_raw_data": Mark("finished", "2.1 s", "#op-load_raw_data"),
    "customers": Mark("restored", "kept from before"),
    "customers.map": Mark("failed", "940/1,000 items, 60 failed", "#op-customers.map"),
    "train": Mark("running", "running"),
    "publish": Mark("skipped", "skipped"),
    "total": Mark("waiting"),
    "prepare": Mark("interrupted", "interrupted"),
}


@pytest.mark.parametrize("name", FLOWS)
@pytest.mark.parametrize("write", [svg, mermaid, page], ids=["svg", "mmd", "html"])
def test_a_drawing_is_the_one_that_was_looked_at(
    name: str, write: Callable[[Plan], str], request: pytest.FixtureRequest, update_golden: bool
) -> None:
    ending = request.node.callspec.id.partition("-")[0]
    if ending != "html" or name == "three":  # the page of a drawing is the drawing with a frame
        compare(f"drawing-{name}.{ending}", write(FLOWS[name]), update_golden)


def test_the_drawing_of_a_run_is_the_one_that_was_looked_at(update_golden: bool) -> None:
    compare("drawing-run.svg", svg(FLOWS["twelve"], MARKS), update_golden)


# --- laws ---


RANDOM = [random_plan(random.Random(seed)) for seed in range(12)]
PLANS = [*FLOWS.values(), *GRAPHS.values(), *RANDOM]


def boxes(plan: Plan, marks: Marks | None = None) -> list[Box]:
    return [shape for shape in figure_of(plan, marks).shapes if isinstance(shape, Box)]


def apart(first: Box, second: Box) -> bool:
    return (
        first.x + first.width <= second.x
        or second.x + second.width <= first.x
        or first.y + first.height <= second.y
        or second.y + second.height <= first.y
    )


def within(inner: Box, outer: Box) -> bool:
    return (
        outer.x <= inner.x
        and inner.x + inner.width <= outer.x + outer.width
        and outer.y <= inner.y
        and inner.y + inner.height <= outer.y + outer.height
    )


@pytest.mark.parametrize("plan", PLANS, ids=range(len(PLANS)))
def test_every_call_and_map_has_a_box_of_its_own(plan: Plan) -> None:
    names = [box.title.partition("\n")[0] for box in boxes(plan) if box.kind in ("step", "choice", "frame")]
    calls = [call.id for call in calls_in(plan.ops)]
    maps = [f"each item of {fan_out.source}" for fan_out in fan_outs_in(plan.ops)]
    assert sorted(names) == sorted(calls + maps)


@pytest.mark.parametrize("plan", PLANS, ids=range(len(PLANS)))
def test_no_box_lies_over_another_and_all_fit_in(plan: Plan) -> None:
    picture = figure_of(plan)
    shapes = [box for box in boxes(plan) if box.kind != "sheet"]
    for number, first in enumerate(shapes):
        assert first.x >= 0
        assert first.y >= 0
        assert first.x + first.width <= picture.width
        assert first.y + first.height <= picture.height
        for second in shapes[number + 1 :]:
            assert apart(first, second) or "frame" in (first.kind, second.kind), (first, second)
            assert apart(first, second) or within(first, second) or within(second, first), (first, second)
        assert max(text_width(line, 11) for line in first.lines) <= first.width


@pytest.mark.parametrize("plan", PLANS, ids=range(len(PLANS)))
def test_a_drawing_is_xml_and_says_in_words_what_it_shows(plan: Plan) -> None:
    root = ET.fromstring(svg(plan))
    assert root.findtext(f"{SVG}title") == f"The flow {plan.flow}"
    words = root.findtext(f"{SVG}desc") or ""
    assert all(call.step in words for call in plan.calls)
    assert root.get("role") == "img"


def test_a_run_can_be_followed_by_links() -> None:
    root = ET.fromstring(svg(FLOWS["twelve"], MARKS))
    assert [link.get("href") for link in root.iter(f"{SVG}a")] == ["#op-customers.map", "#op-load_raw_data"]
    assert root.get("role") == "group"


NODE = r'n\d+(\["[^"]*"\]|\{\{"[^"]*"\}\}|\(\["[^"]*"\]\))'
LINE = re.compile(rf'(?P<node>{NODE})|subgraph m\d+\["[^"]*"\]|end|(?P<from>n\d+) -->(\|"[^"]*"\|)? (?P<to>n\d+)')


@pytest.mark.parametrize("plan", PLANS, ids=range(len(PLANS)))
def test_mermaid_has_a_node_for_every_call_and_arrows_between_nodes(plan: Plan) -> None:
    first, *lines = mermaid(plan).splitlines()
    matches = [LINE.fullmatch(line.strip()) for line in lines]
    assert first == "flowchart TD"
    assert all(matches), lines
    nodes = [match["node"].split("[")[0].split("{")[0].split("(")[0] for match in matches if match and match["node"]]
    ends = [match.group("from", "to") for match in matches if match and match["from"]]
    extra = bool(plan.params) + (plan.result is not None)
    assert len(set(nodes)) == len(nodes) == len(list(plan.calls)) + extra
    assert {node for pair in ends for node in pair} <= set(nodes)
    # All but what begins the flow is led to.
    assert set(nodes) - {end for _, end in ends} == ({nodes[0]} if plan.params else set(nodes) - {e for _, e in ends})
    assert lines.count("end") == sum(line.startswith("subgraph") for line in lines)


def test_hostile_texts_stay_texts() -> None:
    text = "</title></svg><script>alert(1)</script>&\"'`\x00\x1b日本\ud800"
    plan = Plan("a<b", (FlowParameter("p", str, text),), (call("end", text[:-1]),), FlowOptions())
    root = ET.fromstring(svg(plan).encode(errors="replace"))
    assert {element.tag for element in root.iter()} <= {
        f"{SVG}{name}" for name in ("svg", "title", "desc", "style", "rect", "path", "g", "text")
    }
    assert "<script" not in page(plan, text)
    assert "<script" not in mermaid(plan)


def test_many_branches_are_laid_in_rows() -> None:
    branches = tuple((call(f"a_step_of_some_length_{number}"),) for number in range(30))
    plan = plan_of(Fork("a.fork", branches), call("end", *[Output(f"a_step_of_some_length_{n}") for n in range(30)]))
    picture = figure_of(plan)
    assert picture.width < 1300
    assert len({box.y for box in boxes(plan) if box.title.startswith("a_step")}) == 6


def test_wide_letters_count_twice() -> None:
    assert (columns("abc"), columns("日本"), columns("e\u0301")) == (3, 4, 1)


def test_a_notebook_shows_a_flow_as_its_drawing() -> None:
    assert twelve_flow._repr_svg_() == svg(FLOWS["twelve"])


# --- the command ---


def test_the_command_draws_on_stdout_or_into_a_file_by_its_ending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @flow
    def one_flow(limit: int = 3):  # type: ignore[no-untyped-def]
        """Load <it>."""
        return one("load")(limit)

    def draws(*arguments: str) -> Result:
        return CliRunner().invoke(draw_command(one_flow(), "python flow.py"), arguments)

    monkeypatch.chdir(tmp_path)
    assert draws().output == "load(value=$limit)\n"
    for name in ("a.svg", "a.mmd", "a.HTML"):
        assert draws("--output", name).exit_code == 0
    assert ET.parse(tmp_path / "a.svg").getroot().tag == f"{SVG}svg"
    assert (tmp_path / "a.mmd").read_text().startswith("flowchart TD\n")
    assert "<p>Load &lt;it&gt;.</p>" in (tmp_path / "a.HTML").read_text()
    wrong = draws("--output", "a.png")
    assert wrong.exit_code == 2
    assert "must end in one of .svg, .mmd, .html" in wrong.output
    lost = draws("--output", "nowhere/a.svg")
    assert str(lost.exception) == "--output nowhere/a.svg cannot be written: No such file or directory"


@pytest.mark.slow
def test_the_drawing_in_the_documentation_is_of_the_example(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    example = str(root / "examples" / "penguins" / "variants_flow.py")
    assert Place(tmp_path).run(example, "draw", "--output", "a.svg").code == 0
    assert (tmp_path / "a.svg").read_text() == (root / "docs" / "images" / "variants-flow.svg").read_text()


# --- as it is seen ---


OVERFLOWS = """
return [...document.querySelectorAll('svg g, svg a')].filter(group => {
  const box = group.querySelector('rect, path').getBBox()
  return [...group.querySelectorAll('text')].some(text => {
    const place = text.getBBox()
    return place.x < box.x || place.x + place.width > box.x + box.width
  })
}).map(group => group.textContent)
"""
PAPER = "return getComputedStyle(document.querySelector('.paper')).fill"


@pytest.fixture(scope="module")
def window() -> Iterator[Browser]:
    with browser() as opened:
        yield opened


@pytest.mark.slow
@pytest.mark.parametrize("name", FLOWS)
def test_all_letters_of_a_drawing_stand_in_their_boxes(name: str, window: Browser, tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(page(FLOWS[name]))
    window.show(390)
    window.open(tmp_path / "a.html")
    assert window.ask(OVERFLOWS) == []
    # On a narrow screen the drawing is moved, and the page is not.
    assert window.ask("return document.documentElement.scrollWidth") <= 390
    assert window.ask(PAPER) == "rgb(255, 255, 255)"
    window.show(390, dark=True)
    assert window.ask(PAPER) == "rgb(13, 17, 23)"
    assert window.complaints() == []
