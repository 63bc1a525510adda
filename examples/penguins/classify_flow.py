"""Tells the species of penguins by their measures: a model is trained once, and each island's birds are given to it.

    uv run examples/penguins/classify_flow.py run
    uv run examples/penguins/classify_flow.py run --every 3

The model is the mean and the spread of each measure per species. It is a result that every item of the map gets, and
that the report at the end gets, too.
"""

import pandas as pd
from palmerpenguins import load_penguins

from lokki import StepNode, flow, main, step

MEASURES = ["bill_length_mm", "bill_depth_mm", "flipper_length_mm", "body_mass_g"]


type Model = dict[str, dict[str, tuple[float, float]]]
"""The mean and the spread of each measure, by species."""


@step
def read_birds() -> pd.DataFrame:
    """Read the birds of which all measures were taken."""
    birds: pd.DataFrame = load_penguins()
    return birds.dropna(subset=MEASURES).reset_index(drop=True)


@step
def train(birds: pd.DataFrame, every: int) -> Model:
    """Return the model, learnt from all birds but every so-manieth, which are for the test."""
    known = birds[birds.index % every != 0]
    return {
        str(species): {name: (float(rows[name].mean()), float(rows[name].std())) for name in MEASURES}
        for species, rows in known.groupby("species")
    }


@step
def islands(birds: pd.DataFrame, every: int) -> list[pd.DataFrame]:
    """Return the birds for the test, a table per island."""
    unknown = birds[birds.index % every == 0]
    return [table for _, table in unknown.groupby("island", sort=True)]


@step
def classify(birds: pd.DataFrame, model: Model) -> tuple[str, int, int]:
    """Return an island, how many birds it has, and of how many the model knows the species."""
    right = 0
    for bird in birds.to_dict("records"):
        distances = {
            species: sum(((bird[name] - mean) / spread) ** 2 for name, (mean, spread) in measures.items())
            for species, measures in model.items()
        }
        right += min(distances, key=distances.__getitem__) == bird["species"]
    return str(birds["island"].iloc[0]), len(birds), right


@step
def render(results: list[tuple[str, int, int]], model: Model) -> str:
    """Write the result for people to read."""
    lines = [f"{len(model)} species by {len(MEASURES)} measures"]
    lines += [f"{island:<10} {right:>3} of {birds:>3} right" for island, birds, right in results]
    return "\n".join(lines)


@flow
def classify_flow(every: int = 4) -> StepNode[..., str]:
    """Train a model of the penguins' species and test it, island by island.

    every is how many birds there are for each that is kept for the test.
    """
    birds = read_birds()
    model = birds.next(train(every=every))
    tables = birds.next(islands(every=every)).map(classify(model=model.result))
    return tables.agg(render(model=model.result))


if __name__ == "__main__":
    main(classify_flow)
