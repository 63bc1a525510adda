"""Looks for the best settings of a model: a map over settings, and below it one over the folds of the data.

    uv run examples/sweep/sweep_flow.py run
    uv run examples/sweep/sweep_flow.py run --folds 10

Each pair of a setting and a fold is an item of one flat map, here and on AWS, so that all of them run side by side. The
data are 569 tumours of the breast, as scikit-learn brings them:
https://archive.ics.uci.edu/dataset/17/breast+cancer+wisconsin+diagnostic
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lokki import StepNode, flow, main, step


@dataclass(frozen=True)
class Data:
    """Measures of tumours, a row each, and which of them are harmless."""

    measures: NDArray[np.float64]
    harmless: NDArray[np.int64]


@dataclass(frozen=True)
class Fold:
    """The rows that a model learns from, and those that it is tested with."""

    known: NDArray[np.int64]
    unknown: NDArray[np.int64]


@step
def read_data() -> Data:
    """Read the data."""
    measures, harmless = load_breast_cancer(return_X_y=True)
    return Data(np.asarray(measures, np.float64), np.asarray(harmless, np.int64))


@step
def settings() -> list[float]:
    """Return the strengths of regularization to try."""
    return [0.001, 0.01, 0.1, 1.0, 10.0]


@step
def folds_of(strength: float, data: Data, folds: int) -> list[Fold]:
    """Return the folds of the data, the same for each setting."""
    split = StratifiedKFold(folds, shuffle=True, random_state=0).split(data.measures, data.harmless)
    return [Fold(known, unknown) for known, unknown in split]


@step
def score(fold: Fold, strength: float, data: Data) -> float:
    """Train a model on a fold and return the share of the other rows that it knows."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=1000))
    model.fit(data.measures[fold.known], data.harmless[fold.known])
    return float(model.score(data.measures[fold.unknown], data.harmless[fold.unknown]))


@step
def mean(scores: list[float], strength: float) -> tuple[float, float, float]:
    """Return a setting with the mean of its scores, and the worst of them."""
    return strength, float(np.mean(scores)), min(scores)


@step
def render(results: list[tuple[float, float, float]]) -> str:
    """Write the settings for people to read, the best one marked."""
    best = max(results, key=lambda result: result[1])
    return "\n".join(
        f"C={strength:<6g} {share:.1%} right, worst fold {worst:.1%}{'  <- best' if strength == best[0] else ''}"
        for strength, share, worst in results
    )


@flow
def one_setting(strength: float, data: Data, folds: int) -> StepNode[..., tuple[float, float, float]]:
    """Try a setting on all folds."""
    scores = folds_of(strength, data, folds).map(score(strength=strength, data=data))
    return scores.agg(mean(strength=strength))


@flow
def sweep_flow(folds: int = 5) -> StepNode[..., str]:
    """Look for the strength of regularization with which a model knows most tumours."""
    data = read_data()
    return settings().map(one_setting(data=data.result, folds=folds)).agg(render)


if __name__ == "__main__":
    main(sweep_flow)
