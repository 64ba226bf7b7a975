"""What the runs of a row say, as ablation.py writes them."""

import math
import statistics
from typing import Any

from verdicts import Score, score_of

BASELINES = {  # what can be had without looking at the image
    "majority": "majority",
    "text_only": "text-only",
    "cider_shuffled": "shuffled images",
    "cider_no_image": "no image",
}

Result = dict[str, Any]
Rows = dict[str, list[Result]]  # the results of each row, one per seed


def metric_of(rows: Rows) -> str:
    """The name of a study's score: the first metric that a run has."""
    return next((name for runs in rows.values() for run in runs for name in run["metrics"]), "accuracy")


def scores_of(runs: list[Result]) -> tuple[list[float], int | None]:
    """One per seed, NaN where there is none, and the number of questions if they are fractions of right answers."""
    metric = metric_of({"": runs})
    scores = [run["metrics"].get(metric, math.nan) for run in runs]
    return scores, runs[0]["num_questions"] if metric == "accuracy" else None


def score_of_runs(runs: list[Result]) -> Score:
    """Mean, deviation and standard error of a row's runs."""
    return score_of(*scores_of(runs))


def baselines_of(runs: list[Result]) -> list[float]:
    """The means of the baselines that the runs have."""
    return [metric_mean(runs, name) for name in BASELINES if any(name in run["metrics"] for run in runs)]


def mean_of(values: list[float | None]) -> float:
    """Of the values that there are; NaN if there is none."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    return statistics.fmean(known) if known else math.nan


def metric_mean(runs: list[Result], name: str) -> float:
    """Of a metric over a row's runs; NaN if none has it."""
    return mean_of([run["metrics"].get(name) for run in runs])
