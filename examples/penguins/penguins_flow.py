"""Measures the penguins of the Palmer Archipelago, and finds the odd ones out.

    uv run examples/penguins/penguins_flow.py run
    uv run examples/penguins/penguins_flow.py run --measure flipper_length_mm --z 3

The data are those that Dr. Kristen Gorman and the Palmer Station LTER collected from 2007 to 2009, as the package
palmerpenguins holds them. Each species on each island is a DataFrame of its own; they are worked on at the same time.
"""

import pandas as pd
from cleaning import KEYS, Measure, by_group, clean, with_scores
from palmerpenguins import load_penguins_raw

from lokki import StepNode, flow, main, step


@step
def read_penguins() -> pd.DataFrame:
    """Read what was noted in the field: one row per penguin and season, 17 columns."""
    return load_penguins_raw()


@step
def split_into_groups(raw: pd.DataFrame) -> list[pd.DataFrame]:
    """Clean the data and return one table per species and island."""
    return by_group(clean(raw))


@step
def score_birds(group: pd.DataFrame, measure: Measure) -> pd.DataFrame:
    """Add how far each bird of a group is from what is usual for its sex."""
    return with_scores(group, measure)


@step
def summarise(group: pd.DataFrame, measure: Measure, z: float) -> pd.DataFrame:
    """Make one row of a group: its statistics, and its birds that are more than ``z`` standard deviations off."""
    values = group[measure.value].dropna()
    far_off = group[group["score"].abs() > z].sort_values("score")
    outliers = [f"{bird} ({score:+.1f})" for bird, score in zip(far_off["bird"], far_off["score"], strict=True)]
    return pd.DataFrame(
        {
            **{key: group[key].iloc[:1] for key in KEYS},
            "birds": len(values),
            "mean": values.mean(),
            "std": values.std(),
            "min": values.min(),
            "max": values.max(),
            "outliers": ", ".join(outliers),
        }
    )


@step
def stack(rows: list[pd.DataFrame]) -> pd.DataFrame:
    """Put the rows of all groups into one table."""
    return pd.concat(rows, ignore_index=True)


@step
def render(table: pd.DataFrame, measure: Measure) -> str:
    """Write the table for people to read."""
    lines = [
        f"{measure.value} of {table['birds'].sum()} penguins",
        "species    island     birds    mean    std     min     max  outliers",
    ]
    for row in table.itertuples():
        numbers = f"{row.birds:>5} {row.mean:>7.1f} {row.std:>6.1f} {row.min:>7.1f} {row.max:>7.1f}"
        lines.append(f"{row.species:<10} {row.island:<10} {numbers}  {row.outliers}".rstrip())
    return "\n".join(lines)


@flow
def penguins_flow(measure: Measure = Measure.BODY_MASS, z: float = 2.5) -> StepNode[..., str]:
    """Statistics and outliers of the Palmer penguins, per species and island.

    measure is what to look at; z is how many standard deviations from the mean of its sex and group make a bird an
    outlier.
    """
    return (
        read_penguins()
        .next(split_into_groups)
        .map(score_birds(measure=measure))
        .next(summarise(measure=measure, z=z))
        .agg(stack)
        .next(render(measure=measure))
    )


if __name__ == "__main__":
    main(penguins_flow)
