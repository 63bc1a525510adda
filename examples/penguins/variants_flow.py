"""Estimates the weight of penguins in two ways, an A/B test: each group of birds is given to one of two steps.

    uv run examples/penguins/variants_flow.py run
    uv run examples/penguins/variants_flow.py run --share 0.9

Which step a group is given to is decided by a third one, of which the switch knows the values.
"""

import zlib
from typing import Literal

import pandas as pd
from palmerpenguins import load_penguins

from lokki import StepNode, flow, main, step

type Variant = Literal["A", "B"]


@step
def read_groups() -> list[pd.DataFrame]:
    """Read the weighed birds, a table per species, island and sex."""
    birds = load_penguins().dropna(subset=["body_mass_g", "flipper_length_mm", "sex"])
    return [table for _, table in birds.groupby(["species", "island", "sex"], sort=True)]


@step
def weighed(birds: pd.DataFrame) -> pd.DataFrame:
    """Return the birds with weights in kilograms."""
    return birds.assign(mass=birds["body_mass_g"] / 1000)


@step
def variant(birds: pd.DataFrame, share: float) -> Variant:
    """Choose the variant for a group, the same in each run: ``share`` of all groups get A."""
    name = "/".join(birds[["species", "island", "sex"]].iloc[0])
    return "A" if zlib.crc32(name.encode()) % 1000 < share * 1000 else "B"


@step
def by_mean(birds: pd.DataFrame) -> dict[str, object]:
    """Estimate each bird as heavy as its group's mean."""
    off = birds["mass"] - birds["mass"].mean()
    return {"variant": "A", "birds": len(birds), "error": float(off.abs().sum())}


@step
def by_flipper(birds: pd.DataFrame) -> dict[str, object]:
    """Estimate each bird by the length of its flippers, along a line through its group."""
    flipper, mass = birds["flipper_length_mm"], birds["mass"]
    slope = flipper.cov(mass) / flipper.var()
    off = mass - (mass.mean() + slope * (flipper - flipper.mean()))
    return {"variant": "B", "birds": len(birds), "error": float(off.abs().sum())}


@step
def compare(groups: list[dict[str, object]]) -> str:
    """Write how far off each variant is on average."""
    lines = []
    for name, rows in pd.DataFrame(groups).groupby("variant"):
        birds, error = int(rows["birds"].sum()), float(rows["error"].sum())
        lines.append(f"{name}: {len(rows)} groups, {birds} birds, {1000 * error / birds:.0f} g off")
    return "\n".join(lines)


@flow
def variants_flow(share: float = 0.5) -> StepNode[..., str]:
    """Estimate weights in two ways and compare how far off they are.

    share is how much of all groups is given to the first way.
    """
    groups = read_groups().map(weighed).switch(variant(share=share), {"A": by_mean, "B": by_flipper})
    return groups.agg(compare)


if __name__ == "__main__":
    main(variants_flow)
