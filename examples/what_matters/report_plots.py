"""Plots of a report: scores of the rows, and scores against cost."""

import itertools
import math

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from runs import Rows, baselines_of, mean_of, metric_of, score_of_runs
from verdicts import PUBLISHED

from vlmkit.analysis.figure_style import BLUE, GREY, SERIES, VERMILION

_MARKERS = "os^DvP*X"


def plot_quality(study: str, rows: Rows) -> Figure:
    """Plot the score of each row with two standard errors and its best baseline.

    The study `five` has a second panel with the published averages.
    """
    metric, names, published = metric_of(rows), list(rows), study == "five"
    figure = Figure(figsize=(10 if published else 7, 1.4 + 0.45 * len(rows)), layout="constrained")
    panels = figure.subplots(1, 1 + published, sharey=True, squeeze=False)[0]
    scale = _scale(metric)
    for y, (name, runs) in enumerate(rows.items()):
        score, baselines = score_of_runs(runs), baselines_of(runs)
        bar = None if math.isnan(score.error) else 2 * scale * score.error
        ours, best = ("mean, two standard errors", "best baseline") if y == 0 else (None, None)
        panels[0].errorbar(scale * score.mean, y, xerr=bar, fmt="o", color=BLUE, capsize=3, label=ours)
        panels[0].plot(scale * max(baselines, default=math.nan), y, "|", color=GREY, ms=14, label=best)
        if published and name in PUBLISHED:
            panels[1].plot(PUBLISHED[name], y, "D", color=VERMILION)
        if any(run["diverged"] for run in runs):
            names[y] = f"{name} (diverged)"
    _tidy(panels[0], metric)
    panels[0].set_yticks(range(len(names)), names, fontsize=9)
    panels[0].set_ylim(len(names) - 0.5, -0.5)
    if published:
        _tidy(panels[1], "published average")
    figure.legend(loc="outside upper left", ncols=2, frameon=False, fontsize=8)
    return figure


def plot_against(studies: dict[str, Rows], cost: str, label: str) -> Figure:
    """Plot the scores of all rows against a cost, with one color per study and one marker per row."""
    metric = metric_of(next(iter(studies.values())))
    figure = Figure(figsize=(10, 5.5), layout="constrained")
    axes = figure.subplots()
    for (study, rows), color in zip(studies.items(), itertools.cycle(SERIES)):
        for (name, runs), marker in zip(rows.items(), itertools.cycle(_MARKERS)):
            mean_cost, score = mean_of([run.get(cost) for run in runs]), score_of_runs(runs)
            if metric_of(rows) == metric and mean_cost > 0 and score.seeds:
                bar = None if math.isnan(score.error) else 2 * _scale(metric) * score.error
                style = {"fmt": marker, "color": color, "capsize": 3, "label": f"{study}: {name}"}
                axes.errorbar(mean_cost, _scale(metric) * score.mean, yerr=bar, **style)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set(xlabel=label, ylabel=f"{_axis(metric)}; bars: two standard errors")
    axes.spines[["top", "right"]].set_visible(False)
    if axes.containers:
        figure.legend(loc="outside right upper", frameon=False, fontsize=7)
    return figure


def _tidy(axes: Axes, metric: str) -> None:
    axes.set_xlabel(_axis(metric))
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.grid(axis="x", color="#E5E5E5", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)


def _axis(metric: str) -> str:
    return metric if metric.startswith("cider") else f"{metric}, per cent"


def _scale(metric: str) -> float:
    """Return the factor of a metric in plots. Accuracies are shown in per cent."""
    return 100 if metric == "accuracy" else 1
