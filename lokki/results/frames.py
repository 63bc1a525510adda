"""Values of a run as data frames of pandas, where they are rows, and runs as rows of one."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

import msgspec

from lokki.base.item_path import ItemPath
from lokki.errors import LokkiError

if TYPE_CHECKING:  # pandas is the user's: lokki does without it
    import pandas as pd

_VALUE = "value"


def frame_of(paths: Sequence[ItemPath], values: Sequence[object]) -> pd.DataFrame:
    """Return values of items as a frame.

    Its index has the items; those of a map below a map have a level for each map.

    Frames stand below one another, with their own indexes beside the item's. Mappings, dataclasses, named tuples,
    Structs and Series are rows; whatever else there is stands in a column ``value``. Raises LokkiError without pandas.
    """
    _check_pandas()
    # Imported here, as it is not lokki's: who has rows for it has it.
    import pandas as pd

    names = ["item"] if len(paths) == 0 or len(paths[0]) == 1 else [f"item_{n + 1}" for n in range(len(paths[0]))]
    keys = [path[0] for path in paths] if len(names) == 1 else list(paths)
    frames = [value for value in values if isinstance(value, pd.DataFrame)]
    if frames and len(frames) == len(values):
        return pd.concat(frames, keys=keys, names=names)
    rows = [_row(pd.Series, value) for value in values]
    index = (
        pd.MultiIndex.from_tuples(paths, names=names) if len(names) > 1 else pd.Index(keys, name="item", dtype="int64")
    )
    if all(row is not None for row in rows) and rows:
        return pd.DataFrame([row for row in rows if row is not None], index=index)
    # As objects first: pandas would look into lists and arrays.
    objects: dict[int, object] = dict(enumerate(values))
    column = pd.Series(objects, dtype=object).set_axis(index)
    return column.infer_objects().to_frame(_VALUE)


def frame_of_runs(rows: Iterable[tuple[str, Mapping[str, object], Mapping[str, object]]]) -> pd.DataFrame:
    """Return runs as a frame, with their parameters as columns.

    ``rows``: ids, what is known of each, and parameters.

    A parameter with the name of another column has ``_parameter`` behind it.
    """
    _check_pandas()
    # Imported here, as it is not lokki's: who has rows for it has it.
    import pandas as pd

    ids, records = [], []
    for run_id, facts, params in rows:
        ids.append(run_id)
        own = {f"{name}_parameter" if name in facts else name: value for name, value in params.items()}
        records.append({**facts, **own})
    return pd.DataFrame(records, index=pd.Index(ids, name="run", dtype=object))


def _row(series: type[pd.Series], value: object) -> Mapping[str, object] | None:
    """Return a value as a row, or None for one that is none."""
    if isinstance(value, series):
        return {str(name): member for name, member in value.items()}
    if isinstance(value, Mapping):
        return {str(name): member for name, member in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, msgspec.Struct):
        return msgspec.structs.asdict(value)
    names = getattr(value, "_fields", None)
    return dict(zip(names, value, strict=True)) if isinstance(value, tuple) and isinstance(names, tuple) else None


def _check_pandas() -> None:
    if find_spec("pandas") is None:
        raise LokkiError("to_pandas() needs pandas: install it beside lokki.")
