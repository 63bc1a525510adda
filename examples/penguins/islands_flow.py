"""Compares islands per species: a map below a map, whose results join what is known of all penguins.

    uv run examples/penguins/islands_flow.py run
    uv run examples/penguins/islands_flow.py run --measure flipper_length_mm

Each species is given to a flow of its own, which maps over the islands where it lives. The mean of all penguins is
computed once, and every island of every species is compared with it.
"""

import pandas as pd
from cleaning import Measure, clean
from palmerpenguins import load_penguins_raw

from lokki import StepNode, flow, main, step


@step
def read_birds() -> pd.DataFrame:
    """Read the penguins that were measured on the Palmer Archipelago."""
    return clean(load_penguins_raw())


@step
def mean_of_all(birds: pd.DataFrame, measure: Measure) -> float:
    """Return the mean of a measure over all birds."""
    return float(birds[measure.value].mean())


@step
def species_of(birds: pd.DataFrame) -> list[pd.DataFrame]:
    """Return a table per species."""
    return [table for _, table in birds.groupby("species", sort=True)]


@step
def islands_of(species: pd.DataFrame) -> list[pd.DataFrame]:
    """Return a table per island on which a species lives."""
    return [table for _, table in species.groupby("island", sort=True)]


@step
def compare(birds: pd.DataFrame, measure: Measure, mean: float) -> tuple[str, int, float]:
    """Return an island, how many birds it has, and how far their mean is from that of all."""
    return str(birds["island"].iloc[0]), len(birds), float(birds[measure.value].mean()) - mean


@step
def describe(islands: list[tuple[str, int, float]], species: pd.DataFrame) -> str:
    """Write a line about a species."""
    texts = [f"{name} {distance:+.1f} ({birds})" for name, birds, distance in islands]
    return f"{species['species'].iloc[0]:<10} {', '.join(texts)}"


@step
def render(lines: list[str], measure: Measure, mean: float) -> str:
    """Write the result for people to read."""
    return "\n".join([f"{measure.value}, mean {mean:.1f}", *lines])


@flow
def one_species(species: pd.DataFrame, measure: Measure, mean: float) -> StepNode[..., str]:
    """Compare the islands of a species with all penguins."""
    return islands_of(species).map(compare(measure=measure, mean=mean)).agg(describe(species=species))


@flow
def islands_flow(measure: Measure = Measure.BODY_MASS) -> StepNode[..., str]:
    """Compare the penguins of each species and island with all penguins."""
    birds = read_birds()
    mean = birds.next(mean_of_all(measure=measure))
    lines = birds.next(species_of).map(one_species(measure=measure, mean=mean.result))
    return lines.agg(render(measure=measure, mean=mean.result))


if __name__ == "__main__":
    main(islands_flow)
