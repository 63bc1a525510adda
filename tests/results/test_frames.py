"""Results as data frames: rows of any kind, frames, and what is no row."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import msgspec
import pandas as pd
import pytest

from lokki import flow, step
from lokki.results.flow_results import local
from lokki.results.frames import frame_of


@dataclass
class Bird:
    name: str
    mass: float


class Pair(NamedTuple):
    name: str
    mass: float


class Struct(msgspec.Struct):
    name: str
    mass: float


ROWS: list[list[object]] = [
    [{"name": "goose", "mass": 3.0}, {"name": "duck", "mass": 1.0}],
    [Bird("goose", 3.0), Bird("duck", 1.0)],
    [Pair("goose", 3.0), Pair("duck", 1.0)],
    [Struct("goose", 3.0), Struct("duck", 1.0)],
    [pd.Series({"name": "goose", "mass": 3.0}), pd.Series({"name": "duck", "mass": 1.0})],
    [Bird("goose", 3.0), {"name": "duck", "mass": 1.0}],
]


@pytest.mark.parametrize("values", ROWS, ids=["dict", "dataclass", "tuple", "struct", "series", "mixed"])
def test_rows_of_any_kind_fill_columns(values: Sequence[object]) -> None:
    expected = pd.DataFrame({"name": ["goose", "duck"], "mass": [3.0, 1.0]}, index=pd.Index([0, 4], name="item"))
    pd.testing.assert_frame_equal(frame_of([(0,), (4,)], values), expected)


def test_what_is_no_row_stands_in_one_column() -> None:
    frame = frame_of([(1,), (2,)], [[1, 2], {"a": 1}])
    assert list(frame.columns) == ["value"]
    assert frame["value"].tolist() == [[1, 2], {"a": 1}]
    numbers = frame_of([(0,), (1,)], [1.5, 2.5])
    assert numbers["value"].dtype == "float64"
    assert len(frame_of([], [])) == 0


def test_frames_stand_below_one_another() -> None:
    frame = frame_of([(3,), (5,)], [pd.DataFrame({"a": [1, 2]}), pd.DataFrame({"a": [3]})])
    assert frame.index.names == ["item", None]
    assert frame.loc[3]["a"].tolist() == [1, 2]
    assert frame.loc[5]["a"].tolist() == [3]


def test_items_of_a_map_below_a_map_have_a_level_for_each() -> None:
    frame = frame_of([(0, 1), (2, 0)], [{"a": 1}, {"a": 2}])
    assert frame.index.names == ["item_1", "item_2"]
    assert frame.loc[(2, 0), "a"] == 2
    tables = frame_of([(0, 1), (2, 0)], [pd.DataFrame({"a": [1, 2]}), pd.DataFrame({"a": [3]})])
    assert tables.loc[(0, 1)]["a"].tolist() == [1, 2]


@step
def names(limit: int) -> list[str]:
    return ["goose", "dodo", "duck"][:limit]


@step
def weigh(name: str, status: str) -> dict[str, object]:
    if name == "dodo":
        raise LookupError("none left")
    return {"name": name, "letters": len(name)}


@step
def count(birds: list[dict[str, object]]) -> int:
    return len(birds)


@flow
def weights_flow(limit: int = 3, status: str = "wild"):  # type: ignore[no-untyped-def]
    return names(limit).map(weigh(status=status), tolerate=1).agg(count)


def test_items_and_runs_become_frames(tmp_path: Path) -> None:
    for limit in (1, 3):
        weights_flow.using(root=tmp_path, run_id=f"run-{limit}", progress=False).run(limit)
    results = local("weights-flow", tmp_path)
    items = results.run("run-3").step("weigh").to_pandas()
    assert items.to_dict("index") == {0: {"name": "goose", "letters": 5}, 2: {"name": "duck", "letters": 4}}
    assert results.run("run-3").step("weigh")[2:].to_pandas().index.tolist() == [2]
    runs = results.runs().to_pandas()
    assert runs.index.tolist() == ["run-3", "run-1"]
    assert runs[["status", "limit", "status_parameter"]].to_dict("list") == {
        "status": ["finished", "finished"], "limit": [3, 1], "status_parameter": ["wild", "wild"],
    }  # fmt: skip


WITHOUT_PANDAS = """
import sys
sys.path = [path for path in sys.path if "site-packages" not in path] + [sys.argv[1]]
from lokki.results.frames import frame_of
try:
    frame_of([(0,)], [1])
except Exception as error:
    print(type(error).__name__, error)
"""


def test_without_pandas_the_error_says_what_is_missing(tmp_path: Path) -> None:
    packages = Path(msgspec.__file__).parents[1]
    for name in ("msgspec", "packaging", "isal"):
        (tmp_path / name).symlink_to(packages / name)
    (tmp_path / "lokki").symlink_to(Path(__file__).parents[2] / "lokki")
    ran = subprocess.run(
        [sys.executable, "-S", "-c", WITHOUT_PANDAS, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert ran.stdout == "LokkiError to_pandas() needs pandas: install it beside lokki.\n", ran.stderr
