"""Loads the penguins into a database: extract, transform and load, and nothing is loaded before the checks have passed.

    uv run examples/penguins/load_flow.py run
    uv run examples/penguins/load_flow.py run --database penguins.db --fewest 400

The checks give no value that anybody reads. So the step that loads waits for them by ``.after``; beside them, the data
are transformed.
"""

import sqlite3
import tempfile
from pathlib import Path

import pandas as pd
from cleaning import clean
from palmerpenguins import load_penguins_raw

from lokki import StepNode, flow, main, step


@step
def extract() -> pd.DataFrame:
    """Read what was noted in the field: one row per penguin and season, 17 columns."""
    return load_penguins_raw()


@step
def check_size(raw: pd.DataFrame, fewest: int) -> None:
    """Fail if there are fewer rows than there should be at least."""
    if len(raw) < fewest:
        raise ValueError(f"only {len(raw)} rows came, {fewest} should")


@step
def check_birds(raw: pd.DataFrame) -> None:
    """Fail if a bird was noted twice in a season."""
    twice = raw[raw.duplicated(["studyName", "Sample Number", "Individual ID", "Species"])]
    if len(twice):
        raise ValueError(f"{len(twice)} birds were noted twice")


@step
def transform(raw: pd.DataFrame) -> list[tuple[str, str, str, float | None]]:
    """Return a row per bird: its name, species, island and weight in grams, None where it was not weighed."""
    birds = clean(raw)
    mass = birds["body_mass_g"].astype(object).where(birds["body_mass_g"].notna(), None)
    return list(zip(birds["bird"], birds["species"], birds["island"], mass, strict=True))


@step
def load(rows: list[tuple[str, str, str, float | None]], database: str) -> str:
    """Write the rows into a new table, and return what the database then says of them."""
    path = Path(database or Path(tempfile.mkdtemp()) / "penguins.db")
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE IF EXISTS birds")
        connection.execute("CREATE TABLE birds (bird TEXT, species TEXT, island TEXT, mass REAL)")
        connection.executemany("INSERT INTO birds VALUES (?, ?, ?, ?)", rows)
    query = "SELECT species, count(*), count(mass), round(avg(mass)) FROM birds GROUP BY species ORDER BY species"
    lines = [
        f"{name}: {birds} birds, {weighed} weighed, {mass:.0f} g"
        for name, birds, weighed, mass in connection.execute(query)
    ]
    connection.close()
    return "\n".join(lines)


@flow
def load_flow(database: str = "", fewest: int = 300) -> StepNode[..., str]:
    """Load the penguins into a SQLite database, after checks.

    database is the file, by default a new one that nobody keeps; fewest is how many rows there must be.
    """
    raw = extract()
    checks = [raw.next(check_size(fewest=fewest)), raw.next(check_birds)]
    return raw.next(transform).next(load(database=database)).after(*checks)


if __name__ == "__main__":
    main(load_flow)
