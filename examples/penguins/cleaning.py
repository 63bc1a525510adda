"""What the field data needs before anybody can count with it, and the arithmetic on one clean group."""

from enum import StrEnum

import pandas as pd

KEYS = ["species", "island"]
"""What makes a group."""


class Measure(StrEnum):
    """What was measured of each penguin, with its unit."""

    BILL_LENGTH = "bill_length_mm"
    BILL_DEPTH = "bill_depth_mm"
    FLIPPER_LENGTH = "flipper_length_mm"
    BODY_MASS = "body_mass_g"


_COLUMNS = {
    "Species": "species",
    "Island": "island",
    "Sex": "sex",
    "Culmen Length (mm)": Measure.BILL_LENGTH.value,
    "Culmen Depth (mm)": Measure.BILL_DEPTH.value,
    "Flipper Length (mm)": Measure.FLIPPER_LENGTH.value,
    "Body Mass (g)": Measure.BODY_MASS.value,
}


def clean(raw: pd.DataFrame) -> pd.DataFrame:
    """Return the measurements with short names, one row per penguin and season.

    Columns: ``bird`` (season and individual, such as ``"PAL0708 N1A1"``), ``species`` (its first word), ``island``,
    ``sex`` (lower case) and those of `Measure`.
    """
    birds = raw.rename(columns=_COLUMNS)[list(_COLUMNS.values())]
    return birds.assign(
        bird=raw["studyName"] + " " + raw["Individual ID"],
        species=birds["species"].str.split().str[0],
        sex=birds["sex"].str.lower(),
    )


def by_group(birds: pd.DataFrame) -> list[pd.DataFrame]:
    """Return one table per species and island, in alphabetical order."""
    return [group.reset_index(drop=True) for _, group in birds.groupby(KEYS)]


def with_scores(group: pd.DataFrame, measure: Measure) -> pd.DataFrame:
    """Add ``score``: how many standard deviations a bird is from the mean of its sex in its group.

    Sexes differ so much in size that a light male would pass for a usual bird otherwise. Birds without the measure, and
    those of unknown sex, have no score.
    """
    values = group[measure.value].astype("float64")
    same_sex = values.groupby(group["sex"])
    return group.assign(score=(values - same_sex.transform("mean")) / same_sex.transform("std"))
