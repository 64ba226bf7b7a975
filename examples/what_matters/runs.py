"""Scores and baselines of the results that ablation.py writes."""

import math
import statistics
from typing import Any

from verdicts import Score, score_of

BASELINES = {  # metrics that do not depend on the image
    "majority": "majority",
    "text_only": "text-only",
    "cider_shuffled": "shuffled images",
    "cider_no_image": "no image",
}

Result = dict[str, Any]
Rows = dict[str, list[Result]]  # results by row, one per seed


def metric_of(rows: Rows) -> str:
    """Return the name of the main metric of a study, which is the first metric of its runs."""
    return next((name for runs in rows.values() for run in runs for name in run["metrics"]), "accuracy")


def scores_of(runs: list[Result]) -> tuple[list[float], int | None]:
    """Return one score per seed (NaN if missing), and the number of questions if the scores are accuracies."""
    metric = metric_of({"": runs})
    scores = [run["metrics"].get(metric, math.nan) for run in runs]
    return scores, runs[0]["num_questions"] if metric == "accuracy" else None


def score_of_runs(runs: list[Result]) -> Score:
    """Return mean, standard deviation and standard error over the runs of a row."""
    return score_of(*scores_of(runs))


def baselines_of(runs: list[Result]) -> list[float]:
    """Return the means of all baselines in the runs."""
    return [metric_mean(runs, name) for name in BASELINES if any(name in run["metrics"] for run in runs)]


def mean_of(values: list[float | None]) -> float:
    """Return the mean of all finite values, or NaN if there are no finite values."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    return statistics.fmean(known) if known else math.nan


def metric_mean(runs: list[Result], name: str) -> float:
    """Return the mean of a metric over the runs of a row, or NaN if it is missing from all runs."""
    return mean_of([run["metrics"].get(name) for run in runs])
